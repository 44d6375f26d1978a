//! In steady state nothing on a message's path allocates.
#![forbid(unsafe_code)]

#[path = "../examples/hot_path/kernel.rs"]
mod kernel;
#[path = "../examples/hot_path/scenario.rs"]
mod scenario;

fn allocations(name: &str, times: u32) -> u64 {
    let scenario = scenario::SCENARIOS.iter().find(|scenario| scenario.name == name).expect(name);
    let mut once = (scenario.set_up)();
    // Pools fill, connections find their tier, and who is busy gets a meter.
    for _ in 0..100 * scenario::CLIENTS {
        once();
    }
    let counted = allocation_counter::measure(|| {
        for _ in 0..times {
            once();
        }
    });
    counted.count_total
}

#[test]
fn a_message_to_or_from_one_session_allocates_nothing() {
    for name in [
        "split a frame",
        "file and fire a timer",
        "answer a ping",
        "push to a session",
        "forward a submit",
        "forward an acknowledgement",
    ] {
        assert_eq!(allocations(name, 1000), 0, "{name}");
    }
}

#[test]
fn a_broadcast_allocates_per_message_and_not_per_session() {
    let each = allocations("broadcast to 64 sessions", 1000) / 1000;
    assert!(each < u64::from(scenario::CLIENTS) / 4, "{each} allocations for {} sends", scenario::CLIENTS);
}

#[test]
fn a_batch_of_a_room_allocates_per_batch_and_not_per_member() {
    let each = allocations("batch to 64 members of a room", 1000) / 1000;
    assert!(each < u64::from(scenario::CLIENTS) / 4, "{each} allocations for {} sends", scenario::CLIENTS);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 100]))).count_total, 1);
}

/// What a worker may keep of everybody who was there: spare chunks, pools, the room its queues had grown to.
const KEPT_BYTES_MAX: i64 = 256 * 1024;

#[test]
fn who_leaves_gives_memory_back() {
    const CLIENTS: u32 = 8000;
    let mut bench = scenario::deserted(CLIENTS);
    let mut held = 0;
    let left = allocation_counter::measure(|| {
        held = allocation_counter::measure(|| {
            for client in 0..CLIENTS {
                scenario::log_in(&mut bench, client);
            }
        })
        .bytes_current;
        for client in 0..CLIENTS {
            scenario::log_out(&mut bench, client);
        }
    })
    .bytes_current;
    assert!(held > i64::from(CLIENTS) * 100, "{held} bytes were held");
    assert!(left < KEPT_BYTES_MAX, "{left} of {held} bytes are kept for nobody");
}

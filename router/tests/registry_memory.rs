//! The registry's memory per session, as the kernel sees it. In a test binary of its own: nobody else allocates.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

use moor_router::LinkId;
use moor_router::registry::{NewSession, Registry};
use moor_wire::identity::account_hash;
use moor_wire::session::SessionHandle;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The router's part of the 512 bytes of user memory an idle session may cost in the all-in-one process.
const BYTES_PER_SESSION_MAX: u64 = 200;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn add(registry: &mut Registry, number: u64) {
    let app = registry.intern_app("shopping").unwrap();
    let account = format!("account-{number:016}");
    let device = format!("device-{number:09}");
    assert_eq!((account.len(), device.len()), (24, 16));
    let index = registry.find_or_insert(app, &account, account_hash("shopping", &account));
    let new = NewSession { handle: SessionHandle(number), link: LinkId(1), device: &device };
    registry.add_session(index, &new);
}

#[test]
fn a_session_costs_at_most_two_hundred_bytes() {
    let mut registry = Registry::default();
    let mut worst = 0;
    for number in 0..50_000 {
        add(&mut registry, number);
    }
    let (mut from, start) = (50_000, resident_bytes());
    // Looked at between the doublings of the index as well as right behind one.
    for to in [150_000, 250_000, 400_000, 600_000, 1_000_000] {
        for number in from..to {
            add(&mut registry, number);
        }
        from = to;
        let each = (resident_bytes() - start) / (to - 50_000);
        println!("{to} sessions: {each} B each");
        worst = worst.max(each);
    }
    assert_eq!(registry.session_count(), 1_000_000);
    assert!(worst <= BYTES_PER_SESSION_MAX, "{worst} B per session");
}

//! What the internet does to a gateway, on real processes: garbage, silence, readers that do not read, more
//! connections than there is room for.

use std::time::{Duration, Instant};

use anyhow::Result;
use moor_tests::process::{Process, all_in_one};
use moor_tests::raw::RawClient;
use moor_tests::service::RawService;
use moor_wire::Code;
use moor_wire::client::{Class, Connect, Error, GoAway, Kind, put, put_control};
use prost::Message;

fn start(more: &[&str]) -> Result<(Process, tempfile::TempDir)> {
    let data = tempfile::tempdir()?;
    let gateway = all_in_one(data.path(), &[&["--workers", "1"], more].concat())?;
    Ok((gateway, data))
}

fn connect_frame() -> Vec<u8> {
    let mut out = Vec::new();
    put_control(
        &mut out,
        Kind::Connect,
        0,
        &Connect { version: 1, device: "d".into(), ..Connect::default() },
    );
    out
}

#[test]
fn garbage_gets_a_typed_error_and_memory_does_not_grow() -> Result<()> {
    // Few receive buffers: all of them have been touched before memory is weighed.
    let (gateway, _data) = start(&["--recv-buffers", "64"])?;
    let address = gateway.address("clients");
    let mut good = RawClient::connect(address, "good")?;
    let mut oversized = connect_frame();
    oversized.extend([Kind::Data.byte(), 1, 0, 1, 0x10, 0, 0, 0]);
    let mut early = Vec::new();
    put(&mut early, Kind::Data, Class::Reliable, 1, b"before CONNECT");
    let mut truncated = connect_frame();
    truncated.extend([Kind::Data.byte(), 1, 0, 1, 0, 0, 0xf0, 0]);
    truncated.extend([0; 9000]);
    let cases: [(&[u8], Option<Code>); 5] = [
        (b"POST / HTTP/1.1\r\nHost: example\r\n\r\n", Some(Code::TooLarge)),
        (&[0xee, 0, 0, 0, 0, 0, 0, 0], Some(Code::ProtocolError)),
        (&oversized, Some(Code::TooLarge)),
        (&early, Some(Code::ProtocolError)),
        // Cut short by its sender: nothing to answer, nothing may stay.
        (&truncated, None),
    ];
    let round = |times: usize| -> Result<()> {
        for _ in 0..times {
            for (bytes, code) in &cases {
                let mut bad = RawClient::dial(address)?;
                bad.write(bytes)?;
                if let Some(code) = code {
                    let error: Error = bad.expect(Kind::Error)?;
                    assert_eq!(error.code, *code as i32, "{}", error.detail);
                    assert!(!error.detail.is_empty());
                }
            }
        }
        Ok(())
    };
    round(20)?;
    gateway.wait_stat("gateway.connections_open", Duration::from_secs(5), |open| open == 1)?;
    let before = gateway.stat("process.resident_bytes")?;
    round(200)?;
    gateway.wait_stat("gateway.connections_open", Duration::from_secs(5), |open| open == 1)?;
    let after = gateway.stat("process.resident_bytes")?;
    assert!(after < before + 1024 * 1024, "resident memory grew from {before} to {after} bytes");
    good.ping()?;
    // Who stays after its error is cut off.
    let mut stays = RawClient::dial(address)?;
    stays.write(&[0xee, 0, 0, 0, 0, 0, 0, 0])?;
    stays.until_closed(Duration::from_secs(3))?;
    Ok(())
}

#[test]
fn a_login_byte_by_byte_works() -> Result<()> {
    let (gateway, _data) = start(&[])?;
    let mut client = RawClient::dial(gateway.address("clients"))?;
    for byte in connect_frame() {
        client.write(&[byte])?;
    }
    client.next_of(Kind::Connected)?;
    client.open(1, "alice", None)?;
    Ok(())
}

#[test]
fn a_silent_peer_is_dead_after_one_and_a_half_intervals_and_leaves_nothing() -> Result<()> {
    let (gateway, _data) = start(&["--heartbeat-min-ms", "1000"])?;
    let address = gateway.address("clients");
    let mut silent = RawClient::connect_with(address, "silent", 2000)?;
    silent.open(1, "alice", None)?;
    assert_eq!(silent.heartbeat_ms, 2000);
    let mut talker = RawClient::connect_with(address, "talker", 2000)?;
    let started = Instant::now();
    // Neither FIN nor data comes from the silent one; the other says something now and then.
    let took = loop {
        talker.ping()?;
        match silent.next_within(Duration::from_millis(300)) {
            Ok(_) if started.elapsed() < Duration::from_secs(6) => {}
            Ok(_) => panic!("a silent peer was kept for {:?}", started.elapsed()),
            Err(_) => break started.elapsed(),
        }
    };
    assert!(
        (Duration::from_millis(2900)..Duration::from_millis(4000)).contains(&took),
        "closed after {took:?}"
    );
    talker.ping()?;
    gateway.wait_stat("gateway.connections_open", Duration::from_secs(2), |open| open == 1)?;
    gateway.wait_stat("gateway.channels_open", Duration::from_secs(2), |open| open == 0)?;
    assert_eq!(gateway.stat("gateway.heartbeat_lost_total")?, 1);
    Ok(())
}

#[test]
fn a_client_that_never_reads_is_shed_and_the_others_do_not_feel_it() -> Result<()> {
    let (gateway, _data) = start(&["--send-queue-bytes-max", "131072"])?;
    let address = gateway.address("clients");
    let mut lazy = RawClient::dial(address)?;
    // A small window makes its kernel stop taking bytes soon.
    socket2::SockRef::from(lazy.stream()).set_recv_buffer_size(4096)?;
    lazy.write(&connect_frame())?;
    lazy.next_of(Kind::Connected)?;
    let session = lazy.open(1, "lazy", None)?;
    let mut good = RawClient::connect(address, "good")?;
    let calm = median_ping(&mut good)?;
    let mut service = RawService::connect(gateway.address("internal"), Some(0))?;
    let mut pushed = 0;
    let gone = loop {
        let outcome = service.push(session, Class::Reliable, &[7; 8000])?;
        if outcome.code != Code::Ok {
            break outcome;
        }
        pushed += 8000;
        check_queue(&gateway, pushed)?;
        assert!(pushed < 64 * 1024 * 1024, "it was never shed");
    };
    assert_eq!(gone.code, Code::NotHere);
    gateway.wait_stat("gateway.slow_readers_closed_total", Duration::from_secs(2), |closed| closed == 1)?;
    gateway.wait_stat("gateway.send_queued_bytes", Duration::from_secs(2), |bytes| bytes < 4096)?;
    let after = median_ping(&mut good)?;
    assert!(after < calm * 10 + Duration::from_millis(5), "ping went from {calm:?} to {after:?}");
    Ok(())
}

/// Looks now and then: the queues hold no more than the limit and a frame, however much was pushed.
fn check_queue(gateway: &Process, pushed: usize) -> Result<()> {
    if pushed.is_multiple_of(800_000) {
        let queued = gateway.stat("gateway.send_queued_bytes")?;
        assert!(queued < 131_072 + 65_536, "{queued} bytes are queued");
    }
    Ok(())
}

fn median_ping(client: &mut RawClient) -> Result<Duration> {
    let mut times: Vec<_> = (0..51).map(|_| client.ping()).collect::<Result<_>>()?;
    times.sort_unstable();
    Ok(times[25])
}

#[test]
fn a_full_gateway_refuses_with_a_window_and_keeps_those_it_has() -> Result<()> {
    let (gateway, _data) = start(&["--connections-per-worker-max", "50"])?;
    let address = gateway.address("clients");
    let mut held: Vec<_> =
        (0..50).map(|i| RawClient::connect(address, &format!("device-{i}"))).collect::<Result<_>>()?;
    for _ in 0..100 {
        let mut refused = RawClient::dial(address)?;
        let goaway: GoAway = refused.expect(Kind::GoAway)?;
        assert_eq!(goaway.code, Code::Overloaded as i32);
        assert!(goaway.retry_min_ms < goaway.retry_max_ms);
    }
    for client in &mut held {
        client.ping()?;
    }
    assert_eq!(gateway.wait_stat("gateway.accept_refused_total", Duration::from_secs(2), |n| n == 100)?, 100);
    // One leaves, one may come.
    held.pop();
    gateway.wait_stat("gateway.connections_open", Duration::from_secs(2), |open| open == 49)?;
    RawClient::connect(address, "late")?.ping()?;
    Ok(())
}

#[test]
fn with_few_receive_buffers_everybody_is_served() -> Result<()> {
    let (gateway, _data) =
        start(&["--recv-buffers", "16", "--recv-buffer-bytes", "512", "--hot-events", "2"])?;
    let address = gateway.address("clients");
    let mut clients: Vec<_> =
        (0..40).map(|i| RawClient::connect(address, &format!("device-{i}"))).collect::<Result<_>>()?;
    for round in 0..20 {
        // All speak before any listens, more than the buffers can hold.
        for client in &mut clients {
            let mut out = Vec::new();
            for _ in 0..100 {
                put(&mut out, Kind::Ping, Class::Command, 0, &[round; 16]);
            }
            client.write(&out)?;
        }
        for client in &mut clients {
            for _ in 0..100 {
                assert_eq!(client.next_of(Kind::Pong)?.body.as_ref(), [round; 16]);
            }
        }
    }
    assert!(gateway.wait_stat("gateway.recv_no_buffer_total", Duration::from_secs(2), |n| n > 0)? > 0);
    Ok(())
}

#[test]
fn a_connection_that_says_nothing_is_shown_out() -> Result<()> {
    let (gateway, _data) = start(&["--first-byte-timeout-ms", "1000"])?;
    let mut mute = RawClient::dial(gateway.address("clients"))?;
    let frame = mute.next_of(Kind::Error)?;
    assert_eq!(Error::decode(frame.body)?.code, Code::HeartbeatLost as i32);
    mute.until_closed(Duration::from_secs(3))?;
    assert_eq!(gateway.wait_stat("gateway.login_timeout_total", Duration::from_secs(2), |n| n == 1)?, 1);
    Ok(())
}

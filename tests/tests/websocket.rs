//! Clients over WebSocket, by another implementation of RFC 6455, on real processes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use moor_tests::process::all_in_one;
use moor_tests::raw::{PATIENCE, RawClient};

#[test]
fn a_browser_s_client_logs_in_sends_receives_and_resumes_beside_plain_ones() -> Result<()> {
    let data = tempfile::tempdir()?;
    let gateway = all_in_one(data.path(), &["--workers", "2"])?;
    let address = gateway.address("clients");
    let mut web = RawClient::dial_websocket(address)?.greet("browser", 0)?;
    web.open(1, "alice", Some(0))?;
    web.open(2, "bob", Some(0))?;
    let mut phone = RawClient::connect(address, "phone")?;
    phone.open(1, "carol", Some(0))?;
    // From the plain client to both accounts of the other, and back, small and large.
    let large = vec![7; 60_000];
    for (name, to) in [("m1", "alice"), ("m2", "bob")] {
        phone.submit_until_accepted(1, name, to, &large)?;
        let delivery = web.delivery()?;
        assert_eq!((delivery.payload.len(), delivery.from.as_str()), (60_000, "carol"), "to {to}");
    }
    web.submit_until_accepted(2, "m3", "carol", &large)?;
    assert_eq!(phone.delivery()?.from, "bob");
    web.ack(1, 1)?;
    web.ping()?;
    drop(web);
    // What was acknowledged does not come again, what was not does.
    let mut web = RawClient::dial_websocket(address)?.greet("browser", 0)?;
    web.open(1, "alice", Some(1))?;
    web.open(2, "bob", Some(0))?;
    assert_eq!(web.delivery()?.payload.len(), 60_000);
    assert_eq!(web.next_within(Duration::from_millis(200))?, None);
    Ok(())
}

#[test]
fn what_is_no_upgrade_gets_an_http_answer_and_the_connection_ends() -> Result<()> {
    let data = tempfile::tempdir()?;
    let gateway =
        all_in_one(data.path(), &["--workers", "1", "--websocket-origins", "https://shop.example"])?;
    let address = gateway.address("clients");
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426"),
        (format!("{upgrade}Origin: https://evil.example\r\n\r\n"), "403"),
        (upgrade.replace("GET /", "GET /other") + "\r\n", "404"),
    ] {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        assert_eq!(std::str::from_utf8(&head)?, format!("HTTP/1.1 {status}"));
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
    }
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("{upgrade}Origin: https://shop.example\r\n\r\n").as_bytes())?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    assert_eq!(&head, b"HTTP/1.1 101");
    Ok(())
}

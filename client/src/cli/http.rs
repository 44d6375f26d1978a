//! The one HTTP request `moor` makes: a GET of the admin port's JSON.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

use super::Failure;

/// Longest answer read, bytes.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longest wait for each step of it.
const PATIENCE: Duration = Duration::from_secs(5);

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The JSON at a path.
pub fn get_json(address: &str, path: &str) -> Result<Value, Failure> {
    let mut stream = connect(address).map_err(|error| {
        format!("nothing answers at the admin port {address} ({error}): name another with --admin")
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let text = std::str::from_utf8(&answer)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("the admin port did not answer with HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("the admin port answered {path} with {status}").into());
    }
    Ok(serde_json::from_str(body)?)
}

//! The one HTTP request `moor` makes: a GET of the admin port's JSON.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::Failure;

/// Longest answer read, bytes.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The JSON at a path.
pub fn get_json(address: &str, path: &str) -> Result<Value, Failure> {
    let mut stream =
        TcpStream::connect(address).map_err(|error| format!("the admin port does not answer ({error})"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let text = std::str::from_utf8(&answer)?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or("the admin port did not answer with HTTP")?;
    Ok(serde_json::from_str(body)?)
}

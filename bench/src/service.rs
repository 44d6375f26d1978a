//! A backend service at the router: says something, waits for the answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use moor_wire::frame::FrameReader;
use moor_wire::internal::{Stat, Stats, StatsResult, Verb, frame_reader, put_control};
use prost::Message as _;
use rustix::net::RecvFlags;

use crate::pusher::greet;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A service's connection to the router.
pub struct Service {
    stream: TcpStream,
    reader: FrameReader,
}

impl Service {
    /// Greets the router.
    pub fn connect(address: SocketAddr) -> Result<Self, String> {
        let (stream, _) = greet(address, None)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(|error| format!("the router's socket: {error}"))?;
        Ok(Self { stream, reader: frame_reader() })
    }

    /// Says one thing.
    pub fn say<M: prost::Message>(&mut self, verb: Verb, body: &M) -> Result<(), String> {
        let mut out = Vec::new();
        put_control(&mut out, verb, body);
        self.write(&out)
    }

    /// Waits for the next frame of a kind; what else comes is passed over.
    pub fn hear(&mut self, verb: Verb) -> Result<bytes::Bytes, String> {
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Some(frame) = self.reader.try_next().map_err(|error| error.to_string())? {
                if frame.header.kind == verb.byte() {
                    return Ok(frame.body);
                }
            }
            let length = self.stream.read(&mut buffer);
            let length = length.map_err(|error| format!("the router does not answer: {error}"))?;
            if length == 0 {
                return Err("the router hung up: is a token needed?".into());
            }
            self.reader.push(&buffer[..length]);
        }
    }

    /// The router's numbers, by name and labels.
    pub fn stats(&mut self) -> Result<Vec<Stat>, String> {
        self.say(Verb::Stats, &Stats { cookie: 2 })?;
        let result = StatsResult::decode(self.hear(Verb::StatsResult)?).map_err(|error| error.to_string())?;
        Ok(result.stats)
    }

    /// Writes what was put together elsewhere.
    pub fn write(&mut self, frames: &[u8]) -> Result<(), String> {
        self.stream.write_all(frames).map_err(|error| format!("the router does not read: {error}"))
    }

    /// The frames of a kind that have come, without waiting.
    pub fn came(&mut self, verb: Verb) -> Result<Vec<bytes::Bytes>, String> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match rustix::net::recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err("the router hung up".to_owned()),
                Ok((length, _)) => self.reader.push(&buffer[..length]),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(format!("the router does not answer: {error}")),
            }
        }
        let mut found = Vec::new();
        while let Some(frame) = self.reader.try_next().map_err(|error| error.to_string())? {
            if frame.header.kind == verb.byte() {
                found.push(frame.body);
            }
        }
        Ok(found)
    }
}

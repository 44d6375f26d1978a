//! A backend service that speaks bytes to a router or a gateway's internal port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};
use moor_wire::client::Class;
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::internal::{
    Hello, Location, Lookup, LookupResult, Outcome, Push, Role, Verb, Welcome, frame_reader, put_control,
};
use moor_wire::session::SessionHandle;
use prost::Message;

use crate::raw::PATIENCE;

/// A greeted service.
#[derive(Debug)]
pub struct RawService {
    stream: TcpStream,
    reader: FrameReader,
    cookie: u64,
    /// What the other side said of itself.
    pub welcome: Welcome,
}

impl RawService {
    /// Connects and says HELLO, naming a worker or none.
    ///
    /// # Errors
    /// When it is not welcome.
    pub fn connect(address: SocketAddr, worker: Option<u32>) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut service = Self { stream, reader: frame_reader(), cookie: 0, welcome: Welcome::default() };
        let hello = Hello {
            version: 1,
            role: Role::Service as i32,
            node: "test-service".into(),
            worker,
            ..Hello::default()
        };
        service.write(Verb::Hello, &hello)?;
        let welcome = service.next_of(Verb::Welcome)?;
        service.welcome = Welcome::decode(welcome.body)?;
        Ok(service)
    }

    fn write<M: Message>(&mut self, verb: Verb, body: &M) -> Result<()> {
        let mut out = Vec::new();
        put_control(&mut out, verb, body);
        Ok(self.stream.write_all(&out)?)
    }

    fn next_of(&mut self, verb: Verb) -> Result<Frame> {
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Some(frame) = self.reader.try_next()? {
                if frame.header.kind == verb.byte() {
                    return Ok(frame);
                }
            }
            let length = self.stream.read(&mut buffer).with_context(|| format!("no {verb:?}"))?;
            if length == 0 {
                bail!("hung up before {verb:?}");
            }
            self.reader.push(&buffer[..length]);
        }
    }

    /// Where an account's sessions are.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn lookup(&mut self, account: &str) -> Result<Vec<Location>> {
        self.cookie += 1;
        let lookup = Lookup { cookie: self.cookie, app: "shop".into(), account: account.into() };
        self.write(Verb::Lookup, &lookup)?;
        Ok(LookupResult::decode(self.next_of(Verb::LookupResult)?.body)?.sessions)
    }

    /// Pushes to a session and waits for what became of it.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn push(&mut self, session: u64, class: Class, body: &[u8]) -> Result<Outcome> {
        self.cookie += 1;
        let mut out = Vec::new();
        Push::data(self.cookie, SessionHandle(session), class, body).put(&mut out, true);
        self.stream.write_all(&out)?;
        Ok(Outcome::parse(&self.next_of(Verb::Outcome)?.body)?)
    }
}

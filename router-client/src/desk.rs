//! What every face keeps beside its socket: the core, TLS around its bytes, the answers nobody has taken yet, and what the
//! socket is to do next.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use moor_wire::internal::{Receipt, Welcome};

use crate::core::{Answer, CONNECT_MS, Config, Connection, Error, Event, Request};
use crate::limits::{CATCH_UP_EVENTS_MAX, RECEIPTS_MAX};
use crate::ticket::{Owed, Ticket};
use crate::tls::{End, Wrap};

/// What the socket is to do next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Connect.
    Connect,
    /// Close.
    Close,
    /// Write all of this.
    Write(Bytes),
    /// Nothing, but something has happened: look whether it is what was awaited.
    Look,
    /// Wait for bytes, until this time at most.
    Wait(Option<u64>),
}

#[derive(Debug)]
pub(crate) struct Desk {
    address: String,
    core: Connection,
    wrap: Wrap,
    /// TLS is over before its time: the socket is to be closed once what TLS has to say is written.
    broken: bool,
    welcome: Option<Welcome>,
    /// Why the last connection was lost, until there is another.
    lost: Option<Error>,
    stopped: Option<Error>,
    owed: Owed,
    receipts: VecDeque<Receipt>,
    /// Receipts that were dropped because nobody took them, older than those that wait, which nobody was told yet.
    receipts_dropped: u64,
    /// Whose receipts do not come any more, which nobody was told yet.
    unsubscribed: VecDeque<Error>,
    none: Welcome,
}

impl Desk {
    pub(crate) fn new(address: &str, config: Config) -> Self {
        Self {
            address: address.into(),
            core: Connection::new(config, fastrand::u64(..), 0),
            wrap: Wrap::default(),
            broken: false,
            welcome: None,
            lost: None,
            stopped: None,
            owed: Owed::default(),
            receipts: VecDeque::new(),
            receipts_dropped: 0,
            unsubscribed: VecDeque::new(),
            none: Welcome::default(),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn config(&self) -> &Config {
        self.core.config()
    }

    pub(crate) fn welcome(&self) -> &Welcome {
        self.welcome.as_ref().unwrap_or(&self.none)
    }

    /// Whether the first greeting is done.
    pub(crate) fn opened(&self) -> Result<bool, Error> {
        self.check()?;
        match &self.lost {
            Some(error) => Err(error.clone()),
            None => Ok(self.welcome.is_some()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    /// How long a connection may take that is made now: no request is kept waiting for one beyond its deadline.
    pub(crate) fn connect_limit(&self, now: u64) -> Duration {
        let due_ms = self.core.poll_timeout().map_or(CONNECT_MS, |due| due.saturating_sub(now));
        Duration::from_millis(due_ms.clamp(1, CONNECT_MS))
    }

    /// The next thing to do, after time has passed.
    pub(crate) fn step(&mut self, now: u64) -> Step {
        self.core.handle_timeout(now);
        let records = self.wrap.output();
        if !records.is_empty() {
            return Step::Write(records);
        }
        if std::mem::take(&mut self.broken) {
            self.wrap.end();
            return Step::Close;
        }
        let mut noted = false;
        while let Some(event) = self.core.poll_event() {
            match event {
                Event::Connect => return Step::Connect,
                Event::Close => {
                    self.wrap.end();
                    return Step::Close;
                }
                event => self.note(event),
            }
            noted = true;
        }
        match self.core.poll_transmit().map(|bytes| self.wrap.seal(bytes)).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Step::Write(bytes),
            None if noted => Step::Look,
            None => Step::Wait(self.core.poll_timeout()),
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready(welcome) => {
                tracing::debug!(address = self.address, node = welcome.node, "connected");
                self.welcome = Some(welcome);
                self.lost = None;
            }
            Event::Lost(error) => {
                tracing::debug!(address = self.address, %error, "connection lost");
                self.lost = Some(error);
            }
            Event::Stopped(error) => self.stopped = Some(error),
            Event::Answered(number, result) => self.owed.settle(number, result),
            Event::Receipt(receipt) => {
                if self.receipts.len() >= RECEIPTS_MAX {
                    self.receipts.pop_front();
                    self.receipts_dropped += 1;
                }
                self.receipts.push_back(receipt);
            }
            Event::Unsubscribed { app, why } => {
                self.unsubscribed.push_back(Error::Unsubscribed { app, why: Box::new(why) });
            }
            Event::Connect | Event::Close => {}
        }
    }

    pub(crate) fn start(&mut self, now: u64, request: Request) -> Result<Ticket, Error> {
        let max = self.config().in_flight_max;
        if self.owed.len() >= max {
            self.owed.forget_given_up(|number| self.core.withdraw(number));
        }
        if self.owed.len() >= max {
            return Err(Error::TooManyInFlight { max });
        }
        Ok(self.owed.issue(self.core.request(now, request)?))
    }

    /// What became of a request, once that is known.
    pub(crate) fn take(&mut self, ticket: &Ticket) -> Option<Result<Answer, Error>> {
        self.owed.take(ticket)
    }

    /// The next receipt, or why some will not come.
    pub(crate) fn take_receipt(&mut self) -> Option<Result<Receipt, Error>> {
        match std::mem::take(&mut self.receipts_dropped) {
            0 => {}
            count => return Some(Err(Error::ReceiptsDropped { count })),
        }
        self.receipts.pop_front().map(Ok).or_else(|| self.unsubscribed.pop_front().map(Err))
    }

    /// Whether so much has happened that it is to be looked at before more is read.
    pub(crate) fn is_behind(&self) -> bool {
        self.core.events_waiting() >= CATCH_UP_EVENTS_MAX
    }

    pub(crate) fn handle_connected(&mut self, now: u64) {
        match self.wrap.begin(self.core.config().tls.as_ref(), &self.address) {
            Ok(()) => self.core.handle_connected(now),
            Err(reason) => self.handle_no_tls(now, reason),
        }
    }

    pub(crate) fn handle_bytes(&mut self, now: u64, bytes: &[u8]) {
        if self.broken {
            return;
        }
        match self.wrap.open(bytes) {
            None => self.core.handle_bytes(now, bytes),
            Some((plain, end)) => {
                if !plain.is_empty() {
                    self.core.handle_bytes(now, &plain);
                }
                match end {
                    None => {}
                    Some(End::Closed) => {
                        let (address, reason) = (self.address.clone(), "it was closed".to_owned());
                        self.handle_broken(now, Error::Connection { address, reason });
                    }
                    Some(End::Broken(reason)) => self.handle_no_tls(now, reason),
                }
            }
        }
    }

    fn handle_no_tls(&mut self, now: u64, reason: String) {
        self.handle_broken(now, Error::Tls { address: self.address.clone(), reason });
    }

    fn handle_broken(&mut self, now: u64, why: Error) {
        self.broken = true;
        self.core.handle_disconnected(now, why);
    }

    pub(crate) fn handle_timeout(&mut self, now: u64) {
        self.core.handle_timeout(now);
    }

    /// The socket could not be connected, or is gone.
    pub(crate) fn handle_lost(&mut self, now: u64, error: &std::io::Error) {
        self.broken = false;
        self.wrap.end();
        let address = self.address.clone();
        let why = match error.kind() {
            ErrorKind::ConnectionRefused if self.config().worker.is_some() => Error::NoGateway { address },
            ErrorKind::ConnectionRefused => Error::NobodyListens { address },
            ErrorKind::UnexpectedEof => Error::Connection { address, reason: "it was closed".into() },
            _ => Error::Connection { address, reason: error.to_string() },
        };
        self.core.handle_disconnected(now, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_waits_for_a_connection_beyond_its_deadline() {
        let mut desk = Desk::new("127.0.0.1:1", Config { deadline_ms: 200, ..Config::default() });
        assert_eq!(desk.connect_limit(7), Duration::from_millis(CONNECT_MS));
        desk.start(7, Request::Stats).unwrap();
        assert_eq!(desk.connect_limit(17), Duration::from_millis(190));
        assert_eq!(desk.connect_limit(1000), Duration::from_millis(1), "which is over");
    }

    #[test]
    fn tickets_given_up_keep_nobodys_place() {
        let mut desk = Desk::new("127.0.0.1:1", Config { in_flight_max: 2, ..Config::default() });
        for _ in 0..5 {
            let _given_up = desk.start(0, Request::Stats).unwrap();
        }
        let held = [desk.start(0, Request::Stats).unwrap(), desk.start(0, Request::Stats).unwrap()];
        assert_eq!(desk.start(0, Request::Stats).unwrap_err(), Error::TooManyInFlight { max: 2 });
        drop(held);
        assert!(desk.start(0, Request::Stats).is_ok());
    }

    #[test]
    fn receipts_that_nobody_takes_are_dropped_and_counted() {
        let mut desk = Desk::new("127.0.0.1:1", Config::default());
        for sync_id in 1..=RECEIPTS_MAX as u64 + 3 {
            desk.note(Event::Receipt(Receipt { sync_id, ..Receipt::default() }));
        }
        assert_eq!(desk.take_receipt(), Some(Err(Error::ReceiptsDropped { count: 3 })));
        let oldest_left = Receipt { sync_id: 4, ..Receipt::default() };
        assert_eq!(desk.take_receipt(), Some(Ok(oldest_left)), "and that is told once");
    }

    #[test]
    fn receipts_that_will_not_come_are_told_once_behind_those_that_came() {
        let mut desk = Desk::new("127.0.0.1:1", Config::default());
        let why = Error::NotHere;
        desk.note(Event::Unsubscribed { app: "shop".into(), why: why.clone() });
        desk.note(Event::Receipt(Receipt::default()));
        assert_eq!(desk.take_receipt(), Some(Ok(Receipt::default())));
        let told = Error::Unsubscribed { app: "shop".into(), why: Box::new(why) };
        assert_eq!((desk.take_receipt(), desk.take_receipt()), (Some(Err(told)), None));
    }
}

#[cfg(test)]
pub(crate) mod flood {
    //! A server that has more to tell than anybody wants to read ahead.

    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use moor_wire::internal::{Receipt, Verb, Welcome, put_control};

    use crate::limits::{CATCH_UP_EVENTS_MAX, READ_BYTES};

    /// The most a face may have read ahead: it was not behind yet, and then read once more.
    pub(crate) const EVENTS_MAX: usize =
        CATCH_UP_EVENTS_MAX - 1 + READ_BYTES / moor_wire::frame::HEADER_BYTES;

    /// Answers HELLO with WELCOME and a million receipts. Its thread ends when the other side hangs up.
    pub(crate) fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 512]).unwrap() > 0);
            let mut out = Vec::new();
            put_control(&mut out, Verb::Welcome, &Welcome::default());
            for _ in 0..1_000_000 {
                put_control(&mut out, Verb::Receipt, &Receipt::default());
            }
            stream.write_all(&out).is_ok()
        });
        address
    }

    impl super::Desk {
        pub(crate) fn events_waiting(&self) -> usize {
            self.core.events_waiting()
        }
    }
}

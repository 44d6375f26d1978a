//! What the router's tests share: a router as a process, and peers that speak to it over blocking sockets.
#![allow(dead_code, missing_docs, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise"
)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moor_wire::Code;
use moor_wire::client::{self, Delivery, Kind, Submit, SubmitResult};
use moor_wire::frame::{Frame, FrameReader};
use moor_wire::internal::{
    Departure, Failure, Hello, Lookup, LookupResult, Outcome, Push, Register, Registration, Role, Send,
    SendResult, Unregister, Up, Verb, Welcome, frame_reader, put_control, put_empty,
};
use moor_wire::limits::INTERNAL_VERSION;
use moor_wire::session::SessionHandle;
use prost::Message;

/// Longer than anything here may take, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A router as its own process; killed with the value.
pub struct RouterProcess {
    child: Child,
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
}

impl RouterProcess {
    pub fn command(data: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moor-router"));
        command.args(["--data", data.to_str().unwrap(), "--announce", "json"]).args(arguments);
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "error".to_owned()));
        command
    }

    pub fn start(data: &Path, listen: &str, arguments: &[&str]) -> Self {
        let mut command = Self::command(data, arguments);
        command.args(["--listen", listen]);
        Self::spawn(command)
    }

    /// With SIGXFSZ ignored: writes beyond RLIMIT_FSIZE fail instead of ending the process.
    pub fn start_without_xfsz(data: &Path, listen: &str, arguments: &[&str]) -> Self {
        let router = Self::command(data, arguments);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
            .arg(router.get_program())
            .args(router.get_args());
        shell.envs(router.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.args(["--listen", listen]);
        Self::spawn(shell)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announced: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| announced["listening"][name].as_str().map(|text| text.parse().unwrap());
        Self { child, address: address("router").unwrap(), admin: address("admin") }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the router does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Compares what the files say that each app's messages take with a count of all messages. Of copies, so that a router finds
/// its files as another left them. How much it is.
pub fn check_usage(data: &Path) -> u64 {
    const COUNT: &str = "SELECT a.app, sum(length(payload) + 2 * (octet_length(sender) + length(client_id))
            + coalesce(length(marks), 0) + 48)
        FROM messages m JOIN accounts a ON a.id = m.account GROUP BY a.app ORDER BY a.app";
    let copy = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        let (name, to) = (entry.file_name(), copy.path().join(entry.file_name()));
        let name = name.to_str().unwrap();
        if name.starts_with("messages-") && !name.ends_with("-shm") {
            std::fs::copy(entry.path(), &to).unwrap();
            files.extend(name.ends_with(".sqlite").then_some(to));
        }
    }
    let mut total = 0;
    for file in files {
        let connection = rusqlite::Connection::open(file).unwrap();
        let rows = |query: &str| -> Vec<(String, i64)> {
            let mut statement = connection.prepare(query).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let kept = rows("SELECT app, bytes FROM usage WHERE bytes > 0 ORDER BY app");
        assert_eq!(kept, rows(COUNT));
        total += kept.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>();
    }
    total
}

/// A small tmpfs, unmounted with the value.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    pub fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").args(["-l"]).arg(self.0.path()).status().ok();
    }
}

/// A frame as the tests look at it.
pub type Seen = (Verb, bytes::Bytes);

/// One side of a link.
pub struct Peer {
    pub stream: TcpStream,
    reader: FrameReader,
    pub out: Vec<u8>,
    /// Frames that came while another was waited for.
    waiting: VecDeque<Seen>,
    pings_until: Option<Instant>,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, reader: frame_reader(), out: Vec::new(), waiting: VecDeque::new(), pings_until: None }
    }

    fn hello(address: SocketAddr, hello: &Hello) -> Self {
        let mut peer = Self::connect(address);
        put_control(&mut peer.out, Verb::Hello, hello);
        peer.flush();
        let welcome: Welcome = peer.expect_control(Verb::Welcome);
        assert_eq!(welcome.lease_ms, 1500);
        peer
    }

    pub fn gateway(address: SocketAddr, node: &str, epoch: u64, worker: u32) -> Self {
        Self::hello(address, &gateway_hello(node, epoch, worker))
    }

    pub fn service(address: SocketAddr, node: &str) -> Self {
        let hello = Hello {
            version: INTERNAL_VERSION,
            role: Role::Service.into(),
            node: node.to_owned(),
            ..Hello::default()
        };
        Self::hello(address, &hello)
    }

    pub fn flush(&mut self) {
        self.stream.write_all(&self.out).unwrap();
        self.out.clear();
    }

    pub fn try_flush(&mut self) -> bool {
        let sent = self.stream.write_all(&self.out).is_ok();
        self.out.clear();
        sent
    }

    pub fn ping(&mut self) {
        put_empty(&mut self.out, Verb::Ping);
        self.flush();
    }

    /// The next frame, or `None` when nothing comes within `wait` or the link has ended.
    pub fn next(&mut self, wait: Duration) -> Option<Seen> {
        if let Some(frame) = self.waiting.pop_front() {
            return Some(frame);
        }
        self.receive(wait)
    }

    fn receive(&mut self, wait: Duration) -> Option<Seen> {
        let deadline = Instant::now() + wait;
        let mut chunk = [0; 65536];
        loop {
            if let Some(Frame { header, body }) = self.reader.try_next().unwrap() {
                return Some((Verb::from_byte(header.kind).unwrap(), body));
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.reader.push(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// Waits for a frame of this verb, pinging to keep the lease; others are kept for later.
    pub fn expect(&mut self, verb: Verb) -> bytes::Bytes {
        if let Some(position) = self.waiting.iter().position(|(waiting, _)| *waiting == verb) {
            return self.waiting.remove(position).unwrap().1;
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.receive(Duration::from_millis(300)) {
                Some((seen, body)) if seen == verb => return body,
                Some((Verb::Pong, _)) => {}
                Some(other) => self.waiting.push_back(other),
                None => {
                    put_empty(&mut self.out, Verb::Ping);
                    assert!(self.try_flush(), "the link ended while waiting for {verb:?}");
                }
            }
        }
        panic!("no {verb:?} within {PATIENCE:?}; waiting: {:?}", self.waiting);
    }

    pub fn expect_control<M: Message + Default>(&mut self, verb: Verb) -> M {
        M::decode(self.expect(verb)).unwrap()
    }

    /// Waits until the other side closes.
    pub fn expect_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut chunk = [0; 4096];
        while Instant::now() < deadline {
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("not closed");
    }

    pub fn expect_failure(&mut self) -> Code {
        let failure: Failure = self.expect_control(Verb::Failure);
        self.expect_end();
        failure.code()
    }

    // As a gateway ---------------------------------------------------------------------------------

    pub fn register(&mut self, batch: u32, sessions: Vec<Registration>) {
        put_control(&mut self.out, Verb::Register, &Register { batch, sessions });
        self.flush();
        let registered: moor_wire::internal::Registered = self.expect_control(Verb::Registered);
        assert_eq!(registered.batch, batch);
    }

    pub fn unregister(&mut self, session: u64, app: &str, account: &str) {
        let sessions = vec![Departure { session, app: app.to_owned(), account: account.to_owned() }];
        put_control(&mut self.out, Verb::Unregister, &Unregister { sessions });
        self.flush();
    }

    pub fn synced(&mut self) {
        put_empty(&mut self.out, Verb::Synced);
        self.flush();
    }

    pub fn put(&mut self, verb: Verb, body: &impl Message) {
        put_control(&mut self.out, verb, body);
    }

    pub fn put_up(&mut self, who: &Who<'_>, kind: Kind, body: &[u8]) {
        let up = Up {
            session: SessionHandle(who.session),
            kind: kind.byte(),
            flags: 0,
            app: who.app,
            account: who.account,
            device: who.device,
            body,
        };
        up.put(&mut self.out);
    }

    pub fn put_submit(&mut self, who: &Who<'_>, to: &str, client_id: &[u8], payload: &[u8]) {
        let submit = Submit {
            client_id: client_id.to_vec().into(),
            to: to.to_owned(),
            payload: payload.to_vec().into(),
            ..Submit::default()
        };
        self.put_up(who, Kind::Data, &submit.encode_to_vec());
    }

    pub fn ack(&mut self, who: &Who<'_>, sync_id: u64) {
        self.put_up(who, Kind::Ack, &sync_id.to_be_bytes());
        self.flush();
    }

    pub fn sync(&mut self, who: &Who<'_>, sync_id: u64) {
        self.put_up(who, Kind::Sync, &sync_id.to_be_bytes());
        self.flush();
    }

    /// The next push that is a delivery, with the session it is for.
    pub fn expect_delivery(&mut self) -> (u64, Delivery) {
        loop {
            let body = self.expect(Verb::Push);
            let push = Push::parse(&body).unwrap();
            if push.kind == Kind::Data.byte() {
                return (push.session.0, Delivery::decode(push.body).unwrap());
            }
        }
    }

    pub fn expect_result(&mut self) -> SubmitResult {
        loop {
            let body = self.expect(Verb::Push);
            let push = Push::parse(&body).unwrap();
            if push.kind == Kind::Ack.byte() {
                return SubmitResult::decode(push.body).unwrap();
            }
        }
    }

    /// True when no delivery comes for a while in which one would have.
    pub fn is_quiet(&mut self) -> bool {
        self.ping();
        loop {
            match self.next(Duration::from_millis(400)) {
                Some((Verb::Push, _)) => return false,
                Some(_) => {}
                None => return true,
            }
        }
    }

    // As a service ---------------------------------------------------------------------------------

    pub fn send(&mut self, app: &str, from: &str, to: &str, client_id: &[u8], payload: &[u8]) -> SendResult {
        put_control(
            &mut self.out,
            Verb::Send,
            &Send {
                cookie: 7,
                app: app.to_owned(),
                from: from.to_owned(),
                to: to.to_owned(),
                client_id: client_id.to_vec().into(),
                class: client::Class::Reliable as u32,
                payload: payload.to_vec().into(),
                ..Send::default()
            },
        );
        self.flush();
        self.expect_control(Verb::SendResult)
    }

    pub fn lookup(&mut self, app: &str, account: &str) -> LookupResult {
        let lookup = Lookup { cookie: 9, app: app.to_owned(), account: account.to_owned() };
        put_control(&mut self.out, Verb::Lookup, &lookup);
        self.flush();
        let result: LookupResult = self.expect_control(Verb::LookupResult);
        assert_eq!(result.cookie, 9);
        result
    }

    /// Looks until `is_right`; how long that took.
    pub fn lookup_until(&mut self, account: &str, is_right: impl Fn(&LookupResult) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            let result = self.lookup("shop", account);
            if is_right(&result) {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "{result:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn expect_outcome(&mut self) -> Outcome {
        Outcome::parse(&self.expect(Verb::Outcome)).unwrap()
    }
}

pub fn gateway_hello(node: &str, epoch: u64, worker: u32) -> Hello {
    Hello {
        version: INTERNAL_VERSION,
        role: Role::Gateway.into(),
        node: node.to_owned(),
        epoch,
        worker: Some(worker),
        workers: 2,
        internal_address: "127.0.0.1:7200".to_owned(),
        token: bytes::Bytes::new(),
        push_many: true,
    }
}

/// A session as its gateway knows it.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub session: u64,
    pub app: &'a str,
    pub account: &'a str,
    pub device: &'a str,
}

impl<'a> Who<'a> {
    pub const fn new(session: u64, account: &'a str, device: &'a str) -> Self {
        Self { session, app: "shop", account, device }
    }

    pub fn registration(&self, last_sync_id: Option<u64>) -> Registration {
        Registration {
            session: self.session,
            app: self.app.to_owned(),
            account: self.account.to_owned(),
            device: self.device.to_owned(),
            last_sync_id,
            is_new: false,
        }
    }
}

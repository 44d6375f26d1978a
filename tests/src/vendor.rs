//! A vendor of pushes, as the offline hook sees it: an HTTP server that checks signatures and misbehaves on request.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::hmac;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::process::wait_for;

/// Longest timestamp difference that is believed, seconds.
const SKEW_S: u64 = 300;

/// How it answers.
#[derive(Clone, Debug)]
pub enum Manner {
    /// 200.
    Accept,
    /// 200, and these places of each batch were not accepted, once: whether they may come again.
    AcceptBut(Vec<(usize, bool)>),
    /// This status, with these header lines.
    Status(u16, &'static str),
    /// Nothing, until the caller goes.
    Hang,
    /// Accepts, and cuts the connection before it says so.
    LoseAnswer,
    /// Cuts the connection.
    Reset,
}

#[derive(Debug)]
struct State {
    secret: hmac::Key,
    manner: Mutex<Manner>,
    accepted: Mutex<Vec<Value>>,
    keys: Mutex<HashSet<String>>,
    requests: AtomicU64,
    repeats: AtomicU64,
    forged: AtomicU64,
    is_over: AtomicBool,
}

/// The running server.
#[derive(Debug)]
pub struct Vendor {
    address: SocketAddr,
    state: Arc<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vendor {
    /// Starts one that knows `secret`; over TLS where there is a configuration for it.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(secret: &[u8], tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            manner: Mutex::new(Manner::Accept),
            accepted: Mutex::default(),
            keys: Mutex::default(),
            requests: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            forged: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let (state, tls) = (shared.clone(), tls.clone());
                // Its end is the caller's going, which is no error of the test.
                std::thread::spawn(move || serve(stream, tls, &state).unwrap_or_default());
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it answers so.
    pub fn behave(&self, manner: Manner) {
        *lock(&self.state.manner) = manner;
    }

    /// Notices accepted so far, each once.
    #[must_use]
    pub fn accepted(&self) -> Vec<Value> {
        lock(&self.state.accepted).clone()
    }

    /// Requests so far, and those of them that repeated an accepted one, and those with a bad signature.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        (count(&self.state.requests), count(&self.state.repeats), count(&self.state.forged))
    }

    /// Waits until it has accepted a notice that `is_wanted`.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(Duration::from_secs(20), what, || {
            Ok(self.accepted().into_iter().find(|notice| is_wanted(notice)))
        })
        .with_context(|| format!("accepted: {:?}, counts: {:?}", self.accepted(), self.counts()))
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Release);
        // Wakes the accepting thread.
        TcpStream::connect(self.address).map(drop).unwrap_or_default();
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Request {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Result<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("no header {name}"))
    }
}

/// `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    ensure!(line.starts_with("POST /push HTTP/1.1"), "{line}");
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let mut request = Request { headers, body: Vec::new() };
    request.body.resize(request.header("content-length")?.parse()?, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

fn check(request: &Request, secret: &hmac::Key) -> Result<()> {
    let (timestamp, key) = (request.header("moor-hook-timestamp")?, request.header("idempotency-key")?);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    ensure!(now_s.abs_diff(timestamp.parse()?) < SKEW_S, "old");
    ensure!(request.header("content-type")? == "application/json", "not JSON");
    ensure!(request.header("moor-hook-key")? == "key-7", "another key");
    let digits = request.header("moor-hook-signature")?.strip_prefix("v1=").context("another signature")?;
    let digits =
        digits.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    let signature = digits.collect::<Result<Vec<u8>>>()?;
    let signed = [timestamp.as_bytes(), b".", key.as_bytes(), b".", &request.body].concat();
    hmac::verify(secret, &signed, &signature).ok().context("forged")
}

fn serve(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, state: &State) -> Result<()> {
    let cut = tcp.try_clone()?;
    let stream: Box<dyn Stream> = match tls {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config)?, tcp)),
        None => Box::new(tcp),
    };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        state.requests.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = check(&request, &state.secret) {
            state.forged.fetch_add(1, Ordering::AcqRel);
            write!(reader.get_mut(), "HTTP/1.1 401 no\r\ncontent-length: 0\r\n\r\n")?;
            bail!("{error}");
        }
        let manner = {
            let mut manner = lock(&state.manner);
            match &*manner {
                Manner::AcceptBut(_) => std::mem::replace(&mut *manner, Manner::Accept),
                other => other.clone(),
            }
        };
        match manner {
            Manner::Accept => answer(&mut reader, &accept(state, &request, &[])?)?,
            Manner::AcceptBut(places) => answer(&mut reader, &accept(state, &request, &places)?)?,
            Manner::Status(status, lines) => {
                write!(reader.get_mut(), "HTTP/1.1 {status} no\r\n{lines}content-length: 0\r\n\r\n")?;
                reader.get_mut().flush()?;
            }
            Manner::Hang => {
                // Until the caller closes.
                reader.read_line(&mut String::new())?;
            }
            Manner::LoseAnswer => {
                accept(state, &request, &[])?;
                cut.shutdown(std::net::Shutdown::Both)?;
            }
            Manner::Reset => {
                socket2::SockRef::from(&cut).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(reader: &mut BufReader<Box<dyn Stream>>, body: &str) -> Result<()> {
    let length = body.len();
    write!(reader.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")?;
    Ok(reader.get_mut().flush()?)
}

/// Takes a batch unless it has it already.
fn accept(state: &State, request: &Request, but: &[(usize, bool)]) -> Result<String> {
    if !lock(&state.keys).insert(request.header("idempotency-key")?.to_owned()) {
        state.repeats.fetch_add(1, Ordering::AcqRel);
        return Ok(String::new());
    }
    let batch: Vec<Value> = serde_json::from_slice(&request.body)?;
    let is_taken = |index: usize| but.iter().all(|(place, _)| *place != index);
    let taken = batch.into_iter().enumerate().filter(|(index, _)| is_taken(*index));
    lock(&state.accepted).extend(taken.map(|(_, notice)| notice));
    let failed = but.iter().map(
        |(index, retry)| serde_json::json!({ "index": index, "retry": retry, "reason": "unknown device" }),
    );
    Ok(serde_json::json!({ "failed": failed.collect::<Vec<_>>() }).to_string())
}

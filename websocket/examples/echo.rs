//! Echoes messages, text as text and binary as binary: the server for conformance cases.
//!
//! ```text
//! cargo run --release -p moor-websocket --example echo -- [address]
//! ```
//! Blocking, one thread per connection, both bounded; the gateway's workers are the example to follow for more.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moor_websocket::decode::Piece;
use moor_websocket::upgrade::{Origins, Outcome, Policy, upgrade};
use moor_websocket::{Decoder, Step, encode, limits};

/// Most connections at a time; each has a thread.
const CONNECTIONS_MAX: usize = 64;
/// Longest message, bytes: the largest of the conformance cases has 16 MiB.
const MESSAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// What a read may bring, bytes.
const READ_BYTES: usize = 64 * 1024;
/// How long a peer may stay silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(READ_BYTES > limits::REQUEST_BYTES_MAX);

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("echo on {}", listener.local_addr()?);
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&open);
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("{error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut buffer = vec![0; READ_BYTES];
    let Some(mut received) = open(&mut stream, &mut buffer)? else { return Ok(()) };
    let mut decoder = Decoder::default();
    let (mut message, mut out) = (Vec::new(), Vec::new());
    loop {
        let more = echo(&mut decoder, &mut buffer[received], &mut message, &mut out);
        stream.write_all(&out)?;
        out.clear();
        if !more {
            return close(stream, &mut buffer);
        }
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        received = 0..length;
    }
}

/// Answers the request that opens the connection. Returns where in `buffer` the first frames lie; `None`: there
/// will be none.
fn open(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<std::ops::Range<usize>>> {
    let policy = Policy { origins: Origins::Any, ..Policy::default() };
    let mut length = 0;
    loop {
        match upgrade(&buffer[..length], &policy) {
            Outcome::NeedMore => match stream.read(&mut buffer[length..])? {
                0 => return Ok(None),
                read => length += read,
            },
            Outcome::Accept { response, consumed, .. } => {
                stream.write_all(&response)?;
                return Ok(Some(consumed..length));
            }
            Outcome::Refuse(refusal) => {
                stream.write_all(refusal.response())?;
                return Ok(None);
            }
        }
    }
}

/// Decodes what was received and appends the answers to `out`. False: the connection ends with them.
fn echo(decoder: &mut Decoder, mut input: &mut [u8], message: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    loop {
        match decoder.poll_step(&mut input, MESSAGE_BYTES_MAX) {
            Ok(Some(Step::Data(Piece { kind, last, bytes, .. }))) => {
                message.extend_from_slice(bytes);
                if last {
                    encode::put_message(out, kind, message);
                    message.clear();
                }
            }
            Ok(Some(Step::Ping(payload))) => encode::put_pong(out, &payload),
            Ok(Some(Step::Pong(_))) => {}
            Ok(Some(Step::Close { code, .. })) => {
                encode::put_close(out, code, "");
                return false;
            }
            Ok(None) => return true,
            Err(error) => {
                encode::put_close(out, Some(error.close_code()), &error.to_string());
                return false;
            }
        }
    }
}

/// Closes so that the peer reads our last frame: bytes of it unread here would turn the end into a reset.
fn close(mut stream: TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    const LINGER: Duration = Duration::from_secs(1);
    const READS_MAX: usize = 1024;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(LINGER))?;
    for _ in 0..READS_MAX {
        if !matches!(stream.read(buffer), Ok(1..)) {
            break;
        }
    }
    Ok(())
}

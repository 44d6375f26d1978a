//! Whether a router knows where everybody is: one LOOKUP for each account, and again for those it has wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use moor_wire::Code;
use moor_wire::internal::{Lookup, LookupResult, Verb, frame_reader, put_control};
use prost::Message;

use crate::dialect::account;
use crate::progress::Progress;
use crate::pusher::greet;

/// Questions under way: a quarter of what a shard of the router takes.
const QUESTIONS_MAX: usize = 1_000;
/// Pause before those that were wrong are asked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Accounts asked for.
    pub asked: u32,
    /// Of those, whose sessions were never told right in the time given.
    pub wrong: u32,
    /// What the first of them should be and what was said.
    pub example: Option<String>,
    /// Until all were right, or the time was over.
    pub settled: Duration,
}

/// Asks a router for every client of an app, by number, until each account has exactly the session that its client has,
/// or `patience` is over.
pub fn check(
    router: SocketAddr,
    app: &'static str,
    sessions: &[Option<u64>],
    patience: Duration,
) -> Result<Findings, String> {
    let (stream, _) = greet(router, None)?;
    let mut asker = Asker { app, stream, reader: frame_reader() };
    let started = Instant::now();
    let mut open: Vec<u32> = (0..u32::try_from(sessions.len()).unwrap_or(u32::MAX)).collect();
    let mut findings =
        Findings { asked: u32::try_from(open.len()).unwrap_or(u32::MAX), ..Findings::default() };
    let mut progress = Progress::new("look up", u64::from(findings.asked));
    loop {
        let mut wrong = Vec::new();
        findings.example = None;
        for (chunk, numbers) in open.chunks(QUESTIONS_MAX).enumerate() {
            for (number, found) in asker.ask(numbers)? {
                let wanted: Vec<u64> = sessions[number as usize].into_iter().collect();
                if found.as_ref() != Ok(&wanted) {
                    findings.example.get_or_insert_with(|| {
                        format!("{} should be at {wanted:x?}, the router says {found:x?}", account(number))
                    });
                    wrong.push(number);
                }
            }
            progress.show((chunk * QUESTIONS_MAX) as u64, &format!("{} wrong", wrong.len()));
        }
        findings.wrong = u32::try_from(wrong.len()).unwrap_or(u32::MAX);
        findings.settled = started.elapsed();
        if wrong.is_empty() || findings.settled > patience {
            return Ok(findings);
        }
        open = wrong;
        std::thread::sleep(AGAIN);
    }
}

/// An account's sessions as the router knows them, or why it does not say.
type Known = Result<Vec<u64>, Code>;

struct Asker {
    app: &'static str,
    stream: TcpStream,
    reader: moor_wire::frame::FrameReader,
}

impl Asker {
    /// One LOOKUP each, all at once. The answers come in any order: the session handles, or why there are none.
    fn ask(&mut self, numbers: &[u32]) -> Result<Vec<(u32, Known)>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the router does not answer LOOKUP ({error})");
        let mut out = Vec::new();
        for number in numbers {
            let (cookie, account) = (u64::from(*number), account(*number));
            put_control(&mut out, Verb::Lookup, &Lookup { cookie, app: self.app.to_owned(), account });
        }
        self.stream.write_all(&out).map_err(|error| failed(&error))?;
        let mut found = Vec::with_capacity(numbers.len());
        let mut buffer = vec![0; 64 * 1024];
        while found.len() < numbers.len() {
            while let Some(frame) = self.reader.try_next().map_err(|error| failed(&error))? {
                if frame.header.kind == Verb::LookupResult.byte() {
                    let result = LookupResult::decode(frame.body).map_err(|error| failed(&error))?;
                    let number = u32::try_from(result.cookie).map_err(|error| failed(&error))?;
                    let sessions = match result.code() {
                        Code::Ok | Code::NotFound => {
                            Ok(result.sessions.iter().map(|at| at.session).collect())
                        }
                        code => Err(code),
                    };
                    found.push((number, sessions));
                }
            }
            if found.len() < numbers.len() {
                let length = self.stream.read(&mut buffer).map_err(|error| failed(&error))?;
                if length == 0 {
                    return Err(failed(&"it hung up"));
                }
                self.reader.push(&buffer[..length]);
            }
        }
        Ok(found)
    }
}

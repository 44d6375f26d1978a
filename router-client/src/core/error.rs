//! What can go wrong, each with a sentence for whoever reads the log.

use moor_wire::Code;
use moor_wire::identity::NameError;
use moor_wire::limits::LEVEL_MAX;

/// Why a connection or a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The router's address refuses connections.
    #[error("nothing listens at {address}: start a router with `cargo run --release` or `moor-router`")]
    NobodyListens {
        /// Where.
        address: String,
    },
    /// The internal port of a gateway refuses connections.
    #[error("no gateway listens at {address}: it may have stopped; look the account up again")]
    NoGateway {
        /// Where.
        address: String,
    },
    /// The connection could not be made, or broke.
    #[error("the connection to {address} failed: {reason}")]
    Connection {
        /// Where.
        address: String,
        /// What the operating system says.
        reason: String,
    },
    /// TLS cannot be spoken with the other side, or one of the two does not trust the other.
    #[error("no TLS with {address}: {reason}")]
    Tls {
        /// Where.
        address: String,
        /// What is the matter: a file, a certificate, or what the other side says.
        reason: String,
    },
    /// The connection broke after a request that must not be repeated was on its way.
    #[error("the connection broke while {what} was under way: it may have happened or not")]
    Uncertain {
        /// The verb.
        what: &'static str,
    },
    /// The other side answered, and the answer is no.
    #[error("{what} was refused: {code}{}", colon(.detail))]
    Refused {
        /// The verb, or the connection itself.
        what: &'static str,
        /// Why, in a word.
        code: Code,
        /// Why, in a sentence; may be empty.
        detail: String,
    },
    /// The session is gone: it was closed, or its gateway has restarted.
    #[error("the session is not there any more: look the account up again")]
    NotHere,
    /// No final answer in time.
    #[error("no final answer to {what} within {within_ms} ms{}", because(.last))]
    Deadline {
        /// The verb.
        what: &'static str,
        /// How long was waited, milliseconds.
        within_ms: u64,
        /// What kept it, where that is known.
        last: Option<Box<Error>>,
    },
    /// As many requests are under way as are allowed.
    #[error("{max} requests are under way: take their answers before starting more")]
    TooManyInFlight {
        /// How many are allowed.
        max: usize,
    },
    /// The other side has stopped talking.
    #[error("nothing was heard for {silent_ms} ms, not even an answer to PING")]
    Silent {
        /// For how long, milliseconds.
        silent_ms: u64,
    },
    /// The other side sent something the protocol does not allow.
    #[error("the other side does not speak this protocol: {0}")]
    Protocol(String),
    /// A name that no router accepts.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A field that no router accepts.
    #[error("{what} has {length} bytes; {min} to {max} are allowed")]
    Length {
        /// Which field.
        what: &'static str,
        /// Its length, bytes.
        length: usize,
        /// The least allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// A business level that there is not.
    #[error("{level} is no business level: take 0 to {LEVEL_MAX}")]
    Level {
        /// What was asked for.
        level: u32,
    },
    /// After a reconnect the receipts of an app are refused, which were granted before.
    #[error("no more receipts of {app}: {why}")]
    Unsubscribed {
        /// The app.
        app: String,
        /// What the other side says.
        why: Box<Error>,
    },
    /// More receipts wait than are kept: the oldest were dropped.
    #[error("{count} receipts were dropped: take them sooner; LOOKUP tells what a session has acknowledged")]
    ReceiptsDropped {
        /// How many since this was last told.
        count: u64,
    },
    /// Not a ticket of this connection, or its answer was already taken.
    #[error("this connection owes no answer to that ticket")]
    UnknownTicket,
}

fn colon(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

#[expect(clippy::ref_option, reason = "thiserror hands fields on by reference")]
fn because(last: &Option<Box<Error>>) -> String {
    last.as_ref().map_or_else(String::new, |last| format!("; last: {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sentences_that_say_what_to_do() {
        let address = "127.0.0.1:7300".to_owned();
        let nobody = Error::NobodyListens { address };
        assert_eq!(
            nobody.to_string(),
            "nothing listens at 127.0.0.1:7300: start a router with `cargo run --release` or `moor-router`"
        );
        let late = Error::Deadline { what: "SEND", within_ms: 10, last: Some(Box::new(Error::NotHere)) };
        assert!(late.to_string().starts_with("no final answer to SEND within 10 ms; last: the session"));
        let refused = Error::Refused { what: "HELLO", code: Code::Unauthorized, detail: String::new() };
        assert_eq!(refused.to_string(), "HELLO was refused: UNAUTHORIZED");
    }
}

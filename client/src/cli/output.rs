//! How answers look: lines for people, objects for machines.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Failure, Global};

/// Prints one answer at once, so that whoever reads a pipe sees it now. For people it is one line, whatever others have said
/// in it.
pub fn line(global: &Global, text: &str, object: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if global.json {
        writeln!(out, "{object}")?
    } else {
        writeln!(out, "{}", printable(text))?
    }
    Ok(out.flush()?)
}

/// Control characters escaped: a terminal would obey them.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// A payload for people.
pub fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes, not text)", bytes.len()),
    }
}

/// A message for machines, with nothing lost: `text` and `client_id` where they are text, else `payload_base64` and
/// `client_id_base64`; neither of the latter where the sender gave no id.
pub fn message(mut object: Value, client_id: &[u8], payload: &[u8]) -> Value {
    let mut put = |name: &str, base64_name: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => object[name] = json!(text),
        Err(_) => object[base64_name] = json!(STANDARD.encode(bytes)),
    };
    put("text", "payload_base64", payload);
    if !client_id.is_empty() {
        put("client_id", "client_id_base64", client_id);
    }
    object
}

/// A session's handle for machines: a string, as it is longer than what a number of JSON holds everywhere.
pub fn session(handle: u64) -> Value {
    json!(handle.to_string())
}

/// A login for machines.
pub fn opened(handle: u64) -> Value {
    json!({ "event": "opened", "session": session(handle) })
}

/// Milliseconds since 1970 as a date and a time, UTC.
pub fn time(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1000 % 86_400);
    // Years begin in March here, so that the day that some of them lack is the last of them.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// What somebody said, for people; a change of a group says itself who made it.
pub fn said(from: &str, text: &str, is_event: bool) -> String {
    if is_event { text.to_owned() } else { format!("{from}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_told_control_characters() {
        assert_eq!(printable("gr\u{fc}n \u{1f600}"), "gr\u{fc}n \u{1f600}");
        assert_eq!(printable("\x1b[2J\r\n\u{9b}"), "\\u{1b}[2J\\r\\n\\u{9b}");
        assert_eq!(payload(b"a\rb"), "a\rb");
        assert_eq!(payload(&[0xff, 0, 1, 2]), "(4 bytes, not text)");
    }

    #[test]
    fn machines_are_told_every_byte() {
        assert_eq!(message(json!({}), b"", b"\x1b[2J"), json!({ "text": "\x1b[2J" }));
        assert_eq!(message(json!({}), b"7", b""), json!({ "client_id": "7", "text": "" }));
        let binary = json!({ "client_id_base64": "/w==", "payload_base64": "gAA=" });
        assert_eq!(message(json!({}), &[0xff], &[0x80, 0]), binary);
    }

    #[test]
    fn times_have_a_date_and_say_that_they_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_827_696, "2000-02-29 12:34:56Z"),
            (951_868_800, "2000-03-01 00:00:00Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_796_034_648, "2026-11-30 10:30:48Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(time(seconds * 1000 + 999), text);
        }
    }
}

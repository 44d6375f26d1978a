//! How answers look: lines for people, objects for machines.

use std::io::Write;

use serde_json::Value;

use super::{Failure, Global};

/// Prints one answer at once, so that whoever reads a pipe sees it now.
pub fn line(global: &Global, text: &str, object: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if global.json {
        writeln!(out, "{object}")?
    } else {
        writeln!(out, "{text}")?
    }
    Ok(out.flush()?)
}

/// A payload as text: as it is when it is printable UTF-8, else its size.
pub fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => text.to_owned(),
        _ => format!("({} bytes)", bytes.len()),
    }
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
        assert_eq!(payload(b"hi"), "hi");
        assert_eq!(payload(b"\x1b[2J"), "(4 bytes)");
        assert_eq!(payload(&[0xff]), "(1 bytes)");
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

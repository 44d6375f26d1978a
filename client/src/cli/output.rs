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

/// Milliseconds since 1970 as UTC time of day.
pub fn time_of_day(ms: u64) -> String {
    let seconds = ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_told_control_characters() {
        assert_eq!(payload(b"hi"), "hi");
        assert_eq!(payload(b"\x1b[2J"), "(4 bytes)");
        assert_eq!(payload(&[0xff]), "(1 bytes)");
        assert_eq!(time_of_day(3_661_000), "01:01:01");
    }
}

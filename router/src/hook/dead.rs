//! Dead letters: what a hook gave up on, one JSON line each, in a file that only grows until it is put aside.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// One hook's dead letters: FILE, and FILE.1 (the newest put aside) to FILE.N.
#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    bytes_max: u64,
    files_max: u32,
    file: File,
    bytes: u64,
}

/// What is said about each notice.
#[derive(Debug)]
pub struct Postmark<'a> {
    /// When, wall clock.
    pub at_ms: u64,
    /// The hook.
    pub hook: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Requests made for it.
    pub tries: u32,
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    // It may hold payloads: nobody else's business.
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

impl DeadLetters {
    /// Opens the file at `path`, which is put aside when it has more than `bytes_max`; `files_max` are kept aside.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn open(path: PathBuf, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        let (file, bytes) = open(&path)?;
        Ok(Self { path, bytes_max, files_max, file, bytes })
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.files_max).rev() {
            match std::fs::rename(self.aside(number), self.aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.aside(1))?;
        (self.file, self.bytes) = open(&self.path)?;
        Ok(())
    }

    /// Appends notices, in one write.
    ///
    /// # Errors
    /// The disk refuses; part of a line may be there, and the next one begins on a new line all the same.
    pub fn append(&mut self, postmark: &Postmark<'_>, notices: &[Bytes]) -> io::Result<()> {
        let Postmark { at_ms, hook, reason, tries } = postmark;
        let (hook, reason) = (serde_json::json!(hook), serde_json::json!(reason));
        let mut lines = Vec::new();
        for notice in notices {
            write!(
                lines,
                "{{\"at_ms\":{at_ms},\"hook\":{hook},\"reason\":{reason},\"tries\":{tries},\"notice\":"
            )?;
            lines.extend_from_slice(notice);
            lines.extend_from_slice(b"}\n");
        }
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        let written = self.file.write_all(&lines);
        self.bytes += lines.len() as u64;
        if written.is_err() {
            // Best effort: a disk that refused the letters may refuse this as well.
            self.file.write_all(b"\n").ok();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["notice"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn lines_are_appended_and_full_files_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dead");
        let aside = |number: u32| directory.path().join(format!("dead.{number}"));
        let postmark = Postmark { at_ms: 5, hook: "v", reason: "a \"quoted\" reason", tries: 3 };
        let length = 76;
        let open = || DeadLetters::open(path.clone(), length * 3, 2).unwrap();
        let mut letters = open();
        let bury = |letters: &mut DeadLetters, number: u64| {
            letters.append(&postmark, &[number.to_string().into()]).unwrap();
        };
        for number in 10..13 {
            bury(&mut letters, number);
        }
        assert_eq!(read(&path), [10, 11, 12]);
        drop(letters);
        // Another process goes on where this one ended.
        let mut letters = open();
        for number in 13..20 {
            bury(&mut letters, number);
        }
        assert_eq!(
            (read(&path), read(&aside(1)), read(&aside(2))),
            (vec![19], vec![16, 17, 18], vec![13, 14, 15])
        );
        assert!(!aside(3).exists());
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let line = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["reason"], &line["tries"]), (&"a \"quoted\" reason".into(), &3.into()));
    }
}

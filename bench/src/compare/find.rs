//! Where programs are, and what version they say they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time for a program to say its version.
const PATIENCE: Duration = Duration::from_secs(10);
/// Servers of Debian are here, which is not on everybody's PATH.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// Programs that were named: system and path.
    pub given: Vec<(String, PathBuf)>,
    /// Where `--install` puts what npm and cargo make.
    pub directory: PathBuf,
}

impl Places {
    /// The program named for a system.
    pub fn given(&self, system: &str) -> Option<PathBuf> {
        self.given.iter().find(|(name, _)| name == system).map(|(_, path)| path.clone())
    }

    /// The program of a system: the one that was named, else one in the directory or on PATH.
    pub fn program(&self, system: &str, program: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.given(system).or_else(|| {
            [self.directory.join("bin"), self.directory.join("node_modules/.bin")]
                .into_iter()
                .chain(std::env::split_paths(&path))
                .chain(SYSTEM.map(PathBuf::from))
                .map(|directory| directory.join(program))
                .find(|candidate| candidate.is_file())
        })
    }

    /// Directories of Node.js packages.
    pub fn node_modules(&self) -> Vec<PathBuf> {
        let told = std::env::var_os("NODE_PATH").unwrap_or_default();
        let mut all = vec![self.directory.join("node_modules")];
        all.extend(std::env::split_paths(&told));
        all.extend(
            ["/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs"].map(PathBuf::from),
        );
        all
    }
}

/// The word behind a mark in what a program says, or "unknown".
pub fn word_after(program: &Path, arguments: &[&str], mark: &str) -> String {
    let said = says(program, arguments).unwrap_or_default();
    word(&said, mark).unwrap_or("unknown").to_owned()
}

fn word<'a>(said: &'a str, mark: &str) -> Option<&'a str> {
    said[said.find(mark)? + mark.len()..].split_whitespace().next()
}

/// What a program says; it is given up after a while. A few lines, which a pipe holds.
fn says(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if started.elapsed() > PATIENCE {
            // It may end at this very moment; either way nothing is known of it.
            child.kill().unwrap_or_default();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_behind_their_marks() {
        assert_eq!(word("Redis server v=7.0.15 sha=0", "v="), Some("7.0.15"));
        assert_eq!(word("1.2.3\n", ""), Some("1.2.3"));
        assert_eq!(word("nothing", "v="), None);
        assert_eq!(word_after(Path::new("/nowhere"), &[], ""), "unknown");
        assert_eq!(word_after(Path::new("/bin/sh"), &["-c", "echo version 7"], "version "), "7");
    }

    #[test]
    fn what_was_named_is_taken() {
        let given = vec![("redis".to_owned(), PathBuf::from("/nowhere/redis"))];
        let places = Places { given, directory: PathBuf::from("/nowhere") };
        assert_eq!(places.program("redis", "sh"), Some(PathBuf::from("/nowhere/redis")));
        assert!(places.program("nats", "sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(places.program("nats", "no-such-program"), None);
    }
}

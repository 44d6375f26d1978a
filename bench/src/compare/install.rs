//! `--install`: runs what each missing server says one has to run, after printing it. Root only, since Debian's
//! packages need it. Services that packages bring are not started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::peers::{Peer, Source};
use crate::child;

/// Asked by Debian's packages whether a service may be started; 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const NONE_MAY_START: &str =
    "#!/bin/sh\n# moor-bench compare --install: nothing starts by itself\nexit 101\n";

impl Source {
    /// The command that gets it.
    pub fn command(self, directory: &Path) -> Vec<String> {
        let directory = directory.display().to_string();
        let words: &[&str] = match self {
            Self::Debian(package) => &["apt-get", "install", "-y", "--no-install-recommends", package],
            Self::Npm(package) => {
                &["npm", "install", "--no-audit", "--no-fund", "--prefix", &directory, package]
            }
            Self::Cargo(package) => &["cargo", "install", "--root", &directory, package],
            Self::Workspace => &["cargo", "build", "--release", "-p", "moor-gateway"],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }
}

/// Installs these. What fails is said and left out; the comparison says so again.
pub fn install(peers: &[&Peer], directory: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("--install needs root; without it each missing server's row says what to run".to_owned());
    }
    fs::create_dir_all(directory)
        .map_err(|error| format!("cannot make {} ({error})", directory.display()))?;
    let _policy = Policy::none_may_start()?;
    let mut listed = false;
    for peer in peers {
        if matches!(peer.source, Source::Debian(_)) && !std::mem::replace(&mut listed, true) {
            run(&["apt-get".to_owned(), "update".to_owned(), "-qq".to_owned()]);
        }
        run(&peer.source.command(directory));
    }
    Ok(())
}

fn run(words: &[String]) {
    eprintln!("+ {}", words.join(" "));
    let Some((program, arguments)) = words.split_first() else { return };
    // Packages ask nothing, and tables on standard output stay alone.
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("{program} ended with {status}"),
        Err(error) => eprintln!("{program} cannot be started ({error})"),
    }
}

/// Says no while it is there; one that is there already stays as it is.
struct Policy {
    ours: bool,
}

impl Policy {
    fn none_may_start() -> Result<Self, String> {
        // What a run that was killed left behind is ours as well.
        let is_another_s = fs::read_to_string(POLICY).is_ok_and(|text| text != NONE_MAY_START);
        if is_another_s || !Path::new("/usr/bin/apt-get").exists() {
            return Ok(Self { ours: false });
        }
        child::remove_with_us(Path::new(POLICY));
        let failed = |error: std::io::Error| format!("cannot write {POLICY} ({error})");
        fs::write(POLICY, NONE_MAY_START).map_err(failed)?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            // Whoever removed it before did what is to be done.
            fs::remove_file(POLICY).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_names_its_package() {
        for (source, package) in
            [(Source::Debian("a"), "a"), (Source::Npm("b"), "b"), (Source::Cargo("c"), "c")]
        {
            assert_eq!(source.command(Path::new("/d")).last().map(String::as_str), Some(package));
        }
    }
}

//! Reads the files an operator names: bounded, and secrets only when nobody else can read them.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::limits::FILE_BYTES_MAX;

/// Why credentials cannot be loaded: which file, what is wrong, what to do. Never quotes a file's content.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it and what to do.
    pub what: String,
}

impl LoadError {
    pub(crate) fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into() }
    }
}

/// A file's bytes and who may read it.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    /// True exactly when others than its owner can read or write the file.
    open_to_others: bool,
    mode: u32,
}

impl Content {
    /// # Errors
    /// Others can read the file.
    pub(crate) fn require_private(&self, path: &Path, holds: &str) -> Result<(), LoadError> {
        if self.open_to_others {
            let (mode, name) = (self.mode, path.display());
            let what = format!(
                "holds {holds} and others can read or write it (mode {mode:04o}); run: chmod 600 {name}"
            );
            return Err(LoadError::new(path, what));
        }
        Ok(())
    }
}

/// Reads a file that anybody may read, such as a certificate.
///
/// # Errors
/// It cannot be read or is longer than the limit.
pub fn read_public(path: &Path) -> Result<Vec<u8>, LoadError> {
    read(path).map(|content| content.bytes)
}

/// Reads a file that nobody but its owner may be able to read; `holds` says what is in it.
///
/// # Errors
/// It cannot be read, is longer than the limit, or others can read it too.
pub fn read_secret(path: &Path, holds: &str) -> Result<Zeroizing<Vec<u8>>, LoadError> {
    let content = read(path)?;
    content.require_private(path, holds)?;
    Ok(content.bytes.into())
}

/// Reads a file once: what is checked is what was read.
pub(crate) fn read(path: &Path) -> Result<Content, LoadError> {
    let cannot = |error: std::io::Error| LoadError::new(path, format!("cannot be read: {error}"));
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(LoadError::new(path, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("is longer than {FILE_BYTES_MAX} bytes; is it the right file?");
        return Err(LoadError::new(path, what));
    }
    let mode = metadata.mode() & 0o7777;
    Ok(Content { bytes, open_to_others: open_to_others(&metadata, mode), mode })
}

/// systemd hands a credential over as root's file of mode 0440 whose group bits stand for an access list with
/// the one user in it (`LoadCredential`); the group is root's.
fn open_to_others(metadata: &Metadata, mode: u32) -> bool {
    let from_systemd = mode == 0o440 && metadata.uid() == 0 && metadata.gid() == 0;
    mode & 0o077 != 0 && !from_systemd
}

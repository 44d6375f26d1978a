//! The data directory: one owner at a time, and what it was made for.
//!
//! Holds the lock file as long as it lives, and remembers the number of shards, which never changes because
//! accounts are placed by it. What lies in it are everybody's messages: it is made for its owner alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StartError;

const FORMAT: u32 = 1;
/// What the group and everybody else may do with a file, of its mode.
const OTHERS: u32 = 0o077;

/// What `router.meta` says.
#[derive(Serialize, Deserialize)]
struct Meta {
    format: u32,
    shards: u32,
}

/// An open data directory; the lock goes with it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Shards the directory is divided into.
    pub shards: u32,
    _lock: File,
}

impl DataDir {
    /// Opens or makes the directory. `shards`: the number asked for, if any was.
    pub fn open(path: &Path, shards: Option<u32>) -> Result<Self, StartError> {
        let unwritable = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| StartError::DataDirectory { path, source }
        };
        make_durably(path).map_err(unwritable(path))?;
        let mode = fs::metadata(path).map_err(unwritable(path))?.permissions().mode();
        if mode & OTHERS != 0 {
            tracing::warn!(
                "other users of this host can read the messages in {0} (mode {1:04o}); run: chmod 700 {0}",
                path.display(),
                mode & 0o7777
            );
        }
        let lock_path = path.join("router.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(unwritable(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Locked { path: path.to_owned() }),
            Err(errno) => return Err(unwritable(&lock_path)(errno.into())),
        }
        let meta_path = path.join("router.meta");
        let meta = match read::<Meta>(&meta_path)? {
            Some(meta) => meta,
            None => {
                let meta = Meta { format: FORMAT, shards: shards.unwrap_or(1) };
                write_durably(&meta_path, &meta).map_err(unwritable(&meta_path))?;
                meta
            }
        };
        if meta.format != FORMAT {
            return Err(StartError::Format { path: path.to_owned(), stored: meta.format, known: FORMAT });
        }
        if let Some(wanted) = shards
            && wanted != meta.shards
        {
            return Err(StartError::ShardCount { path: path.to_owned(), stored: meta.shards, wanted });
        }
        Ok(Self { path: path.to_owned(), shards: meta.shards, _lock: lock })
    }

    /// Which business levels are off.
    pub fn levels(&self) -> PathBuf {
        self.path.join("router.levels")
    }

    /// The message file of a shard.
    pub fn messages(&self, shard: u32) -> PathBuf {
        self.path.join(format!("messages-{shard}.sqlite"))
    }
}

/// What [`write_durably`] wrote there, if it ever did.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StartError> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map(Some)
            .map_err(|error| StartError::Store { path: path.to_owned(), detail: error.message().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StartError::DataDirectory { path: path.to_owned(), source }),
    }
}

/// Makes a directory and those above it that are missing, for its owner alone, and syncs what each was made in: without that a power cut
/// could take a new directory away with everything that had been synced inside.
fn make_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o777 & !OTHERS).create(path)?;
    missing.into_iter().rev().try_for_each(sync_above)
}

/// Syncs the directory that a name stands in.
fn sync_above(path: &Path) -> io::Result<()> {
    match path.parent() {
        None => Ok(()),
        Some(above) if above.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(above) => File::open(above)?.sync_all(),
    }
}

/// Writes beside, syncs, renames, syncs the directory: a half-written file is never seen.
pub fn write_durably(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let text = toml::to_string(what).map_err(io::Error::other)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_above(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time_and_the_shard_count_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/data");
        let first = DataDir::open(&path, Some(3)).unwrap();
        assert!(matches!(DataDir::open(&path, None), Err(StartError::Locked { .. })));
        drop(first);
        assert!(matches!(
            DataDir::open(&path, Some(4)),
            Err(StartError::ShardCount { stored: 3, wanted: 4, .. })
        ));
        assert_eq!(DataDir::open(&path, None).unwrap().shards, 3);
        fs::write(path.join("router.meta"), "format = 9\nshards = 3\n").unwrap();
        let error = DataDir::open(&path, None).unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/data");
        let _open = DataDir::open(&path, None).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataDir::open(&path, None).unwrap_err();
        assert!(error.to_string().contains("--data"), "{error}");
    }
}

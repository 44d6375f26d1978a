//! Business levels that are switched off: one switch for all shards, kept over restarts. A router that goes down with too
//! much to do comes back with it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use moor_wire::limits::LEVEL_MAX;
use serde::{Deserialize, Serialize};

use crate::datadir::{self, DataDir};
use crate::error::StartError;

/// What `router.levels` says.
#[derive(Serialize, Deserialize)]
struct Kept {
    off_from: u32,
}

/// The switch.
#[derive(Debug)]
pub struct Levels {
    off_from: AtomicU32,
    path: PathBuf,
}

impl Levels {
    /// As it was left.
    pub fn open(data: &DataDir) -> Result<Self, StartError> {
        let path = data.levels();
        let off_from = datadir::read::<Kept>(&path)?.map_or(LEVEL_MAX + 1, |kept| kept.off_from);
        if !Self::may_be(off_from) {
            let detail = format!("off_from is {off_from}: 1 to {} can be", LEVEL_MAX + 1);
            return Err(StartError::Store { path, detail });
        }
        if off_from <= LEVEL_MAX {
            tracing::warn!(
                from_level = off_from,
                "business levels from this one on are off, as they were left"
            );
        }
        Ok(Self { off_from: AtomicU32::new(off_from), path })
    }

    /// Whether levels can be off from this one on. The core cannot: then the router can be stopped as well.
    pub const fn may_be(from_level: u32) -> bool {
        1 <= from_level && from_level <= LEVEL_MAX + 1
    }

    /// Messages of this level and above are refused; one above the highest: none is.
    pub fn off_from(&self) -> u32 {
        self.off_from.load(Ordering::Relaxed)
    }

    /// Switches. In force at once; an error means that the next start will not know of it.
    pub fn switch(&self, from_level: u32) -> io::Result<()> {
        self.off_from.store(from_level, Ordering::Relaxed);
        datadir::write_durably(&self.path, &Kept { off_from: from_level })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_switch_is_kept_and_a_broken_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path(), None).unwrap();
        assert_eq!(Levels::open(&data).unwrap().off_from(), LEVEL_MAX + 1);
        Levels::open(&data).unwrap().switch(1).unwrap();
        let levels = Levels::open(&data).unwrap();
        assert_eq!(levels.off_from(), 1);
        // A directory in its way: it is switched all the same.
        fs::create_dir(data.levels().with_extension("new")).unwrap();
        assert!(levels.switch(2).is_err());
        assert_eq!((levels.off_from(), Levels::open(&data).unwrap().off_from()), (2, 1));
        for broken in ["off_from = 0", "off_from = 4", "off"] {
            fs::write(data.levels(), broken).unwrap();
            let error = Levels::open(&data).unwrap_err().to_string();
            assert!(error.contains("router.levels"), "{error}");
        }
    }
}

//! Why a router cannot start. Each text is one sentence that says what to do; binaries print it and exit 2.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::port::{Holder, Unavailable};

/// Why [`crate::start`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody listens there.
    #[error(
        "port {} on {} is already in use by {holder}: stop that or choose another address for the router",
        address.port(), address.ip()
    )]
    PortInUse {
        /// The address asked for.
        address: SocketAddr,
        /// Who has it.
        holder: Holder,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} ({source}): choose an address of this host and a port that this user may open"
    )]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data directory cannot be made or written.
    #[error("cannot write to the data directory {} ({source}): make it writable for this user or choose another with --data", path.display())]
    DataDirectory {
        /// The directory or file concerned.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process works on the data directory.
    #[error("another process holds the data directory {}: stop it or choose another directory with --data", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was made with another number of shards.
    #[error("the data directory {} was made with {stored} shard(s), not {wanted}: start with --shards {stored} or choose an empty directory", path.display())]
    ShardCount {
        /// The directory.
        path: PathBuf,
        /// Shards it was made with.
        stored: u32,
        /// Shards asked for.
        wanted: u32,
    },
    /// The directory was written by a version of the router this one does not understand.
    #[error("the data in {} has format {stored}, this router writes {known}: start the version that made it or choose an empty directory", path.display())]
    Format {
        /// The directory or file.
        path: PathBuf,
        /// Format found.
        stored: u32,
        /// Format known.
        known: u32,
    },
    /// A message file cannot be opened.
    #[error("cannot open the message file {} ({detail}): check the disk, or move the file away to start without its messages", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
    /// Certificate, key or authorities cannot be used.
    #[error("TLS cannot be spoken: {0}")]
    Tls(#[from] moor_tls::peer::FilesError),
    /// A setting is outside its bounds.
    #[error("{0}")]
    Setting(String),
    /// A thread or its event loop could not be made.
    #[error(
        "cannot start a router thread ({0}): raise the limits on threads and locked memory for this user"
    )]
    Thread(io::Error),
}

impl StartError {
    /// A port that cannot be had.
    pub(crate) fn port(address: SocketAddr, why: Unavailable) -> Self {
        match why {
            Unavailable::InUse(holder) => Self::PortInUse { address, holder },
            Unavailable::Refused(source) => Self::Listen { address, source },
        }
    }
}

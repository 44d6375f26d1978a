//! The gateway appliance: workers (data plane) and the control thread.
//!
//! * [`appliance`]: puts all of it together and takes it apart again.
//! * [`worker`]: the data plane. One worker per core owns its connections and everything on a message's path.
//! * [`control`]: signals, admin HTTP, metrics, readiness. Never on a message's path.
//! * [`config`]: what can be configured, from defaults, file and flags, checked before anything starts.
//! * [`limits`]: every maximum that is not a setting.
#![forbid(unsafe_code)]

pub mod appliance;
pub mod config;
pub mod control;
mod credential_files;
pub mod limits;
mod remote;
mod tls_files;
pub mod worker;

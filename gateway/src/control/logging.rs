//! The log: lines on standard error, with a level that can change while running.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload as layer};

use super::Reload;
use crate::config::{self, Config, Log, LogFormat, Request};

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is wrong.
    #[error("`log.level` is not a log filter ({0}); say error, warn, info, debug or trace")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A log has been set up before.
    #[error("the log is already set up: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// The log has gone.
    #[error("the log's level cannot be changed: {0}")]
    Reload(#[from] layer::Error),
}

/// Changes the level of the running log.
#[derive(Clone, Debug)]
pub struct LogHandle(layer::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Logs by this filter from now on.
    ///
    /// # Errors
    /// [`LogError`]; the former filter then stays.
    pub fn set_level(&self, filter: &str) -> Result<(), LogError> {
        Ok(self.0.reload(EnvFilter::try_new(filter)?)?)
    }
}

/// A part of what SIGHUP does: takes what it is for from the configuration read anew, and says what became of it.
pub type ReloadPart = Box<dyn FnMut(&Config) -> Result<String, String> + Send>;

/// What SIGHUP does: reads the configuration as at the start (same command line), takes the log's level and hands the
/// configuration to the other parts. One that cannot use it stays as it was and does not stop the others.
#[must_use]
pub fn reload(log: LogHandle, mut parts: Vec<ReloadPart>) -> Reload {
    Box::new(move || match config::request(std::env::args_os()) {
        Ok(Request::Run(config)) => {
            let level = &config.log.level;
            let level = log.set_level(level).map(|()| format!("log.level is {level}"));
            let level = level.map_err(|error| error.to_string());
            let (mut said, mut failed) = (Vec::new(), Vec::new());
            for outcome in std::iter::once(level).chain(parts.iter_mut().map(|part| part(&config))) {
                match outcome {
                    Ok(what) => said.push(what),
                    Err(why) => failed.push(why),
                }
            }
            if failed.is_empty() {
                Ok(format!("{}; other settings need a restart", said.join(", ")))
            } else {
                Err(failed.join("; "))
            }
        }
        Ok(Request::Print(_)) => Err("this command line only prints".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

/// Sets the process's log up.
///
/// # Errors
/// [`LogError`].
pub fn init(log: &Log) -> Result<LogHandle, LogError> {
    let (filter, handle) = layer::Layer::new(EnvFilter::try_new(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(colours)).try_init()?;
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?,
    }
    Ok(LogHandle(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_changes_while_running() {
        let log = |level: &str| Log { level: level.to_owned(), format: LogFormat::Json };
        let handle = init(&log("off")).unwrap();
        assert!(!tracing::enabled!(tracing::Level::ERROR));
        handle.set_level("error").unwrap();
        assert!(tracing::enabled!(tracing::Level::ERROR));
        assert!(handle.set_level("moor=loud").is_err());
        assert!(tracing::enabled!(tracing::Level::ERROR));
        assert!(matches!(init(&log("warn")), Err(LogError::Twice(_))));
        // The other tests of this process want no log.
        handle.set_level("off").unwrap();
    }
}

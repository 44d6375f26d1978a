//! How much memory is in use: of what the control group allows, of what the host has, or of what a setting says.
//!
//! Measured once a second by the control thread, told to the workers as a level (`worker::door::pressure`). Memory of
//! the kernel counts in the first two, which is where most of a session's is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::process::{Usage, kilobytes};
use crate::config;
use crate::limits::MEMORY_LOOK_MS;
use crate::worker::door::Pressure;
use crate::worker::door::pressure::Level;

/// A level is left only when so many percent less are in use: what is freed by shedding must not be let in at once.
const LEAVE_PERCENT: u64 = 2;

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Looks at memory and says how short it is.
#[derive(Debug)]
pub struct Watch {
    limit_bytes: Option<u64>,
    refuse_percent: u64,
    shed_percent: u64,
    pressure: Pressure,
    level: Level,
    used_percent: Arc<AtomicU64>,
    group: Option<PathBuf>,
    looked_ms: Option<u64>,
}

impl Watch {
    /// A watch that tells `pressure`.
    #[must_use]
    pub fn new(memory: &config::Memory, pressure: Pressure) -> Self {
        Self {
            limit_bytes: memory.limit_mb.set().map(|megabytes| u64::from(megabytes) << 20),
            refuse_percent: memory.refuse_percent.into(),
            shed_percent: memory.shed_percent.into(),
            pressure,
            level: Level::Calm,
            used_percent: Arc::default(),
            group: group_of(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
            looked_ms: None,
        }
    }

    /// Percent in use, as it was measured last.
    pub(super) fn used_percent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.used_percent)
    }

    /// What it tells.
    pub(super) fn pressure(&self) -> Pressure {
        self.pressure.clone()
    }

    /// Measures when it is time to.
    pub(super) fn look(&mut self, now_ms: u64) {
        if self.looked_ms.is_some_and(|looked| now_ms < looked + MEMORY_LOOK_MS) {
            return;
        }
        let is_first = self.looked_ms.replace(now_ms).is_none();
        let used_percent = match self.limit_bytes {
            Some(limit) => Some(percent(Usage::read_quick().resident_bytes, limit)),
            None => self.group.as_deref().and_then(group_percent).max(host_percent()),
        };
        if is_first && used_percent.is_none() {
            tracing::warn!(
                "nobody watches the memory: memory.limit_mb is auto, and neither /proc/meminfo nor a limit of the \
                 control group can be read; set memory.limit_mb"
            );
        }
        self.judge(used_percent.unwrap_or(0));
    }

    fn judge(&mut self, used_percent: u64) {
        self.used_percent.store(used_percent, Relaxed);
        let at = |percent| {
            if used_percent >= self.shed_percent.saturating_sub(percent) {
                Level::Shed
            } else if used_percent >= self.refuse_percent.saturating_sub(percent) {
                Level::Refuse
            } else {
                Level::Calm
            }
        };
        // Up at once, down only below the margin.
        let level = at(0).max(at(LEAVE_PERCENT).min(self.level));
        if level != self.level {
            match level {
                Level::Calm => tracing::info!(used_percent, "memory is no longer short"),
                Level::Refuse => tracing::warn!(used_percent, "memory is short: nobody new comes in"),
                Level::Shed => tracing::warn!(used_percent, "memory is very short: queues are cut"),
            }
            self.level = level;
            self.pressure.set(level);
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100) / whole.max(1)
}

/// Directory of this process's control group (version 2).
fn group_of(groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(GROUPS).join(path))
}

/// The fullest of a group and those it is in; `None`: none of them has a limit. Pages of files count only as far as they
/// cannot be given back.
fn group_percent(group: &Path) -> Option<u64> {
    let mut fullest = None;
    for group in group.ancestors().take_while(|group| group.starts_with(GROUPS)) {
        let read = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
        // "max" is no limit.
        let Ok(max) = read("memory.max").trim().parse::<u64>() else { continue };
        let current: u64 = read("memory.current").trim().parse().unwrap_or(0);
        let stat = read("memory.stat");
        let files =
            stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0);
        fullest = fullest.max(Some(percent(current.saturating_sub(files), max)));
    }
    fullest
}

/// Of the host's; `None`: it cannot be read, as where the service manager shows processes alone.
fn host_percent() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (total, available) = (kilobytes(&memory, "MemTotal:")?, kilobytes(&memory, "MemAvailable:")?);
    Some(percent(total.saturating_sub(available), total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Auto;

    fn watch() -> (Watch, Pressure) {
        let pressure = Pressure::default();
        let memory = config::Memory { limit_mb: Auto::Auto, refuse_percent: 90, shed_percent: 95 };
        (Watch::new(&memory, pressure.clone()), pressure)
    }

    #[test]
    fn a_level_is_reached_at_once_and_left_below_its_margin() {
        let (mut watch, pressure) = watch();
        let levels: Vec<Level> = [89, 90, 89, 88, 87, 96, 94, 93, 92, 90, 88, 87]
            .into_iter()
            .map(|percent| {
                watch.judge(percent);
                pressure.level()
            })
            .collect();
        use Level::{Calm, Refuse, Shed};
        let expected = [Calm, Refuse, Refuse, Refuse, Calm, Shed, Shed, Shed, Refuse, Refuse, Refuse, Calm];
        assert_eq!(levels, expected);
    }

    #[test]
    fn this_host_uses_some_of_its_memory() {
        let (mut watch, _) = watch();
        watch.look(0);
        let used = watch.used_percent().load(Relaxed);
        assert!((1..=100).contains(&used), "{used} %");
        assert!(host_percent() >= Some(1));
    }

    #[test]
    fn a_limit_is_of_the_process() {
        let pressure = Pressure::default();
        let memory = config::Memory { limit_mb: Auto::Set(1), refuse_percent: 90, shed_percent: 95 };
        let mut watch = Watch::new(&memory, pressure.clone());
        watch.look(0);
        assert_eq!(pressure.level(), Level::Shed, "no process fits one megabyte");
    }

    #[test]
    fn a_control_group_is_found() {
        assert_eq!(group_of("1:cpu:/x\n0::/a/b\n"), Some(PathBuf::from("/sys/fs/cgroup/a/b")));
        assert_eq!(group_of("0::/\n"), Some(PathBuf::from("/sys/fs/cgroup/")));
        assert_eq!(group_of("1:cpu:/x\n"), None);
    }
}

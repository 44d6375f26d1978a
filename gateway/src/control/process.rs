//! What the kernel says this process uses. Read when asked, from /proc.

use std::fs;

/// Clock ticks per second in /proc: 100 on every architecture, fixed by the kernel's ABI (`USER_HZ`).
const TICKS_PER_S: u64 = 100;

/// Memory, CPU time and threads of this process. A field that cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub resident_bytes: u64,
    pub anonymous_bytes: u64,
    pub user_cpu_us: u64,
    pub system_cpu_us: u64,
    pub threads: u64,
}

impl Usage {
    /// Cheap: resident memory from counters that kernels since 6.2 keep per CPU and sum loosely.
    pub(super) fn read_quick() -> Self {
        let mut usage = Self::default();
        usage.apply_stat(&fs::read_to_string("/proc/self/stat").unwrap_or_default());
        usage.apply_status(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        usage
    }

    /// Exact: walks the page tables (about 1 ms for each 500 MB), as bytes per session want it.
    pub(super) fn read_exact() -> Self {
        let mut usage = Self::read_quick();
        usage.apply_rollup(&fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default());
        usage
    }

    fn apply_stat(&mut self, stat: &str) {
        // The second field is the program's name in parentheses and may hold anything, also spaces.
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        self.user_cpu_us = field(14) * (1_000_000 / TICKS_PER_S);
        self.system_cpu_us = field(15) * (1_000_000 / TICKS_PER_S);
        self.threads = field(20);
    }

    fn apply_status(&mut self, status: &str) {
        self.resident_bytes = kilobytes(status, "VmRSS:").unwrap_or(0);
        self.anonymous_bytes = kilobytes(status, "RssAnon:").unwrap_or(0);
    }

    fn apply_rollup(&mut self, rollup: &str) {
        if let Some(bytes) = kilobytes(rollup, "Rss:") {
            self.resident_bytes = bytes;
        }
        if let Some(bytes) = kilobytes(rollup, "Anonymous:") {
            self.anonymous_bytes = bytes;
        }
    }
}

/// The value of a line such as `Rss:   12 kB`, in bytes.
pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let number: u64 = line[name.len()..].split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let mut usage = Usage::default();
        usage.apply_stat("12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 99");
        usage.apply_status("Name:\tx\nVmRSS:\t    100 kB\nRssAnon:\t      40 kB\n");
        assert_eq!((usage.user_cpu_us, usage.system_cpu_us, usage.threads), (2_500_000, 500_000, 7));
        assert_eq!((usage.resident_bytes, usage.anonymous_bytes), (102_400, 40_960));
        usage.apply_rollup("5-7 ---p [rollup]\nRss:       99 kB\nAnonymous:   41 kB\n");
        assert_eq!((usage.resident_bytes, usage.anonymous_bytes), (101_376, 41_984));
        usage.apply_stat("nonsense");
        usage.apply_rollup("");
        assert_eq!(usage.resident_bytes, 101_376);
    }

    #[test]
    fn this_process_has_memory_and_a_thread() {
        let usage = Usage::read_exact();
        assert!(usage.resident_bytes > 100_000 && usage.threads >= 1, "{usage:?}");
    }
}

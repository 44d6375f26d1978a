//! What a person sees while it runs: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one phase.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    told: Instant,
}

impl Progress {
    /// A phase that is done at `total`.
    pub fn new(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:>10} {bar:40} {pos}/{len} {elapsed_precise} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(what);
            bar
        });
        Self { bar, what, total, told: Instant::now() }
    }

    /// What the phase is called.
    pub const fn what(&self) -> &'static str {
        self.what
    }

    /// How far it is, and a word.
    pub fn show(&mut self, done: u64, word: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(word.to_owned());
        } else if self.told.elapsed() >= LINE_EVERY || done >= self.total {
            self.told = Instant::now();
            eprintln!("{:>10} {done}/{} {word}", self.what, self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

//! A sample a second of how a run goes: for the report's curves and for who watches.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::Stats;
use crate::memory::kernel_bytes;
use crate::shared::Shared;
use crate::side::Side;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(1);
/// Most samples of a result.
const SAMPLES_MAX: usize = 3600;
/// Here every two become one: the first, which is the zero line, stays alone, so the rest must be even.
const THIN_AT: usize = SAMPLES_MAX - 1;
const _: () = assert!(THIN_AT % 2 == 1);

/// What one second looked like.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Since the start of the run, seconds.
    pub t_s: f64,
    /// What the run was doing.
    pub phase: &'static str,
    /// Connections logged in and not lost.
    pub connected: u32,
    /// Connections lost so far.
    pub lost: u32,
    /// Measured messages that arrived, per second.
    pub delivered_per_s: f64,
    /// Of what was answered in that second: logins at first, then messages, microseconds.
    pub p99_us: Option<u64>,
    /// Resident memory of the gateway, bytes; none of a floor.
    pub user_bytes: Option<u64>,
    /// Kernel memory of the whole host, bytes: slab objects and TCP's pages.
    pub kernel_slab_bytes: u64,
}

impl Sample {
    fn json(&self) -> Value {
        json!({
            "t_s": rounded(self.t_s),
            "phase": self.phase,
            "connected": self.connected,
            "lost": self.lost,
            "delivered_per_s": rounded(self.delivered_per_s),
            "p99_us": self.p99_us,
            "user_bytes": self.user_bytes,
            "kernel_slab_bytes": self.kernel_slab_bytes,
        })
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Samples, thinned by doubling the step when there are too many.
#[derive(Debug)]
pub struct Series {
    samples: Vec<Sample>,
    /// Seconds one kept sample stands for.
    step: u32,
    /// What has come of the next one, and for how many seconds it stands.
    begun: Option<(Sample, u32)>,
}

impl Series {
    /// None yet.
    pub const fn new() -> Self {
        Self { samples: Vec::new(), step: 1, begun: None }
    }

    /// Takes the sample of one more second.
    pub fn push(&mut self, sample: Sample) {
        if self.samples.is_empty() {
            self.samples.push(sample);
            return;
        }
        let (sample, seconds) = match self.begun.take() {
            Some((begun, seconds)) => (joined(&begun, seconds, &sample, 1), seconds + 1),
            None => (sample, 1),
        };
        if seconds < self.step {
            self.begun = Some((sample, seconds));
            return;
        }
        self.samples.push(sample);
        if self.samples.len() == THIN_AT {
            let thinned: Vec<_> =
                self.samples[1..].chunks_exact(2).map(|two| joined(&two[0], 1, &two[1], 1)).collect();
            self.samples.truncate(1);
            self.samples.extend(thinned);
            self.step *= 2;
        }
    }

    /// All of them, the one that was not finished included.
    pub fn all(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().chain(self.begun.as_ref().map(|(sample, _)| sample))
    }
}

/// Two neighbours as one: rates are averaged, the worse tail counts, the rest is as it was at the end.
fn joined(first: &Sample, first_s: u32, second: &Sample, second_s: u32) -> Sample {
    let (a, b) = (f64::from(first_s), f64::from(second_s));
    Sample {
        delivered_per_s: (first.delivered_per_s * a + second.delivered_per_s * b) / (a + b),
        p99_us: first.p99_us.max(second.p99_us),
        ..second.clone()
    }
}

/// Takes the samples. It is asked often and does something once a second.
#[derive(Debug)]
pub struct Sampler {
    series: Series,
    /// Counts at the last sample.
    last: Counts,
    /// Set when the drivers were asked for their share of the second that is over.
    asked: Option<Counts>,
    /// What is shown between two samples.
    word: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    at: Duration,
    logged_in: u32,
    lost: u32,
    dropped: u32,
    answers: u64,
    delivered: u64,
}

impl Counts {
    fn read(shared: &Shared) -> Self {
        Self {
            at: shared.epoch.elapsed(),
            logged_in: shared.logged_in.load(Relaxed),
            lost: shared.lost.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            answers: shared.pongs.load(Relaxed),
            delivered: shared.delivered.load(Relaxed),
        }
    }
}

impl Sampler {
    /// With the zero line: memory before anybody is connected.
    pub fn new(shared: &Shared, side: &Side) -> Self {
        let mut sampler =
            Self { series: Series::new(), last: Counts::default(), asked: None, word: String::new() };
        sampler.take(Counts::read(shared), "begin", shared, side);
        sampler
    }

    /// To be called a few times a second. Returns a few words for who watches: connected, rate, p99, memory.
    pub fn tick(&mut self, phase: &'static str, shared: &Shared, side: &Side) -> &str {
        if let Some(counts) = self.asked.take() {
            self.take(counts, phase, shared, side);
        } else if shared.epoch.elapsed().saturating_sub(self.last.at) >= EVERY {
            // The drivers publish their latencies in their next turn; they are fetched at the next call.
            shared.interval.fetch_add(1, Relaxed);
            self.asked = Some(Counts::read(shared));
        }
        &self.word
    }

    fn take(&mut self, now: Counts, phase: &'static str, shared: &Shared, side: &Side) {
        let seconds = now.at.saturating_sub(self.last.at).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let p99_us = shared.latencies.lock().ok().and_then(|mut latencies| {
            let p99 = (!latencies.is_empty()).then(|| latencies.value_at_quantile(0.99));
            latencies.reset();
            p99
        });
        let sample = Sample {
            t_s: now.at.as_secs_f64(),
            phase,
            connected: now.logged_in.saturating_sub(now.lost + now.dropped),
            lost: now.lost,
            delivered_per_s: per_s(now.delivered, self.last.delivered),
            p99_us,
            user_bytes: match side {
                Side::Gateway { admin, .. } => Stats::read(admin).ok().map(|stats| stats.resident_bytes()),
                Side::Floor(_) => None,
            },
            kernel_slab_bytes: kernel_bytes(),
        };
        let rate = match phase {
            "log in" | "storm" => per_s(u64::from(now.logged_in), u64::from(self.last.logged_in)),
            "hold" => per_s(now.answers, self.last.answers),
            _ => sample.delivered_per_s,
        };
        self.word = format!("{} connected, {} lost, {rate:.0}/s", sample.connected, sample.lost);
        #[allow(clippy::cast_precision_loss, reason = "for the eye")]
        {
            if let Some(p99_us) = p99_us {
                self.word += &format!(", p99 {:.2} ms", p99_us as f64 / 1e3);
            }
            if let Some(bytes) = sample.user_bytes {
                self.word += &format!(", gateway {:.1} MB", bytes as f64 / 1e6);
            }
        }
        self.series.push(sample);
        self.last = now;
    }

    /// The `samples` of the result.
    pub fn json(&self) -> Value {
        self.series.all().map(Sample::json).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u32) -> Sample {
        Sample {
            t_s: f64::from(second),
            phase: "push",
            connected: second,
            lost: 0,
            delivered_per_s: f64::from(second),
            p99_us: Some(if second == 12_345 { 900 } else { 100 }),
            user_bytes: Some(1),
            kernel_slab_bytes: 1,
        }
    }

    #[test]
    fn a_day_is_thinned_evenly_and_neither_its_zero_line_nor_its_worst_second_is_lost() {
        let mut series = Series::new();
        for second in 0..86_400 {
            series.push(sample(second));
            assert!(series.all().count() <= SAMPLES_MAX);
        }
        let kept: Vec<_> = series.all().collect();
        assert!(kept.len() > SAMPLES_MAX / 4, "{}", kept.len());
        assert_eq!((kept[0], kept.last().unwrap().t_s), (&sample(0), 86_399.0));
        let step = f64::from(series.step);
        assert!(step.log2().fract() == 0.0 && step > 1.0);
        let whole = &kept[..kept.len() - 1];
        assert!(whole.windows(2).all(|two| two[1].t_s - two[0].t_s == step));
        assert!(whole[1..].iter().all(|sample| sample.delivered_per_s == sample.t_s - (step - 1.0) / 2.0));
        assert_eq!(kept.iter().filter_map(|sample| sample.p99_us).max(), Some(900));
    }

    #[test]
    fn an_hour_is_kept_second_by_second() {
        let mut series = Series::new();
        (0..3598).for_each(|second| series.push(sample(second)));
        assert_eq!(series.all().count(), 3598);
        assert!(series.all().enumerate().all(|(at, sample)| sample.t_s == at as f64));
    }
}

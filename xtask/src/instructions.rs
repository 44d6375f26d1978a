//! Instruction counts of the hot path: the one measure of speed that a noisy machine repeats.
//!
//! Each scenario runs twice under valgrind, with different counts; the difference is the work without the set-up.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bench::release_dir;

/// Where the counts to compare with are.
const BASELINE: &str = "docs/benchmarks/instructions.json";
/// Times a scenario runs, first and second.
const TIMES: (u64, u64) = (2000, 6000);
/// Growth that fails, per cent.
const GROWTH_MAX: f64 = 5.0;

/// Counts every scenario and compares with the baseline, or writes it anew.
pub fn run(renew: bool) -> Result<()> {
    let program = release_dir().join("examples/hot_path");
    let counts = count_all(&program, &names(&program)?)?;
    if renew {
        std::fs::write(BASELINE, serde_json::to_string_pretty(&counts)? + "\n")?;
        eprintln!("{BASELINE} is new: commit it with the reason");
        return Ok(());
    }
    let text = std::fs::read_to_string(BASELINE).with_context(|| format!("{BASELINE} cannot be read"))?;
    compare(&counts, &serde_json::from_str(&text)?)
}

/// Counts scenarios, one on each processor: what else runs does not change a count.
fn count_all(program: &Path, names: &[String]) -> Result<BTreeMap<String, f64>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let count = |first| {
        let own = names.iter().skip(first).step_by(threads);
        own.map(|name| Ok((name.clone(), per_time(program, name)?))).collect::<Result<Vec<_>>>()
    };
    let counts = std::thread::scope(|scope| {
        let counting: Vec<_> = (0..threads).map(|first| scope.spawn(move || count(first))).collect();
        let died = |_| bail!("a thread that counts died");
        counting.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect::<Result<Vec<_>>>()
    })?;
    Ok(counts.into_iter().flatten().collect())
}

/// Prints the table; fails when a count has grown too much or has nothing to be compared with.
fn compare(counts: &BTreeMap<String, f64>, baseline: &BTreeMap<String, f64>) -> Result<()> {
    let mut grown = Vec::new();
    eprintln!("{:<32} {:>10} {:>10} {:>8}", "instructions per time", "baseline", "now", "");
    for (name, now) in counts {
        let Some(before) = baseline.get(name) else {
            eprintln!("{name:<32} {:>10} {now:>10.0}", "none");
            grown.push(name.as_str());
            continue;
        };
        let growth = (now / before - 1.0) * 100.0;
        eprintln!("{name:<32} {before:>10.0} {now:>10.0} {growth:>+7.1}%");
        if growth > GROWTH_MAX {
            grown.push(name);
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    bail!(
        "more than {GROWTH_MAX} % above {BASELINE}: {}. When there is a reason: cargo xtask instructions --renew",
        grown.join(", ")
    )
}

fn names(program: &Path) -> Result<Vec<String>> {
    let output =
        Command::new(program).output().with_context(|| format!("{} cannot run", program.display()))?;
    let names: Vec<_> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    if names.is_empty() { bail!("{} names no scenario", program.display()) } else { Ok(names) }
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per_time(program: &Path, name: &str) -> Result<f64> {
    let (first, second) = (count(program, name, TIMES.0)?, count(program, name, TIMES.1)?);
    Ok((second.saturating_sub(first) as f64 / (TIMES.1 - TIMES.0) as f64 * 10.0).round() / 10.0)
}

/// Instructions of a whole run.
fn count(program: &Path, name: &str, times: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([name, &times.to_string()])
        .output()
        .context("valgrind cannot be started: install it (apt-get install valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} under valgrind ended with {}: {said}", output.status);
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected :")).context("no count")?.1;
    Ok(collected.split_whitespace().next().context("no count")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_the_limit_and_unknown_scenarios_fail() {
        let counts = |count: f64| BTreeMap::from([("push".to_owned(), count)]);
        assert!(compare(&counts(104.0), &counts(100.0)).is_ok());
        assert!(compare(&counts(50.0), &counts(100.0)).is_ok());
        assert!(compare(&counts(106.0), &counts(100.0)).unwrap_err().to_string().contains("push"));
        assert!(compare(&counts(1.0), &BTreeMap::new()).is_err());
    }
}

//! `moor-bench run`: scenarios with real servers, a fault, promises kept and broken.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use moor_tests::process::{program, run_within};
use serde_json::Value;

/// Runs the committed scenario of a killed router, small, with another text for one of its promises.
fn run(change: (&str, &str), json: &Path) -> Result<(Option<i32>, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/scenarios/router-killed.toml");
    let text = std::fs::read_to_string(file)?;
    assert!(text.contains(change.0), "{} is in the scenario", change.0);
    let text = text.replace(change.0, change.1).replace("after_ms = 4000", "after_ms = 1500");
    let changed = json.with_extension("toml");
    std::fs::write(&changed, text)?;
    let mut command = std::process::Command::new(program("moor-bench")?);
    command.arg("run").arg(&changed).arg("--json").arg(json);
    command.args(["--set", "sessions=200", "--set", "rate=200", "--set", "seconds=1"]);
    let (code, out, err) = run_within(Duration::from_secs(90), &mut command)?;
    Ok((code, out + &err))
}

#[test]
fn promises_are_kept_over_a_killed_router_and_a_broken_one_is_told() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("kept.json");
    let (code, said) = run(("at_most = 25000", "at_most = 1000000"), &json)?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Kill router") && said.contains("router is started again"), "{said}");
    let result: Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    assert_eq!(result["promises"].as_array().map(Vec::len), Some(3));
    assert_eq!(result["loads"]["bereft"]["lost"], 0);

    let (code, said) = run(("at_most = 25000", "at_most = 0"), &directory.path().join("broken.json"))?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("BROKEN a push arrives within 25 ms in the calm"), "{said}");
    Ok(())
}

//! Every committed input holds, and so does what becomes of it when bytes of it are changed: without the fuzzer and on
//! any toolchain. The engine finds more; this is what every run of the tests can afford.

use std::path::Path;

use fastrand::Rng;

/// Inputs made of each committed one.
const CHANGED: usize = 2000;

/// Most changes of an input.
const CHANGES_MAX: usize = 8;

fn committed(target: &str) -> Vec<Vec<u8>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = std::fs::read_dir(seeds).expect("a directory for each target");
    entries.map(|entry| std::fs::read(entry.expect("readable").path()).expect("readable")).collect()
}

#[test]
fn every_committed_input_holds() {
    for (name, run) in moor_fuzz::TARGETS {
        let inputs = committed(name);
        assert!(!inputs.is_empty(), "{name} starts from nothing");
        for input in inputs {
            println!("{name} {input:x?}");
            run(&input);
        }
    }
}

#[test]
fn what_is_made_of_committed_inputs_holds() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    for (name, run) in moor_fuzz::TARGETS {
        let inputs = committed(name);
        // Each of these costs four handshakes.
        let changed = if name == "tls_records" { CHANGED / 4 } else { CHANGED };
        for input in &inputs {
            for _ in 0..changed {
                let mut input = input.clone();
                for _ in 0..rng.usize(1..=CHANGES_MAX) {
                    change(&mut input, &inputs, &mut rng);
                }
                // The last line is the one that does not hold.
                println!("{name} {input:x?}");
                run(&input);
            }
        }
    }
}

fn change(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    match rng.u8(..6) {
        0 => input.insert(at, rng.u8(..)),
        1 => input.truncate(at),
        2 => {
            let other = &others[rng.usize(..others.len())];
            let from = rng.usize(..=other.len());
            let to = rng.usize(from..=other.len());
            input.splice(at..at, other[from..to].iter().copied());
        }
        _ => {
            let Some(byte) = input.get_mut(at) else { return };
            *byte = if rng.bool() { rng.u8(..) } else { *byte ^ 1 << rng.u8(..8) };
        }
    }
}

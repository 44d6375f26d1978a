//! Records of an established TLS connection: rustls's form of a session and the compact one see the same.
//!
//! Each input has two handshakes of its own, one for each form, whose keys differ: the engine sees a little noise.

use moor_tls::Records;

use crate::input::Input;
use crate::tls::conversation::{SUITES, Step, play};

/// Most steps of a conversation.
const STEPS_MAX: usize = 64;

/// Suite, fragments, cuts, then steps.
///
/// # Panics
/// When the two forms differ, or the client does not understand one of them.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let suite = input.one_of(&SUITES);
    let fragment = input.one_of(&[None, None, Some(64), Some(1000)]);
    // Never byte by byte: what is forged is long.
    let cuts = [100_000, 20 + usize::from(input.byte()), 20 + usize::from(input.short())];
    let cuts = input.one_of(&cuts);
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < STEPS_MAX {
        steps.push(step(&mut input));
    }
    let rustls = play(Records::Rustls, suite, fragment, cuts, &steps);
    let compact = play(Records::Compact, suite, fragment, cuts, &steps);
    assert_eq!(rustls, compact);
}

fn step(input: &mut Input<'_>) -> Step {
    match input.choice(10) {
        0 => Step::Say(usize::from(input.byte())),
        1 => Step::Say(usize::from(input.short())),
        2 => Step::UpdateKeys,
        3 => Step::Hear(1 + usize::from(input.byte())),
        4 => Step::Hear(1 + usize::from(input.short())),
        5 => Step::Close,
        6 => Step::Corrupt(usize::from(input.short())),
        7 => Step::Forge(input.piece().to_vec()),
        8 => Step::Repeat,
        _ => Step::UpdateAndSay(usize::from(input.byte())),
    }
}

pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    // All of a step's bytes in one piece, no fragments.
    let with = |suite, steps: &[u8]| [&[suite, 0, 0, 0, 0, 0], steps].concat();
    vec![
        with(0, &[0, 5, 3, 9, 5]),
        with(1, &[2, 0, 5, 3, 9, 2, 2, 0, 1]),
        with(2, &[1, 80, 0, 4, 80, 0, 8]),
        with(0, &[0, 5, 6, 0, 7]),
        with(2, &[9, 5, 9, 200, 9, 0]),
        with(1, &[7, 6, 23, 3, 3, 0, 1, 0]),
    ]
}

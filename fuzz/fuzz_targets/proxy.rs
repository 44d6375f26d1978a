//! Runs `moor_fuzz::proxy` on whatever the engine comes up with.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| moor_fuzz::proxy::run(bytes));

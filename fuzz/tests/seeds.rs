//! Every committed input holds, without the fuzzer and on any toolchain: what it started from, and what it once found.

use std::path::Path;

#[test]
fn every_committed_input_holds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, run) in moor_fuzz::TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(seeds.join(name)).expect("a directory for each target") {
            let path = entry.expect("readable").path();
            println!("{}", path.display());
            run(&std::fs::read(&path).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "{name} starts from nothing");
    }
}

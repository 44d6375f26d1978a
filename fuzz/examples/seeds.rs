//! Writes the first inputs of every target into `seeds/`, where what the fuzzer is to start from lies.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (target, inputs) in moor_fuzz::first_inputs() {
        let directory = seeds.join(target);
        std::fs::create_dir_all(&directory)?;
        for (number, input) in inputs.iter().enumerate() {
            std::fs::write(directory.join(format!("{number:02}")), input)?;
        }
        println!("{target}: {} inputs, {} bytes", inputs.len(), inputs.iter().map(Vec::len).sum::<usize>());
    }
    Ok(())
}

//! `moor-bench report`: result files in, one HTML page and one Markdown file out.
//!
//! Whatever a file contains is text on the page, never markup; every figure of every file is in a table.

mod bars;
mod chart;
mod html;
mod markdown;
mod plots;
mod read;
mod summary;
#[cfg(test)]
mod tests;
mod units;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;

use self::read::{Document, Outcome, System};
use self::summary::Group;

/// What a reader should know of every figure.
const HOW_TO_READ: [&str; 3] = [
    "Rates are open loop: a latency counts from the moment a message should have been sent, so a server or a harness that stalls does not hide what had to wait.",
    "Beside a tail stands the machine's own jitter: how late a thread that sleeps for a millisecond woke up during the measured time. A tail of that size is not the server's.",
    "Memory and CPU are the server's; user and kernel are apart. Wire bytes are the payload of the clients' sockets, logins included.",
];

/// Arguments of `report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArguments {
    /// What `--json` of the other subcommands wrote. Runs of the same subcommand are drawn together.
    #[arg(required = true, value_name = "RESULT.json", num_args = 1..=64)]
    pub results: Vec<PathBuf>,
    /// Write one self-contained page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write Markdown; without either it is printed.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// What the files contain.
#[derive(Debug, Default)]
pub struct Content {
    /// Runs, in the order of the files.
    runs: Vec<Outcome>,
    /// Comparisons, by name.
    compared: Vec<(String, Vec<System>)>,
}

impl Content {
    /// Reads all files; one that is no result refuses them all.
    fn read(paths: &[PathBuf]) -> Result<Self, String> {
        let mut content = Self::default();
        let mut names = HashSet::new();
        for path in paths {
            let mut unique = |name: &str| {
                let numbered = (2..).map(|number| format!("{name} ({number})"));
                let mut names_to_try = [name.to_owned()].into_iter().chain(numbered);
                names_to_try.find(|name| names.insert(name.clone())).unwrap_or_default()
            };
            match read::read(path)? {
                Document::Run(mut run) => {
                    run.name = unique(&run.name);
                    content.runs.push(*run);
                }
                Document::Compare { name, systems } => content.compared.push((unique(&name), systems)),
            }
        }
        Ok(content)
    }

    /// Where it comes from, in a sentence.
    fn sources(&self) -> String {
        let runs = self.runs.iter().map(|run| run.name.as_str());
        let names: Vec<&str> = runs.chain(self.compared.iter().map(|(name, _)| name.as_str())).collect();
        let word = if names.len() == 1 { "result" } else { "results" };
        format!("{} {word}: {}", names.len(), names.join(", "))
    }
}

/// Reads, draws, writes.
pub fn report(arguments: &ReportArguments) -> Result<(), String> {
    let content = Content::read(&arguments.results)?;
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|error| format!("cannot write {} ({error})", path.display()))
    };
    if let Some(path) = &arguments.html {
        write(path, html::page(&content))?;
    }
    if let Some(path) = &arguments.markdown {
        write(path, markdown::document(&content))?;
    }
    if arguments.html.is_none() && arguments.markdown.is_none() {
        print!("{}", markdown::document(&content));
    }
    Ok(())
}

/// What a group's part of the report is called.
fn heading(group: &Group<'_>) -> String {
    match (group.subcommand, group.runs.len()) {
        ("", 1) => group.runs[0].name.clone(),
        ("", _) => "Other figures".to_owned(),
        (subcommand, 1) => subcommand.to_owned(),
        (subcommand, runs) => format!("{subcommand}, {runs} runs"),
    }
}

/// Every key of any of the systems compared, in the order in which they come.
fn keys(systems: &[System]) -> Vec<&str> {
    let mut seen = HashSet::new();
    let all = systems.iter().flat_map(|system| system.figures.iter().map(|(key, _)| key.as_str()));
    all.filter(|key| seen.insert(*key)).collect()
}

/// A system's figure with its unit; nothing where it has none.
fn cell_of(system: &System, key: &str) -> String {
    let found = system.figures.iter().find(|(name, _)| name == key);
    found.map(|(_, value)| summary::cell(key, value)).unwrap_or_default()
}

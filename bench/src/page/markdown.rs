//! The same as Markdown: tables, and percentile plots of letters, which show everywhere.

use std::fmt::Write;

use super::plots;
use super::summary::{self, Group, Row};
use super::units::Unit;
use super::{Content, HOW_TO_READ, heading};

/// Longest bar of a plot, characters.
const BAR_CHARACTERS: f64 = 40.0;

/// The whole document.
pub fn document(content: &Content) -> String {
    let mut out = format!("# moor-bench report\n\n{}\n", escaped(&content.sources()));
    for group in summary::groups(&content.runs) {
        section(&mut out, &group);
    }
    for (name, systems) in &content.compared {
        out += &format!("\n## compare: {}\n", escaped(name));
        let rows: Vec<Row> = super::keys(systems)
            .into_iter()
            .map(|key| Row {
                cells: systems.iter().map(|system| super::cell_of(system, key)).collect(),
                key: key.to_owned(),
                spread: String::new(),
            })
            .collect();
        let names: Vec<&str> = systems.iter().map(|system| system.name.as_str()).collect();
        table(&mut out, &names, &rows);
        for bars in plots::compared(systems) {
            let lines: Vec<_> =
                bars.bars.iter().map(|bar| (bar.label.clone(), bar.parts[0], bar.parts[0])).collect();
            plot(&mut out, &bars.title, bars.unit, &lines);
        }
    }
    out += "\n---\n";
    for line in HOW_TO_READ {
        out += &format!("\n{line}\n");
    }
    out
}

fn section(out: &mut String, group: &Group<'_>) {
    *out += &format!("\n## {}\n\n{}\n", escaped(&heading(group)), summary::meaning(group.subcommand));
    let names: Vec<&str> = group.runs.iter().map(|run| run.name.as_str()).collect();
    for run in &group.runs {
        if let Some((words, _)) = summary::verdict(run) {
            *out += &format!("\n- {}: **{words}**", escaped(&run.name));
            for text in &run.shortcomings {
                *out += &format!("; {}", escaped(text));
            }
        }
    }
    *out += "\n";
    for curve in summary::curve_names(group) {
        *out += &format!("\n### Percentiles: {}\n", escaped(curve));
        table(out, &names, &summary::percentiles(group, curve));
        for run in &group.runs {
            let Some(points) = run.percentiles.get(curve) else { continue };
            let wanted = [0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.999_99, 1.0];
            let line = |quantile: f64| {
                let us = points.iter().find(|point| point.0 >= quantile)?.1;
                let label = if quantile >= 1.0 { "max".to_owned() } else { super::chart::percent(quantile) };
                // As long as the logarithm, so that the middle can be seen beside the tail.
                Some((label, us, (us.max(1.0)).log10()))
            };
            let title = format!("{}, logarithmic", run.name);
            plot(out, &title, Unit::Time, &wanted.into_iter().filter_map(line).collect::<Vec<_>>());
        }
    }
    *out += "\n### All figures\n";
    table(out, &names, &summary::figures(group));
    over_time(out, group);
    *out += "\n### Where and how\n";
    for run in &group.runs {
        if let Some(command) = &run.command {
            *out += &fenced(&format!("moor-bench {command}"));
        }
    }
    table(out, &names, &summary::place(group));
    let sysctls = summary::sysctls(group);
    if !sysctls.is_empty() {
        *out += "\nKernel settings:\n";
        table(out, &names, &sysctls);
    }
}

/// How each curve over time began, what it was at most, and how it ended.
fn over_time(out: &mut String, group: &Group<'_>) {
    let mut rows = Vec::new();
    for chart in plots::over_time(group) {
        for line in chart.lines.iter().filter(|line| !line.points.is_empty()) {
            let values = || line.points.iter().map(|point| point.1);
            let text = |value: Option<f64>| value.map(|value| chart.unit.text(value)).unwrap_or_default();
            let cells = vec![
                line.label.clone(),
                text(values().next()),
                text(values().reduce(f64::min)),
                text(values().reduce(f64::max)),
                text(values().next_back()),
            ];
            rows.push(Row { key: chart.title.clone(), cells, spread: String::new() });
        }
    }
    if !rows.is_empty() {
        *out += "\n### Over time\n";
        table(out, &["run", "first", "least", "most", "last"], &rows);
    }
}

fn table(out: &mut String, columns: &[&str], rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let spread = rows.iter().any(|row| !row.spread.is_empty());
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        *out += &format!("\n| {} |", cells.collect::<Vec<_>>().join(" | "));
    };
    let last = spread.then(|| "median (least to most)".to_owned());
    line(&mut [String::new()].into_iter().chain(columns.iter().map(|name| escaped(name))).chain(last));
    let numbers = columns.len() + usize::from(spread);
    line(&mut ["---".to_owned()].into_iter().chain(std::iter::repeat_n("---:".to_owned(), numbers)));
    for row in rows {
        let last = spread.then(|| escaped(&row.spread));
        let cells = row.cells.iter().map(|cell| escaped(cell));
        line(&mut [escaped(&row.key)].into_iter().chain(cells).chain(last));
    }
    *out += "\n";
}

/// Bars of letters: label, what is written, how long.
fn plot(out: &mut String, title: &str, unit: Unit, lines: &[(String, f64, f64)]) {
    let most = lines.iter().fold(0.0, |most: f64, line| most.max(line.2));
    let width = lines.iter().map(|line| line.0.chars().count()).max().unwrap_or(0);
    let mut text = format!("{title}\n");
    for (label, value, length) in lines {
        let part = if most > 0.0 { (length / most * BAR_CHARACTERS).clamp(0.0, BAR_CHARACTERS) } else { 0.0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 40")]
        let bar = "█".repeat(part.round() as usize);
        // Writing to a text cannot fail.
        writeln!(text, "{label:>width$} {bar} {}", unit.text(*value)).unwrap_or_default();
    }
    *out += &fenced(&text);
}

/// A block of code that nothing in the text can end.
fn fenced(text: &str) -> String {
    let longest = text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("\n{fence}text\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

/// Text that Markdown shows as it is, in one line: neither markup, nor HTML, nor the end of a cell.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' | '$' => {
                out.push('\\');
                out.push(letter);
            }
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_becomes_markup() {
        assert_eq!(
            escaped("a|b\n<img src=x> `c` [d](e) **f**"),
            "a\\|b &lt;img src=x&gt; \\`c\\` \\[d\\](e) \\*\\*f\\*\\*"
        );
        let block = fenced("x\n````\n# y");
        assert!(block.starts_with("\n`````text\n") && block.ends_with("\n`````\n"), "{block}");
    }
}

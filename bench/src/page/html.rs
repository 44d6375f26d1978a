//! The page: one file that needs nothing else. `maud` escapes whatever comes from a result.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plots;
use super::read::System;
use super::summary::{self, Group, Row};
use super::{Content, HOW_TO_READ, heading};

/// The style sheet, a constant of the program.
const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(content: &Content) -> String {
    let groups = summary::groups(&content.runs);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Nothing is fetched and nothing runs, whatever a result contains.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "moor-bench report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "moor-bench report" }
                p.soft { (content.sources()) }
                @for group in &groups { (section(group)) }
                @for (name, systems) in &content.compared { (comparison(name, systems)) }
                footer { @for line in HOW_TO_READ { p { (line) } } }
            }
        }
    }
    .into_string()
}

fn section(group: &Group<'_>) -> Markup {
    let time = plots::over_time(group);
    let percentiles = plots::percentiles(group);
    let bars = plots::bars(group);
    html! {
        section {
            h2 { (heading(group)) }
            p.soft { (summary::meaning(group.subcommand)) }
            (verdicts(group))
            @if let [run] = group.runs.as_slice() {
                dl.tiles { @for (label, value) in summary::headlines(run) { div { dt { (label) } dd { (value) } } } }
            }
            @if !(percentiles.is_empty() && bars.is_empty()) {
                div.charts {
                    @for chart in percentiles.iter().filter(|chart| !chart.is_empty()) { (chart.render()) }
                    @for chart in &bars { (chart.render()) }
                }
            }
            @if !time.is_empty() {
                h3 { "Over time" }
                div.charts { @for chart in &time { (chart.render()) } }
            }
            @for name in summary::curve_names(group) {
                h3 { "Percentiles: " (name) }
                (table(group, &summary::percentiles(group, name), false))
            }
            @let figures = summary::figures(group);
            @if !figures.is_empty() {
                h3 { "All figures" }
                (table(group, &figures, false))
            }
            (place(group))
        }
    }
}

fn verdicts(group: &Group<'_>) -> Markup {
    html! {
        ul.verdicts {
            @for run in &group.runs {
                @if let Some((words, good)) = summary::verdict(run) {
                    li {
                        b { (run.name) } ": " b class=(if good { "good" } else { "bad" }) { (words) }
                        @for text in &run.shortcomings { " · " (text) }
                    }
                }
            }
        }
    }
}

fn place(group: &Group<'_>) -> Markup {
    let (place, sysctls) = (summary::place(group), summary::sysctls(group));
    html! {
        h3 { "Where and how" }
        @for run in &group.runs {
            @if let Some(command) = &run.command { pre { "moor-bench " (command) } }
        }
        @if !place.is_empty() { (table(group, &place, true)) }
        @if !sysctls.is_empty() {
            details { summary { "Kernel settings" } (table(group, &sysctls, true)) }
        }
    }
}

/// A column for each run; what is the same in all of them is said once when they are texts.
fn table(group: &Group<'_>, rows: &[Row], texts: bool) -> Markup {
    let several = group.runs.len() > 1;
    let spread = rows.iter().any(|row| !row.spread.is_empty());
    html! {
        div.scroll { table class=(if texts { "texts" } else { "numbers" }) {
            @if several {
                thead { tr {
                    th {}
                    @for run in &group.runs { th { (run.name) } }
                    @if spread { th { "median (least to most)" } }
                } }
            }
            tbody { @for row in rows { tr {
                th scope="row" { (row.key) }
                @if texts && several && row.is_same() {
                    td colspan=(row.cells.len()) { (row.cells[0]) }
                } @else {
                    @for cell in &row.cells { td { (cell) } }
                }
                @if spread { td { (row.spread) } }
            } } }
        } }
    }
}

fn comparison(name: &str, systems: &[System]) -> Markup {
    let keys = super::keys(systems);
    html! {
        section {
            h2 { "compare: " (name) }
            p.soft { "The same work on several systems, on one machine in one run." }
            div.charts { @for chart in plots::compared(systems) { (chart.render()) } }
            h3 { "All figures" }
            div.scroll { table {
                thead { tr { th {} @for system in systems { th { (system.name) } } } }
                tbody { @for key in &keys { tr {
                    th scope="row" { (key) }
                    @for system in systems { td { (super::cell_of(system, key)) } }
                } } }
            } }
        }
    }
}

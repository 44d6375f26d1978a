//! Charts as inline SVG: lines over time, percentile curves, bars.
//!
//! Drawn here and not by a library: `plotters` writes colours and pixel sizes into every element, so that a page
//! could follow neither a dark screen nor a narrow one. These have classes, which the page's style sheet colours.

use maud::{Markup, html};

use super::units::Unit;

/// Size of a drawing in its own units, small enough that its text is readable on a phone.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 264.0;
/// Room for the axes' words.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 30.0;
/// From the last nine of a percentile axis to the maximum, in nines: room for both words.
const MAX_STEP: f64 = 0.8;
/// Points of a line beyond which only the extremes of each column are drawn.
const POINTS_MAX: usize = 800;
/// From this ratio between the largest and the least value on, an axis is logarithmic.
const LOG_RATIO: f64 = 25.0;
/// Colours of the style sheet; more series than that begin again, dashed.
const COLOURS: usize = 8;

/// What the horizontal axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// Seconds since the start of a run.
    Time,
    /// A quantile, drawn by the logarithm of 1 / (1 - quantile); the last step is the maximum.
    Quantile,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// In the units of the axes, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Lines with their axes.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What is to be seen.
    pub title: String,
    /// A sentence below the title.
    pub note: String,
    /// The horizontal axis.
    pub across: Across,
    /// What the vertical axis counts.
    pub unit: Unit,
    /// What is drawn: one for each run, so that a run has the same colour in every chart; empty where it has none.
    pub lines: Vec<Line>,
    /// Parts of the time: where each begins, and its name.
    pub phases: Vec<(f64, String)>,
}

/// From values to the drawing.
struct Scale {
    from: f64,
    to: f64,
    log: bool,
    start: f64,
    length: f64,
}

impl Scale {
    /// A vertical scale that shows all of these.
    fn vertical(values: impl Iterator<Item = f64> + Clone) -> Self {
        let most = values.clone().fold(0.0, f64::max);
        let least = values.clone().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let any_below = values.fold(0.0, f64::min);
        let log = any_below == 0.0 && least.is_finite() && most / least >= LOG_RATIO;
        let (from, to) = if log {
            (10_f64.powf(least.log10().floor()), step_above(most))
        } else {
            let step = step_near((most - any_below) / 4.0);
            ((any_below / step).floor() * step, (most / step).ceil().max(1.0) * step)
        };
        Self { from, to, log, start: HEIGHT - BOTTOM, length: -(HEIGHT - BOTTOM - TOP) }
    }

    const fn horizontal(to: f64) -> Self {
        Self { from: 0.0, to, log: false, start: LEFT, length: WIDTH - LEFT - RIGHT }
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + part * self.length
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.log {
            let step = step_near((self.to - self.from) / 4.0);
            // Multiples of the step, so that zero is among them however far below it the scale begins.
            let first = (self.from / step - 0.001).ceil();
            let ticks = (0..16).map(|at| (first + f64::from(at)) * step);
            return ticks.take_while(|tick| *tick <= self.to + step * 0.001).collect();
        }
        let decades = (self.to / self.from).log10();
        let between: &[f64] = if decades <= 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut ticks = Vec::new();
        let mut decade = self.from;
        while decade <= self.to {
            ticks.extend(between.iter().map(|part| decade * part).filter(|tick| *tick <= self.to * 1.001));
            decade *= 10.0;
        }
        ticks
    }
}

/// 1, 2 or 5 times a power of ten, near a positive value.
fn step_near(value: f64) -> f64 {
    let value = if value > 0.0 { value } else { 0.25 };
    let decade = 10_f64.powf(value.log10().floor());
    let part = value / decade;
    decade
        * if part < 1.5 {
            1.0
        } else if part < 3.5 {
            2.0
        } else if part < 7.5 {
            5.0
        } else {
            10.0
        }
}

/// The next of 1, 2, 5, 10 … from a positive value on.
fn step_above(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|part| decade * part).find(|step| *step >= value).unwrap_or(value)
}

/// Ticks of a time axis: round seconds, minutes or hours.
fn time_ticks(seconds: f64) -> Vec<f64> {
    const STEPS: [f64; 18] = [
        0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0,
        14_400.0, 28_800.0,
    ];
    let step =
        STEPS.iter().copied().find(|step| seconds / step <= 6.0).unwrap_or_else(|| step_near(seconds / 5.0));
    (0..=6).map(|at| f64::from(at) * step).take_while(|tick| *tick <= seconds).collect()
}

/// How far right a quantile stands: 0.9 at 1, 0.99 at 2, …
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-12).log10()
}

/// Where the curves stop rising: what lies beyond is the maximum alone. At least 99 %.
fn last_nine(lines: &[Line]) -> f64 {
    let flat_from = |line: &Line| {
        let most = line.points.last()?.1;
        line.points.iter().find(|point| point.1 >= most).map(|point| nines(point.0))
    };
    lines
        .iter()
        .filter_map(flat_from)
        .fold(0.0, |last: f64, nine| last.max((nine - 0.01).ceil()))
        .clamp(2.0, 6.0)
}

/// A line's way through the drawing.
fn path(points: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
    let mut out = String::new();
    let columns = points.len().div_ceil((POINTS_MAX / 2).max(1)).max(1);
    let columns = if points.len() > POINTS_MAX { columns } else { 1 };
    for chunk in points.chunks(columns) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends = [chunk.iter().min_by(by_value), chunk.iter().max_by(by_value)];
        let mut ends: Vec<_> = ends.into_iter().flatten().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        for (across, up) in ends {
            let word = if out.is_empty() { 'M' } else { 'L' };
            out += &format!("{word}{:.1} {:.1}", x.at(*across), y.at(*up));
        }
    }
    out
}

/// Class of the series at a position.
pub fn class(at: usize) -> String {
    format!("s{}{}", at % COLOURS, if at >= COLOURS { " dashed" } else { "" })
}

/// Names of series with their colours; nothing where there is but one series at all.
pub fn legend<'a>(labels: impl ExactSizeIterator<Item = Option<&'a str>>) -> Markup {
    html! {
        @if labels.len() > 1 {
            ul.legend { @for (at, label) in labels.enumerate() {
                @if let Some(label) = label { li { i class=(class(at)) {} (label) } }
            } }
        }
    }
}

impl Lines {
    /// Nothing to be seen.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.len() < 2)
    }

    /// The figure.
    pub fn render(&self) -> Markup {
        let quantiles = self.across == Across::Quantile;
        let end = if quantiles {
            last_nine(&self.lines) + MAX_STEP
        } else {
            self.lines
                .iter()
                .filter_map(|line| line.points.last())
                .fold(0.0, |end: f64, point| end.max(point.0))
        };
        let x = Scale::horizontal(if end > 0.0 { end } else { 1.0 });
        let y = Scale::vertical(self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
        html! {
            figure {
                figcaption { strong { (self.title) } @if !self.note.is_empty() { span { (self.note) } } }
                (legend(self.lines.iter().map(|line| (!line.points.is_empty()).then_some(line.label.as_str()))))
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                    (self.bands(&x, end))
                    @for tick in y.ticks() {
                        @let at = format!("{:.1}", y.at(tick));
                        line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at) y2=(at) {}
                        text.tick x=(LEFT - 7.0) y=(at) dy="0.34em" text-anchor="end" { (if y.log { self.unit.text(tick) } else { self.unit.tick(tick, y.to) }) }
                    }
                    @if quantiles { (quantile_axis(&x, end)) } @else { (time_axis(&x, end)) }
                    @for (index, line) in self.lines.iter().enumerate() {
                        (self.line(index, line, &x, &y, end))
                    }
                }
            }
        }
    }

    fn line(&self, index: usize, line: &Line, x: &Scale, y: &Scale, end: f64) -> Markup {
        let quantiles = self.across == Across::Quantile;
        let placed: Vec<(f64, f64)> = if quantiles {
            let inner =
                line.points.iter().filter(|point| point.0 < 1.0).map(|point| (nines(point.0), point.1));
            let most = line.points.last().filter(|point| point.0 >= 1.0).map(|point| (end, point.1));
            inner.filter(|point| point.0 <= end - MAX_STEP + 0.01).chain(most).collect()
        } else {
            line.points.clone()
        };
        let dots = quantiles || placed.len() <= 60;
        html! {
            path class=(format!("line {}", class(index))) d=(path(&placed, x, y)) {}
            @if dots { @for point in &placed {
                circle class=(class(index)) cx=(format!("{:.1}", x.at(point.0))) cy=(format!("{:.1}", y.at(point.1))) r="2.2" {
                    title { (line.label) " " (self.place(point.0, end)) ": " (self.unit.text(point.1)) }
                }
            } }
        }
    }

    /// A position on the horizontal axis in words.
    fn place(&self, across: f64, end: f64) -> String {
        match self.across {
            Across::Time => Unit::Elapsed.text(across),
            Across::Quantile if across >= end => "max".to_owned(),
            Across::Quantile => percent(1.0 - 10_f64.powf(-across)),
        }
    }

    /// Phases as stripes, with names where there is room.
    fn bands(&self, x: &Scale, end: f64) -> Markup {
        html! {
            @for (at, (from, name)) in self.phases.iter().enumerate() {
                @let to = self.phases.get(at + 1).map_or(end, |next| next.0);
                @let (left, right) = (x.at(from.min(end)), x.at(to.min(end)));
                @if at % 2 == 1 {
                    rect.band x=(format!("{left:.1}")) y=(TOP) width=(format!("{:.1}", right - left)) height=(HEIGHT - TOP - BOTTOM) {}
                }
                @if right - left > 7.0 * f64::from(u16::try_from(name.chars().count()).unwrap_or(u16::MAX)) + 6.0 {
                    text.phase x=(format!("{:.1}", f64::midpoint(left, right))) y=(TOP - 3.0) text-anchor="middle" { (name) }
                }
            }
        }
    }
}

fn time_axis(x: &Scale, end: f64) -> Markup {
    html! {
        @for tick in time_ticks(end) {
            @let at = format!("{:.1}", x.at(tick));
            line.notch x1=(at) x2=(at) y1=(HEIGHT - BOTTOM) y2=(HEIGHT - BOTTOM + 4.0) {}
            text.tick x=(at) y=(HEIGHT - BOTTOM + 17.0) text-anchor="middle" { (Unit::Elapsed.text(tick)) }
        }
        line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(HEIGHT - BOTTOM) y2=(HEIGHT - BOTTOM) {}
    }
}

fn quantile_axis(x: &Scale, end: f64) -> Markup {
    let marks = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999_99, 0.999_999];
    // The step to the maximum is no part of the logarithmic axis.
    let inner =
        marks.into_iter().map(|q| (nines(q), percent(q))).filter(|(at, _)| *at <= end - MAX_STEP + 0.01);
    html! {
        @for (place, word) in inner.chain([(end, "max".to_owned())]) {
            @let at = format!("{:.1}", x.at(place));
            line.grid x1=(at) x2=(at) y1=(TOP) y2=(HEIGHT - BOTTOM + 4.0) {}
            // Half the messages are close to none of them on this axis.
            @if word != "0%" || end < 4.0 {
                text.tick x=(at) y=(HEIGHT - BOTTOM + 17.0) text-anchor="middle" { (word) }
            }
        }
        line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(HEIGHT - BOTTOM) y2=(HEIGHT - BOTTOM) {}
    }
}

/// A quantile as people say it: 99.9%.
pub fn percent(quantile: f64) -> String {
    let text = format!("{:.5}", quantile * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_numbers_and_zero_and_shows_everything() {
        for (values, log, ticks) in [
            (vec![0.0, 2000.0], false, vec![0.0, 500.0, 1000.0, 1500.0, 2000.0]),
            (vec![-500.0, 11_800.0], false, vec![0.0, 5000.0, 10_000.0]),
            (vec![30.0, 5400.0], true, vec![10.0, 100.0, 1000.0, 10_000.0]),
        ] {
            let scale = Scale::vertical(values.iter().copied());
            assert_eq!((scale.log, scale.ticks()), (log, ticks), "{values:?}");
            for value in values.iter().filter(|value| !log || **value > 0.0) {
                assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&scale.at(*value)), "{value}");
            }
        }
    }

    #[test]
    fn a_percentile_axis_ends_where_the_curve_does() {
        let line = |points: &[(f64, f64)]| [Line { label: String::new(), points: points.to_vec() }];
        assert_eq!(last_nine(&line(&[(0.5, 1.0), (0.999_99, 9.0), (0.999_999, 9.0), (1.0, 9.0)])), 5.0);
        assert_eq!(last_nine(&line(&[(0.5, 1.0), (1.0, 1.0)])), 2.0);
        assert_eq!(
            (percent(0.999), percent(0.5), percent(0.999_999)),
            ("99.9%".into(), "50%".into(), "99.9999%".into())
        );
    }
}

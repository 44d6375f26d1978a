//! Horizontal bars as inline SVG: figures of several runs or systems side by side.

use maud::{Markup, html};

use super::chart::{class, legend};
use super::units::Unit;

/// Size of the drawing in its own units.
const WIDTH: f64 = 480.0;
const ROW: f64 = 40.0;
/// Where bars begin, and room for the number behind the longest.
const LEFT: f64 = 2.0;
const RIGHT: f64 = 96.0;
/// Most characters of a name above its bar.
const NAME_CHARACTERS_MAX: usize = 56;

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// Its parts, in the order of the chart's.
    pub parts: Vec<f64>,
    /// Least and most of several rounds.
    pub spread: Option<(f64, f64)>,
}

/// Bars of one figure.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What is to be seen.
    pub title: String,
    /// A sentence below the title.
    pub note: String,
    /// What they count.
    pub unit: Unit,
    /// Names of a bar's parts; none when it has one.
    pub parts: Vec<&'static str>,
    /// What is drawn.
    pub bars: Vec<Bar>,
    /// A line at this value.
    pub mark: Option<f64>,
}

impl Bars {
    /// The figure.
    pub fn render(&self) -> Markup {
        let ends = self.bars.iter().map(|bar| {
            let sum: f64 = bar.parts.iter().map(|part| part.max(0.0)).sum();
            bar.spread.map_or(sum, |(_, most)| sum.max(most))
        });
        let most = ends.chain(self.mark).fold(0.0, f64::max);
        let scale = if most > 0.0 { (WIDTH - LEFT - RIGHT) / most } else { 0.0 };
        let height = ROW * self.bars.iter().map(|_| 1.0).sum::<f64>() + 4.0;
        html! {
            figure {
                figcaption { strong { (self.title) } @if !self.note.is_empty() { span { (self.note) } } }
                (legend(self.parts.iter().map(|part| Some(*part))))
                svg.bars viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(self.title) {
                    @if let Some(mark) = self.mark {
                        @let at = format!("{:.1}", LEFT + mark * scale);
                        line.mark x1=(at) x2=(at) y1="0" y2=(height) {}
                    }
                    @for (row, bar) in self.bars.iter().enumerate() {
                        (self.bar(bar, ROW * f64::from(u16::try_from(row).unwrap_or(u16::MAX)), scale))
                    }
                }
            }
        }
    }

    fn bar(&self, bar: &Bar, top: f64, scale: f64) -> Markup {
        let name: String = bar.label.chars().take(NAME_CHARACTERS_MAX).collect();
        let whole: f64 = bar.parts.iter().sum();
        let mut left = LEFT;
        let middle = top + 27.0;
        let mut pieces = Vec::new();
        for part in &bar.parts {
            let width = part.max(0.0) * scale;
            pieces.push((left, width.max(1.0)));
            left += width;
        }
        let end = bar.spread.map_or(left, |(_, most)| left.max(LEFT + most * scale));
        html! {
            text.name x=(LEFT) y=(top + 14.0) { title { (bar.label) } (name) }
            @for (at, (left, width)) in pieces.iter().enumerate() {
                rect class=(class(at)) x=(format!("{left:.1}")) width=(format!("{width:.1}")) y=(middle - 7.0) height="14" rx="2" {
                    title { (bar.label) " " (self.parts.get(at).copied().unwrap_or_default()) ": " (self.unit.text(bar.parts[at])) }
                }
            }
            @if let Some((least, most)) = bar.spread {
                @let (from, to) = (format!("{:.1}", LEFT + least * scale), format!("{:.1}", LEFT + most * scale));
                path.whisker d=(format!("M{from} {middle}H{to}M{from} {}v8M{to} {}v8", middle - 4.0, middle - 4.0)) {}
            }
            text.value x=(format!("{:.1}", end + 6.0)) y=(middle) dy="0.34em" { (self.unit.text(whole)) }
        }
    }
}

//! Numbers for people: the unit follows from a figure's name, the digits from its size.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Time,
    /// Bytes.
    Bytes,
    /// Something per second.
    Rate,
    /// Seconds since the start of a run.
    Elapsed,
    /// A count or a ratio.
    Plain,
}

impl Unit {
    /// Of a figure: names end in their unit, and a part of a figure (`jitter_us.p99`) has the whole's. Returns the
    /// factor to the unit as well.
    pub fn of(key: &str) -> (Self, f64) {
        if key == "p99" || key == "p999" {
            return (Self::Time, 1.0);
        }
        for part in key.split('.') {
            let unit = if part.ends_with("_us") || part.contains("_us_per_") {
                (Self::Time, 1.0)
            } else if part.ends_with("_ms") {
                (Self::Time, 1e3)
            } else if part.ends_with("per_s") || part.ends_with("per_cpu_s") {
                (Self::Rate, 1.0)
            } else if part.ends_with("_s") || part == "seconds" || part.ends_with("_seconds") {
                (Self::Time, 1e6)
            } else if part.split('_').any(|word| word == "bytes") {
                (Self::Bytes, 1.0)
            } else {
                continue;
            };
            return unit;
        }
        (Self::Plain, 1.0)
    }

    /// A number with its unit.
    pub fn text(self, value: f64) -> String {
        let size = value.abs();
        match self {
            Self::Time if size < 1e3 => format!("{} µs", digits(value)),
            Self::Time if size < 1e6 => format!("{} ms", digits(value / 1e3)),
            Self::Time => format!("{} s", digits(value / 1e6)),
            Self::Bytes if size < 1e4 => format!("{} B", digits(value)),
            Self::Bytes if size < 1e6 => format!("{} kB", digits(value / 1e3)),
            Self::Bytes if size < 1e9 => format!("{} MB", digits(value / 1e6)),
            Self::Bytes => format!("{} GB", digits(value / 1e9)),
            Self::Rate => format!("{}/s", digits(value)),
            Self::Elapsed if size < 120.0 => format!("{} s", digits(value)),
            Self::Elapsed if size < 7200.0 => format!("{} min", digits(value / 60.0)),
            Self::Elapsed => format!("{} h", digits(value / 3600.0)),
            Self::Plain => digits(value),
        }
    }
}

impl Unit {
    /// A number on a linear axis that ends at `top`: bytes all in the same unit.
    pub fn tick(self, value: f64, top: f64) -> String {
        if self == Self::Bytes && top > 1e4 && value.abs() < 1e4 && top < 1e6 {
            return format!("{} kB", digits(value / 1e3));
        }
        self.text(value)
    }
}

/// A figure with the unit its name says.
pub fn figure(key: &str, value: f64) -> String {
    let (unit, factor) = Unit::of(key);
    unit.text(value * factor)
}

/// At least three digits that count, thousands apart, no zeros behind the point.
fn digits(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        size if size >= 100.0 || size.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{size:.decimals$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let rest = rest.trim_end_matches('0');
    let mut out = String::new();
    if value < 0.0 && text.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
        out.push('−');
    }
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if !rest.is_empty() {
        out.push('.');
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figures_name_is_its_unit() {
        for (key, value, text) in [
            ("latency_p99_us", 507.0, "507 µs"),
            ("latency_p999_us", 3053.0, "3.05 ms"),
            ("login_p50_us", 1_625_087.0, "1.63 s"),
            ("gateway_cpu_us_per_delivery", 16.042, "16 µs"),
            ("jitter_us.p99", 1100.0, "1.1 ms"),
            ("p999", 12.0, "12 µs"),
            ("idle_ms", 5.0, "5 ms"),
            ("recovery_s", 2.5, "2.5 s"),
            ("connect_per_s", 33_792.9, "33,793/s"),
            ("deliveries_per_cpu_s", 60_000.0, "60,000/s"),
            ("gateway_user_bytes_per_session", 345.9, "346 B"),
            ("wire_bytes_received", 12_345_678.0, "12.3 MB"),
            ("sessions", 2_000_000.0, "2,000,000"),
            ("push_vs_floor.median", 0.944, "0.944"),
            ("kernel_bytes_per_session", -20.5, "−20.5 B"),
            ("lost", -0.0, "0"),
        ] {
            assert_eq!(figure(key, value), text, "{key}");
        }
        assert_eq!(Unit::Elapsed.text(600.0), "10 min");
    }
}

//! What the servers would not take of what clients offered, by the code they gave. A quota that holds is no error of a
//! load's: it is counted, and what was refused need not arrive.

use std::collections::BTreeMap;

use moor_wire::Code;
use serde_json::json;

use crate::report::Report;

/// Refusals by the name of their code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(BTreeMap<&'static str, u64>);

impl Refusals {
    /// One more.
    pub fn note(&mut self, code: Code) {
        *self.0.entry(code.as_str_name()).or_default() += 1;
    }

    /// Takes another's in as well.
    pub fn add(&mut self, other: &Self) {
        for (code, count) in &other.0 {
            *self.0.entry(code).or_default() += count;
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Both figures.
    pub fn report(&self, report: &mut Report) {
        report.count("refused", self.total());
        report.value("refused_by_code", json!(self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_add_up_by_code() {
        let (mut all, mut other) = (Refusals::default(), Refusals::default());
        [Code::Overloaded, Code::Storage].into_iter().for_each(|code| all.note(code));
        [Code::Overloaded, Code::Unavailable].into_iter().for_each(|code| other.note(code));
        all.add(&other);
        let mut report = Report::default();
        all.report(&mut report);
        assert_eq!(report.figure("refused"), Some(4.0));
        assert_eq!(json!(all.0), json!({ "OVERLOADED": 2, "STORAGE": 1, "UNAVAILABLE": 1 }));
    }
}

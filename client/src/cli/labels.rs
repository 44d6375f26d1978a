//! What a message says of itself besides its text: its business level, and where it comes from.

use clap::Args;
use moor_router_client::Request;
use moor_wire::client::TrafficMarks;
use moor_wire::limits::TRAFFIC_MARK_BYTES_MAX;
use serde_json::json;

use super::Failure;

#[derive(Debug, Args)]
pub struct Labels {
    /// Business level: 0 core, 1 important, 2 the rest; lower ones may be switched off (`moor degrade`). Default:
    /// what the app is configured with.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=2))]
    pub level: Option<u32>,
    /// Where it comes from, carried to the receiver, counted and routed by: source, campaign or release, such as
    /// release=canary. May be repeated.
    #[arg(long, value_name = "MARK=VALUE")]
    mark: Vec<String>,
}

impl Labels {
    /// A request with them.
    pub fn put(&self, mut request: Request) -> Result<Request, Failure> {
        if let Some(level) = self.level {
            request = request.at_level(level)?;
        }
        if let Some(marks) = self.marks()? {
            request = request.marked(marks)?;
        }
        Ok(request)
    }

    /// Its marks, where any are given.
    pub fn marks(&self) -> Result<Option<TrafficMarks>, Failure> {
        let mut marks = TrafficMarks::default();
        for word in &self.mark {
            let (name, value) =
                word.split_once('=').ok_or_else(|| format!("--mark {word}: say MARK=VALUE"))?;
            if value.len() > TRAFFIC_MARK_BYTES_MAX {
                return Err(
                    format!("--mark {word}: a value has at most {TRAFFIC_MARK_BYTES_MAX} bytes").into()
                );
            }
            let mark = match name {
                "source" => &mut marks.source,
                "campaign" => &mut marks.campaign,
                "release" => &mut marks.release,
                _ => return Err(format!("--mark {word}: choose source, campaign or release").into()),
            };
            value.clone_into(mark);
        }
        Ok((!self.mark.is_empty()).then_some(marks))
    }
}

/// Marks that are given, for people and for machines.
pub fn show_marks(marks: &TrafficMarks) -> (String, serde_json::Value) {
    let given: Vec<_> = marks.named().filter(|(_, value)| !value.is_empty()).collect();
    let text = given.iter().fold(String::new(), |text, (name, value)| format!("{text} [{name}={value}]"));
    (text, given.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        labels: Labels,
    }

    fn put(words: &[&str]) -> Result<(Option<u32>, Option<TrafficMarks>), String> {
        let line = Line::try_parse_from(std::iter::once(&"moor").chain(words)).map_err(|e| e.to_string())?;
        let request = Request::room_publish("shop", "bob", ("live", 1), None, b"hi").unwrap();
        match line.labels.put(request).map_err(|error| error.to_string())? {
            Request::RoomPublish(publish) => Ok((publish.level, publish.marks)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn level_and_marks_go_with_the_message() {
        assert_eq!(put(&[]), Ok((None, None)));
        let marks =
            TrafficMarks { release: "canary".into(), source: "a=b".into(), ..TrafficMarks::default() };
        let said = put(&["--level", "0", "--mark", "release=canary", "--mark", "source=a=b"]);
        assert_eq!(said, Ok((Some(0), Some(marks))));
        for wrong in [&["--level", "3"][..], &["--mark", "canary"], &["--mark", "colour=red"]] {
            assert!(put(wrong).is_err(), "{wrong:?}");
        }
        assert!(put(&["--mark", &format!("source={}", "x".repeat(33))]).unwrap_err().contains("at most 32"));
    }
}

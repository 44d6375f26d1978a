//! The `[[hook]]` tables of a configuration file.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use moor_wire::client::TrafficMarks;
use moor_wire::limits::TRAFFIC_MARK_BYTES_MAX;
use serde::Deserialize;

use crate::hook::notice::Notice;

use crate::limits::{HOOK_NOTICE_BYTES_MAX, HOOK_PAYLOAD_BYTES_MAX};

/// What a hook can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Messages nobody fetches.
    Offline,
    /// An arrival rate crossed its threshold.
    Alarm,
}

/// Values of traffic marks; where none is named, any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarksWanted {
    source: Vec<String>,
    campaign: Vec<String>,
    release: Vec<String>,
}

impl MarksWanted {
    /// Whether marks have one of the values of each mark that is named. The empty value is that of a message without.
    pub fn matches(&self, marks: Option<&TrafficMarks>) -> bool {
        let given = |of: fn(&TrafficMarks) -> &String| marks.map_or("", |marks| of(marks));
        let has =
            |wanted: &[String], value: &str| wanted.is_empty() || wanted.iter().any(|known| known == value);
        has(&self.source, given(|marks| &marks.source))
            && has(&self.campaign, given(|marks| &marks.campaign))
            && has(&self.release, given(|marks| &marks.release))
    }

    fn longest(&self) -> usize {
        let all = [&self.source, &self.campaign, &self.release];
        all.into_iter().flatten().map(String::len).max().unwrap_or(0)
    }
}

/// One webhook. docs/operating.md says what each key means.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookSettings {
    /// Its name: in metrics, logs and the name of its dead letters.
    pub name: String,
    /// Where requests go.
    pub url: String,
    /// File with the secret that signs them; nobody but its owner may read it.
    pub secret_file: PathBuf,
    /// Which secret that is, for the receiver; empty: the hook's name.
    pub key_id: String,
    /// PEM file with the authorities to believe; `None`: the host's.
    pub ca_file: Option<PathBuf>,
    /// Apps it is told about; empty: all.
    pub apps: Vec<String>,
    /// Of messages it is told of those alone that have one of the values of each mark named here.
    pub marks: MarksWanted,
    /// What it is told.
    pub events: Vec<Event>,
    /// Longest payload that rides along, bytes; 0: none.
    pub payload_bytes_max: usize,
    /// Most notices in a request.
    pub batch_notices: usize,
    /// Most bytes in a request.
    pub batch_bytes: usize,
    /// How long a notice waits for others.
    pub batch_wait_ms: u64,
    /// Requests under way at a time.
    pub concurrency: usize,
    /// Longest wait for an answer.
    pub timeout_ms: u64,
    /// Requests made for one batch before it becomes dead letters.
    pub tries: u32,
    /// Bound of the random wait before the second try; it doubles with each.
    pub retry_min_ms: u64,
    /// The most it grows to.
    pub retry_max_ms: u64,
    /// Failures in a row that open the circuit breaker.
    pub breaker_failures: u32,
    /// How long it stays open before one request tries.
    pub breaker_open_ms: u64,
    /// Most notices waiting for their first request.
    pub queue_notices: usize,
    /// Most bytes of those.
    pub queue_bytes: usize,
    /// A notice that waited longer is of no use any more.
    pub age_max_ms: u64,
    /// File of the dead letters; `None`: `hook-NAME.dead` in the data directory.
    pub dead_letters: Option<PathBuf>,
    /// Bytes in it before it is put aside for a new one.
    pub dead_letter_bytes: u64,
    /// How many are kept aside.
    pub dead_letter_files: u32,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            secret_file: PathBuf::new(),
            key_id: String::new(),
            ca_file: None,
            apps: Vec::new(),
            marks: MarksWanted::default(),
            events: vec![Event::Offline, Event::Alarm],
            payload_bytes_max: 0,
            batch_notices: 100,
            batch_bytes: 256 * 1024,
            batch_wait_ms: 200,
            concurrency: 4,
            timeout_ms: 10_000,
            tries: 8,
            retry_min_ms: 500,
            retry_max_ms: 60_000,
            breaker_failures: 5,
            breaker_open_ms: 10_000,
            queue_notices: 10_000,
            queue_bytes: 16 * 1024 * 1024,
            age_max_ms: 3_600_000,
            dead_letters: None,
            dead_letter_bytes: 16 * 1024 * 1024,
            dead_letter_files: 4,
        }
    }
}

fn outside<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), String> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(format!("{key} is {value}: choose {} to {}", bounds.start(), bounds.end()))
}

impl HookSettings {
    /// Checks every bound.
    ///
    /// # Errors
    /// One sentence about the first setting that is outside.
    pub fn check(&self) -> Result<(), String> {
        self.check_values().map_err(|what| match self.name.as_str() {
            "" => format!("a [[hook]]: {what}"),
            name => format!("the hook \"{name}\": {what}"),
        })
    }

    fn check_values(&self) -> Result<(), String> {
        let is_name = !self.name.is_empty()
            && self.name.len() <= 32
            && self
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_name {
            return Err("name must be 1 to 32 of a-z, 0-9 and -".to_owned());
        }
        let uri: hyper::Uri =
            self.url.parse().map_err(|error| format!("url \"{}\" is none ({error})", self.url))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(format!("url \"{}\" must begin with https:// or http:// and a host", self.url));
        }
        if self.secret_file.as_os_str().is_empty() {
            return Err("secret_file is missing: name a file with at least 16 bytes, mode 0600".to_owned());
        }
        if self.key_id.len() > 128 || self.key_id.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err("key_id must be at most 128 printable characters without spaces".to_owned());
        }
        if self.events.is_empty() {
            return Err("events is empty: choose among \"offline\" and \"alarm\"".to_owned());
        }
        if self.marks.longest() > TRAFFIC_MARK_BYTES_MAX {
            return Err(format!("marks: a traffic mark has at most {TRAFFIC_MARK_BYTES_MAX} bytes"));
        }
        outside("payload_bytes_max", self.payload_bytes_max, 0..=HOOK_PAYLOAD_BYTES_MAX)?;
        outside("batch_notices", self.batch_notices, 1..=1_000)?;
        outside("batch_bytes", self.batch_bytes, 2 * HOOK_NOTICE_BYTES_MAX..=4 * 1024 * 1024)?;
        outside("batch_wait_ms", self.batch_wait_ms, 0..=60_000)?;
        outside("concurrency", self.concurrency, 1..=64)?;
        outside("timeout_ms", self.timeout_ms, 10..=60_000)?;
        outside("tries", self.tries, 1..=100)?;
        outside("retry_min_ms", self.retry_min_ms, 1..=self.retry_max_ms)?;
        outside("retry_max_ms", self.retry_max_ms, 1..=3_600_000)?;
        outside("breaker_failures", self.breaker_failures, 1..=1_000)?;
        outside("breaker_open_ms", self.breaker_open_ms, 10..=3_600_000)?;
        outside("queue_notices", self.queue_notices, 1..=100_000)?;
        outside("queue_bytes", self.queue_bytes, HOOK_NOTICE_BYTES_MAX..=256 * 1024 * 1024)?;
        outside("age_max_ms", self.age_max_ms, 1_000..=7 * 24 * 3_600_000)?;
        outside("dead_letter_bytes", self.dead_letter_bytes, 64 * 1024..=1024 * 1024 * 1024)?;
        outside("dead_letter_files", self.dead_letter_files, 1..=64)?;
        Ok(())
    }

    /// True when it wants to hear of this.
    pub fn wants(&self, event: Event, notice: &Notice) -> bool {
        self.events.contains(&event)
            && (self.apps.is_empty() || self.apps.iter().any(|known| known == notice.app()))
            && (event == Event::Alarm || self.marks.matches(notice.marks()))
    }

    /// What the receiver knows the secret by.
    pub fn key_id(&self) -> &str {
        if self.key_id.is_empty() { &self.name } else { &self.key_id }
    }
}

//! What a hook is told. docs/operating.md is its reader's text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use moor_wire::client::{Class, TrafficMarks};
use serde_json::{Map, Value, json};

use crate::store::Marks;

/// Why messages count as not fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Accepted while the account had no session that listens.
    Absent,
    /// Pushed to a device and not acknowledged, also after the last retry.
    Unacknowledged,
    /// The account's last session went and left them unacknowledged.
    Departed,
}

impl Cause {
    const fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unacknowledged => "unacknowledged",
            Self::Departed => "departed",
        }
    }
}

/// Messages of one account that nobody fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// The app.
    pub app: Box<str>,
    /// The account.
    pub account: Box<str>,
    /// The device concerned; `None`: whichever the account has.
    pub device: Option<Box<str>>,
    /// The group they were said in, if they were: then the sync ids are those of its timeline, unless the account has
    /// copies of them in its own.
    pub group: Option<Box<str>>,
    /// Lowest sync id concerned.
    pub first_sync_id: u64,
    /// Highest sync id concerned.
    pub last_sync_id: u64,
    /// How many messages were counted.
    pub count: u64,
    /// The newest one's class.
    pub class: Class,
    /// When the newest was accepted, wall clock, where that is known.
    pub sent_at_ms: Option<u64>,
    /// Why, for the first of them.
    pub cause: Cause,
    /// The newest one's traffic marks, where they are known.
    pub marks: Marks,
    /// The newest one's payload, where a hook of the app wants it and it is short enough.
    pub payload: Option<Bytes>,
}

/// An app's arrival rate crossed its threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The app.
    pub app: Box<str>,
    /// Crossed downward, or back.
    pub is_raised: bool,
    /// Acknowledged messages of a hundred thousand accepted ones.
    pub arrival_per_100k: u64,
    /// The threshold, likewise.
    pub threshold_per_100k: u64,
    /// Over which time.
    pub window_ms: u64,
    /// Messages accepted in that time that are old enough to be counted.
    pub accepted: u64,
    /// Those of them that were acknowledged.
    pub acknowledged: u64,
    /// When, wall clock.
    pub at_ms: u64,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Messages nobody fetches.
    Offline(Offline),
    /// A threshold was crossed.
    Alarm(Alarm),
}

pub fn class_word(class: Class) -> &'static str {
    match class {
        Class::Command => "command",
        Class::Reliable => "reliable",
        Class::Normal => "normal",
        Class::Transient => "transient",
    }
}

fn percent(per_100k: u64) -> Value {
    // Exact up to 2^53, and there are at most 10^5.
    u32::try_from(per_100k).map_or(Value::Null, |value| json!(f64::from(value) / 1000.0))
}

impl Notice {
    /// The app concerned.
    pub fn app(&self) -> &str {
        match self {
            Self::Offline(offline) => &offline.app,
            Self::Alarm(alarm) => &alarm.app,
        }
    }

    /// The marks of what it is about.
    pub fn marks(&self) -> Option<&TrafficMarks> {
        match self {
            Self::Offline(offline) => offline.marks.as_deref(),
            Self::Alarm(_) => None,
        }
    }

    /// As JSON, with a payload of at most `payload_bytes_max`.
    pub fn to_json(&self, id: &str, payload_bytes_max: usize) -> Bytes {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("id", id.into());
        match self {
            Self::Offline(offline) => {
                put("kind", "offline".into());
                put("app", (*offline.app).into());
                put("account", (*offline.account).into());
                put("device", offline.device.as_deref().into());
                if let Some(group) = &offline.group {
                    put("group", (**group).into());
                }
                put("cause", offline.cause.word().into());
                put("first_sync_id", offline.first_sync_id.into());
                put("last_sync_id", offline.last_sync_id.into());
                put("count", offline.count.into());
                put("class", class_word(offline.class).into());
                put("sent_at_ms", offline.sent_at_ms.into());
                if let Some(marks) = &offline.marks {
                    let marks = marks.named().map(|(name, value)| (name.to_owned(), value.into()));
                    put("marks", Value::Object(marks.collect()));
                }
                if let Some(payload) =
                    offline.payload.as_ref().filter(|payload| payload.len() <= payload_bytes_max)
                {
                    put("payload", STANDARD.encode(payload).into());
                }
            }
            Self::Alarm(alarm) => {
                put("kind", "alarm".into());
                put("app", (*alarm.app).into());
                put("raised", alarm.is_raised.into());
                put("arrival_percent", percent(alarm.arrival_per_100k));
                put("threshold_percent", percent(alarm.threshold_per_100k));
                put("window_ms", alarm.window_ms.into());
                put("accepted", alarm.accepted.into());
                put("acknowledged", alarm.acknowledged.into());
                put("at_ms", alarm.at_ms.into());
            }
        }
        Value::Object(fields).to_string().into()
    }
}

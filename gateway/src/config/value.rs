//! The types a setting can have: how each is read from text and written back as TOML.
//!
//! Owns the spelling of values, nothing else: bounds and relations between settings are checked in
//! `validate`. Flags and file share one spelling, so that what works in one works in the other.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use moor_ring::{Feature, FeatureMask};
use moor_websocket::upgrade::Origins;
use moor_wire::limits::INTERNAL_ADDRESS_BYTES_MAX;

use crate::worker::door::Networks;

/// What a TOML value must be to reach [`Setting::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// An integer that is not negative.
    Number,
    /// An integer, or the word `"auto"`.
    NumberOrAuto,
    /// `true` or `false`.
    Switch,
    /// An array of strings; on the command line a list separated by commas.
    List,
}

impl Shape {
    /// How the shape is called in an error.
    #[must_use]
    pub const fn described(self) -> &'static str {
        match self {
            Self::Text => "a string in quotes",
            Self::Number => "a whole number without quotes",
            Self::NumberOrAuto => "a whole number without quotes, or \"auto\"",
            Self::Switch => "true or false",
            Self::List => "an array of strings",
        }
    }
}

/// A type a setting can have.
pub trait Setting: Sized {
    /// Its TOML form.
    const SHAPE: Shape;

    /// Reads it from a flag's text, or from a TOML value brought to text.
    ///
    /// # Errors
    /// A phrase that completes "*key*: ".
    fn parse(text: &str) -> Result<Self, String>;

    /// The TOML value; `None` for an optional setting that is not set.
    fn to_toml(&self) -> Option<String>;
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! number_setting {
    ($($type:ty),+) => {$(
        impl Setting for $type {
            const SHAPE: Shape = Shape::Number;
            fn parse(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| {
                    format!("{text:?} is not a whole number between 0 and {}", <$type>::MAX)
                })
            }
            fn to_toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}
number_setting!(u32, u64);

impl Setting for bool {
    const SHAPE: Shape = Shape::Switch;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }
    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for String {
    const SHAPE: Shape = Shape::Text;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn to_toml(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Setting for PathBuf {
    const SHAPE: Shape = Shape::Text;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path cannot be empty".to_owned()) } else { Ok(Self::from(text)) }
    }
    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Setting for SocketAddr {
    const SHAPE: Shape = Shape::Text;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!(
                "{text:?} is not an address and a port, such as 127.0.0.1:7100, 0.0.0.0:7100 or [::]:7100"
            )
        })
    }
    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl<T: Setting> Setting for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }
    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(Setting::to_toml)
    }
}

/// A number, or what the program finds best when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto {
    /// Decided at start.
    #[default]
    Auto,
    /// Said by the operator.
    Set(u32),
}

impl Auto {
    /// The operator's number.
    #[must_use]
    pub const fn set(self) -> Option<u32> {
        match self {
            Self::Auto => None,
            Self::Set(number) => Some(number),
        }
    }

    /// The operator's number, or what `decide` says.
    pub fn or_else(self, decide: impl FnOnce() -> u32) -> u32 {
        self.set().unwrap_or_else(decide)
    }
}

impl Setting for Auto {
    const SHAPE: Shape = Shape::NumberOrAuto;
    fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { u32::parse(text).map(Self::Set) }
    }
    fn to_toml(&self) -> Option<String> {
        match self {
            Self::Auto => Some(quoted("auto")),
            Self::Set(number) => Some(number.to_string()),
        }
    }
}

/// Whether it can be connected to, and is short enough to be told: a name or an address, in brackets where it has colons
/// itself, and a port.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':').filter(|_| text.len() <= INTERNAL_ADDRESS_BYTES_MAX);
    parts.is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Where the router is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RouterChoice {
    /// In this process.
    #[default]
    Embedded,
    /// In another, at this host and port.
    Address(String),
}

impl Setting for RouterChoice {
    const SHAPE: Shape = Shape::Text;
    fn parse(text: &str) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        if is_host_and_port(text) {
            Ok(Self::Address(text.to_owned()))
        } else {
            Err(format!("{text:?} is neither \"embedded\" nor a host and port such as router-1:7300"))
        }
    }
    fn to_toml(&self) -> Option<String> {
        match self {
            Self::Embedded => Some(quoted("embedded")),
            Self::Address(address) => Some(quoted(address)),
        }
    }
}

impl fmt::Display for RouterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Address(address) => f.write_str(address),
        }
    }
}

/// Declares a setting that is one of a few words.
macro_rules! word_setting {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The word it is written with.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl Setting for $name {
            const SHAPE: Shape = Shape::Text;
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is not one of {}", [$($word),+].join(", "))),
                }
            }
            fn to_toml(&self) -> Option<String> {
                Some(quoted(self.word()))
            }
        }
    };
}

word_setting! {
    /// How the log is written.
    LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

word_setting! {
    /// What standard output says when everything listens.
    Announce {
        /// The banner for people.
        #[default]
        Banner = "none",
        /// One line of JSON with every listener's address.
        Json = "json",
    }
}

word_setting! {
    /// When the embedded store writes through to the disk.
    Fsync {
        /// Before every answer: an accepted message survives a power failure.
        #[default]
        Full = "full",
        /// At checkpoints: survives a killed process, may lose the last moments at a power failure.
        Normal = "normal",
        /// Left to the kernel: for tests and throw-away data.
        Off = "off",
    }
}

word_setting! {
    /// What a TLS connection keeps after its handshake.
    TlsRecords {
        /// Secrets and sequence numbers.
        #[default]
        Compact = "compact",
        /// rustls's connection.
        Rustls = "rustls",
    }
}

/// Files, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

impl Setting for Paths {
    const SHAPE: Shape = Shape::List;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|path| PathBuf::parse(path.trim())).collect::<Result<_, _>>().map(Self)
    }
    fn to_toml(&self) -> Option<String> {
        let paths: Vec<_> = self.0.iter().map(|path| quoted(&path.to_string_lossy())).collect();
        Some(format!("[{}]", paths.join(", ")))
    }
}

/// Names, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl Setting for Names {
    const SHAPE: Shape = Shape::List;
    fn parse(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
    fn to_toml(&self) -> Option<String> {
        let names: Vec<_> = self.0.iter().map(|name| quoted(name)).collect();
        Some(format!("[{}]", names.join(", ")))
    }
}

impl Setting for Networks {
    const SHAPE: Shape = Shape::List;
    fn parse(text: &str) -> Result<Self, String> {
        let network = |text: &str| {
            let address = text.parse::<IpAddr>().map(IpNet::from).ok();
            address.or_else(|| text.parse().ok()).ok_or_else(|| {
                format!("{text:?} is neither an address nor a network such as 10.0.0.0/8 or 2001:db8::/32")
            })
        };
        text.split(',').filter(|text| !text.is_empty()).map(|text| network(text.trim())).collect()
    }
    fn to_toml(&self) -> Option<String> {
        let networks: Vec<_> = self.as_slice().iter().map(|network| quoted(&network.to_string())).collect();
        Some(format!("[{}]", networks.join(", ")))
    }
}

impl Setting for moor_router::RoomTypes {
    const SHAPE: Shape = Shape::List;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn to_toml(&self) -> Option<String> {
        let text = self.to_string();
        let rules: Vec<_> = text.split(',').filter(|rule| !rule.is_empty()).map(quoted).collect();
        Some(format!("[{}]", rules.join(", ")))
    }
}

impl Setting for Origins {
    const SHAPE: Shape = Shape::List;
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => return Ok(Self::None),
            "*" => return Ok(Self::Any),
            _ => {}
        }
        let origins = text.split(',').map(str::trim).map(|origin| {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            if host.is_empty() || host.contains(['/', '*', ' ']) {
                return Err(format!(
                    "{origin:?} is not an origin such as https://shop.example, nor * for all pages"
                ));
            }
            Ok(origin.to_owned())
        });
        origins.collect::<Result<_, _>>().map(Self::Listed)
    }
    fn to_toml(&self) -> Option<String> {
        let origins: Vec<String> = match self {
            Self::None => Vec::new(),
            Self::Any => vec![quoted("*")],
            Self::Listed(origins) => origins.iter().map(|origin| quoted(origin)).collect(),
        };
        Some(format!("[{}]", origins.join(", ")))
    }
}

impl Setting for FeatureMask {
    const SHAPE: Shape = Shape::List;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<Self>()
            .map_err(|error| format!("{error}; known are {}", Feature::ALL.map(Feature::name).join(", ")))
    }
    fn to_toml(&self) -> Option<String> {
        let names = Feature::ALL.into_iter().filter(|feature| self.contains(*feature));
        Some(format!("[{}]", names.map(|feature| quoted(feature.name())).collect::<Vec<_>>().join(", ")))
    }
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The bytes to compare or send. They belong in no log.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Setting for Secret {
    const SHAPE: Shape = Shape::Text;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a token cannot be empty".to_owned()) } else { Ok(Self(text.to_owned())) }
    }
    fn to_toml(&self) -> Option<String> {
        // A printed configuration ends in tickets and chats.
        None
    }
}

//! What kinds of room messages there are and what each is worth: the settings of rooms.

use std::fmt;
use std::str::FromStr;

use moor_wire::client::Class;
use moor_wire::identity::check_app;

use crate::limits;

/// What a kind of room message is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomType {
    /// Reliable, normal or transient (droppable).
    pub class: Class,
    /// Whose messages count with it towards `per_s`: those of its own number, or of all numbers of which nothing is said.
    pub pace: Option<u32>,
    /// Most messages of it in one room a second.
    pub per_s: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `None`: every app.
    app: Option<Box<str>>,
    number: u32,
    means: RoomType,
}

/// What each type means, by app. Written `[APP:]TYPE=reliable|normal|droppable[/PER_S]`, separated by commas; the first
/// that fits holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomTypes(Vec<Rule>);

impl RoomTypes {
    /// What a message of a type is worth. Where nothing is said: 0 normal, 1 reliable, all others droppable.
    pub fn of(&self, app: &str, number: u32) -> RoomType {
        let fits = |rule: &&Rule| rule.number == number && rule.app.as_deref().is_none_or(|own| own == app);
        self.0.iter().find(fits).map_or_else(|| RoomType::by_default(number), |rule| rule.means)
    }
}

impl RoomType {
    const fn by_default(number: u32) -> Self {
        match number {
            0 => Self::of_class(Class::Normal, Some(0)),
            1 => Self::of_class(Class::Reliable, Some(1)),
            // Together: else whoever makes numbers up goes past any rate.
            _ => Self::of_class(Class::Transient, None),
        }
    }

    const fn of_class(class: Class, pace: Option<u32>) -> Self {
        let per_s = match class {
            Class::Command | Class::Reliable => limits::ROOM_RELIABLE_PER_S,
            Class::Normal => limits::ROOM_NORMAL_PER_S,
            Class::Transient => limits::ROOM_DROPPABLE_PER_S,
        };
        Self { class, pace, per_s }
    }
}

impl FromStr for RoomTypes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = text.split(',').map(str::trim).filter(|rule| !rule.is_empty());
        let rules = rules.map(parse_rule).collect::<Result<Vec<_>, _>>()?;
        if rules.len() > limits::ROOM_TYPES_MAX {
            return Err(format!(
                "{} types of room messages; at most {}",
                rules.len(),
                limits::ROOM_TYPES_MAX
            ));
        }
        Ok(Self(rules))
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let wrong = || {
        format!("\"{text}\" is no [APP:]TYPE=reliable|normal|droppable[/PER_S], such as shop:1=reliable/20")
    };
    let (left, right) = text.split_once('=').ok_or_else(wrong)?;
    let (app, number) = match left.rsplit_once(':') {
        Some((app, number)) => (Some(app), number),
        None => (None, left),
    };
    if let Some(app) = app {
        check_app(app).map_err(|error| format!("\"{text}\": {error}"))?;
    }
    let (class, per_s) = match right.split_once('/') {
        Some((class, per_s)) => (class, Some(per_s.parse().map_err(|_| wrong())?)),
        None => (right, None),
    };
    let class = match class {
        "reliable" => Class::Reliable,
        "normal" => Class::Normal,
        "droppable" => Class::Transient,
        _ => return Err(wrong()),
    };
    let number = number.parse().map_err(|_| wrong())?;
    let usual = RoomType::of_class(class, Some(number));
    let means = RoomType { per_s: per_s.unwrap_or(usual.per_s), ..usual };
    if !(1..=limits::ROOM_PER_S_MAX).contains(&means.per_s) {
        return Err(format!("\"{text}\": a room takes 1 to {} messages a second", limits::ROOM_PER_S_MAX));
    }
    Ok(Rule { app: app.map(Into::into), number, means })
}

impl fmt::Display for RoomTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Rule { app, number, means }) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let (app, colon) = app.as_deref().map_or(("", ""), |app| (app, ":"));
            let class = match means.class {
                Class::Command | Class::Reliable => "reliable",
                Class::Normal => "normal",
                Class::Transient => "droppable",
            };
            write!(f, "{comma}{app}{colon}{number}={class}/{}", means.per_s)?;
        }
        Ok(())
    }
}

/// How rooms are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    /// What each type of message is worth.
    pub types: RoomTypes,
    /// Sessions in a room from which its messages are collected.
    pub buffer_members: u32,
    /// For so long, milliseconds …
    pub buffer_ms: u32,
    /// … or until there are so many.
    pub buffer_messages: u32,
}

impl Default for RoomSettings {
    fn default() -> Self {
        Self { types: RoomTypes::default(), buffer_members: 500, buffer_ms: 200, buffer_messages: 256 }
    }
}

impl RoomSettings {
    /// The first setting that is out of bounds, in words.
    pub fn complaint(&self) -> Option<String> {
        let ms_max = limits::ROOM_BUFFER_MS_MAX;
        if self.buffer_ms > ms_max {
            return Some(format!("room_buffer_ms is {}: choose 0 to {ms_max}", self.buffer_ms));
        }
        let messages_max = limits::ROOM_BUFFER_MESSAGES_MAX;
        if !(1..=messages_max).contains(&self.buffer_messages) {
            return Some(format!(
                "room_buffer_messages is {}: choose 1 to {messages_max}",
                self.buffer_messages
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_holds_and_else_the_number_says_it() {
        let types: RoomTypes = "shop:1=reliable/5, 1=droppable,7=normal/9".parse().unwrap();
        let of = |app, number| (types.of(app, number).class, types.of(app, number).per_s);
        assert_eq!(of("shop", 1), (Class::Reliable, 5));
        assert_eq!(of("bank", 1), (Class::Transient, limits::ROOM_DROPPABLE_PER_S));
        assert_eq!(of("bank", 7), (Class::Normal, 9));
        assert_eq!((of("bank", 0).0, of("bank", 99).0), (Class::Normal, Class::Transient));
        assert_eq!(RoomTypes::default().of("bank", 1).class, Class::Reliable);
        assert_eq!(types.to_string().parse(), Ok(types));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_an_example() {
        for wrong in
            ["1", "1=precious", "x=normal", "1=normal/", "1=normal/0", ":1=normal", "a\u{1}:1=normal"]
        {
            assert!(wrong.parse::<RoomTypes>().is_err(), "{wrong}");
        }
        let many = vec!["1=normal"; limits::ROOM_TYPES_MAX + 1].join(",");
        assert!(many.parse::<RoomTypes>().is_err());
        assert_eq!("".parse(), Ok(RoomTypes::default()));
    }
}

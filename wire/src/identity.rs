//! Names of apps, accounts and devices, and the hash that places an account.

use crate::limits::{
    ACCOUNT_BYTES_MAX, APP_BYTES_MAX, DEVICE_BYTES_MAX, GROUP_BYTES_MAX, GROUP_MARK, ROOM_BYTES_MAX,
};

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// More bytes than the limit.
    #[error("{what} has {length} bytes; at most {max} are allowed")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Its length, bytes.
        length: usize,
        /// The limit, bytes.
        max: usize,
    },
    /// A control character, which would break logs and terminals.
    #[error("{0} contains a control character")]
    Control(&'static str),
    /// Not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
}

fn check(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty(what));
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, length: name.len(), max });
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control(what));
    }
    Ok(())
}

/// Checks an app's name.
///
/// # Errors
/// [`NameError`] says what is wrong.
pub fn check_app(name: &str) -> Result<(), NameError> {
    check("app", name, APP_BYTES_MAX)
}

/// Checks an account's name.
///
/// # Errors
/// [`NameError`] says what is wrong.
pub fn check_account(name: &str) -> Result<(), NameError> {
    check("account", name, ACCOUNT_BYTES_MAX)
}

/// Checks a device's name.
///
/// # Errors
/// [`NameError`] says what is wrong.
pub fn check_device(name: &str) -> Result<(), NameError> {
    check("device", name, DEVICE_BYTES_MAX)
}

/// Checks a group's name.
///
/// # Errors
/// [`NameError`] says what is wrong.
pub fn check_group(name: &str) -> Result<(), NameError> {
    check("group", name, GROUP_BYTES_MAX)
}

/// The reserved account name under which a group's timeline lies.
#[must_use]
pub fn group_account(group: &str) -> String {
    format!("{GROUP_MARK}{group}")
}

/// The group whose timeline lies under an account name; `None`: it is a person's.
#[must_use]
pub fn group_of_account(account: &str) -> Option<&str> {
    account.strip_prefix(GROUP_MARK)
}

/// What kind of device a name says it is: what precedes its first colon ("phone" of "phone:6f3a"); nothing
/// where there is none.
#[must_use]
pub fn device_kind(device: &str) -> &str {
    device.split_once(':').map_or("", |(kind, _)| kind)
}

/// Checks the name of a conversation: an account's or a group's.
///
/// # Errors
/// [`NameError`] says what is wrong.
pub fn check_conversation(name: &str) -> Result<(), NameError> {
    check("conversation", name, ACCOUNT_BYTES_MAX)
}

/// Checks a room's name.
///
/// # Errors
/// [`NameError`] says what is wrong.
pub fn check_room(name: &str) -> Result<(), NameError> {
    check("room", name, ROOM_BYTES_MAX)
}

/// What stands before a room's name where accounts are: no account begins with a control character.
pub const ROOM_MARK: char = '\u{2}';

/// The account that stands for a room: its timeline holds the room's reliable messages, its hash places the room.
#[must_use]
pub fn room_account(room: &str) -> String {
    let mut account = String::with_capacity(ROOM_MARK.len_utf8() + room.len());
    account.push(ROOM_MARK);
    account.push_str(room);
    account
}

/// The room an account stands for, if it does.
#[must_use]
pub fn room_of(account: &str) -> Option<&str> {
    account.strip_prefix(ROOM_MARK)
}

/// Stable 64-bit hash of an account within its app (xxh3, fixed seed). Shards and indexes in different
/// processes and on disk rely on it: it never changes.
#[must_use]
pub fn account_hash(app: &str, account: &str) -> u64 {
    // Hashing the app first and seeding the account with it needs no separator and no copy.
    let seed = xxhash_rust::xxh3::xxh3_64(app.as_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(account.as_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_pinned() {
        // Data on disk is placed by these values.
        assert_ne!(account_hash("shop", "alice"), account_hash("shopa", "lice"));
        assert_eq!(account_hash("shop", "alice"), PINNED);
    }

    const PINNED: u64 = 17_794_748_316_268_643_959;

    #[test]
    fn a_devices_kind_precedes_its_first_colon() {
        assert_eq!(["phone:6f3a", "pad:a:b", ":x", "laptop"].map(device_kind), ["phone", "pad", "", ""]);
    }

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(check_app("shop"), Ok(()));
        assert_eq!(check_app(""), Err(NameError::Empty("app")));
        assert_eq!(check_account("a\nb"), Err(NameError::Control("account")));
        assert_eq!(check_account(&room_account("live")), Err(NameError::Control("account")));
        assert_eq!((room_of(&room_account("live")), room_of("live")), (Some("live"), None));
        assert_eq!(
            check_device(&"x".repeat(129)),
            Err(NameError::TooLong { what: "device", length: 129, max: 128 })
        );
    }
}

//! What people type, parsed at the edge: keys, values, durations, lease and member ids.
//!
//! Invariants:
//! - A value is taken byte for byte, whether from the argument, a file or stdin.
//! - A duration has a unit; a bare number is refused, because nobody knows what it means.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use bytes::Bytes;
use clap::builder::{OsStringValueParser, TypedValueParser};
use quorate_proto::{Key, LeaseId, Path};

use crate::failure::Failure;

/// Parses a key: any bytes that the shell can pass.
pub fn key_parser() -> impl TypedValueParser<Value = Key> {
    OsStringValueParser::new().try_map(|text| Key::new(text.into_vec()))
}

/// Parses a path that is a key, such as `/config/db`.
pub fn path(text: &str) -> Result<String, String> {
    Path::new(text.to_owned()).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses a directory: a path, or `/` for the root.
pub fn directory(text: &str) -> Result<String, String> {
    if text == "/" { Ok(text.to_owned()) } else { path(text) }
}

/// Parses `250ms`, `1.5s`, `10m`, `2h` or `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms: f64 = match unit {
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        "h" => 3_600e3,
        "d" => 86_400e3,
        "" if !number.is_empty() => return Err(format!("{text} has no unit; write {text}s or {text}ms")),
        _ => return Err("a duration is a number and a unit (ms, s, m, h, d), as in 1.5s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * unit_ms / 1e3).map_err(|error| error.to_string())
}

/// Parses a lease id: hexadecimal, as every command shows it.
pub fn lease_id(text: &str) -> Result<LeaseId, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let id = u64::from_str_radix(digits, 16).map_err(|_| "a lease id is up to 16 hexadecimal digits".to_owned())?;
    LeaseId::new(id.cast_signed()).ok_or_else(|| "a lease id is not 0".to_owned())
}

/// A value as given on the command line; [`Value::read`] fetches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The argument itself.
    Given(Bytes),
    /// `@file`.
    File(OsString),
    /// `-`.
    Stdin,
}

impl Value {
    /// `-` is stdin, `@name` a file, `@@text` the text `@text`, everything else itself.
    pub fn parse(argument: &OsStr) -> Self {
        match argument.as_bytes() {
            b"-" => Self::Stdin,
            [b'@', rest @ ..] if rest.starts_with(b"@") => Self::Given(Bytes::copy_from_slice(rest)),
            [b'@', name @ ..] => Self::File(OsStr::from_bytes(name).to_owned()),
            bytes => Self::Given(Bytes::copy_from_slice(bytes)),
        }
    }

    /// A clap parser of it.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().map(|text| Self::parse(&text))
    }

    /// The bytes.
    pub fn read(self) -> Result<Bytes, Failure> {
        match self {
            Self::Given(bytes) => Ok(bytes),
            Self::File(name) => std::fs::read(&name)
                .map(Bytes::from)
                .map_err(|error| Failure::io(&format!("cannot read {}", name.display()), &error)),
            Self::Stdin => {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).map_err(|error| Failure::io("cannot read stdin", &error))?;
                Ok(bytes.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("1d"), Ok(Duration::from_hours(24)));
        assert!(duration("5").unwrap_err().contains("5s or 5ms"));
        for wrong in ["", "s", "5 s", "5w", "-5s", "1.2.3s", "99999999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_lease_id_is_read_as_it_is_shown() {
        for id in [1, 255, i64::MAX, -1] {
            let id = LeaseId::new(id).unwrap();
            assert_eq!(lease_id(&id.to_string()), Ok(id));
        }
        assert!(lease_id("0").is_err());
        assert!(lease_id("xyz").is_err());
        assert!(lease_id("11112222333344445").is_err());
    }

    #[test]
    fn a_value_is_the_argument_a_file_or_stdin() {
        let parse = |text: &str| Value::parse(OsStr::new(text));
        assert_eq!(parse("x"), Value::Given("x".into()));
        assert_eq!(parse(""), Value::Given("".into()));
        assert_eq!(parse("-5"), Value::Given("-5".into()));
        assert_eq!(parse("-"), Value::Stdin);
        assert_eq!(parse("@a/b"), Value::File("a/b".into()));
        assert_eq!(parse("@@x"), Value::Given("@x".into()));
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = Value::File("/no/such/file".into()).read().unwrap_err();
        assert!(failure.to_string().contains("/no/such/file"));
    }

    #[test]
    fn the_root_is_a_directory_but_not_a_path() {
        assert!(directory("/").is_ok());
        assert!(path("/").is_err());
        assert!(directory("/a/").is_err());
    }
}

//! Keys: what the store is ordered by.
//!
//! Invariants:
//! - 1 to [`Key::BYTES_MAX`] bytes, any bytes; order is bytewise.

use std::fmt;

use bytes::Bytes;

/// A key of the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// Why some bytes are not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing was given.
    #[error("the key is empty; a key has 1 to {} bytes", Key::BYTES_MAX)]
    Empty,
    /// Too much was given.
    #[error("the key has {bytes} bytes; a key has 1 to {} bytes", Key::BYTES_MAX)]
    TooLong {
        /// Length of what was given.
        bytes: usize,
    },
}

impl Key {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 4096;

    /// Takes any bytes within the bounds of length.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            1..=Self::BYTES_MAX => Ok(Self(bytes)),
            bytes => Err(KeyError::TooLong { bytes }),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The bytes, given up.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The smallest byte string greater than `key`.
    pub fn after(key: &[u8]) -> Vec<u8> {
        [key, b"\0"].concat()
    }

    /// The smallest byte string greater than every key that starts with `prefix`;
    /// `None` when there is none (`prefix` is empty or all `ff`).
    pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
        let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        Some(end.into())
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Key {
    /// Readable text; bytes that are not printable ASCII are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_to_4096_bytes() {
        assert_eq!(Key::new(&b""[..]), Err(KeyError::Empty));
        assert!(Key::new(vec![0; 4096]).is_ok());
        assert_eq!(Key::new(vec![0; 4097]), Err(KeyError::TooLong { bytes: 4097 }));
    }

    #[test]
    fn nothing_lies_between_a_key_and_what_is_after_it() {
        assert_eq!(Key::after(b"a"), b"a\0", "every longer key that begins with a is this, or greater");
    }

    #[test]
    fn prefix_end_is_the_first_key_after_the_prefix() {
        assert_eq!(Key::prefix_end(b"a").as_deref(), Some(&b"b"[..]));
        assert_eq!(Key::prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(Key::prefix_end(b"\xff"), None);
        assert_eq!(Key::prefix_end(b""), None);
    }
}

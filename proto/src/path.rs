//! Paths: keys with a place in the tree.
//!
//! Invariants:
//! - A path starts with `/`, is UTF-8, has no empty segment and no trailing `/`; the root `/` itself
//!   is a directory but not a key, so it is not a [`Path`].
//!
//! Example: `/config/db/url` has parent `/config/db` and name `url`; `/config` has parent `/`.

use std::fmt;

use bytes::Bytes;

use crate::key::{Key, KeyError};

/// A key that is a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Key);

/// Why some bytes are not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not even a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not text.
    #[error("the path is not UTF-8 (byte {at} is not); name it in UTF-8, or use it as a plain key")]
    NotUtf8 {
        /// Offset of the first byte that is wrong.
        at: usize,
    },
    /// `a/b`.
    #[error("the path {path:?} does not start with '/'; write it as \"/{path}\"")]
    NotAbsolute {
        /// What was given.
        path: String,
    },
    /// `/a//b`.
    #[error("the path {path:?} has an empty segment; write it with single '/'")]
    EmptySegment {
        /// What was given.
        path: String,
    },
    /// `/a/`.
    #[error("the path {path:?} ends with '/'; write it without")]
    TrailingSlash {
        /// What was given.
        path: String,
    },
    /// `/` where a key is needed.
    #[error("\"/\" is the root directory, not a key; name something below it")]
    Root,
}

impl Path {
    /// Checks that `bytes` are a path.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, PathError> {
        let key = Key::new(bytes)?;
        Self::check(key.as_bytes())?;
        Ok(Self(key))
    }

    /// `Some` when this key is a path, which gives it a place in the tree.
    pub fn of(key: &Key) -> Option<Self> {
        Self::check(key.as_bytes()).ok().map(|()| Self(key.clone()))
    }

    fn check(bytes: &[u8]) -> Result<(), PathError> {
        let path = std::str::from_utf8(bytes).map_err(|error| PathError::NotUtf8 { at: error.valid_up_to() })?;
        let Some(segments) = path.strip_prefix('/') else {
            return Err(PathError::NotAbsolute { path: path.to_owned() });
        };
        if segments.is_empty() {
            return Err(PathError::Root);
        }
        if path.contains("//") {
            return Err(PathError::EmptySegment { path: path.to_owned() });
        }
        if path.ends_with('/') {
            return Err(PathError::TrailingSlash { path: path.to_owned() });
        }
        Ok(())
    }

    /// The path as a key.
    pub fn as_key(&self) -> &Key {
        &self.0
    }

    /// The path as a key, given up.
    pub fn into_key(self) -> Key {
        self.0
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Bytes of the directory that holds this path; `/` for the top level.
    pub fn parent(&self) -> &[u8] {
        let bytes = self.as_bytes();
        match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(0) | None => b"/",
            Some(slash) => &bytes[..slash],
        }
    }

    /// The last segment.
    pub fn name(&self) -> &[u8] {
        let bytes = self.as_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        &bytes[slash + 1..]
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> String {
        Path::new(path.to_owned()).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_a_path_is_refused_with_the_reason() {
        assert!(refused("").contains("empty"));
        assert!(refused("a/b").contains("\"/a/b\""));
        assert!(refused("/a//b").contains("empty segment"));
        assert!(refused("//").contains("empty segment"));
        assert!(refused("/a/").contains("ends with"));
        assert!(refused("/").contains("root"));
        assert!(Path::new(&b"/a\xff"[..]).unwrap_err().to_string().contains("byte 2"));
    }

    #[test]
    fn parent_and_name() {
        let path = Path::new("/config/db/url").unwrap();
        assert_eq!((path.parent(), path.name()), (&b"/config/db"[..], &b"url"[..]));
        let top = Path::new("/config").unwrap();
        assert_eq!((top.parent(), top.name()), (&b"/"[..], &b"config"[..]));
    }
}

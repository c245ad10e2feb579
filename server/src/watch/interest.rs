//! What a watch wants to hear of.
//!
//! Invariants:
//! - Children and subtrees hold paths only: a key that is not a path has no place in the tree.

use bytes::Bytes;
use quorate_proto::{Key, Path};
use quorate_state::outcome::{Change, ChangeKind};

/// Which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Key(Key),
    /// Direct children of a directory: bytes of its path, or `/`.
    Children(Bytes),
    /// A path and everything below it; `/` for all paths.
    Subtree(Bytes),
    /// `start <= key < end`; `None`: no end.
    Range {
        /// Inclusive.
        start: Bytes,
        /// Exclusive.
        end: Option<Bytes>,
    },
}

/// Which keys, and which kinds of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// Which keys.
    pub scope: Scope,
    /// Writes too.
    pub puts: bool,
    /// Deletes too.
    pub deletes: bool,
}

impl Interest {
    /// Whether the scope holds `key`.
    pub fn holds(&self, key: &Key) -> bool {
        match &self.scope {
            Scope::Key(wanted) => wanted == key,
            Scope::Children(directory) => Path::of(key).is_some_and(|path| path.parent() == &directory[..]),
            Scope::Subtree(top) => Path::of(key).is_some() && below(key.as_bytes(), top),
            Scope::Range { start, end } => {
                key.as_bytes() >= &start[..] && end.as_ref().is_none_or(|end| key.as_bytes() < &end[..])
            }
        }
    }

    /// Whether the kind of change is wanted. The scope is not looked at.
    pub fn wants_kind(&self, change: &Change) -> bool {
        match change.kind {
            ChangeKind::Put { .. } => self.puts,
            ChangeKind::Delete { .. } => self.deletes,
        }
    }

    /// Whether the change is wanted.
    pub fn wants(&self, change: &Change) -> bool {
        self.wants_kind(change) && self.holds(&change.key)
    }
}

fn below(path: &[u8], top: &[u8]) -> bool {
    top == b"/" || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(scope: Scope, key: &str) -> bool {
        Interest { scope, puts: true, deletes: true }.holds(&Key::new(key.to_owned()).unwrap())
    }

    #[test]
    fn scopes_hold_what_they_say() {
        let children = || Scope::Children("/a".into());
        assert!(holds(children(), "/a/b") && !holds(children(), "/a/b/c") && !holds(children(), "/a"));
        let subtree = || Scope::Subtree("/a".into());
        assert!(holds(subtree(), "/a") && holds(subtree(), "/a/b/c") && !holds(subtree(), "/ab"));
        assert!(!holds(subtree(), "/a//b"), "not a path");
        assert!(holds(Scope::Subtree("/".into()), "/a") && !holds(Scope::Subtree("/".into()), "a"));
        assert!(holds(Scope::Children("/".into()), "/a") && !holds(Scope::Children("/".into()), "/a/b"));
        let range = || Scope::Range { start: "b".into(), end: Some("d".into()) };
        assert!(holds(range(), "b") && holds(range(), "cc") && !holds(range(), "d") && !holds(range(), "a"));
        assert!(holds(Scope::Range { start: "b".into(), end: None }, "zz"));
    }
}

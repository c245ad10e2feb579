//! Contenders: where their keys stand, and what their values say. Every byte is in docs/formats.md.
//!
//! Invariants:
//! - A value that is not understood is that of an exclusive contender: it keeps others out rather than let them in.
//! - A companion has the revision of creation of the contender that it stands for: both are put in one transaction.
//!
//! Example: the lock `jobs/a`, lease 0x2f, acquire id 0x1c, has the contender `jobs/a/2f-1c`. With a lock delay on lease
//! 0x30 there is a companion `jobs/a/30-1c` besides, whose value says that it stands for `2f-1c`.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::{Key, KeyError, LeaseId, Revision};
use quorate_state::command::Span;
use quorate_state::outcome::{KeyValue, Meta};
use serde::{Deserialize, Serialize};

use crate::watch::Scope;

/// Version of the values of locks.
const FORMAT: u32 = 1;
/// Hexadecimal digits of a lease, and of an acquire id.
const DIGITS_MAX: usize = 16;
/// Longer values are none of ours.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// Acquires that hold together through one contender.
pub const ACQUIRES_MAX: usize = 1_000;

/// What the contenders of a name are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Their values say how they want to hold.
    Lock,
    /// Their values are the candidates' own; all are exclusive.
    Election,
}

/// Together with whom a contender can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody.
    Exclusive,
    /// Others that are shared.
    Shared,
    /// Others with permits, so many in all.
    Permit(u32),
}

/// The name of a lock or election: its contenders stand directly below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// With the `/` at its end.
    prefix: Bytes,
}

/// A key below a name that a contender may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// Its key.
    pub key: Key,
    /// Its place in the line.
    pub created: Revision,
    /// Last change.
    pub modified: Revision,
    /// How it wants to hold.
    pub claim: Claim,
    /// For a companion: the key of the contender that it stands for.
    pub stands_for: Option<Key>,
}

/// What the value of a lock's contender says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    lock: u32,
    mode: Mode,
    #[serde(default, skip_serializing_if = "is_zero")]
    permits: u32,
    /// Who it is, for people and for re-entrance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Whatever it wants others to see.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The acquires that hold through it, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acquires: Vec<String>,
    /// The last segment of its companion's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion: Option<String>,
    /// Of a companion: the last segment of the contender's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Exclusive,
    Shared,
    Permit,
}

impl Name {
    /// Of the lock or election `name`.
    pub fn new(name: &[u8]) -> Self {
        Self { prefix: [name, b"/"].concat().into() }
    }

    /// The name without the `/`.
    pub fn as_bytes(&self) -> &[u8] {
        self.prefix.strip_suffix(b"/").unwrap_or(&self.prefix)
    }

    /// All keys below the name.
    pub fn span(&self) -> Span {
        let (start, end) = self.bounds();
        Span::Range { start, end: Some(end) }
    }

    /// The same, to be watched.
    pub fn scope(&self) -> Scope {
        let (start, end) = self.bounds();
        Scope::Range { start, end: Some(end) }
    }

    /// Of all keys below the name: `[start, end)`.
    pub fn bounds(&self) -> (Bytes, Bytes) {
        // '0' is the character after '/'.
        (self.prefix.clone(), [self.as_bytes(), b"0"].concat().into())
    }

    /// The key of a contender. Without an acquire id it is the one that etcd's clients use.
    pub fn key(&self, lease: LeaseId, acquire: Option<u64>) -> Result<Key, KeyError> {
        self.below(&segment(lease, acquire))
    }

    /// The key with this last segment.
    pub fn below(&self, segment: &str) -> Result<Key, KeyError> {
        Key::new([&self.prefix, segment.as_bytes()].concat())
    }

    /// The last segment of a key below the name.
    pub fn segment_of<'k>(&self, key: &'k Key) -> Option<&'k str> {
        std::str::from_utf8(key.as_bytes().strip_prefix(&self.prefix[..])?).ok()
    }

    /// The contender with this key, or `None`: no contender has such a key.
    pub fn contender(&self, kind: Kind, key: &Key, meta: &Meta, value: &[u8]) -> Option<Contender> {
        let segment = self.segment_of(key)?;
        is_contender(segment).then(|| {
            let document = Document::of(kind, value);
            let stands_for = document.as_ref().and_then(|document| document.stands_for.as_deref());
            Contender {
                key: key.clone(),
                created: meta.create_revision,
                modified: meta.mod_revision,
                claim: document.as_ref().map_or(Claim::Exclusive, Document::claim),
                stands_for: stands_for.and_then(|segment| self.below(segment).ok()),
            }
        })
    }

    /// The key of the companion of the contender that this is, if it has one.
    pub fn companion_of(&self, kind: Kind, kv: &KeyValue) -> Option<Key> {
        self.below(&Document::of(kind, &kv.value)?.companion?).ok()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl Document {
    /// Of a contender that holds, if it does, for one acquire.
    pub fn new(claim: Claim, owner: String, metadata: BTreeMap<String, String>, acquire: u64) -> Self {
        let (mode, permits) = match claim {
            Claim::Exclusive => (Mode::Exclusive, 0),
            Claim::Shared => (Mode::Shared, 0),
            Claim::Permit(permits) => (Mode::Permit, permits),
        };
        let acquires = vec![hex(acquire)];
        Self { lock: FORMAT, mode, permits, owner, metadata, acquires, companion: None, stands_for: None }
    }

    /// What a value says, if it says something.
    pub fn of(kind: Kind, value: &[u8]) -> Option<Self> {
        if kind == Kind::Election || value.first() != Some(&b'{') || value.len() > DOCUMENT_BYTES_MAX {
            return None;
        }
        let document: Self = serde_json::from_slice(value).ok()?;
        let is_known = document.lock == FORMAT && (document.mode == Mode::Permit) == (document.permits > 0);
        is_known.then_some(document)
    }

    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        // A struct of texts and numbers; nothing in it can fail.
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    /// How it wants to hold.
    pub fn claim(&self) -> Claim {
        match self.mode {
            Mode::Exclusive => Claim::Exclusive,
            Mode::Shared => Claim::Shared,
            Mode::Permit => Claim::Permit(self.permits),
        }
    }

    /// The same, held shared.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { mode: Mode::Shared, permits: 0, ..self }
    }

    /// Whether this acquire holds through it.
    pub fn has(&self, acquire: u64) -> bool {
        self.acquires.contains(&hex(acquire))
    }

    /// The same, with this acquire too.
    #[must_use]
    pub fn with(mut self, acquire: u64) -> Self {
        self.acquires.push(hex(acquire));
        self
    }

    /// The same without this acquire.
    #[must_use]
    pub fn without(mut self, acquire: u64) -> Self {
        self.acquires.retain(|other| *other != hex(acquire));
        self
    }
}

/// The last segment of a contender's key.
pub fn segment(lease: LeaseId, acquire: Option<u64>) -> String {
    let lease = lease.get().cast_unsigned();
    match acquire {
        Some(acquire) => format!("{lease:x}-{acquire:x}"),
        None => format!("{lease:x}"),
    }
}

/// The lease whose id begins the last segment of a contender's key.
pub fn lease_of(segment: &str) -> Option<LeaseId> {
    let lease = segment.split_once('-').map_or(segment, |(lease, _)| lease);
    LeaseId::new(u64::from_str_radix(lease, 16).ok()?.cast_signed())
}

fn is_contender(segment: &str) -> bool {
    let digits = |text: &str| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(is_digit)
    };
    match segment.split_once('-') {
        Some((lease, acquire)) => digits(lease) && digits(acquire),
        None => digits(segment),
    }
}

fn hex(acquire: u64) -> String {
    format!("{acquire:x}")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: i64) -> LeaseId {
        LeaseId::new(id).unwrap()
    }

    #[test]
    fn keys_have_the_shape_that_etcds_clients_use_and_an_acquire_id_natively() {
        let name = Name::new(b"jobs/a");
        assert_eq!(name.key(lease(0x2f), None).unwrap().as_bytes(), b"jobs/a/2f");
        let key = name.key(lease(-1), Some(0x1c)).unwrap();
        assert_eq!(key.as_bytes(), b"jobs/a/ffffffffffffffff-1c");
        assert_eq!(lease_of(name.segment_of(&key).unwrap()), Some(lease(-1)));
        assert_eq!(name.span(), Span::Range { start: "jobs/a/".into(), end: Some("jobs/a0".into()) });
        for (segment, fits) in
            [("2f", true), ("2f-1", true), ("", false), ("2F", false), ("2f-", false), ("2f/1", false), ("x", false)]
        {
            assert_eq!(is_contender(segment), fits, "{segment:?}");
        }
        assert!(!is_contender("12345678901234567"));
    }

    #[test]
    fn values_are_small_documents_whose_bytes_are_golden() {
        let document = Document::new(Claim::Permit(3), "w".into(), [("a".into(), "b".into())].into(), 0x1c);
        let document = Document { companion: Some("30-1c".into()), ..document };
        let bytes = document.encode();
        let golden = r#"{"lock":1,"mode":"permit","permits":3,"owner":"w","metadata":{"a":"b"},"acquires":["1c"],"companion":"30-1c"}"#;
        assert_eq!(bytes, golden);
        assert_eq!(Document::of(Kind::Lock, &bytes), Some(document));
    }

    #[test]
    fn what_is_not_understood_is_exclusive() {
        let meta = Meta {
            create_revision: Revision(2),
            mod_revision: Revision(2),
            version: 1,
            lease: None,
            created_ms: 0,
            modified_ms: 0,
        };
        let (name, key) = (Name::new(b"l"), Key::new("l/1").unwrap());
        let shared = Document::new(Claim::Shared, String::new(), BTreeMap::new(), 1).encode();
        let long = [&shared[..], &b" ".repeat(DOCUMENT_BYTES_MAX)[..]].concat();
        for (kind, value, claim) in [
            (Kind::Lock, &shared[..], Claim::Shared),
            (Kind::Election, &shared[..], Claim::Exclusive),
            (Kind::Lock, b"", Claim::Exclusive),
            (Kind::Lock, br#"{"lock":2,"mode":"shared"}"#, Claim::Exclusive),
            (Kind::Lock, br#"{"lock":1,"mode":"permit"}"#, Claim::Exclusive),
            (Kind::Lock, br#"{"mode":"shared"}"#, Claim::Exclusive),
            (Kind::Lock, &long[..], Claim::Exclusive),
        ] {
            let contender = name.contender(kind, &key, &meta, value).unwrap();
            assert_eq!(contender.claim, claim, "{}", value[..value.len().min(60)].escape_ascii());
        }
    }

    #[test]
    fn the_largest_document_of_ours_is_understood() {
        // Texts as long as they may be, and in JSON six times that.
        let (owner, metadata) = ("\u{1}".repeat(256), "\u{1}".repeat(4_095));
        let document = Document::new(Claim::Permit(u32::MAX), owner, [("k".into(), metadata)].into(), u64::MAX);
        let document = (1..ACQUIRES_MAX as u64).fold(document, |document, nth| document.with(u64::MAX - nth));
        let companion = segment(lease(-1), Some(u64::MAX));
        let document = Document { companion: Some(companion.clone()), stands_for: Some(companion), ..document };
        assert_eq!(Document::of(Kind::Lock, &document.encode()), Some(document));
    }
}

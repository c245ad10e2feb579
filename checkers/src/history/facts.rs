//! What was learned of leases, locks, members and directories.
//!
//! Invariants:
//! - Each fact stands for itself: its moments bound when it was true.

use serde::{Deserialize, Serialize};

use super::{Moment, Octets};

/// Something that was learned of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseFact {
    /// Which.
    pub lease: i64,
    /// When the question left.
    pub invoked: Moment,
    /// When the answer was there, or the client gave up.
    pub completed: Moment,
    /// What was learned.
    pub what: Learned,
}

/// What was learned of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Learned {
    /// It was granted, or kept alive, for so long.
    Alive {
        /// Its time to live, in ms.
        ttl_ms: u64,
    },
    /// The same was asked for and never answered.
    MaybeRenewed {
        /// Its time to live, in ms.
        ttl_ms: u64,
    },
    /// It, or a key of it, was seen.
    Seen,
    /// It, or a key of it that nothing else deletes, was gone.
    Gone,
    /// It was to be ended; whatever came of that.
    Revoked,
}

/// A compaction that was answered: from then on nothing before its revision is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// Up to where; itself it can still be read.
    pub revision: i64,
    /// When the answer was there.
    pub completed: Moment,
}

/// A hold of a lock, a permit or a leadership; or an attempt to get one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Name of the lock.
    pub lock: Octets,
    /// Who.
    pub client: u64,
    /// How.
    pub mode: Mode,
    /// The contender's key. Holds that joined another share key and token.
    pub key: Octets,
    /// When the client began to want it.
    pub invoked: Moment,
    /// When it had the answer, or gave up.
    pub completed: Moment,
    /// Its token; `None`: it was not told that it holds.
    pub token: Option<i64>,
    /// The store's revision in the answer, if that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// From here on it did not hold exclusively any more, but shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downgraded: Option<Moment>,
    /// From here on it did not claim to hold: it began to release, was told of the loss, was paused, or died.
    /// `None`: it claimed to hold till the end of the history.
    pub ended: Option<Moment>,
}

impl Hold {
    /// Wanted, and not told to be held.
    pub fn wanted(lock: impl Into<Octets>, client: u64, mode: Mode, invoked: Moment, completed: Moment) -> Self {
        Self {
            lock: lock.into(),
            client,
            mode,
            key: Octets::EMPTY,
            invoked,
            completed,
            token: None,
            revision: None,
            downgraded: None,
            ended: Some(completed),
        }
    }
}

/// Who may hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nobody else.
    Exclusive,
    /// Others that are shared.
    Shared,
    /// So many in all.
    Permit(u32),
}

/// What a member said of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Who.
    pub member: String,
    /// Log index or revision; the same measure in the whole history.
    pub index: u64,
    /// Of the content there.
    pub digest: u64,
    /// Told when all was healed: all members that have one of these must be at one index.
    pub healed: bool,
}

/// What a directory was said to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path, or `/`.
    pub path: Octets,
    /// As of when.
    pub revision: i64,
    /// All its children in the order told, if it was listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub children: Option<Vec<Child>>,
    /// What the record of the directory says, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat: Option<DirectoryStat>,
}

/// A direct child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Last segment of its path.
    pub name: Octets,
    /// There is a key of this path.
    pub is_key: bool,
    /// There is something below it.
    pub is_directory: bool,
}

/// The record of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryStat {
    /// How many.
    pub children: u64,
    /// When one came or went last.
    pub children_revision: i64,
    /// The sequence that is handed out next.
    pub next_sequence: u64,
}

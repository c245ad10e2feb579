//! The one language out: what became of a command, and what changed.
//!
//! Invariants:
//! - A [`Rejection`] is an outcome: deterministic, replicated, remembered by request id; it changed nothing.
//! - A [`Fault`] is local (disk, corruption, digest) and stops the member. Nothing is ever applied and then
//!   answered as failed.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Revision};

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The store's revision after the command.
    pub revision: Revision,
    /// This answer was remembered from an earlier attempt with the same request id: decisions,
    /// revision and counts are the original ones, values read are left out.
    pub replayed: bool,
    /// What was done, or why not.
    pub result: Result<Done, Rejection>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// A key was written.
    Put(PutDone),
    /// Keys were deleted.
    Delete(DeleteDone),
    /// A transaction was decided.
    Txn(TxnDone),
    /// A subtree was copied or moved: how many keys.
    CopyTree(u64),
    /// A lease exists.
    LeaseGrant {
        /// Its id.
        lease: LeaseId,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// Leases ended.
    LeaseRevoke {
        /// How many keys went with them.
        deleted: u64,
    },
    /// Noted.
    LeaseCheckpoint,
    /// The mark stands at what was asked.
    Compact,
    /// The version in force.
    StateVersion(u32),
    /// The content is to be hashed as it is after this entry.
    Scrub,
}

/// Answer of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutDone {
    /// The key written.
    pub key: Key,
    /// Its lease now.
    pub lease: Option<LeaseId>,
    /// What stood there, when asked for.
    pub previous: Option<KeyValue>,
}

/// Answer of a delete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteDone {
    /// How many keys.
    pub deleted: u64,
    /// What stood there, when asked for.
    pub previous: Vec<KeyValue>,
}

/// Answer of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnDone {
    /// The compares held.
    pub succeeded: bool,
    /// One for each operation of the branch that ran.
    pub results: Vec<TxnResult>,
}

/// Answer of an operation inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnResult {
    /// Keys read.
    Range(RangeDone),
    /// A key was written.
    Put(PutDone),
    /// Keys were deleted.
    Delete(DeleteDone),
    /// A transaction inside.
    Txn(TxnDone),
}

/// Answer of a range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeDone {
    /// The keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// `limit` or `bytes_max` cut the answer.
    pub more: bool,
    /// Number of keys: in the span if `count_only` or `count_all`, else in `kvs`.
    pub count: u64,
}

/// A key with its metadata and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// Empty when only keys were asked for.
    pub value: Bytes,
    /// The rest.
    pub meta: Meta,
}

/// What is known of a key besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Revision at which it came into being.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Changes since creation; 1 at creation.
    pub version: i64,
    /// Owner.
    pub lease: Option<LeaseId>,
    /// Stamp of its creation, ms since the Unix epoch.
    pub created_ms: i64,
    /// Stamp of its last change, ms since the Unix epoch.
    pub modified_ms: i64,
}

/// Why a command was refused. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The stated expectation did not hold.
    #[error("{key} is not as expected: {reason}; read it again and decide anew")]
    Precondition {
        /// Which key.
        key: Key,
        /// What was expected and what was found.
        reason: String,
        /// What stands there: its mod revision, 0 when absent.
        current: Revision,
    },
    /// The key is needed but absent (a put that keeps the old value).
    #[error("{key} does not exist")]
    KeyNotFound {
        /// Which key.
        key: Key,
    },
    /// The lease is needed but absent.
    #[error("lease {lease} does not exist: it has expired, was revoked or was never granted; grant a new one")]
    LeaseNotFound {
        /// Which lease.
        lease: LeaseId,
    },
    /// The id of a new lease is in use.
    #[error("lease {lease} exists already; choose another id, or let the cluster choose")]
    LeaseExists {
        /// Which lease.
        lease: LeaseId,
    },
    /// A path operation on a key that is no path.
    #[error("{key} is not a path; this operation needs one (\"/a/b\")")]
    NotAPath {
        /// Which key.
        key: Key,
    },
    /// Written twice in one transaction.
    #[error("{key} is changed twice in one transaction; change each key once")]
    DuplicateKey {
        /// Which key.
        key: Key,
    },
    /// More changes than one command may make.
    #[error("the command would change more than {limit} keys; do it in pages (list, then delete or copy the parts)")]
    TooManyChanges {
        /// The bound.
        limit: u64,
    },
    /// Copy or move onto itself.
    #[error("{from} and {to} overlap; choose a destination outside the source")]
    Overlap {
        /// Source.
        from: Key,
        /// Destination.
        to: Key,
    },
    /// A revision that is not there yet.
    #[error("revision {asked} is in the future; the store is at {current}")]
    FutureRevision {
        /// Asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// A revision that is gone.
    #[error("revision {asked} is compacted; the oldest readable revision is {compacted}")]
    Compacted {
        /// Asked for.
        asked: Revision,
        /// The mark.
        compacted: Revision,
    },
    /// The request id is older than what is remembered.
    #[error(
        "the request id is older than the cluster remembers, so whether it was applied is unknown; read, then decide"
    )]
    RequestExpired,
    /// The request id was used before for another kind of command.
    #[error("the request id was used before for another request; each write needs its own sequence")]
    RequestIdReused,
    /// Out of range in a way that the edge should have caught.
    #[error("{0}")]
    Invalid(String),
}

/// Local trouble: the member stops. Never an answer to a client's request as such.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The store cannot be read or written.
    #[error("the store failed: {0}")]
    Store(Arc<crate::store::StoreError>),
    /// Stored bytes do not say what they must.
    #[error("the store is damaged: {0}; rebuild this member from its peers")]
    Corrupt(String),
    /// Written by a newer version.
    #[error("the store has format {found}, this program knows {known}; start it with a newer program")]
    NewerFormat {
        /// In the store.
        found: u32,
        /// Here.
        known: u32,
    },
    /// It failed before and stays closed until reopened.
    #[error("the store failed before and refuses everything until this member is restarted")]
    Latched,
}

impl From<crate::store::StoreError> for Fault {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// All that one log entry changed, in revision order. Published to watchers after it is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Index of the log entry.
    pub log_index: u64,
    /// One for each transaction that changed something; revisions without a gap.
    pub revisions: Vec<RevisionChanges>,
}

/// What one transaction changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionChanges {
    /// Its revision.
    pub revision: Revision,
    /// In the order in which they were made; each key once.
    pub changes: Vec<Change>,
}

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What was done.
    pub kind: ChangeKind,
    /// To which key.
    pub key: Key,
    /// Mod revision of the version before; zero: the key was created.
    pub previous: Revision,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// A new version.
    Put {
        /// Metadata of the new version.
        meta: Meta,
        /// Its value.
        value: Bytes,
    },
    /// It is gone.
    Delete {
        /// Because its lease ended.
        lease_ended: bool,
    },
}

/// What happened to a lease, for the leader's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// It exists now.
    Granted {
        /// Which.
        lease: LeaseId,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// It is gone.
    Ended {
        /// Which.
        lease: LeaseId,
    },
    /// The note of its remaining time has changed.
    Checkpointed {
        /// Which.
        lease: LeaseId,
        /// `None`: cleared.
        remaining_ms: Option<u64>,
    },
}

//! The one language in: what every door says to the state machine.
//!
//! Invariants:
//! - A command is plain data. Time, ids and randomness were decided before and stand in it or in its [`Batch`].
//! - One [`Batch`] is exactly one log entry; its commands see each other's effects, in order.
//! - The edge has checked what depends on nothing but the request (lengths, paths, limits); apply checks
//!   again whatever its own invariants need, and answers with a rejection.

use bytes::Bytes;
use quorate_proto::{ClientId, Key, LeaseId, Path, Revision};

/// One log entry: what was waiting at the leader at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The leader's wall clock when it sealed the batch, in ms since the Unix epoch.
    /// Apply uses the larger of this and the last one it used.
    pub stamp_ms: i64,
    /// In the order in which they are decided.
    pub commands: Vec<Envelope>,
}

/// A command with what stands around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Makes a retry safe; `None` for commands of the leader's own jobs.
    pub request: Option<RequestId>,
    /// On whose behalf.
    pub principal: Principal,
    /// What to do.
    pub command: Command,
}

/// Who asks, and as of which revision of the rights the edge has let him pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Principal {
    /// Name of the user; empty while there are no users, and for the leader's own jobs.
    pub user: String,
    /// Revision of users and roles that the edge saw.
    pub auth_revision: u64,
}

/// Names one write of one client, so that a retry is applied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// The client process.
    pub client: ClientId,
    /// 1, 2, 3, … for each of its writes.
    pub sequence: u64,
    /// The lowest sequence whose answer the client has not seen: what is below may be forgotten.
    pub lowest_unacknowledged: u64,
    /// The highest log index that the client saw in an answer. Older than the window: refused as expired.
    pub seen_index: u64,
}

/// Everything that can change the store, and the reads that stand inside transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Delete keys.
    Delete(Delete),
    /// Compare, then one of two lists of operations.
    Txn(Txn),
    /// Copy or move a subtree.
    CopyTree(CopyTree),
    /// Make a lease. The proposer has chosen the id.
    LeaseGrant {
        /// Not in use, else rejected.
        lease: LeaseId,
        /// 500 ms to 10 years.
        ttl_ms: u64,
    },
    /// End leases and delete their keys, all in one revision.
    LeaseRevoke {
        /// Those that do not exist are passed over, unless it is the only one and `cause` is `Asked`: rejected.
        leases: Vec<LeaseId>,
        /// Why.
        cause: LeaseEnd,
    },
    /// Note how much time leases have left, so that a new leader does not start them afresh.
    /// `None` clears the note. Changes no revision.
    LeaseCheckpoint(Vec<(LeaseId, Option<u64>)>),
    /// Move the compaction mark. Lower than it is: rejected as compacted; above the revision: as future.
    Compact {
        /// New mark.
        revision: Revision,
        /// A mark that stands there already is rejected as compacted too, as the etcd wire has it.
        only_forward: bool,
    },
    /// Raise the version of apply's behaviour; a lower one is passed over.
    SetStateVersion(u32),
    /// Every member hashes its whole content as it is after this entry, for comparison. Changes nothing.
    Scrub,
}

/// Why a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Somebody asked for it.
    Asked,
    /// Its time was over.
    Expired,
}

/// Which lease a written key is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// None.
    #[default]
    None,
    /// This one; rejected when it does not exist.
    Lease(LeaseId),
    /// The one it has already, if any.
    Keep,
    /// A new one for this key alone, with an id that the proposer chose; it ends when the key gets another owner.
    Ttl {
        /// Id of the new lease.
        lease: LeaseId,
        /// 500 ms to 10 years.
        ttl_ms: u64,
    },
}

/// What must hold before a single-key operation; else it is rejected as a failed precondition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    /// Nothing.
    #[default]
    Anything,
    /// The key must not exist.
    Absent,
    /// The key must exist.
    Present,
    /// The key must exist with this mod revision.
    ModRevision(Revision),
}

/// Write one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The key; with `sequential`, the directory (a path).
    pub key: Key,
    /// New value; `None` keeps the old one (the key must exist), for doors that know "ignore value".
    pub value: Option<Bytes>,
    /// Lease of the key afterwards.
    pub owner: Owner,
    /// Checked first.
    pub expect: Expect,
    /// Give back what stood there.
    pub return_previous: bool,
    /// The parent of the path must exist as a key or directory.
    pub must_have_parent: bool,
    /// Write `<key>/<next sequence, 20 digits>` instead.
    pub sequential: bool,
}

impl Put {
    /// Of a value, whatever stands there.
    pub fn new(key: Key, value: Bytes, owner: Owner) -> Self {
        Self {
            key,
            value: Some(value),
            owner,
            expect: Expect::Anything,
            return_previous: false,
            must_have_parent: false,
            sequential: false,
        }
    }
}

/// Which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// One.
    Key(Key),
    /// `start <= key < end`; `None`: no end. An empty start is the first key.
    Range {
        /// Inclusive.
        start: Bytes,
        /// Exclusive.
        end: Option<Bytes>,
    },
    /// The path itself and everything below it.
    Subtree(Path),
}

/// Delete keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Which.
    pub span: Span,
    /// For `Span::Key`.
    pub expect: Expect,
    /// For a path: rejected when it has children.
    pub must_be_empty: bool,
    /// Give back what stood there.
    pub return_previous: bool,
    /// More keys than this: rejected, nothing deleted. The native API says 10 000; the etcd door says none.
    pub limit: Option<u64>,
}

impl Delete {
    /// Of all these, whatever they are.
    pub fn new(span: Span) -> Self {
        Self { span, expect: Expect::Anything, must_be_empty: false, return_previous: false, limit: None }
    }
}

/// A transaction: one revision, all or nothing; a rejection anywhere in it rejects the whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold for `then`.
    pub compares: Vec<Compare>,
    /// If they hold.
    pub then: Vec<TxnOp>,
    /// If not.
    pub otherwise: Vec<TxnOp>,
}

/// One operation of a transaction. It sees the effects of those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOp {
    /// Read keys.
    Range(RangeQuery),
    /// Write a key.
    Put(Put),
    /// Delete keys.
    Delete(Delete),
    /// A transaction inside.
    Txn(Txn),
}

/// A condition on a key, or on every key of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Which keys. `Subtree` is not used here.
    pub span: Span,
    /// A range without keys is compared like one missing key, as the etcd wire has it; else it holds.
    pub empty_as_missing: bool,
    /// How the key's property relates to `target`: `key.property <relation> target`.
    pub relation: Relation,
    /// With what.
    pub target: Target,
}

impl Compare {
    /// The key's property is `target`.
    pub fn equal(key: Key, target: Target) -> Self {
        Self { span: Span::Key(key), empty_as_missing: false, relation: Relation::Equal, target }
    }
}

/// How two things compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// =
    Equal,
    /// ≠
    NotEqual,
    /// >
    Greater,
    /// <
    Less,
}

/// Which property of a key is compared, with what. A missing key has 0 for all numbers and matches no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Changes since creation.
    Version(i64),
    /// Revision of creation.
    CreateRevision(Revision),
    /// Revision of the last change.
    ModRevision(Revision),
    /// Owner.
    Lease(Option<LeaseId>),
    /// Bytes.
    Value(Bytes),
    /// `Equal` or `NotEqual` only.
    Exists(bool),
}

/// A read of keys in order. Also the language of reads outside transactions (see `view`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent options of a read, as the wires have them")]
pub struct RangeQuery {
    /// Which keys.
    pub span: Span,
    /// As of when; `None`: the newest.
    pub revision: Option<Revision>,
    /// At most so many keys; `None`: all. (The edge bounds it for the native API.)
    pub limit: Option<usize>,
    /// Stop after so many bytes of keys and values; `None`: no bound.
    pub bytes_max: Option<usize>,
    /// From the last key to the first.
    pub descending: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Count all keys of the span even when `limit` cuts the answer (the etcd wire wants it).
    pub count_all: bool,
    /// Other orders, and only some of the keys.
    pub refine: Refine,
}

impl RangeQuery {
    /// All keys of a span with their values, in order, the newest.
    pub fn all(span: Span) -> Self {
        Self {
            span,
            revision: None,
            limit: None,
            bytes_max: None,
            descending: false,
            keys_only: false,
            count_only: false,
            count_all: false,
            refine: Refine::default(),
        }
    }
}

/// What the etcd wire adds to a read: orders other than by key, and bounds on the revisions of the keys. A read that is
/// refined looks at its whole span, counts it, and knows no `bytes_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refine {
    /// In this order; keys that are equal in it stay in order of the key. `None`: by key.
    pub sort: Option<SortBy>,
    /// Only the first `limit + 1` keys of the span, by key, are sorted; then `limit` cuts.
    pub window_first: bool,
    /// Only keys changed last at or after this.
    pub mod_min: Option<Revision>,
    /// Only keys changed last at or before this.
    pub mod_max: Option<Revision>,
    /// Only keys created at or after this.
    pub create_min: Option<Revision>,
    /// Only keys created at or before this.
    pub create_max: Option<Revision>,
}

/// By what keys are sorted, other than themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    /// Changes since creation.
    Version,
    /// Revision of creation.
    CreateRevision,
    /// Revision of the last change.
    ModRevision,
    /// Bytes of the value.
    Value,
}

/// Copy a path and all below it to another place, in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTree {
    /// Source.
    pub from: Path,
    /// Destination; must not exist (neither key nor directory), nor lie inside the source or around it.
    pub to: Path,
    /// Copies keep the lease of their source; else they have none.
    pub keep_leases: bool,
    /// Delete the source in the same revision.
    pub remove_source: bool,
    /// More keys than this: rejected.
    pub limit: u64,
}

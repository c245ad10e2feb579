//! What clients ask of keys, and what comes of it.
//!
//! Invariants:
//! - Everything on keys is a transaction, so that there is one rule for what it does.

use serde::{Deserialize, Serialize};

use super::{Kv, Moment, Octets, is_zero};

/// Something that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked. A client here does one thing after the other, or several at once; order is told by moments alone.
    pub client: u64,
    /// Attempts of one and the same write share a request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// Before anything of it left the client.
    pub invoked: Moment,
    /// When the client knew what came of it, or gave up.
    pub completed: Moment,
    /// What was asked.
    pub input: Input,
    /// What came of it.
    pub outcome: Outcome,
}

/// Names a write, whatever number of times it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Of the client process.
    pub client: u64,
    /// Counted by it.
    pub sequence: u64,
}

/// What was asked. Everything on keys is a transaction: a put is one without a condition and with one action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Reads and writes.
    Txn(Txn),
    /// End a lease and delete its keys.
    Revoke {
        /// Which.
        lease: i64,
    },
}

/// Compare, then one of two lists of actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All must hold for `then`. A put that expects something is a compare with an empty `otherwise`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compares: Vec<Compare>,
    /// If they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Action>,
    /// If not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub otherwise: Vec<Action>,
    /// Answered by a member from what it had: may be old, but is never wrong. For what only reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serializable: bool,
    /// The revision that a read asked for; 0: the newest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at: i64,
    /// The member waited until it was so far; 0: it did not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_revision: i64,
}

/// Which keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// One.
    Key(Octets),
    /// `start <= key < end`; without an end: all from there on.
    Range(Octets, Option<Octets>),
    /// Direct children of a path, or of `/`.
    Children(Octets),
    /// A path and all below it; `/`: all paths.
    Subtree(Octets),
}

/// A condition on one key. Numbers of a missing key are 0; a missing key matches no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Of which key.
    pub key: Octets,
    /// How the key's property stands to the target.
    pub relation: Relation,
    /// To what.
    pub target: Target,
}

/// How two things compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say themselves what they are")]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// A property of a key, and what it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say themselves what they are")]
pub enum Target {
    Exists(bool),
    Value(Octets),
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    Lease(i64),
}

/// One action of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read keys, in order.
    Read {
        /// Which.
        span: Span,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Write one.
    Put {
        /// Which.
        key: Octets,
        /// New value.
        value: Octets,
        /// Its lease from now on; 0: none.
        #[serde(default, skip_serializing_if = "is_zero")]
        lease: i64,
    },
    /// Write a new child whose name is the directory's next sequence.
    PutSequential {
        /// Path of the directory.
        directory: Octets,
        /// Value.
        value: Octets,
        /// Its lease; 0: none.
        #[serde(default, skip_serializing_if = "is_zero")]
        lease: i64,
    },
    /// Delete keys.
    Delete {
        /// Which.
        span: Span,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done {
        /// The store's revision in the answer: after a write, or of what was read.
        revision: i64,
        /// The rest.
        answer: Answer,
    },
    /// It did not happen, and will not.
    Refused(String),
    /// It may have happened, may still happen, or never.
    Unknown(String),
}

/// What an operation that was done answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The compares held (true without any).
    pub succeeded: bool,
    /// One for each action of the branch that ran. A revoke has one, `Deleted`.
    pub results: Vec<Done>,
}

/// What an action answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// These keys were there.
    Read(Vec<Kv>),
    /// It was written.
    Put {
        /// Which key.
        key: Octets,
        /// What stood there, if that was asked for: `Some(None)` says nothing did.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe")]
        previous: Option<Option<Kv>>,
    },
    /// So many keys were deleted.
    Deleted(u64),
}

impl Txn {
    /// Only this, without a condition.
    pub fn of(action: Action) -> Self {
        Self { then: vec![action], ..Self::default() }
    }

    /// No action of it, whatever the compares say, changes anything.
    pub fn only_reads(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|action| matches!(action, Action::Read { .. }))
    }
}

impl Input {
    /// Reads one key.
    pub fn get(key: impl Into<Octets>) -> Self {
        Self::Txn(Txn::of(Action::Read { span: Span::Key(key.into()), limit: None }))
    }

    /// Reads all keys of a range.
    pub fn range(start: impl Into<Octets>, end: Option<Octets>) -> Self {
        Self::Txn(Txn::of(Action::Read { span: Span::Range(start.into(), end), limit: None }))
    }

    /// Writes one key.
    pub fn put(key: impl Into<Octets>, value: impl Into<Octets>) -> Self {
        Self::Txn(Txn::of(Action::Put { key: key.into(), value: value.into(), lease: 0 }))
    }

    /// Deletes one key.
    pub fn delete(key: impl Into<Octets>) -> Self {
        Self::Txn(Txn::of(Action::Delete { span: Span::Key(key.into()) }))
    }

    /// Nothing of it can change anything.
    pub fn only_reads(&self) -> bool {
        matches!(self, Self::Txn(txn) if txn.only_reads())
    }
}

impl Answer {
    /// What a transaction without compares, or one whose compares held, answered.
    pub fn of(results: Vec<Done>) -> Self {
        Self { succeeded: true, results }
    }

    /// Something was changed: a key written, or one deleted.
    pub fn changed(&self) -> bool {
        self.results.iter().any(|done| match done {
            Done::Read(_) => false,
            Done::Put { .. } => true,
            Done::Deleted(keys) => *keys > 0,
        })
    }
}

/// Tells "nothing stood there" from "not asked for".
mod maybe {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, clippy::option_option, reason = "as serde calls it; see the field")]
    pub(super) fn serialize<T: Serialize, S: Serializer>(it: &Option<Option<T>>, to: S) -> Result<S::Ok, S::Error> {
        it.as_ref().map(Option::as_ref).unwrap_or_default().serialize(to)
    }

    #[expect(clippy::option_option, reason = "see the field")]
    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(from).map(Some)
    }
}

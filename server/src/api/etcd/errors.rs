//! The one table from what went wrong inside to the wire's codes and texts. Clients match the texts to the letter.
//!
//! Invariants:
//! - A text that the wire knows is written once, here.
//! - `no leader` is said only where the write has not happened; what may have happened is a time-out.

use std::borrow::Cow;

use quorate_proto::KeyError;
use quorate_state::outcome::Rejection;
use quorate_state::view::ReadError;
use tonic::{Code, Status};

use crate::api::errors::{Refusal, Trouble};
use crate::error::{ConsensusError, Happened};

/// Why a request was not done, in the wire's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// gRPC code.
    pub code: Code,
    /// Its text.
    pub text: Cow<'static, str>,
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $code:ident $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Refused =
            Refused { code: Code::$code, text: Cow::Borrowed(concat!("etcdserver: ", $text)) };)*
    };
}

texts! {
    /// A request without a key.
    EMPTY_KEY = InvalidArgument "key is not provided";
    /// A put that keeps what is not there; an empty operation of a transaction.
    KEY_NOT_FOUND = InvalidArgument "key not found";
    /// A value beside `ignore_value`.
    VALUE_PROVIDED = InvalidArgument "value is provided";
    /// A lease beside `ignore_lease`.
    LEASE_PROVIDED = InvalidArgument "lease is provided";
    /// A transaction that is too long or too deep.
    TOO_MANY_OPS = InvalidArgument "too many operations in txn request";
    /// A key that would be changed twice.
    DUPLICATE_KEY = InvalidArgument "duplicate key given in txn request";
    /// An enumeration's value that the wire does not know.
    INVALID_SORT_OPTION = InvalidArgument "invalid sort option";
    /// Key, value or request over a bound.
    TOO_LARGE = InvalidArgument "request is too large";
    /// Below the compaction mark.
    COMPACTED = OutOfRange "mvcc: required revision has been compacted";
    /// Above the store's revision.
    FUTURE_REVISION = OutOfRange "mvcc: required revision is a future revision";
    /// A time to live beyond the wire's bound.
    TTL_TOO_LARGE = OutOfRange "too large lease TTL";
    /// A member that the quorum needs is short of disk.
    NO_SPACE = ResourceExhausted "mvcc: database space exceeded";
    /// A bounded queue is full.
    TOO_MANY_REQUESTS = ResourceExhausted "too many requests";
    /// No such lease.
    LEASE_NOT_FOUND = NotFound "requested lease not found";
    /// The id of a new lease is in use.
    LEASE_EXISTS = FailedPrecondition "lease already exists";
    /// Nobody leads.
    NO_LEADER = Unavailable "no leader";
    /// This member is stopping.
    STOPPED = Unavailable "server stopped";
    /// It took too long, and may have happened.
    TIMED_OUT = Unavailable "request timed out";
    /// The answer was lost, so what was read is not known; the write has happened.
    ANSWER_LOST = Unavailable "request timed out, possibly due to connection lost";
    /// The store was replaced while it was read.
    BEHIND = Unavailable "request timed out, waiting for the applied index took too long";
    /// Members differ, and no digest has a majority.
    CORRUPT = DataLoss "corrupt cluster";
    /// This member has taken itself out of service.
    UNHEALTHY = Unavailable "unhealthy cluster";
}

/// The caller's deadline passed, in the words of the gRPC library that the wire's own clients use.
const DEADLINE: &str = "context deadline exceeded";

impl Refused {
    /// The request is wrong in a way that the wire has no text for.
    pub fn invalid(reason: impl std::fmt::Display) -> Self {
        Self { code: Code::InvalidArgument, text: format!("etcdserver: {reason}").into() }
    }

    /// Not something that comes as a stream.
    pub fn not_streamed(what: &str) -> Self {
        Self { code: Code::Unimplemented, text: format!("RangeStream does not support {what}").into() }
    }

    /// Not served here (yet); `instead` says how it is done.
    pub fn unimplemented(what: &str, instead: &str) -> Self {
        Self { code: Code::Unimplemented, text: format!("quorate: {what} is not served here; {instead}").into() }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        Self::new(refused.code, refused.text)
    }
}

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Empty => EMPTY_KEY,
            KeyError::TooLong { .. } => TOO_LARGE,
        }
    }
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Consensus(error) => error.into(),
            Trouble::Rejected(rejection) => rejection.into(),
            Trouble::Unreadable(error) => error.into(),
        }
    }
}

impl From<ConsensusError> for Refused {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::NoQuorum { happened: Happened::No, .. } => NO_LEADER,
            ConsensusError::NoQuorum { .. } => TIMED_OUT,
            ConsensusError::Overloaded { .. } => TOO_MANY_REQUESTS,
            ConsensusError::DiskSpace { .. } => NO_SPACE,
            ConsensusError::Deadline { .. } => Self { code: Code::DeadlineExceeded, text: DEADLINE.into() },
            ConsensusError::ShuttingDown => STOPPED,
            ConsensusError::MemberFailed { .. } => UNHEALTHY,
            ConsensusError::TooLarge { .. } => TOO_LARGE,
            ConsensusError::StateVersion { .. } => {
                Self { code: Code::FailedPrecondition, text: error.to_string().into() }
            }
            ConsensusError::Membership { reason } => Self::invalid(reason),
        }
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            // The one expectation that this door states is that the key is there.
            Rejection::Precondition { .. } | Rejection::KeyNotFound { .. } => KEY_NOT_FOUND,
            Rejection::LeaseNotFound { .. } => LEASE_NOT_FOUND,
            Rejection::LeaseExists { .. } => LEASE_EXISTS,
            Rejection::DuplicateKey { .. } => DUPLICATE_KEY,
            Rejection::TooManyChanges { .. } => TOO_LARGE,
            Rejection::FutureRevision { .. } => FUTURE_REVISION,
            Rejection::Compacted { .. } => COMPACTED,
            // Of the ids that the edge mints: whether an earlier attempt was applied is unknown.
            Rejection::RequestExpired | Rejection::RequestIdReused => TIMED_OUT,
            Rejection::NotAPath { .. } | Rejection::Overlap { .. } | Rejection::Invalid(_) => Self::invalid(rejection),
        }
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { .. } => COMPACTED,
            ReadError::Future { .. } => FUTURE_REVISION,
            ReadError::Fault(_) => BEHIND,
        }
    }
}

impl From<Refusal> for Refused {
    /// Of what both doors check alike; its words are the native ones.
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, text: refusal.message.into() }
    }
}

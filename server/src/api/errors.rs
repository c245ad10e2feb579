//! The one table from what went wrong inside to gRPC codes and error details.
//!
//! Invariants:
//! - Every refusal of a write says whether it has happened; `No` is said only where it is proven.
//! - A code says what to do: `INVALID_ARGUMENT` fix the request, `UNAVAILABLE` another member, `RESOURCE_EXHAUSTED`
//!   later, the others decide anew.

use prost::Message as _;
use quorate_proto::v1::error_detail::{Happened as WireHappened, Kind};
use quorate_proto::v1::{BatchError, ErrorDetail};
use quorate_proto::{KeyError, PathError};
use quorate_state::outcome::Rejection;
use quorate_state::view::ReadError;
use tonic::{Code, Status};

use crate::error::{ConsensusError, Happened};
use crate::recipes::RecipeError;
use crate::recipes::discovery::DiscoveryError;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// gRPC code.
    pub code: Code,
    /// What happened, to what, and what to do.
    pub message: String,
    /// The rest, for programs.
    pub detail: ErrorDetail,
}

impl Refusal {
    fn new(code: Code, kind: Kind, happened: Happened, message: impl Into<String>) -> Self {
        let detail = ErrorDetail { kind: kind.into(), happened: wire(happened).into(), ..ErrorDetail::default() };
        Self { code, message: message.into(), detail }
    }

    /// The request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, Kind::InvalidArgument, Happened::No, message)
    }

    /// The request is larger than allowed.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, Kind::TooLarge, Happened::No, message)
    }

    /// Something that must not happen did.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, Kind::Internal, Happened::Unknown, message)
    }

    /// This member cannot do it now; nothing was changed.
    pub fn member_failed(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, Kind::MemberFailed, Happened::No, message)
    }

    /// The member is stopping.
    pub fn shutting_down() -> Self {
        ConsensusError::ShuttingDown.into()
    }

    /// As an answer in a batch stream.
    pub fn into_batch_error(self) -> BatchError {
        BatchError { code: self.code.into(), message: self.message, detail: Some(self.detail) }
    }
}

fn wire(happened: Happened) -> WireHappened {
    match happened {
        Happened::No => WireHappened::No,
        Happened::Yes => WireHappened::Yes,
        Happened::Unknown => WireHappened::Unknown,
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::with_details(refusal.code, refusal.message, refusal.detail.encode_to_vec().into())
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Why a walk through the rooms came to nothing. Each door has its own words for it.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No outcome.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// Refused by the state machine.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Not readable.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Consensus(error) => error.into(),
            Trouble::Rejected(rejection) => rejection.into(),
            Trouble::Unreadable(error) => error.into(),
        }
    }
}

impl From<ConsensusError> for Refusal {
    fn from(error: ConsensusError) -> Self {
        let (code, kind) = match &error {
            ConsensusError::NoQuorum { .. } => (Code::Unavailable, Kind::NoQuorum),
            ConsensusError::Overloaded { .. } => (Code::ResourceExhausted, Kind::Overloaded),
            ConsensusError::DiskSpace { .. } => (Code::ResourceExhausted, Kind::DiskSpace),
            ConsensusError::Deadline { .. } => (Code::DeadlineExceeded, Kind::Deadline),
            ConsensusError::ShuttingDown => (Code::Unavailable, Kind::ShuttingDown),
            ConsensusError::MemberFailed { .. } => (Code::Unavailable, Kind::MemberFailed),
            ConsensusError::TooLarge { .. } => (Code::InvalidArgument, Kind::TooLarge),
            ConsensusError::StateVersion { .. } => (Code::FailedPrecondition, Kind::StateVersion),
            ConsensusError::Membership { .. } => (Code::FailedPrecondition, Kind::Membership),
        };
        let mut refusal = Self::new(code, kind, error.happened(), error.to_string());
        if let ConsensusError::Overloaded { retry_after, .. } = error {
            refusal.detail.retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        }
        refusal
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let (code, kind) = match &rejection {
            Rejection::Precondition { .. } => (Code::FailedPrecondition, Kind::Precondition),
            Rejection::KeyNotFound { .. } => (Code::NotFound, Kind::KeyNotFound),
            Rejection::LeaseNotFound { .. } => (Code::NotFound, Kind::LeaseNotFound),
            Rejection::LeaseExists { .. } => (Code::AlreadyExists, Kind::LeaseExists),
            Rejection::TooManyChanges { .. } => (Code::InvalidArgument, Kind::TooLarge),
            Rejection::FutureRevision { .. } => (Code::OutOfRange, Kind::FutureRevision),
            Rejection::Compacted { .. } => (Code::OutOfRange, Kind::Compacted),
            Rejection::RequestExpired => (Code::Aborted, Kind::RequestExpired),
            Rejection::NotAPath { .. }
            | Rejection::DuplicateKey { .. }
            | Rejection::Overlap { .. }
            | Rejection::RequestIdReused
            | Rejection::Invalid(_) => (Code::InvalidArgument, Kind::InvalidArgument),
        };
        let happened = match rejection {
            Rejection::RequestExpired => Happened::Unknown,
            _ => Happened::No,
        };
        let mut refusal = Self::new(code, kind, happened, rejection.to_string());
        match rejection {
            Rejection::Precondition { current, .. } => refusal.detail.current_mod_revision = current.get(),
            Rejection::Compacted { compacted, .. } => refusal.detail.compact_revision = compacted.get(),
            _ => {}
        }
        refusal
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Compacted { compacted, .. } => {
                let mut refusal = Self::new(Code::OutOfRange, Kind::Compacted, Happened::No, text);
                refusal.detail.compact_revision = compacted.get();
                refusal
            }
            ReadError::Future { .. } => Self::new(Code::OutOfRange, Kind::FutureRevision, Happened::No, text),
            // Also what a view gets whose store was replaced by a snapshot: another try reads the new one.
            ReadError::Fault(_) => Self::new(Code::Unavailable, Kind::MemberFailed, Happened::No, text),
        }
    }
}

impl From<RecipeError> for Refusal {
    /// A lock that is busy, or that does not go together with what was asked, is `FAILED_PRECONDITION`: nothing comes of
    /// trying again at once. A hold that was lost is `ABORTED`: begin anew.
    fn from(error: RecipeError) -> Self {
        let (code, kind) = match error {
            RecipeError::Trouble(trouble) => return trouble.into(),
            RecipeError::Busy { .. } => (Code::FailedPrecondition, Kind::LockBusy),
            RecipeError::Conflict(_) => (Code::FailedPrecondition, Kind::LockConflict),
            RecipeError::Lost { .. } => (Code::Aborted, Kind::LockLost),
        };
        Self::new(code, kind, Happened::No, error.to_string())
    }
}

impl From<DiscoveryError> for Refusal {
    fn from(error: DiscoveryError) -> Self {
        let text = error.to_string();
        let (code, kind) = match error {
            DiscoveryError::Trouble(trouble) => return trouble.into(),
            DiscoveryError::Refused(refusal) => return refusal,
            DiscoveryError::Invalid(_) => (Code::InvalidArgument, Kind::InvalidArgument),
            DiscoveryError::TooLarge(_) => (Code::InvalidArgument, Kind::TooLarge),
            DiscoveryError::NotFound { .. } => (Code::NotFound, Kind::InstanceNotFound),
            DiscoveryError::Exists { .. } => (Code::AlreadyExists, Kind::InstanceExists),
            DiscoveryError::Malformed { .. } => (Code::FailedPrecondition, Kind::Precondition),
            DiscoveryError::Contended { .. } => (Code::Aborted, Kind::Precondition),
            DiscoveryError::Unavailable(_) => (Code::Unavailable, Kind::NoQuorum),
        };
        Self::new(code, kind, Happened::No, text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_proto::{Key, MemberId, Revision};

    use super::*;

    #[test]
    fn details_travel_in_the_status() {
        let key = Key::new("/a").unwrap();
        let rejection = Rejection::Precondition { key, reason: "it is there".into(), current: Revision(7) };
        let status = Status::from(Refusal::from(rejection));
        assert_eq!(status.code(), Code::FailedPrecondition);
        let detail = ErrorDetail::decode(status.details()).unwrap();
        assert_eq!((detail.kind(), detail.happened()), (Kind::Precondition, WireHappened::No));
        assert_eq!(detail.current_mod_revision, 7);
    }

    #[test]
    fn whether_it_happened_is_told_as_consensus_knows_it() {
        let unknown = Happened::Unknown;
        let cases: Vec<(ConsensusError, Code, WireHappened)> = vec![
            (
                ConsensusError::NoQuorum { reason: "x".into(), happened: unknown },
                Code::Unavailable,
                WireHappened::Unknown,
            ),
            (
                ConsensusError::Deadline { waiting_for: "x", happened: Happened::No },
                Code::DeadlineExceeded,
                WireHappened::No,
            ),
            (ConsensusError::ShuttingDown, Code::Unavailable, WireHappened::No),
            (
                ConsensusError::DiskSpace { member: MemberId::new(1).unwrap() },
                Code::ResourceExhausted,
                WireHappened::No,
            ),
            (
                ConsensusError::Overloaded { queue: "x", retry_after: Duration::from_millis(30) },
                Code::ResourceExhausted,
                WireHappened::No,
            ),
        ];
        for (error, code, happened) in cases {
            let refusal = Refusal::from(error.clone());
            assert_eq!((refusal.code, refusal.detail.happened()), (code, happened), "{error}");
        }
    }

    #[test]
    fn an_expired_request_id_leaves_the_outcome_unknown() {
        let refusal = Refusal::from(Rejection::RequestExpired);
        assert_eq!((refusal.code, refusal.detail.happened()), (Code::Aborted, WireHappened::Unknown));
    }
}

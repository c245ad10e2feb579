//! What can go wrong between a door and the log, and whether the write happened all the same.
//!
//! Invariants:
//! - `Happened::No` is claimed only where our own checks, or a refusal before append, prove it; everything that
//!   may have reached a log is `Unknown`.

use std::time::Duration;

use quorate_proto::MemberId;

/// Whether a write has taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It has not and will not.
    No,
    /// It has.
    Yes,
    /// It may have, or may yet. A retry must carry the same request id.
    Unknown,
}

/// Why consensus gave no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsensusError {
    /// No leader is known, or it cannot reach a quorum.
    #[error("no quorum: {reason}; try again, or another member")]
    NoQuorum {
        /// What was seen.
        reason: String,
        /// Whether the write happened.
        happened: Happened,
    },
    /// A bounded queue is full.
    #[error("overloaded: {queue} is full; try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// Which queue.
        queue: &'static str,
        /// When to come back.
        retry_after: Duration,
    },
    /// A member that the quorum needs is short of disk.
    #[error(
        "disk space is short on member {member}: nothing that grows is taken; delete keys and compact (quorate compact --keep 1), \
         or give it more disk, and it clears by itself"
    )]
    DiskSpace {
        /// Where.
        member: MemberId,
    },
    /// The caller's deadline passed.
    #[error("the deadline passed while waiting for {waiting_for}")]
    Deadline {
        /// What it was waiting for.
        waiting_for: &'static str,
        /// Whether the write happened.
        happened: Happened,
    },
    /// The member is stopping.
    #[error("this member is shutting down; use another")]
    ShuttingDown,
    /// The member has taken itself out of service.
    #[error("this member cannot serve: {reason}; use another")]
    MemberFailed {
        /// Why.
        reason: String,
        /// Whether the write happened.
        happened: Happened,
    },
    /// An encoded command is over the bound.
    #[error("the command has {bytes} bytes encoded, at most {bytes_max} are allowed; split it")]
    TooLarge {
        /// How large.
        bytes: usize,
        /// Bound.
        bytes_max: usize,
    },
    /// A command that not all members may know.
    #[error(
        "the command needs state version {needed}, the cluster is at {in_force}: upgrade all members first, then it rises \
         by itself (quorate status shows the members)"
    )]
    StateVersion {
        /// Of the command.
        needed: u32,
        /// Of the cluster.
        in_force: u32,
    },
    /// A change of membership was refused.
    #[error("{reason}")]
    Membership {
        /// Why, and what to do.
        reason: String,
    },
}

impl ConsensusError {
    /// Whether the write that failed so has taken effect.
    pub fn happened(&self) -> Happened {
        match self {
            Self::NoQuorum { happened, .. } | Self::Deadline { happened, .. } | Self::MemberFailed { happened, .. } => {
                *happened
            }
            Self::Overloaded { .. }
            | Self::DiskSpace { .. }
            | Self::ShuttingDown
            | Self::TooLarge { .. }
            | Self::StateVersion { .. }
            | Self::Membership { .. } => Happened::No,
        }
    }
}

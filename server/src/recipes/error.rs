//! What can go wrong with a lock or an election, beside what can go wrong with any read and write.
//!
//! Invariants:
//! - After [`RecipeError::Busy`], [`RecipeError::Lost`] and [`RecipeError::Conflict`] the caller neither holds nor waits
//!   by this call.

use crate::api::Trouble;
use crate::error::{ConsensusError, Happened};

/// Why a hold was not had, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Others hold, and it was not to be waited for, or not any longer.
    #[error("{name} is held by others; try again later, or wait for it")]
    Busy {
        /// Of the lock or election.
        name: String,
    },
    /// The key is gone.
    #[error(
        "{what} of {name} is gone: its lease ended, or it was taken away; begin anew with a lease that is kept alive"
    )]
    Lost {
        /// A hold, a place, a leadership.
        what: &'static str,
        /// Of the lock or election.
        name: String,
    },
    /// It does not go together with what is there.
    #[error("{0}")]
    Conflict(String),
    /// No outcome, or refused.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

impl From<ConsensusError> for RecipeError {
    fn from(error: ConsensusError) -> Self {
        Self::Trouble(error.into())
    }
}

impl RecipeError {
    /// The caller's deadline has passed.
    pub(super) fn deadline(happened: Happened) -> Self {
        ConsensusError::Deadline { waiting_for: "the lock to become free", happened }.into()
    }

    /// This member cannot say when it is the caller's turn.
    pub(super) fn no_leader() -> Self {
        let reason =
            "this member has lost contact with the leader; the place in the line is kept for another call".into();
        ConsensusError::NoQuorum { reason, happened: Happened::Unknown }.into()
    }

    /// The line was changed by others again and again.
    pub(super) fn contended() -> Self {
        let retry_after = std::time::Duration::from_millis(50);
        ConsensusError::Overloaded { queue: "the line of changes to this lock", retry_after }.into()
    }
}

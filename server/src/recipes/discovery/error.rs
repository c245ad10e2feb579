//! Why something asked of discovery was not done.
//!
//! Invariants:
//! - Each variant says what happened, to which instance, and what to do.

use crate::api::{Refusal, Trouble};

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// More than one answer may have.
    #[error("{0}")]
    TooLarge(String),
    /// There is no such instance.
    #[error("there is no {name}: it has expired, was deregistered, or was never registered")]
    NotFound {
        /// Which.
        name: String,
    },
    /// Somebody else has this id.
    #[error("{name} is registered by another: {by}; choose another id, or deregister that one first")]
    Exists {
        /// Which.
        name: String,
        /// Who, and since when.
        by: String,
    },
    /// What stands there is no instance.
    #[error("the document of {name} cannot be read ({reason}); mend it, or deregister it")]
    Malformed {
        /// Which.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Others kept changing it.
    #[error("{name} was changed by others again and again meanwhile; try again")]
    Contended {
        /// Which.
        name: String,
    },
    /// This member cannot say now; others can.
    #[error("{0}")]
    Unavailable(String),
    /// The cluster could not do it.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// Refused before it was tried.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl DiscoveryError {
    /// The request itself is wrong.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}

//! What the leader's jobs need of consensus, and nothing more, so that they are tested without it.
//!
//! Invariants:
//! - Everything is bound to a term: a leader that was deposed proposes nothing more.

use futures::future::BoxFuture;
use quorate_state::command::{Command, Envelope, Principal};
use tokio::time::Instant;

use crate::consensus::{Consensus, Proposed};
use crate::error::ConsensusError;

/// A quorum, as the leader of a term reaches it.
pub trait Quorum: Send + Sync + 'static {
    /// A round that began after the call has confirmed leadership in `term`.
    fn confirm(&self, term: u64, deadline: Instant) -> BoxFuture<'_, Result<(), ConsensusError>>;
    /// Proposes, if this member still leads in `term`.
    fn propose(
        &self,
        term: u64,
        command: Command,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>>;
}

impl Quorum for Consensus {
    fn confirm(&self, term: u64, deadline: Instant) -> BoxFuture<'_, Result<(), ConsensusError>> {
        Box::pin(self.confirm_leadership(term, deadline))
    }

    fn propose(
        &self,
        term: u64,
        command: Command,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>> {
        let envelope = Envelope { request: None, principal: Principal::default(), command };
        Box::pin(self.propose_in_term(term, envelope, deadline))
    }
}

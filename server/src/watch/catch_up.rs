//! Reading what a watch missed, from history.
//!
//! Invariants:
//! - Each chunk takes a fresh view; start ≥ compact revision is checked in that very view, and nothing past its
//!   revision is claimed to be covered.
//! - A chunk makes progress: `next` is greater than `from` unless `from` is in the future of the view.

use std::sync::Arc;

use futures::future::BoxFuture;
use quorate_proto::{Key, Revision};
use quorate_state::outcome::{KeyValue, RevisionChanges};
use quorate_state::store::Store as _;
use quorate_state::view::{ReadError, View};
use tokio::time::Instant;

use super::interest::Interest;
use crate::consensus::Consensus;
use crate::error::ConsensusError;

/// A piece of history.
#[derive(Debug)]
pub struct Chunk {
    /// Matching changes only, of every kind that the key's scope holds; whole revisions.
    pub revisions: Vec<RevisionChanges>,
    /// First revision that is not covered.
    pub next: Revision,
}

/// Where a session reads what the window does not hold. The methods that are not async block, and are called off the
/// door's runtime.
pub trait History: Send + Sync + 'static {
    /// Changes from `from` on, up to about `bytes_max` of them.
    fn chunk(&self, from: Revision, interest: &Interest, bytes_max: usize) -> Result<Chunk, ReadError>;
    /// What stood at each key before a change at `changed`, by the revision of that version; `None` where it is compacted.
    fn previous(&self, wanted: &[(Key, Revision)], changed: Revision) -> Result<Vec<Option<KeyValue>>, ReadError>;
    /// Waits until the store has reached the revision.
    fn reached(&self, revision: Revision, deadline: Instant) -> BoxFuture<'static, Result<(), ConsensusError>>;
}

/// The history that this member's store holds.
pub struct ConsensusHistory(pub Arc<Consensus>);

impl History for ConsensusHistory {
    fn chunk(&self, from: Revision, interest: &Interest, bytes_max: usize) -> Result<Chunk, ReadError> {
        let store = self.0.store();
        let view = View::new(store.snapshot())?;
        if from > view.revision() {
            return Ok(Chunk { revisions: Vec::new(), next: from });
        }
        let chunk = view.changes(from, bytes_max, |key| interest.holds(key))?;
        assert!(chunk.next > from && chunk.next <= view.revision().next(), "a chunk covers what it read, no more");
        Ok(Chunk { revisions: chunk.revisions, next: chunk.next })
    }

    fn previous(&self, wanted: &[(Key, Revision)], changed: Revision) -> Result<Vec<Option<KeyValue>>, ReadError> {
        let store = self.0.store();
        let view = View::new(store.snapshot())?;
        wanted.iter().map(|(key, revision)| view.previous(key, *revision, changed)).collect()
    }

    fn reached(&self, revision: Revision, deadline: Instant) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let consensus = Arc::clone(&self.0);
        Box::pin(async move { consensus.wait_revision(revision, deadline).await })
    }
}

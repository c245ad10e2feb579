//! Reading what a watch missed, from history.
//!
//! Invariants:
//! - Each chunk takes a fresh view; start ≥ compact revision is checked in that very view, and nothing past its
//!   revision is claimed to be covered.
//! - A chunk makes progress: `next` is greater than `from` unless `from` is in the future of the view.

use std::sync::Arc;

use futures::future::BoxFuture;
use quorate_proto::{Key, Revision};
use quorate_state::flaw::Flaw;
use quorate_state::outcome::{KeyValue, RevisionChanges};
use quorate_state::store::Store as _;
use quorate_state::view::{ReadError, View};
use tokio::time::Instant;

use super::interest::Interest;
use super::notice::Picked;
use super::watcher::Watcher;
use super::window::Published;
use crate::consensus::Consensus;
use crate::error::ConsensusError;

/// Bytes of a chunk. Each of many slow readers may hold one.
const CHUNK_BYTES_MAX: usize = 256 << 10;

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
        let of = |revision: Revision| if Flaw::WrongPrevious.is_put_in() { changed } else { revision };
        wanted.iter().map(|(key, revision)| view.previous(key, of(*revision), changed)).collect()
    }

    fn reached(&self, revision: Revision, deadline: Instant) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let consensus = Arc::clone(&self.0);
        Box::pin(async move { consensus.wait_revision(revision, deadline).await })
    }
}

/// Reads what a watch missed from `from` on, and the first revision that this does not cover.
pub fn read(
    history: &dyn History,
    watcher: &Watcher,
    from: Revision,
    previous_values: bool,
) -> Result<(Vec<Picked>, Revision), ReadError> {
    let Chunk { revisions, next } = history.chunk(from, watcher.interest(), CHUNK_BYTES_MAX)?;
    let mut items = Vec::with_capacity(revisions.len());
    for revision in revisions {
        assert!(revision.revision >= from && revision.revision < next, "history gives what was asked for");
        let item = Arc::new(Published::new(revision));
        let wanted = (0..).zip(&item.changes).filter(|(_, change)| watcher.interest().wants(change));
        let changes: Vec<u32> = wanted.map(|(at, _)| at).collect();
        if !changes.is_empty() {
            items.push(Picked { item, changes, previous: Vec::new() });
        }
    }
    if previous_values {
        fill_previous(history, &mut items)?;
    }
    Ok((items, next))
}

/// Fetches what stood there before each change.
pub fn fill_previous(history: &dyn History, items: &mut [Picked]) -> Result<(), ReadError> {
    for picked in items {
        let changes = picked.changes.iter().filter_map(|at| picked.item.changes.get(*at as usize));
        let wanted: Vec<(Key, Revision)> = changes.map(|change| (change.key.clone(), change.previous)).collect();
        let created = |(_, previous): &&(Key, Revision)| previous.get() == 0;
        if wanted.iter().filter(created).count() == wanted.len() {
            picked.previous = vec![None; wanted.len()];
        } else {
            picked.previous = history.previous(&wanted, picked.item.revision)?;
        }
    }
    Ok(())
}

//! Purging of compacted history: local, in small steps, invisible to every permitted read.
//!
//! Invariants:
//! - Deleted is only what a later revision ≤ the compaction mark has superseded: never the newest version ≤ R of a
//!   key for an R that may be read. A tombstone goes in the same write as the version below it or later.
//! - How far the purge came is in the same write as the deletions.
//! - A record of `r` stays while its revisions may be watched (≥ the mark) or its requests may be remembered.
//! - The mark is read from the store that is purged, so a store that holds a purge holds its command too.

use quorate_proto::Revision;

use crate::codec::{keys, records};
use crate::flaw::Flaw;
use crate::outcome::Fault;
use crate::store::{Cursor, Read, Store, WriteBatch};
use crate::view;

/// Changes dealt with in one step.
pub const CHANGES_PER_STEP: u64 = 1000;

/// Steps between two removals of records, if there is more to do.
const STEPS_PER_DROP: u64 = 16;

/// Whether there is more to purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// Nothing is left to do.
    Done,
    /// Call again, after a pause.
    More,
}

/// Compacted revisions that are not purged yet.
pub fn backlog<R: Read>(read: &R) -> Result<u64, Fault> {
    let left = view::head(read)?.compacted.0.saturating_sub(purged(read)?.revision.0);
    Ok(u64::try_from(left).unwrap_or(0))
}

/// Purges a bounded amount of compacted history in one write.
pub fn purge_step<S: Store>(store: &S) -> Result<Purge, Fault> {
    purge_at_most(store, CHANGES_PER_STEP)
}

/// The same with another bound, so that tests reach it with few changes.
pub(crate) fn purge_at_most<S: Store>(store: &S, changes_max: u64) -> Result<Purge, Fault> {
    let mark = view::head(store)?.compacted;
    let before = purged(store)?;
    let mut step = Step { purged: before, batch: WriteBatch::default(), changes: 0, changes_max };
    let more = if before.revision < mark { step.walk(store, mark)? } else { false };
    if step.changes > 0 {
        step.purged.steps += 1;
    }
    if step.purged.steps > 0 && (!more || step.purged.steps >= STEPS_PER_DROP) {
        step.drop_records(store, mark)?;
    }
    if step.purged != before {
        step.batch.put(keys::PURGED, step.purged.encode());
        store.write(step.batch)?;
    }
    Ok(if more { Purge::More } else { Purge::Done })
}

pub(crate) fn purged<R: Read>(read: &R) -> Result<records::Purged, Fault> {
    Ok(read.get(keys::PURGED)?.map(|bytes| records::Purged::decode(&bytes)).transpose()?.unwrap_or_default())
}

/// Where a walk over changes ends: with the records, at the mark, or because the step is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Records,
    Mark,
    Full,
}

struct Step {
    purged: records::Purged,
    batch: WriteBatch,
    changes: u64,
    changes_max: u64,
}

impl Step {
    /// Deals with changes after what is purged up to the mark. True: there are more.
    fn walk<S: Store>(&mut self, store: &S, mark: Revision) -> Result<bool, Fault> {
        let mut cursor = store.cursor(false);
        let from = self.purged.revision.next();
        cursor.seek_for_prev(&keys::record(from, u64::MAX));
        if cursor.entry().is_none_or(|(key, _)| key.first() != Some(&keys::table::RECORD)) {
            cursor.status()?;
            cursor.seek(&keys::record(from, 0));
        }
        let mut end = End::Records;
        while let Some((key, value)) = cursor.entry() {
            if key.first() != Some(&keys::table::RECORD) || end != End::Records {
                break;
            }
            let (first, _) = keys::split_record(key)?;
            records::visit_changes(value, first, |revision, position, change| {
                end = self.change(mark, revision, position, change);
                end == End::Records
            })?;
            cursor.next();
        }
        cursor.status()?;
        if end == End::Full {
            cov_mark::hit!(purge_step_is_full);
            return Ok(true);
        }
        (self.purged.revision, self.purged.changes) = (mark, 0);
        Ok(false)
    }

    /// Deals with one change. Anything but `End::Records`: it was not dealt with, and the walk is over.
    fn change(&mut self, mark: Revision, revision: Revision, position: u64, change: records::ChangeRef<'_>) -> End {
        if revision > mark {
            return End::Mark;
        }
        if revision <= self.purged.revision {
            return End::Records;
        }
        if revision > self.purged.revision.next() {
            (self.purged.revision, self.purged.changes) = (Revision(revision.0 - 1), 0);
        }
        if position < self.purged.changes {
            return End::Records;
        }
        if self.changes >= self.changes_max {
            return End::Full;
        }
        if change.previous > Revision::ZERO {
            self.batch.delete(keys::history(change.key, change.previous));
        }
        if change.kind != records::ChangeTag::Put || Flaw::CompactsTooMuch.is_put_in() {
            self.batch.delete(keys::history(change.key, revision));
        }
        self.changes += 1;
        self.purged.changes += 1;
        End::Records
    }

    /// Drops the records that neither a watch nor the memory of requests needs any more.
    fn drop_records<S: Store>(&mut self, store: &S, mark: Revision) -> Result<(), Fault> {
        self.purged.steps = 0;
        let head = view::head(store)?;
        let window = (head.window_revision, head.forgotten_index.saturating_add(1));
        // The record that holds the first revision still needed: the mark itself, or the first not purged.
        let needed = mark.min(self.purged.revision.next());
        let mut cursor = store.cursor(false);
        cursor.seek_for_prev(&keys::record(needed, u64::MAX));
        let Some((key, _)) = cursor.entry().filter(|(key, _)| key.first() == Some(&keys::table::RECORD)) else {
            return Ok(cursor.status()?);
        };
        let (revision, index) = keys::split_record(key)?.min(window);
        let dropped = (self.purged.dropped_revision, self.purged.dropped_index);
        if (revision, index) > dropped {
            cov_mark::hit!(purge_drops_records);
            self.batch.delete_range(keys::record(dropped.0, dropped.1), keys::record(revision, index));
            (self.purged.dropped_revision, self.purged.dropped_index) = (revision, index);
        }
        Ok(())
    }
}

//! The recent window: the newest revisions, in memory, bounded by bytes.
//!
//! Invariants:
//! - Revisions in it follow each other without a gap and end at `revision`.
//! - It is over its bound by at most its newest revision, which it always keeps. What the wires make of its events
//!   comes on top: about as much again for each wire on which somebody watches them.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use quorate_proto::Revision;
use quorate_state::outcome::{Change, ChangeKind, RevisionChanges};

use super::encoded::{Encoded, WIRES, Wire};

/// What a revision weighs besides its changes: itself, the counts of its [`Arc`], and its place in the window.
const REVISION_BYTES: usize = size_of::<Published>() + 4 * size_of::<usize>();
/// What a change weighs besides its key and value: itself, and what counts who shares the two.
const CHANGE_BYTES: usize = size_of::<Change>() + 2 * 4 * size_of::<usize>();

/// What one transaction changed, shared by all who read it.
#[derive(Debug)]
pub struct Published {
    /// Its revision.
    pub revision: Revision,
    /// In the order in which they were made.
    pub changes: Vec<Change>,
    /// What it weighs in memory, roughly.
    pub bytes: usize,
    /// Boxed: mostly nobody watches.
    encoded: [OnceLock<Box<Encoded>>; WIRES],
}

impl Published {
    /// Takes over what apply or history gave.
    pub fn new(revision: RevisionChanges) -> Self {
        let bytes = REVISION_BYTES + revision.changes.iter().map(change_bytes).sum::<usize>();
        Self { revision: revision.revision, changes: revision.changes, bytes, encoded: Default::default() }
    }

    /// Its events as a wire has them. `encode` is called the first time.
    pub fn encoded(&self, wire: Wire, encode: impl FnOnce() -> Encoded) -> &Encoded {
        let [native, etcd] = &self.encoded;
        match wire {
            Wire::Native => native,
            Wire::Etcd => etcd,
        }
        .get_or_init(|| Box::new(encode()))
    }
}

fn change_bytes(change: &Change) -> usize {
    let value = match &change.kind {
        ChangeKind::Put { value, .. } => value.len(),
        ChangeKind::Delete { .. } => 0,
    };
    CHANGE_BYTES + change.key.as_bytes().len() + value
}

/// The newest revisions.
#[derive(Debug)]
pub struct Window {
    items: VecDeque<Arc<Published>>,
    bytes: usize,
    bytes_max: usize,
    revision: Revision,
}

impl Window {
    /// Empty, after `revision`.
    pub fn new(bytes_max: usize, revision: Revision) -> Self {
        Self { items: VecDeque::new(), bytes: 0, bytes_max, revision }
    }

    /// The newest revision published.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that it can give; one past the newest when it holds nothing.
    pub fn first(&self) -> Revision {
        self.items.front().map_or(self.revision.next(), |oldest| oldest.revision)
    }

    /// Adds the next revision and lets go of the oldest ones.
    pub fn push(&mut self, item: Arc<Published>) {
        assert_eq!(item.revision, self.revision.next(), "revisions are published without a gap");
        self.revision = item.revision;
        self.bytes += item.bytes;
        self.items.push_back(item);
        while self.bytes > self.bytes_max && self.items.len() > 1 {
            if let Some(oldest) = self.items.pop_front() {
                self.bytes -= oldest.bytes;
            }
        }
    }

    /// Forgets everything; the store is at `revision` now.
    pub fn reset(&mut self, revision: Revision) {
        *self = Self::new(self.bytes_max, revision);
    }

    /// What was published at `revision`, if it is still here.
    pub fn get(&self, revision: Revision) -> Option<&Arc<Published>> {
        let at = usize::try_from(revision.get().checked_sub(self.first().get())?).ok()?;
        self.items.get(at)
    }

    /// Everything from `revision` on; `revision` must not be older than [`Window::first`].
    pub fn since(&self, revision: Revision) -> impl Iterator<Item = &Arc<Published>> {
        let skip = usize::try_from(revision.get().saturating_sub(self.first().get())).unwrap_or(0);
        self.items.iter().skip(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tests::put;

    #[test]
    fn old_revisions_leave_when_the_bytes_are_over_the_bound() {
        let mut window = Window::new(3 * (REVISION_BYTES + CHANGE_BYTES + 3), Revision(10));
        assert_eq!(window.first(), Revision(11));
        for revision in 11..=15 {
            window.push(Arc::new(Published::new(put(revision, "/a", "x", 0))));
        }
        assert_eq!((window.first(), window.revision()), (Revision(13), Revision(15)));
        assert!(window.get(Revision(12)).is_none());
        assert_eq!(window.get(Revision(14)).unwrap().revision, Revision(14));
        assert!(window.get(Revision(16)).is_none());
        assert_eq!(window.since(Revision(14)).count(), 2);
        assert_eq!(window.since(Revision(16)).count(), 0);
    }

    #[test]
    #[should_panic(expected = "without a gap")]
    fn a_gap_is_not_published() {
        let mut window = Window::new(1000, Revision(10));
        window.push(Arc::new(Published::new(put(12, "/a", "x", 0))));
    }
}

//! Who led an election lately: written by its follower, read by those who observe it; and what only a leader may do.
//!
//! Invariants:
//! - No term is passed over: who has fallen so far behind that one is forgotten is told so, and so is everybody when the
//!   line was begun anew.
//! - Of the values of one term the newest is told; the order of terms is that of the store.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::{Key, Revision};
use quorate_state::command::{Compare, Relation, Target, Txn, TxnOp};
use quorate_state::outcome::KeyValue;
use tokio::time::Instant;

use super::error::RecipeError;
use super::holds::put_value;
use super::lines::Followed;
use super::look::Contest;
use crate::api::{Trouble, Written};
use crate::error::{ConsensusError, Happened};
use crate::sync::watch;

/// Terms that are remembered for those who are slow, and the bytes of their leaders' values.
const TERMS_MAX: usize = 1_024;
const TERMS_BYTES_MAX: usize = 4 << 20;

/// Who led, in order.
pub struct Leaders {
    terms: Mutex<Terms>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Terms {
    seen: VecDeque<Observed>,
    /// Of the values in `seen`.
    bytes: usize,
    /// How many were forgotten.
    forgotten: u64,
}

/// Who led at a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Since then, as far as the value goes.
    pub revision: Revision,
    /// The leader; `None`: nobody.
    pub leader: Option<KeyValue>,
}

impl Default for Leaders {
    fn default() -> Self {
        Self { terms: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Leaders {
    /// Whether this leader, as of that change, is not what was noted last.
    pub(super) fn is_news(&self, leader: Option<(&Key, Revision)>) -> bool {
        let terms = self.terms.lock();
        let last = terms.seen.back();
        last.is_none_or(|last| last.leader.as_ref().map(|kv| (&kv.key, kv.meta.mod_revision)) != leader)
    }

    /// Notes who leads at `revision`.
    pub(super) fn note(&self, revision: Revision, leader: Option<KeyValue>) {
        self.terms.lock().note(Observed { revision, leader });
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// What comes next is not known to follow what was noted last: whoever observes is told so.
    pub(super) fn forget(&self) {
        let mut terms = self.terms.lock();
        while terms.forget_first() {}
    }

    /// The term that was noted last. Waits for the first. `None`: the follower has ended, with its member.
    async fn newest(&self, mut changed: watch::Receiver<u64>) -> Option<u64> {
        loop {
            changed.borrow_and_update();
            let newest = self.terms.lock().newest();
            match newest {
                Some(newest) => return Some(newest),
                None => changed.changed().await.ok()?,
            }
        }
    }
}

/// Observes one election. Safe to drop at any time.
pub struct Observer {
    contest: Contest,
    /// It ends when this member loses contact with its leader.
    needs_leader: bool,
    followed: Arc<Followed>,
    changed: watch::Receiver<u64>,
    /// The term that was told last, counted from the first that was noted.
    at: u64,
    /// Everything up to here was told.
    told: Revision,
}

impl Observer {
    /// Begins, and says who leads now. Waits until this member has reached `min_revision`.
    pub async fn begin(
        contest: Contest,
        min_revision: Option<Revision>,
        needs_leader: bool,
        deadline: Instant,
    ) -> Result<(Self, Observed), RecipeError> {
        let followed = contest.rooms.lines.join(&contest);
        let changed = followed.leaders.changed.subscribe();
        // What was noted until now was so before the look.
        let newest = tokio::time::timeout_at(deadline, followed.leaders.newest(changed.clone())).await;
        let late = ConsensusError::Deadline { waiting_for: "the line of the election", happened: Happened::No };
        let at = newest.map_err(|_| late)?.ok_or(ConsensusError::ShuttingDown)?;
        contest.rooms.barrier(deadline).await?;
        if let Some(revision) = min_revision {
            let reached = contest.rooms.consensus.wait_revision(revision, deadline).await;
            reached.map_err(|error| contest.rooms.explain(error))?;
        }
        let (leader, told) = contest.leader().await?;
        Ok((Self { contest, needs_leader, followed, changed, at, told }, Observed { revision: told, leader }))
    }

    /// The next leader, or the leader's next value. `None`: the member is stopping.
    pub async fn next(&mut self) -> Option<Result<Observed, RecipeError>> {
        loop {
            self.changed.borrow_and_update();
            if let Some(next) = self.look() {
                return Some(next);
            }
            let mut contact = self.contest.rooms.hub.contact_lost();
            tokio::select! {
                biased;
                () = self.contest.rooms.closing() => return None,
                changed = self.changed.changed() => changed.ok()?,
                _ = contact.wait_for(|lost| *lost), if self.needs_leader => return Some(Err(RecipeError::no_leader())),
            }
        }
    }

    fn look(&mut self) -> Option<Result<Observed, RecipeError>> {
        let terms = self.followed.leaders.terms.lock();
        loop {
            let Some(at) = self.at.checked_sub(terms.forgotten) else {
                return Some(Err(RecipeError::contended()));
            };
            let seen = terms.seen.get(usize::try_from(at).ok()?)?;
            if seen.revision > self.told {
                self.told = seen.revision;
                return Some(Ok(seen.clone()));
            }
            if at + 1 == u64::try_from(terms.seen.len()).ok()? {
                return None;
            }
            self.at += 1;
        }
    }
}

impl Terms {
    /// Of one term, only the newest value stays.
    fn note(&mut self, observed: Observed) {
        let term = |leader: &Option<KeyValue>| leader.as_ref().map(|kv| (kv.key.clone(), kv.meta.create_revision));
        if let Some(last) = self.seen.back()
            && term(&last.leader) == term(&observed.leader)
        {
            self.bytes -= last.bytes();
            self.seen.pop_back();
        }
        self.bytes += observed.bytes();
        self.seen.push_back(observed);
        while self.seen.len() > 1 && (self.seen.len() > TERMS_MAX || self.bytes > TERMS_BYTES_MAX) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) -> bool {
        let Some(first) = self.seen.pop_front() else { return false };
        self.bytes -= first.bytes();
        self.forgotten += 1;
        true
    }

    fn newest(&self) -> Option<u64> {
        Some(self.forgotten + u64::try_from(self.seen.len()).ok()?.checked_sub(1)?)
    }
}

impl Observed {
    fn bytes(&self) -> usize {
        self.leader.as_ref().map_or(0, |kv| kv.value.len())
    }
}

/// Changes the value of the contender with this key, if it leads (or `waiting` may do it too) in this term.
pub async fn proclaim(
    contest: &Contest,
    key: &Key,
    term: Revision,
    value: Bytes,
    waiting: bool,
    deadline: Instant,
) -> Result<Option<Written>, Trouble> {
    let equal = created_at(key, term);
    let nobody_ahead = Compare {
        span: contest.name.span(),
        relation: Relation::Greater,
        target: Target::CreateRevision(Revision(term.get().saturating_sub(1))),
        ..equal.clone()
    };
    let compares = if waiting { vec![equal] } else { vec![equal, nobody_ahead] };
    let txn = Txn { compares, then: vec![TxnOp::Put(put_value(key, value))], otherwise: Vec::new() };
    contest.rooms.write_if(txn, deadline).await
}

/// The key was created at this revision, and is there still.
pub fn created_at(key: &Key, revision: Revision) -> Compare {
    Compare::equal(key.clone(), Target::CreateRevision(revision))
}

#[cfg(test)]
mod tests {
    use quorate_state::outcome::Meta;

    use super::*;

    fn observed(term: i64, modified: i64, value: &[u8]) -> Observed {
        let meta = Meta {
            create_revision: Revision(term),
            mod_revision: Revision(modified),
            version: 1,
            lease: None,
            created_ms: 0,
            modified_ms: 0,
        };
        let value = Bytes::copy_from_slice(value);
        Observed { revision: Revision(modified), leader: Some(KeyValue { key: Key::new("e/1").unwrap(), value, meta }) }
    }

    #[test]
    fn what_is_remembered_of_leaders_is_bounded_by_count_and_by_bytes() {
        let mut terms = Terms::default();
        for term in 1..=2_000 {
            terms.note(observed(term, term, b"x"));
        }
        assert_eq!((terms.seen.len(), terms.bytes, terms.forgotten), (1_024, 1_024, 976));
        let large = vec![0; 1 << 20];
        for term in 3_001..=3_010 {
            terms.note(observed(term, term, &large));
        }
        assert_eq!((terms.seen.len(), terms.bytes, terms.newest()), (4, 4 << 20, Some(2_009)));
        // One term has one value, however large.
        for at in 0..10 {
            terms.note(observed(4_000, 4_000 + at, &large.repeat(5)));
        }
        assert_eq!((terms.seen.len(), terms.bytes, terms.newest()), (1, 5 << 20, Some(2_010)));
        while terms.forget_first() {}
        assert_eq!((terms.bytes, terms.newest(), terms.forgotten), (0, None, 2_011));
    }
}

//! Who led an election lately: written by its follower, read by those who observe it; and what only a leader may do.
//!
//! Invariants:
//! - No term is passed over: who has fallen so far behind that one is forgotten is told so.
//! - Of the values of one term the newest is told; the order of terms is that of the store.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::{Key, Revision};
use quorate_state::command::{Command, Compare, Expect, Owner, Put, Relation, Span, Target, Txn, TxnOp};
use quorate_state::outcome::{Done, KeyValue};
use tokio::time::Instant;

use super::error::RecipeError;
use super::lines::Followed;
use super::look::Contest;
use crate::api::{Rooms, Trouble, Weight, Written, odd};
use crate::error::{ConsensusError, Happened};
use crate::sync::watch;

/// Terms that are remembered for those who are slow.
const TERMS_MAX: usize = 1_024;

/// Who led, in order.
pub struct Leaders {
    terms: Mutex<Terms>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Terms {
    seen: VecDeque<Observed>,
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
        let mut terms = self.terms.lock();
        let term = |leader: &Option<KeyValue>| leader.as_ref().map(|kv| (kv.key.clone(), kv.meta.create_revision));
        match terms.seen.back_mut() {
            Some(last) if term(&last.leader) == term(&leader) => *last = Observed { revision, leader },
            _ => terms.seen.push_back(Observed { revision, leader }),
        }
        if terms.seen.len() > TERMS_MAX {
            terms.seen.pop_front();
            terms.forgotten += 1;
        }
        drop(terms);
        self.changed.send_modify(|changes| *changes += 1);
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
        let mut changed = followed.leaders.changed.subscribe();
        let begun = tokio::time::timeout_at(deadline, changed.wait_for(|changes| *changes > 0)).await;
        let late = ConsensusError::Deadline { waiting_for: "the line of the election", happened: Happened::No };
        begun.map_err(|_| late)?.map_err(|_| ConsensusError::ShuttingDown)?;
        contest.rooms.barrier(deadline).await?;
        if let Some(revision) = min_revision {
            let reached = contest.rooms.consensus.wait_revision(revision, deadline).await;
            reached.map_err(|error| contest.rooms.explain(error))?;
        }
        // What was noted until now was so before the look.
        let at = followed.leaders.terms.lock().newest();
        let look = contest.look().await?;
        let leader = look.line.first().and_then(|first| look.kvs.get(&first.key)).cloned();
        let told = look.revision;
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
    fn newest(&self) -> u64 {
        self.forgotten + u64::try_from(self.seen.len()).unwrap_or(0).saturating_sub(1)
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
    let put = Put {
        key: key.clone(),
        value: Some(value),
        owner: Owner::Keep,
        expect: Expect::Anything,
        return_previous: false,
        must_have_parent: false,
        sequential: false,
    };
    let txn = Txn { compares, then: vec![TxnOp::Put(put)], otherwise: Vec::new() };
    let written = contest.rooms.write(None, Command::Txn(txn), deadline).await?;
    match &written.done {
        Done::Txn(done) => Ok(done.succeeded.then_some(written)),
        done => Err(unexpected(done)),
    }
}

/// The key was created at this revision, and is there still.
pub fn created_at(key: &Key, revision: Revision) -> Compare {
    Compare {
        span: Span::Key(key.clone()),
        empty_as_missing: false,
        relation: Relation::Equal,
        target: Target::CreateRevision(revision),
    }
}

/// An outcome that does not belong to its command.
pub(super) fn unexpected(done: &Done) -> Trouble {
    let reason = odd(done).message;
    ConsensusError::MemberFailed { reason, happened: Happened::Unknown }.into()
}

/// What a key of the store is now.
pub(super) async fn lease_ttl(rooms: &Rooms, lease: quorate_proto::LeaseId) -> Result<Option<u64>, Trouble> {
    rooms.read(Weight::Light, move |view| Ok(view.lease(lease)?.map(|record| record.ttl_ms))).await
}

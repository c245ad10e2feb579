//! A place in a line: put by one attempt, and taken back when the attempt comes to nothing.
//!
//! A call that goes away says nothing. If its connection stands it was cancelled, and the place is given up at once; if
//! the connection broke, the caller may ask again elsewhere, and has two seconds for that.
//!
//! Invariants:
//! - An attempt may take back a contender that was there already only if that was put before the call came: else it may
//!   be a later attempt's, whose caller may have been told that it holds. It is written all the same, so that nobody
//!   who came before takes it back.
//! - What an attempt takes back it put, or took over, itself, and nobody has written it since.
//! - The outcome of a put is awaited even when its call has gone away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use quorate_proto::{Key, Revision};
use quorate_state::command::{Command, Compare, Delete, Owner, Put, Relation, Span, Target, Txn, TxnOp};
use quorate_state::flaw::Flaw;
use quorate_state::outcome::{Done, KeyValue, TxnDone, TxnResult};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::call::Call;
use super::contender::Document;
use super::holds;
use super::look::Contest;
use crate::api::{Trouble, unexpected};
use crate::consensus::Haste;
use crate::tasks::Task;

/// How long a caller whose connection broke has to ask again.
const BROKEN_PATIENCE: Duration = Duration::from_secs(2);
/// For a put or a taking back to come to a known outcome.
const OUTCOME_PATIENCE: Duration = Duration::from_mins(5);

/// What becomes of a place whose call is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// The call has gone away without a word.
    Abandoned,
    /// It stays: it holds, or its caller asks again elsewhere.
    Stays,
    /// It is given up at once.
    GivenUp,
}

/// What was found when a contender was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody was there: it holds.
    Alone,
    /// Others are there.
    Queued,
    /// It was there already, and is this attempt's now.
    TakenOver,
    /// It was there already, and may be a later attempt's: it stays when this one goes away.
    There,
    /// Nothing was put.
    Refused,
}

/// What an attempt puts.
#[derive(Debug, Clone)]
pub struct Bid {
    /// The contender.
    pub put: Put,
    /// Its companion.
    pub companion: Option<Put>,
    /// A contender that is taken over gets the new value, too.
    pub renews_value: bool,
}

/// The attempt, as its put and its place share it.
#[derive(Clone)]
pub struct Attempt {
    /// At what.
    pub contest: Contest,
    /// By whom.
    pub call: Call,
    fate: Arc<AtomicU8>,
}

/// A place in a line. Dropping it does what the fate of its attempt says.
pub struct Place {
    attempt: Attempt,
    /// The contender's key.
    pub key: Key,
    /// What was found.
    pub standing: Standing,
    /// Of the put.
    pub revision: Revision,
    undo: Undo,
    runtime: Handle,
    /// Told when it has been taken back.
    left: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy)]
enum Undo {
    Nothing,
    /// Delete the contender if nobody has written it since this revision.
    Delete(Revision),
    /// Release one acquire of a hold that others have, too, if nobody has written the contender since this revision.
    Release {
        acquire: u64,
        put: Revision,
    },
}

impl Bid {
    /// Puts the contender. If nobody is there it holds. Else it waits, if it is to wait; one that is there already stays
    /// where it is.
    pub fn txn(&self, contest: &Contest, as_of: Revision, waits: bool) -> Txn {
        let own = |relation, target| Compare {
            span: Span::Key(self.put.key.clone()),
            empty_as_missing: false,
            relation,
            target,
        };
        let nobody = Compare { span: contest.name.span(), ..own(Relation::NotEqual, Target::Exists(true)) };
        let again = Put {
            value: if self.renews_value { self.put.value.clone() } else { None },
            owner: Owner::Keep,
            ..self.put.clone()
        };
        let take_over = Txn {
            compares: vec![own(Relation::Less, Target::ModRevision(as_of.next()))],
            then: vec![TxnOp::Put(again.clone())],
            otherwise: vec![TxnOp::Put(again)],
        };
        let queue = Txn {
            compares: vec![own(Relation::Equal, Target::Exists(false))],
            then: self.puts(),
            otherwise: vec![TxnOp::Txn(take_over)],
        };
        let otherwise = if waits { vec![TxnOp::Txn(queue)] } else { Vec::new() };
        Txn { compares: vec![nobody], then: self.puts(), otherwise }
    }

    /// Puts the contender if nothing of the line has changed since `seen`.
    pub fn txn_unchanged_since(&self, contest: &Contest, seen: Revision) -> Txn {
        let unchanged = Compare {
            span: contest.name.span(),
            empty_as_missing: false,
            relation: Relation::Less,
            target: Target::ModRevision(seen.next()),
        };
        Txn { compares: vec![unchanged], then: self.puts(), otherwise: Vec::new() }
    }

    fn puts(&self) -> Vec<TxnOp> {
        [Some(&self.put), self.companion.as_ref()].into_iter().flatten().cloned().map(TxnOp::Put).collect()
    }
}

impl Attempt {
    /// Of one call.
    pub fn new(contest: Contest, call: Call) -> Self {
        Self { contest, call, fate: Arc::new(AtomicU8::new(Fate::Abandoned as u8)) }
    }

    /// Says what becomes of the place, also of one that is still on its way.
    pub fn decide(&self, fate: Fate) {
        self.fate.store(fate as u8, Ordering::Release);
    }

    /// Writes `txn`, which puts or keeps the contender `key`. The write goes on when the answer is not waited for.
    pub fn put(&self, key: &Key, txn: Txn, haste: Haste) -> oneshot::Receiver<Result<Place, Trouble>> {
        self.write(key, txn, haste, |done, revision| {
            let standing = standing(done);
            let undo = match standing {
                Standing::Alone | Standing::Queued | Standing::TakenOver => Undo::Delete(revision),
                Standing::There | Standing::Refused => Undo::Nothing,
            };
            (standing, undo)
        })
    }

    /// Joins the hold of a contender, if that is as it was seen. One whose acquire is in it already writes it all the
    /// same, so that nobody who came before takes the acquire out.
    pub fn join(&self, seen: &KeyValue, document: Document, acquire: u64) -> oneshot::Receiver<Result<Place, Trouble>> {
        let was_there = document.has(acquire);
        let document = if was_there { document } else { document.with(acquire) };
        let put = holds::put_value(&seen.key, document.encode());
        let txn = Txn { compares: vec![unchanged(seen)], then: vec![TxnOp::Put(put)], otherwise: Vec::new() };
        // Else it may be a later attempt's.
        let is_before = seen.meta.mod_revision <= self.call.as_of();
        self.write(&seen.key, txn, Haste::AtOnce, move |done, put| match done.succeeded {
            true if was_there && !is_before => (Standing::There, Undo::Nothing),
            true => (Standing::TakenOver, Undo::Release { acquire, put }),
            false => (Standing::Refused, Undo::Nothing),
        })
    }

    fn write(
        &self,
        key: &Key,
        txn: Txn,
        haste: Haste,
        read: impl FnOnce(&TxnDone, Revision) -> (Standing, Undo) + Send + 'static,
    ) -> oneshot::Receiver<Result<Place, Trouble>> {
        let (answer, answered) = oneshot::channel();
        let (attempt, key, runtime) = (self.clone(), key.clone(), Handle::current());
        let rooms = Arc::clone(&self.contest.rooms);
        let write = async move {
            let written = rooms.write_to_the_end(Command::Txn(txn), haste, OUTCOME_PATIENCE).await;
            let placed = written.and_then(|written| match &written.done {
                Done::Txn(done) => {
                    let revision = Revision(written.header.revision);
                    let (standing, undo) = read(done, revision);
                    Ok(Place { attempt, key, standing, revision, undo, runtime, left: None })
                }
                done => Err(unexpected(done)),
            });
            // A place that nobody waits for any more is dropped here.
            drop(answer.send(placed));
            Ok::<(), std::convert::Infallible>(())
        };
        self.contest.rooms.tasks.spawn(Task::LinePut, &Handle::current(), write);
        answered
    }
}

impl Place {
    /// It holds, or is kept for another call.
    pub fn stays(self) {
        self.attempt.decide(Fate::Stays);
    }

    /// Takes it back, and waits until that is done, but not beyond `until`. False: it is not known to be done.
    pub async fn give_up(mut self, until: Instant) -> bool {
        let (left, has_left) = oneshot::channel();
        self.left = Some(left);
        self.attempt.decide(Fate::GivenUp);
        drop(self);
        matches!(tokio::time::timeout_at(until, has_left).await, Ok(Ok(())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let attempt = &self.attempt;
        let fate = attempt.fate.load(Ordering::Acquire);
        let is_broken = attempt.call.connection.is_broken();
        if fate == Fate::Stays as u8 || attempt.contest.rooms.is_closing() {
            return;
        }
        let wait = if fate == Fate::Abandoned as u8 && is_broken { BROKEN_PATIENCE } else { Duration::ZERO };
        let (contest, key, undo, left) = (attempt.contest.clone(), self.key.clone(), self.undo, self.left.take());
        let tasks = contest.rooms.tasks.clone();
        let leave = async move {
            sleep(wait).await;
            let taken_back = take_back(&contest, &key, undo).await;
            if let (Ok(()), Some(left)) = (&taken_back, left) {
                // Who does not wait for it does not need to know.
                let _ = left.send(());
            }
            taken_back
        };
        tasks.spawn(Task::LineLeave, &self.runtime, leave);
    }
}

/// Undoes a put.
async fn take_back(contest: &Contest, key: &Key, undo: Undo) -> Result<(), Trouble> {
    match undo {
        Undo::Nothing => Ok(()),
        // Another who joins the hold in the meantime keeps the acquire in it: until the session ends, at the latest.
        Undo::Release { acquire, put } => {
            unless_rewritten(contest, key, put, |kv| holds::without(contest, kv, acquire)).await
        }
        Undo::Delete(put) => unless_rewritten(contest, key, put, |kv| deletion(contest, kv)).await,
    }
}

/// Writes what undoes a put, if nobody has written the key since.
async fn unless_rewritten(
    contest: &Contest,
    key: &Key,
    put: Revision,
    txn: impl FnOnce(&KeyValue) -> Txn,
) -> Result<(), Trouble> {
    contest.rooms.consensus.wait_revision(put, Instant::now() + OUTCOME_PATIENCE).await?;
    match contest.get(key).await? {
        Some(kv) if kv.meta.mod_revision == put || Flaw::LateCleanUp.is_put_in() => {
            let mut txn = txn(&kv);
            if Flaw::LateCleanUp.is_put_in() {
                txn.compares.clear();
            }
            contest.rooms.write_to_the_end(Command::Txn(txn), Haste::AtOnce, OUTCOME_PATIENCE).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Deletes a contender with its companion, if it has not changed.
pub fn deletion(contest: &Contest, kv: &KeyValue) -> Txn {
    let keys = std::iter::once(kv.key.clone()).chain(contest.name.companion_of(contest.kind, kv));
    let delete = |key| TxnOp::Delete(Delete::new(Span::Key(key)));
    Txn { compares: vec![unchanged(kv)], then: keys.map(delete).collect(), otherwise: Vec::new() }
}

/// The key is as it was seen.
pub fn unchanged(kv: &KeyValue) -> Compare {
    Compare::equal(kv.key.clone(), Target::ModRevision(kv.meta.mod_revision))
}

fn standing(done: &TxnDone) -> Standing {
    if done.succeeded {
        return Standing::Alone;
    }
    let Some(TxnResult::Txn(queue)) = done.results.first() else { return Standing::Refused };
    match queue.results.first() {
        _ if queue.succeeded => Standing::Queued,
        Some(TxnResult::Txn(over)) if over.succeeded => Standing::TakenOver,
        _ => Standing::There,
    }
}

//! What every door reaches of the other rooms, and the two walks that all requests take: a write through the log, a
//! read behind a barrier.
//!
//! Invariants:
//! - A linearizable read takes its view after the barrier; a serializable one at once; both wait for `min_revision`.
//! - Reads that may be long run off the door's runtime.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_proto::v1::{Header, ReadOptions};
use quorate_proto::{MemberId, Revision};
use quorate_state::command::{Command, Envelope, Principal, RequestId, Txn};
use quorate_state::outcome::Done;
use quorate_state::store::Pinned;
use quorate_state::view::{ReadError, View};
use tokio::time::Instant;

use super::errors::{Refusal, Trouble};
use super::limits::DEADLINE_DEFAULT;
use super::request_ids::RequestIds;
use crate::config::Limits;
use crate::consensus::state_dir::Opened;
use crate::consensus::{Consensus, Haste};
use crate::error::{ConsensusError, Happened};
use crate::pump::Pumps;
use crate::recipes::Lines;
use crate::relay::relayed;
use crate::store_rocks::RocksStore;
use crate::sync::watch;
use crate::tasks::{Tasks, Work};
use crate::watch::{ConsensusHistory, Hub, OnContactLoss, Session};

/// Before a write whose outcome is not known is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A view of this member's store.
pub type StoreView<'a> = View<Pinned<'a, RocksStore>>;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: MemberId,
}

/// The other rooms, as a door sees them.
pub struct Rooms {
    /// Commands in, outcomes out.
    pub consensus: Arc<Consensus>,
    /// Changes.
    pub hub: Arc<Hub>,
    /// Who answers.
    pub identity: Identity,
    /// Bounds of requests.
    pub limits: Limits,
    /// Three of these without a leader, and watches move elsewhere.
    pub election_timeout: Duration,
    /// The table of tasks.
    pub tasks: Tasks,
    /// The locks and elections that are waited for here.
    pub lines: Arc<Lines>,
    ids: RequestIds,
    pumps: Pumps,
    closing: watch::Sender<bool>,
}

/// What a write came to, accepted.
#[derive(Debug)]
pub struct Written {
    /// For the answer.
    pub header: Header,
    /// What was done.
    pub done: Done,
    /// Remembered from an earlier attempt.
    pub replayed: bool,
    /// Of the entry.
    pub log_index: u64,
}

/// How long a read may keep its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A few keys: on the door's runtime.
    Light,
    /// A page or more: off it.
    Heavy,
}

impl Rooms {
    /// For the doors of one member.
    pub fn new(
        consensus: Arc<Consensus>,
        hub: Arc<Hub>,
        identity: Identity,
        limits: Limits,
        election_timeout: Duration,
        tasks: Tasks,
    ) -> Self {
        Self {
            consensus,
            hub,
            identity,
            limits,
            election_timeout,
            tasks,
            lines: Arc::default(),
            ids: RequestIds::default(),
            pumps: Pumps::default(),
            closing: watch::Sender::new(false),
        }
    }

    /// Asks all streams to end, so that connections can be closed.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// The watches of a new stream, which is served on the runtime that this is called on.
    pub fn watches(&self, on_contact_loss: OnContactLoss) -> Session {
        let history = Arc::new(ConsensusHistory(Arc::clone(&self.consensus)));
        let session = Session::new(Arc::clone(&self.hub), history, on_contact_loss, self.tasks.clone());
        session.woken_by(self.pumps.here(&self.tasks))
    }

    /// Whether streams are to end.
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow() || self.tasks.is_stopping()
    }

    /// Completes when streams are to end; to be kept and polled again and again, which costs less than to ask anew.
    pub fn until_closing(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        let rooms = Arc::clone(self);
        Box::pin(async move { rooms.closing().await })
    }

    /// Completes when streams are to end.
    pub async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            biased;
            // The sender lives in `self`.
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.tasks.stopped() => {}
        }
    }

    /// A deadline that passed because no quorum could be reached is told as that.
    pub fn explain(&self, error: ConsensusError) -> ConsensusError {
        let lost = || self.consensus.leader_contact().is_none_or(|at| at.elapsed() > self.election_timeout);
        match error {
            ConsensusError::Deadline { waiting_for, happened } if lost() => {
                let reason = format!("no leader with a quorum was heard of while waiting for {waiting_for}");
                ConsensusError::NoQuorum { reason, happened }
            }
            error => error,
        }
    }

    /// The header of an answer that reflects `revision`.
    pub fn header(&self, revision: Revision) -> Header {
        self.header_in_term(revision, self.consensus.term())
    }

    fn header_in_term(&self, revision: Revision, raft_term: u64) -> Header {
        Header {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id.get(),
            revision: revision.get(),
            raft_term,
        }
    }

    /// Proposes a command and gives what was done, or why not.
    pub async fn write(&self, id: Option<RequestId>, command: Command, deadline: Instant) -> Result<Written, Trouble> {
        self.write_in(Haste::AtOnce, id, command, deadline).await
    }

    async fn write_in(
        &self,
        haste: Haste,
        id: Option<RequestId>,
        command: Command,
        deadline: Instant,
    ) -> Result<Written, Trouble> {
        let minted = id.is_none().then(|| self.ids.mint(self.hub.log_index()));
        let request = id.or_else(|| minted.as_ref().map(|minted| minted.id));
        let envelope = Envelope { request, principal: Principal::default(), command };
        let proposed = self.relayed(self.consensus.propose(envelope, haste, deadline)).await?;
        let header = self.header_in_term(proposed.outcome.revision, proposed.term);
        let done = proposed.outcome.result?;
        Ok(Written { header, done, replayed: proposed.outcome.replayed, log_index: proposed.log_index })
    }

    /// Proposes a transaction; `None`: its compares did not hold.
    pub async fn write_if(&self, txn: Txn, deadline: Instant) -> Result<Option<Written>, Trouble> {
        let written = self.write(None, Command::Txn(txn), deadline).await?;
        match &written.done {
            Done::Txn(done) => Ok(done.succeeded.then_some(written)),
            done => Err(unexpected(done)),
        }
    }

    /// Proposes a command until its outcome is known, as long as `patience` at most: what may have happened is asked for
    /// again under the same id, which cannot make it happen twice.
    pub async fn write_to_the_end(
        &self,
        command: Command,
        haste: Haste,
        patience: Duration,
    ) -> Result<Written, Trouble> {
        let minted = self.ids.mint(self.hub.log_index());
        let end = Instant::now() + patience;
        let mut unknown = None;
        loop {
            let deadline = end.min(super::deadline::after(DEADLINE_DEFAULT));
            let error = match self.write_in(haste, Some(minted.id), command.clone(), deadline).await {
                Err(Trouble::Consensus(error)) => error,
                done => return done,
            };
            if error.happened() == Happened::Unknown {
                unknown = Some(error.clone());
            }
            let over = Instant::now() >= end || self.is_closing();
            match &unknown {
                None => return Err(error.into()),
                Some(unknown) if over => return Err(unknown.clone().into()),
                Some(_) => tokio::time::sleep_until(end.min(Instant::now() + RETRY_PAUSE)).await,
            }
        }
    }

    /// Waits until the local store has everything that was acknowledged before the call.
    pub async fn barrier(&self, deadline: Instant) -> Result<(), ConsensusError> {
        self.relayed(self.consensus.read_barrier(deadline)).await
    }

    /// Waits for other threads; see `relay`.
    async fn relayed<T>(&self, asked: impl Future<Output = Result<T, ConsensusError>>) -> Result<T, ConsensusError> {
        relayed(self.pumps.here(&self.tasks), asked).await.map_err(|error| self.explain(error))
    }

    /// Waits until the local store is as fresh as asked.
    pub async fn fresh(&self, options: Option<&ReadOptions>, deadline: Instant) -> Result<(), Refusal> {
        let options = options.copied().unwrap_or_default();
        if options.min_revision < 0 {
            return Err(Refusal::invalid("min_revision is negative; 0 means none"));
        }
        if !options.serializable {
            self.barrier(deadline).await?;
        }
        if options.min_revision > 0 {
            let reached = self.consensus.wait_revision(Revision(options.min_revision), deadline).await;
            reached.map_err(|error| self.explain(error))?;
        }
        Ok(())
    }

    /// Reads from a fresh view. What is at hand is read at once, whatever its weight; `read` is asked again if not all was.
    pub async fn read<T: Send + 'static>(
        &self,
        weight: Weight,
        read: impl Fn(&StoreView<'_>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Trouble> {
        let opened = self.consensus.opened();
        if let Some(done) = at_hand(&opened, &read) {
            return Ok(done?);
        }
        let read = move || {
            let view = View::new(Pinned::now(&*opened.store))?;
            learning(&opened, view, &read)
        };
        let done = match weight {
            Weight::Light => read(),
            Weight::Heavy => match self.tasks.blocking(Work::Read, read).await {
                Ok(done) => done,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(ConsensusError::ShuttingDown.into()),
            },
        };
        Ok(done?)
    }
}

/// What comes of a read in memory, where that has all of it.
fn at_hand<T>(opened: &Opened, read: &impl Fn(&StoreView<'_>) -> Result<T, ReadError>) -> Option<Result<T, ReadError>> {
    let picture = opened.hot.picture()?;
    let store = Pinned::promised(&*opened.store, picture.applied());
    let done = learning(opened, View::of_picture(picture, store), read);
    if done.as_ref().is_err_and(ReadError::is_not_at_hand) { None } else { Some(done) }
}

/// Reads; of what the picture did not have some is taken into it.
fn learning<T>(
    opened: &Opened,
    view: StoreView<'_>,
    read: &impl Fn(&StoreView<'_>) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let view = view.remembering();
    let done = read(&view);
    opened.hot.learn(view.found());
    done
}

/// An outcome that does not belong to its command: what was done is not known.
pub fn unexpected(done: &Done) -> Trouble {
    ConsensusError::MemberFailed { reason: odd(done).message, happened: Happened::Unknown }.into()
}

/// An outcome that does not belong to the command.
pub fn odd(done: &Done) -> Refusal {
    tracing::error!(?done, "an outcome does not belong to its command");
    Refusal::internal("the outcome does not belong to the command; this is a bug in Quorate")
}

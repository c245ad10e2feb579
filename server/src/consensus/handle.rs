//! The handle on consensus that the doors, the watch room and the leader's jobs hold.
//!
//! Invariants:
//! - A request goes to the leader, here or elsewhere, and is tried again only while it cannot have happened, or when a
//!   request id makes a second time harmless.
//! - Once one attempt may have happened, no later failure is answered as "did not happen".
//! - Methods named `…_here` never forward: they are what a forwarded request meets.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_proto::{LeaseId, MemberId, Revision};
use quorate_state::command::Envelope;
use quorate_state::flaw::Flaw;
use tokio::time::Instant;

use crate::consensus::applier::{AppliedMark, AppliedState};
use crate::consensus::barrier::{BarrierHandle, Round, Target};
use crate::consensus::contact::Contacts;
use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::log::LogReader;
use crate::consensus::peers::Peers;
use crate::consensus::proposer::{Proposal, ProposerHandle};
use crate::consensus::scrub::Scrubs;
use crate::consensus::snapshot::Snapshots;
use crate::consensus::state_dir::Opened;
use crate::consensus::types::Raft;
use crate::consensus::{Haste, Leadership, LeaseClock, Proposed};
use crate::error::{ConsensusError, Happened};
use crate::store_rocks::RocksStore;
use crate::sync::watch;
use crate::tasks::Tasks;

/// How long a refused request waits for news of the leader before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Consensus, as one member runs it. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    pub(super) parts: Arc<Parts>,
}

/// What the handle is made of.
pub(super) struct Parts {
    pub id: MemberId,
    pub raft: Raft,
    pub log: LogReader,
    pub applied: Arc<AppliedState>,
    pub snapshots: Arc<Snapshots>,
    pub leadership: watch::Receiver<Leadership>,
    pub removed: watch::Receiver<bool>,
    pub proposer: ProposerHandle,
    pub barrier_here: BarrierHandle,
    pub barrier_at_leader: BarrierHandle,
    pub peers: Arc<dyn Peers>,
    pub disk: Arc<DiskSpace>,
    pub lease_clock: OnceLock<Arc<dyn LeaseClock>>,
    pub contacts: Arc<Contacts>,
    /// Log index at which no digest has a majority; writes are refused while it is set.
    pub diverged: Mutex<Option<u64>>,
    pub tasks: Tasks,
    pub runtime: tokio::runtime::Handle,
}

/// Where the leader is.
pub(super) enum Where {
    /// This member.
    Here,
    /// Another.
    At(MemberId),
}

impl Consensus {
    /// Proposes, here or at the leader. Safe to cancel: a command that waits here and was not packed yet is not
    /// proposed; one that was forwarded may still be.
    pub async fn propose(
        &self,
        envelope: Envelope,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Proposed, ConsensusError> {
        let repeatable = envelope.request.is_some();
        let proposal = Proposal::new(&envelope, haste);
        drop(envelope);
        let attempt = |at: Where| {
            let proposal = proposal.clone();
            let attempt: BoxFuture<'_, _> = match at {
                Where::Here => Box::pin(self.pack(proposal, deadline)),
                Where::At(leader) => self.parts.peers.command(leader, proposal.envelope().clone(), haste, deadline),
            };
            attempt
        };
        self.at_leader(repeatable, deadline, "the write to reach a leader", attempt).await
    }

    /// Proposes an encoded envelope at this member, which must lead.
    pub async fn propose_here(
        &self,
        envelope: Bytes,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Proposed, ConsensusError> {
        self.pack(Proposal::received(envelope, haste)?, deadline).await
    }

    async fn pack(&self, proposal: Proposal, deadline: Instant) -> Result<Proposed, ConsensusError> {
        if let Some(log_index) = self.diverged() {
            let reason = format!("members differ at log index {log_index} and no digest has a majority; compare them");
            return Err(ConsensusError::MemberFailed { reason, happened: Happened::No });
        }
        self.parts.proposer.propose(proposal, None, deadline).await
    }

    /// Like `propose`, but only if this member leads in `term`: for the leader's own jobs.
    pub async fn propose_in_term(
        &self,
        term: u64,
        envelope: Envelope,
        deadline: Instant,
    ) -> Result<Proposed, ConsensusError> {
        self.parts.proposer.propose(Proposal::new(&envelope, Haste::AtOnce), Some(term), deadline).await
    }

    /// Once it returns, the local state includes everything acknowledged anywhere before the call.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), ConsensusError> {
        if Flaw::NoBarrier.is_put_in() {
            return Ok(());
        }
        let attempt = |at: Where| {
            let attempt: BoxFuture<'_, _> = match at {
                Where::Here => Box::pin(self.parts.barrier_here.round(Target::Here, deadline)),
                Where::At(leader) => Box::pin(self.parts.barrier_at_leader.round(Target::At(leader), deadline)),
            };
            attempt
        };
        let Round { read_index, .. } = self.at_leader(true, deadline, "a read barrier", attempt).await?;
        self.wait_mark(deadline, "the barrier's index to be applied", |mark| mark.next_index > read_index).await
    }

    /// A quorum round at this member, which must lead: what must be applied before reading.
    pub async fn barrier_here(&self, deadline: Instant) -> Result<u64, ConsensusError> {
        Ok(self.parts.barrier_here.round(Target::Here, deadline).await?.read_index)
    }

    /// Leader only: a quorum round, begun after the call, has confirmed leadership in `term`.
    pub async fn confirm_leadership(&self, term: u64, deadline: Instant) -> Result<(), ConsensusError> {
        let round = self.parts.barrier_here.round(Target::Here, deadline).await?;
        if round.term == term { Ok(()) } else { Err(no_leader("another term has begun")) }
    }

    /// Waits until the local store has this revision. A member that stops may never have it.
    pub async fn wait_revision(&self, revision: Revision, deadline: Instant) -> Result<(), ConsensusError> {
        tokio::select! {
            biased;
            reached = self.wait_mark(deadline, "a revision to arrive here", |mark| mark.revision >= revision.get()) => reached,
            () = self.parts.tasks.stopped() => Err(ConsensusError::ShuttingDown),
        }
    }

    /// Waits until the local store is that far.
    pub(super) async fn wait_mark(
        &self,
        deadline: Instant,
        waiting_for: &'static str,
        reached: impl FnMut(&AppliedMark) -> bool,
    ) -> Result<(), ConsensusError> {
        let mut mark = self.parts.applied.mark.subscribe();
        match tokio::time::timeout_at(deadline, mark.wait_for(reached)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ConsensusError::ShuttingDown),
            Err(_) => Err(ConsensusError::Deadline { waiting_for, happened: Happened::No }),
        }
    }

    /// Renews a lease at the leader, wherever it is. 0 when the lease does not exist. In ms.
    pub async fn keep_alive(&self, lease: LeaseId, deadline: Instant) -> Result<u64, ConsensusError> {
        let attempt = |at: Where| {
            let attempt: BoxFuture<'_, _> = match at {
                Where::Here => Box::pin(self.keep_alive_here(lease, deadline)),
                Where::At(leader) => self.parts.peers.keep_alive(leader, lease, deadline),
            };
            attempt
        };
        self.at_leader(true, deadline, "the leader to renew the lease", attempt).await
    }

    /// Renews a lease at this member, which must lead.
    pub async fn keep_alive_here(&self, lease: LeaseId, deadline: Instant) -> Result<u64, ConsensusError> {
        self.clock()?.keep_alive(lease, deadline).await
    }

    /// `(granted, remaining)` of a lease in ms, from the leader's clock; `(0, 0)` when it does not exist.
    pub async fn time_to_live(&self, lease: LeaseId, deadline: Instant) -> Result<(u64, u64), ConsensusError> {
        let attempt = |at: Where| {
            let attempt: BoxFuture<'_, _> = match at {
                Where::Here => Box::pin(self.time_to_live_here(lease, deadline)),
                Where::At(leader) => self.parts.peers.time_to_live(leader, lease, deadline),
            };
            attempt
        };
        self.at_leader(true, deadline, "the leader's clock of the lease", attempt).await
    }

    /// The same at this member, which must lead.
    pub async fn time_to_live_here(&self, lease: LeaseId, deadline: Instant) -> Result<(u64, u64), ConsensusError> {
        self.clock()?.time_to_live(lease, deadline).await
    }

    fn clock(&self) -> Result<&Arc<dyn LeaseClock>, ConsensusError> {
        self.parts.lease_clock.get().ok_or_else(|| no_leader("the leader's clocks are not running yet"))
    }

    /// Says whom to ask about leases; once.
    pub fn set_lease_clock(&self, clock: Arc<dyn LeaseClock>) {
        let _ = self.parts.lease_clock.set(clock);
    }

    /// Asks the leader, again and again while that cannot do harm, until the deadline.
    pub(super) async fn at_leader<'a, T>(
        &'a self,
        repeatable: bool,
        deadline: Instant,
        waiting_for: &'static str,
        attempt: impl Fn(Where) -> BoxFuture<'a, Result<T, ConsensusError>>,
    ) -> Result<T, ConsensusError> {
        let mut leadership = self.parts.leadership.clone();
        let mut unknown = false;
        loop {
            let now = *leadership.borrow_and_update();
            let result = match now {
                Leadership::Leading { .. } => attempt(Where::Here).await,
                Leadership::Following { leader: Some(leader) } => attempt(Where::At(leader)).await,
                Leadership::Following { leader: None } => Err(no_leader("no leader is known")),
            };
            let error = match result {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            unknown |= error.happened() == Happened::Unknown && !Flaw::UnknownIsNo.is_put_in();
            if !(may_repeat(&error) && (repeatable || !unknown)) || self.parts.tasks.is_stopping() {
                return Err(if unknown { as_unknown(error) } else { error });
            }
            let pause = Instant::now() + RETRY_PAUSE;
            let changed = tokio::time::timeout_at(pause.min(deadline), leadership.changed()).await;
            // Its sender is gone: the observer has ended, and with it this member.
            let ended = matches!(changed, Ok(Err(_)));
            if ended || Instant::now() >= deadline {
                return Err(match (unknown, ended) {
                    (true, false) => ConsensusError::Deadline { waiting_for, happened: Happened::Unknown },
                    (true, true) => as_unknown(error),
                    (false, _) => error,
                });
            }
        }
    }

    /// The store of the current epoch. Take a snapshot of it, build a `View`, do not keep it.
    pub fn store(&self) -> Arc<RocksStore> {
        self.parts.applied.store.get()
    }

    /// The same, with what of it is in memory.
    pub fn opened(&self) -> Arc<Opened> {
        self.parts.applied.store.opened()
    }

    /// How far the store is.
    pub fn applied(&self) -> watch::Receiver<AppliedMark> {
        self.parts.applied.mark.subscribe()
    }

    /// The scrubs here.
    pub fn scrubs(&self) -> &Scrubs {
        &self.parts.applied.scrubs
    }

    /// Log index at which members differ without a majority for any digest.
    pub fn diverged(&self) -> Option<u64> {
        *self.parts.diverged.lock()
    }

    /// Notes that members differ, or that they do not (any more).
    pub fn set_diverged(&self, log_index: Option<u64>) {
        *self.parts.diverged.lock() = log_index;
    }

    /// Whether this member leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.parts.leadership.clone()
    }

    /// Becomes true when this member was taken out of the cluster.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.parts.removed.clone()
    }

    /// This member.
    pub fn id(&self) -> MemberId {
        self.parts.id
    }

    /// openraft, for those who bring it messages and change its membership.
    pub fn raft(&self) -> &Raft {
        &self.parts.raft
    }

    /// The snapshots here, for those who send and receive them.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.parts.snapshots
    }

    /// Whom requests are forwarded through.
    pub fn peers(&self) -> &Arc<dyn Peers> {
        &self.parts.peers
    }

    /// Free disk space here.
    pub fn disk(&self) -> &Arc<DiskSpace> {
        &self.parts.disk
    }
}

/// Whether trying elsewhere, or later, can help.
fn may_repeat(error: &ConsensusError) -> bool {
    match error {
        ConsensusError::NoQuorum { .. } | ConsensusError::ShuttingDown | ConsensusError::MemberFailed { .. } => true,
        ConsensusError::Overloaded { .. }
        | ConsensusError::DiskSpace { .. }
        | ConsensusError::Deadline { .. }
        | ConsensusError::TooLarge { .. }
        | ConsensusError::StateVersion { .. }
        | ConsensusError::Membership { .. } => false,
    }
}

/// An earlier attempt may have happened, so this one's failure does not say that nothing did.
pub(super) fn as_unknown(error: ConsensusError) -> ConsensusError {
    if error.happened() == Happened::Unknown {
        error
    } else {
        ConsensusError::NoQuorum { reason: error.to_string(), happened: Happened::Unknown }
    }
}

pub(super) fn no_leader(reason: &str) -> ConsensusError {
    ConsensusError::NoQuorum { reason: reason.to_owned(), happened: Happened::No }
}

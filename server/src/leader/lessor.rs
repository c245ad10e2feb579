//! The lessor: clocks of leases while this member leads, keep-alives, remaining times.
//!
//! Invariants:
//! - Clocks start only after the first entry of the leader's own term was applied here.
//! - A keep-alive is answered only after a quorum round that began after its receipt; if the lease has a note of its
//!   remaining time in the log, the entry that clears it is committed before the answer.
//! - Once the end of a lease is proposed, keep-alives for it are refused.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use quorate_proto::LeaseId;
use quorate_state::command::Command;
use quorate_state::flaw::Flaw;
use quorate_state::outcome::LeaseChange;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::clocks::{Clocks, NOTE_TTL_MIN, Renewal, Renewed};
use super::quorum::Quorum;
use crate::consensus::LeaseClock;
use crate::error::{ConsensusError, Happened};
use crate::sync::watch;
use crate::watch::LeaseListener;

/// A lease as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredLease {
    /// Its id.
    pub lease: LeaseId,
    /// Granted.
    pub ttl_ms: u64,
    /// Noted as left.
    pub remaining_ms: Option<u64>,
}

/// Whether the clocks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Another member leads.
    Following,
    /// The store's leases are being read.
    Loading(u64),
    /// In this term.
    Leading(u64),
}

#[derive(Default)]
struct State {
    clocks: Clocks,
    /// What was applied while the store's leases were read; applied again after them.
    meanwhile: Vec<LeaseChange>,
}

/// The lessor. One per member; it runs while the member leads.
pub struct Lessor {
    state: Mutex<State>,
    role: watch::Sender<Role>,
    quorum: OnceLock<Weak<dyn Quorum>>,
    /// Leases shorter than this are never noted.
    note_ttl_min: Duration,
    /// A lease may come due earlier than the expiry job thinks.
    pub(super) sooner: Notify,
    /// Counts proposals of notes that came to an end.
    settled: watch::Sender<u64>,
}

impl Default for Lessor {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            role: watch::Sender::new(Role::Following),
            quorum: OnceLock::new(),
            note_ttl_min: NOTE_TTL_MIN,
            sooner: Notify::new(),
            settled: watch::Sender::new(0),
        }
    }
}

impl Lessor {
    /// One that notes leases of this time to live and longer. For simulations, which live shorter than the usual ones.
    pub fn noting_from(note_ttl_min: Duration) -> Self {
        Self { note_ttl_min, ..Self::default() }
    }

    /// Says how to reach the quorum; once. Held weakly: the consensus room holds this lessor.
    pub fn attach(&self, quorum: &Arc<dyn Quorum>) {
        // A second call says the same.
        let _ = self.quorum.set(Arc::downgrade(quorum));
    }

    /// This member leads in `term`, and has applied the first entry of that term. From now on what is applied counts.
    pub fn begin_term(&self, term: u64) {
        let mut state = self.state.lock();
        *state = State { clocks: Clocks::noting_from(self.note_ttl_min), meanwhile: Vec::new() };
        self.role.send_replace(Role::Loading(term));
    }

    /// Starts the clocks of the leases that the store held at some moment after [`Lessor::begin_term`].
    pub fn load(&self, term: u64, stored: &[StoredLease]) {
        let mut state = self.state.lock();
        if *self.role.borrow() != Role::Loading(term) {
            return;
        }
        let now = Instant::now();
        for lease in stored {
            let hasty = Flaw::HastyLeader.is_put_in().then_some(lease.ttl_ms / 2);
            state.clocks.start(lease.lease, lease.ttl_ms, hasty.or(lease.remaining_ms), now);
        }
        for change in std::mem::take(&mut state.meanwhile) {
            change_clock(&mut state.clocks, change, now);
        }
        self.role.send_replace(Role::Leading(term));
        self.sooner.notify_one();
    }

    /// This member leads no more.
    pub fn end_term(&self) {
        let mut state = self.state.lock();
        self.role.send_replace(Role::Following);
        *state = State::default();
    }

    /// The clocks, locked.
    pub(super) fn clocks(&self) -> parking_lot::MappedMutexGuard<'_, Clocks> {
        MutexGuard::map(self.state.lock(), |state| &mut state.clocks)
    }

    /// Proposals of notes came to an end.
    pub(super) fn note_settled(&self, leases: impl IntoIterator<Item = LeaseId>, maybe: bool) {
        self.clocks().note_settled(leases, maybe);
        self.settled.send_modify(|count| *count += 1);
    }

    /// The term, once the clocks run.
    async fn leading(&self, deadline: Instant) -> Result<u64, ConsensusError> {
        let mut role = self.role.subscribe();
        let waited = timeout_at(deadline, role.wait_for(|role| !matches!(role, Role::Loading(_)))).await;
        match waited.map(|role| role.map(|role| *role)) {
            Ok(Ok(Role::Leading(term))) => Ok(term),
            Ok(_) => Err(not_leading()),
            Err(_) => Err(late("the new leader reads the leases")),
        }
    }

    fn quorum(&self) -> Result<Arc<dyn Quorum>, ConsensusError> {
        self.quorum.get().and_then(Weak::upgrade).ok_or(ConsensusError::ShuttingDown)
    }

    /// `Some` only while the clocks still run in `term`.
    fn in_term(&self, term: u64) -> Option<parking_lot::MappedMutexGuard<'_, Clocks>> {
        let state = self.state.lock();
        (*self.role.borrow() == Role::Leading(term)).then(|| MutexGuard::map(state, |state| &mut state.clocks))
    }

    async fn renew(&self, lease: LeaseId, deadline: Instant) -> Result<u64, ConsensusError> {
        let received = Instant::now();
        let term = self.leading(deadline).await?;
        let quorum = self.quorum()?;
        let renewal = self.in_term(term).ok_or_else(not_leading)?.begin_renewal(lease, received);
        let guard = renewal.map(|renewal| RenewalGuard { lessor: self, term, renewal });
        if !Flaw::DeposedKeepAlive.is_put_in() {
            quorum.confirm(term, deadline).await?;
        }
        let Some(guard) = guard else { return self.unknown(term, lease) };
        loop {
            let mut settled = self.settled.subscribe();
            let renewed = self.in_term(term).ok_or_else(not_leading)?.renew(guard.renewal);
            match renewed {
                Renewed::Done { ttl_ms } => return Ok(ttl_ms),
                Renewed::Gone => return Ok(0),
                Renewed::NoteUnsettled => {
                    // The sender lives in `self`.
                    let _ = timeout_at(deadline, settled.changed()).await.map_err(|_| late("a note is settled"))?;
                }
                Renewed::Noted => {
                    let clear = Command::LeaseCheckpoint(vec![(lease, None)]);
                    quorum.propose(term, clear, deadline).await?;
                    self.in_term(term).ok_or_else(not_leading)?.cleared(guard.renewal);
                }
            }
        }
    }

    /// A quorum has confirmed the leader, and there is no clock: the lease is over, or was granted just now.
    fn unknown(&self, term: u64, lease: LeaseId) -> Result<u64, ConsensusError> {
        let clocks = self.in_term(term).ok_or_else(not_leading)?;
        // Granted after the receipt: what is left is the whole, less nothing that the caller could have counted on.
        let granted = clocks.remaining(lease, Instant::now());
        Ok(granted.filter(|_| !clocks.is_expiring(lease)).map_or(0, |(_, remaining_ms)| remaining_ms))
    }

    async fn remaining(&self, lease: LeaseId, deadline: Instant) -> Result<(u64, u64), ConsensusError> {
        let term = self.leading(deadline).await?;
        self.quorum()?.confirm(term, deadline).await?;
        let clocks = self.in_term(term).ok_or_else(not_leading)?;
        Ok(clocks.remaining(lease, Instant::now()).unwrap_or((0, 0)))
    }
}

/// Gives a renewal up when its caller goes away.
struct RenewalGuard<'a> {
    lessor: &'a Lessor,
    term: u64,
    renewal: Renewal,
}

impl Drop for RenewalGuard<'_> {
    fn drop(&mut self) {
        let Some(mut clocks) = self.lessor.in_term(self.term) else { return };
        if clocks.end_renewal(self.renewal) {
            self.lessor.sooner.notify_one();
        }
    }
}

impl LeaseClock for Lessor {
    fn keep_alive(&self, lease: LeaseId, deadline: Instant) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        Box::pin(self.renew(lease, deadline))
    }

    fn time_to_live(&self, lease: LeaseId, deadline: Instant) -> BoxFuture<'_, Result<(u64, u64), ConsensusError>> {
        Box::pin(self.remaining(lease, deadline))
    }
}

impl LeaseListener for Lessor {
    fn lease_changes(&self, changes: &[LeaseChange]) {
        let mut state = self.state.lock();
        match *self.role.borrow() {
            Role::Following => return,
            Role::Loading(_) => state.meanwhile.extend_from_slice(changes),
            Role::Leading(_) => {
                let now = Instant::now();
                let before = state.clocks.next_due();
                for change in changes {
                    change_clock(&mut state.clocks, *change, now);
                }
                if state.clocks.next_due() == before {
                    return;
                }
            }
        }
        drop(state);
        self.sooner.notify_one();
    }
}

fn change_clock(clocks: &mut Clocks, change: LeaseChange, now: Instant) {
    match change {
        LeaseChange::Granted { lease, ttl_ms } => clocks.start(lease, ttl_ms, None, now),
        LeaseChange::Ended { lease } => clocks.end(lease),
        LeaseChange::Checkpointed { lease, remaining_ms } => clocks.noted(lease, remaining_ms.is_some()),
    }
}

fn not_leading() -> ConsensusError {
    ConsensusError::NoQuorum { reason: "this member does not lead".to_owned(), happened: Happened::No }
}

fn late(waiting_for: &'static str) -> ConsensusError {
    ConsensusError::Deadline { waiting_for, happened: Happened::No }
}

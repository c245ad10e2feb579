//! Jobs that run only while this member leads: expiry of leases, notes of their remaining time, compaction of history,
//! scrubs.
//!
//! Invariants:
//! - Jobs start when this member leads and has applied the first entry of its own term; they have ended before the
//!   next term's begin. They live in one task and end by being dropped, so there is nothing left to wait for.
//! - What they propose is bound to their term.

mod checkpoint;
mod clocks;
mod compactor;
mod expiry;
mod lessor;
mod quorum;
mod scrub;

use std::convert::Infallible;
use std::sync::Arc;

use quorate_proto::Revision;
use quorate_state::store::Store as _;
use quorate_state::view::{ReadError, View};
use tokio::runtime::Handle;

pub use lessor::{Lessor, StoredLease};
pub use quorum::Quorum;

use crate::config::AutoCompaction;
use crate::consensus::{Consensus, Leadership, LeaseClock};
use crate::sync::watch;
use crate::tasks::{Task, Tasks, Work};

/// How many leases are read from the store at a time.
const LEASES_PAGE: usize = 4096;

/// What the jobs work with.
pub struct LeaderJobs {
    /// The handle.
    pub consensus: Arc<Consensus>,
    /// The clocks of leases.
    pub lessor: Arc<Lessor>,
    /// What history is kept.
    pub retention: AutoCompaction,
}

impl LeaderJobs {
    /// Runs the jobs whenever this member leads, until the member stops.
    pub fn start(self, tasks: &Tasks, runtime: &Handle) {
        self.consensus.set_lease_clock(Arc::clone(&self.lessor) as Arc<dyn LeaseClock>);
        let quorum: Arc<dyn Quorum> = Arc::clone(&self.consensus) as Arc<dyn Quorum>;
        self.lessor.attach(&quorum);
        let stopping = tasks.clone();
        tasks.spawn(Task::LeaderJobs, runtime, async move {
            let leadership = self.consensus.leadership();
            tokio::select! {
                biased;
                () = stopping.stopped() => {}
                () = self.follow(leadership, &*quorum, &stopping) => {}
            }
            self.lessor.end_term();
            Ok::<(), Infallible>(())
        });
    }

    async fn follow(&self, mut leadership: watch::Receiver<Leadership>, quorum: &dyn Quorum, tasks: &Tasks) {
        loop {
            let now = *leadership.borrow_and_update();
            if let Leadership::Leading { term } = now {
                tokio::select! {
                    biased;
                    _ = leadership.wait_for(|other| *other != now) => {}
                    () = self.lead(term, quorum, tasks) => {}
                }
                self.lessor.end_term();
            } else if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    async fn lead(&self, term: u64, quorum: &dyn Quorum, tasks: &Tasks) {
        self.lessor.begin_term(term);
        let consensus = Arc::clone(&self.consensus);
        let stored = tasks.blocking(Work::Read, move || stored_leases(&consensus)).await;
        match stored {
            Ok(Ok(stored)) => self.lessor.load(term, &stored),
            Ok(Err(error)) => tracing::error!(%error, "leases cannot be read; none is kept alive or ended"),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
        let newest = || {
            let store = self.consensus.store();
            let view = View::new(store.snapshot()).ok()?;
            Some::<(Revision, Revision)>((view.revision(), view.compact_revision()))
        };
        tokio::join!(
            expiry::run(&self.lessor, quorum, term),
            checkpoint::run(&self.lessor, quorum, term),
            compactor::run(quorum, term, self.retention, newest),
            scrub::run(quorum, term, || self.consensus.scrubs().asked()),
        );
    }
}

fn stored_leases(consensus: &Consensus) -> Result<Vec<StoredLease>, ReadError> {
    let store = consensus.store();
    let view = View::new(store.snapshot())?;
    let mut stored: Vec<StoredLease> = Vec::new();
    loop {
        let page = view.leases(stored.last().map(|last| last.lease), LEASES_PAGE)?;
        let last_page = page.len() < LEASES_PAGE;
        stored.extend(page.into_iter().map(|(lease, record)| StoredLease {
            lease,
            ttl_ms: record.ttl_ms,
            remaining_ms: record.remaining_ms,
        }));
        if last_page {
            return Ok(stored);
        }
    }
}

#[cfg(test)]
mod tests;

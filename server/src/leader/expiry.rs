//! Ends leases whose time is over.
//!
//! Invariants:
//! - Never early: a lease is proposed to end only when its clock says so, and the lateness of this very tick is added
//!   to all clocks before.
//! - Never immortal: what is due is proposed until it is applied or the term is over.

use std::time::Duration;

use quorate_proto::LeaseId;
use quorate_state::command::{Command, LeaseEnd};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::lessor::Lessor;
use super::quorum::Quorum;
use crate::error::{ConsensusError, Happened};

/// How many leases one command ends.
const BATCH_MAX: usize = 64;
/// Looks at the clock at least this often, so that a pause of the process is noticed.
const TICK_MAX: Duration = Duration::from_millis(250);
/// Less than this is ordinary scheduling, not a pause.
const LATE_MIN: Duration = Duration::from_millis(20);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Runs until it is dropped, at the end of the term.
pub async fn run(lessor: &Lessor, quorum: &dyn Quorum, term: u64) {
    let mut pulse = Pulse { lessor, expected: Instant::now() };
    loop {
        pulse.until_due().await;
        loop {
            let due = lessor.clocks().take_due(Instant::now(), BATCH_MAX);
            if due.is_empty() {
                break;
            }
            end_all(&mut pulse, quorum, term, due).await;
        }
    }
}

/// Notices that this task ran later than it meant to, and holds the clocks of all leases for so long: keep-alives that
/// came meanwhile may not have been read yet.
struct Pulse<'a> {
    lessor: &'a Lessor,
    expected: Instant,
}

impl Pulse<'_> {
    /// Waits until a lease may be due.
    async fn until_due(&mut self) {
        let now = Instant::now();
        let due = self.lessor.clocks().next_due().unwrap_or(now + TICK_MAX);
        self.expected = due.clamp(now, now + TICK_MAX);
        tokio::select! {
            biased;
            () = sleep_until(self.expected) => {}
            () = self.lessor.sooner.notified() => {}
        }
        self.beat();
    }

    /// Waits for `future`, and never longer than a tick without looking at the clock.
    async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            self.expected = Instant::now() + TICK_MAX;
            let done = timeout_at(self.expected, &mut future).await;
            self.beat();
            if let Ok(done) = done {
                return done;
            }
        }
    }

    fn beat(&self) {
        let late = self.expected.elapsed();
        if late >= LATE_MIN {
            tracing::info!(late_ms = late.as_millis(), "lease clocks held: the tick ran late");
            self.lessor.clocks().ran_late(late);
        }
    }
}

/// Proposes until it is decided. While the outcome is unknown the leases stay refused to keep-alives.
async fn end_all(pulse: &mut Pulse<'_>, quorum: &dyn Quorum, term: u64, leases: Vec<LeaseId>) {
    loop {
        let command = Command::LeaseRevoke { leases: leases.clone(), cause: LeaseEnd::Expired };
        match pulse.during(quorum.propose(term, command, Instant::now() + PROPOSE_TIMEOUT)).await {
            Ok(_) => return,
            Err(error) => {
                report(&error, leases.len());
                pulse.during(sleep(RETRY_PAUSE)).await;
                if error.happened() == Happened::No {
                    pulse.lessor.clocks().not_expired(&leases);
                    return;
                }
            }
        }
    }
}

fn report(error: &ConsensusError, leases: usize) {
    tracing::warn!(%error, leases, "expiry of leases was not proposed; it will be again");
}

//! Notes how much time long leases have left, so that elections do not make them immortal.
//!
//! Invariants:
//! - Only leases of a minute and more, and of those only ones that nobody renewed for half their time (at most five
//!   minutes): a session that is well costs nothing.
//! - While a note is being proposed its lease is not renewed; so no renewal is answered before a note that forgets it.

use std::time::Duration;

use quorate_state::command::Command;
use tokio::time::{Instant, sleep};

use super::lessor::Lessor;
use super::quorum::Quorum;
use crate::error::Happened;

/// How often leases are looked through.
const INTERVAL: Duration = Duration::from_secs(5);
/// How many notes one command takes, and how many commands one round.
const BATCH_MAX: usize = 500;
const BATCHES_MAX: usize = 4;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until it is dropped, at the end of the term.
pub async fn run(lessor: &Lessor, quorum: &dyn Quorum, term: u64) {
    loop {
        sleep(INTERVAL).await;
        for _ in 0..BATCHES_MAX {
            if note_batch(lessor, quorum, term).await < BATCH_MAX {
                break;
            }
        }
    }
}

/// Notes one batch; gives its size.
pub(super) async fn note_batch(lessor: &Lessor, quorum: &dyn Quorum, term: u64) -> usize {
    let notes = lessor.clocks().take_notes(Instant::now(), BATCH_MAX);
    if notes.is_empty() {
        return 0;
    }
    let command = Command::LeaseCheckpoint(notes.iter().map(|(lease, left_ms)| (*lease, Some(*left_ms))).collect());
    let proposed = quorum.propose(term, command, Instant::now() + PROPOSE_TIMEOUT).await;
    let maybe = match &proposed {
        Ok(_) => true,
        Err(error) => error.happened() != Happened::No,
    };
    if let Err(error) = proposed {
        tracing::warn!(%error, leases = notes.len(), "remaining times of leases were not noted; they will be again");
    }
    lessor.note_settled(notes.iter().map(|(lease, _)| *lease), maybe);
    notes.len()
}

//! Asks for a scrub now and then: a command, so that all members hash their content at the same log index.
//!
//! Invariants:
//! - Between two scrubs lie [`EVERY`], whoever asked for the last; a leader that knows of none waits for [`FIRST`].
//! - A failure is no reason to hurry.

use std::time::Duration;

use quorate_state::command::Command;
use tokio::time::{Instant, sleep, sleep_until};

use super::quorum::Quorum;

/// Between two scrubs.
pub const EVERY: Duration = Duration::from_hours(6);
/// From the beginning of a term to its first, when this member saw none since it started.
pub const FIRST: Duration = Duration::from_mins(10);
/// After each attempt, at least.
const PAUSE: Duration = Duration::from_mins(1);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until it is dropped, at the end of the term. `asked` says when this member last saw a scrub begin.
pub async fn run(quorum: &dyn Quorum, term: u64, asked: impl Fn() -> Option<Instant>) {
    let began = Instant::now();
    let due = || asked().map_or(began + FIRST, |asked| asked + EVERY);
    loop {
        sleep_until(due()).await;
        // Another member may have asked meanwhile, before this one led.
        if due() <= Instant::now() {
            match quorum.propose(term, Command::Scrub, Instant::now() + PROPOSE_TIMEOUT).await {
                Ok(done) => tracing::info!(log_index = done.log_index, "a scrub begins at all members"),
                Err(error) => {
                    tracing::warn!(%error, "no scrub was begun; it will be tried again");
                    sleep(FIRST).await;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

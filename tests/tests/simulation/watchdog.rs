//! Ends the process when a run does not come to its end: where something spins, simulated time stands still for ever, and
//! no deadline within the run can end it.
//!
//! Invariants:
//! - It looks at real time only, far beyond what a run takes on any machine, so no run depends on it.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// Of real time. A run takes seconds.
const RUN_MAX: Duration = Duration::from_mins(5);

/// While it is held, a run has time.
pub struct Watchdog {
    _done: Sender<()>,
}

impl Watchdog {
    /// Begins with the run.
    pub fn begin(run: String) -> Self {
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(RUN_MAX) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{run} has not come to its end in {RUN_MAX:?}: something in it goes round and round");
                std::process::exit(1);
            }
        });
        Self { _done: done }
    }
}

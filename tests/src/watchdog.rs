//! Ends the process when something does not come to its end: where something spins, no deadline within it can end it.
//!
//! Invariants:
//! - It looks at real time only, far beyond what is watched takes on any machine, so nothing depends on it.
//! - It leaves no process behind that this one has started.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::process;

/// While it is held, what it watches has time.
pub struct Watchdog {
    _done: Sender<()>,
}

impl Watchdog {
    /// Begins with what it watches, which takes much less than `longest`.
    pub fn begin(watched: String, longest: Duration) -> Self {
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{watched} has not come to its end in {longest:?}: something in it goes round and round");
                process::kill_children();
                // Without what runs at an ordinary end, which could wait for what spins.
                std::process::abort();
            }
        });
        Self { _done: done }
    }
}

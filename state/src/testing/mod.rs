//! For property tests of the machine over any store: random histories, a simple model of what they must do, and
//! checks that compare the two.
//!
//! Invariants:
//! - The model shares the language (commands, outcomes) with the machine, and no code that decides.
//! - Checks panic with what differs; they are for tests only.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc, reason = "test support")]

mod audit;
mod check;
mod crash;
pub mod fuzz;
mod generate;
mod model;
mod model_work;

pub use audit::audit;
pub use check::{check_history, compare_views, dump};
pub use crash::CrashStore;
pub use generate::{History, histories};
pub use model::Model;

use crate::apply::Machine;
use crate::outcome::Fault;
use crate::store::Store;

/// Opens a machine whose memory of requests has other bounds, so that short histories reach them.
pub fn open_with_window<S: Store>(store: S, window_indexes: u64, window_bytes: usize) -> Result<Machine<S>, Fault> {
    let mut machine = Machine::open(store)?;
    machine.set_window(window_indexes, window_bytes);
    Ok(machine)
}

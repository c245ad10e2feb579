//! What goes wrong with members: directories that are not theirs or damaged, disks that fill or fail, logs that are
//! torn, members that are removed; and restarts with many keys.
//!
//! Invariants:
//! - What was acknowledged is counted and compared after every fault.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod disks;
mod many;
mod members;
mod refused;
mod torn;

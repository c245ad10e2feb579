//! What goes wrong with members: directories that are not theirs or damaged, disks that fill or fail, logs that are
//! torn, members that are removed; restarts with many keys; and whole histories of clients, checked, of clusters whose
//! members are killed, paused, cut off or restarted one by one (`QUORATE_SEED=7` repeats a schedule of these).
//!
//! Invariants:
//! - What was acknowledged is counted and compared after every fault.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod cut;
mod disks;
mod dropped;
mod histories;
mod killed;
mod many;
mod members;
mod paused;
mod refused;
mod rolling;
mod tampered;
mod torn;

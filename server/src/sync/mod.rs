//! Channels of our own, where those of the runtime leave to chance what must not be.
//!
//! Invariants:
//! - What is here wakes in an order that follows from what was called alone, so that a simulated run repeats itself.

pub mod watch;

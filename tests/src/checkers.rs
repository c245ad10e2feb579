//! Checkers of recorded histories: what many clients saw, held against what was promised.
//!
//! Invariants:
//! - A checker is a function of the history alone, and has tests of histories that it must reject.

pub mod locks;

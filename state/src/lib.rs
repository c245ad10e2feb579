//! The deterministic state machine of Quorate: keys, directories, history, transactions, leases, request ids,
//! compaction and the running digest, as a function of (store, entry).
//!
//! Invariants:
//! - The same entries applied to an empty store give the same store, on any machine, at any time; purging of
//!   compacted history is the one exception, local and invisible.
//! - Nothing here knows a clock, randomness, a thread, a network or which door a request came through.

pub mod apply;
pub mod codec;
pub mod command;
pub mod compaction;
mod content_hash;
mod copies;
mod copy;
pub mod dedup;
pub mod digest;
mod draft;
pub mod flaw;
mod history;
mod leases;
mod list;
pub mod outcome;
pub mod picture;
mod refine;
pub mod restore;
pub mod scrub;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tree;
mod txn;
pub mod versions;
pub mod view;

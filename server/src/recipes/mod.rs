//! Recipes: what is built from keys, transactions, leases and watches alone, and adds nothing to the state machine.
//!
//! Invariants:
//! - A recipe reads views and sends commands, as any client could; what it stores is in docs/formats.md.

pub mod discovery;

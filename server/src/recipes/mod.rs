//! Recipes: locks, elections and service discovery, written only in terms of keys, transactions, leases and watches. They stand beside the
//! edge: every door calls them, and nothing is added to the state machine.
//!
//! Invariants:
//! - Who holds is decided by what is in the store alone, by one rule ([`line`]); a client that knows the rule and the
//!   keys takes part through any door.
//! - A hold is told only after a read barrier has shown that its key is still there.
//! - Whoever waits costs one message when it is his turn, not one at each release.

mod acquire;
mod call;
mod contender;
pub mod discovery;
mod error;
mod follow;
mod fresh;
mod holds;
mod leaders;
mod line;
mod lines;
mod look;
mod place;
mod scan;

pub use acquire::{Wanted, acquire};
pub use call::Call;
#[cfg(test)]
pub use contender::Kind;
pub use contender::{Claim, Document, Name};
pub use error::RecipeError;
pub use holds::{Which, downgrade, force_release, release};
pub use leaders::{Observed, Observer, created_at, proclaim};
pub use lines::{Cost, Lines};
pub use look::Contest;
pub use place::Bid;

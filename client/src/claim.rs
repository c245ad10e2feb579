//! What locks and elections share: a claim is a place in a queue, and a hold once it is granted.
//!
//! Invariants:
//! - A claim has one id from its first attempt to its end, whichever members hear of it.
//! - Whoever gives up waiting, by an error or by dropping the future, leaves no claim behind.

mod held;
mod place;
mod session;
mod waiting;
mod watch;

pub(crate) use held::Held;
pub(crate) use place::{Kind, Place};
pub(crate) use session::Session;
pub(crate) use waiting::{Ask, Granted, Patience, wait};
pub(crate) use watch::HoldWatch;

/// The time to live of a session that a claim gets when it was given none.
pub(crate) const TTL_DEFAULT: std::time::Duration = std::time::Duration::from_secs(10);

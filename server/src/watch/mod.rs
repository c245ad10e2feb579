//! The watch room: changes as they happen, from any revision that is not compacted.
//!
//! [`Hub`] keeps the recent window and the index of live watches; [`Session`] is the watches of one stream, each of
//! them either live (woken by the hub) or catching up from [`History`].
//!
//! Invariants:
//! - A watch is given every matching change once, in revision order, and never half a transaction.
//! - What a slow reader costs is bounded: its queue holds places in the window, never events of its own; when the
//!   window has moved on, the watch goes back to history.
//!
//! Example: the window holds revisions 40 to 90 and a watch resumes at 10. A first chunk of history covers 10 to 55
//! (it ended at its bound of bytes), and 56 is in the window, so the watch joins there; had the window begun at 60,
//! another chunk would have been read from 56 on.

mod catch_up;
mod encoded;
mod hub;
mod index;
mod interest;
mod listeners;
mod notice;
mod ranges;
mod session;
mod watcher;
mod window;

pub use catch_up::{Chunk, ConsensusHistory, History};
pub use encoded::{Encoded, Wire};
pub use hub::Hub;
pub use interest::{Interest, Scope};
pub use listeners::{LeaseListener, Listeners};
pub use notice::{OnContactLoss, Picked, WatchNotice, WatchOver, WatchSpec};
pub use session::Session;
pub use window::Published;

#[cfg(test)]
pub(crate) use watcher::Mailbox;

#[cfg(test)]
pub(crate) mod tests;

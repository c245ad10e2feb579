//! The doors: what clients speak to. Each door decodes, validates, and translates to commands and reads.
//!
//! Invariants:
//! - What depends on nothing but the request is checked here, before anything is proposed; inside it is trusted.
//! - Every request has a deadline, and nothing is begun after it.
//! - Every refusal says whether the write has happened.

mod convert;
mod cursor;
mod deadline;
pub mod dns;
mod errors;
mod etcd;
mod health;
mod limits;
pub mod native;
mod request_ids;
mod rooms;
mod streams;
mod validate;
mod validate_txn;
mod watches;

pub(crate) use deadline::{MARGIN_MAX as DEADLINE_MARGIN, default as deadline_default};
pub use errors::{Refusal, Trouble};
pub use health::watch_contact;
pub(crate) use rooms::unexpected;
pub use rooms::{Identity, Rooms, StoreView, Weight, Written};
pub use validate::mint_lease;

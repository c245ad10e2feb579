//! One call that may wait: what may end its waiting from outside.
//!
//! Invariants:
//! - What `as_of` says was applied before the call came: what is newer may be of a later attempt of the same caller.

use std::sync::Arc;

use quorate_proto::Revision;
use tokio::time::Instant;

use crate::api::Rooms;
use crate::connection::Connection;
use crate::due;

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// By which it came.
    pub connection: Connection,
    /// When its caller stops waiting for an answer; `None`: never.
    pub deadline: Option<Instant>,
    /// When it is to be refused as busy.
    pub wait_until: Option<Instant>,
    /// It ends when this member loses contact with its leader, so that its caller goes elsewhere.
    pub needs_leader: bool,
    as_of: Revision,
}

/// Why a call does not wait on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// The member is stopping.
    Closing,
    /// No leader is heard of.
    ContactLost,
    /// The caller's own deadline.
    Deadline,
    /// It has waited as long as it wanted.
    Waited,
}

impl Call {
    /// One that has just come.
    pub fn new(rooms: &Rooms, connection: Connection, deadline: Option<Instant>) -> Self {
        Self { connection, deadline, wait_until: None, needs_leader: true, as_of: rooms.hub.revision() }
    }

    /// The newest revision that this member had when the call came.
    pub(super) fn as_of(&self) -> Revision {
        self.as_of
    }

    /// Completes when there is a reason not to wait on. Safe to drop.
    pub(super) async fn interrupted(&self, rooms: &Arc<Rooms>) -> Interrupted {
        let mut contact = rooms.hub.contact_lost();
        tokio::select! {
            biased;
            () = rooms.closing() => Interrupted::Closing,
            () = due::at(self.deadline) => Interrupted::Deadline,
            () = due::at(self.wait_until) => Interrupted::Waited,
            // An error says that the hub is gone, and the member with it.
            _ = contact.wait_for(|lost| *lost), if self.needs_leader => Interrupted::ContactLost,
        }
    }
}

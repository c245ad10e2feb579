//! Who is told of applied entries: the hub of changes, the leader's clocks of leases.
//!
//! Invariants:
//! - Both are told on the apply thread, in the order of the log, and neither blocks.

use std::sync::Arc;

use quorate_proto::Revision;
use quorate_state::outcome::{Changes, LeaseChange};

use super::hub::Hub;
use crate::consensus::ApplySink;

/// Told what becomes of leases.
pub trait LeaseListener: Send + Sync + 'static {
    /// In the order of the log.
    fn lease_changes(&self, changes: &[LeaseChange]);
}

/// Passes what was applied on to the rooms that live from it.
pub struct Listeners {
    hub: Arc<Hub>,
    leases: Arc<dyn LeaseListener>,
}

impl Listeners {
    /// For one hub and one set of clocks.
    pub fn new(hub: Arc<Hub>, leases: Arc<dyn LeaseListener>) -> Self {
        Self { hub, leases }
    }
}

impl ApplySink for Listeners {
    fn applied(&self, changes: Changes, leases: &[LeaseChange]) {
        if !leases.is_empty() {
            self.leases.lease_changes(leases);
        }
        self.hub.publish(changes);
    }

    fn installed(&self, revision: Revision, _compact_revision: Revision) {
        self.hub.replace(revision);
    }
}

impl ApplySink for Hub {
    fn applied(&self, changes: Changes, _leases: &[LeaseChange]) {
        self.publish(changes);
    }

    fn installed(&self, revision: Revision, _compact_revision: Revision) {
        self.replace(revision);
    }
}

//! The lease that a claim depends on: its own, or one that it shares.
//!
//! Invariants:
//! - A session that is the claim's own ends with it.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::LeaseId;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::lease::{Hold, LeaseGuard};

/// A lease, and who keeps it.
pub(crate) struct Session {
    pub(super) hold: Arc<Hold>,
    /// The claim's own.
    pub(super) own: Option<LeaseGuard>,
}

impl Session {
    /// A session of one's own, or the one given.
    pub(crate) async fn open(client: &Client, shared: Option<Arc<Hold>>, ttl: Duration) -> Result<Self> {
        if let Some(hold) = shared {
            let session = Self { hold, own: None };
            session.check()?;
            return Ok(session);
        }
        let own = client.lease(ttl).grant().await?;
        Ok(Self { hold: own.hold().clone(), own: Some(own) })
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.hold.id
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.hold.lost() {
            Some(reason) => Err(Error::LeaseLost { lease: self.hold.id, reason }),
            None => Ok(()),
        }
    }
}

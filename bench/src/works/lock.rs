//! The lock works: take a lock and give it up. Both together are one operation.
//!
//! Alone, each caller has a lock of its own, so nobody waits: what is timed is the way through the log, twice.
//! Contended, all callers of a round want the same lock: what is counted is how often it changes hands.
//!
//! Invariants:
//! - Each caller contends with a lease of its own, which does not end during the run.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::failure::{Result, wrong};
use crate::keys::own_key;
use crate::load::Caller;
use crate::wire::{Connection, Locker};

struct LockAndUnlock {
    name: Bytes,
    locker: Option<Locker>,
}

/// Takes a lock of its own.
pub fn alone(_round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(LockAndUnlock { name: own_key("lock", caller), locker: None })
}

/// Takes the one lock that all want.
pub fn contended(round: usize, _caller: usize) -> Box<dyn Caller> {
    Box::new(LockAndUnlock { name: own_key("contended", round), locker: None })
}

impl Caller for LockAndUnlock {
    fn prepare<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.locker = Some(connection.locker().await?);
            Ok(())
        })
    }

    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            let Some(locker) = &mut self.locker else { return wrong("the caller was not prepared") };
            connection.lock(self.name.clone(), locker).await?;
            connection.unlock(locker).await
        })
    }
}

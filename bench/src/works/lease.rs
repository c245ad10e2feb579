//! The lease work: grant a lease, and put a key that belongs to it. Both together are one operation.
//!
//! Invariants:
//! - No lease ends during the run, so that nothing else is measured with it.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::failure::Result;
use crate::keys::{Values, own_key, random};
use crate::load::Caller;
use crate::plan::LEASE_TTL;
use crate::wire::Connection;

struct LeasePut {
    key: Bytes,
    values: Values,
}

/// Grants, and puts a key of its own with the lease.
pub fn lease_put(round: usize, caller: usize) -> Box<dyn Caller> {
    Box::new(LeasePut { key: own_key("lease", caller), values: Values::new(&mut random(round, caller)) })
}

impl Caller for LeasePut {
    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            let lease = connection.grant(LEASE_TTL).await?;
            connection.put(self.key.clone(), self.values.fresh(), lease).await?;
            Ok(())
        })
    }
}

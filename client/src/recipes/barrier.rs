//! A barrier: while its key is there, everybody waits.
//!
//! Invariants:
//! - Whoever waits goes on once the key was seen to be absent, by a linearizable read or a watch from one.

use bytes::Bytes;

use super::{Of, changed};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::lease::LeaseGuard;

/// A barrier; made by [`Client::barrier`]. Raised, it makes everybody wait until it is lifted.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let barrier = client.barrier("/migration/running");
/// barrier.raise().await?;
/// // Elsewhere: barrier.wait().await?
/// barrier.lift().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Barrier {
    client: Client,
    key: Bytes,
}

impl Barrier {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key }
    }

    /// Raises it. `false` when it was up already.
    ///
    /// ```no_run
    /// # async fn example(barrier: quorate::Barrier) -> quorate::Result<()> {
    /// barrier.raise().await?;
    /// # Ok(()) }
    /// ```
    pub async fn raise(&self) -> Result<bool> {
        done(self.client.put(&self.key, "").expect_absent().await)
    }

    /// Raises it until it is lifted or the session ends. `false` when it was up already.
    ///
    /// ```no_run
    /// # async fn example(barrier: quorate::Barrier, session: quorate::LeaseGuard) -> quorate::Result<()> {
    /// barrier.raise_with(&session).await?;
    /// # Ok(()) }
    /// ```
    pub async fn raise_with(&self, session: &LeaseGuard) -> Result<bool> {
        done(self.client.put(&self.key, "").lease(session).expect_absent().await)
    }

    /// Lifts it. `false` when it was not up.
    ///
    /// ```no_run
    /// # async fn example(barrier: quorate::Barrier) -> quorate::Result<()> {
    /// barrier.lift().await?;
    /// # Ok(()) }
    /// ```
    pub async fn lift(&self) -> Result<bool> {
        Ok(self.client.delete(&self.key).await?.deleted > 0)
    }

    /// Waits until it is not up; at once when it is not. Safe to drop.
    ///
    /// ```no_run
    /// # async fn example(barrier: quorate::Barrier) -> quorate::Result<()> {
    /// barrier.wait().await?;
    /// # Ok(()) }
    /// ```
    pub async fn wait(&self) -> Result<()> {
        let now = self.client.get(&self.key).await?;
        if now.kv.is_none() {
            return Ok(());
        }
        changed(&self.client, &self.key, false, Of::Deletes, now.header.revision).await
    }
}

fn done<T>(result: Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error @ Error::Refused(_)) if error.is_precondition() => Ok(false),
        Err(error) => Err(error),
    }
}

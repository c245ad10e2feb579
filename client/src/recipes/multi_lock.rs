//! Several locks at once.
//!
//! Invariants:
//! - Locks are acquired in the order of their names, whatever order they are given in, so that no two who want the same
//!   wait for each other.
//! - Either all are held, or none.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::claim;
use crate::client::Client;
use crate::error::{Error, Lost, Reason, Result};
use crate::lease::LeaseGuard;
use crate::lock::LockGuard;
use crate::txn::Txn;

/// Several locks to be acquired; made by [`Client::multi_lock`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use quorate::Op;
/// let both = client.multi_lock(["accounts/8", "accounts/7"]).acquire().await?;
/// client.txn(both.txn().then(Op::put("/accounts/7", "90")).then(Op::put("/accounts/8", "110"))).await?;
/// both.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until acquired"]
pub struct MultiLock {
    client: Client,
    names: BTreeSet<Bytes>,
    ttl: Duration,
    owner: String,
    wait: Option<Duration>,
}

impl MultiLock {
    pub(super) fn new(client: Client, names: impl Iterator<Item = Bytes>) -> Self {
        Self { client, names: names.collect(), ttl: claim::TTL_DEFAULT, owner: String::new(), wait: None }
    }

    /// The time to live of the session that all of them share; 10 s when left out.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Who this is, for people who look.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Waits so long at most for all together; then it is an error with [`Reason::LockBusy`], and none is held.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// Waits until all are held. Dropping this future gives up what it has.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let guard = client.multi_lock(["a", "b"]).acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(self) -> Result<MultiLockGuard> {
        if self.names.is_empty() {
            return Err(Error::invalid("no locks are named; give at least one"));
        }
        let deadline = self.wait.and_then(|limit| Instant::now().checked_add(limit));
        let session = self.client.lease(self.ttl).grant().await?;
        let mut guards = Vec::new();
        for name in &self.names {
            let mut lock = self.client.lock(name).session(&session).owner(&self.owner);
            if let Some(deadline) = deadline {
                lock = lock.wait(deadline.saturating_duration_since(Instant::now()));
            }
            match lock.acquire().await {
                Ok(guard) => guards.push(guard),
                Err(error) => {
                    // All at once; if it fails, it is done in the background, and the error that counts is the first.
                    let _ = end(session, guards).await;
                    return Err(error);
                }
            }
        }
        let held = MultiLockGuard { guards, session };
        // One may have been lost while another was waited for.
        held.check()?;
        Ok(held)
    }

    /// Takes all of them if all are free: `None` when one is not.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let guard = client.multi_lock(["a", "b"]).try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(mut self) -> Result<Option<MultiLockGuard>> {
        self.wait.get_or_insert(Duration::ZERO);
        match self.acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(error) if error.reason() == Some(Reason::LockBusy) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Several locks that are held together; made by [`MultiLock::acquire`]. Dropping it gives all of them back.
///
/// ```no_run
/// # fn example(guard: quorate::MultiLockGuard) {
/// for lock in guard.locks() { println!("{} with token {}", String::from_utf8_lossy(lock.name()), lock.token()); }
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the locks are given back when their guard is dropped"]
pub struct MultiLockGuard {
    guards: Vec<LockGuard>,
    session: LeaseGuard,
}

impl MultiLockGuard {
    /// Each of the locks, in the order of their names.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::MultiLockGuard) { println!("{}", guard.locks().len()); }
    /// ```
    pub fn locks(&self) -> &[LockGuard] {
        &self.guards
    }

    /// Completes when one of them is lost.
    ///
    /// ```no_run
    /// # async fn example(guard: quorate::MultiLockGuard) { println!("{}", guard.lost().await); }
    /// ```
    pub async fn lost(&self) -> Lost {
        let each = self.guards.iter().map(|guard| Box::pin(guard.lost()));
        futures::future::select_all(each).await.0
    }

    /// An error if one of them is lost.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::MultiLockGuard) -> quorate::Result<()> {
    /// guard.check()?;
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<()> {
        self.guards.iter().try_for_each(LockGuard::check)
    }

    /// A transaction that happens only if all are held still.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, guard: quorate::MultiLockGuard) -> quorate::Result<()> {
    /// let done = client.txn(guard.txn().then(quorate::Op::put("/a", "1"))).await?.succeeded;
    /// # Ok(()) }
    /// ```
    pub fn txn(&self) -> Txn {
        self.guards.iter().fold(Txn::new(), |txn, guard| txn.and(guard.fence()))
    }

    /// Gives all of them back, in one revision. An error of kind [`ErrorKind::Reacquire`](crate::ErrorKind::Reacquire) says
    /// that one was lost before.
    ///
    /// ```no_run
    /// # async fn example(guard: quorate::MultiLockGuard) -> quorate::Result<()> {
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Result<()> {
        let checked = self.check();
        let Self { guards, session } = self;
        let (held, ended) = (guards.len() as u64, end(session, guards));
        match (checked, ended.await) {
            (Err(lost), _) => Err(lost),
            (Ok(()), Ok(deleted)) if deleted < held => {
                Err(Error::HoldLost { name: "one of several locks".to_owned(), reason: Lost::Taken })
            }
            (Ok(()), ended) => ended.map(drop),
        }
    }
}

/// Ends the session, and with it all locks; how many there were.
async fn end(session: LeaseGuard, guards: Vec<LockGuard>) -> Result<u64> {
    let ended = session.revoke().await;
    if ended.is_ok() {
        guards.into_iter().for_each(LockGuard::ended);
    }
    ended
}

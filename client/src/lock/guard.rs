//! A lock that is held.
//!
//! Invariants:
//! - Dropping a guard gives the lock back in the background, and at the latest when its session ends.

use quorate_proto::{LeaseId, Token, v1};

use super::LockMode;
use crate::call::CallOptions;
use crate::claim::Held;
use crate::error::{Lost, Reason, Result};
use crate::txn::{Compare, Txn};

/// A lock that is held; made by [`Lock::acquire`](crate::Lock::acquire).
///
/// Dropping it gives the lock back, as well as that can be done without waiting; [`LockGuard::release`] waits for it.
///
/// **What it promises.** While this process runs, [`lost`](Self::lost) completes before the cluster gives the lock to
/// another because its session ended; it completes soon after the lock was released by force. **What no lock can promise**:
/// after a pause (of the process, the machine, a network) code that was under way cannot know that it is late. So let the
/// resource decide: write to the cluster with [`txn`](Self::txn), and give [`token`](Self::token) along with what is
/// written elsewhere, to something that refuses smaller tokens than it has seen ([`FenceGate`](crate::FenceGate)).
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use quorate::Op;
/// let guard = client.lock("jobs/nightly").acquire().await?;
/// tokio::select! {
///     lost = guard.lost() => println!("stop working: {lost}"),
///     () = async { /* work */ } => {}
/// }
/// let written = client.txn(guard.txn().then(Op::put("/jobs/nightly/last", "today"))).await?;
/// println!("{}", if written.succeeded { "written" } else { "not written: the lock was lost" });
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[must_use = "the lock is given back when its guard is dropped"]
pub struct LockGuard {
    held: Held,
    mode: LockMode,
}

impl LockGuard {
    pub(super) fn new(held: Held, mode: LockMode) -> Self {
        Self { held, mode }
    }

    /// The fencing token: larger than that of every conflicting hold before.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::LockGuard) { println!("{}", guard.token()); }
    /// ```
    pub fn token(&self) -> Token {
        self.held.token()
    }

    /// The key that exists for as long as the lock is held. Its create revision is the token.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::LockGuard) { println!("{}", String::from_utf8_lossy(guard.key())); }
    /// ```
    pub fn key(&self) -> &[u8] {
        self.held.key()
    }

    /// The name of the lock.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::LockGuard) { println!("{}", String::from_utf8_lossy(guard.name())); }
    /// ```
    pub fn name(&self) -> &[u8] {
        &self.held.place().name
    }

    /// The lease of its session.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::LockGuard) { println!("{}", guard.lease()); }
    /// ```
    pub fn lease(&self) -> LeaseId {
        self.held.lease()
    }

    /// How it is held.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::LockGuard) { println!("{:?}", guard.mode()); }
    /// ```
    pub fn mode(&self) -> LockMode {
        self.mode
    }

    /// Completes when the lock is lost. Safe to drop and to call again at any time.
    ///
    /// ```no_run
    /// # async fn example(guard: quorate::LockGuard) { println!("{}", guard.lost().await); }
    /// ```
    pub async fn lost(&self) -> Lost {
        self.held.until_lost().await
    }

    /// An error if it is lost. Looks at the clock: right also after the process was paused.
    ///
    /// ```no_run
    /// # fn example(guard: quorate::LockGuard) -> quorate::Result<()> {
    /// guard.check()?;
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<()> {
        self.held.check()
    }

    /// A transaction that happens only if the lock is held still, when the cluster decides. Add operations with
    /// [`Txn::then`], and more conditions with [`Txn::and`].
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, guard: quorate::LockGuard) -> quorate::Result<()> {
    /// let done = client.txn(guard.txn().then(quorate::Op::put("/stock/7", "11"))).await?.succeeded;
    /// # Ok(()) }
    /// ```
    pub fn txn(&self) -> Txn {
        Txn::when(self.fence())
    }

    /// The conditions of [`txn`](Self::txn) alone, for a transaction that depends on several locks.
    ///
    /// ```no_run
    /// # fn example(a: quorate::LockGuard, b: quorate::LockGuard) {
    /// let both = quorate::Txn::when(a.fence()).and(b.fence());
    /// # }
    /// ```
    pub fn fence(&self) -> Vec<Compare> {
        self.held.fence(self.mode == LockMode::Exclusive)
    }

    /// Turns an exclusive hold into a shared one, without letting go in between: those that wait for a shared hold next in
    /// the queue get theirs. The token stays.
    ///
    /// ```no_run
    /// # async fn example(mut guard: quorate::LockGuard) -> quorate::Result<()> {
    /// guard.downgrade().await?;
    /// # Ok(()) }
    /// ```
    pub async fn downgrade(&mut self) -> Result<()> {
        self.check()?;
        let place = self.held.place();
        let request = v1::DowngradeRequest {
            name: place.name.clone(),
            lease_id: place.lease.get(),
            acquire_id: place.id,
            token: self.token().0,
        };
        match self.held.client().run(request, CallOptions::default()).await {
            Ok(_) => {
                self.mode = LockMode::Shared;
                Ok(())
            }
            Err(error) if error.reason() == Some(Reason::LockLost) => {
                self.held.lose(Lost::Gone);
                self.check()
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the lock back. An error of kind [`ErrorKind::Reacquire`](crate::ErrorKind::Reacquire) says that it was lost
    /// before: what was done under it may have met the work of another. After any error, and if this future is dropped, it
    /// is given back in the background.
    ///
    /// ```no_run
    /// # async fn example(guard: quorate::LockGuard) -> quorate::Result<()> {
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Result<()> {
        self.held.release().await
    }

    /// Its session has ended, and the lock with it: there is nothing to give back.
    pub(crate) fn ended(self) {
        self.held.ended();
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LockGuard").field(&self.held).finish()
    }
}

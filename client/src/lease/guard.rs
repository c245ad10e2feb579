//! A lease that is kept alive for as long as somebody holds on to it.
//!
//! Invariants:
//! - Once lost, a guard stays lost.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::LeaseId;
use tokio::sync::watch;

use super::clock::{BootInstant, surely_until};
use crate::client::Client;
use crate::error::{Error, Lost, Result};

/// Longest sleep between looks at the clock: timers stand still while the machine sleeps, the lease does not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the guard and the keeper share of one lease.
pub(crate) struct Hold {
    pub(crate) id: LeaseId,
    until: Mutex<(Duration, BootInstant)>,
    lost: watch::Sender<Option<Lost>>,
}

impl Hold {
    pub(super) fn ttl(&self) -> Duration {
        self.until.lock().0
    }

    pub(crate) fn until(&self) -> BootInstant {
        self.until.lock().1
    }

    /// A keep-alive that was sent then is confirmed.
    pub(super) fn confirm(&self, sent: BootInstant, ttl: Duration) {
        let mut until = self.until.lock();
        *until = (ttl, until.1.max(surely_until(sent, ttl)));
    }

    /// It is lost, if it was not before.
    pub(super) fn lose(&self, reason: Lost) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(reason);
            }
            first
        });
    }

    /// Whether it is lost, by what was heard or by the clock.
    pub(crate) fn lost(&self) -> Option<Lost> {
        if self.until().left() == Duration::ZERO {
            self.lose(Lost::NotConfirmed);
        }
        *self.lost.borrow()
    }

    /// Completes when it is lost.
    pub(crate) async fn until_lost(&self) -> Lost {
        let mut heard = self.lost.subscribe();
        loop {
            if let Some(reason) = self.lost() {
                return reason;
            }
            let look = self.until().left().min(LOOK_EVERY);
            // Time out or change: both are seen at the top.
            let _ = tokio::time::timeout(look, heard.changed()).await;
        }
    }
}

/// A lease that keeps itself alive; made by [`GrantLease::grant`](crate::GrantLease::grant).
///
/// Dropping it revokes the lease, as well as that can be done without waiting: its keys go soon, and at the latest
/// after its time to live. [`LeaseGuard::revoke`] waits for it.
///
/// The guard knows by itself when the lease may be over, even when no member can be reached: before the cluster gives
/// what it protects to another. After the process or the machine was paused, that is so from the first call of
/// [`LeaseGuard::check`] on; work that was under way cannot know, so let important writes depend on a key of the lease.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let session = client.lease(std::time::Duration::from_secs(10)).grant().await?;
/// client.put("/workers/7", "here").lease(&session).await?;
/// tokio::select! {
///     lost = session.lost() => println!("stop working: {lost}"),
///     () = async { /* work */ } => session.revoke().await.map(drop)?,
/// }
/// # Ok(()) }
/// ```
pub struct LeaseGuard {
    hold: Arc<Hold>,
    client: Client,
    released: bool,
}

impl LeaseGuard {
    pub(super) fn new(client: &Client, id: LeaseId, ttl: Duration, sent: BootInstant) -> Self {
        let until = Mutex::new((ttl, surely_until(sent, ttl)));
        let hold = Arc::new(Hold { id, until, lost: watch::Sender::new(None) });
        client.shared().keeper.keep(client.shared(), &hold, sent);
        Self { hold, client: client.clone(), released: false }
    }

    /// The lease.
    ///
    /// ```no_run
    /// # fn example(session: quorate::LeaseGuard) { println!("{}", session.id()); }
    /// ```
    pub fn id(&self) -> LeaseId {
        self.hold.id
    }

    /// Its time to live.
    ///
    /// ```no_run
    /// # fn example(session: quorate::LeaseGuard) { println!("{:?}", session.ttl()); }
    /// ```
    pub fn ttl(&self) -> Duration {
        self.hold.ttl()
    }

    /// For how long it is surely alive still; zero when it is lost.
    ///
    /// ```no_run
    /// # fn example(session: quorate::LeaseGuard) { println!("{:?}", session.remaining()); }
    /// ```
    pub fn remaining(&self) -> Duration {
        if self.hold.lost().is_some() { Duration::ZERO } else { self.hold.until().left() }
    }

    /// An error if it is lost. Looks at the clock: right also after the process was paused.
    ///
    /// ```no_run
    /// # fn example(session: quorate::LeaseGuard) -> quorate::Result<()> {
    /// session.check()?;
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<()> {
        match self.hold.lost() {
            Some(reason) => Err(Error::LeaseLost { lease: self.hold.id, reason }),
            None => Ok(()),
        }
    }

    /// Completes when the lease is lost. Safe to drop and to call again at any time.
    ///
    /// ```no_run
    /// # async fn example(session: quorate::LeaseGuard) { println!("{}", session.lost().await); }
    /// ```
    pub async fn lost(&self) -> Lost {
        self.hold.until_lost().await
    }

    /// Ends the lease and deletes its keys, in one revision. Answers how many. If this future is dropped, the lease is
    /// ended in the background.
    ///
    /// ```no_run
    /// # async fn example(session: quorate::LeaseGuard) -> quorate::Result<()> {
    /// let deleted = session.revoke().await?;
    /// # Ok(()) }
    /// ```
    pub async fn revoke(mut self) -> Result<u64> {
        let deleted = self.client.lease_revoke(self.hold.id).await?;
        self.release();
        Ok(deleted)
    }

    /// Stops keeping the lease alive, without ending it. Answers its id, so that another can attend to it.
    ///
    /// ```no_run
    /// # fn example(session: quorate::LeaseGuard) {
    /// let id = session.leave();
    /// # }
    /// ```
    pub fn leave(mut self) -> LeaseId {
        self.release();
        self.hold.id
    }

    /// What it shares with the keeper, for what depends on the lease.
    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    fn release(&mut self) {
        self.released = true;
        self.hold.lose(Lost::Released);
    }
}

impl From<&LeaseGuard> for LeaseId {
    fn from(guard: &LeaseGuard) -> Self {
        guard.hold.id
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let gone = self.hold.lost() == Some(Lost::Gone);
        self.release();
        if !gone {
            super::keeper::revoke_later(self.client.clone(), self.hold.id);
        }
    }
}

impl std::fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("LeaseGuard");
        shown.field("id", &self.hold.id).field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

//! Leading.
//!
//! Invariants:
//! - Dropping it resigns in the background, and at the latest when its session ends.

use quorate_proto::{LeaseId, Token};

use crate::claim::Held;
use crate::error::{Lost, Result};
use crate::txn::{Compare, Txn};
use crate::types::IntoBytes;

/// Leading; made by [`Election::campaign`](crate::Election::campaign).
///
/// It promises what a [`LockGuard`](crate::LockGuard) does, and has the same limit: only the [`term`](Self::term), or a
/// [`txn`](Self::txn), keeps the late write of a leader out that was paused.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let leadership = client.election("services/billing").campaign("host-7:8080").await?;
/// leadership.proclaim("host-7:8080, warmed up").await?;
/// println!("no longer leading: {}", leadership.lost().await);
/// # Ok(()) }
/// ```
#[must_use = "dropping a leadership resigns"]
pub struct Leadership {
    held: Held,
}

impl Leadership {
    pub(super) fn new(held: Held) -> Self {
        Self { held }
    }

    /// The term: a fencing token, larger than that of every leader before.
    ///
    /// ```no_run
    /// # fn example(leadership: quorate::Leadership) { println!("{}", leadership.term()); }
    /// ```
    pub fn term(&self) -> Token {
        self.held.token()
    }

    /// The key that exists for as long as this leads. Its create revision is the term.
    ///
    /// ```no_run
    /// # fn example(leadership: quorate::Leadership) { println!("{:?}", leadership.key()); }
    /// ```
    pub fn key(&self) -> &[u8] {
        self.held.key()
    }

    /// The lease of its session.
    ///
    /// ```no_run
    /// # fn example(leadership: quorate::Leadership) { println!("{}", leadership.lease()); }
    /// ```
    pub fn lease(&self) -> LeaseId {
        self.held.lease()
    }

    /// Changes what the leader says of itself. An error of kind [`ErrorKind::Reacquire`](crate::ErrorKind::Reacquire) when
    /// it does not lead any more.
    ///
    /// ```no_run
    /// # async fn example(leadership: quorate::Leadership) -> quorate::Result<()> {
    /// leadership.proclaim("host-7:8080, 12 shards").await?;
    /// # Ok(()) }
    /// ```
    pub async fn proclaim(&self, value: impl IntoBytes) -> Result<()> {
        self.check()?;
        // Under a write id: a proclamation that is sent twice counts once, and never comes after a later one.
        let write = self.held.client().put(self.key(), value).keep_lease();
        if self.held.client().txn(Txn::when(self.held.fence(false)).then(write)).await?.succeeded {
            return Ok(());
        }
        self.held.lose(Lost::Gone);
        self.check()
    }

    /// Completes when the leadership is lost. Safe to drop and to call again at any time.
    ///
    /// ```no_run
    /// # async fn example(leadership: quorate::Leadership) { println!("{}", leadership.lost().await); }
    /// ```
    pub async fn lost(&self) -> Lost {
        self.held.until_lost().await
    }

    /// An error if it is lost. Looks at the clock: right also after the process was paused.
    ///
    /// ```no_run
    /// # fn example(leadership: quorate::Leadership) -> quorate::Result<()> {
    /// leadership.check()?;
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<()> {
        self.held.check()
    }

    /// A transaction that happens only if this leads still, when the cluster decides.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, leadership: quorate::Leadership) -> quorate::Result<()> {
    /// let txn = leadership.txn().then(quorate::Op::put("/billing/shards", "12"));
    /// let done = client.txn(txn).await?.succeeded;
    /// # Ok(()) }
    /// ```
    pub fn txn(&self) -> Txn {
        Txn::when(self.fence())
    }

    /// The conditions of [`txn`](Self::txn) alone.
    ///
    /// ```no_run
    /// # fn example(leadership: quorate::Leadership, guard: quorate::LockGuard) {
    /// let both = quorate::Txn::when(leadership.fence()).and(guard.fence());
    /// # }
    /// ```
    pub fn fence(&self) -> Vec<Compare> {
        self.held.fence(true)
    }

    /// Stops leading: the next candidate leads at once. An error of kind
    /// [`ErrorKind::Reacquire`](crate::ErrorKind::Reacquire) says that the leadership was lost before. After any error, and
    /// if this future is dropped, it resigns in the background.
    ///
    /// ```no_run
    /// # async fn example(leadership: quorate::Leadership) -> quorate::Result<()> {
    /// leadership.resign().await?;
    /// # Ok(()) }
    /// ```
    pub async fn resign(self) -> Result<()> {
        self.held.release().await
    }
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Leadership").field(&self.held).finish()
    }
}

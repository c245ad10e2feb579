//! Locks: who came first holds, and every hold carries a fencing token.
//!
//! Invariants:
//! - A lock whose session was lost while it was waited for is never reported as held.
//! - Tokens of holds that exclude each other only grow.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_proto::{LeaseId, Revision, Token, v1};

use crate::claim::{self, Ask, Granted, Kind, Patience, Place, Session};
use crate::client::Client;
use crate::endpoints::Endpoint;
use crate::error::{Error, ErrorKind, Reason, Result};
use crate::lease::{Hold, LeaseGuard};
use crate::types::IntoBytes;

mod describe;
mod guard;

pub use describe::{Contender, ForceRelease, LockInfo, LockInfoCall};
pub use guard::LockGuard;

/// How a lock is held.
///
/// ```no_run
/// # fn example(guard: quorate::LockGuard) {
/// if guard.mode() == quorate::LockMode::Exclusive { println!("nobody else holds it"); }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// Nobody else holds it.
    #[default]
    Exclusive,
    /// Others that are shared may hold it too.
    Shared,
    /// One of so many permits.
    Permit(u32),
}

/// A lock to be acquired; made by [`Client::lock`].
///
/// Waiting has no deadline unless [`wait`](Self::wait) sets one: it lasts as long as its session does, through the loss of
/// members. Dropping the future of [`acquire`](Self::acquire) or [`try_acquire`](Self::try_acquire) gives the place in the
/// queue up, in the background.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use std::time::Duration;
/// let guard = client.lock("jobs/nightly").ttl(Duration::from_secs(10)).owner("host-7").acquire().await?;
/// println!("held with token {}", guard.token());
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until acquired"]
pub struct Lock {
    client: Client,
    request: v1::AcquireRequest,
    session: Option<Arc<Hold>>,
    ttl: Duration,
    wait: Option<Duration>,
}

impl Client {
    /// A lock with this name: any bytes; names do not nest (with a lock `a`, there is none `a/b`).
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let guard = client.lock("jobs/nightly").acquire().await?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: impl IntoBytes) -> Lock {
        let request = v1::AcquireRequest { name: name.into_bytes(), ..v1::AcquireRequest::default() };
        Lock { client: self.clone(), request, session: None, ttl: claim::TTL_DEFAULT, wait: None }
    }

    /// Waits for the lock, runs `work`, and gives the lock back: [`Lock::with`] with nothing else asked for.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let report = client
    ///     .with_lock("jobs/nightly", async |guard| {
    ///         println!("token {}", guard.token());
    ///         "done"
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn with_lock<T>(&self, name: impl IntoBytes, work: impl AsyncFnOnce(&LockGuard) -> T) -> Result<T> {
        self.lock(name).with(work).await
    }
}

impl Lock {
    /// With a session of its own, which has this time to live (500 ms to 10 years; 10 s when left out) and ends with the
    /// hold. When this process dies or is cut off, others get the lock after so long.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        (self.ttl, self.session) = (ttl, None);
        self
    }

    /// With a session that is there already, and may own other locks and keys.
    pub fn session(mut self, session: &LeaseGuard) -> Self {
        self.session = Some(session.hold().clone());
        self
    }

    /// Others that are shared may hold it at the same time. Who comes behind somebody exclusive that waits, waits too.
    pub fn shared(self) -> Self {
        self.mode(LockMode::Shared)
    }

    /// One of so many permits (1 to 1 000 000), of which each may be held at the same time: a semaphore. All must say the
    /// same number.
    pub fn permits(self, permits: u32) -> Self {
        self.mode(LockMode::Permit(permits))
    }

    /// Exclusive, shared, or a permit; what is called last counts.
    pub fn mode(mut self, mode: LockMode) -> Self {
        let (mode, permits) = match mode {
            LockMode::Exclusive => (v1::LockMode::Exclusive, 0),
            LockMode::Shared => (v1::LockMode::Shared, 0),
            LockMode::Permit(permits) => (v1::LockMode::Permit, permits),
        };
        (self.request.mode, self.request.permits) = (mode.into(), permits);
        self
    }

    /// Who this is, for people who look, and for [`reentrant`](Self::reentrant); at most 256 bytes.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.request.owner = owner.into();
        self
    }

    /// Something that others see of this contender; at most 4 096 bytes in all.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.metadata.insert(name.into(), value.into());
        self
    }

    /// Joins a hold that the same [`session`](Self::session) and [`owner`](Self::owner) have already in the same mode: same
    /// key, same token. It ends when all that joined it have released.
    pub fn reentrant(mut self) -> Self {
        self.request.reentrant = true;
        self
    }

    /// If the session is lost while the lock is held, nobody gets it for so much longer than its time to live: for resources
    /// that cannot check tokens, and that a late write may reach. Off when left out.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.request.lock_delay_ms = milliseconds(delay);
        self
    }

    /// Waits so long at most; then it is an error with [`Reason::LockBusy`].
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// Waits until it is held.
    ///
    /// Dropping this future gives the place in the queue up.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let guard = client.lock("jobs/nightly").acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(self) -> Result<LockGuard> {
        let patience = match self.wait {
            Some(limit) if limit < Duration::from_millis(1) => Patience::None,
            Some(limit) => Patience::For(limit),
            None => Patience::Forever,
        };
        self.run(patience).await
    }

    /// Takes it if it is free: `None` when it is not. With [`wait`](Self::wait), if it becomes free within that time.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// match client.lock("jobs/nightly").try_acquire().await? {
    ///     Some(guard) => guard.release().await?,
    ///     None => println!("somebody else is at it"),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(mut self) -> Result<Option<LockGuard>> {
        self.wait.get_or_insert(Duration::ZERO);
        match self.acquire().await {
            Ok(guard) => Ok(Some(guard)),
            Err(error) if error.reason() == Some(Reason::LockBusy) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until it is held, runs `work`, and gives it back. When the lock is lost meanwhile, `work` is dropped where it
    /// stands, and the error is of kind [`ErrorKind::Reacquire`]; also when that is found only at the end.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use quorate::Op;
    /// let written = client
    ///     .lock("jobs/nightly")
    ///     .wait(std::time::Duration::from_secs(5))
    ///     .with(async |guard| client.txn(guard.txn().then(Op::put("/jobs/nightly/last", "today"))).await)
    ///     .await??;
    /// # Ok(()) }
    /// ```
    pub async fn with<T>(self, work: impl AsyncFnOnce(&LockGuard) -> T) -> Result<T> {
        let guard = self.acquire().await?;
        let done = tokio::select! {
            biased;
            _ = guard.lost() => None,
            done = work(&guard) => Some(done),
        };
        let Some(done) = done else {
            guard.check()?;
            return Err(Error::Closed);
        };
        match guard.release().await {
            Err(error) if error.kind() == ErrorKind::Reacquire => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the lock is given back in the background");
                Ok(done)
            }
            Ok(()) => Ok(done),
        }
    }

    async fn run(self, patience: Patience) -> Result<LockGuard> {
        let Self { client, mut request, session, ttl, .. } = self;
        if request.reentrant && (session.is_none() || request.owner.is_empty()) {
            let what = "a lock can be joined again only with a session and an owner; give session() and owner()";
            return Err(Error::invalid(what));
        }
        let mode = mode_of(request.mode(), request.permits);
        let session = Session::open(&client, session, ttl).await?;
        let mut place = Place::new(Kind::Lock, request.name.clone(), session.lease());
        place.delayed = request.lock_delay_ms > 0;
        (request.lease_id, request.acquire_id) = (place.lease.get(), place.id);
        let held = claim::wait(&client, session, place, request, patience).await?;
        Ok(LockGuard::new(held, mode))
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("request", &self.request).field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl Ask for v1::AcquireRequest {
    fn send(mut self, wait: Patience, endpoint: Arc<Endpoint>) -> BoxFuture<'static, Result<Granted>> {
        Box::pin(async move {
            match wait {
                Patience::None => self.try_only = true,
                Patience::For(left) => self.wait_ms = milliseconds(left),
                Patience::Forever => {}
            }
            let wrong = |status: tonic::Status| Error::from_status(&status, &endpoint.address);
            let answer = endpoint.lock().acquire(self).await.map_err(wrong)?.into_inner();
            let revision = Revision(answer.header.map_or(0, |header| header.revision));
            let delay_lease = LeaseId::new(answer.delay_lease_id);
            granted(answer.key, answer.token, revision, delay_lease, &endpoint)
        })
    }
}

/// A grant without a token is none.
pub(crate) fn granted(
    key: Bytes,
    token: i64,
    revision: Revision,
    delay_lease: Option<LeaseId>,
    endpoint: &Endpoint,
) -> Result<Granted> {
    if key.is_empty() || token <= 0 {
        return Err(Error::protocol(&endpoint.address, "a grant without a key or a token"));
    }
    Ok(Granted { key, token: Token(token), revision, delay_lease })
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn mode_of(mode: v1::LockMode, permits: u32) -> LockMode {
    match mode {
        v1::LockMode::Exclusive => LockMode::Exclusive,
        v1::LockMode::Shared => LockMode::Shared,
        v1::LockMode::Permit => LockMode::Permit(permits),
    }
}

#[cfg(test)]
mod tests;

//! Leases: keys that end together when nobody keeps their lease alive.
//!
//! Invariants:
//! - A [`LeaseGuard`] counts its lease as lost no later than the cluster may end it: from when the last confirmed
//!   keep-alive was *sent*, on a clock that also runs while the machine sleeps, less a margin.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{LeaseId, v1};

use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::kv::awaited;
use crate::types::Header;

mod clock;
mod guard;
mod keeper;

use clock::BootInstant;
pub use guard::LeaseGuard;
pub(crate) use keeper::Keeper;

/// A lease to be granted; made by [`Client::lease`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use std::time::Duration;
/// let session = client.lease(Duration::from_secs(10)).grant().await?;
/// client.put("/workers/7", "here").lease(&session).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until granted"]
pub struct GrantLease {
    client: Client,
    request: v1::GrantRequest,
    options: CallOptions,
}

impl GrantLease {
    /// With this id, instead of one that the cluster chooses.
    pub fn id(mut self, id: LeaseId) -> Self {
        self.request.lease_id = id.get();
        self
    }

    /// How long the call may take in all, instead of the client's default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Grants the lease and keeps it alive until the guard is dropped.
    ///
    /// Dropping this future before it returns may leave a lease behind that ends by itself after its time to live.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let session = client.lease(std::time::Duration::from_secs(10)).grant().await?;
    /// # Ok(()) }
    /// ```
    pub async fn grant(self) -> Result<LeaseGuard> {
        let client = self.client.clone();
        let sent = BootInstant::now();
        let granted = self.grant_unattended().await?;
        Ok(LeaseGuard::new(&client, granted.id, granted.ttl, sent))
    }

    /// Grants the lease and leaves it alone: it ends after its time to live unless somebody else keeps it alive.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let lease = client.lease(std::time::Duration::from_secs(3600)).grant_unattended().await?;
    /// println!("{} for {:?}", lease.id, lease.ttl);
    /// # Ok(()) }
    /// ```
    pub async fn grant_unattended(self) -> Result<GrantedLease> {
        let answer = self.client.run(self.request, self.options).await?;
        let id = LeaseId::new(answer.lease_id)
            .ok_or_else(|| crate::Error::protocol("the cluster", "a lease was granted without an id"))?;
        Ok(GrantedLease { header: answer.header.into(), id, ttl: Duration::from_millis(answer.ttl_ms) })
    }
}

/// A lease that nobody keeps alive; made by [`GrantLease::grant_unattended`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let lease = client.lease(std::time::Duration::from_secs(60)).grant_unattended().await?;
/// client.put("/a", "1").lease(lease.id).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedLease {
    /// Who answered.
    pub header: Header,
    /// Its id.
    pub id: LeaseId,
    /// Its time to live.
    pub ttl: Duration,
}

/// A question for what a lease has left; made by [`Client::lease_time_to_live`].
///
/// ```no_run
/// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
/// let left = client.lease_time_to_live(id).with_keys().await?;
/// println!("{:?} for {} keys", left.remaining, left.keys.len());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct TimeToLive {
    client: Client,
    request: v1::TimeToLiveRequest,
    options: CallOptions,
}

awaited!(TimeToLive => TimeToLiveResponse);

impl TimeToLive {
    /// With the keys that it owns.
    pub fn with_keys(mut self) -> Self {
        self.request.with_keys = true;
        self
    }

    async fn run(self) -> Result<TimeToLiveResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(TimeToLiveResponse {
            header: answer.header.into(),
            granted: Duration::from_millis(answer.granted_ttl_ms),
            remaining: (answer.remaining_ms > 0).then(|| Duration::from_millis(answer.remaining_ms)),
            keys: answer.keys,
        })
    }
}

/// What a lease has left.
///
/// ```no_run
/// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
/// match client.lease_time_to_live(id).await?.remaining {
///     Some(left) => println!("{left:?}"),
///     None => println!("it does not exist"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeToLiveResponse {
    /// Who answered.
    pub header: Header,
    /// Its full time to live.
    pub granted: Duration,
    /// What it has left on the leader's clock; `None` when it does not exist.
    pub remaining: Option<Duration>,
    /// The keys that it owns, when asked for.
    pub keys: Vec<Bytes>,
}

impl Client {
    /// A lease with this time to live (500 ms to 10 years).
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let session = client.lease(std::time::Duration::from_secs(10)).grant().await?;
    /// # Ok(()) }
    /// ```
    pub fn lease(&self, ttl: Duration) -> GrantLease {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let request = v1::GrantRequest { id: None, ttl_ms, lease_id: 0 };
        GrantLease { client: self.clone(), request, options: CallOptions::default() }
    }

    /// Keeps a lease alive that exists already, until the guard is dropped: which revokes it, unless
    /// [`LeaseGuard::leave`] is called.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
    /// let guard = client.lease_attend(id).await?;
    /// println!("lost: {}", guard.lost().await);
    /// # Ok(()) }
    /// ```
    pub async fn lease_attend(&self, id: LeaseId) -> Result<LeaseGuard> {
        let sent = BootInstant::now();
        let ttl = self.lease_keep_alive(id).await?;
        Ok(LeaseGuard::new(self, id, ttl, sent))
    }

    /// Renews a lease once. Answers its time to live, counted from the call.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
    /// let ttl = client.lease_keep_alive(id).await?;
    /// # Ok(()) }
    /// ```
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.run(keeper::KeepAliveOnce(id), CallOptions::default()).await
    }

    /// Ends a lease and deletes its keys, in one revision. Answers how many.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
    /// let deleted = client.lease_revoke(id).await?;
    /// # Ok(()) }
    /// ```
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<u64> {
        let request = v1::RevokeRequest { id: None, lease_id: id.get() };
        let answer = self.run(request, CallOptions::default()).await?;
        Ok(u64::try_from(answer.deleted).unwrap_or_default())
    }

    /// What a lease has left, and which keys it owns.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
    /// let left = client.lease_time_to_live(id).await?.remaining;
    /// # Ok(()) }
    /// ```
    pub fn lease_time_to_live(&self, id: LeaseId) -> TimeToLive {
        let request = v1::TimeToLiveRequest { lease_id: id.get(), with_keys: false };
        TimeToLive { client: self.clone(), request, options: CallOptions::default() }
    }

    /// All leases.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// for id in client.leases().await? { println!("{id}"); }
    /// # Ok(()) }
    /// ```
    pub async fn leases(&self) -> Result<Vec<LeaseId>> {
        let answer = self.run(v1::ListLeasesRequest {}, CallOptions::default()).await?;
        Ok(answer.lease_ids.into_iter().filter_map(LeaseId::new).collect())
    }
}

#[cfg(test)]
mod tests;

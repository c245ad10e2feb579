//! Leases: keys that end together when nobody keeps their lease alive.
//!
//! Invariants:
//! - What is listed comes in pages, each as of its own moment; awaited, a listing collects all of them.
//! - A [`LeaseGuard`] counts its lease as lost no later than the cluster may end it: from when the last confirmed
//!   keep-alive was *sent*, on a clock that also runs while the machine sleeps, less a margin.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{LeaseId, v1};

use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::kv::{Cursor, awaited};
use crate::types::Header;

mod clock;
mod guard;
mod keeper;

use clock::BootInstant;
pub(crate) use guard::Hold;
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

    /// At most so many keys in a page (up to 10 000); 1 000 when left out.
    pub fn page_size(mut self, keys: u32) -> Self {
        self.request.page_size = keys;
        self
    }

    /// Goes on after an earlier page of its keys.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.request.cursor = cursor.0;
        self
    }

    /// What it has left, with one page of its keys.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::LeaseId) -> quorate::Result<()> {
    /// let first = client.lease_time_to_live(id).with_keys().page_size(100).page().await?;
    /// if let Some(cursor) = first.next {
    ///     let second = client.lease_time_to_live(id).with_keys().page_size(100).after(cursor).page().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn page(self) -> Result<TimeToLiveResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(TimeToLiveResponse {
            header: answer.header.into(),
            granted: Duration::from_millis(answer.granted_ttl_ms),
            remaining: (answer.remaining_ms > 0).then(|| Duration::from_millis(answer.remaining_ms)),
            keys: answer.keys,
            next: Cursor::of(answer.next_cursor),
        })
    }

    async fn run(self) -> Result<TimeToLiveResponse> {
        let mut all = self.clone().page().await?;
        while let Some(cursor) = all.next.take() {
            let page = self.clone().after(cursor).page().await?;
            let mut keys = std::mem::take(&mut all.keys);
            keys.extend(page.keys);
            all = TimeToLiveResponse { keys, ..page };
        }
        Ok(all)
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
    /// The keys that it owns, in order, when asked for.
    pub keys: Vec<Bytes>,
    /// Where the next page of keys begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// A listing of leases; made by [`Client::leases`]. Awaited, it collects all of them.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// for id in client.leases().await? { println!("{id}"); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Leases {
    client: Client,
    request: v1::ListLeasesRequest,
    options: CallOptions,
}

awaited!(Leases => Vec<LeaseId>);

impl Leases {
    /// At most so many in a page (up to 10 000); 1 000 when left out.
    pub fn page_size(mut self, leases: u32) -> Self {
        self.request.page_size = leases;
        self
    }

    /// Goes on after an earlier page.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.request.cursor = cursor.0;
        self
    }

    /// One page.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let first = client.leases().page_size(100).page().await?;
    /// if let Some(cursor) = first.next {
    ///     let second = client.leases().page_size(100).after(cursor).page().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn page(self) -> Result<LeasesPage> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(LeasesPage {
            header: answer.header.into(),
            leases: answer.lease_ids.into_iter().filter_map(LeaseId::new).collect(),
            next: Cursor::of(answer.next_cursor),
        })
    }

    async fn run(self) -> Result<Vec<LeaseId>> {
        let (mut all, mut list) = (Vec::new(), self);
        loop {
            let page = list.clone().page().await?;
            all.extend(page.leases);
            let Some(cursor) = page.next else { return Ok(all) };
            list = list.after(cursor);
        }
    }
}

/// Some of the leases, in order of their ids; from [`Leases::page`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let page: quorate::LeasesPage = client.leases().page().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasesPage {
    /// Who answered.
    pub header: Header,
    /// The leases.
    pub leases: Vec<LeaseId>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
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
        let request = v1::TimeToLiveRequest { lease_id: id.get(), ..v1::TimeToLiveRequest::default() };
        TimeToLive { client: self.clone(), request, options: CallOptions::default() }
    }

    /// All leases.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// for id in client.leases().await? { println!("{id}"); }
    /// # Ok(()) }
    /// ```
    pub fn leases(&self) -> Leases {
        let request = v1::ListLeasesRequest::default();
        Leases { client: self.clone(), request, options: CallOptions::default() }
    }
}

#[cfg(test)]
mod tests;

//! Elections: a lock whose holder is the leader, and whose contenders say who they are.
//!
//! Invariants:
//! - Terms of leaders of one election only grow.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_proto::{LeaseId, Revision, Token, v1};

use crate::call::CallOptions;
use crate::claim::{self, Ask, Granted, Kind, Patience, Place, Session};
use crate::client::Client;
use crate::endpoints::Endpoint;
use crate::error::{Error, Result};
use crate::lease::{Hold, LeaseGuard};
use crate::lock::{granted, milliseconds};
use crate::types::IntoBytes;

mod leadership;
mod observe;

pub use leadership::Leadership;
pub use observe::Leaders;

/// An election; made by [`Client::election`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use std::time::Duration;
/// let election = client.election("services/billing").ttl(Duration::from_secs(5));
/// let leadership = election.campaign("host-7:8080").await?;
/// println!("leading in term {}", leadership.term());
/// leadership.resign().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Election {
    client: Client,
    name: Bytes,
    session: Option<Arc<Hold>>,
    ttl: Duration,
    wait: Option<Duration>,
}

impl Client {
    /// An election with this name: any bytes; names do not nest, as those of locks.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let leader = client.election("services/billing").leader().await?;
    /// # Ok(()) }
    /// ```
    pub fn election(&self, name: impl IntoBytes) -> Election {
        let (client, name) = (self.clone(), name.into_bytes());
        Election { client, name, session: None, ttl: claim::TTL_DEFAULT, wait: None }
    }
}

impl Election {
    /// Campaigns with a session of its own, which has this time to live (500 ms to 10 years; 10 s when left out) and ends
    /// with the leadership. When the leader dies or is cut off, another leads after so long.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        (self.ttl, self.session) = (ttl, None);
        self
    }

    /// Campaigns with a session that is there already, and may own other keys.
    #[must_use]
    pub fn session(mut self, session: &LeaseGuard) -> Self {
        self.session = Some(session.hold().clone());
        self
    }

    /// Campaigns so long at most; then it is an error with [`Reason::LockBusy`](crate::Reason::LockBusy).
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// Waits until this candidate leads. `value` says who it is; others read it.
    ///
    /// Waiting has no deadline unless [`wait`](Self::wait) sets one. Dropping this future gives the candidacy up.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let leadership = client.election("services/billing").campaign("host-7:8080").await?;
    /// # Ok(()) }
    /// ```
    pub async fn campaign(&self, value: impl IntoBytes) -> Result<Leadership> {
        let value = value.into_bytes();
        let patience = self.wait.map_or(Patience::Forever, |limit| Patience::For(limit.max(Duration::from_millis(1))));
        let session = Session::open(&self.client, self.session.clone(), self.ttl).await?;
        let place = Place::new(Kind::Election, self.name.clone(), session.lease());
        let request = v1::CampaignRequest {
            name: place.name.clone(),
            lease_id: place.lease.get(),
            ttl_ms: 0,
            campaign_id: place.id,
            value,
            wait_ms: 0,
        };
        Ok(Leadership::new(claim::wait(&self.client, session, place, request, patience).await?))
    }

    /// Who leads now; `None` when nobody does.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// if let Some(leader) = client.election("services/billing").leader().await? {
    ///     println!("{} leads in term {}", leader.value_text(), leader.term);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let request = v1::LeaderRequest { name: self.name.clone(), read: None };
        let answer = self.client.run(request, CallOptions::default()).await?;
        Ok(answer.leader.map(Into::into))
    }

    /// Who leads now, and then each change, also of what the leader says of itself. Goes on at another member when its own
    /// fails; which is not seen, unless the leader changed meanwhile.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use futures::TryStreamExt as _;
    /// let mut leaders = client.election("services/billing").observe();
    /// while let Some(now) = leaders.try_next().await? {
    ///     match now {
    ///         Some(leader) => println!("{} leads", leader.value_text()),
    ///         None => println!("nobody leads"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn observe(&self) -> Leaders {
        Leaders::new(self.client.clone(), self.name.clone())
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election").field("name", &self.name).field("wait", &self.wait).finish_non_exhaustive()
    }
}

/// Who leads.
///
/// ```no_run
/// # fn example(leader: quorate::Leader) { println!("{} in term {}", leader.value_text(), leader.term); }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The key that exists for as long as it leads.
    pub key: Bytes,
    /// The lease of its session.
    pub lease: Option<LeaseId>,
    /// Its term: a fencing token, larger than that of every leader before.
    pub term: Token,
    /// What it says of itself.
    pub value: Bytes,
}

impl Leader {
    /// What it says of itself, as text; what is not UTF-8 is replaced.
    ///
    /// ```no_run
    /// # fn example(leader: quorate::Leader) { println!("{}", leader.value_text()); }
    /// ```
    pub fn value_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }
}

impl From<v1::Leader> for Leader {
    fn from(leader: v1::Leader) -> Self {
        let v1::Leader { key, lease_id, term, value } = leader;
        Self { key, lease: LeaseId::new(lease_id), term: Token(term), value }
    }
}

impl Ask for v1::CampaignRequest {
    fn send(mut self, wait: Patience, endpoint: Arc<Endpoint>) -> BoxFuture<'static, Result<Granted>> {
        Box::pin(async move {
            self.wait_ms = match wait {
                Patience::None => 1,
                Patience::For(left) => milliseconds(left),
                Patience::Forever => 0,
            };
            let wrong = |status: tonic::Status| Error::from_status(&status, &endpoint.address);
            let answer = endpoint.election().campaign(self).await.map_err(wrong)?.into_inner();
            let revision = Revision(answer.header.map_or(0, |header| header.revision));
            granted(answer.key, answer.term, revision, None, &endpoint)
        })
    }
}

#[cfg(test)]
mod tests;

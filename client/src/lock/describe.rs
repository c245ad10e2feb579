//! Who holds a lock and who waits for it; and taking it away from them.
//!
//! Invariants:
//! - What is described is one moment of the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{LeaseId, Token, v1};

use super::{LockMode, mode_of};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::kv::{awaited, fresh};
use crate::types::{Header, IntoBytes};

/// A look at a lock; made by [`Client::lock_info`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let info = client.lock_info("jobs/nightly").waiters_max(10).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct LockInfoCall {
    client: Client,
    request: v1::DescribeLockRequest,
    options: CallOptions,
}

awaited!(LockInfoCall => LockInfo);
fresh!(LockInfoCall);

impl LockInfoCall {
    /// At most so many of those that wait (up to 10 000); 100 when left out.
    pub fn waiters_max(mut self, waiters: u32) -> Self {
        self.request.waiters_max = waiters;
        self
    }

    async fn run(self) -> Result<LockInfo> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(LockInfo {
            header: answer.header.into(),
            holders: answer.holders.into_iter().map(Into::into).collect(),
            waiters: answer.waiters.into_iter().map(Into::into).collect(),
            waiting: answer.waiting,
        })
    }
}

impl Client {
    /// Who holds a lock, and who waits for it.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// for holder in client.lock_info("jobs/nightly").await?.holders {
    ///     println!("{} with token {:?}", holder.owner, holder.token);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn lock_info(&self, name: impl IntoBytes) -> LockInfoCall {
        let request = v1::DescribeLockRequest { name: name.into_bytes(), read: None, waiters_max: 0 };
        LockInfoCall { client: self.clone(), request, options: CallOptions::default() }
    }

    /// Takes a lock, or a place in its queue, from whoever has it; for operators. The holder hears of it from
    /// [`LockGuard::lost`](crate::LockGuard::lost), but may be at work: it is its token that keeps late writes out.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, token: quorate::Token) -> quorate::Result<()> {
    /// match client.lock_force_release("jobs/nightly").token(token).await? {
    ///     Some(taken) => println!("taken from {}", taken.owner),
    ///     None => println!("nobody holds it with that token"),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn lock_force_release(&self, name: impl IntoBytes) -> ForceRelease {
        let request = v1::ForceReleaseRequest { name: name.into_bytes(), which: None };
        ForceRelease { client: self.clone(), request, options: CallOptions::default() }
    }
}

/// A forced release; made by [`Client::lock_force_release`]. It needs a [`token`](Self::token) or a [`key`](Self::key).
///
/// ```no_run
/// # async fn example(client: quorate::Client, stuck: quorate::Contender) -> quorate::Result<()> {
/// client.lock_force_release("jobs/nightly").key(stuck.key).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct ForceRelease {
    client: Client,
    request: v1::ForceReleaseRequest,
    options: CallOptions,
}

awaited!(ForceRelease => Option<Contender>);

impl ForceRelease {
    /// The hold with this token.
    pub fn token(mut self, token: Token) -> Self {
        self.request.which = Some(v1::force_release_request::Which::Token(token.0));
        self
    }

    /// The contender with this key, holding or waiting.
    pub fn key(mut self, key: impl IntoBytes) -> Self {
        self.request.which = Some(v1::force_release_request::Which::Key(key.into_bytes()));
        self
    }

    async fn run(self) -> Result<Option<Contender>> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.released.map(Into::into))
    }
}

/// Who holds a lock and who waits for it; answer of [`Client::lock_info`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let info: quorate::LockInfo = client.lock_info("jobs/nightly").await?;
/// println!("{} hold it, {} wait", info.holders.len(), info.waiting);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// Who answered, as of which revision.
    pub header: Header,
    /// Everyone who holds it.
    pub holders: Vec<Contender>,
    /// The first of those that wait, in the order in which they are going to be granted.
    pub waiters: Vec<Contender>,
    /// How many wait in all.
    pub waiting: u64,
}

/// Somebody who holds a lock or waits for it.
///
/// ```no_run
/// # fn example(contender: quorate::Contender) {
/// println!("{} since {:?}", contender.owner, contender.since());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contender {
    /// Its key.
    pub key: Bytes,
    /// The lease of its session.
    pub lease: Option<LeaseId>,
    /// How it holds, or wants to.
    pub mode: LockMode,
    /// Who it says that it is.
    pub owner: String,
    /// What it wants others to see.
    pub metadata: BTreeMap<String, String>,
    /// Its fencing token; `None` while it waits.
    pub token: Option<Token>,
    /// When it came into the queue, in ms since the Unix epoch, as the leader stamped it.
    pub since_unix_ms: i64,
    /// It has lost its session and holds on until its lock delay is over.
    pub delaying: bool,
    /// A key that no lock call wrote; it counts as exclusive.
    pub foreign: bool,
}

impl Contender {
    /// When it came into the queue, as the leader stamped it.
    ///
    /// ```no_run
    /// # fn example(contender: quorate::Contender) {
    /// println!("{:?} ago", contender.since().elapsed());
    /// # }
    /// ```
    pub fn since(&self) -> std::time::SystemTime {
        let ms = u64::try_from(self.since_unix_ms).unwrap_or_default();
        std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }
}

impl From<v1::Contender> for Contender {
    fn from(contender: v1::Contender) -> Self {
        Self {
            mode: mode_of(contender.mode(), contender.permits),
            key: contender.key,
            lease: LeaseId::new(contender.lease_id),
            owner: contender.owner,
            metadata: contender.metadata.into_iter().collect(),
            token: (contender.token > 0).then_some(Token(contender.token)),
            since_unix_ms: contender.since_unix_ms,
            delaying: contender.delaying,
            foreign: contender.foreign,
        }
    }
}

//! One key: get, put, delete (and delete of many at once).
//!
//! Invariants:
//! - The last of `lease`, `ttl` and `keep_lease` counts, and the last expectation.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{LeaseId, Revision, v1};

use super::{awaited, fresh};
use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::types::{Header, KeyValue};

/// A read of one key; made by [`Client::get`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let now = client.get("/a").await?;
/// let then = client.get("/a").at(quorate::Revision(7)).await?;
/// let quick = client.get("/a").serializable().min_revision(now.header.revision).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Get {
    pub(super) client: Client,
    pub(super) request: v1::GetRequest,
    pub(super) options: CallOptions,
}

awaited!(Get => GetResponse);
fresh!(Get);

impl Get {
    /// Reads as of this revision.
    pub fn at(mut self, revision: Revision) -> Self {
        self.request.revision = revision.get();
        self
    }

    async fn run(self) -> Result<GetResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.into())
    }
}

/// Answer of a [`Get`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let answer = client.get("/a").await?;
/// match answer.kv {
///     Some(kv) => println!("{} since revision {}", kv.value_text(), kv.mod_revision),
///     None => println!("absent at revision {}", answer.header.revision),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetResponse {
    /// Who answered, as of which revision.
    pub header: Header,
    /// The key; `None` when it does not exist.
    pub kv: Option<KeyValue>,
}

impl GetResponse {
    /// The value; `None` when the key does not exist.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let value = client.get("/a").await?.into_value().unwrap_or_default();
    /// # Ok(()) }
    /// ```
    pub fn into_value(self) -> Option<Bytes> {
        self.kv.map(|kv| kv.value)
    }
}

impl From<v1::GetResponse> for GetResponse {
    fn from(answer: v1::GetResponse) -> Self {
        Self { header: answer.header.into(), kv: answer.kv.map(Into::into) }
    }
}

/// A write of one key; made by [`Client::put`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use std::time::Duration;
/// client.put("/once", "1").expect_absent().await?;
/// client.put("/session/7", "here").ttl(Duration::from_secs(30)).await?;
/// let job = client.put("/queue", "work").sequential().await?;
/// println!("written as {}", job.key_text());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Put {
    pub(super) client: Client,
    pub(super) request: v1::PutRequest,
    pub(super) options: CallOptions,
}

awaited!(Put => PutResponse, write);

impl Put {
    /// The key ends with this lease.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.request.owner = Some(v1::put_request::Owner::LeaseId(lease.into().get()));
        self
    }

    /// The key ends after this time (500 ms to 10 years) unless it is put again.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.request.owner = Some(v1::put_request::Owner::TtlMs(ttl_ms));
        self
    }

    /// The key keeps the lease that it has.
    pub fn keep_lease(mut self) -> Self {
        self.request.owner = Some(v1::put_request::Owner::KeepLease(true));
        self
    }

    /// Refused when the key exists.
    pub fn expect_absent(self) -> Self {
        self.expect(v1::expect::What::Absent(true))
    }

    /// Refused when the key does not exist.
    pub fn expect_present(self) -> Self {
        self.expect(v1::expect::What::Present(true))
    }

    /// Refused when the key's last change is not that of this revision.
    pub fn expect_revision(self, revision: Revision) -> Self {
        self.expect(v1::expect::What::ModRevision(revision.get()))
    }

    /// Answers with what stood there before (not again when the write was sent twice).
    pub fn previous(mut self) -> Self {
        self.request.return_previous = true;
        self
    }

    /// Refused when the parent path exists neither as a key nor as a directory.
    pub fn must_have_parent(mut self) -> Self {
        self.request.must_have_parent = true;
        self
    }

    /// The key is a directory; what is written is `<key>/<its next number, 20 digits>`.
    pub fn sequential(mut self) -> Self {
        self.request.sequential = true;
        self
    }

    fn expect(mut self, what: v1::expect::What) -> Self {
        self.request.expect = Some(v1::Expect { what: Some(what) });
        self
    }

    async fn run(self) -> Result<PutResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.into())
    }
}

/// Answer of a [`Put`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let written = client.put("/a", "2").previous().await?;
/// if let Some(before) = written.previous { println!("was {}", before.value_text()); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutResponse {
    /// Who answered; its revision is that of the write.
    pub header: Header,
    /// The key written; not the one given when sequential.
    pub key: Bytes,
    /// What stood there before, when asked for.
    pub previous: Option<KeyValue>,
    /// The key's lease now: given, kept or made.
    pub lease: Option<LeaseId>,
    /// The cluster knew this write from an earlier attempt, whose answer was lost: `previous` is not given again, whatever
    /// stood there.
    pub replayed: bool,
}

impl PutResponse {
    /// The key written, as text; what is not UTF-8 is replaced.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// println!("{}", client.put("/queue", "work").sequential().await?.key_text());
    /// # Ok(()) }
    /// ```
    pub fn key_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

impl From<v1::PutResponse> for PutResponse {
    fn from(answer: v1::PutResponse) -> Self {
        Self {
            header: answer.header.into(),
            key: answer.key,
            previous: answer.previous.map(Into::into),
            lease: LeaseId::new(answer.lease_id),
            replayed: answer.replayed,
        }
    }
}

/// A delete; made by [`Client::delete`], [`Client::delete_subtree`] or [`Client::delete_range`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// client.delete("/a").expect_revision(quorate::Revision(7)).await?;
/// let gone = client.delete_subtree("/old").previous().await?;
/// println!("{} keys", gone.deleted);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct Delete {
    pub(super) client: Client,
    pub(super) request: v1::DeleteRequest,
    pub(super) options: CallOptions,
}

awaited!(Delete => DeleteResponse, write);

impl Delete {
    /// Refused when the key does not exist. (Without it, deleting nothing is fine.)
    pub fn expect_present(self) -> Self {
        self.expect(v1::expect::What::Present(true))
    }

    /// Refused when the key's last change is not that of this revision.
    pub fn expect_revision(self, revision: Revision) -> Self {
        self.expect(v1::expect::What::ModRevision(revision.get()))
    }

    /// Refused when the path has children.
    pub fn must_be_empty(mut self) -> Self {
        self.request.must_be_empty = true;
        self
    }

    /// Answers with what stood there before (not again when the delete was sent twice).
    pub fn previous(mut self) -> Self {
        self.request.return_previous = true;
        self
    }

    fn expect(mut self, what: v1::expect::What) -> Self {
        self.request.expect = Some(v1::Expect { what: Some(what) });
        self
    }

    async fn run(self) -> Result<DeleteResponse> {
        let answer = self.client.run(self.request, self.options).await?;
        Ok(answer.into())
    }
}

/// Answer of a [`Delete`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// if client.delete("/a").await?.deleted == 0 { println!("there was none"); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteResponse {
    /// Who answered; its revision is that of the delete.
    pub header: Header,
    /// How many keys went.
    pub deleted: u64,
    /// What stood there before, when asked for.
    pub previous: Vec<KeyValue>,
    /// The cluster knew this write from an earlier attempt, whose answer was lost: `previous` is not given again.
    pub replayed: bool,
}

impl From<v1::DeleteResponse> for DeleteResponse {
    fn from(answer: v1::DeleteResponse) -> Self {
        Self {
            header: answer.header.into(),
            deleted: u64::try_from(answer.deleted).unwrap_or_default(),
            previous: answer.previous.into_iter().map(Into::into).collect(),
            replayed: answer.replayed,
        }
    }
}

impl Get {
    pub(crate) fn into_op(self) -> v1::GetRequest {
        v1::GetRequest { read: None, ..self.request }
    }
}

impl Put {
    pub(crate) fn into_op(self) -> v1::PutRequest {
        self.request
    }
}

impl Delete {
    pub(crate) fn into_op(self) -> v1::DeleteRequest {
        self.request
    }
}

//! What an operator asks of one member: status, digest, snapshot.
//!
//! Invariants:
//! - A call that names an endpoint goes to that one only, and is not turned to another.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use quorate_proto::{MemberId, Revision, v1};
use tokio::time::Instant;

use crate::call::{Call, CallOptions};
use crate::client::Client;
use crate::cluster::Member;
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Result};
use crate::types::Header;

/// How long a snapshot may take to begin, and each part of it to come: the member makes a checkpoint first.
const SNAPSHOT_DEADLINE: Duration = Duration::from_mins(1);

/// One member's own view of itself and the cluster.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let status = client.status().await?;
/// println!("{} runs {}", status.member.name, status.version);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Who answered, with its revision and term.
    pub header: Header,
    /// The member itself.
    pub member: Member,
    /// The leader, if it knows one.
    pub leader: Option<MemberId>,
    /// Log index up to which it has applied.
    pub applied_index: u64,
    /// Log index up to which it knows the log to be committed.
    pub committed_index: u64,
    /// Last log index that it has.
    pub last_log_index: u64,
    /// The oldest readable revision.
    pub compact_revision: Revision,
    /// The running digest.
    pub digest: u64,
    /// Log index of the digest.
    pub digest_index: u64,
    /// Size of the store on disk.
    pub store_bytes: u64,
    /// Size of the log on disk.
    pub log_bytes: u64,
    /// Free disk space.
    pub disk_free_bytes: u64,
    /// Version of its program.
    pub version: String,
    /// Version of the state machine's behaviour.
    pub state_version: u32,
    /// How many keys.
    pub keys: u64,
    /// How many leases.
    pub leases: u64,
    /// How many watches it serves.
    pub watches: u64,
    /// What is wrong; empty when all is well.
    pub alarms: Vec<String>,
    /// It has no vote (yet).
    pub learner: bool,
}

impl From<v1::StatusResponse> for Status {
    fn from(status: v1::StatusResponse) -> Self {
        Self {
            header: status.header.into(),
            member: status.member.unwrap_or_default().into(),
            leader: MemberId::new(status.leader_id),
            applied_index: status.applied_index,
            committed_index: status.committed_index,
            last_log_index: status.last_log_index,
            compact_revision: Revision(status.compact_revision),
            digest: status.digest,
            digest_index: status.digest_index,
            store_bytes: status.store_bytes,
            log_bytes: status.log_bytes,
            disk_free_bytes: status.disk_free_bytes,
            version: status.version,
            state_version: status.state_version,
            keys: status.keys,
            leases: status.leases,
            watches: status.watches,
            alarms: status.alarms,
            learner: status.learner,
        }
    }
}

/// A member's digest at a log index: equal on all members, or one is damaged.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let digest = client.digest_of("127.0.0.1:2379", None).await?;
/// println!("{:016x} at {}", digest.digest, digest.log_index);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Who answered.
    pub header: Header,
    /// The log index.
    pub log_index: u64,
    /// The digest of everything that commands wrote up to it.
    pub digest: u64,
}

impl Client {
    /// The status of the member that the client talks to now.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// println!("revision {}", client.status().await?.header.revision);
    /// # Ok(()) }
    /// ```
    pub async fn status(&self) -> Result<Status> {
        let answer = self.run(v1::StatusRequest {}, CallOptions::default()).await?;
        self.shared().ids.saw(answer.applied_index);
        Ok(answer.into())
    }

    /// The status of the member at an address, be it among the client's endpoints or not.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let status = client.status_of("127.0.0.1:22379").await?;
    /// # Ok(()) }
    /// ```
    pub async fn status_of(&self, address: impl AsRef<str>) -> Result<Status> {
        let endpoint = self.endpoint(address.as_ref())?;
        Ok(self.once(&endpoint, v1::StatusRequest {}).await?.into())
    }

    /// The status of every endpoint, asked at the same time, in the order in which they were given.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) {
    /// for (endpoint, status) in client.status_of_all().await {
    ///     match status {
    ///         Ok(status) => println!("{endpoint}: revision {}", status.header.revision),
    ///         Err(error) => println!("{endpoint}: {error}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn status_of_all(&self) -> Vec<(String, Result<Status>)> {
        let each = self.shared().endpoints.all().iter().map(|endpoint| async move {
            let status = self.once(endpoint, v1::StatusRequest {}).await.map(Into::into);
            (endpoint.address.clone(), status)
        });
        join_all(each).await
    }

    /// The digest of the member at an address, the newest or that of a log index that it still has.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let newest = client.digest_of("127.0.0.1:2379", None).await?;
    /// let other = client.digest_of("127.0.0.1:22379", newest.log_index).await?;
    /// assert_eq!(newest.digest, other.digest);
    /// # Ok(()) }
    /// ```
    pub async fn digest_of(&self, address: impl AsRef<str>, log_index: impl Into<Option<u64>>) -> Result<Digest> {
        let endpoint = self.endpoint(address.as_ref())?;
        let request = v1::DigestRequest { log_index: log_index.into().unwrap_or(0) };
        let answer = self.once(&endpoint, request).await?;
        Ok(Digest { header: answer.header.into(), log_index: answer.log_index, digest: answer.digest })
    }

    /// A snapshot archive of the cluster's state, as of a revision that includes all writes acknowledged before.
    /// Its beginning, and then each part, may take a minute.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// use futures::TryStreamExt as _;
    /// let mut snapshot = client.snapshot().await?;
    /// println!("{} bytes as of revision {}", snapshot.total_bytes(), snapshot.revision());
    /// while let Some(bytes) = snapshot.try_next().await? { /* write them to a file */ }
    /// # Ok(()) }
    /// ```
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let options = CallOptions { deadline: Some(SNAPSHOT_DEADLINE), write_id: None };
        self.run(SnapshotCall { part: SNAPSHOT_DEADLINE }, options).await
    }

    fn endpoint(&self, address: &str) -> Result<Arc<Endpoint>> {
        let shared = self.shared();
        let endpoint = Endpoint::new(address, &shared.config, &shared.runtime)?;
        let known = shared.endpoints.all().iter().find(|known| known.address == endpoint.address);
        Ok(known.cloned().unwrap_or_else(|| Arc::new(endpoint)))
    }

    /// A read of one endpoint, without retries.
    async fn once<C: Call>(&self, endpoint: &Arc<Endpoint>, call: C) -> Result<C::Answer> {
        let after = self.shared().config.deadline;
        let deadline = Instant::now() + after;
        match tokio::time::timeout_at(deadline, call.send(endpoint.clone(), deadline, false)).await {
            Ok(answer) => answer.map_err(|error| error.of_call(Happened::No, None)),
            Err(_) => Err(Error::Deadline { after, happened: Happened::No, write_id: None, last: None }),
        }
    }
}

/// A snapshot archive as a stream of its bytes; made by [`Client::snapshot`]. Its end is the archive's end; an error
/// says that it is not whole.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let snapshot: quorate::Snapshot = client.snapshot().await?;
/// # Ok(()) }
/// ```
pub struct Snapshot {
    total_bytes: u64,
    revision: Revision,
    parts: BoxStream<'static, Result<Bytes>>,
}

impl Snapshot {
    /// Length of the whole archive.
    ///
    /// ```no_run
    /// # fn example(snapshot: quorate::Snapshot) { println!("{}", snapshot.total_bytes()); }
    /// ```
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Revision that it is taken at.
    ///
    /// ```no_run
    /// # fn example(snapshot: quorate::Snapshot) { println!("{}", snapshot.revision()); }
    /// ```
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

impl Stream for Snapshot {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.parts.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Snapshot");
        shown.field("total_bytes", &self.total_bytes).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// The beginning of a snapshot stream, as a call that may be retried.
#[derive(Debug, Clone)]
struct SnapshotCall {
    /// How long each part may take.
    part: Duration,
}

impl Call for SnapshotCall {
    type Answer = Snapshot;

    fn safety(&self) -> crate::call::Safety {
        crate::call::Safety::Read
    }

    fn send(
        self,
        endpoint: Arc<Endpoint>,
        _: Instant,
        _: bool,
    ) -> futures::future::BoxFuture<'static, Result<Self::Answer>> {
        Box::pin(async move {
            let wrong = |status: tonic::Status| Error::from_status(&status, &endpoint.address);
            let mut chunks = endpoint.admin().snapshot(v1::SnapshotRequest {}).await.map_err(wrong)?.into_inner();
            let Some(first) = chunks.message().await.map_err(wrong)? else {
                return Err(Error::protocol(&endpoint.address, "an empty snapshot"));
            };
            let (total_bytes, revision) = (first.total_bytes, Revision(first.revision));
            let follow = Follow {
                address: endpoint.address.clone(),
                chunks,
                got: first.data.len() as u64,
                total_bytes,
                part: self.part,
            };
            let parts = stream::once(async { Ok(first.data) }).chain(stream::try_unfold(follow, Follow::next));
            Ok(Snapshot { total_bytes, revision, parts: parts.boxed() })
        })
    }
}

/// The rest of a snapshot stream.
struct Follow {
    address: String,
    chunks: tonic::Streaming<v1::SnapshotChunk>,
    got: u64,
    total_bytes: u64,
    part: Duration,
}

impl Follow {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        match tokio::time::timeout(self.part, self.chunks.message()).await {
            Ok(Ok(Some(chunk))) => {
                self.got += chunk.data.len() as u64;
                Ok(Some((chunk.data, self)))
            }
            Ok(Ok(None)) if self.total_bytes > 0 && self.got != self.total_bytes => {
                let what = format!("the snapshot ended after {} of {} bytes", self.got, self.total_bytes);
                Err(Error::protocol(&self.address, what))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(status)) => Err(Error::from_status(&status, &self.address).of_call(Happened::No, None)),
            Err(_) => Err(Error::Deadline { after: self.part, happened: Happened::No, write_id: None, last: None }),
        }
    }
}

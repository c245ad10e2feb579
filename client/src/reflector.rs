//! A subtree kept in memory, always consistent as of one revision.
//!
//! Invariants:
//! - The tree moves from revision to revision as the cluster's did; no transaction is seen in part.
//! - What [`Changes`] delivers, applied to the tree that it begins with, gives the tree of the reflector.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use quorate_proto::{Key, Path, Revision};
use tokio::sync::broadcast::error::RecvError;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::tasks::{self, Task, TaskGuard};
use crate::types::{IntoBytes, KeyValue};
use crate::watch::WatchEvents;

mod follow;
mod mirror;

use follow::Follow;
use mirror::Mirror;

/// First and longest pause between requests for progress while somebody waits for a revision.
const ASK_FIRST: Duration = Duration::from_millis(20);
const ASK_MAX: Duration = Duration::from_millis(500);

/// A reflector to be started; made by [`Client::reflector`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use std::time::Duration;
/// let config = client.reflector("/config").deadline(Duration::from_secs(30)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until awaited"]
pub struct ReflectorBuilder {
    client: Client,
    path: Bytes,
    deadline: Option<Duration>,
}

impl ReflectorBuilder {
    /// How long the first reading of the subtree may take, for each page, instead of the client's default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    async fn run(self) -> Result<Reflector> {
        let root = self.path.as_ref() == b"/";
        if !root {
            Path::new(self.path.clone()).map_err(|error| Error::invalid(error.to_string()))?;
        }
        let runtime = self.client.shared().runtime.clone();
        let (follow, tree) = Follow::start(self.client, self.path, self.deadline).await?;
        let mirror = Arc::new(Mirror::new(tree, follow.requester()));
        let task = tasks::spawn(&runtime, Task::Reflector, follow.run(mirror.clone()));
        Ok(Reflector { mirror, _task: Arc::new(task) })
    }
}

impl IntoFuture for ReflectorBuilder {
    type Output = Result<Reflector>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Client {
    /// Keeps a path and everything below it in memory (`/`: all paths). Awaited, it has read everything once.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let config = client.reflector("/config").await?;
    /// println!("{:?}", config.get("/config/db/url"));
    /// # Ok(()) }
    /// ```
    pub fn reflector(&self, path: impl IntoBytes) -> ReflectorBuilder {
        ReflectorBuilder { client: self.clone(), path: path.into_bytes(), deadline: None }
    }
}

/// A subtree kept in memory; see [`Client::reflector`]. Clones share it, and dropping the last ends it.
///
/// It survives the failure of members and, when history was compacted past it, reads the subtree again and tells the
/// difference. Meanwhile it stays as it was: [`Reflector::revision`] says how old it is.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let config = client.reflector("/config").await?;
/// let written = client.put("/config/a", "1").await?;
/// config.wait_until(written.header.revision).await?;
/// assert!(config.get("/config/a").is_some());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Reflector {
    mirror: Arc<Mirror>,
    _task: Arc<TaskGuard>,
}

impl Reflector {
    /// A key of the subtree as it is now.
    ///
    /// ```no_run
    /// # fn example(config: quorate::Reflector) {
    /// let url = config.get("/config/db/url").map(|kv| kv.value);
    /// # }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<KeyValue> {
        self.mirror.tree().get(key).cloned()
    }

    /// The whole subtree as of one revision. Cheap; the first change while a snapshot is kept copies the tree.
    ///
    /// ```no_run
    /// # fn example(config: quorate::Reflector) {
    /// let tree = config.snapshot();
    /// for kv in tree.iter() { println!("{} at {}", kv.key_text(), tree.revision()); }
    /// # }
    /// ```
    pub fn snapshot(&self) -> Tree {
        self.mirror.tree()
    }

    /// The revision that the subtree is consistent as of.
    ///
    /// ```no_run
    /// # fn example(config: quorate::Reflector) { println!("{}", config.revision()); }
    /// ```
    pub fn revision(&self) -> Revision {
        self.mirror.revision()
    }

    /// The changes from now on, and the tree that they begin with.
    ///
    /// ```no_run
    /// # async fn example(config: quorate::Reflector) -> quorate::Result<()> {
    /// use futures::TryStreamExt as _;
    /// let mut changes = config.changes();
    /// println!("begins with {} keys", changes.begins_with().len());
    /// while let Some(change) = changes.try_next().await? {
    ///     match change {
    ///         quorate::Change::Events(changes) => println!("{} events", changes.events.len()),
    ///         quorate::Change::Reset(tree) => println!("anew with {} keys", tree.len()),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn changes(&self) -> Changes {
        let (tree, receiver) = self.mirror.subscribe();
        let reflector = self.clone();
        let stream = futures::stream::unfold(Some((reflector, receiver)), |state| async {
            let (reflector, mut receiver) = state?;
            match receiver.recv().await {
                Ok(events) => Some((Ok(Change::Events(WatchEvents::clone(&events))), Some((reflector, receiver)))),
                Err(RecvError::Lagged(_)) => {
                    let (tree, receiver) = reflector.mirror.subscribe();
                    Some((Ok(Change::Reset(tree)), Some((reflector, receiver))))
                }
                Err(RecvError::Closed) => Some((Err(reflector.mirror.failure()), None)),
            }
        });
        Changes { begins_with: tree, stream: stream.boxed() }
    }

    /// Waits until the subtree reflects this revision of the store, be it changed by it or not: after a write, its
    /// effect can be read here. Returns at once when it does. Safe to drop at any time.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, config: quorate::Reflector) -> quorate::Result<()> {
    /// let written = client.put("/config/a", "1").await?;
    /// config.wait_until(written.header.revision).await?;
    /// # Ok(()) }
    /// ```
    pub async fn wait_until(&self, revision: Revision) -> Result<()> {
        let mut position = self.mirror.position();
        let mut pause = ASK_FIRST;
        loop {
            if position.borrow().revision < revision {
                self.mirror.request_progress();
            }
            let reached = position.wait_for(|now| now.revision >= revision || now.failed);
            match tokio::time::timeout(pause, reached).await {
                Ok(Ok(now)) if now.revision >= revision => return Ok(()),
                Ok(_) => return Err(self.mirror.failure()),
                // A mark tells of the moment when it was asked for; the member may have been behind.
                Err(_) => pause = (pause * 2).min(ASK_MAX),
            }
        }
    }
}

impl std::fmt::Debug for Reflector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reflector").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// A subtree as of one revision.
///
/// ```no_run
/// # fn example(config: quorate::Reflector) {
/// let tree: quorate::Tree = config.snapshot();
/// println!("{} keys at revision {}", tree.len(), tree.revision());
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    revision: Revision,
    kvs: Arc<BTreeMap<Bytes, KeyValue>>,
}

impl Tree {
    /// The revision.
    ///
    /// ```no_run
    /// # fn example(tree: quorate::Tree) { println!("{}", tree.revision()); }
    /// ```
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// One key.
    ///
    /// ```no_run
    /// # fn example(tree: quorate::Tree) { println!("{:?}", tree.get("/config/a")); }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&KeyValue> {
        self.kvs.get(key.as_ref())
    }

    /// All keys in byte order.
    ///
    /// ```no_run
    /// # fn example(tree: quorate::Tree) { for kv in tree.iter() { println!("{}", kv.key_text()); } }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &KeyValue> {
        self.kvs.values()
    }

    /// How many keys.
    ///
    /// ```no_run
    /// # fn example(tree: quorate::Tree) { println!("{}", tree.len()); }
    /// ```
    pub fn len(&self) -> usize {
        self.kvs.len()
    }

    /// There is no key.
    ///
    /// ```no_run
    /// # fn example(tree: quorate::Tree) { println!("{}", tree.is_empty()); }
    /// ```
    pub fn is_empty(&self) -> bool {
        self.kvs.is_empty()
    }
}

/// What [`Changes`] delivers.
///
/// ```no_run
/// # fn example(change: quorate::Change) {
/// if let quorate::Change::Events(changes) = change { println!("revision {}", changes.revision); }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What one revision changed, each event with what stood there before. After a compaction: the difference to what
    /// was there, as if made at once.
    Events(WatchEvents),
    /// This stream was polled too slowly; the tree as it is now, from which it goes on.
    Reset(Tree),
}

/// The changes of a [`Reflector`] as a stream. It ends with an error when the reflector does. Safe to drop and to poll
/// again at any time.
///
/// ```no_run
/// # async fn example(config: quorate::Reflector) {
/// let changes: quorate::Changes = config.changes();
/// # }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct Changes {
    begins_with: Tree,
    stream: BoxStream<'static, Result<Change>>,
}

impl Changes {
    /// The tree to which the first change applies.
    ///
    /// ```no_run
    /// # fn example(config: quorate::Reflector) {
    /// println!("{} keys", config.changes().begins_with().len());
    /// # }
    /// ```
    pub fn begins_with(&self) -> &Tree {
        &self.begins_with
    }
}

impl Stream for Changes {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("begins_with", &self.begins_with.revision).finish_non_exhaustive()
    }
}

/// Whether a key has a place in the tree: only those are reflected.
fn is_path(key: &Bytes) -> bool {
    Key::new(key.clone()).is_ok_and(|key| Path::of(&key).is_some())
}

#[cfg(test)]
mod tests;

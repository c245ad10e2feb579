//! Watches: changes as they happen, whole transactions in revision order, resumed by themselves.
//!
//! Invariants:
//! - Every change that matches is delivered once, in revision order, never half a transaction; or the stream says
//!   with an error that it cannot.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use quorate_proto::{Key, Revision, v1};

use crate::client::Client;
use crate::error::Result;
use crate::types::{IntoBytes, KeyValue};

mod assembler;
mod follower;

use follower::Follower;
pub(crate) use follower::ProgressRequester;

/// A watch to be started; made by [`Client::watch`].
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::TryStreamExt as _;
/// let now = client.get("/config/db").await?.header.revision;
/// let mut watch = client.watch("/config").subtree().from(now.next()).previous().start().await?;
/// while let Some(changes) = watch.try_next().await? {
///     for event in &changes.events {
///         println!("{:?} {} at {}", event.kind, event.kv.key_text(), changes.revision);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a watch does nothing until started"]
pub struct Watch {
    client: Client,
    create: v1::WatchCreate,
    deadline: Option<Duration>,
    give_up_after: Option<Duration>,
}

impl Client {
    /// Watches one key; with [`Watch::prefix`], [`Watch::subtree`], [`Watch::children`] or [`Watch::range_to`], more.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let mut watch = client.watch("/config/db/url").start().await?;
    /// # Ok(()) }
    /// ```
    pub fn watch(&self, key: impl IntoBytes) -> Watch {
        let create = v1::WatchCreate { watch_id: 1, key: key.into_bytes(), ..Default::default() };
        Watch { client: self.clone(), create, deadline: None, give_up_after: None }
    }
}

impl Watch {
    /// Watches all keys that start with the one given.
    pub fn prefix(self) -> Self {
        let end = Key::prefix_end(&self.create.key).unwrap_or_default();
        self.range_to(end)
    }

    /// Watches all keys from the one given to `end` (exclusive; empty: no end).
    pub fn range_to(mut self, end: impl IntoBytes) -> Self {
        self.create.end = end.into_bytes();
        self.scope(v1::watch_create::Scope::Range)
    }

    /// Watches the path given and everything below it (`/`: all paths).
    pub fn subtree(self) -> Self {
        self.scope(v1::watch_create::Scope::Subtree)
    }

    /// Watches the direct children of the path given.
    pub fn children(self) -> Self {
        self.scope(v1::watch_create::Scope::Children)
    }

    /// Begins with the changes of this revision; without it, with what comes after the start.
    pub fn from(mut self, revision: Revision) -> Self {
        self.create.start_revision = revision.get();
        self
    }

    /// With what stood there before each change (unless it was compacted meanwhile).
    pub fn previous(mut self) -> Self {
        self.create.previous_values = true;
        self
    }

    /// Leaves puts out.
    pub fn no_puts(mut self) -> Self {
        self.create.no_puts = true;
        self
    }

    /// Leaves deletes out.
    pub fn no_deletes(mut self) -> Self {
        self.create.no_deletes = true;
        self
    }

    /// While nothing matches, says this often (at least 100 ms) up to which revision all has been seen.
    pub fn progress(mut self, interval: Duration) -> Self {
        self.create.progress_interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(100);
        self
    }

    /// How long the start may take, instead of the client's default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Ends with an error when no member has served the watch for so long; without it, the watch tries for ever.
    pub fn give_up_after(mut self, duration: Duration) -> Self {
        self.give_up_after = Some(duration);
        self
    }

    /// Starts the watch. Once this returns, a member serves it: every later change will be seen.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let watch = client.watch("/config").subtree().start().await?;
    /// println!("from revision {}", watch.next_revision());
    /// # Ok(()) }
    /// ```
    pub async fn start(self) -> Result<WatchStream> {
        let deadline = self.deadline.unwrap_or(self.client.shared().config.deadline);
        let mut follower = Follower::new(self.client, self.create, self.give_up_after);
        follower.start(deadline).await?;
        Ok(WatchStream {
            next_revision: follower.next_revision(),
            requester: follower.requester(),
            events: futures::stream::unfold(follower, |mut follower| async move {
                let item = follower.next().await?;
                Some((item, follower))
            })
            .boxed(),
        })
    }

    fn scope(mut self, scope: v1::watch_create::Scope) -> Self {
        self.create.scope = scope.into();
        self
    }
}

/// The changes that a watch sees, one item for each revision. When its member fails it goes on at another, without a
/// gap and without a repetition. After an error it ends; [`Error::Compacted`](crate::Error::Compacted) says that what
/// comes next is not readable any more: read anew, and watch from there.
///
/// Safe to drop and to poll again at any time: an item that was not taken is not lost. It works only while polled; one
/// that is polled too slowly is served from history.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::StreamExt as _;
/// let mut watch: quorate::WatchStream = client.watch("/jobs").children().start().await?;
/// match watch.next().await {
///     Some(Ok(changes)) => println!("{} events", changes.events.len()),
///     Some(Err(quorate::Error::Compacted { compact_revision, .. })) => println!("begin at {compact_revision}"),
///     Some(Err(error)) => return Err(error),
///     None => {}
/// }
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct WatchStream {
    next_revision: Revision,
    requester: ProgressRequester,
    events: BoxStream<'static, Result<WatchEvents>>,
}

impl WatchStream {
    /// The first revision that has not been delivered: a later watch from here misses nothing and repeats nothing.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, watch: quorate::WatchStream) -> quorate::Result<()> {
    /// let next = watch.next_revision();
    /// drop(watch);
    /// let again = client.watch("/jobs").children().from(next).start().await?;
    /// # Ok(()) }
    /// ```
    pub fn next_revision(&self) -> Revision {
        self.next_revision
    }

    /// Asks for a mark of how far the watch has come; it comes as an item without events.
    ///
    /// ```no_run
    /// # async fn example(watch: quorate::WatchStream) {
    /// watch.request_progress();
    /// # }
    /// ```
    pub fn request_progress(&self) {
        self.requester.request();
    }

    pub(crate) fn requester(&self) -> ProgressRequester {
        self.requester.clone()
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchEvents>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.events.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(events))) = &item {
            self.next_revision = self.next_revision.max(events.revision.next());
        }
        item
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream").field("next_revision", &self.next_revision).finish_non_exhaustive()
    }
}

/// What one revision changed, as far as it matches the watch; or a mark of progress.
///
/// ```no_run
/// # fn example(changes: quorate::WatchEvents) {
/// if changes.is_progress() { println!("all seen up to {}", changes.revision); }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvents {
    /// The revision; everything up to it has been delivered now.
    pub revision: Revision,
    /// In the order in which they were made. Empty for a mark of progress.
    pub events: Vec<Event>,
}

impl WatchEvents {
    /// It only says that everything up to `revision` has been delivered.
    ///
    /// ```no_run
    /// # fn example(changes: quorate::WatchEvents) { assert_eq!(changes.is_progress(), changes.events.is_empty()); }
    /// ```
    pub fn is_progress(&self) -> bool {
        self.events.is_empty()
    }
}

/// One key's change.
///
/// ```no_run
/// # fn example(event: quorate::Event) {
/// if event.kind == quorate::EventKind::Delete && event.lease_ended { println!("{} expired", event.kv.key_text()); }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub kind: EventKind,
    /// The key as it is now; for a delete, only its key and mod revision.
    pub kv: KeyValue,
    /// What stood there before, when asked for and not compacted.
    pub previous: Option<KeyValue>,
    /// A delete because the key's lease ended.
    pub lease_ended: bool,
}

/// What a change did.
///
/// ```no_run
/// # fn example(event: quorate::Event) {
/// match event.kind {
///     quorate::EventKind::Put => println!("+ {}", event.kv.key_text()),
///     quorate::EventKind::Delete => println!("- {}", event.kv.key_text()),
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The key was written.
    Put,
    /// The key is gone.
    Delete,
}

impl From<v1::Event> for Event {
    fn from(event: v1::Event) -> Self {
        Self {
            kind: match event.kind() {
                v1::event::Kind::Put => EventKind::Put,
                v1::event::Kind::Delete => EventKind::Delete,
            },
            kv: event.kv.unwrap_or_default().into(),
            previous: event.previous.map(Into::into),
            lease_ended: event.lease_ended,
        }
    }
}

#[cfg(test)]
mod tests;

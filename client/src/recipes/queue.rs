//! A queue: what is pushed first is popped first, by one consumer each.
//!
//! Items stand below `<path>/items`, named by numbers that only grow. So the numbers that are there have no smaller one
//! coming: the first is the oldest, and "nothing was pushed since" is a compare on the range behind the last.
//!
//! Invariants:
//! - An item is popped by the transaction that deletes it, and by no other.
//! - A push goes in only if the queue was not full when it was counted and nothing was pushed since.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Key, Revision};

use super::{Of, below, changed};
use crate::call::backoff;
use crate::client::Client;
use crate::error::{Reason, Result};
use crate::kv::RangeResponse;
use crate::txn::{Compare, Op, OpResult, Relation, Txn};
use crate::types::{IntoBytes, KeyValue};

/// Longest pause before the next attempt when others were faster.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A queue; made by [`Client::queue`]. Producers and consumers may be anywhere.
///
/// A consumer that dies after a pop takes its item with it: where that matters, keep a job's state at a key of its own.
/// An error of [`pop`](Self::pop) whose [`happened`](crate::Error::happened) is `Unknown` may have taken an item.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let queue = client.queue("/mail/outgoing").capacity(1000);
/// queue.push("to everybody").await?;
/// let first = queue.pop().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    items: Bytes,
    capacity: Option<u32>,
}

/// An item was not taken, because the queue is full.
///
/// ```no_run
/// # async fn example(queue: quorate::Queue) -> quorate::Result<()> {
/// if let Err(full) = queue.try_push("x").await? { println!("{full}"); }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full: it holds {items} items")]
pub struct QueueFull {
    /// How many it holds.
    pub items: u64,
}

impl Queue {
    pub(super) fn new(client: Client, path: &[u8]) -> Self {
        Self { items: below(path, "/items"), client, capacity: None }
    }

    /// At most so many items; all producers must say the same. Without it there is no limit, and a push is one write.
    #[must_use]
    pub fn capacity(mut self, items: u32) -> Self {
        self.capacity = Some(items.max(1));
        self
    }

    /// Puts an item at the end, when there is room for it. Dropping this future while it waits pushes nothing.
    ///
    /// ```no_run
    /// # async fn example(queue: quorate::Queue) -> quorate::Result<()> {
    /// queue.push("to everybody").await?;
    /// # Ok(()) }
    /// ```
    pub async fn push(&self, item: impl IntoBytes) -> Result<()> {
        let item = item.into_bytes();
        loop {
            match self.put(&item).await? {
                Ok(()) => return Ok(()),
                Err((_, revision)) => {
                    changed(&self.client, &self.prefix(), true, Of::Deletes, revision).await?;
                }
            }
        }
    }

    /// Puts an item at the end if there is room for it.
    ///
    /// ```no_run
    /// # async fn example(queue: quorate::Queue) -> quorate::Result<()> {
    /// queue.try_push("to everybody").await?.expect("there is room");
    /// # Ok(()) }
    /// ```
    pub async fn try_push(&self, item: impl IntoBytes) -> Result<Result<(), QueueFull>> {
        Ok(self.put(&item.into_bytes()).await?.map_err(|(full, _)| full))
    }

    /// Takes the first item, when there is one. Dropping this future while it waits takes nothing.
    ///
    /// ```no_run
    /// # async fn example(queue: quorate::Queue) -> quorate::Result<()> {
    /// loop {
    ///     let item = queue.pop().await?;
    ///     println!("{}", String::from_utf8_lossy(&item));
    /// }
    /// # }
    /// ```
    pub async fn pop(&self) -> Result<Bytes> {
        loop {
            match self.take().await? {
                Ok(item) => return Ok(item),
                Err(revision) => changed(&self.client, &self.prefix(), true, Of::Puts, revision).await?,
            }
        }
    }

    /// Takes the first item if there is one.
    ///
    /// ```no_run
    /// # async fn example(queue: quorate::Queue) -> quorate::Result<()> {
    /// while let Some(item) = queue.try_pop().await? { println!("{} bytes", item.len()); }
    /// # Ok(()) }
    /// ```
    pub async fn try_pop(&self) -> Result<Option<Bytes>> {
        Ok(self.take().await?.ok())
    }

    /// How many items it holds.
    ///
    /// ```no_run
    /// # async fn example(queue: quorate::Queue) -> quorate::Result<()> {
    /// println!("{}", queue.len().await?);
    /// # Ok(()) }
    /// ```
    pub async fn len(&self) -> Result<u64> {
        Ok(self.count().await?.0)
    }

    fn prefix(&self) -> Bytes {
        below(&self.items, "/")
    }

    async fn put(&self, item: &Bytes) -> Result<Result<(), (QueueFull, Revision)>> {
        let write = || self.client.put(&self.items, item).sequential();
        let Some(capacity) = self.capacity else {
            write().await?;
            return Ok(Ok(()));
        };
        let mut attempts = 0;
        loop {
            // The last first: what is counted later is not less than what is there if nothing was pushed since.
            let last = self.client.prefix(self.prefix()).keys_only().descending().limit(1).page().await?;
            let (items, revision) = self.count().await?;
            if items >= u64::from(capacity) {
                return Ok(Err((QueueFull { items }, revision)));
            }
            let behind = last.kvs.first().map_or_else(|| self.prefix(), |kv| below(&kv.key, "\0"));
            let end = Key::prefix_end(&self.prefix()).unwrap_or_default();
            let unchanged = Compare::absent(behind).for_range_to(end);
            if self.client.txn(Txn::when(unchanged).then(write())).await?.succeeded {
                return Ok(Ok(()));
            }
            tokio::time::sleep(backoff(attempts, PAUSE_MAX)).await;
            attempts += 1;
        }
    }

    async fn count(&self) -> Result<(u64, Revision)> {
        let path = String::from_utf8_lossy(&self.items).into_owned();
        match self.client.stat(path).await {
            Ok(stat) => Ok((stat.directory.map_or(0, |directory| directory.children), stat.header.revision)),
            Err(error) if error.reason() == Some(Reason::KeyNotFound) => {
                let empty = self.client.prefix(self.prefix()).limit(1).page().await?;
                Ok((empty.kvs.len() as u64, empty.header.revision))
            }
            Err(error) => Err(error),
        }
    }

    /// The first item, or the revision as of which there is none.
    async fn take(&self) -> Result<Result<Bytes, Revision>> {
        let mut attempts = 0;
        let mut page = self.first().await?;
        loop {
            let Some(first) = page.kvs.into_iter().next() else { return Ok(Err(page.header.revision)) };
            match self.claim(&first).await? {
                None => return Ok(Ok(first.value)),
                Some(next) => page = next,
            }
            if attempts > 0 {
                tokio::time::sleep(backoff(attempts, PAUSE_MAX)).await;
                page = self.first().await?;
            }
            attempts += 1;
        }
    }

    async fn first(&self) -> Result<RangeResponse> {
        self.client.prefix(self.prefix()).limit(1).page().await
    }

    /// Takes an item if nobody was faster; what is first now when somebody was.
    async fn claim(&self, item: &KeyValue) -> Result<Option<RangeResponse>> {
        let there = Compare::mod_revision(&item.key, Relation::Equal, item.mod_revision);
        let look = self.client.prefix(self.prefix()).limit(1);
        let answer = self.client.txn(Txn::when(there).then(Op::delete(&item.key)).otherwise(look)).await?;
        if answer.succeeded {
            return Ok(None);
        }
        match answer.results.into_iter().next() {
            // The headers inside are empty.
            Some(OpResult::Range(page)) if !answer.replayed => {
                Ok(Some(RangeResponse { header: answer.header, ..page }))
            }
            _ => Ok(Some(self.first().await?)),
        }
    }
}

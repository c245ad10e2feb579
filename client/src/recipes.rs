//! Ways of coordinating that need no more than keys, transactions and watches: what a user could write, written once.
//!
//! Invariants:
//! - Everything decisive happens in one transaction; a watch only says when to try again.

use bytes::Bytes;
use futures::StreamExt as _;
use quorate_proto::Revision;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::types::IntoBytes;

mod barrier;
mod counter;
mod double_barrier;
mod multi_lock;
mod queue;

pub use barrier::Barrier;
pub use counter::Counter;
pub use double_barrier::DoubleBarrier;
pub use multi_lock::{MultiLock, MultiLockGuard};
pub use queue::{Queue, QueueFull};

impl Client {
    /// A barrier at this key.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.barrier("/migration/running").wait().await?;
    /// # Ok(()) }
    /// ```
    pub fn barrier(&self, key: impl IntoBytes) -> Barrier {
        Barrier::new(self.clone(), key.into_bytes())
    }

    /// A double barrier below this key, for so many participants.
    ///
    /// ```no_run
    /// # fn example(client: quorate::Client) {
    /// let barrier = client.double_barrier("/training/round", 8);
    /// # }
    /// ```
    pub fn double_barrier(&self, key: impl IntoBytes, participants: u32) -> DoubleBarrier {
        DoubleBarrier::new(self.clone(), &key.into_bytes(), participants)
    }

    /// A counter at this key.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let ticket = client.counter("/tickets/last").add(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn counter(&self, key: impl IntoBytes) -> Counter {
        Counter::new(self.clone(), key.into_bytes())
    }

    /// A queue below this path.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// client.queue("/mail/outgoing").push("to everybody").await?;
    /// # Ok(()) }
    /// ```
    pub fn queue(&self, path: impl IntoBytes) -> Queue {
        Queue::new(self.clone(), &path.into_bytes())
    }

    /// Several locks, of which one gets all or none.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let guard = client.multi_lock(["accounts/7", "accounts/8"]).acquire().await?;
    /// # Ok(()) }
    /// ```
    pub fn multi_lock<T: IntoBytes>(&self, names: impl IntoIterator<Item = T>) -> MultiLock {
        MultiLock::new(self.clone(), names.into_iter().map(IntoBytes::into_bytes))
    }
}

/// What of a range is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Puts,
    Deletes,
    All,
}

/// Waits until something in a prefix (or one key) has changed after `revision`.
async fn changed(client: &Client, key: &Bytes, prefix: bool, of: Of, revision: Revision) -> Result<()> {
    let mut watch = client.watch(key).from(revision.next());
    if prefix {
        watch = watch.prefix();
    }
    watch = match of {
        Of::Puts => watch.no_deletes(),
        Of::Deletes => watch.no_puts(),
        Of::All => watch,
    };
    // What came meanwhile may be compacted already: then there certainly was something.
    let mut stream = match watch.start().await {
        Err(Error::Compacted { .. }) => return Ok(()),
        stream => stream?,
    };
    loop {
        match stream.next().await {
            Some(Ok(changes)) if changes.is_progress() => {}
            Some(Ok(_) | Err(Error::Compacted { .. })) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => return Err(Error::Closed),
        }
    }
}

/// `prefix` with more at its end.
fn below(prefix: &[u8], rest: &str) -> Bytes {
    [prefix, rest.as_bytes()].concat().into()
}

//! Reads a subtree at one revision, follows it by a watch, and starts over when history was compacted past it.
//!
//! Invariants:
//! - The watch begins with the revision after the one that was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use quorate_proto::Revision;

use super::mirror::Mirror;
use super::{Tree, is_path};
use crate::call::backoff;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::types::KeyValue;
use crate::watch::{ProgressRequester, WatchStream};

/// How often an idle watch is told how far it has come, so that it can resume after a compaction of what it need not see.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Longest pause before the subtree is read again after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Follow {
    client: Client,
    path: Bytes,
    deadline: Option<Duration>,
    watch: WatchStream,
}

impl Follow {
    /// Reads the subtree and starts to watch it.
    pub(super) async fn start(client: Client, path: Bytes, deadline: Option<Duration>) -> Result<(Self, Tree)> {
        let source = Source { client: &client, path: &path, deadline };
        let (revision, kvs, watch) = source.begin().await?;
        let tree = Tree { revision, kvs: Arc::new(kvs) };
        Ok((Self { client, path, deadline, watch }, tree))
    }

    pub(super) fn requester(&self) -> ProgressRequester {
        self.watch.requester()
    }

    /// Keeps the mirror up to date until it cannot.
    pub(super) async fn run(mut self, mirror: Arc<Mirror>) {
        loop {
            let error = match self.watch.next().await {
                Some(Ok(changes)) => {
                    mirror.take(changes);
                    continue;
                }
                Some(Err(error)) => error,
                None => Error::Closed,
            };
            let restarted = match error {
                Error::Compacted { .. } => self.restart(&mirror).await,
                error => Err(error),
            };
            if let Err(error) = restarted {
                tracing::warn!(%error, "reflector ends");
                return mirror.fail(error);
            }
        }
    }

    async fn restart(&mut self, mirror: &Mirror) -> Result<()> {
        let mut failures = 0;
        loop {
            let source = Source { client: &self.client, path: &self.path, deadline: self.deadline };
            match source.begin().await {
                Ok((revision, kvs, watch)) => {
                    mirror.set_requester(watch.requester());
                    mirror.replace(revision, kvs);
                    self.watch = watch;
                    return Ok(());
                }
                Err(error) if error.is_passing() || matches!(error, Error::Deadline { .. }) => {
                    tokio::time::sleep(backoff(failures, PAUSE_MAX)).await;
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where the subtree is read from.
struct Source<'a> {
    client: &'a Client,
    path: &'a Bytes,
    deadline: Option<Duration>,
}

impl Source<'_> {
    /// The subtree at a revision, and a watch from the next one on.
    async fn begin(&self) -> Result<(Revision, BTreeMap<Bytes, KeyValue>, WatchStream)> {
        loop {
            let began = async {
                let (revision, kvs) = self.read().await?;
                let mut watch = self.client.watch(self.path).subtree().from(revision.next()).progress(PROGRESS_EVERY);
                if let Some(deadline) = self.deadline {
                    watch = watch.deadline(deadline);
                }
                Ok((revision, kvs, watch.start().await?))
            };
            match began.await {
                // Compacted between the pages or before the watch: read again, it is new then.
                Err(Error::Compacted { .. }) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    }

    async fn read(&self) -> Result<(Revision, BTreeMap<Bytes, KeyValue>)> {
        let mut below = self.path.to_vec();
        if below != b"/" {
            below.push(b'/');
        }
        let mut range = self.client.prefix(below);
        if let Some(deadline) = self.deadline {
            range = range.deadline(deadline);
        }
        let mut pages = range.pages();
        let mut revision = Revision::ZERO;
        let mut kvs = BTreeMap::new();
        while let Some(page) = pages.try_next().await? {
            revision = page.header.revision;
            kvs.extend(page.kvs.into_iter().filter(|kv| is_path(&kv.key)).map(|kv| (kv.key.clone(), kv)));
        }
        if self.path.as_ref() != b"/" {
            let mut get = self.client.get(self.path).at(revision);
            if let Some(deadline) = self.deadline {
                get = get.deadline(deadline);
            }
            kvs.extend(get.await?.kv.map(|kv| (kv.key.clone(), kv)));
        }
        Ok((revision, kvs))
    }
}

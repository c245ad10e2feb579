//! Changes of a service's instances as a stream that goes on at another member when one fails.
//!
//! Invariants:
//! - What is delivered, applied in order, gives the instances as the cluster has them; a break in between loses nothing,
//!   because the stream is taken up after the last revision that was seen, or begins with a snapshot again.
//! - State changes only after an await returned, so that dropping `step` half-way loses nothing.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use quorate_proto::{Revision, v1};

use super::instance::Instance;
use crate::call::backoff;
use crate::client::Client;
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Reason, Result};

/// How long a member may take to open the stream.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// Longest pause between attempts to resume.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What changed of a service.
///
/// ```no_run
/// # fn example(change: quorate::ServiceChange) {
/// for instance in &change.changed { println!("{} is {}", instance.id, instance.health); }
/// for id in &change.removed { println!("{id} is gone"); }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceChange {
    /// As of when.
    pub revision: Revision,
    /// `changed` is everything: forget what came before.
    pub snapshot: bool,
    /// New or different.
    pub changed: Vec<Instance>,
    /// Ids of those that are gone, or no longer match.
    pub removed: Vec<String>,
    /// The cluster suspects itself: more vanished at once than is plausible. They stay, marked as expired.
    pub protected: bool,
}

/// The changes of a service; from [`Service::watch`](crate::Service::watch). The first is a snapshot. It ends only with
/// an error that no other member can help with. Safe to drop and to poll again at any time.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::TryStreamExt as _;
/// let mut changes = client.service("orders").watch();
/// while let Some(change) = changes.try_next().await? { println!("{change:?}"); }
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct ServiceWatch(BoxStream<'static, Result<ServiceChange>>);

impl ServiceWatch {
    pub(super) fn new(follower: Follower) -> Self {
        let stream = futures::stream::unfold(Some(follower), |state| async {
            let mut follower = state?;
            loop {
                match follower.step().await {
                    Step::Change(change) => return Some((Ok(change), Some(follower))),
                    Step::Broke(error) if is_passing(&error) => {}
                    Step::Broke(error) => return Some((Err(error), None)),
                }
            }
        });
        Self(stream.boxed())
    }
}

impl Stream for ServiceWatch {
    type Item = Result<ServiceChange>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for ServiceWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceWatch").finish_non_exhaustive()
    }
}

/// What a step of a [`Follower`] brought.
pub(super) enum Step {
    Change(ServiceChange),
    /// The stream broke; the next step resumes it.
    Broke(Error),
}

/// Whether another member, or a later attempt, may help.
pub(super) fn is_passing(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Deadline { .. })
}

/// One watch on its way through members that come and go.
pub(super) struct Follower {
    client: Client,
    request: v1::WatchServiceRequest,
    connection: Option<Connection>,
    /// Ids of those that were told as expired.
    expired: BTreeSet<String>,
    failures: u32,
    /// To be slept before the next attempt.
    rest: bool,
}

struct Connection {
    endpoint: Arc<Endpoint>,
    responses: tonic::Streaming<v1::WatchServiceResponse>,
    /// A response has come on it.
    proven: bool,
}

impl Follower {
    pub(super) fn new(client: Client, request: v1::WatchServiceRequest) -> Self {
        Self { client, request, connection: None, expired: BTreeSet::new(), failures: 0, rest: false }
    }

    /// Takes one message, or resumes the stream and takes the first.
    pub(super) async fn step(&mut self) -> Step {
        if self.rest {
            tokio::time::sleep(backoff(self.failures, PAUSE_MAX)).await;
            self.rest = false;
        }
        if self.connection.is_none()
            && let Err(error) = self.connect().await
        {
            return self.broke(error);
        }
        // It was made just now if it was not there.
        let Some(connection) = &mut self.connection else { return Step::Broke(Error::Closed) };
        let address = &connection.endpoint.address;
        match connection.responses.message().await {
            Ok(Some(response)) => self.take(response),
            Ok(None) => {
                let ended = Error::refused(Reason::ShuttingDown, Happened::No, "the watch stream ended", address);
                self.broke(ended)
            }
            Err(status) => {
                let error = Error::from_status(&status, address);
                self.broke(error)
            }
        }
    }

    async fn connect(&mut self) -> Result<()> {
        let endpoint = self.client.shared().endpoints.pick();
        let mut discovery = endpoint.discovery();
        let opened = tokio::time::timeout(OPEN_WITHIN, discovery.watch(self.request.clone())).await;
        let failed = match opened {
            Ok(Ok(responses)) => {
                self.connection = Some(Connection { endpoint, responses: responses.into_inner(), proven: false });
                return Ok(());
            }
            Ok(Err(status)) => Error::from_status(&status, &endpoint.address),
            Err(_) => Error::Unreachable {
                endpoint: endpoint.address.clone(),
                message: "the watch was not taken up in time".to_owned(),
                happened: Happened::No,
                write_id: None,
            },
        };
        self.client.shared().endpoints.failed(&endpoint, &failed);
        Err(failed)
    }

    fn broke(&mut self, error: Error) -> Step {
        if let Some(connection) = self.connection.take() {
            self.client.shared().endpoints.failed(&connection.endpoint, &error);
        }
        let error = error.of_call(Happened::No, None);
        tracing::debug!(%error, after = self.request.after_revision, "watch of a service resumes elsewhere");
        self.failures = self.failures.saturating_add(1);
        self.rest = true;
        Step::Broke(error)
    }

    fn take(&mut self, response: v1::WatchServiceResponse) -> Step {
        self.failures = 0;
        if let Some(connection) = self.connection.as_mut().filter(|connection| !connection.proven) {
            connection.proven = true;
            self.client.shared().endpoints.succeeded(&connection.endpoint);
        }
        let revision = response.header.map_or(0, |header| header.revision);
        self.request.after_revision = self.request.after_revision.max(revision);
        let changed: Vec<Instance> = response.changed.into_iter().map(Instance::from).collect();
        let mut removed: BTreeSet<String> = response.removed.into_iter().collect();
        let mut expired = std::mem::take(&mut self.expired);
        if response.snapshot {
            expired.clear();
        } else if !response.protected {
            // The end of the protection is the end of those that it kept.
            removed.append(&mut expired);
        }
        for instance in &changed {
            removed.remove(&instance.id);
            expired.remove(&instance.id);
        }
        expired.extend(changed.iter().filter(|each| each.expired).map(|each| each.id.clone()));
        expired.retain(|id| !removed.contains(id));
        self.expired = expired;
        Step::Change(ServiceChange {
            revision: Revision(revision),
            snapshot: response.snapshot,
            changed,
            removed: removed.into_iter().collect(),
            protected: response.protected,
        })
    }
}

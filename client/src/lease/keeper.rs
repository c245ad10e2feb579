//! Keeps all leases of a client alive: one task, one stream, to whatever member answers.
//!
//! Invariants:
//! - A keep-alive is sent after a third of the time to live, counted from when the last confirmed one was sent.
//! - At most one keep-alive of a lease is unanswered, so an answer belongs to the moment noted for it; on a new stream
//!   nothing is owed.
//! - A lease that nobody holds, or that counts as lost, is not kept alive any longer.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use parking_lot::Mutex;
use quorate_proto::{LeaseId, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::clock::BootInstant;
use super::guard::Hold;
use crate::call::{Call, Safety, backoff};
use crate::client::{Client, Shared};
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Lost, Reason, Result};
use crate::tasks::{self, Task, TaskGuard};

/// Keep-alives that may wait to be written to the stream.
const QUEUE: usize = 1024;
/// Longest time that an answer, or a new stream, may take before another member is asked.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// Longest pause between attempts: leases do not wait.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The client's end of the keeper; its task runs once there is a lease to keep.
#[derive(Default)]
pub(crate) struct Keeper(Mutex<Option<Running>>);

struct Running {
    leases: mpsc::UnboundedSender<(Weak<Hold>, BootInstant)>,
    _task: TaskGuard,
}

impl Keeper {
    /// Keeps a lease alive for as long as `hold` is there. It was granted or renewed by a request sent at `sent`.
    pub(super) fn keep(&self, shared: &Arc<Shared>, hold: &Arc<Hold>, sent: BootInstant) {
        let mut running = self.0.lock();
        let lease = (Arc::downgrade(hold), sent);
        let unsent = match &*running {
            Some(running) => running.leases.send(lease).err().map(|unsent| unsent.0),
            None => Some(lease),
        };
        if let Some(lease) = unsent {
            let (leases, queue) = mpsc::unbounded_channel();
            // It cannot fail: the other end is in `queue`.
            let _ = leases.send(lease);
            let rounds = Rounds {
                shared: Arc::downgrade(shared),
                queue,
                entries: HashMap::new(),
                agenda: BTreeSet::new(),
                stream: None,
                failures: 0,
            };
            let task = tasks::spawn(&shared.runtime, Task::LeaseKeeper, rounds.run());
            *running = Some(Running { leases, _task: task });
        }
    }
}

/// Revokes a lease whose guard was dropped, as well as it goes.
pub(super) fn revoke_later(client: Client, id: LeaseId) {
    let runtime = client.shared().runtime.clone();
    tasks::spawn_detached(&runtime, Task::LeaseRevoke, async move {
        if let Err(error) = client.lease_revoke(id).await {
            tracing::debug!(lease = %id, %error, "a dropped lease was not revoked; it ends by itself");
        }
    });
}

struct Rounds {
    shared: Weak<Shared>,
    queue: mpsc::UnboundedReceiver<(Weak<Hold>, BootInstant)>,
    entries: HashMap<LeaseId, Entry>,
    /// When which lease is to be looked at.
    agenda: BTreeSet<(Instant, LeaseId)>,
    stream: Option<Stream>,
    failures: u32,
}

struct Entry {
    holds: Vec<Weak<Hold>>,
    ttl: Duration,
    at: Instant,
    /// When the keep-alive was sent that is not answered yet.
    owed: Option<BootInstant>,
}

struct Stream {
    endpoint: Arc<Endpoint>,
    requests: mpsc::Sender<v1::KeepAliveRequest>,
    answers: tonic::Streaming<v1::KeepAliveResponse>,
}

impl Entry {
    fn patience(&self) -> Duration {
        (self.ttl / 4).min(PATIENCE_MAX)
    }

    fn holds(&self) -> impl Iterator<Item = Arc<Hold>> {
        self.holds.iter().filter_map(Weak::upgrade)
    }
}

impl Rounds {
    async fn run(mut self) {
        loop {
            let next = self.agenda.first().map(|(at, _)| *at);
            let due = OptionFuture::from(next.map(tokio::time::sleep_until));
            let answer = OptionFuture::from(self.stream.as_mut().map(|stream| stream.answers.message()));
            tokio::select! {
                lease = self.queue.recv() => match lease {
                    Some((hold, sent)) => self.add(hold, sent),
                    None => return,
                },
                Some(answer) = answer => match answer {
                    Ok(Some(answer)) => self.answered(&answer),
                    Ok(None) => self.broke(None),
                    Err(status) => self.broke(Some(&status)),
                },
                Some(()) = due => self.round().await,
            }
        }
    }

    fn add(&mut self, hold: Weak<Hold>, sent: BootInstant) {
        let Some(lease) = hold.upgrade() else { return };
        let (id, ttl) = (lease.id, lease.ttl());
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.holds.push(hold);
            return;
        }
        let at = Instant::now() + (ttl / 3).saturating_sub(sent.elapsed());
        self.entries.insert(id, Entry { holds: vec![hold], ttl, at, owed: None });
        self.agenda.insert((at, id));
    }

    /// Looks at all leases whose time has come.
    async fn round(&mut self) {
        let now = Instant::now();
        let mut wanted = Vec::new();
        let mut overdue = false;
        while let Some((_, id)) = self.agenda.first().copied().filter(|(at, _)| *at <= now) {
            self.agenda.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.holds.retain(|hold| hold.upgrade().is_some_and(|hold| hold.lost().is_none()));
            if entry.holds.is_empty() {
                self.entries.remove(&id);
                continue;
            }
            overdue |= entry.owed.is_some();
            wanted.push(id);
        }
        if overdue {
            self.broke(None);
        }
        if !wanted.is_empty() {
            self.send(wanted).await;
        }
    }

    /// Sends keep-alives, on a new stream if there is none.
    async fn send(&mut self, leases: Vec<LeaseId>) {
        let (requests, queue) = if let Some(stream) = &self.stream {
            (stream.requests.clone(), None)
        } else {
            let (requests, queue) = mpsc::channel(QUEUE);
            (requests, Some(queue))
        };
        let patience = leases.iter().filter_map(|id| self.entries.get(id)).map(Entry::patience).min();
        for id in leases {
            let sent = requests.try_send(v1::KeepAliveRequest { lease_id: id.get() }).is_ok();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.owed = sent.then(BootInstant::now);
            // What found no room comes again at once after the rest.
            let again = if sent { entry.patience() } else { PAUSE_MAX };
            self.plan(id, Instant::now() + again);
        }
        if let Some(queue) = queue {
            self.open(requests, queue, patience.unwrap_or(PATIENCE_MAX)).await;
        }
    }

    async fn open(
        &mut self,
        requests: mpsc::Sender<v1::KeepAliveRequest>,
        queue: mpsc::Receiver<v1::KeepAliveRequest>,
        patience: Duration,
    ) {
        // The client is going away, and with it this task.
        let Some(shared) = self.shared.upgrade() else { return };
        let endpoint = shared.endpoints.pick();
        let mut lease = endpoint.lease();
        let opened = tokio::time::timeout(patience, lease.keep_alive(ReceiverStream::new(queue))).await;
        let failed = match opened {
            Ok(Ok(answers)) => {
                self.stream = Some(Stream { endpoint, requests, answers: answers.into_inner() });
                return;
            }
            Ok(Err(status)) => Error::from_status(&status, &endpoint.address),
            Err(_) => silent(&endpoint),
        };
        shared.endpoints.failed(&endpoint, &failed);
        drop(shared);
        tracing::debug!(error = %failed, "keep-alives are tried elsewhere");
        self.start_over();
    }

    fn answered(&mut self, answer: &v1::KeepAliveResponse) {
        self.failures = 0;
        if let (Some(stream), Some(shared)) = (&self.stream, self.shared.upgrade()) {
            shared.endpoints.succeeded(&stream.endpoint);
        }
        let Some(id) = LeaseId::new(answer.lease_id) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if answer.ttl_ms == 0 {
            entry.holds().for_each(|hold| hold.lose(Lost::Gone));
            self.entries.remove(&id);
            return;
        }
        let Some(sent) = entry.owed.take() else { return };
        entry.ttl = Duration::from_millis(answer.ttl_ms);
        entry.holds().for_each(|hold| hold.confirm(sent, entry.ttl));
        let at = Instant::now() + (entry.ttl / 3).saturating_sub(sent.elapsed());
        self.plan(id, at);
    }

    /// The stream is of no more use; another endpoint is next.
    fn broke(&mut self, status: Option<&tonic::Status>) {
        if let (Some(stream), Some(shared)) = (&self.stream, self.shared.upgrade()) {
            let endpoint = &stream.endpoint;
            let error = status.map_or_else(|| silent(endpoint), |status| Error::from_status(status, &endpoint.address));
            shared.endpoints.failed(endpoint, &error);
            tracing::debug!(%error, "keep-alives go on elsewhere");
        }
        self.start_over();
    }

    fn start_over(&mut self) {
        self.stream = None;
        let at = Instant::now() + backoff(self.failures, PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let owed: Vec<LeaseId> =
            self.entries.iter().filter(|(_, entry)| entry.owed.is_some()).map(|(id, _)| *id).collect();
        for id in owed {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.owed = None;
            }
            self.plan(id, at);
        }
    }

    fn plan(&mut self, id: LeaseId, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.agenda.remove(&(entry.at, id));
            entry.at = at;
            self.agenda.insert((at, id));
        }
    }
}

/// No answer: the member may only lack a leader, so it is not passed over for long.
fn silent(endpoint: &Endpoint) -> Error {
    Error::refused(Reason::Deadline, Happened::No, "keep-alives were not answered in time", &endpoint.address)
}

/// One keep-alive, as a call. Renewing twice does no harm.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepAliveOnce(pub(super) LeaseId);

impl Call for KeepAliveOnce {
    type Answer = Duration;

    fn safety(&self) -> Safety {
        Safety::Read
    }

    fn send(self, endpoint: Arc<Endpoint>, _: Instant, _: bool) -> BoxFuture<'static, Result<Duration>> {
        Box::pin(async move {
            let wrong = |status: tonic::Status| Error::from_status(&status, &endpoint.address);
            let request = v1::KeepAliveRequest { lease_id: self.0.get() };
            let once = tokio_stream::once(request);
            let mut answers = endpoint.lease().keep_alive(once).await.map_err(wrong)?.into_inner();
            match answers.message().await.map_err(wrong)? {
                Some(answer) if answer.ttl_ms > 0 => Ok(Duration::from_millis(answer.ttl_ms)),
                Some(_) => {
                    let message = format!("lease {} does not exist (any more); grant a new one", self.0);
                    Err(Error::refused(Reason::LeaseNotFound, Happened::No, &message, &endpoint.address))
                }
                None => {
                    let message = "the keep-alive stream ended";
                    Err(Error::refused(Reason::ShuttingDown, Happened::No, message, &endpoint.address))
                }
            }
        })
    }
}

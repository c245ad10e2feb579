//! Watches the keys of everything that a client holds: one task, one stream, to whatever member answers.
//!
//! Invariants:
//! - A deletion is seen whenever it happened after the revision at which the key was last known to exist, also over
//!   broken streams and compacted history.
//! - The stream is there only while something is held.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::OptionFuture;
use parking_lot::Mutex;
use quorate_proto::{Revision, Token, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::call::backoff;
use crate::client::{Client, Shared};
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Lost, Reason};
use crate::tasks::{self, Task, TaskGuard};

/// Requests that may wait to be written to the stream.
const QUEUE: usize = 64;
/// How long a member may take to open the stream.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// Longest pause between attempts to open it.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// What a guard and the task share of one key.
pub(crate) struct Watched {
    id: u64,
    lost: watch::Sender<Option<Lost>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Watched {
    pub(super) fn lose(&self, reason: Lost) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(reason);
            }
            first
        });
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        *self.lost.borrow()
    }

    pub(super) async fn until_lost(&self) -> Lost {
        let mut heard = self.lost.subscribe();
        match heard.wait_for(Option::is_some).await.map(|lost| *lost) {
            Ok(Some(reason)) => reason,
            // Neither can be: the sender is in `self`, and it was waited for.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The task may have ended.
        let _ = self.orders.send(Order::Forget(self.id));
    }
}

enum Order {
    Watch(u64, Entry),
    Forget(u64),
}

struct Entry {
    key: Bytes,
    token: Token,
    watched: Weak<Watched>,
    /// First revision of which nothing was seen.
    next: Revision,
    /// Whether it existed just before that is not certain.
    doubted: bool,
}

/// The client's end; its task runs once something is held.
#[derive(Default)]
pub(crate) struct HoldWatch(Mutex<Option<Running>>);

struct Running {
    orders: mpsc::UnboundedSender<Order>,
    last_id: u64,
    _task: TaskGuard,
}

impl HoldWatch {
    /// Watches `key`, which was created at `token` and existed at `revision`.
    pub(super) fn watch(&self, shared: &Arc<Shared>, key: Bytes, token: Token, revision: Revision) -> Arc<Watched> {
        let mut running = self.0.lock();
        let running = running.get_or_insert_with(|| {
            let (orders, queue) = mpsc::unbounded_channel();
            let rounds =
                Rounds { shared: Arc::downgrade(shared), queue, entries: HashMap::new(), stream: None, failures: 0 };
            Running { orders, last_id: 0, _task: tasks::spawn(&shared.runtime, Task::HoldWatch, rounds.run()) }
        });
        running.last_id += 1;
        let (id, orders) = (running.last_id, running.orders.clone());
        let watched = Arc::new(Watched { id, lost: watch::Sender::new(None), orders });
        let next = Revision(revision.get().max(token.0)).next();
        // After a wait, the revision of the answer may be later than the look at the key.
        let doubted = revision.get() > token.0;
        let entry = Entry { key, token, watched: Arc::downgrade(&watched), next, doubted };
        // If the task is gone, so is the runtime.
        let _ = running.orders.send(Order::Watch(id, entry));
        watched
    }
}

struct Rounds {
    shared: Weak<Shared>,
    queue: mpsc::UnboundedReceiver<Order>,
    entries: HashMap<u64, Entry>,
    stream: Option<Stream>,
    failures: u32,
}

struct Stream {
    endpoint: Arc<Endpoint>,
    requests: mpsc::Sender<v1::WatchRequest>,
    responses: tonic::Streaming<v1::WatchResponse>,
}

impl Rounds {
    async fn run(mut self) {
        loop {
            if self.entries.is_empty() {
                self.stream = None;
            } else if self.stream.is_none() && !self.open().await {
                // The client is going away.
                return;
            }
            while let Some(id) = self.doubted().filter(|_| self.stream.is_some()) {
                if !self.look(id).await {
                    return;
                }
            }
            let response = OptionFuture::from(self.stream.as_mut().map(|stream| stream.responses.message()));
            tokio::select! {
                order = self.queue.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => return,
                },
                Some(response) = response => match response {
                    Ok(Some(response)) => {
                        if !self.heard(response).await {
                            return;
                        }
                    }
                    Ok(None) => self.broke(None).await,
                    Err(status) => self.broke(Some(&status)).await,
                },
            }
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Watch(id, entry) => {
                if !entry.doubted {
                    self.send(create(id, &entry)).await;
                }
                self.entries.insert(id, entry);
            }
            Order::Forget(id) => {
                if self.entries.remove(&id).is_some() {
                    let cancel = v1::watch_request::Request::Cancel(v1::WatchCancel { watch_id: id });
                    self.send(v1::WatchRequest { request: Some(cancel) }).await;
                }
            }
        }
    }

    /// Without a stream, or with one that is broken, all is sent again anyway.
    async fn send(&mut self, request: v1::WatchRequest) {
        if let Some(stream) = &self.stream {
            let _ = stream.requests.send(request).await;
        }
    }

    /// Opens a stream with all watches. `false`: there is no client any more.
    async fn open(&mut self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let endpoint = shared.endpoints.pick();
        let (requests, queue) = mpsc::channel(self.entries.len() + QUEUE);
        for (id, entry) in self.entries.iter().filter(|(_, entry)| !entry.doubted) {
            // There is room for it: the queue is new.
            let _ = requests.try_send(create(*id, entry));
        }
        let mut client = endpoint.watch();
        let opened = tokio::time::timeout(OPEN_WITHIN, client.watch(ReceiverStream::new(queue))).await;
        let failed = match opened {
            Ok(Ok(responses)) => {
                self.stream = Some(Stream { endpoint, requests, responses: responses.into_inner() });
                return true;
            }
            Ok(Err(status)) => Error::from_status(&status, &endpoint.address),
            Err(_) => silent(&endpoint),
        };
        shared.endpoints.failed(&endpoint, &failed);
        drop(shared);
        self.pause(&failed).await;
        true
    }

    /// `false`: there is no client any more.
    async fn heard(&mut self, response: v1::WatchResponse) -> bool {
        if response.end.is_none() {
            // One that only says that it ends is no better than none.
            self.failures = 0;
        }
        let id = response.watch_id;
        let Some(entry) = self.entries.get_mut(&id) else { return true };
        for event in &response.events {
            if event.kind() == v1::event::Kind::Delete {
                let reason = if event.lease_ended { Lost::Gone } else { Lost::Taken };
                if let Some(watched) = entry.watched.upgrade() {
                    watched.lose(reason);
                }
            }
        }
        let Some(end) = response.end else { return true };
        match end.reason() {
            // What was not seen is not readable any more, or the watch is in doubt: the key itself decides.
            v1::watch_end::Reason::Compacted | v1::watch_end::Reason::Invalid => return self.look(id).await,
            v1::watch_end::Reason::Cancelled => {}
            v1::watch_end::Reason::Unavailable | v1::watch_end::Reason::Unspecified => self.broke(None).await,
        }
        true
    }

    fn doubted(&self) -> Option<u64> {
        self.entries.iter().find(|(_, entry)| entry.doubted).map(|(id, _)| *id)
    }

    /// Reads the key, and goes on watching from there. `false`: there is no client any more.
    async fn look(&mut self, id: u64) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let Some(entry) = self.entries.get_mut(&id) else { return true };
        let look = Client::again(shared).get(entry.key.clone()).serializable();
        match look.min_revision(Revision(entry.next.get() - 1)).await {
            Ok(now) if now.kv.as_ref().is_some_and(|kv| kv.create_revision.get() == entry.token.0) => {
                (entry.next, entry.doubted) = (now.header.revision.next(), false);
                let create = create(id, entry);
                self.send(create).await;
            }
            Ok(_) => {
                if let Some(watched) = entry.watched.upgrade() {
                    watched.lose(Lost::Taken);
                }
                self.entries.remove(&id);
            }
            Err(error) => {
                tracing::debug!(%error, "the key of a hold is looked at again");
                entry.doubted = true;
                self.stream = None;
                self.pause(&error).await;
            }
        }
        true
    }

    async fn broke(&mut self, status: Option<&tonic::Status>) {
        let Some(stream) = self.stream.take() else { return };
        let endpoint = &stream.endpoint;
        let error = status.map_or_else(|| silent(endpoint), |status| Error::from_status(status, &endpoint.address));
        if let Some(shared) = self.shared.upgrade() {
            shared.endpoints.failed(endpoint, &error);
        }
        self.pause(&error).await;
    }

    async fn pause(&mut self, error: &Error) {
        tracing::debug!(%error, "the keys of holds are watched elsewhere");
        let pause = if self.failures == 0 { Duration::ZERO } else { backoff(self.failures, PAUSE_MAX) };
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause).await;
    }
}

fn create(id: u64, entry: &Entry) -> v1::WatchRequest {
    let create = v1::WatchCreate {
        watch_id: id,
        key: entry.key.clone(),
        start_revision: entry.next.get(),
        no_puts: true,
        // A member that is behind waits until it is not.
        min_revision: entry.next.get() - 1,
        ..v1::WatchCreate::default()
    };
    v1::WatchRequest { request: Some(v1::watch_request::Request::Create(create)) }
}

/// No answer: the member may only lack a leader, so it is not passed over for long.
fn silent(endpoint: &Endpoint) -> Error {
    let message = "the watch of what is held was not served";
    Error::refused(Reason::NoQuorum, Happened::No, message, &endpoint.address)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::fake::Script;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn rounds(client: &Client, doubted: bool) -> (Rounds, Arc<Watched>) {
        let (orders, queue) = mpsc::unbounded_channel();
        let watched = Arc::new(Watched { id: 1, lost: watch::Sender::new(None), orders });
        let (key, next) = (Bytes::from_static(b"lock/key"), Revision(12));
        let entry = Entry { key, token: Token(10), watched: Arc::downgrade(&watched), next, doubted };
        let shared = Arc::downgrade(client.shared());
        (Rounds { shared, queue, entries: HashMap::from([(1, entry)]), stream: None, failures: 0 }, watched)
    }

    /// A member without a quorum opens the stream, and says on it that the watch ends. That counted as a member that works,
    /// so it was asked again without a pause, as fast as it could say so.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_only_says_that_a_watch_ends_is_asked_again_with_longer_and_longer_pauses() {
        let fake = Script::default().start();
        let client = fake.client();
        let (mut rounds, _watched) = rounds(&client, false);
        let end = v1::WatchEnd { reason: v1::watch_end::Reason::Unavailable.into(), ..v1::WatchEnd::default() };
        let ends = v1::WatchResponse { watch_id: 1, end: Some(end), ..v1::WatchResponse::default() };
        for ended in 1..=3 {
            assert!(rounds.open().await && rounds.stream.is_some());
            assert!(rounds.heard(ends.clone()).await && rounds.stream.is_none());
            assert_eq!(rounds.failures, ended);
        }
        assert!(rounds.open().await);
        assert!(rounds.heard(v1::WatchResponse { watch_id: 1, ..v1::WatchResponse::default() }).await);
        assert_eq!(rounds.failures, 0, "one that says anything else works");
    }

    /// A client that went while its task opened the stream left a task that kept a thread busy for ever, when a key was to
    /// be looked at then: without a client it could not be, and nothing else was awaited.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_goes_while_a_key_is_in_doubt_leaves_no_task_behind() {
        let fake = Script::default().start();
        let client = fake.client();
        let (mut rounds, _watched) = rounds(&client, true);
        assert!(rounds.open().await && rounds.stream.is_some());
        drop(client);
        let (ended, end) = channel();
        // Not on this runtime, which would wait for a thread that is busy.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        std::thread::spawn(move || {
            runtime.block_on(rounds.run());
            ended.send(()).unwrap();
        });
        end.recv_timeout(PATIENCE).expect("the task ends with its client");
    }
}

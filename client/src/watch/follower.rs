//! One watch on its way through members that come and go.
//!
//! Invariants:
//! - It resumes at the first revision that was not delivered, at a member that has reached what was seen before.
//! - Its state changes only after an await returned, so that dropping `next` half-way loses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::{Revision, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::WatchEvents;
use super::assembler::Assembler;
use crate::call::backoff;
use crate::client::Client;
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Reason, Result};

/// How long a member may take to begin serving a watch.
const CREATE_WITHIN: Duration = Duration::from_secs(2);
/// Longest pause between attempts to resume.
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    client: Client,
    create: v1::WatchCreate,
    assembler: Assembler,
    /// Highest revision that any message showed.
    seen: i64,
    ready: VecDeque<Result<WatchEvents>>,
    connection: Option<Connection>,
    requester: ProgressRequester,
    failures: u32,
    down_since: Option<Instant>,
    give_up_after: Option<Duration>,
    ended: bool,
}

struct Connection {
    endpoint: Arc<Endpoint>,
    responses: tonic::Streaming<v1::WatchResponse>,
}

/// Asks for marks of progress on whatever stream the watch has at the moment.
#[derive(Clone, Default)]
pub(crate) struct ProgressRequester(Arc<Mutex<Option<mpsc::Sender<v1::WatchRequest>>>>);

impl ProgressRequester {
    pub(crate) fn request(&self) {
        let request = v1::watch_request::Request::Progress(v1::WatchProgress {});
        if let Some(requests) = &*self.0.lock() {
            // Full: enough are on their way.
            let _ = requests.try_send(v1::WatchRequest { request: Some(request) });
        }
    }
}

impl Follower {
    pub(super) fn new(client: Client, create: v1::WatchCreate, give_up_after: Option<Duration>) -> Self {
        Self {
            assembler: Assembler::new(create.start_revision),
            client,
            create,
            seen: 0,
            ready: VecDeque::new(),
            connection: None,
            requester: ProgressRequester::default(),
            failures: 0,
            down_since: None,
            give_up_after,
            ended: false,
        }
    }

    pub(super) fn next_revision(&self) -> Revision {
        Revision(self.assembler.next())
    }

    pub(super) fn requester(&self) -> ProgressRequester {
        self.requester.clone()
    }

    /// Waits until a member serves the watch.
    pub(super) async fn start(&mut self, after: Duration) -> Result<()> {
        let mut last = None;
        let connected = async {
            while self.connection.is_none() {
                match self.connect().await {
                    Ok(()) => {}
                    Err(error) if error.is_passing() => {
                        last = Some(Box::new(error));
                        tokio::time::sleep(self.pause()).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        match tokio::time::timeout(after, connected).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Deadline { after, happened: Happened::No, write_id: None, last }),
        }
    }

    /// The next item; `None` after an error was given.
    pub(super) async fn next(&mut self) -> Option<Result<WatchEvents>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.step().await {
                // Behind what came with it.
                self.ready.push_back(Err(error));
                self.ended = true;
                self.disconnect();
            }
        }
    }

    /// Takes one message, or reconnects. An error ends the watch.
    async fn step(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else {
            return match self.connect().await {
                Err(error) => self.broke(error).await,
                Ok(()) => Ok(()),
            };
        };
        let address = connection.endpoint.address.clone();
        let taken = match connection.responses.message().await {
            Ok(Some(response)) => self.take(response, &address),
            Ok(None) => Err(Error::refused(Reason::ShuttingDown, Happened::No, "the watch stream ended", &address)),
            Err(status) => Err(Error::from_status(&status, &address)),
        };
        match taken {
            Ok(()) => Ok(()),
            Err(error) => self.broke(error).await,
        }
    }

    /// Goes on elsewhere after an error that passes.
    async fn broke(&mut self, error: Error) -> Result<()> {
        if let Some(connection) = &self.connection {
            self.client.shared().endpoints.failed(&connection.endpoint, &error);
        }
        self.disconnect();
        let error = error.of_call(Happened::No, None);
        let down_since = *self.down_since.get_or_insert_with(Instant::now);
        let given_up = self.give_up_after.is_some_and(|limit| down_since.elapsed() >= limit);
        if !error.is_passing() || given_up {
            return Err(error);
        }
        tracing::debug!(%error, next = self.assembler.next(), "watch resumes elsewhere");
        tokio::time::sleep(self.pause()).await;
        Ok(())
    }

    fn pause(&mut self) -> Duration {
        let pause = backoff(self.failures, PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    fn disconnect(&mut self) {
        self.connection = None;
        *self.requester.0.lock() = None;
        self.assembler.broke();
    }

    /// Opens the stream at the endpoint of the moment and waits until the watch exists.
    async fn connect(&mut self) -> Result<()> {
        let endpoint = self.client.shared().endpoints.pick();
        let opened = match tokio::time::timeout(CREATE_WITHIN, self.open(&endpoint)).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::Unreachable {
                endpoint: endpoint.address.clone(),
                message: "the watch was not taken up in time".to_owned(),
                happened: Happened::No,
                write_id: None,
            }),
        };
        match opened {
            Ok((responses, requests, created)) => {
                self.client.shared().endpoints.succeeded(&endpoint);
                let revision = created.header.as_ref().map_or(0, |header| header.revision);
                if self.assembler.next() == 0 {
                    self.assembler.begin_after(revision);
                }
                self.seen = self.seen.max(revision);
                *self.requester.0.lock() = Some(requests);
                self.connection = Some(Connection { endpoint: endpoint.clone(), responses });
                self.take(created, &endpoint.address)
            }
            Err(error) => {
                self.client.shared().endpoints.failed(&endpoint, &error);
                Err(error.of_call(Happened::No, None))
            }
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(tonic::Streaming<v1::WatchResponse>, mpsc::Sender<v1::WatchRequest>, v1::WatchResponse)> {
        let wrong = |status: tonic::Status| Error::from_status(&status, &endpoint.address);
        let (requests, queue) = mpsc::channel(4);
        let create = v1::WatchCreate {
            start_revision: self.assembler.next(),
            min_revision: self.create.min_revision.max(self.seen),
            ..self.create.clone()
        };
        let create = v1::WatchRequest { request: Some(v1::watch_request::Request::Create(create)) };
        // There is room for it: the queue is new.
        let _ = requests.try_send(create);
        let mut responses = endpoint.watch().watch(ReceiverStream::new(queue)).await.map_err(wrong)?.into_inner();
        match responses.message().await.map_err(wrong)? {
            Some(response) if response.created => Ok((responses, requests, response)),
            Some(v1::WatchResponse { end: Some(end), .. }) => Err(ended(&end, &endpoint.address)),
            Some(_) => Err(Error::protocol(&endpoint.address, "a watch message before its creation")),
            None => {
                let message = "the watch stream ended";
                Err(Error::refused(Reason::ShuttingDown, Happened::No, message, &endpoint.address))
            }
        }
    }

    fn take(&mut self, response: v1::WatchResponse, address: &str) -> Result<()> {
        self.failures = 0;
        self.down_since = None;
        let broken = |what| Error::protocol(address, what);
        let whole = self.assembler.events(response.events, response.fragment).map_err(broken)?;
        self.ready.extend(whole.into_iter().map(Ok));
        if response.progress_revision > 0 {
            let mark = self.assembler.progress(response.progress_revision).map_err(broken)?;
            self.ready.extend(mark.map(Ok));
        }
        self.seen = self.seen.max(self.assembler.next() - 1);
        response.end.map_or(Ok(()), |end| Err(ended(&end, address)))
    }
}

/// What the end of a watch means.
fn ended(end: &v1::WatchEnd, address: &str) -> Error {
    use v1::watch_end::Reason as End;
    let message =
        if end.message.is_empty() { format!("the watch ended: {:?}", end.reason()) } else { end.message.clone() };
    match end.reason() {
        End::Compacted => Error::Compacted { compact_revision: Revision(end.compact_revision), message },
        End::Invalid => Error::refused(Reason::InvalidArgument, Happened::No, &message, address),
        End::Unavailable | End::Cancelled | End::Unspecified => {
            Error::refused(Reason::NoQuorum, Happened::No, &message, address)
        }
    }
}

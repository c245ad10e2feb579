//! Concurrent calls of one endpoint on one stream: what is waiting is sent as one message.
//!
//! Invariants:
//! - A call that is alone goes at once: nothing waits for company.
//! - When the stream breaks, each call on it learns at once whether it was sent; what was not sent never happened.
//! - A call whose future is dropped before it was sent is not sent.
//! - A lane that is dropped ends its outgoing half, which would keep the connection open for ever.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::batch_answer::Answer;
use quorate_proto::v1::batch_client::BatchClient;
use quorate_proto::v1::batch_item::Request;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::error::{Error, Happened, Reason, Result};
use crate::tasks::{self, Task, TaskGuard};

/// Calls on the stream at one time; others wait for a place.
const CALLS_MAX: usize = 4096;
/// Bounds of one message.
const ITEMS_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;

/// The batch stream of one endpoint.
pub(crate) struct Lane {
    traffic: Arc<Traffic>,
    _task: TaskGuard,
}

/// What callers, the outgoing and the incoming half share.
struct Traffic {
    address: String,
    places: Semaphore,
    work: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    sent: HashMap<u64, oneshot::Sender<Result<Answer>>>,
    last_tag: u64,
    /// Which stream is the current one; older outgoing halves end.
    stream: u64,
    /// Of the outgoing half, when it found nothing to send.
    waker: Option<Waker>,
    /// The member does not know the service.
    unsupported: bool,
    /// The lane is gone.
    closed: bool,
}

struct Waiting {
    tag: u64,
    request: Request,
    bytes: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Answer>>,
}

impl Lane {
    pub(crate) fn new(client: BatchClient<Channel>, address: &str, runtime: &Handle) -> Self {
        let traffic = Arc::new(Traffic {
            address: address.to_owned(),
            places: Semaphore::new(CALLS_MAX),
            work: Notify::new(),
            state: Mutex::default(),
        });
        let task = tasks::spawn(runtime, Task::Lane, run(traffic.clone(), client));
        Self { traffic, _task: task }
    }

    /// Sends a request and waits for its answer. [`Reason::Unimplemented`]: the member has no such stream.
    pub(crate) async fn call(&self, request: Request, deadline: Instant) -> Result<Answer> {
        let traffic = &self.traffic;
        let _place = traffic.places.acquire().await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let bytes = bytes_of(&request);
        let tag = {
            let mut state = traffic.state.lock();
            if state.unsupported {
                return Err(unsupported(&traffic.address));
            }
            state.last_tag += 1;
            let tag = state.last_tag;
            state.waiting.push_back(Waiting { tag, request, bytes, deadline, reply });
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
            tag
        };
        traffic.work.notify_one();
        let _owed = Owed { traffic, tag };
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.traffic.state.lock();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// Forgets a call that nobody waits for any longer.
struct Owed<'a> {
    traffic: &'a Traffic,
    tag: u64,
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        self.traffic.state.lock().sent.remove(&self.tag);
    }
}

/// Opens a stream when there is something to send, and takes in its answers until it breaks.
async fn run(traffic: Arc<Traffic>, client: BatchClient<Channel>) {
    loop {
        traffic.work.notified().await;
        if traffic.state.lock().waiting.is_empty() {
            continue;
        }
        let outgoing = traffic.begin();
        let status = match client.clone().execute(outgoing).await {
            Ok(answers) => traffic.take_in(answers.into_inner()).await,
            Err(status) => status,
        };
        traffic.end(&status);
    }
}

impl Traffic {
    fn begin(self: &Arc<Self>) -> Outgoing {
        let mut state = self.state.lock();
        state.stream += 1;
        Outgoing { traffic: self.clone(), stream: state.stream }
    }

    /// Gives answers to their callers until the stream ends; says why it did.
    async fn take_in(&self, mut answers: tonic::Streaming<v1::BatchResponse>) -> Status {
        loop {
            match answers.message().await {
                Ok(Some(message)) => {
                    let mut state = self.state.lock();
                    for v1::BatchAnswer { tag, answer } in message.answers {
                        if let Some(reply) = state.sent.remove(&tag) {
                            // Nobody waits any longer: so be it.
                            let _ = reply.send(self.read(answer));
                        }
                    }
                }
                Ok(None) => return Status::unavailable("the batch stream ended"),
                Err(status) => return status,
            }
        }
    }

    fn read(&self, answer: Option<Answer>) -> Result<Answer> {
        match answer {
            Some(Answer::Error(v1::BatchError { code, message, detail })) => Err(match detail {
                Some(detail) => Error::from_detail(&detail, &message, &self.address),
                None => Error::from_status(&Status::new(Code::from(code), message), &self.address),
            }),
            Some(answer) => Ok(answer),
            None => Err(Error::protocol(&self.address, "an answer in a batch is empty")),
        }
    }

    /// The stream is over: tells all callers.
    fn end(&self, status: &Status) {
        let mut state = self.state.lock();
        state.stream += 1;
        // The outgoing half ends with it, whoever ended it.
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        state.unsupported |= status.code() == Code::Unimplemented;
        let error = if state.unsupported { unsupported(&self.address) } else { broken(status, &self.address) };
        // However the stream ended, single calls on it may have been taken up before; unless there never was one.
        let never = matches!(error, Error::Unreachable { happened: Happened::No, .. }) || state.unsupported;
        let of_sent = if never { Happened::No } else { Happened::Unknown };
        for (_, reply) in state.sent.drain() {
            let _ = reply.send(Err(error.clone().of_call(of_sent, None)));
        }
        for waiting in state.waiting.drain(..) {
            let _ = waiting.reply.send(Err(error.clone().of_call(Happened::No, None)));
        }
    }
}

/// The outgoing half: asked for a message whenever the connection can take one.
struct Outgoing {
    traffic: Arc<Traffic>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = v1::BatchRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.traffic.state.lock();
        if state.closed || state.stream != self.stream {
            return Poll::Ready(None);
        }
        let items = state.fill();
        if items.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(v1::BatchRequest { items }))
    }
}

impl State {
    /// What is waiting, within the bounds of one message.
    fn fill(&mut self) -> Vec<v1::BatchItem> {
        let now = Instant::now();
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.pop_front() {
            if next.reply.is_closed() {
                continue;
            }
            if !items.is_empty() && (items.len() >= ITEMS_MAX || bytes + next.bytes > BYTES_MAX) {
                self.waiting.push_front(next);
                break;
            }
            bytes += next.bytes;
            let left_ms = next.deadline.saturating_duration_since(now).as_millis();
            let timeout_ms = u64::try_from(left_ms).unwrap_or(u64::MAX).max(1);
            items.push(v1::BatchItem { tag: next.tag, timeout_ms, request: Some(next.request) });
            self.sent.insert(next.tag, next.reply);
        }
        items
    }
}

fn bytes_of(request: &Request) -> usize {
    match request {
        Request::Get(get) => get.encoded_len(),
        Request::Put(put) => put.encoded_len(),
        Request::Delete(delete) => delete.encoded_len(),
        Request::Range(range) => range.encoded_len(),
        Request::Txn(txn) => txn.encoded_len(),
    }
}

fn unsupported(address: &str) -> Error {
    Error::refused(Reason::Unimplemented, Happened::No, "the member has no batch stream", address)
}

/// What the end of a stream means for the calls on it: they may be tried elsewhere.
fn broken(status: &Status, address: &str) -> Error {
    match Error::from_status(status, address) {
        error @ (Error::Unreachable { .. } | Error::Refused(_)) if error.is_passing() => error,
        error => Error::Unreachable {
            endpoint: address.to_owned(),
            message: error.to_string(),
            happened: Happened::Unknown,
            write_id: None,
        },
    }
}

#[cfg(test)]
mod tests;

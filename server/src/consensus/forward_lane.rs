//! A lane: one multiplexed stream to the leader, which is opened as soon as a leader is known, and the runtime it is on.
//!
//! Invariants:
//! - A request is sent at once, without waiting for earlier ones; answers come in any order and are told apart by tag.
//! - At most [`OUTSTANDING_MAX`] requests wait for answers, and a bounded number of bytes waits to be sent; more are
//!   refused as overload.
//! - When the stream ends, whatever was sent and not answered ends with it: a command as "may have happened", all else
//!   as "did not". What was never sent did not happen. Whether to ask the next leader is the caller's decision.
//! - When another member leads, the old stream is closed for requests and read a little longer: the old leader may
//!   still answer what it was asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use parking_lot::Mutex;
use quorate_proto::MemberId;
use quorate_proto::peer::forward_request::Request as Asked;
use quorate_proto::peer::{ForwardRequest, ForwardResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Streaming;

use crate::consensus::Haste;
use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::forward_queue::{ForwardQueue, Refused};
use crate::consensus::forward_wire::{self as wire, Answer};
use crate::consensus::leader_end::LinkEnd;
use crate::consensus::links::{Links, Purpose};
use crate::consensus::types::{Raft, TypeConfig};
use crate::error::{ConsensusError, Happened};
use crate::sync::watch;
use crate::tasks::Tasks;

/// Requests that wait for the leader's answer.
pub const OUTSTANDING_MAX: usize = 16 * 1024;
/// Between two attempts to reach the leader.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Old streams that are read to their end.
const RETIRED_MAX: usize = 8;
/// Between two reports of free disk space.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Where callers hand in their requests.
pub struct Lane {
    link: Mutex<Link>,
    /// Moves whenever the link comes up, fails or goes down.
    moved: watch::Sender<u64>,
    /// Longest wait for a link that is not up yet.
    patience: Duration,
}

#[derive(Default)]
struct Link {
    /// Where it leads, while it is up.
    up: Option<(u64, ForwardQueue)>,
    /// Counts streams.
    stream: u64,
    /// Why there is none.
    reason: String,
    next_tag: u64,
    outstanding: HashMap<u64, Outstanding>,
}

/// A request that was sent.
struct Outstanding {
    stream: u64,
    answer: oneshot::Sender<Answer>,
}

/// A stream to a member that led before.
struct Retired {
    stream: u64,
    answers: Streaming<ForwardResponse>,
}

/// A request that was sent. Dropping it gives up on the answer.
pub struct Ticket {
    lane: Arc<Lane>,
    tag: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.link.lock().outstanding.remove(&self.tag);
    }
}

/// The task that keeps the stream to the leader.
pub struct LaneTask {
    lane: Arc<Lane>,
    links: Arc<Links>,
    duties: Option<Duties>,
}

/// What the main lane does besides: others, and this member, learn by it.
pub struct Duties {
    /// The leader is told how much of it is free.
    pub disk: Arc<DiskSpace>,
    /// Told when a stream that was up has ended while its leader was not replaced.
    pub ends: watch::Sender<Option<LinkEnd>>,
}

impl Lane {
    /// One that leads nowhere yet, and its task. The main one has duties.
    pub fn new(links: Arc<Links>, duties: Option<Duties>) -> (Arc<Self>, LaneTask) {
        let link = Link { reason: "no leader is known".to_owned(), ..Link::default() };
        let patience = links.timing().election_max;
        let lane = Arc::new(Self { link: Mutex::new(link), moved: watch::Sender::new(0), patience });
        (lane.clone(), LaneTask { lane, links, duties })
    }

    /// Sends at once, or as soon as the stream has moved, if it then leads to `leader`. Nothing was sent when this fails.
    pub async fn send(
        self: &Arc<Self>,
        leader: MemberId,
        asked: Asked,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Ticket, ConsensusError> {
        let mut moved = self.moved.subscribe();
        if let Some(ticket) = self.try_send(leader, &asked, haste, deadline)? {
            return Ok(ticket);
        }
        let patience = deadline.min(Instant::now() + self.patience);
        // Whether it moved or not, the second look decides.
        let _ = tokio::time::timeout_at(patience, moved.changed()).await;
        if let Some(ticket) = self.try_send(leader, &asked, haste, deadline)? {
            return Ok(ticket);
        }
        let reason = self.link.lock().reason.clone();
        Err(no_quorum(format!("the leader cannot be reached: {reason}"), Happened::No))
    }

    /// `None` while there is no stream to `leader`.
    pub fn try_send(
        self: &Arc<Self>,
        leader: MemberId,
        asked: &Asked,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Option<Ticket>, ConsensusError> {
        let mut link = self.link.lock();
        let stream = match &link.up {
            Some((target, stream)) if *target == leader.get() => stream.clone(),
            _ => return Ok(None),
        };
        let full = ConsensusError::Overloaded { queue: "the queue to the leader", retry_after: RETRY_AFTER };
        if link.outstanding.len() >= OUTSTANDING_MAX {
            return Err(full);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let tag = link.next_tag;
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let with_others = haste == Haste::WithOthers;
        match stream.try_send(ForwardRequest { tag, timeout_ms, request: Some(asked.clone()), with_others }) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(full),
            Err(Refused::Closed) => return Ok(None),
        }
        let (sender, answer) = oneshot::channel();
        link.next_tag += 1;
        let outstanding = Outstanding { stream: link.stream, answer: sender };
        link.outstanding.insert(tag, outstanding);
        drop(link);
        Ok(Some(Ticket { lane: self.clone(), tag, answer }))
    }
}

impl Ticket {
    /// The leader's answer. `lost` says what became of the request when there is none.
    pub async fn answer(mut self, lost: Happened, deadline: Instant) -> Result<Answer, ConsensusError> {
        match tokio::time::timeout_at(deadline, &mut self.answer).await {
            Ok(Ok(Answer::Failed(error))) => Err(error),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(no_quorum("the connection to the leader broke before it answered".to_owned(), lost)),
            Err(_) => Err(ConsensusError::Deadline { waiting_for: "the leader to answer", happened: lost }),
        }
    }
}

/// No answer, and what became of the request.
pub fn no_quorum(reason: String, happened: Happened) -> ConsensusError {
    ConsensusError::NoQuorum { reason, happened }
}

impl LaneTask {
    /// Works until the member stops.
    pub async fn run(self, raft: Raft, tasks: Tasks) -> Result<(), String> {
        let (retire, retired) = mpsc::channel(RETIRED_MAX);
        tokio::select! {
            biased;
            () = tasks.stopped() => {}
            () = self.follow(raft, retire) => {}
            () = self.drain(retired) => {}
        }
        self.down("this member is stopping");
        let lost = std::mem::take(&mut self.lane.link.lock().outstanding);
        // Dropping the senders tells those who wait.
        drop(lost);
        Ok(())
    }

    /// Keeps a stream to whoever leads, until Raft ends.
    async fn follow(&self, raft: Raft, retire: mpsc::Sender<Retired>) {
        let mut pause = PAUSE_MIN;
        let mut leader = LeaderWatch { own: self.links.local().id().get(), metrics: raft.server_metrics() };
        while let Some((target, address)) = leader.other().await {
            let connected = tokio::select! {
                biased;
                () = leader.changed_from(target) => continue,
                connected = self.connect(target, &address) => connected,
            };
            match connected {
                Ok((requests, mut answers)) => {
                    pause = PAUSE_MIN;
                    let stream = self.up(target, requests.clone());
                    let ended = tokio::select! {
                        biased;
                        () = leader.changed_from(target) => None,
                        reason = self.read(&mut answers) => Some(reason),
                        reason = self.report(requests) => Some(reason),
                    };
                    self.down(ended.as_deref().unwrap_or("another member leads"));
                    let retired = ended.is_none() && retire.try_send(Retired { stream, answers }).is_ok();
                    if !retired {
                        self.lose(stream);
                    }
                    if ended.is_none() {
                        continue;
                    }
                    self.say_ended(target, address);
                }
                Err(reason) => self.down(&reason),
            }
            tokio::select! {
                () = leader.changed_from(target) => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Reads old streams to their end, but not for long.
    async fn drain(&self, mut retired: mpsc::Receiver<Retired>) {
        let mut reading = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(Retired { stream, mut answers }) = retired.recv() => reading.push(async move {
                    let patience = self.links.timing().election_min;
                    // Either way the stream is over.
                    let _ = tokio::time::timeout(patience, self.read(&mut answers)).await;
                    self.lose(stream);
                }),
                Some(()) = reading.next() => {}
                else => return,
            }
        }
    }

    async fn connect(&self, target: u64, address: &str) -> Result<(ForwardQueue, Streaming<ForwardResponse>), String> {
        // A connection is driven by the runtime on which it was made: that of the main lane is Raft's.
        let peer = match self.duties {
            Some(_) => self.links.peer(target, address, Purpose::Forward),
            None => self.links.apart(address),
        };
        let mut peer = peer.map_err(|error| error.to_string())?;
        let (requests, queued) = ForwardQueue::new(OUTSTANDING_MAX);
        let marked = self.links.local().mark(target, queued).map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.links.timing().election_max, peer.forward(marked)).await {
            Ok(Ok(answers)) => Ok((requests, answers.into_inner())),
            Ok(Err(status)) => {
                self.links.local().heed(&status);
                Err(status.message().to_owned())
            }
            Err(_) => Err("it does not answer".to_owned()),
        }
    }

    fn up(&self, target: u64, requests: ForwardQueue) -> u64 {
        let stream = {
            let mut link = self.lane.link.lock();
            link.up = Some((target, requests));
            link.stream += 1;
            link.stream
        };
        self.lane.moved.send_modify(|moved| *moved += 1);
        stream
    }

    fn down(&self, reason: &str) {
        {
            let mut link = self.lane.link.lock();
            link.up = None;
            reason.clone_into(&mut link.reason);
        }
        tracing::debug!(reason, "no stream to the leader");
        self.lane.moved.send_modify(|moved| *moved += 1);
    }

    fn say_ended(&self, target: u64, address: String) {
        if let Some(duties) = &self.duties {
            let end = MemberId::new(target).map(|leader| LinkEnd { leader, address, at: Instant::now() });
            duties.ends.send_replace(end);
        }
    }

    /// Tells those who wait for answers of a stream that none will come: by dropping their senders.
    fn lose(&self, stream: u64) {
        let lost: Vec<_> = {
            let mut link = self.lane.link.lock();
            link.outstanding.extract_if(|_, outstanding| outstanding.stream == stream).collect()
        };
        drop(lost);
    }

    /// Hands out answers until the stream ends.
    async fn read(&self, answers: &mut Streaming<ForwardResponse>) -> String {
        loop {
            match answers.message().await {
                Ok(Some(response)) => {
                    let waiting = self.lane.link.lock().outstanding.remove(&response.tag);
                    if let Some(waiting) = waiting {
                        // The caller may be gone.
                        let _ = waiting.answer.send(wire::decode_response(response));
                    }
                }
                Ok(None) => return "the leader ended the stream".to_owned(),
                Err(status) => {
                    self.links.local().heed(&status);
                    return status.message().to_owned();
                }
            }
        }
    }

    /// Tells the leader now and then how much of the disk is free, if this is the lane that does.
    async fn report(&self, requests: ForwardQueue) -> String {
        let Some(duties) = &self.duties else { return std::future::pending().await };
        let mut tick = tokio::time::interval(REPORT_INTERVAL);
        loop {
            tick.tick().await;
            let request = Some(Asked::FreeBytes(duties.disk.free_bytes()));
            // A full queue can do without.
            let report = ForwardRequest { tag: u64::MAX, timeout_ms: 0, request, with_others: false };
            if requests.try_send(report) == Err(Refused::Closed) {
                return "the stream to the leader has ended".to_owned();
            }
        }
    }
}

/// Follows who leads.
struct LeaderWatch {
    own: u64,
    metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
}

impl LeaderWatch {
    /// Waits until another member leads: its id and address. `None` when Raft has ended.
    async fn other(&mut self) -> Option<(u64, String)> {
        loop {
            let found = {
                let now = self.metrics.borrow_and_update();
                let leader = now.current_leader.filter(|leader| *leader != self.own);
                leader.and_then(|id| Some((id, now.membership_config.membership().get_node(&id)?.peer_address.clone())))
            };
            if found.is_some() {
                return found;
            }
            self.metrics.changed().await.ok()?;
        }
    }

    /// Waits until another member than `target` is known to lead. While none is known the old stream stays: what was
    /// sent on it may still be answered. Once Raft has ended none will be, and the member is about to stop.
    async fn changed_from(&mut self, target: u64) {
        loop {
            if self.metrics.borrow_and_update().current_leader.is_some_and(|leader| leader != target) {
                return;
            }
            if self.metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

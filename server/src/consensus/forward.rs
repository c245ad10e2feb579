//! Carries this member's requests to the leader, over one multiplexed stream that is opened as soon as a leader is
//! known.
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

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use parking_lot::Mutex;
use quorate_proto::peer::forward_request::Request as Asked;
use quorate_proto::peer::{self, ForwardRequest, ForwardResponse};
use quorate_proto::{LeaseId, MemberId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Streaming;

use crate::consensus::Proposed;
use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::forward_queue::{ForwardQueue, Refused};
use crate::consensus::forward_wire::{self as wire, Answer};
use crate::consensus::leader_end::LinkEnd;
use crate::consensus::links::{Links, Purpose};
use crate::consensus::peers::{MembershipChange, Peers};
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

/// The way of requests to the leader. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

struct Shared {
    link: Mutex<Link>,
    /// Moves whenever the link comes up, fails or goes down.
    moved: watch::Sender<u64>,
    /// The last stream that was up and ended while its leader was not replaced.
    ends: watch::Sender<Option<LinkEnd>>,
    /// What members last said about their disks.
    free_bytes: Mutex<HashMap<MemberId, u64>>,
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
struct Ticket {
    shared: Arc<Shared>,
    tag: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.link.lock().outstanding.remove(&self.tag);
    }
}

/// The task that keeps the stream to the leader.
pub struct ForwardTask {
    shared: Arc<Shared>,
    links: Arc<Links>,
    disk: Arc<DiskSpace>,
}

impl Forwarder {
    /// The handle and its task, which is to run once Raft is built.
    pub fn new(links: Arc<Links>, disk: Arc<DiskSpace>) -> (Self, ForwardTask) {
        let shared = Arc::new(Shared {
            link: Mutex::new(Link { reason: "no leader is known".to_owned(), ..Link::default() }),
            moved: watch::Sender::new(0),
            ends: watch::Sender::new(None),
            free_bytes: Mutex::default(),
            patience: links.timing().election_max,
        });
        (Self { shared: shared.clone() }, ForwardTask { shared, links, disk })
    }

    /// The last end of a stream to a leader that was not seen to be replaced.
    pub fn ends(&self) -> watch::Receiver<Option<LinkEnd>> {
        self.shared.ends.subscribe()
    }

    /// A member said how much of its disk is free.
    pub fn note_free_bytes(&self, member: MemberId, free_bytes: u64) {
        self.shared.free_bytes.lock().insert(member, free_bytes);
    }

    async fn ask(
        &self,
        leader: MemberId,
        asked: Asked,
        lost: Happened,
        deadline: Instant,
    ) -> Result<Answer, ConsensusError> {
        let mut ticket = self.send(leader, asked, deadline).await?;
        match tokio::time::timeout_at(deadline, &mut ticket.answer).await {
            Ok(Ok(Answer::Failed(error))) => Err(error),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(no_quorum("the connection to the leader broke before it answered".to_owned(), lost)),
            Err(_) => Err(ConsensusError::Deadline { waiting_for: "the leader to answer", happened: lost }),
        }
    }

    /// Sends at once, or as soon as the stream has moved, if it then leads to `leader`. Nothing was sent when this fails.
    async fn send(&self, leader: MemberId, asked: Asked, deadline: Instant) -> Result<Ticket, ConsensusError> {
        let mut moved = self.shared.moved.subscribe();
        if let Some(ticket) = self.try_send(leader, &asked, deadline)? {
            return Ok(ticket);
        }
        let patience = deadline.min(Instant::now() + self.shared.patience);
        // Whether it moved or not, the second look decides.
        let _ = tokio::time::timeout_at(patience, moved.changed()).await;
        if let Some(ticket) = self.try_send(leader, &asked, deadline)? {
            return Ok(ticket);
        }
        let reason = self.shared.link.lock().reason.clone();
        Err(no_quorum(format!("the leader cannot be reached: {reason}"), Happened::No))
    }

    /// `None` while there is no stream to `leader`.
    fn try_send(&self, leader: MemberId, asked: &Asked, deadline: Instant) -> Result<Option<Ticket>, ConsensusError> {
        let mut link = self.shared.link.lock();
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
        match stream.try_send(ForwardRequest { tag, timeout_ms, request: Some(asked.clone()) }) {
            Ok(()) => {}
            Err(Refused::Full) => return Err(full),
            Err(Refused::Closed) => return Ok(None),
        }
        let (sender, answer) = oneshot::channel();
        link.next_tag += 1;
        let outstanding = Outstanding { stream: link.stream, answer: sender };
        link.outstanding.insert(tag, outstanding);
        drop(link);
        Ok(Some(Ticket { shared: self.shared.clone(), tag, answer }))
    }
}

impl Peers for Forwarder {
    fn command(
        &self,
        leader: MemberId,
        envelope: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>> {
        Box::pin(async move {
            match self.ask(leader, Asked::Command(envelope), Happened::Unknown, deadline).await? {
                Answer::Command(done) => Ok(done),
                _ => Err(misfit(Happened::Unknown)),
            }
        })
    }

    fn barrier(&self, leader: MemberId, deadline: Instant) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        Box::pin(async move {
            match self.ask(leader, Asked::Barrier(peer::Barrier {}), Happened::No, deadline).await? {
                Answer::Barrier(index) => Ok(index),
                _ => Err(misfit(Happened::No)),
            }
        })
    }

    fn keep_alive(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        Box::pin(async move {
            let asked = Asked::KeepAlive(peer::KeepAlive { lease_id: lease.get() });
            match self.ask(leader, asked, Happened::No, deadline).await? {
                Answer::KeepAlive(ttl_ms) => Ok(ttl_ms),
                _ => Err(misfit(Happened::No)),
            }
        })
    }

    fn time_to_live(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(u64, u64), ConsensusError>> {
        Box::pin(async move {
            let asked = Asked::TimeToLive(peer::TimeToLive { lease_id: lease.get() });
            match self.ask(leader, asked, Happened::No, deadline).await? {
                Answer::TimeToLive(granted_ms, remaining_ms) => Ok((granted_ms, remaining_ms)),
                _ => Err(misfit(Happened::No)),
            }
        })
    }

    fn change(
        &self,
        leader: MemberId,
        change: MembershipChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>> {
        Box::pin(async move {
            let asked = Asked::Membership(wire::encode_change(&change));
            match self.ask(leader, asked, Happened::Unknown, deadline).await? {
                Answer::Changed(index) => Ok(index),
                _ => Err(misfit(Happened::Unknown)),
            }
        })
    }

    fn free_bytes(&self, member: MemberId) -> Option<u64> {
        self.shared.free_bytes.lock().get(&member).copied()
    }
}

fn no_quorum(reason: String, happened: Happened) -> ConsensusError {
    ConsensusError::NoQuorum { reason, happened }
}

fn misfit(happened: Happened) -> ConsensusError {
    no_quorum("the leader answered another question than was asked".to_owned(), happened)
}

impl ForwardTask {
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
        let lost = std::mem::take(&mut self.shared.link.lock().outstanding);
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
        let mut peer = self.links.peer(target, address, Purpose::Forward).map_err(|error| error.to_string())?;
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
            let mut link = self.shared.link.lock();
            link.up = Some((target, requests));
            link.stream += 1;
            link.stream
        };
        self.shared.moved.send_modify(|moved| *moved += 1);
        stream
    }

    fn down(&self, reason: &str) {
        {
            let mut link = self.shared.link.lock();
            link.up = None;
            reason.clone_into(&mut link.reason);
        }
        tracing::debug!(reason, "no stream to the leader");
        self.shared.moved.send_modify(|moved| *moved += 1);
    }

    fn say_ended(&self, target: u64, address: String) {
        let end = MemberId::new(target).map(|leader| LinkEnd { leader, address, at: Instant::now() });
        self.shared.ends.send_replace(end);
    }

    /// Tells those who wait for answers of a stream that none will come: by dropping their senders.
    fn lose(&self, stream: u64) {
        let lost: Vec<_> = {
            let mut link = self.shared.link.lock();
            link.outstanding.extract_if(|_, outstanding| outstanding.stream == stream).collect()
        };
        drop(lost);
    }

    /// Hands out answers until the stream ends.
    async fn read(&self, answers: &mut Streaming<ForwardResponse>) -> String {
        loop {
            match answers.message().await {
                Ok(Some(response)) => {
                    let waiting = self.shared.link.lock().outstanding.remove(&response.tag);
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

    /// Tells the leader now and then how much of the disk is free.
    async fn report(&self, requests: ForwardQueue) -> String {
        let mut tick = tokio::time::interval(REPORT_INTERVAL);
        loop {
            tick.tick().await;
            let request = Some(Asked::FreeBytes(self.disk.free_bytes()));
            // A full queue can do without.
            let report = ForwardRequest { tag: u64::MAX, timeout_ms: 0, request };
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

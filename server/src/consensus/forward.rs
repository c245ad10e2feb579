//! Carries this member's requests to the leader, over a stream of each runtime that has some (`forward_lane`): a request
//! of a door goes from its thread to the leader, not by way of Raft's thread.
//!
//! Invariants:
//! - The main lane is on Raft's runtime, and is waited for. Another lane is used while it is up, and is never waited for.
//! - A request is handed to one lane: to the main one only when no other one took it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use quorate_proto::peer;
use quorate_proto::peer::forward_request::Request as Asked;
use quorate_proto::{LeaseId, MemberId};
use tokio::runtime::{Handle, Id};
use tokio::time::Instant;

use crate::consensus::disk_watch::DiskSpace;
use crate::consensus::forward_lane::{Duties, Lane, LaneTask, no_quorum};
use crate::consensus::forward_wire::{self as wire, Answer};
use crate::consensus::leader_end::LinkEnd;
use crate::consensus::links::Links;
use crate::consensus::peers::{MembershipChange, Peers};
use crate::consensus::{Haste, Proposed};
use crate::error::{ConsensusError, Happened};
use crate::sync::watch;
use crate::tasks::{Task, Tasks};

/// The way of requests to the leader. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

struct Shared {
    main: Arc<Lane>,
    /// By runtime; the main one is that of Raft's.
    lanes: RwLock<HashMap<Id, Arc<Lane>>>,
    links: Arc<Links>,
    tasks: Tasks,
    ends: watch::Sender<Option<LinkEnd>>,
    /// What members last said about their disks.
    free_bytes: Mutex<HashMap<MemberId, u64>>,
}

impl Forwarder {
    /// The handle, and the main lane's task, which is to run on `runtime` once Raft is built.
    pub fn new(links: Arc<Links>, disk: Arc<DiskSpace>, tasks: Tasks, runtime: &Handle) -> (Self, LaneTask) {
        let ends = watch::Sender::new(None);
        let (main, task) = Lane::new(links.clone(), Some(Duties { disk, ends: ends.clone() }));
        let lanes = RwLock::new(HashMap::from([(runtime.id(), main.clone())]));
        (Self { shared: Arc::new(Shared { main, lanes, links, tasks, ends, free_bytes: Mutex::default() }) }, task)
    }

    /// The last end of the main stream to a leader that was not seen to be replaced.
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
        self.ask_in(Haste::AtOnce, leader, asked, lost, deadline).await
    }

    async fn ask_in(
        &self,
        haste: Haste,
        leader: MemberId,
        asked: Asked,
        lost: Happened,
        deadline: Instant,
    ) -> Result<Answer, ConsensusError> {
        let ticket = match self.shared.lane_here().try_send(leader, &asked, haste, deadline)? {
            Some(ticket) => ticket,
            None => self.shared.main.send(leader, asked, haste, deadline).await?,
        };
        ticket.answer(lost, deadline).await
    }
}

impl Shared {
    /// The lane of the runtime that this is called on. Begun when it is first asked for; until Raft is built, the main one.
    fn lane_here(&self) -> Arc<Lane> {
        let Ok(runtime) = Handle::try_current() else { return self.main.clone() };
        if let Some(lane) = self.lanes.read().get(&runtime.id()) {
            return lane.clone();
        }
        let Some(raft) = self.links.local().raft() else { return self.main.clone() };
        let mut lanes = self.lanes.write();
        let lane = lanes.entry(runtime.id()).or_insert_with(|| {
            let (lane, task) = Lane::new(self.links.clone(), None);
            self.tasks.spawn(Task::ForwardLane, &runtime, task.run(raft.clone(), self.tasks.clone()));
            lane
        });
        lane.clone()
    }
}

impl Peers for Forwarder {
    fn command(
        &self,
        leader: MemberId,
        envelope: Bytes,
        haste: Haste,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>> {
        Box::pin(async move {
            match self.ask_in(haste, leader, Asked::Command(envelope), Happened::Unknown, deadline).await? {
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

fn misfit(happened: Happened) -> ConsensusError {
    no_quorum("the leader answered another question than was asked".to_owned(), happened)
}

//! Shared read barriers: all who ask at one moment share one quorum round.
//!
//! Invariants:
//! - A round serves only those who asked before it *started*; who comes later waits for the next. This holds at each
//!   hop: a follower's group is one caller in the leader's group.
//! - One round is under way at a time, and it ends: a round without an answer fails after `ROUND_MAX`.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use quorate_proto::MemberId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::consensus::peers::Peers;
use crate::consensus::types::Raft;
use crate::error::{ConsensusError, Happened};
use crate::tasks::Tasks;

/// Callers waiting.
const QUEUE_MAX: usize = 65_536;
/// A round takes no longer.
const ROUND_MAX: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What a round found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Term in which leadership was confirmed; 0 when another member's leader was asked.
    pub term: u64,
    /// What must be applied before reading.
    pub read_index: u64,
}

type Answer = oneshot::Sender<Result<Round, ConsensusError>>;

/// Asks for rounds. Cheap to clone.
#[derive(Clone)]
pub struct BarrierHandle {
    queue: mpsc::Sender<(Target, Answer)>,
}

/// Who confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This member, which must lead.
    Here,
    /// The leader.
    At(MemberId),
}

/// The task.
pub struct Barrier {
    queue: mpsc::Receiver<(Target, Answer)>,
    raft: Raft,
    peers: Arc<dyn Peers>,
}

impl BarrierHandle {
    /// The handle and its task.
    pub fn new(raft: Raft, peers: Arc<dyn Peers>) -> (Self, Barrier) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { queue: sender }, Barrier { queue, raft, peers })
    }

    /// A round that starts after this call.
    pub async fn round(&self, target: Target, deadline: Instant) -> Result<Round, ConsensusError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send((target, answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                ConsensusError::Overloaded { queue: "the queue of read barriers", retry_after: RETRY_AFTER }
            }
            mpsc::error::TrySendError::Closed(_) => ConsensusError::ShuttingDown,
        })?;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ConsensusError::ShuttingDown),
            Err(_) => Err(ConsensusError::Deadline { waiting_for: "a read barrier", happened: Happened::No }),
        }
    }
}

impl Barrier {
    /// Works until the member stops.
    pub async fn run(mut self, tasks: Tasks) -> Result<(), std::convert::Infallible> {
        loop {
            let first = tokio::select! {
                biased;
                first = self.queue.recv() => match first { Some(first) => first, None => return Ok(()) },
                () = tasks.stopped() => return Ok(()),
            };
            let (target, answer) = first;
            let mut group = vec![answer];
            let mut others = Vec::new();
            // Everybody who is here before the round starts.
            while let Ok((wanted, answer)) = self.queue.try_recv() {
                if wanted == target { group.push(answer) } else { others.push((wanted, answer)) }
            }
            answer_all(group, &self.round(target).await);
            // Rare: leadership moved while they queued. Each target has its round.
            while let Some((target, _)) = others.first() {
                let target = *target;
                let (group, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|(wanted, _)| *wanted == target);
                others = rest;
                answer_all(group.into_iter().map(|(_, answer)| answer).collect(), &self.round(target).await);
            }
        }
    }

    async fn round(&self, target: Target) -> Result<Round, ConsensusError> {
        let deadline = Instant::now() + ROUND_MAX;
        let round = async {
            match target {
                Target::Here => self.round_here().await,
                Target::At(leader) => {
                    let read_index = self.peers.barrier(leader, deadline).await?;
                    Ok(Round { term: 0, read_index })
                }
            }
        };
        match tokio::time::timeout_at(deadline, round).await {
            // The round's own deadline, not the callers': they may wait for another round.
            Err(_) | Ok(Err(ConsensusError::Deadline { .. })) => {
                Err(no_quorum("the leader got no answer from a quorum".to_owned()))
            }
            Ok(result) => result,
        }
    }

    async fn round_here(&self) -> Result<Round, ConsensusError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => {
                let id = linearizer.read_log_id();
                Ok(Round { term: id.committed_leader_id().term, read_index: id.index() })
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(no_quorum("this member does not lead".to_owned()))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error))) => {
                Err(no_quorum(error.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => {
                Err(ConsensusError::MemberFailed { reason: fatal.to_string(), happened: Happened::No })
            }
        }
    }
}

fn no_quorum(reason: String) -> ConsensusError {
    ConsensusError::NoQuorum { reason, happened: Happened::No }
}

fn answer_all(group: Vec<Answer>, result: &Result<Round, ConsensusError>) {
    for answer in group {
        // The caller may be gone.
        let _ = answer.send(result.clone());
    }
}

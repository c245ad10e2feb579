//! Shared read barriers: all who ask at one moment share one quorum round.
//!
//! Invariants:
//! - A round serves only those who asked before it *started*; who comes later waits for the next. This holds at each
//!   hop: a follower's group is one caller in the leader's group.
//! - One round is under way at a time, and it ends: a round without an answer fails after `ROUND_MAX`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use quorate_proto::MemberId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::consensus::peers::Peers;
use crate::consensus::types::Raft;
use crate::error::{ConsensusError, Happened};
use crate::tasks::Tasks;
use quorate_state::flaw::Flaw;

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
    confirm: Box<dyn Confirm>,
}

/// Who makes the rounds.
trait Confirm: Send + Sync {
    /// One quorum round, begun now.
    fn round(&self, target: Target) -> BoxFuture<'_, Result<Round, ConsensusError>>;
}

/// Rounds of Raft, here or through whoever leads.
struct RaftRounds {
    raft: Raft,
    peers: Arc<dyn Peers>,
}

impl BarrierHandle {
    /// The handle and its task.
    pub fn new(raft: Raft, peers: Arc<dyn Peers>) -> (Self, Barrier) {
        Self::over(Box::new(RaftRounds { raft, peers }))
    }

    fn over(confirm: Box<dyn Confirm>) -> (Self, Barrier) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { queue: sender }, Barrier { queue, confirm })
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
            let done = self.round(target).await;
            while let Some((_, answer)) = Flaw::JoinsRound.is_put_in().then(|| self.queue.try_recv().ok()).flatten() {
                group.push(answer);
            }
            answer_all(group, &done);
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
        match tokio::time::timeout_at(deadline, self.confirm.round(target)).await {
            // The round's own deadline, not the callers': they may wait for another round.
            Err(_) | Ok(Err(ConsensusError::Deadline { .. })) => {
                Err(no_quorum("the leader got no answer from a quorum".to_owned()))
            }
            Ok(result) => result,
        }
    }
}

impl Confirm for RaftRounds {
    fn round(&self, target: Target) -> BoxFuture<'_, Result<Round, ConsensusError>> {
        match target {
            Target::Here => Box::pin(self.round_here()),
            Target::At(leader) => Box::pin(self.round_at(leader)),
        }
    }
}

impl RaftRounds {
    async fn round_at(&self, leader: MemberId) -> Result<Round, ConsensusError> {
        let read_index = self.peers.barrier(leader, Instant::now() + ROUND_MAX).await?;
        Ok(Round { term: 0, read_index })
    }

    async fn round_here(&self) -> Result<Round, ConsensusError> {
        if Flaw::TrustsStaleLeader.is_put_in() && self.raft.is_leader() {
            let metrics = self.raft.metrics().borrow_watched().clone();
            let read_index = metrics.last_applied.map_or(0, |id| id.index);
            return Ok(Round { term: metrics.current_term, read_index });
        }
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;
    use tokio::task::yield_now;

    use super::*;

    /// Rounds that end when the test says so, each with what was committed when it began.
    #[derive(Clone, Default)]
    struct Held {
        committed: Arc<Mutex<u64>>,
        begun: Arc<Mutex<VecDeque<Begun>>>,
    }

    /// Whom it asks, and what ends it.
    type Begun = (Target, oneshot::Sender<()>);

    impl Confirm for Held {
        fn round(&self, target: Target) -> BoxFuture<'_, Result<Round, ConsensusError>> {
            let (end, ended) = oneshot::channel();
            let read_index = *self.committed.lock();
            self.begun.lock().push_back((target, end));
            Box::pin(async move {
                ended.await.expect("the test ends it");
                Ok(Round { term: 1, read_index })
            })
        }
    }

    impl Held {
        /// The next round that has begun, once one has.
        async fn next(&self) -> Begun {
            loop {
                if let Some(begun) = self.begun.lock().pop_front() {
                    return begun;
                }
                yield_now().await;
            }
        }
    }

    fn ask(handle: &BarrierHandle, target: Target) -> tokio::task::JoinHandle<Result<Round, ConsensusError>> {
        let handle = handle.clone();
        tokio::spawn(async move { handle.round(target, Instant::now() + Duration::from_mins(1)).await })
    }

    async fn index(asked: tokio::task::JoinHandle<Result<Round, ConsensusError>>) -> u64 {
        asked.await.expect("it ends").expect("it is confirmed").read_index
    }

    fn running(held: &Held) -> BarrierHandle {
        let (handle, barrier) = BarrierHandle::over(Box::new(held.clone()));
        tokio::spawn(barrier.run(Tasks::default()));
        handle
    }

    /// Whoever asks while a round is under way may have seen a write that the round does not cover.
    #[tokio::test(start_paused = true)]
    async fn who_asks_while_a_round_is_under_way_waits_for_the_next() {
        let held = Held::default();
        let handle = running(&held);
        let before = ask(&handle, Target::Here);
        let (_, end) = held.next().await;

        *held.committed.lock() = 7;
        let late: Vec<_> = (0..3).map(|_| ask(&handle, Target::Here)).collect();
        yield_now().await;
        end.send(()).expect("the round waits");
        assert_eq!(index(before).await, 0);

        let (_, end) = held.next().await;
        assert!(late.iter().all(|asked| !asked.is_finished()), "the round before does not serve them");
        *held.committed.lock() = 9;
        end.send(()).expect("the round waits");
        for asked in late {
            assert_eq!(index(asked).await, 7, "one round, begun after they asked, serves all three");
        }
        assert!(held.begun.lock().is_empty());
    }

    /// The same where leadership moves meanwhile: callers who queue for one leader are not served by another's round.
    #[tokio::test(start_paused = true)]
    async fn each_target_has_its_round() {
        let held = Held::default();
        let handle = running(&held);
        let first = ask(&handle, Target::Here);
        let (_, end) = held.next().await;
        let leader = Target::At(MemberId::new(2).expect("not zero"));
        let (here, there) = (ask(&handle, Target::Here), ask(&handle, leader));
        yield_now().await;
        end.send(()).expect("the round waits");
        index(first).await;

        let (target, end) = held.next().await;
        assert_eq!(target, Target::Here);
        end.send(()).expect("the round waits");
        index(here).await;
        assert!(!there.is_finished());
        let (target, end) = held.next().await;
        assert_eq!(target, leader);
        end.send(()).expect("the round waits");
        index(there).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_without_an_answer_fails_as_not_done_and_the_next_begins() {
        let held = Held::default();
        let handle = running(&held);
        let lost = ask(&handle, Target::Here);
        let (_, _never) = held.next().await;
        let next = ask(&handle, Target::Here);
        let error = lost.await.expect("it ends").unwrap_err();
        assert!(matches!(error, ConsensusError::NoQuorum { happened: Happened::No, .. }), "{error}");
        let (_, end) = held.next().await;
        end.send(()).expect("the round waits");
        assert_eq!(index(next).await, 0);
    }
}

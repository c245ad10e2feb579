//! Packs waiting commands into one log entry after another: one entry, one sync, one round and one apply for
//! hundreds of callers.
//!
//! Invariants:
//! - One entry is in flight at this leader; the next fills meanwhile. Before sealing, the task waits for those who come
//!   again at once (see `gathering`), and yields a few times so that ready sockets can join. What is in no hurry waits for
//!   what is (see `intake`).
//! - A command is either claimed by the proposer, then its fate is the entry's, or by its caller (gone, or past its
//!   deadline), then it is never proposed. So "not proposed" can be said for certain.
//! - A command above the state version in force is refused before it is queued: a member might not know it.
//! - What cannot be read is refused before it is queued: an entry that apply cannot read would stop every member.
//! - A batch belongs to one term: stamped while leading in it, refused before append when another has begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use quorate_proto::MemberId;
use quorate_state::codec::{decode_envelope, encode_batch, encode_envelope};
use quorate_state::command::{Command, Envelope};
use quorate_state::flaw::Flaw;
use quorate_state::versions::{FIRST, since};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::consensus::applier::AppliedMark;
use crate::consensus::backlog::Backlog;
use crate::consensus::disk_watch::{DiskSpace, grows};
use crate::consensus::flaws;
use crate::consensus::gathering::Gathering;
use crate::consensus::intake::{Answer, Haste, Intake, Waiting};
use crate::consensus::peers::Peers;
use crate::consensus::types::{EncodedBatch, Raft, TypeConfig};
use crate::consensus::{Leadership, Proposed};
use crate::error::{ConsensusError, Happened};
use crate::scheduling::Contention;
use crate::sync::watch;
use crate::tasks::Tasks;

/// Commands of one batch.
const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of one batch; a single larger command goes alone.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Encoded bytes of one command.
pub const COMMAND_BYTES_MAX: usize = 17 << 20;
/// Commands waiting.
const QUEUE_COMMANDS_MAX: usize = 8192;
/// Bytes waiting.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// How often the task yields before it seals a batch.
const YIELDS: usize = 3;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Hands commands to the proposer. Cheap to clone.
#[derive(Clone)]
pub struct ProposerHandle {
    queue: mpsc::Sender<Waiting>,
    backlog: Backlog,
    applied: watch::Receiver<AppliedMark>,
}

/// The task.
pub struct Proposer {
    intake: Intake,
    gathering: Gathering,
    context: ProposerContext,
}

/// What the task works with.
pub struct ProposerContext {
    /// This member.
    pub id: MemberId,
    /// Where entries go.
    pub raft: Raft,
    /// Whether it leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Which state version is in force.
    pub applied: watch::Receiver<AppliedMark>,
    /// Space here.
    pub disk: Arc<DiskSpace>,
    /// Space elsewhere.
    pub peers: Arc<dyn Peers>,
    /// Told of what waits.
    pub backlog: Backlog,
}

/// A command that can be read, as the log will have it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proposal {
    envelope: Bytes,
    /// Whether it may make the store larger.
    grows: bool,
    /// State version from which on it may be proposed.
    since: u32,
    haste: Haste,
}

impl Proposal {
    /// A command of this member.
    pub fn new(envelope: &Envelope, haste: Haste) -> Self {
        Self::of(encode_envelope(envelope), &envelope.command, haste)
    }

    fn of(envelope: Bytes, command: &Command, haste: Haste) -> Self {
        Self { envelope, grows: grows(command), since: since(command), haste }
    }

    /// A command that another member sent. One that cannot be read must never be packed: apply could not pass over it,
    /// and every member would stop at it.
    pub fn received(envelope: Bytes, haste: Haste) -> Result<Self, ConsensusError> {
        match decode_envelope(&envelope) {
            Ok(read) => Ok(Self::of(envelope, &read.command, haste)),
            Err(error) => Err(ConsensusError::MemberFailed {
                reason: format!("it leads and cannot read the command ({error}); does it run an older program?"),
                happened: Happened::No,
            }),
        }
    }

    /// As it is sent to the leader.
    pub fn envelope(&self) -> &Bytes {
        &self.envelope
    }
}

/// Commands that will be one entry.
struct Batch {
    commands: Vec<Waiting>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.commands.len() >= BATCH_COMMANDS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Gives back what does not fit.
    fn add(&mut self, command: Waiting) -> Result<(), Waiting> {
        if self.bytes + command.envelope.len() > BATCH_BYTES_MAX {
            return Err(command);
        }
        self.bytes += command.envelope.len();
        self.commands.push(command);
        Ok(())
    }
}

/// The caller's side of a waiting command: dropping it withdraws the command if it was not packed yet.
struct Caller(Arc<AtomicBool>);

impl Caller {
    /// Whether the command was withdrawn in time.
    fn withdraw(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl ProposerHandle {
    /// The handle and its task.
    pub fn new(context: ProposerContext) -> (Self, Proposer) {
        let (sender, queue) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let (backlog, applied) = (context.backlog.clone(), context.applied.clone());
        let proposer = Proposer { intake: Intake::new(queue), gathering: Gathering::default(), context };
        (Self { queue: sender, backlog, applied }, proposer)
    }

    /// Proposes at this member, which must lead (in `term`, if given). Safe to cancel: a command that was not packed
    /// yet is not proposed.
    pub async fn propose(
        &self,
        proposal: Proposal,
        term: Option<u64>,
        deadline: Instant,
    ) -> Result<Proposed, ConsensusError> {
        let Proposal { envelope, grows, since, haste } = proposal;
        if since > FIRST {
            // It only rises: what passes here is still within it when it is applied.
            let in_force = self.applied.borrow().state_version;
            if since > in_force {
                return Err(ConsensusError::StateVersion { needed: since, in_force });
            }
        }
        let bytes = envelope.len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ConsensusError::TooLarge { bytes, bytes_max: COMMAND_BYTES_MAX });
        }
        let caller = Caller(Arc::new(AtomicBool::new(false)));
        let (answer, answered) = oneshot::channel();
        if self.backlog.add(bytes, haste) > QUEUE_BYTES_MAX {
            self.backlog.remove(bytes, haste);
            return Err(overloaded());
        }
        let waiting = Waiting { envelope, grows, term, claimed: caller.0.clone(), answer, haste, came: Instant::now() };
        if let Err(error) = self.queue.try_send(waiting) {
            self.backlog.remove(bytes, haste);
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => overloaded(),
                mpsc::error::TrySendError::Closed(_) => ConsensusError::ShuttingDown,
            });
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if caller.withdraw() => Err(ConsensusError::ShuttingDown),
            Ok(Err(_)) => {
                Err(ConsensusError::MemberFailed { reason: "it is stopping".to_owned(), happened: Happened::Unknown })
            }
            Err(_) => {
                let happened = if caller.withdraw() { Happened::No } else { Happened::Unknown };
                Err(ConsensusError::Deadline { waiting_for: "the write to be committed", happened })
            }
        }
    }
}

fn overloaded() -> ConsensusError {
    ConsensusError::Overloaded { queue: "the queue of writes", retry_after: RETRY_AFTER }
}

impl Proposer {
    /// Works until the member stops.
    pub async fn run(mut self, tasks: Tasks) -> Result<(), std::convert::Infallible> {
        let mut contention = tasks.contention();
        loop {
            let first = tokio::select! {
                biased;
                first = self.intake.first() => match first { Some(first) => first, None => return Ok(()) },
                () = tasks.stopped() => return Ok(()),
            };
            let batch = self.fill(first, &mut contention).await;
            let (commands, sealed) = (batch.len(), Instant::now());
            self.propose(batch, tasks.wall_ms()).await;
            self.gathering.answered(commands, sealed.elapsed(), self.intake.len());
        }
    }

    async fn fill(&mut self, first: Waiting, contention: &mut Contention) -> Vec<Waiting> {
        let mut batch = Batch { bytes: first.envelope.len(), commands: vec![first] };
        self.gather(&mut batch, contention).await;
        for _ in 0..YIELDS {
            if self.intake.is_over() || batch.is_full() {
                break;
            }
            tokio::task::yield_now().await;
            self.take(&mut batch);
        }
        batch.commands
    }

    /// Takes what is here, and waits for those who are likely to come.
    async fn gather(&mut self, batch: &mut Batch, contention: &mut Contention) {
        self.take(batch);
        let wanted = self.gathering.wanted(|| contention.processors_are_short());
        let is_ready =
            |batch: &Batch, intake: &Intake| batch.commands.len() >= wanted || batch.is_full() || intake.is_over();
        if is_ready(batch, &self.intake) {
            return;
        }
        let began = Instant::now();
        let mut timer = std::pin::pin!(tokio::time::sleep_until(began + self.gathering.patience()));
        while !is_ready(batch, &self.intake) {
            tokio::select! {
                biased;
                is_there = self.intake.another() => if !is_there { break },
                () = &mut timer => break,
            }
            self.take(batch);
        }
        self.gathering.waited(is_ready(batch, &self.intake), began.elapsed());
    }

    /// Takes what is here, as far as it fits.
    fn take(&mut self, batch: &mut Batch) {
        while !batch.is_full() {
            let Some(next) = self.intake.next() else { return };
            if let Err(next) = batch.add(next) {
                self.intake.put_back(next);
                return;
            }
        }
    }

    async fn propose(&mut self, batch: Vec<Waiting>, stamp_ms: i64) {
        let (term, envelopes, answers) = self.seal(batch);
        if envelopes.is_empty() {
            return;
        }
        let data = EncodedBatch(encode_batch(stamp_ms, &envelopes));
        let answers = if Flaw::AnswersBeforeCommit.is_put_in() {
            flaws::foretell(&envelopes, answers, term, self.context.applied.borrow().revision)
        } else {
            answers
        };
        drop(envelopes);
        let (responder, answered) = ProgressResponder::complete_only();
        let sent = self.context.raft.write(data).responder(responder).with_leader(term).await;
        let result: Result<ClientWriteResult<TypeConfig>, _> = match sent {
            Ok(()) => answered.await.map_err(|_| "it lost track of the write".to_owned()),
            Err(fatal) => Err(fatal.to_string()),
        };
        answer(term, result, answers);
    }

    /// Claims what may be proposed now; refuses the rest.
    fn seal(&mut self, batch: Vec<Waiting>) -> (u64, Vec<Bytes>, Vec<Answer>) {
        let leadership = *self.context.leadership.borrow();
        let short = self.short_member();
        let mut envelopes = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        let mut leading = 0;
        for waiting in batch {
            self.context.backlog.remove(waiting.envelope.len(), waiting.haste);
            if waiting.claimed.swap(true, Ordering::AcqRel) {
                continue;
            }
            let refusal = match leadership {
                Leadership::Leading { term } if waiting.term.is_none_or(|wanted| wanted == term) => {
                    leading = term;
                    short.filter(|_| waiting.grows).map(|member| ConsensusError::DiskSpace { member })
                }
                Leadership::Leading { .. } | Leadership::Following { .. } => Some(not_leading()),
            };
            if let Some(refusal) = refusal {
                let _ = waiting.answer.send(Err(refusal));
            } else {
                envelopes.push(waiting.envelope);
                answers.push(waiting.answer);
            }
        }
        (leading, envelopes, answers)
    }

    fn short_member(&self) -> Option<MemberId> {
        let metrics = self.context.raft.server_metrics();
        // Held while a few numbers are compared: a clone for each batch costs more than that.
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        self.context.disk.short_member(self.context.id, membership, self.context.peers.as_ref())
    }
}

fn not_leading() -> ConsensusError {
    ConsensusError::NoQuorum { reason: "this member does not lead".to_owned(), happened: Happened::No }
}

/// Hands out what became of an entry.
fn answer(term: u64, result: Result<ClientWriteResult<TypeConfig>, String>, answers: Vec<Answer>) {
    let error = match result {
        Ok(Ok(_)) if answers.is_empty() => return,
        Ok(Ok(done)) if done.data.outcomes.len() == answers.len() => {
            let log_index = done.log_id.index;
            for (answer, outcome) in answers.into_iter().zip(done.data.outcomes) {
                // The caller may be gone.
                let _ = answer.send(Ok(Proposed { outcome, log_index, term }));
            }
            return;
        }
        Ok(Ok(_)) => failed("apply gave another number of outcomes than there were commands".to_owned()),
        Ok(Err(ClientWriteError::ForwardToLeader(refused))) => ConsensusError::NoQuorum {
            reason: match refused.reason {
                ForwardReason::NotLeader => "this member does not lead",
                ForwardReason::LeadershipTransfer => "leadership is being handed over",
                ForwardReason::LeaseExpired => "the leader has lost contact with the quorum",
            }
            .to_owned(),
            happened: Happened::No,
        },
        // Told at once: a second attempt under the same id would find out what became of the first.
        Ok(Err(ClientWriteError::LogEntryDiscarded(_))) if Flaw::DiscardedIsNo.is_put_in() => {
            ConsensusError::Deadline { waiting_for: "an entry that was discarded", happened: Happened::No }
        }
        Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => ConsensusError::NoQuorum {
            reason: "leadership changed while the write was under way".to_owned(),
            happened: Happened::Unknown,
        },
        Ok(Err(other)) => failed(other.to_string()),
        Err(reason) => failed(reason),
    };
    for answer in answers {
        let _ = answer.send(Err(error.clone()));
    }
}

fn failed(reason: String) -> ConsensusError {
    ConsensusError::MemberFailed { reason, happened: Happened::Unknown }
}

#[cfg(test)]
mod tests {
    use quorate_proto::Key;
    use quorate_state::command::{Delete, Expect, Principal, Span};

    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused_before_it_can_reach_the_log() {
        let key = Key::new("k").unwrap();
        let delete = Delete {
            span: Span::Key(key),
            expect: Expect::Anything,
            must_be_empty: false,
            return_previous: false,
            limit: None,
        };
        let envelope = Envelope { request: None, principal: Principal::default(), command: Command::Delete(delete) };
        let encoded = Proposal::new(&envelope, Haste::AtOnce).envelope;
        assert!(Proposal::received(encoded.clone(), Haste::AtOnce).is_ok());
        for cut in 0..encoded.len() {
            let error = Proposal::received(encoded.slice(..cut), Haste::AtOnce).unwrap_err();
            assert_eq!(error.happened(), Happened::No, "{error}");
        }
    }
}

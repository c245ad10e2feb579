//! Who belongs to the cluster, changed at the leader: learners in, learners to voters, members out, leadership over.
//!
//! Invariants:
//! - One change at a time: two callers at once could leave the cluster in a joint configuration. One that was
//!   interrupted there is finished before the next begins.
//! - A change that began is finished by the leader even when its caller is gone.
//! - A learner votes only once it has caught up; a removal never takes away the quorum that can be reached.
//! - A leader does not remove itself; it hands over first.
//! - A change of voters is two entries. One that failed between them may have happened, and is told so.
//! - Every change can be asked for again after an unknown outcome: what is so already, and committed, is answered as
//!   done.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant as _};
use quorate_proto::MemberId;
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::time::Instant;

use crate::consensus::handle::{Where, as_unknown, no_leader};
use crate::consensus::peers::MembershipChange;
use crate::consensus::types::{Node, RaftMetrics, TypeConfig};
use crate::consensus::{Consensus, Leadership, Member};
use crate::error::{ConsensusError, Happened};
use crate::tasks::{Task, Tasks};
use quorate_state::flaw::Flaw;

/// A learner so close to the end of the log has caught up: the rest arrives within a round or two.
const LAG_ENTRIES_MAX: u64 = 32;
/// Between two looks at who leads.
const PAUSE: Duration = Duration::from_millis(20);

/// For another member to take over from a leader that is to be removed.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts to finish what was interrupted.
const FINISH_PAUSE: Duration = Duration::from_millis(100);

/// Held while a change is made. Lives in Raft's extensions: one for each Raft. In it the highest state version that this
/// member proposed: who joins must know it, though it may not be in force yet.
#[derive(Clone, Default)]
pub(super) struct Turn(pub(super) Arc<Mutex<u32>>);

/// Members that were seen to leave, and news of changes that failed. Lives in Raft's extensions too.
#[derive(Clone, Default)]
struct Seen(Arc<SeenParts>);

#[derive(Default)]
struct SeenParts {
    /// Ids are never reused: who has left stays away.
    gone: parking_lot::Mutex<BTreeSet<u64>>,
    /// A change of voters failed; it may have left a joint configuration.
    failed: Notify,
}

type Changed = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

impl Consensus {
    /// Adds a member without a vote, whose program knows state versions up to this. Gives the members afterwards.
    pub async fn add_learner(
        &self,
        member: Member,
        state_version_max: u32,
        deadline: Instant,
    ) -> Result<Vec<Member>, ConsensusError> {
        self.change(MembershipChange::AddLearner { member, state_version_max }, deadline).await
    }

    /// Gives a learner a vote, once it has caught up; waits for that until the deadline.
    pub async fn promote(&self, id: MemberId, deadline: Instant) -> Result<Vec<Member>, ConsensusError> {
        self.change(MembershipChange::Promote(id), deadline).await
    }

    /// Takes a member out for good.
    pub async fn remove(&self, id: MemberId, deadline: Instant) -> Result<Vec<Member>, ConsensusError> {
        self.change(MembershipChange::Remove(id), deadline).await
    }

    /// Hands leadership to `to`, or to the voter that is most caught up. Gives the new leader.
    pub async fn transfer_leader(&self, to: Option<MemberId>, deadline: Instant) -> Result<MemberId, ConsensusError> {
        let leader = self.change_at_leader(MembershipChange::Transfer(to), deadline).await?;
        MemberId::new(leader).ok_or_else(|| no_leader("the new leader is not known"))
    }

    async fn change(&self, change: MembershipChange, deadline: Instant) -> Result<Vec<Member>, ConsensusError> {
        let leaves = change == MembershipChange::Remove(self.id());
        let index = self.change_at_leader(change, deadline).await?;
        let mut members = if leaves { self.status().members } else { self.members_at(index, deadline).await };
        // Who has left is not sent the entry that says so.
        members.retain(|member| !leaves || member.id != self.id());
        Ok(members)
    }

    /// The members once the entry at `index` is known here. It is committed; when this member learns of it too late, the
    /// answer is what it knows.
    async fn members_at(&self, index: u64, deadline: Instant) -> Vec<Member> {
        let _ = self.wait_mark(deadline, "the change to be applied", |mark| mark.next_index > index).await;
        self.status().members
    }

    async fn change_at_leader(&self, change: MembershipChange, deadline: Instant) -> Result<u64, ConsensusError> {
        // A second removal would be refused as unknown, a second transfer would move on.
        let repeatable = matches!(change, MembershipChange::AddLearner { .. } | MembershipChange::Promote(_));
        let attempt = |at: Where| {
            let change = change.clone();
            let attempt: BoxFuture<'_, _> = match at {
                Where::Here => Box::pin(self.change_here(change, deadline)),
                Where::At(leader) => self.peers().change(leader, change, deadline),
            };
            attempt
        };
        self.at_leader(repeatable, deadline, "the membership to change", attempt).await
    }

    /// Makes a change at this member, which must lead. Gives the index of the membership's entry; for a transfer the
    /// id of the new leader.
    pub async fn change_here(&self, change: MembershipChange, deadline: Instant) -> Result<u64, ConsensusError> {
        let (done, answer) = oneshot::channel();
        let consensus = self.clone();
        let work = async move {
            let result = consensus.make_change(change, deadline).await;
            // The caller may be gone.
            let _ = done.send(result);
            Ok::<(), Infallible>(())
        };
        self.parts.tasks.spawn(Task::MembershipChange, &self.parts.runtime, work);
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                Err(ConsensusError::MemberFailed { reason: "it is stopping".to_owned(), happened: Happened::Unknown })
            }
            Err(_) => {
                Err(ConsensusError::Deadline { waiting_for: "the membership to change", happened: Happened::Unknown })
            }
        }
    }

    async fn make_change(&self, change: MembershipChange, deadline: Instant) -> Result<u64, ConsensusError> {
        let turn = self.raft().extension::<Turn>();
        let Ok(proposed) = tokio::time::timeout_at(deadline, turn.0.lock()).await else {
            let waiting_for = "another change of membership to end";
            return Err(ConsensusError::Deadline { waiting_for, happened: Happened::No });
        };
        let metrics = self.leading()?;
        if let MembershipChange::Transfer(to) = change {
            return self.transfer(to, &metrics, deadline).await;
        }
        let before = metrics.membership_config.clone();
        let metrics = self.finish_interrupted(metrics).await?;
        tracing::info!(?change, "changing the membership");
        match change {
            MembershipChange::AddLearner { member, state_version_max } => {
                self.check_version(&member, state_version_max, *proposed)?;
                self.add(member, &metrics).await
            }
            MembershipChange::Promote(id) => self.give_vote(id, deadline).await,
            MembershipChange::Remove(id) => {
                let was_there = before.membership().get_node(&id.get()).is_some();
                self.take_out(id, was_there, &metrics).await
            }
            MembershipChange::Transfer(_) => Err(no_leader("a transfer is no change of members")),
        }
    }

    fn metrics(&self) -> RaftMetrics {
        self.raft().metrics().borrow_watched().clone()
    }

    fn leading(&self) -> Result<RaftMetrics, ConsensusError> {
        let metrics = self.metrics();
        if metrics.state.is_leader() { Ok(metrics) } else { Err(no_leader("this member does not lead")) }
    }

    /// Brings a joint configuration that an earlier leader or caller left behind to its end.
    async fn finish_interrupted(&self, metrics: RaftMetrics) -> Result<RaftMetrics, ConsensusError> {
        if metrics.membership_config.membership().get_joint_config().len() < 2 {
            return Ok(metrics);
        }
        // Members are never kept as learners when they lose their vote, so neither here.
        self.change_voters(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await?;
        self.leading()
    }

    /// Two proposals, unless one is enough. What fails after the first was appended may have happened.
    async fn change_voters(&self, change: ChangeMembers<u64, Node>, retain: bool) -> Result<u64, ConsensusError> {
        let before = index(&self.metrics());
        let result = changed(self.raft().change_membership(change, retain).await);
        let Err(error) = result else { return result };
        self.raft().extension::<Seen>().0.failed.notify_one();
        Err(if index(&self.metrics()) == before { error } else { as_unknown(error) })
    }

    /// Follows the membership: brings what an earlier leader left half-done to its end as soon as this member leads, and
    /// remembers who has left.
    pub(super) async fn watch_membership(self, tasks: Tasks) -> Result<(), Infallible> {
        let seen = self.raft().extension::<Seen>();
        let mut metrics = self.raft().server_metrics();
        let mut leadership = self.leadership();
        let mut known = BTreeSet::new();
        loop {
            let now: BTreeSet<u64> = {
                let metrics = metrics.borrow_and_update();
                metrics.committed_membership_config.nodes().map(|(id, _)| *id).collect()
            };
            seen.0.gone.lock().extend(known.difference(&now));
            known = now;
            tokio::select! {
                biased;
                () = tasks.stopped() => return Ok(()),
                // Then all that was committed in earlier terms is committed here.
                changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                changed = metrics.changed() => if changed.is_err() { return Ok(()) } else { continue },
                () = seen.0.failed.notified() => {}
            }
            let finish = async {
                while matches!(*leadership.borrow_and_update(), Leadership::Leading { .. }) && !self.finished().await {
                    tokio::time::sleep(FINISH_PAUSE).await;
                }
            };
            tokio::select! {
                biased;
                () = tasks.stopped() => return Ok(()),
                () = finish => {}
            }
        }
    }

    /// Finishes an interrupted change, if there is one and nobody else is at it.
    async fn finished(&self) -> bool {
        let turn = self.raft().extension::<Turn>();
        let _turn = turn.0.lock().await;
        let Ok(metrics) = self.leading() else { return true };
        if metrics.membership_config.membership().get_joint_config().len() < 2 {
            return true;
        }
        tracing::info!("an interrupted change of membership is brought to its end");
        let finished = self.finish_interrupted(metrics).await;
        finished.inspect_err(|error| tracing::warn!(%error, "an interrupted change of membership stays")).is_ok()
    }

    /// Refuses a member that could not read what is in the log, or will be.
    fn check_version(&self, member: &Member, known: u32, proposed: u32) -> Result<(), ConsensusError> {
        let needed = self.state_version().max(proposed);
        if known.max(1) >= needed {
            return Ok(());
        }
        let name = &member.name;
        Err(refused(format!(
            "the program of member {name:?} knows state version {} at most, the cluster is at {needed}; start it with a \
             newer program, such as the other members run",
            known.max(1)
        )))
    }

    async fn add(&self, member: Member, metrics: &RaftMetrics) -> Result<u64, ConsensusError> {
        let id = member.id.get();
        let node = Node { name: member.name, peer_address: member.peer_address, client_address: member.client_address };
        for (other, known) in metrics.membership_config.nodes() {
            if *other == id && *known == node {
                return settled(metrics);
            }
            if *other == id {
                return Err(refused(format!(
                    "member {} is in the cluster already, as {:?} at {}; remove it first",
                    member.id, known.name, known.peer_address
                )));
            }
            if known.name == node.name || known.peer_address == node.peer_address {
                return Err(refused(format!(
                    "the name {:?} or the address {} belongs to member {other:016x}; remove that one first, or choose \
                     others",
                    node.name, node.peer_address
                )));
            }
        }
        changed(self.raft().add_learner(id, node, false).await)
    }

    async fn give_vote(&self, id: MemberId, deadline: Instant) -> Result<u64, ConsensusError> {
        let mut watched = self.raft().metrics();
        loop {
            let metrics = watched.borrow_and_update().clone();
            if !metrics.state.is_leader() {
                return Err(no_leader("this member does not lead any more"));
            }
            if metrics.membership_config.membership().get_node(&id.get()).is_none() {
                return Err(refused(format!("there is no member {id}; it joins with `serve --join`")));
            }
            if is_voter(&metrics, id.get()) {
                return settled(&metrics);
            }
            let matched = matched(&metrics, id.get());
            let last = metrics.last_log_index.unwrap_or(0);
            if matched.is_some_and(|matched| matched + LAG_ENTRIES_MAX >= last) {
                break;
            }
            if !matches!(tokio::time::timeout_at(deadline, watched.changed()).await, Ok(Ok(()))) {
                return Err(refused(format!(
                    "member {id} has not caught up: it is at {} of {last}; ask again later",
                    matched.unwrap_or(0)
                )));
            }
        }
        self.change_voters(ChangeMembers::AddVoterIds(BTreeSet::from([id.get()])), true).await
    }

    /// `was_there`: it was a member before what was interrupted came to its end.
    async fn take_out(&self, id: MemberId, was_there: bool, metrics: &RaftMetrics) -> Result<u64, ConsensusError> {
        if metrics.membership_config.membership().get_node(&id.get()).is_none() {
            if was_there || self.raft().extension::<Seen>().0.gone.lock().contains(&id.get()) {
                return settled(metrics);
            }
            return Err(refused(format!("there is no member {id}; `member list` shows them")));
        }
        let gone = BTreeSet::from([id.get()]);
        if !is_voter(metrics, id.get()) {
            return changed(self.raft().change_membership(ChangeMembers::RemoveNodes(gone), false).await);
        }
        let left: Vec<u64> = metrics.membership_config.voter_ids().filter(|voter| *voter != id.get()).collect();
        if left.is_empty() {
            return Err(refused(format!("member {id} is the only voter; a cluster without one cannot be")));
        }
        self.check_quorum_without(id, &left).await?;
        if id == self.id() {
            return Err(self.give_way().await);
        }
        if Flaw::RemovedCounts.is_put_in() {
            return settled(metrics);
        }
        self.change_voters(ChangeMembers::RemoveVoters(gone), false).await
    }

    /// The leader does not remove itself: the others would wait for it until their timeouts are over. It hands over, and
    /// the caller asks the next leader.
    async fn give_way(&self) -> ConsensusError {
        if self.hand_over(HAND_OVER_PATIENCE).await {
            no_leader("leadership was handed over, so that another leader can remove this member")
        } else {
            refused(format!("member {} leads, and no other took over in time; ask again", self.id()))
        }
    }

    /// Refuses when those who are left could not go on. A leader that was just elected has heard of nobody yet, so they
    /// are given a moment.
    async fn check_quorum_without(&self, id: MemberId, left: &[u64]) -> Result<(), ConsensusError> {
        let recent = Duration::from_millis(self.raft().config().election_timeout_max) * 2;
        let until = Instant::now() + recent;
        let mut watched = self.raft().metrics();
        loop {
            let metrics = watched.borrow_and_update().clone();
            let silent: Vec<u64> =
                left.iter().copied().filter(|voter| !is_reachable(&metrics, *voter, recent)).collect();
            if left.len() - silent.len() > left.len() / 2 {
                return Ok(());
            }
            if Instant::now() >= until {
                let silent: Vec<_> = silent.iter().map(|id| format!("{id:016x}")).collect();
                return Err(refused(format!(
                    "without member {id} there is no quorum that can be reached ({} does not answer); bring that back, \
                     or remove it first",
                    silent.join(", ")
                )));
            }
            // Word of a member changes them.
            if matches!(tokio::time::timeout_at(until, watched.changed()).await, Ok(Err(_))) {
                return Err(no_leader("this member is stopping"));
            }
        }
    }

    async fn transfer(
        &self,
        to: Option<MemberId>,
        metrics: &RaftMetrics,
        deadline: Instant,
    ) -> Result<u64, ConsensusError> {
        let named = to.is_some();
        let to = match to {
            Some(to) if to == self.id() => return Ok(to.get()),
            Some(to) if !is_voter(metrics, to.get()) => {
                return Err(refused(format!("member {to} has no vote, so it cannot lead; `member list` shows voters")));
            }
            Some(to) => to.get(),
            None => self.best_successor().ok_or_else(|| refused("there is no other voter to lead".to_owned()))?,
        };
        let again = Duration::from_millis(self.raft().config().election_timeout_min);
        let mut watched = self.raft().metrics();
        let mut ask_at = Instant::now();
        loop {
            let now = watched.borrow_and_update().clone();
            match now.current_leader {
                Some(leader) if leader == to => return Ok(to),
                // It was not there when the others no longer waited for it.
                Some(leader) if leader != now.id && now.current_term > metrics.current_term => {
                    let other = format!("member {leader:016x} was elected instead of {to:016x}; ask again");
                    return if named { Err(refused(other)) } else { Ok(leader) };
                }
                _ => {}
            }
            if now.state.is_leader() && ask_at <= Instant::now() {
                // The message may be lost, or refused while the receiver's log is not flushed.
                ask_at = Instant::now() + again;
                self.raft().trigger().transfer_leader(to).await.map_err(|fatal| ConsensusError::MemberFailed {
                    reason: fatal.to_string(),
                    happened: Happened::Unknown,
                })?;
            }
            if deadline <= Instant::now() {
                // The message is out: the other may still take over.
                let waiting_for = "another member to take over leadership; see whether it is running";
                return Err(ConsensusError::Deadline { waiting_for, happened: Happened::Unknown });
            }
            let news = tokio::time::timeout_at(deadline.min(ask_at.max(Instant::now() + PAUSE)), watched.changed());
            if matches!(news.await, Ok(Err(_))) {
                return Err(no_leader("this member is stopping"));
            }
        }
    }
}

fn refused(reason: String) -> ConsensusError {
    ConsensusError::Membership { reason }
}

fn index(metrics: &RaftMetrics) -> u64 {
    metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index)
}

/// What is so already is done only once it is committed.
fn settled(metrics: &RaftMetrics) -> Result<u64, ConsensusError> {
    if metrics.committed_membership_config.log_id() == metrics.membership_config.log_id() {
        Ok(index(metrics))
    } else {
        Err(no_leader("the last change of membership is not committed yet"))
    }
}

fn is_voter(metrics: &RaftMetrics, id: u64) -> bool {
    metrics.membership_config.voter_ids().any(|voter| voter == id)
}

/// How far a member's log is known to match.
fn matched(metrics: &RaftMetrics, id: u64) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    replication.get(&id)?.as_ref().map(|log_id| log_id.index)
}

/// Whether a member answered lately. The leader itself does.
pub(super) fn is_reachable(metrics: &RaftMetrics, id: u64, recent: Duration) -> bool {
    let answered: Option<&BTreeMap<u64, _>> = metrics.heartbeat.as_ref();
    id == metrics.id
        || answered.and_then(|answered| answered.get(&id)?.as_ref()).is_some_and(|at| at.elapsed() < recent)
}

/// What became of a change.
fn changed(result: Changed) -> Result<u64, ConsensusError> {
    let error = match result {
        Ok(done) => return Ok(done.log_id.index),
        Err(RaftError::APIError(error)) => error,
        Err(RaftError::Fatal(fatal)) => {
            return Err(ConsensusError::MemberFailed { reason: fatal.to_string(), happened: Happened::Unknown });
        }
    };
    Err(match error {
        ClientWriteError::ForwardToLeader(_) => no_leader("this member does not lead"),
        ClientWriteError::LogEntryDiscarded(_) => ConsensusError::NoQuorum {
            reason: "leadership changed while the membership did".to_owned(),
            happened: Happened::Unknown,
        },
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            refused("another change of membership is not committed yet; try again".to_owned())
        }
        other => refused(other.to_string()),
    })
}

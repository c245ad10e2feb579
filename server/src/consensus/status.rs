//! What the handle on consensus tells about the member and the cluster.
//!
//! Invariants:
//! - openraft's metrics are borrowed for a few lines only: its core waits for whoever holds them.
//! - A leader is named only while it is heard of: openraft itself goes on naming one that is dead until another is
//!   elected, and a leader that has lost its quorum goes on naming itself.
//! - A member is called a voter only when that is applied and no change of it is under way: whoever stops another member
//!   because three are voters must not find that both of the two before are still needed.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use quorate_proto::MemberId;
use tokio::time::Instant;

use crate::consensus::contact::Contacts;
use crate::consensus::handle::Consensus;
use crate::consensus::types::Membership;
use crate::consensus::{ConsensusStatus, Leadership, Member};

/// Election timeouts without a word after which no leader is named any more.
const SILENT_ELECTIONS: u32 = 3;

impl Consensus {
    /// What this member knows of consensus now.
    pub fn status(&self) -> ConsensusStatus {
        let metrics = self.parts.raft.metrics();
        let now = metrics.borrow_watched().clone();
        let index = |id: Option<crate::consensus::types::LogId>| id.map_or(0, |id| id.index);
        ConsensusStatus {
            term: now.current_term,
            leader: now.current_leader.and_then(MemberId::new).filter(|_| self.hears_leader()),
            applied_index: index(now.last_applied),
            committed_index: index(now.local_committed),
            last_log_index: now.last_log_index.unwrap_or(0),
            members: members(now.membership_config.membership(), self.parts.applied.positions.lock().1.membership()),
            log_bytes: self.parts.log.live_bytes(),
        }
    }

    /// The current term; cheaper than all of [`Consensus::status`].
    pub fn term(&self) -> u64 {
        self.parts.raft.metrics().borrow_watched().current_term
    }

    /// When the leader was last heard of (a follower), or last confirmed by a quorum (a leader).
    pub fn leader_contact(&self) -> Option<Instant> {
        match *self.parts.leadership.borrow() {
            Leadership::Following { leader: Some(leader) } => return self.parts.contacts.heard(leader),
            Leadership::Following { leader: None } => return self.parts.contacts.heard_any(),
            Leadership::Leading { .. } => {}
        }
        let metrics = self.parts.raft.metrics();
        let (acked, alone) = {
            let now = metrics.borrow_watched();
            (now.last_quorum_acked, now.membership_config.voter_ids().count() == 1)
        };
        if alone { Some(Instant::now()) } else { acked.and_then(|acked| Instant::now().checked_sub(acked.elapsed())) }
    }

    /// Whether a leader with a quorum was heard of lately. One that has just been elected counts as heard of.
    fn hears_leader(&self) -> bool {
        let silence = Duration::from_millis(self.parts.raft.config().election_timeout_max) * SILENT_ELECTIONS;
        match self.leader_contact() {
            Some(at) => at.elapsed() < silence,
            None => matches!(*self.parts.leadership.borrow(), Leadership::Leading { .. }),
        }
    }

    /// What is heard of the members that send appends.
    pub fn contacts(&self) -> &Arc<Contacts> {
        &self.parts.contacts
    }

    /// Whether the log has anything: a vote or an entry.
    pub fn is_initialised(&self) -> bool {
        self.parts.log.is_initialised()
    }
}

/// All members of the newest membership, committed or not; voters are those that count in all that is in force.
fn members(newest: &Membership, applied: &Membership) -> Vec<Member> {
    let sets = || newest.get_joint_config().iter().chain(applied.get_joint_config());
    let member = |(id, node): (&u64, &crate::consensus::types::Node)| {
        Some(Member {
            id: MemberId::new(*id)?,
            name: node.name.clone(),
            peer_address: node.peer_address.clone(),
            client_address: node.client_address.clone(),
            learner: !sets().all(|set| set.contains(id)),
        })
    };
    newest.nodes().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::consensus::types::Node;

    fn membership(voters: &[&[u64]], all: &[u64]) -> Membership {
        let sets: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Node> = all.iter().map(|id| (*id, Node::default())).collect();
        Membership::new(sets, nodes).expect("every voter is there")
    }

    #[test]
    fn a_vote_counts_once_it_is_applied_and_nothing_changes_it() {
        let voters = |newest: &Membership, applied: &Membership| -> Vec<u64> {
            let all = members(newest, applied).into_iter();
            all.filter(|member| !member.learner).map(|member| member.id.get()).collect()
        };
        let two = membership(&[&[1, 2]], &[1, 2, 3]);
        let joint = membership(&[&[1, 2], &[1, 2, 3]], &[1, 2, 3]);
        let three = membership(&[&[1, 2, 3]], &[1, 2, 3]);
        // Promoting 3, step by step: only at the end may 2 be stopped.
        for (newest, applied) in [(&two, &two), (&joint, &two), (&joint, &joint), (&three, &joint)] {
            assert_eq!(voters(newest, applied), [1, 2], "{newest} {applied}");
        }
        assert_eq!(voters(&three, &three), [1, 2, 3]);
        assert_eq!(members(&joint, &two).len(), 3);
        // The first membership of all is there before anything is applied.
        assert_eq!(voters(&three, &Membership::default()), [1, 2, 3]);
    }
}

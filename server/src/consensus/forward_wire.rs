//! Requests on their way to the leader, and its answers, as messages of the peer service.
//!
//! Invariants:
//! - An answer that cannot be read is a failure that may have happened; nothing is guessed.
//! - A failure keeps its kind and whether it happened; where the other side is newer and the kind unknown, it is
//!   `NoQuorum` with what was said about having happened.

use std::time::Duration;

use quorate_proto::MemberId;
use quorate_proto::peer::forward_response::Response;
use quorate_proto::peer::membership_change::Kind as ChangeKind;
use quorate_proto::peer::{self, CommandDone, Failure, ForwardResponse, TimeToLiveDone};
use quorate_proto::v1::error_detail::{Happened as WireHappened, Kind};
use quorate_state::codec::{decode_outcome, encode_outcome};

use crate::consensus::peers::MembershipChange;
use crate::consensus::{Member, Proposed};
use crate::error::{ConsensusError, Happened};

/// What the leader answered.
#[derive(Debug)]
pub enum Answer {
    /// A command was decided.
    Command(Proposed),
    /// What must be applied before reading.
    Barrier(u64),
    /// Granted time of the lease in ms; 0 when it does not exist.
    KeepAlive(u64),
    /// Granted and remaining time of the lease in ms.
    TimeToLive(u64, u64),
    /// The membership changed; index of the entry that holds it.
    Changed(u64),
    /// Nothing of the kind.
    Failed(ConsensusError),
}

/// An answer as it is sent.
pub fn encode_response(tag: u64, answer: Answer) -> ForwardResponse {
    let response = match answer {
        Answer::Command(done) => Response::Command(CommandDone {
            outcome: encode_outcome(&done.outcome),
            log_index: done.log_index,
            term: done.term,
        }),
        Answer::Barrier(index) => Response::Barrier(index),
        Answer::KeepAlive(ttl_ms) => Response::KeepAliveTtlMs(ttl_ms),
        Answer::TimeToLive(granted_ms, remaining_ms) => {
            Response::TimeToLive(TimeToLiveDone { granted_ms, remaining_ms })
        }
        Answer::Changed(index) => Response::MembershipDone(index),
        Answer::Failed(error) => Response::Failure(encode_failure(&error)),
    };
    ForwardResponse { tag, response: Some(response) }
}

/// What [`encode_response`] encoded.
pub fn decode_response(response: ForwardResponse) -> Answer {
    match response.response {
        Some(Response::Command(done)) => match decode_outcome(&done.outcome) {
            Ok(outcome) => Answer::Command(Proposed { outcome, log_index: done.log_index, term: done.term }),
            Err(error) => Answer::Failed(unreadable(&error.to_string())),
        },
        Some(Response::Barrier(index)) => Answer::Barrier(index),
        Some(Response::KeepAliveTtlMs(ttl_ms)) => Answer::KeepAlive(ttl_ms),
        Some(Response::TimeToLive(done)) => Answer::TimeToLive(done.granted_ms, done.remaining_ms),
        Some(Response::MembershipDone(index)) => Answer::Changed(index),
        Some(Response::Failure(failure)) => Answer::Failed(decode_failure(failure)),
        None => Answer::Failed(unreadable("it is of an unknown kind")),
    }
}

fn unreadable(why: &str) -> ConsensusError {
    ConsensusError::NoQuorum {
        reason: format!("the leader's answer cannot be read: {why}"),
        happened: Happened::Unknown,
    }
}

fn encode_failure(error: &ConsensusError) -> Failure {
    let (kind, message) = match error {
        ConsensusError::NoQuorum { reason, .. } => (Kind::NoQuorum, reason.clone()),
        ConsensusError::Overloaded { .. } => (Kind::Overloaded, error.to_string()),
        ConsensusError::DiskSpace { .. } => (Kind::DiskSpace, error.to_string()),
        ConsensusError::Deadline { .. } => (Kind::Deadline, error.to_string()),
        ConsensusError::ShuttingDown => (Kind::ShuttingDown, error.to_string()),
        ConsensusError::MemberFailed { reason, .. } => (Kind::MemberFailed, reason.clone()),
        ConsensusError::TooLarge { .. } => (Kind::TooLarge, error.to_string()),
        ConsensusError::StateVersion { .. } => (Kind::StateVersion, error.to_string()),
        ConsensusError::Membership { reason } => (Kind::Membership, reason.clone()),
    };
    let happened = match error.happened() {
        Happened::No => WireHappened::No,
        Happened::Yes => WireHappened::Yes,
        Happened::Unknown => WireHappened::Unknown,
    };
    let mut failure = Failure { kind: kind.into(), happened: happened.into(), message, ..Failure::default() };
    match error {
        ConsensusError::Overloaded { retry_after, .. } => {
            failure.retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        }
        ConsensusError::DiskSpace { member } => failure.member = member.get(),
        ConsensusError::TooLarge { bytes, bytes_max } => {
            (failure.bytes, failure.bytes_max) = (*bytes as u64, *bytes_max as u64);
        }
        ConsensusError::StateVersion { needed, in_force } => {
            (failure.version_needed, failure.version_in_force) = (*needed, *in_force);
        }
        _ => {}
    }
    failure
}

fn decode_failure(failure: Failure) -> ConsensusError {
    let happened = match WireHappened::try_from(failure.happened) {
        Ok(WireHappened::No) => Happened::No,
        Ok(WireHappened::Yes) => Happened::Yes,
        Ok(WireHappened::Unknown) | Err(_) => Happened::Unknown,
    };
    let kind = Kind::try_from(failure.kind).unwrap_or_default();
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    match (kind, MemberId::new(failure.member)) {
        (Kind::Overloaded, _) => ConsensusError::Overloaded {
            queue: "a queue of the leader",
            retry_after: Duration::from_millis(failure.retry_after_ms),
        },
        (Kind::DiskSpace, Some(member)) => ConsensusError::DiskSpace { member },
        (Kind::Deadline, _) => ConsensusError::Deadline { waiting_for: "the leader", happened },
        // The leader's shutdown is not this member's: another will lead.
        (Kind::ShuttingDown, _) => ConsensusError::NoQuorum { reason: "the leader is shutting down".into(), happened },
        (Kind::MemberFailed, _) => ConsensusError::MemberFailed { reason: failure.message, happened },
        (Kind::TooLarge, _) => {
            ConsensusError::TooLarge { bytes: size(failure.bytes), bytes_max: size(failure.bytes_max) }
        }
        (Kind::StateVersion, _) => {
            ConsensusError::StateVersion { needed: failure.version_needed, in_force: failure.version_in_force }
        }
        (Kind::Membership, _) => ConsensusError::Membership { reason: failure.message },
        _ => ConsensusError::NoQuorum { reason: failure.message, happened },
    }
}

/// A change of membership as it is sent.
pub fn encode_change(change: &MembershipChange) -> peer::MembershipChange {
    let mut message = peer::MembershipChange::default();
    match change {
        MembershipChange::AddLearner { member, state_version_max } => {
            message.state_version_max = *state_version_max;
            message.set_kind(ChangeKind::AddLearner);
            message.id = member.id.get();
            message.name.clone_from(&member.name);
            message.peer_address.clone_from(&member.peer_address);
            message.client_address.clone_from(&member.client_address);
        }
        MembershipChange::Promote(id) => {
            message.set_kind(ChangeKind::Promote);
            message.id = id.get();
        }
        MembershipChange::Remove(id) => {
            message.set_kind(ChangeKind::Remove);
            message.id = id.get();
        }
        MembershipChange::Transfer(to) => {
            message.set_kind(ChangeKind::Transfer);
            message.id = to.map_or(0, MemberId::get);
        }
    }
    message
}

/// What [`encode_change`] encoded. `None` for what this program does not know.
pub fn decode_change(message: peer::MembershipChange) -> Option<MembershipChange> {
    let id = MemberId::new(message.id);
    Some(match ChangeKind::try_from(message.kind).ok()? {
        ChangeKind::AddLearner => MembershipChange::AddLearner {
            member: Member {
                id: id?,
                name: message.name,
                peer_address: message.peer_address,
                client_address: message.client_address,
                learner: true,
            },
            state_version_max: message.state_version_max,
        },
        ChangeKind::Promote => MembershipChange::Promote(id?),
        ChangeKind::Remove => MembershipChange::Remove(id?),
        ChangeKind::Transfer => MembershipChange::Transfer(id),
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn through_the_wire(answer: Answer) -> Answer {
        decode_response(encode_response(7, answer))
    }

    #[test]
    fn a_failure_keeps_its_kind_and_whether_it_happened() {
        let errors = [
            ConsensusError::NoQuorum { reason: "r".into(), happened: Happened::No },
            ConsensusError::NoQuorum { reason: "r".into(), happened: Happened::Unknown },
            ConsensusError::Deadline { waiting_for: "the leader", happened: Happened::Unknown },
            ConsensusError::DiskSpace { member: MemberId::new(3).unwrap() },
            ConsensusError::TooLarge { bytes: 9, bytes_max: 8 },
            ConsensusError::Membership { reason: "no".into() },
            ConsensusError::StateVersion { needed: 3, in_force: 2 },
            ConsensusError::MemberFailed { reason: "disk".into(), happened: Happened::Unknown },
            ConsensusError::Overloaded { queue: "a queue of the leader", retry_after: Duration::from_millis(50) },
        ];
        for error in errors {
            let Answer::Failed(back) = through_the_wire(Answer::Failed(error.clone())) else { panic!("a failure") };
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
    }

    #[test]
    fn the_leaders_shutdown_is_not_this_members() {
        let Answer::Failed(error) = through_the_wire(Answer::Failed(ConsensusError::ShuttingDown)) else { panic!() };
        assert!(matches!(error, ConsensusError::NoQuorum { happened: Happened::No, .. }));
    }

    #[test]
    fn what_cannot_be_read_may_have_happened() {
        let Answer::Failed(error) = decode_response(ForwardResponse { tag: 1, response: None }) else { panic!() };
        assert_eq!(error.happened(), Happened::Unknown);
        let response = Some(Response::Command(CommandDone { outcome: vec![0xff].into(), log_index: 1, term: 1 }));
        let Answer::Failed(error) = decode_response(ForwardResponse { tag: 1, response }) else { panic!() };
        assert_eq!(error.happened(), Happened::Unknown);
    }

    #[test]
    fn changes_of_membership_come_back_as_they_were() {
        let id = MemberId::new(9).unwrap();
        let member =
            Member { id, name: "d".into(), peer_address: "d:1".into(), client_address: "d:2".into(), learner: true };
        for change in [
            MembershipChange::AddLearner { member, state_version_max: 3 },
            MembershipChange::Promote(id),
            MembershipChange::Remove(id),
            MembershipChange::Transfer(Some(id)),
            MembershipChange::Transfer(None),
        ] {
            assert_eq!(decode_change(encode_change(&change)), Some(change));
        }
        let nobody = peer::MembershipChange { kind: ChangeKind::Remove.into(), ..Default::default() };
        assert_eq!(decode_change(nobody), None);
        assert_eq!(decode_change(peer::MembershipChange { kind: 99, id: 1, ..Default::default() }), None);
    }
}

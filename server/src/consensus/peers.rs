//! What consensus asks of the network besides openraft's own messages: to carry requests to the leader.
//!
//! Invariants:
//! - Whoever implements it claims `Happened::No` only when the leader cannot have seen the request, or refused it.

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_proto::{LeaseId, MemberId};
use tokio::time::Instant;

use crate::consensus::{Haste, Member, Proposed};
use crate::error::ConsensusError;

/// Carries requests of this member to the leader. At the other end they meet the `*_here` methods of `Consensus`.
pub trait Peers: Send + Sync + 'static {
    /// A command, as an encoded envelope. Answered by `Consensus::propose_here`.
    fn command(
        &self,
        leader: MemberId,
        envelope: Bytes,
        haste: Haste,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Proposed, ConsensusError>>;

    /// A read barrier: the index that must be applied before reading. Answered by `Consensus::barrier_here`.
    fn barrier(&self, leader: MemberId, deadline: Instant) -> BoxFuture<'_, Result<u64, ConsensusError>>;

    /// Renews a lease. Answered by `Consensus::keep_alive_here`.
    fn keep_alive(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>>;

    /// Granted and remaining time of a lease. Answered by `Consensus::time_to_live_here`.
    fn time_to_live(
        &self,
        leader: MemberId,
        lease: LeaseId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(u64, u64), ConsensusError>>;

    /// A change of membership. Answered by `Consensus::change_here`; the index of the entry that did it.
    fn change(
        &self,
        leader: MemberId,
        change: MembershipChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<u64, ConsensusError>>;

    /// Free bytes on the disk of a member, as it last said.
    fn free_bytes(&self, member: MemberId) -> Option<u64>;
}

/// A change of who belongs to the cluster, or who leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// Add a member without a vote.
    AddLearner {
        /// The member.
        member: Member,
        /// The highest state version that its program knows.
        state_version_max: u32,
    },
    /// Give it a vote, once it has caught up.
    Promote(MemberId),
    /// Take a member out for good.
    Remove(MemberId),
    /// Hand leadership over; `None`: to the most caught-up voter.
    Transfer(Option<MemberId>),
}

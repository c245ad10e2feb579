//! Who belongs to the cluster.
//!
//! Invariants:
//! - A change of membership is sent again only when the cluster said that nothing happened.

use std::time::Duration;

use quorate_proto::{MemberId, v1};

use crate::call::CallOptions;
use crate::client::Client;
use crate::error::Result;
use crate::types::Header;

/// How long a change of membership may take: a member has to catch up, or to take over.
const CHANGE_DEADLINE: Duration = Duration::from_mins(1);

fn patient() -> CallOptions {
    CallOptions { deadline: Some(CHANGE_DEADLINE), write_id: None }
}

/// One member of a cluster.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// for member in client.members().await?.members {
///     println!("{} at {}", member.name, member.client_address);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id; `None` only in an answer that breaks the protocol.
    pub id: Option<MemberId>,
    /// Name that the operator gave.
    pub name: String,
    /// `host:port` for members.
    pub peer_address: String,
    /// `host:port` for clients.
    pub client_address: String,
    /// It has no vote (yet).
    pub learner: bool,
}

impl From<v1::Member> for Member {
    fn from(member: v1::Member) -> Self {
        Self {
            id: MemberId::new(member.id),
            name: member.name,
            peer_address: member.peer_address,
            client_address: member.client_address,
            learner: member.learner,
        }
    }
}

/// All members of a cluster.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let all = client.members().await?;
/// println!("{} members, led by {:?}", all.members.len(), all.leader);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Who answered.
    pub header: Header,
    /// Voters and learners.
    pub members: Vec<Member>,
    /// The leader, where the answer says it.
    pub leader: Option<MemberId>,
}

impl Members {
    fn of(header: Option<v1::Header>, members: Vec<v1::Member>, leader_id: u64) -> Self {
        let members = members.into_iter().map(Into::into).collect();
        Self { header: header.into(), members, leader: MemberId::new(leader_id) }
    }
}

impl Client {
    /// All members, and who leads.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let members = client.members().await?;
    /// # Ok(()) }
    /// ```
    pub async fn members(&self) -> Result<Members> {
        let answer = self.run(v1::MemberListRequest { read: None }, CallOptions::default()).await?;
        Ok(Members::of(answer.header, answer.members, answer.leader_id))
    }

    /// All members as one of them knows it, without asking the others: for a cluster without a quorum.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let members = client.members_serializable().await?;
    /// # Ok(()) }
    /// ```
    pub async fn members_serializable(&self) -> Result<Members> {
        let read = v1::ReadOptions { serializable: true, min_revision: 0 };
        let answer = self.run(v1::MemberListRequest { read: Some(read) }, CallOptions::default()).await?;
        Ok(Members::of(answer.header, answer.members, answer.leader_id))
    }

    /// Adds a learner whose program knows state versions up to this one; one that does not know the cluster's is
    /// refused. (A new member does this itself when it is started with `--join`.)
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, member: quorate::Member) -> quorate::Result<()> {
    /// let members = client.member_add(member, 2).await?;
    /// # Ok(()) }
    /// ```
    pub async fn member_add(&self, member: Member, state_version_max: u32) -> Result<Members> {
        let member = v1::Member {
            id: member.id.map_or(0, MemberId::get),
            name: member.name,
            peer_address: member.peer_address,
            client_address: member.client_address,
            learner: true,
        };
        let request = v1::MemberAddRequest { member: Some(member), state_version_max };
        let answer = self.run(request, patient()).await?;
        Ok(Members::of(answer.header, answer.members, 0))
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::MemberId) -> quorate::Result<()> {
    /// client.member_promote(id).await?;
    /// # Ok(()) }
    /// ```
    pub async fn member_promote(&self, id: MemberId) -> Result<Members> {
        let answer = self.run(v1::MemberPromoteRequest { id: id.get() }, patient()).await?;
        Ok(Members::of(answer.header, answer.members, 0))
    }

    /// Removes a member. Its id never comes back.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client, id: quorate::MemberId) -> quorate::Result<()> {
    /// client.member_remove(id).await?;
    /// # Ok(()) }
    /// ```
    pub async fn member_remove(&self, id: MemberId) -> Result<Members> {
        let answer = self.run(v1::MemberRemoveRequest { id: id.get() }, patient()).await?;
        Ok(Members::of(answer.header, answer.members, 0))
    }

    /// Hands leadership to a voter, or to the one that is most caught up. Answers who leads afterwards.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::Client) -> quorate::Result<()> {
    /// let leader = client.transfer_leader(None).await?;
    /// # Ok(()) }
    /// ```
    pub async fn transfer_leader(&self, to: impl Into<Option<MemberId>>) -> Result<Option<MemberId>> {
        let request = v1::TransferLeaderRequest { to: to.into().map_or(0, MemberId::get) };
        let answer = self.run(request, patient()).await?;
        Ok(MemberId::new(answer.leader_id))
    }
}

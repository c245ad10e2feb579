//! `Cluster`: who belongs to it.
//!
//! Invariants:
//! - Rules of membership are the consensus room's; here only the form of a request is checked.

use std::sync::Arc;

use quorate_proto::MemberId;
use quorate_proto::v1;
use quorate_proto::v1::cluster_server::Cluster;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::api::errors::Refusal;
use crate::api::limits::MEMBERSHIP_DEADLINE;
use crate::api::rooms::Rooms;
use crate::api::{convert, deadline};
use crate::consensus::Member;

/// The service.
pub struct ClusterDoor(pub Arc<Rooms>);

fn member_id(id: u64) -> Result<MemberId, Refusal> {
    MemberId::new(id).ok_or_else(|| Refusal::invalid("the member's id is 0; `quorate status` lists the ids"))
}

fn new_member(member: Option<v1::Member>) -> Result<Member, Refusal> {
    let member = member.ok_or_else(|| Refusal::invalid("no member is given"))?;
    for (what, text) in [("peer_address", &member.peer_address), ("client_address", &member.client_address)] {
        if !text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            return Err(Refusal::invalid(format!("{what} {text:?} is not host:port")));
        }
    }
    if member.name.is_empty() || member.name.len() > 255 {
        return Err(Refusal::invalid("the member's name has 1 to 255 bytes"));
    }
    Ok(Member {
        id: member_id(member.id)?,
        name: member.name,
        peer_address: member.peer_address,
        client_address: member.client_address,
        learner: true,
    })
}

/// Changes of membership take their time: their default deadline is longer.
fn patient(metadata: &MetadataMap) -> Result<Instant, Refusal> {
    if metadata.contains_key("grpc-timeout") {
        deadline::of_request(metadata)
    } else {
        Ok(deadline::after(MEMBERSHIP_DEADLINE))
    }
}

fn wire(members: Vec<Member>) -> Vec<v1::Member> {
    members.into_iter().map(convert::member).collect()
}

impl ClusterDoor {
    fn header(&self) -> v1::Header {
        self.0.header(self.0.hub.revision())
    }
}

#[tonic::async_trait]
impl Cluster for ClusterDoor {
    async fn member_list(
        &self,
        request: Request<v1::MemberListRequest>,
    ) -> Result<Response<v1::MemberListResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        self.0.fresh(request.into_inner().read.as_ref(), deadline).await?;
        let status = self.0.consensus.status();
        Ok(Response::new(v1::MemberListResponse {
            header: Some(self.header()),
            members: wire(status.members),
            leader_id: status.leader.map_or(0, MemberId::get),
        }))
    }

    async fn member_add(
        &self,
        request: Request<v1::MemberAddRequest>,
    ) -> Result<Response<v1::MemberAddResponse>, Status> {
        let deadline = patient(request.metadata())?;
        let v1::MemberAddRequest { member, state_version_max } = request.into_inner();
        let member = new_member(member)?;
        let members = self.0.consensus.add_learner(member, state_version_max, deadline).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::MemberAddResponse { header: Some(self.header()), members: wire(members) }))
    }

    async fn member_promote(
        &self,
        request: Request<v1::MemberPromoteRequest>,
    ) -> Result<Response<v1::MemberPromoteResponse>, Status> {
        let deadline = patient(request.metadata())?;
        let id = member_id(request.into_inner().id)?;
        let members = self.0.consensus.promote(id, deadline).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::MemberPromoteResponse { header: Some(self.header()), members: wire(members) }))
    }

    async fn member_remove(
        &self,
        request: Request<v1::MemberRemoveRequest>,
    ) -> Result<Response<v1::MemberRemoveResponse>, Status> {
        let deadline = patient(request.metadata())?;
        let id = member_id(request.into_inner().id)?;
        let members = self.0.consensus.remove(id, deadline).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::MemberRemoveResponse { header: Some(self.header()), members: wire(members) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        let to = MemberId::new(request.into_inner().to);
        let leader = self.0.consensus.transfer_leader(to, deadline).await.map_err(Refusal::from)?;
        Ok(Response::new(v1::TransferLeaderResponse { header: Some(self.header()), leader_id: leader.get() }))
    }
}

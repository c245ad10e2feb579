//! `Cluster`: who belongs to it. Changes of membership go through `quorate member`.
//!
//! Invariants:
//! - Headers of this service carry no revision, as the wire has it.

use std::sync::Arc;

use quorate_proto::Revision;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::cluster_server::Cluster;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::errors::Refused;
use super::{header, unary};
use crate::api::rooms::Rooms;
use crate::consensus::Member;

/// The service.
pub struct ClusterDoor(pub Arc<Rooms>);

async fn member_list(
    rooms: &Rooms,
    request: pb::MemberListRequest,
    deadline: Instant,
) -> Result<pb::MemberListResponse, Refused> {
    if request.linearizable {
        rooms.barrier(deadline).await?;
    }
    let members = rooms.consensus.status().members.into_iter().map(member).collect();
    Ok(pb::MemberListResponse { header: Some(header(rooms, Revision::ZERO)), members })
}

fn member(member: Member) -> pb::Member {
    let urls = |address: String| if address.is_empty() { Vec::new() } else { vec![format!("http://{address}")] };
    pb::Member {
        id: member.id.get(),
        name: member.name,
        peer_ur_ls: urls(member.peer_address),
        client_ur_ls: urls(member.client_address),
        is_learner: member.learner,
    }
}

/// A change of membership: a member's id and addresses are its own here, so it joins by itself.
fn elsewhere(what: &str, verb: &str) -> Status {
    Refused::unimplemented(what, &format!("use `quorate {verb}`")).into()
}

#[tonic::async_trait]
impl Cluster for ClusterDoor {
    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(elsewhere("Cluster.MemberAdd", "serve --join"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(elsewhere("Cluster.MemberRemove", "member remove"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(elsewhere("Cluster.MemberUpdate", "serve --peer-advertise"))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        unary(&self.0, request, member_list).await
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(elsewhere("Cluster.MemberPromote", "member promote"))
    }
}

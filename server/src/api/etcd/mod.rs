//! etcd's v3 wire: its clients speak to Quorate as they are.
//!
//! A request is translated to the commands and reads that the native API uses, on the same keys; what both mean by it
//! is decided by `state`. What differs from etcd, and why, is in `docs/etcd-compatibility.md`.
//!
//! Invariants:
//! - No rule is made here that the machine could make; what is checked here depends on the request alone.
//! - Texts and codes of refusals are the wire's, from one table (`errors`).
//! - The revision in a header is that of the store when the answer was formed, never one that was asked for.

mod absent;
mod answers;
mod cluster;
mod election;
mod errors;
mod events;
#[cfg(test)]
mod fuzz;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod overlaps;
mod range_stream;
pub(super) mod requests;
mod watch;

use std::sync::Arc;

use quorate_proto::Revision;
use quorate_proto::etcd::{etcdserverpb as pb, v3electionpb, v3lockpb};
use quorate_proto::v1;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status};

use super::deadline;
use super::limits::MESSAGE_EXTRA_BYTES;
use super::rooms::Rooms;
use super::watches::WatchService;
use crate::consensus::Leadership;
use errors::Refused;

/// Adds the wire's services to those of the client port.
pub fn add_services(routes: &mut RoutesBuilder, rooms: &Arc<Rooms>) {
    let bytes_max = rooms.limits.request_bytes_max + MESSAGE_EXTRA_BYTES;
    let kv = pb::kv_server::KvServer::new(kv::KvDoor(Arc::clone(rooms))).max_decoding_message_size(bytes_max);
    routes
        .add_service(kv)
        .add_service(WatchService::<watch::Watches>::new(Arc::clone(rooms)))
        .add_service(pb::lease_server::LeaseServer::new(lease::LeaseDoor(Arc::clone(rooms))))
        .add_service(pb::cluster_server::ClusterServer::new(cluster::ClusterDoor(Arc::clone(rooms))))
        .add_service(pb::maintenance_server::MaintenanceServer::new(maintenance::MaintenanceDoor(Arc::clone(rooms))))
        .add_service(pb::auth_server::AuthServer::new(absent::AbsentDoor))
        .add_service(v3lockpb::lock_server::LockServer::new(lock::LockDoor(Arc::clone(rooms))))
        .add_service(
            v3electionpb::election_server::ElectionServer::new(election::ElectionDoor(Arc::clone(rooms)))
                .max_decoding_message_size(bytes_max),
        );
}

/// Runs one request: says no at once where a leader is required and there is none, and gives it its deadline.
async fn unary<'r, Q, A, F>(
    rooms: &'r Rooms,
    request: Request<Q>,
    run: impl FnOnce(&'r Rooms, Q, Instant) -> F,
) -> Result<Response<A>, Status>
where
    F: Future<Output = Result<A, Refused>>,
{
    let patient = !request.metadata().contains_key("grpc-timeout");
    let deadline = deadline::of_request(request.metadata())?;
    if wants_leader(request.metadata()) && !has_leader(rooms) {
        return Err(errors::NO_LEADER.into());
    }
    match run(rooms, request.into_inner(), deadline).await {
        Ok(answer) => Ok(Response::new(answer)),
        Err(refused) => Err(told(rooms, refused, patient).into()),
    }
}

/// The refusal as it is told: a deadline that was ours and not the caller's is a time-out, and a member that cannot serve
/// because members differ says so.
fn told(rooms: &Rooms, refused: Refused, patient: bool) -> Refused {
    if patient && refused.code == Code::DeadlineExceeded {
        errors::TIMED_OUT
    } else if refused == errors::UNHEALTHY && rooms.consensus.diverged().is_some() {
        errors::CORRUPT
    } else {
        refused
    }
}

/// Whether the client would rather be refused than wait where there is no leader.
fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// Whether this member knows a leader, and has heard of it lately.
fn has_leader(rooms: &Rooms) -> bool {
    let known = !matches!(*rooms.consensus.leadership().borrow(), Leadership::Following { leader: None });
    known && !*rooms.hub.contact_lost().borrow()
}

/// The header of an answer that reflects `revision`.
fn header(rooms: &Rooms, revision: Revision) -> pb::ResponseHeader {
    same_header(rooms.header(revision))
}

/// The native header, whose fields are the wire's.
fn same_header(header: v1::Header) -> pb::ResponseHeader {
    pb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

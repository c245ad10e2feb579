//! `Lease`: grant, revoke, keep alive, ask. Seconds on the wire, milliseconds inside.
//!
//! Invariants:
//! - A time to live is within [`TTL_S_MIN`] and [`TTL_S_MAX`]; where that is not what was asked for, the answer says so.
//! - A lease of less than two seconds, granted natively, is told as one second: a client renews it soon enough.

use std::pin::Pin;
use std::sync::Arc;

use futures::TryFutureExt as _;
use futures::stream::Stream;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::lease_server::Lease;
use quorate_proto::{Key, LeaseId};
use quorate_state::command::{Command, LeaseEnd};
use quorate_state::outcome::Done;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::errors::{self, Refused};
use super::{has_leader, header, same_header, told, unary, wants_leader};
use crate::api::limits::{DEADLINE_DEFAULT, TTL_MS_MAX};
use crate::api::rooms::{Rooms, Weight, odd};
use crate::api::streams::keep_alives;
use crate::api::{deadline, validate};

/// Shorter times are raised to this one, in seconds.
const TTL_S_MIN: i64 = 2;
/// Longer ones are lowered to ten years.
const TTL_S_MAX: i64 = (TTL_MS_MAX / 1_000).cast_signed();
/// What the wire refuses, in seconds.
const TTL_S_REFUSED: i64 = 9_000_000_000;

/// The service.
pub struct LeaseDoor(pub Arc<Rooms>);

/// The grant that a request asks for.
pub fn granting(request: &pb::LeaseGrantRequest) -> Result<Command, Refused> {
    if request.ttl > TTL_S_REFUSED {
        return Err(errors::TTL_TOO_LARGE);
    }
    let ttl_ms = request.ttl.clamp(TTL_S_MIN, TTL_S_MAX).unsigned_abs() * 1_000;
    Ok(Command::LeaseGrant { lease: LeaseId::new(request.id).unwrap_or_else(validate::mint_lease), ttl_ms })
}

async fn grant(
    rooms: &Rooms,
    request: pb::LeaseGrantRequest,
    deadline: Instant,
) -> Result<pb::LeaseGrantResponse, Refused> {
    let command = granting(&request)?;
    let written = rooms.write(None, command, deadline).await?;
    match written.done {
        Done::LeaseGrant { lease, ttl_ms } => Ok(pb::LeaseGrantResponse {
            header: Some(same_header(written.header)),
            id: lease.get(),
            ttl: granted_s(ttl_ms),
            error: String::new(),
        }),
        done => Err(odd(&done).into()),
    }
}

async fn revoke(
    rooms: &Rooms,
    request: pb::LeaseRevokeRequest,
    deadline: Instant,
) -> Result<pb::LeaseRevokeResponse, Refused> {
    let leases = vec![LeaseId::new(request.id).ok_or(errors::LEASE_NOT_FOUND)?];
    let written = rooms.write(None, Command::LeaseRevoke { leases, cause: LeaseEnd::Asked }, deadline).await?;
    match written.done {
        Done::LeaseRevoke { .. } => Ok(pb::LeaseRevokeResponse { header: Some(same_header(written.header)) }),
        done => Err(odd(&done).into()),
    }
}

async fn time_to_live(
    rooms: &Rooms,
    request: pb::LeaseTimeToLiveRequest,
    deadline: Instant,
) -> Result<pb::LeaseTimeToLiveResponse, Refused> {
    let (granted_ms, remaining_ms) = match LeaseId::new(request.id) {
        None => (0, 0),
        Some(lease) => rooms.consensus.time_to_live(lease, deadline).await.map_err(|error| rooms.explain(error))?,
    };
    let mut answer = pb::LeaseTimeToLiveResponse {
        header: Some(header(rooms, rooms.hub.revision())),
        id: request.id,
        ttl: -1,
        ..pb::LeaseTimeToLiveResponse::default()
    };
    if granted_ms == 0 {
        return Ok(answer);
    }
    (answer.ttl, answer.granted_ttl) = (seconds(remaining_ms), granted_s(granted_ms));
    if let Some(lease) = LeaseId::new(request.id).filter(|_| request.keys) {
        rooms.barrier(deadline).await?;
        let read =
            rooms.read(Weight::Heavy, move |view| Ok((view.lease_keys(lease, None, usize::MAX)?, view.revision())));
        let (keys, revision) = read.await?;
        answer.keys = keys.into_iter().map(Key::into_bytes).collect();
        answer.header = Some(header(rooms, revision));
    }
    Ok(answer)
}

async fn leases(
    rooms: &Rooms,
    _request: pb::LeaseLeasesRequest,
    deadline: Instant,
) -> Result<pb::LeaseLeasesResponse, Refused> {
    rooms.barrier(deadline).await?;
    let read = rooms.read(Weight::Heavy, |view| Ok((view.leases(None, usize::MAX)?, view.revision())));
    let (leases, revision) = read.await?;
    let leases = leases.into_iter().map(|(lease, _)| pb::LeaseStatus { id: lease.get() }).collect();
    Ok(pb::LeaseLeasesResponse { header: Some(header(rooms, revision)), leases })
}

async fn keep_alive(
    rooms: Arc<Rooms>,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Refused> {
    // As of before the renewal, so that it claims nothing that a change meanwhile would make wrong.
    let header = Some(header(&rooms, rooms.hub.revision()));
    let ttl_ms = match LeaseId::new(request.id) {
        None => 0,
        Some(lease) => {
            let renewed = rooms.consensus.keep_alive(lease, deadline::after(DEADLINE_DEFAULT)).await;
            renewed.map_err(|error| told(&rooms, rooms.explain(error).into(), true))?
        }
    };
    let ttl = if ttl_ms == 0 { 0 } else { granted_s(ttl_ms) };
    Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
}

/// Whole seconds of a remaining time.
fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1_000).unwrap_or(i64::MAX)
}

/// Whole seconds of the time to live of a lease that exists, which is never told as 0: that would say that it does not.
fn granted_s(ms: u64) -> i64 {
    seconds(ms).max(1)
}

#[tonic::async_trait]
impl Lease for LeaseDoor {
    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        unary(&self.0, request, grant).await
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        unary(&self.0, request, revoke).await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        if wants_leader(request.metadata()) && !has_leader(&self.0) {
            return Err(errors::NO_LEADER.into());
        }
        let rooms = Arc::clone(&self.0);
        let renew = move |request| keep_alive(Arc::clone(&rooms), request).map_err(Status::from);
        Ok(Response::new(keep_alives(&self.0, request.into_inner(), errors::STOPPED.into(), renew)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        unary(&self.0, request, time_to_live).await
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        unary(&self.0, request, leases).await
    }
}

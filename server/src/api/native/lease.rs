//! `Lease`: grant, revoke, keep alive, ask.
//!
//! Invariants:
//! - Listings come in pages, each of one view; a cursor names what it lists, and is refused elsewhere.
//! - A keep-alive is passed on as it came: the leader's clock decides, after a quorum round that began after it.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::stream::Stream;
use quorate_proto::v1;
use quorate_proto::v1::lease_server::Lease;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::{Command, LeaseEnd};
use quorate_state::outcome::Done;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::api::cursor::Cursor;
use crate::api::errors::Refusal;
use crate::api::limits::{ANSWER_BYTES_MAX, DEADLINE_DEFAULT};
use crate::api::rooms::{Rooms, Weight, odd};
use crate::api::streams::keep_alives;
use crate::api::{convert, deadline, validate};

/// The service.
pub struct LeaseDoor(pub Arc<Rooms>);

/// The grant that a request asks for.
pub fn granting(request: &v1::GrantRequest) -> Result<Command, Refusal> {
    let ttl_ms = validate::ttl(request.ttl_ms)?;
    Ok(Command::LeaseGrant { lease: LeaseId::new(request.lease_id).unwrap_or_else(validate::mint_lease), ttl_ms })
}

async fn grant(rooms: &Rooms, request: v1::GrantRequest, deadline: Instant) -> Result<v1::GrantResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let written = rooms.write(id, granting(&request)?, deadline).await?;
    match written.done {
        Done::LeaseGrant { lease, ttl_ms } => Ok(v1::GrantResponse {
            header: Some(written.header),
            lease_id: lease.get(),
            ttl_ms,
            log_index: written.log_index,
        }),
        done => Err(odd(&done)),
    }
}

async fn revoke(rooms: &Rooms, request: v1::RevokeRequest, deadline: Instant) -> Result<v1::RevokeResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let leases = vec![validate::lease(request.lease_id)?];
    let written = rooms.write(id, Command::LeaseRevoke { leases, cause: LeaseEnd::Asked }, deadline).await?;
    match written.done {
        Done::LeaseRevoke { deleted } => Ok(v1::RevokeResponse {
            header: Some(written.header),
            deleted: convert::count(deleted),
            log_index: written.log_index,
        }),
        done => Err(odd(&done)),
    }
}

async fn time_to_live(
    rooms: &Rooms,
    request: v1::TimeToLiveRequest,
    deadline: Instant,
) -> Result<v1::TimeToLiveResponse, Refusal> {
    let lease = validate::lease(request.lease_id)?;
    let limit = validate::page(request.page_size)?;
    let listed = format!("keys of lease {lease}");
    let cursor = Cursor::given(&request.cursor, listed.as_bytes())?;
    let after = cursor.map(|cursor| Key::new(cursor.after)).transpose()?;
    let (granted_ttl_ms, remaining_ms) =
        rooms.consensus.time_to_live(lease, deadline).await.map_err(|error| rooms.explain(error))?;
    let mut revision = rooms.hub.revision();
    let (mut keys, mut next_cursor) = (Vec::new(), Bytes::new());
    if request.with_keys {
        rooms.fresh(None, deadline).await?;
        let read = rooms
            .read(Weight::Heavy, move |view| Ok((view.lease_keys(lease, after.as_ref(), limit + 1)?, view.revision())));
        let (mut found, at) = read.await?;
        let fits = fitting(&found).min(limit);
        if found.len() > fits {
            found.truncate(fits);
            next_cursor = next(found.last().map(Key::as_bytes), at, listed.as_bytes());
        }
        keys = found.into_iter().map(Key::into_bytes).collect();
        revision = at;
    }
    let header = Some(rooms.header(revision));
    Ok(v1::TimeToLiveResponse { header, lease_id: lease.get(), granted_ttl_ms, remaining_ms, keys, next_cursor })
}

/// How many of these go into one answer; at least one.
fn fitting(keys: &[Key]) -> usize {
    let mut bytes = 0;
    let over = keys.iter().position(|key| {
        bytes += key.as_bytes().len();
        bytes > ANSWER_BYTES_MAX
    });
    over.map_or(keys.len(), |over| over.max(1))
}

/// The cursor for the page after this last item.
fn next(last: Option<&[u8]>, revision: Revision, listed: &[u8]) -> Bytes {
    let cursor = |last| Cursor { revision, after: Bytes::copy_from_slice(last) }.encode(listed);
    last.map(cursor).unwrap_or_default()
}

/// What cursors of the list of leases belong to.
const ALL_LEASES: &[u8] = b"leases";

async fn list_leases(
    rooms: &Rooms,
    request: v1::ListLeasesRequest,
    deadline: Instant,
) -> Result<v1::ListLeasesResponse, Refusal> {
    let limit = validate::page(request.page_size)?;
    let after = match Cursor::given(&request.cursor, ALL_LEASES)? {
        None => None,
        Some(Cursor { after, .. }) => {
            let id = <[u8; 8]>::try_from(&after[..]).map(i64::from_be_bytes);
            Some(validate::lease(id.map_err(|_| Refusal::invalid("the page cursor names no lease"))?)?)
        }
    };
    rooms.fresh(None, deadline).await?;
    let read = rooms.read(Weight::Heavy, move |view| Ok((view.leases(after, limit + 1)?, view.revision())));
    let (mut leases, revision) = read.await?;
    let mut next_cursor = Bytes::new();
    if leases.len() > limit {
        leases.truncate(limit);
        let last = leases.last().map(|(lease, _)| lease.get().to_be_bytes());
        next_cursor = next(last.as_ref().map(<[u8; 8]>::as_slice), revision, ALL_LEASES);
    }
    let lease_ids = leases.into_iter().map(|(lease, _)| lease.get()).collect();
    Ok(v1::ListLeasesResponse { header: Some(rooms.header(revision)), lease_ids, next_cursor })
}

async fn keep_alive(rooms: Arc<Rooms>, request: v1::KeepAliveRequest) -> Result<v1::KeepAliveResponse, Refusal> {
    let lease = validate::lease(request.lease_id)?;
    let renewed = rooms.consensus.keep_alive(lease, deadline::after(DEADLINE_DEFAULT)).await;
    let ttl_ms = renewed.map_err(|error| rooms.explain(error))?;
    let revision: Revision = rooms.hub.revision();
    Ok(v1::KeepAliveResponse { header: Some(rooms.header(revision)), lease_id: lease.get(), ttl_ms })
}

#[tonic::async_trait]
impl Lease for LeaseDoor {
    type KeepAliveStream = Pin<Box<dyn Stream<Item = Result<v1::KeepAliveResponse, Status>> + Send>>;

    async fn grant(&self, request: Request<v1::GrantRequest>) -> Result<Response<v1::GrantResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(grant(&self.0, request.into_inner(), deadline).await?))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(revoke(&self.0, request.into_inner(), deadline).await?))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let rooms = Arc::clone(&self.0);
        let renew = move |request| keep_alive(Arc::clone(&rooms), request).map_err(Status::from);
        Ok(Response::new(keep_alives(&self.0, request.into_inner(), Refusal::shutting_down().into(), renew)))
    }

    async fn time_to_live(
        &self,
        request: Request<v1::TimeToLiveRequest>,
    ) -> Result<Response<v1::TimeToLiveResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(time_to_live(&self.0, request.into_inner(), deadline).await?))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(list_leases(&self.0, request.into_inner(), deadline).await?))
    }
}

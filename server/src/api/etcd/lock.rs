//! `Lock`: a contender for each lease, as etcd's own clients make them.
//!
//! Invariants:
//! - The key is `<name>/<lease in hexadecimal>`, so that whoever makes locks of keys and leases takes part.
//! - Texts are the wire's; the code is `Unknown` where etcd's service passes a client library's error on.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::LeaseId;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::v3lockpb::lock_server::Lock;
use quorate_proto::etcd::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use quorate_state::command::{Command, Owner, Put};
use quorate_state::outcome::Done;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::errors::{self, Refused};
use super::{has_leader, header, requests, same_header, told, wants_leader};
use crate::api::limits::CONTENDER_TTL_MS;
use crate::api::rooms::{Rooms, odd};
use crate::api::{deadline, validate};
use crate::connection::Connection;
use crate::recipes::{self, Bid, Call, Claim, Contest, Name, RecipeError, Wanted};

/// The service.
pub struct LockDoor(pub Arc<Rooms>);

/// A call that may wait: as long as its caller does.
pub fn call(rooms: &Rooms, metadata: &MetadataMap, connection: Connection) -> Result<Call, Status> {
    let needs_leader = wants_leader(metadata);
    if needs_leader && !has_leader(rooms) {
        return Err(errors::NO_LEADER.into());
    }
    let mut call = Call::new(rooms, connection, deadline::of_wait(metadata)?);
    call.needs_leader = needs_leader;
    Ok(call)
}

/// What a contender of this wire puts. Without a lease it gets one of its own, of a minute.
pub fn wanted(name: &Name, lease: i64, value: Bytes, renews_value: bool) -> Result<(LeaseId, Wanted), Refused> {
    let given = LeaseId::new(lease);
    let lease = given.unwrap_or_else(validate::mint_lease);
    let owner = given.map_or(Owner::Ttl { lease, ttl_ms: CONTENDER_TTL_MS }, Owner::Lease);
    let put = Put::new(name.key(lease, None)?, value, owner);
    let bid = Bid { put, companion: None, renews_value };
    Ok((lease, Wanted { bid, acquire: 0, claim: Claim::Exclusive, try_only: false, reentrant: None }))
}

/// A refusal as etcd's service passes it on, which is a client of its own member: the code of the error is lost, unless it
/// is the caller's own time that is over. A member that stops, or cannot serve, ends connections there.
pub fn passed_on(rooms: &Rooms, refused: impl Into<Refused>) -> Status {
    let refused = told(rooms, refused.into(), false);
    let code = match refused.code {
        Code::DeadlineExceeded | Code::Unimplemented => refused.code,
        _ if refused == errors::STOPPED || refused == errors::UNHEALTHY => refused.code,
        _ => Code::Unknown,
    };
    Refused { code, ..refused }.into()
}

/// What is said when a contender that waited, or held, is gone.
pub fn gone(error: RecipeError, text: &'static str) -> Refused {
    match error {
        RecipeError::Trouble(trouble) => trouble.into(),
        RecipeError::Lost { .. } => Refused { code: Code::Unknown, text: text.into() },
        error => Refused { code: Code::Unknown, text: format!("quorate: {error}").into() },
    }
}

async fn lock(rooms: &Arc<Rooms>, call: Call, request: LockRequest) -> Result<LockResponse, Refused> {
    let contest = Contest::lock(rooms, &request.name);
    let (_, wanted) = wanted(&contest.name, request.lease, Bytes::new(), false)?;
    let held = recipes::acquire(&contest, call, &wanted).await;
    let held = held.map_err(|error| gone(error, "mutex: session is expired"))?;
    Ok(LockResponse { header: Some(header(rooms, held.revision)), key: held.key.into_bytes() })
}

async fn unlock(rooms: &Arc<Rooms>, request: UnlockRequest, metadata: &MetadataMap) -> Result<UnlockResponse, Status> {
    let end = deadline::of_request(metadata)?;
    let delete = pb::DeleteRangeRequest { key: request.key, range_end: Bytes::new(), prev_kv: false };
    let delete = requests::delete(delete).map_err(|refused| passed_on(rooms, refused))?;
    let written = rooms.write(None, Command::Delete(delete), end).await;
    let written = written.map_err(|trouble| passed_on(rooms, trouble))?;
    match written.done {
        Done::Delete(_) => Ok(UnlockResponse { header: Some(same_header(written.header)) }),
        done => Err(passed_on(rooms, odd(&done))),
    }
}

#[tonic::async_trait]
impl Lock for LockDoor {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let call = call(&self.0, request.metadata(), Connection::of(&request))?;
        let locked = lock(&self.0, call, request.into_inner()).await;
        locked.map(Response::new).map_err(|refused| passed_on(&self.0, refused))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        Ok(Response::new(unlock(&self.0, request, &metadata).await?))
    }
}

//! `Kv`: keys, ranges, directories, transactions, compaction.
//!
//! Invariants:
//! - Each method is one read or one command.
//! - An answer that a retry brought back, without values that were asked for, says so.

use std::sync::Arc;

use quorate_proto::v1;
use quorate_proto::v1::kv_server::Kv;
use quorate_state::command::Command;
use quorate_state::outcome::Done;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::reads;
use crate::api::errors::Refusal;
use crate::api::rooms::{Rooms, odd};
use crate::api::{convert, deadline, validate, validate_txn};

/// The service.
pub struct KvDoor(pub Arc<Rooms>);

/// Writes one key.
pub async fn put(rooms: &Rooms, request: v1::PutRequest, deadline: Instant) -> Result<v1::PutResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let put = validate::put(request, &rooms.limits)?;
    let written = rooms.write(id, Command::Put(put), deadline).await?;
    match written.done {
        Done::Put(done) => {
            let response = convert::put(done, Some(written.header), written.log_index);
            Ok(v1::PutResponse { replayed: written.replayed, ..response })
        }
        done => Err(odd(&done)),
    }
}

/// Deletes keys.
pub async fn delete(
    rooms: &Rooms,
    request: v1::DeleteRequest,
    deadline: Instant,
) -> Result<v1::DeleteResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let delete = validate::delete(request)?;
    let written = rooms.write(id, Command::Delete(delete), deadline).await?;
    match written.done {
        Done::Delete(done) => {
            let response = convert::delete(done, Some(written.header), written.log_index);
            Ok(v1::DeleteResponse { replayed: written.replayed, ..response })
        }
        done => Err(odd(&done)),
    }
}

/// Decides a transaction. One that only reads goes through the log as well: it is then as linearizable as any.
pub async fn txn(rooms: &Rooms, request: v1::TxnRequest, deadline: Instant) -> Result<v1::TxnResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    if let Some(read) = request.read.filter(|read| read.min_revision != 0) {
        rooms.fresh(Some(&v1::ReadOptions { serializable: true, ..read }), deadline).await?;
    }
    let shape = convert::TxnShape::of(&request);
    let txn = validate_txn::txn(request, &rooms.limits)?;
    let written = rooms.write(id, Command::Txn(txn), deadline).await?;
    match written.done {
        Done::Txn(done) => {
            let response = convert::txn(done, &shape, Some(written.header), written.log_index);
            Ok(v1::TxnResponse { replayed: written.replayed, ..response })
        }
        done => Err(odd(&done)),
    }
}

async fn copy(rooms: &Rooms, request: v1::CopyRequest, deadline: Instant) -> Result<v1::CopyResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let command = validate::copy(request.from, request.to, request.keep_leases, false)?;
    let written = rooms.write(id, command, deadline).await?;
    match written.done {
        Done::CopyTree(copied) => Ok(v1::CopyResponse {
            header: Some(written.header),
            copied: convert::count(copied),
            log_index: written.log_index,
        }),
        done => Err(odd(&done)),
    }
}

async fn move_tree(rooms: &Rooms, request: v1::MoveRequest, deadline: Instant) -> Result<v1::MoveResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let command = validate::copy(request.from, request.to, request.keep_leases, true)?;
    let written = rooms.write(id, command, deadline).await?;
    match written.done {
        Done::CopyTree(moved) => Ok(v1::MoveResponse {
            header: Some(written.header),
            moved: convert::count(moved),
            log_index: written.log_index,
        }),
        done => Err(odd(&done)),
    }
}

async fn compact(
    rooms: &Rooms,
    request: v1::CompactRequest,
    deadline: Instant,
) -> Result<v1::CompactResponse, Refusal> {
    let id = validate::request_id(request.id.as_ref())?;
    let revision = validate::at_revision(request.revision)?
        .ok_or_else(|| Refusal::invalid("revision is 0; name the oldest revision that is to stay readable"))?;
    let written = rooms.write(id, Command::Compact { revision, only_forward: false }, deadline).await?;
    match written.done {
        Done::Compact => Ok(v1::CompactResponse { header: Some(written.header), log_index: written.log_index }),
        done => Err(odd(&done)),
    }
}

#[tonic::async_trait]
impl Kv for KvDoor {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(reads::get(&self.0, request.into_inner(), deadline).await?))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(put(&self.0, request.into_inner(), deadline).await?))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(delete(&self.0, request.into_inner(), deadline).await?))
    }

    async fn range(&self, request: Request<v1::RangeRequest>) -> Result<Response<v1::RangeResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(reads::range(&self.0, request.into_inner(), deadline).await?))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(reads::list(&self.0, request.into_inner(), deadline).await?))
    }

    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::StatResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(reads::stat(&self.0, request.into_inner(), deadline).await?))
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(txn(&self.0, request.into_inner(), deadline).await?))
    }

    async fn copy(&self, request: Request<v1::CopyRequest>) -> Result<Response<v1::CopyResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(copy(&self.0, request.into_inner(), deadline).await?))
    }

    async fn r#move(&self, request: Request<v1::MoveRequest>) -> Result<Response<v1::MoveResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(move_tree(&self.0, request.into_inner(), deadline).await?))
    }

    async fn compact(&self, request: Request<v1::CompactRequest>) -> Result<Response<v1::CompactResponse>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        Ok(Response::new(compact(&self.0, request.into_inner(), deadline).await?))
    }
}

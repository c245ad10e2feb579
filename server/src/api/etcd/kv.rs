//! `KV`: ranges, puts, deletes, transactions, compaction.
//!
//! Invariants:
//! - Each method is one read or one command. A transaction that only reads takes a read barrier and no log entry.
//! - An answer that a retry brought back without the values that were asked for is not given: it is an error.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::Revision;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::kv_server::Kv;
use quorate_state::command::{Command, RangeQuery, Refine, Span, Txn};
use quorate_state::outcome::{Done, RangeDone, TxnDone};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::errors::{self, Refused};
use super::{answers, header, range_stream, requests, same_header, unary};
use crate::api::errors::Trouble;
use crate::api::rooms::{Rooms, Weight, Written, odd};

/// Keys, and bytes of them, that are tried on the door's runtime before a read goes off it.
const LIGHT_KEYS_MAX: usize = 100;
/// See [`LIGHT_KEYS_MAX`].
const LIGHT_BYTES_MAX: usize = 1 << 16;

/// The service.
pub struct KvDoor(pub Arc<Rooms>);

async fn range(rooms: &Rooms, request: pb::RangeRequest, deadline: Instant) -> Result<pb::RangeResponse, Refused> {
    let serializable = request.serializable;
    let query = requests::range(request)?;
    if !serializable {
        rooms.barrier(deadline).await?;
    }
    let (done, revision) = read(rooms, query).await?;
    Ok(answers::range(done, header(rooms, revision)))
}

/// Reads, and says at which revision the store was. What turns out to be small stays on the door's runtime.
pub async fn read(rooms: &Rooms, query: RangeQuery) -> Result<(RangeDone, Revision), Trouble> {
    let one_key = matches!(query.span, Span::Key(_));
    let limit = query.limit.unwrap_or(LIGHT_KEYS_MAX);
    if !one_key && !query.count_only && limit <= LIGHT_KEYS_MAX && query.refine == Refine::default() {
        let small =
            RangeQuery { limit: Some(limit), bytes_max: Some(LIGHT_BYTES_MAX), count_all: false, ..query.clone() };
        let (done, revision) =
            rooms.read(Weight::Light, move |view| Ok((view.range(&small)?, view.revision()))).await?;
        if !done.more {
            return Ok((done, revision));
        }
    }
    let weight = if one_key { Weight::Light } else { Weight::Heavy };
    rooms.read(weight, move |view| Ok((view.range(&query)?, view.revision()))).await
}

async fn put(rooms: &Rooms, request: pb::PutRequest, deadline: Instant) -> Result<pb::PutResponse, Refused> {
    let put = requests::put(request, &rooms.limits)?;
    let gives_values = put.return_previous;
    match whole(rooms.write(None, Command::Put(put), deadline).await?, gives_values)? {
        (Done::Put(done), header) => Ok(answers::put(done, header)),
        (done, _) => Err(odd(&done).into()),
    }
}

async fn delete(
    rooms: &Rooms,
    request: pb::DeleteRangeRequest,
    deadline: Instant,
) -> Result<pb::DeleteRangeResponse, Refused> {
    let delete = requests::delete(request)?;
    let gives_values = delete.return_previous;
    match whole(rooms.write(None, Command::Delete(delete), deadline).await?, gives_values)? {
        (Done::Delete(done), header) => Ok(answers::delete(done, header)),
        (done, _) => Err(odd(&done).into()),
    }
}

async fn txn(rooms: &Rooms, request: pb::TxnRequest, deadline: Instant) -> Result<pb::TxnResponse, Refused> {
    let serializable = requests::is_serializable(&request);
    let txn = requests::txn(request, &rooms.limits)?;
    if requests::only_reads(&txn) {
        if !serializable {
            rooms.barrier(deadline).await?;
        }
        let (done, revision) = read_txn(rooms, txn).await?;
        return Ok(answers::txn(done, header(rooms, revision)));
    }
    let gives_values = requests::gives_values(&txn);
    match whole(rooms.write(None, Command::Txn(txn), deadline).await?, gives_values)? {
        (Done::Txn(done), header) => Ok(answers::txn(done, header)),
        (done, _) => Err(odd(&done).into()),
    }
}

async fn read_txn(rooms: &Rooms, txn: Txn) -> Result<(TxnDone, Revision), Trouble> {
    let weight = if requests::reads_keys(&txn) { Weight::Light } else { Weight::Heavy };
    let read = rooms.read(weight, move |view| Ok((view.txn(&txn)?, view.revision())));
    let (done, revision) = read.await?;
    Ok((done?, revision))
}

async fn compact(
    rooms: &Rooms,
    request: pb::CompactionRequest,
    deadline: Instant,
) -> Result<pb::CompactionResponse, Refused> {
    let command = Command::Compact { revision: Revision(request.revision), only_forward: true };
    match whole(rooms.write(None, command, deadline).await?, false)? {
        (Done::Compact, header) => Ok(pb::CompactionResponse { header: Some(header) }),
        (done, _) => Err(odd(&done).into()),
    }
}

/// What was done, unless it is remembered from an attempt whose answer was lost, and with it values that were asked for.
fn whole(written: Written, gives_values: bool) -> Result<(Done, pb::ResponseHeader), Refused> {
    if written.replayed && gives_values {
        return Err(errors::ANSWER_LOST);
    }
    Ok((written.done, same_header(written.header)))
}

#[tonic::async_trait]
impl Kv for KvDoor {
    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        unary(&self.0, request, range).await
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let rooms = Arc::clone(&self.0);
        unary(&self.0, request, move |_, request, deadline| range_stream::open(rooms, request, deadline)).await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        unary(&self.0, request, put).await
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        unary(&self.0, request, delete).await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        unary(&self.0, request, txn).await
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        unary(&self.0, request, compact).await
    }
}

//! `Election`: a contender for each lease, whose value is the candidate's.
//!
//! Invariants:
//! - The leader is the contender that was created first; its revision of creation is the term.
//! - Texts are the wire's; the code is `Unknown` where etcd's service passes a client library's error on.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::etcd::v3electionpb::election_server::Election;
use quorate_proto::etcd::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use quorate_proto::{Key, Revision};
use quorate_state::command::{Command, Delete, Span, Txn, TxnOp};
use quorate_state::outcome::KeyValue;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::errors::Refused;
use super::lock::{call, gone, passed_on, wanted};
use super::{answers, header, same_header, wants_leader};
use crate::api::deadline;
use crate::api::rooms::Rooms;
use crate::connection::Connection;
use crate::recipes::{self, Call, Contest, Observed, Observer, created_at};

/// The service.
pub struct ElectionDoor(pub Arc<Rooms>);

const NOT_LEADER: &str = "election: not leader";

const fn unknown(text: &'static str) -> Refused {
    Refused { code: Code::Unknown, text: std::borrow::Cow::Borrowed(text) }
}

/// The leadership that a request is about.
fn leadership(leader: Option<LeaderKey>) -> Result<LeaderKey, Refused> {
    leader.ok_or_else(|| unknown("\"leader\" field must be provided"))
}

async fn campaign(rooms: &Arc<Rooms>, call: Call, request: CampaignRequest) -> Result<CampaignResponse, Refused> {
    let contest = Contest::election(rooms, &request.name);
    let (lease, wanted) = wanted(&contest.name, request.lease, request.value, true)?;
    let held = recipes::acquire(&contest, call, &wanted).await.map_err(|error| gone(error, NOT_LEADER))?;
    let leader =
        LeaderKey { name: request.name, key: held.key.into_bytes(), rev: held.token.get(), lease: lease.get() };
    Ok(CampaignResponse { header: Some(header(rooms, held.revision)), leader: Some(leader) })
}

async fn proclaim(rooms: &Arc<Rooms>, request: ProclaimRequest, end: Instant) -> Result<ProclaimResponse, Refused> {
    let leader = leadership(request.leader)?;
    let (contest, key) = (Contest::election(rooms, &leader.name), Key::new(leader.key)?);
    // As on this wire: whoever has the key in that term, also one that waits.
    let written = recipes::proclaim(&contest, &key, Revision(leader.rev), request.value, true, end).await?;
    let written = written.ok_or_else(|| unknown(NOT_LEADER))?;
    Ok(ProclaimResponse { header: Some(same_header(written.header)) })
}

/// Takes the candidate away, if it is the one of that term.
pub fn resignation(request: ResignRequest) -> Result<Txn, Refused> {
    let leader = leadership(request.leader)?;
    let key = Key::new(leader.key)?;
    let delete = Delete::new(Span::Key(key.clone()));
    let compares = vec![created_at(&key, Revision(leader.rev))];
    Ok(Txn { compares, then: vec![TxnOp::Delete(delete)], otherwise: Vec::new() })
}

async fn resign(rooms: &Arc<Rooms>, request: ResignRequest, end: Instant) -> Result<ResignResponse, Refused> {
    let txn = resignation(request)?;
    let written = rooms.write(None, Command::Txn(txn), end).await?;
    Ok(ResignResponse { header: Some(same_header(written.header)) })
}

async fn leader(rooms: &Arc<Rooms>, request: LeaderRequest, end: Instant) -> Result<LeaderResponse, Refused> {
    rooms.barrier(end).await?;
    match Contest::election(rooms, &request.name).leader().await? {
        (Some(kv), revision) => Ok(response(rooms, revision, kv)),
        (None, _) => Err(unknown("election: no leader")),
    }
}

fn response(rooms: &Rooms, revision: Revision, kv: KeyValue) -> LeaderResponse {
    LeaderResponse { header: Some(header(rooms, revision)), kv: Some(answers::key_value(kv)) }
}

type Leaders = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

/// The leaders from now on. That nobody leads is not said on this wire.
async fn observe(rooms: &Arc<Rooms>, request: LeaderRequest, metadata: &MetadataMap) -> Result<Leaders, Status> {
    let end = deadline::of_request(metadata)?;
    let contest = Contest::election(rooms, &request.name);
    let begun = Observer::begin(contest, None, wants_leader(metadata), end).await;
    let (observer, first) = begun.map_err(|error| passed_on(rooms, gone(error, NOT_LEADER)))?;
    let rooms = Arc::clone(rooms);
    let stream = futures::stream::unfold((Some(observer), Some(first)), move |(observer, mut first)| {
        let rooms = Arc::clone(&rooms);
        async move {
            let mut observer = observer?;
            loop {
                let next = match first.take() {
                    Some(first) => Some(Ok(first)),
                    None => observer.next().await,
                };
                match next {
                    Some(Ok(Observed { leader: None, .. })) => {}
                    Some(Ok(Observed { revision, leader: Some(kv) })) => {
                        return Some((Ok(response(&rooms, revision, kv)), (Some(observer), None)));
                    }
                    Some(Err(error)) => return Some((Err(passed_on(&rooms, gone(error, NOT_LEADER))), (None, None))),
                    None => return Some((Err(super::errors::STOPPED.into()), (None, None))),
                }
            }
        }
    });
    Ok(Box::pin(stream))
}

#[tonic::async_trait]
impl Election for ElectionDoor {
    type ObserveStream = Leaders;

    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let call = call(&self.0, request.metadata(), Connection::of(&request))?;
        let won = campaign(&self.0, call, request.into_inner()).await;
        won.map(Response::new).map_err(|refused| passed_on(&self.0, refused))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        let done = proclaim(&self.0, request.into_inner(), end).await;
        done.map(Response::new).map_err(|refused| passed_on(&self.0, refused))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        let done = leader(&self.0, request.into_inner(), end).await;
        done.map(Response::new).map_err(|refused| passed_on(&self.0, refused))
    }

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        Ok(Response::new(observe(&self.0, request, &metadata).await?))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        let done = resign(&self.0, request.into_inner(), end).await;
        done.map(Response::new).map_err(|refused| passed_on(&self.0, refused))
    }
}

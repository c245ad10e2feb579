//! `Election`: campaign, proclaim, resign, who leads.
//!
//! Invariants:
//! - A leader's value is changed in its own term only.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::v1;
use quorate_proto::v1::election_server::Election;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::Put;
use quorate_state::outcome::KeyValue;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::contenders;
use crate::api::errors::Refusal;
use crate::api::rooms::Rooms;
use crate::api::{deadline, validate};
use crate::config::Limits;
use crate::connection::Connection;
use crate::recipes::{self, Bid, Call, Claim, Contest, Name, Observed, Observer, RecipeError, Wanted};

/// The service.
pub struct ElectionDoor(pub Arc<Rooms>);

/// What a candidate puts, and the lease that it has: a campaign, checked.
pub fn candidate(request: v1::CampaignRequest, limits: &Limits) -> Result<(Put, LeaseId), Refusal> {
    contenders::name(&request.name)?;
    let campaign = contenders::id("campaign_id", request.campaign_id)?;
    check_value(limits, &request.value)?;
    let (lease, owner) = contenders::owner(&request.name, campaign, request.lease_id, request.ttl_ms)?;
    Ok((Put::new(Name::new(&request.name).key(lease, Some(campaign))?, request.value, owner), lease))
}

/// The key and the term of a leadership that has something to say: a proclamation, checked.
pub fn leadership(request: &v1::ProclaimRequest, limits: &Limits) -> Result<(Key, Revision), Refusal> {
    contenders::name(&request.name)?;
    let campaign = contenders::id("campaign_id", request.campaign_id)?;
    check_value(limits, &request.value)?;
    let term = contenders::token("term", request.term)?;
    if term == Revision::ZERO {
        return Err(Refusal::invalid("term is 0; name the one that Campaign answered"));
    }
    let lease = contenders::lease(&request.name, campaign, request.lease_id);
    Ok((Name::new(&request.name).key(lease, Some(campaign))?, term))
}

async fn campaign(
    rooms: &Arc<Rooms>,
    call: Call,
    request: v1::CampaignRequest,
) -> Result<v1::CampaignResponse, Refusal> {
    let contest = Contest::election(rooms, &request.name);
    let acquire = request.campaign_id;
    let (put, lease) = candidate(request, &rooms.limits)?;
    // An attempt that comes late must not say what its leader has replaced since.
    let bid = Bid { put, companion: None, renews_value: false };
    let wanted = Wanted { bid, acquire, claim: Claim::Exclusive, try_only: false, reentrant: None };
    let held = recipes::acquire(&contest, call, &wanted).await?;
    Ok(v1::CampaignResponse {
        header: Some(rooms.header(held.revision)),
        key: held.key.into_bytes(),
        term: held.token.get(),
        lease_id: lease.get(),
    })
}

fn check_value(limits: &Limits, value: &[u8]) -> Result<(), Refusal> {
    let bytes_max = limits.value_bytes_max;
    if value.len() > bytes_max {
        return Err(Refusal::too_large(format!(
            "the value has {} bytes, at most {bytes_max} are allowed",
            value.len()
        )));
    }
    Ok(())
}

async fn proclaim(
    rooms: &Arc<Rooms>,
    request: v1::ProclaimRequest,
    end: Instant,
) -> Result<v1::ProclaimResponse, Refusal> {
    let (key, term) = leadership(&request, &rooms.limits)?;
    let contest = Contest::election(rooms, &request.name);
    match recipes::proclaim(&contest, &key, term, request.value, false, end).await? {
        Some(written) => Ok(v1::ProclaimResponse { header: Some(written.header) }),
        None => Err(RecipeError::Lost { what: "the leadership", name: contest.name.to_string() }.into()),
    }
}

async fn resign(rooms: &Arc<Rooms>, request: v1::ResignRequest, end: Instant) -> Result<v1::ResignResponse, Refusal> {
    contenders::name(&request.name)?;
    let acquire = contenders::id("campaign_id", request.campaign_id)?;
    let term = contenders::token("term", request.term)?;
    let lease = contenders::lease(&request.name, acquire, request.lease_id);
    let contest = Contest::election(rooms, &request.name);
    let (revision, resigned) = recipes::release(&contest, lease, acquire, term, end).await?;
    Ok(v1::ResignResponse { header: Some(rooms.header(revision)), resigned })
}

async fn leader(rooms: &Arc<Rooms>, request: v1::LeaderRequest, end: Instant) -> Result<v1::LeaderResponse, Refusal> {
    contenders::name(&request.name)?;
    rooms.fresh(request.read.as_ref(), end).await?;
    let (leader, revision) = Contest::election(rooms, &request.name).leader().await?;
    Ok(response(rooms, Observed { revision, leader }))
}

fn response(rooms: &Rooms, observed: Observed) -> v1::LeaderResponse {
    let leader = |kv: KeyValue| v1::Leader {
        key: kv.key.into_bytes(),
        lease_id: LeaseId::wire(kv.meta.lease),
        term: kv.meta.create_revision.get(),
        value: kv.value,
    };
    v1::LeaderResponse { header: Some(rooms.header(observed.revision)), leader: observed.leader.map(leader) }
}

type Leaders = Pin<Box<dyn Stream<Item = Result<v1::LeaderResponse, Status>> + Send>>;

async fn observe(rooms: &Arc<Rooms>, request: v1::ObserveRequest, end: Instant) -> Result<Leaders, Refusal> {
    contenders::name(&request.name)?;
    let min_revision = validate::at_revision(request.min_revision)?;
    let contest = Contest::election(rooms, &request.name);
    let (observer, first) = Observer::begin(contest, min_revision, true, end).await?;
    let rooms = Arc::clone(rooms);
    let stream = futures::stream::unfold((Some(observer), Some(first)), move |(observer, first)| {
        let rooms = Arc::clone(&rooms);
        async move {
            let mut observer = observer?;
            let next = match first {
                Some(first) => Ok(first),
                None => observer.next().await.unwrap_or_else(|| Err(crate::error::ConsensusError::ShuttingDown.into())),
            };
            match next {
                Ok(leader) => Some((Ok(response(&rooms, leader)), (Some(observer), None))),
                Err(error) => Some((Err(Refusal::from(error).into()), (None, None))),
            }
        }
    });
    Ok(Box::pin(stream))
}

#[tonic::async_trait]
impl Election for ElectionDoor {
    type ObserveStream = Leaders;

    async fn campaign(&self, request: Request<v1::CampaignRequest>) -> Result<Response<v1::CampaignResponse>, Status> {
        let connection = Connection::of(&request);
        let call = contenders::call(&self.0, request.metadata(), connection, request.get_ref().wait_ms)?;
        Ok(Response::new(campaign(&self.0, call, request.into_inner()).await?))
    }

    async fn proclaim(&self, request: Request<v1::ProclaimRequest>) -> Result<Response<v1::ProclaimResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(proclaim(&self.0, request.into_inner(), end).await?))
    }

    async fn resign(&self, request: Request<v1::ResignRequest>) -> Result<Response<v1::ResignResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(resign(&self.0, request.into_inner(), end).await?))
    }

    async fn leader(&self, request: Request<v1::LeaderRequest>) -> Result<Response<v1::LeaderResponse>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(leader(&self.0, request.into_inner(), end).await?))
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let end = deadline::of_request(request.metadata())?;
        Ok(Response::new(observe(&self.0, request.into_inner(), end).await?))
    }
}

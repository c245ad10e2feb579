//! `Maintenance`: status, alarms to read, hashes. What else an operator does goes through `quorate`.
//!
//! Invariants:
//! - Everything here is answered by this member alone, so that it can be asked when there is no quorum.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::maintenance_server::Maintenance;
use quorate_proto::{MemberId, Revision};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::errors::{self, Refused};
use super::{has_leader, header, unary};
use crate::api::errors::Trouble;
use crate::api::rooms::{Rooms, Weight};

/// The version of the wire that is spoken: clients decide by it what they may ask for.
const WIRE_VERSION: &str = "3.6.0";

/// What the wire says for the compaction mark of a store that was never compacted.
const NEVER_COMPACTED: i64 = -1;

/// The service.
pub struct MaintenanceDoor(pub Arc<Rooms>);

async fn status(rooms: &Rooms, _: pb::StatusRequest, _: Instant) -> Result<pb::StatusResponse, Refused> {
    let read =
        rooms.read(Weight::Light, |view| Ok((view.revision(), view.applied().map_or(0, |applied| applied.index))));
    let (revision, applied) = read.await?;
    let status = rooms.consensus.status();
    let own = status.members.iter().find(|member| member.id == rooms.identity.member_id);
    let store = rooms.consensus.store();
    let size = i64::try_from(store.bytes()).unwrap_or(i64::MAX);
    let free = rustix::fs::statvfs(store.path()).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let mut troubles = Vec::new();
    if !has_leader(rooms) {
        troubles.push(errors::NO_LEADER.text.into_owned());
    }
    for alarm in alarms_of(rooms) {
        troubles.push(format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name()));
    }
    Ok(pb::StatusResponse {
        header: Some(header(rooms, revision)),
        version: WIRE_VERSION.to_owned(),
        db_size: size,
        leader: status.leader.map_or(0, MemberId::get),
        raft_index: status.committed_index,
        raft_term: status.term,
        raft_applied_index: applied.max(status.applied_index),
        errors: troubles,
        db_size_in_use: size,
        is_learner: own.is_some_and(|own| own.learner),
        storage_version: WIRE_VERSION.to_owned(),
        // There is no quota: the disk is the bound.
        db_size_quota: size.saturating_add(i64::try_from(free).unwrap_or(i64::MAX)),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    })
}

fn alarms_of(rooms: &Rooms) -> Vec<pb::AlarmMember> {
    let raised = [
        (rooms.consensus.disk().is_short(), pb::AlarmType::Nospace),
        (rooms.consensus.diverged().is_some(), pb::AlarmType::Corrupt),
    ];
    let own = |(_, alarm): (bool, pb::AlarmType)| pb::AlarmMember {
        member_id: rooms.identity.member_id.get(),
        alarm: alarm.into(),
    };
    raised.into_iter().filter(|(raised, _)| *raised).map(own).collect()
}

async fn alarm(rooms: &Rooms, request: pb::AlarmRequest, _: Instant) -> Result<pb::AlarmResponse, Refused> {
    if request.action != pb::alarm_request::AlarmAction::Get as i32 {
        let instead = "alarms come and go with their cause";
        return Err(Refused::unimplemented("Maintenance.Alarm other than GET", instead));
    }
    let mut alarms = alarms_of(rooms);
    if request.alarm != pb::AlarmType::None as i32 {
        alarms.retain(|alarm| alarm.alarm == request.alarm);
    }
    Ok(pb::AlarmResponse { header: Some(header(rooms, rooms.hub.revision())), alarms })
}

/// The hash of what may be read up to `at`, with that revision, the mark and the store's revision.
async fn content(rooms: &Rooms, at: Option<Revision>) -> Result<(u32, Revision, Revision, Revision), Trouble> {
    let read = rooms.read(Weight::Heavy, move |view| {
        let hash = view.content_hash(at)?;
        let [high, low] = [hash >> 32, hash & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
        Ok((high ^ low, at.unwrap_or(view.revision()), view.compact_revision(), view.revision()))
    });
    read.await
}

async fn hash(rooms: &Rooms, _: pb::HashRequest, _: Instant) -> Result<pb::HashResponse, Refused> {
    let (hash, _, _, revision) = content(rooms, None).await?;
    Ok(pb::HashResponse { header: Some(header(rooms, revision)), hash })
}

async fn hash_kv(rooms: &Rooms, request: pb::HashKvRequest, _: Instant) -> Result<pb::HashKvResponse, Refused> {
    let at = (request.revision > 0).then_some(Revision(request.revision));
    let (hash, hashed, compacted, revision) = content(rooms, at).await?;
    Ok(pb::HashKvResponse {
        header: Some(header(rooms, revision)),
        hash,
        compact_revision: if compacted == Revision::ZERO { NEVER_COMPACTED } else { compacted.get() },
        hash_revision: hashed.get(),
    })
}

#[tonic::async_trait]
impl Maintenance for MaintenanceDoor {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        unary(&self.0, request, alarm).await
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        unary(&self.0, request, status).await
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        Err(Refused::unimplemented("Maintenance.Defragment", "the store gives space back by itself").into())
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        unary(&self.0, request, hash).await
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        unary(&self.0, request, hash_kv).await
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Refused::unimplemented("Maintenance.Snapshot", "use `quorate snapshot save`").into())
    }

    async fn move_leader(&self, _: Request<pb::MoveLeaderRequest>) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        Err(Refused::unimplemented("Maintenance.MoveLeader", "use `quorate member transfer`").into())
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(Refused::unimplemented("Maintenance.Downgrade", "install the other version, member by member").into())
    }
}

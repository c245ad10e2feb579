//! `Admin`: what an operator asks of one member.
//!
//! Invariants:
//! - Status is answered without a quorum, so that it can be asked when there is none.
//! - A snapshot holds everything that was acknowledged before it was asked for.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::MemberId;
use quorate_proto::v1;
use quorate_proto::v1::admin_server::Admin;
use quorate_state::digest::DigestMark;
use tonic::{Request, Response, Status};

use super::archive_stream;
use crate::api::errors::Refusal;
use crate::api::rooms::{Rooms, Weight};
use crate::api::{convert, deadline};

/// The service.
pub struct AdminDoor(pub Arc<Rooms>);

async fn status(rooms: &Rooms) -> Result<v1::StatusResponse, Refusal> {
    let read = rooms.read(Weight::Light, |view| {
        let (digest, applied) = (view.digest(), view.applied().map_or(0, |applied| applied.index));
        Ok((view.revision(), view.compact_revision(), digest, applied, view.state_version(), view.counts()))
    });
    let (revision, compacted, digest, applied, state_version, counts) = read.await?;
    let status = rooms.consensus.status();
    let own = status.members.iter().find(|member| member.id == rooms.identity.member_id).cloned();
    let learner = own.as_ref().is_some_and(|own| own.learner);
    let mut alarms = Vec::new();
    if *rooms.hub.contact_lost().borrow() {
        alarms.push("no leader was heard of lately".to_owned());
    }
    if let Some(log_index) = rooms.consensus.diverged() {
        alarms.push(format!("digests differ at log index {log_index} without a majority; writes are refused"));
    }
    if rooms.consensus.disk().is_short() {
        alarms.push("disk space is short; writes that grow the store are refused".to_owned());
    }
    if let Some(reason) = rooms.tasks.failed().borrow().clone() {
        alarms.push(reason);
    }
    Ok(v1::StatusResponse {
        header: Some(rooms.header(revision)),
        member: own.map(convert::member),
        leader_id: status.leader.map_or(0, MemberId::get),
        applied_index: applied.max(status.applied_index),
        committed_index: status.committed_index,
        last_log_index: status.last_log_index,
        compact_revision: compacted.get(),
        digest: digest.digest,
        digest_index: digest.index,
        store_bytes: rooms.consensus.store().bytes(),
        log_bytes: status.log_bytes,
        disk_free_bytes: archive_stream::free_bytes(rooms.consensus.store().path()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_version,
        keys: counts.keys,
        leases: counts.leases,
        watches: u64::try_from(rooms.hub.watches()).unwrap_or(u64::MAX),
        alarms,
        learner,
    })
}

async fn digest(rooms: &Rooms, log_index: u64) -> Result<v1::DigestResponse, Refusal> {
    let read = rooms.read(Weight::Light, |view| Ok((view.revision(), view.digest(), view.digests()?)));
    let (revision, newest, stored) = read.await?;
    let mark: DigestMark = if log_index == 0 {
        newest
    } else {
        let kept = [newest].into_iter().chain(stored).find(|mark| mark.index == log_index);
        kept.ok_or_else(|| {
            Refusal::invalid(format!(
                "no digest is kept for log index {log_index}; digests are kept every 1024 indexes, the last 64 of them"
            ))
        })?
    };
    Ok(v1::DigestResponse { header: Some(rooms.header(revision)), log_index: mark.index, digest: mark.digest })
}

#[tonic::async_trait]
impl Admin for AdminDoor {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::SnapshotChunk, Status>> + Send>>;

    async fn status(&self, _request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status(&self.0).await?))
    }

    async fn digest(&self, request: Request<v1::DigestRequest>) -> Result<Response<v1::DigestResponse>, Status> {
        Ok(Response::new(digest(&self.0, request.into_inner().log_index).await?))
    }

    async fn snapshot(&self, request: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let deadline = deadline::of_request(request.metadata())?;
        self.0.fresh(None, deadline).await?;
        Ok(Response::new(Box::pin(archive_stream::open(&self.0))))
    }
}

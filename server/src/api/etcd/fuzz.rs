//! Damaged requests of etcd's wire, transactions aside: refused, or what the log takes and gives back and the machine decides.
//! The first byte of an input says which request it is.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::{v3electionpb, v3lockpb};
use quorate_proto::{LeaseId, Revision};
use quorate_state::command::{Command, LeaseEnd};

use super::errors::{self, Refused};
use super::{election, lease, lock, requests, watch};
use crate::config::Limits;
use crate::fuzzing::{Decided, fuzz_requests};
use crate::recipes::Name;
use crate::watch::Scope;

#[test]
fn requests_of_etcds_wire() {
    let corpus = include_str!("../../../../tests/corpus/requests-etcd.txt");
    let (decided, limits) = (Decided::new(), Limits::default());
    let target = |input: &[u8]| {
        let Some((which, message)) = input.split_first() else { return false };
        let passed = match which {
            0 => passed(message, requests::range).map(|query| decided.read(&query)),
            1 => watched(message),
            _ => command(*which, message, &limits).map(|command| decided.decide(None, &command)),
        };
        passed.is_some()
    };
    fuzz_requests("requests of etcd's wire", corpus, target);
}

/// A watch, unless it is refused; its range has room for a key.
fn watched(message: &[u8]) -> Option<()> {
    match watch::spec(pb::WatchCreateRequest::decode(message).ok()?, Duration::from_mins(10)) {
        Ok(spec) => {
            if let Scope::Range { start, end } = spec.interest.scope {
                assert!(end.is_none_or(|end| start < end));
            }
            Some(())
        }
        Err(reason) => {
            assert!(!reason.is_empty());
            None
        }
    }
}

fn passed<M: Message + Default, T>(message: &[u8], check: impl FnOnce(M) -> Result<T, Refused>) -> Option<T> {
    match check(M::decode(message).ok()?) {
        Ok(passed) => Some(passed),
        Err(refused) => {
            assert!(!refused.text.is_empty());
            None
        }
    }
}

fn command(which: u8, message: &[u8], limits: &Limits) -> Option<Command> {
    match which {
        2 => passed(message, |request: pb::PutRequest| Ok(Command::Put(requests::put(request, limits)?))),
        3 => passed(message, |request: pb::DeleteRangeRequest| Ok(Command::Delete(requests::delete(request)?))),
        4 => passed(message, |request: pb::CompactionRequest| {
            Ok(Command::Compact { revision: Revision(request.revision), only_forward: true })
        }),
        5 => passed(message, |request: pb::LeaseGrantRequest| lease::granting(&request)),
        6 => passed(message, |request: pb::LeaseRevokeRequest| {
            let leases = vec![LeaseId::new(request.id).ok_or(errors::LEASE_NOT_FOUND)?];
            Ok(Command::LeaseRevoke { leases, cause: LeaseEnd::Asked })
        }),
        7 => passed(message, |request: v3lockpb::LockRequest| {
            let (_, wanted) = lock::wanted(&Name::new(&request.name), request.lease, Bytes::new(), false)?;
            Ok(Command::Put(wanted.bid.put))
        }),
        8 => passed(message, |request: v3electionpb::CampaignRequest| {
            let (_, wanted) = lock::wanted(&Name::new(&request.name), request.lease, request.value, true)?;
            Ok(Command::Put(wanted.bid.put))
        }),
        9 => passed(message, |request: v3electionpb::ResignRequest| Ok(Command::Txn(election::resignation(request)?))),
        _ => None,
    }
}

//! Every request of the API as a [`Call`]: how it is sent, and what sending it twice would do.
//!
//! Invariants:
//! - A request with an id slot is [`Safety::Id`]; of the others, those that change nothing are [`Safety::Read`].
//! - Only what ends in the same state however often it is sent is [`Safety::Same`].

use std::sync::Arc;

use futures::future::BoxFuture;
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::batch_answer::Answer;
use quorate_proto::v1::batch_item::Request;
use tokio::time::Instant;

use crate::endpoints::Endpoint;
use crate::error::{Error, Reason, Result};

/// What is larger gets a request of its own, so that it does not hold up others.
const BATCHED_BYTES_MAX: usize = 256 << 10;

/// What sending a request twice does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// Nothing: it is a read.
    Read,
    /// Nothing, because the cluster knows its id.
    Id,
    /// Nothing more than sending it once does, although it writes and has no id.
    Same,
    /// It may do its work twice.
    Once,
}

/// A request that is answered by one message.
pub(crate) trait Call: Clone + Send + Sync + 'static {
    /// The answer.
    type Answer: Send + 'static;

    /// What sending it twice does.
    fn safety(&self) -> Safety;

    /// Where the write id goes.
    fn id_slot(&mut self) -> Option<&mut Option<v1::WriteId>> {
        None
    }

    /// The log index that an answer carries; 0 for none.
    fn log_index(_: &Self::Answer) -> u64 {
        0
    }

    /// One attempt.
    fn send(
        self,
        endpoint: Arc<Endpoint>,
        deadline: Instant,
        batching: bool,
    ) -> BoxFuture<'static, Result<Self::Answer>>;
}

/// A request with the time that the member has for it.
fn timed<T>(message: T, deadline: Instant) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

macro_rules! send {
    ($service:ident . $method:ident) => {
        fn send(self, endpoint: Arc<Endpoint>, deadline: Instant, _: bool) -> BoxFuture<'static, Result<Self::Answer>> {
            Box::pin(async move {
                let answer = endpoint.$service().$method(timed(self, deadline)).await;
                answer.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status, &endpoint.address))
            })
        }
    };
    ($service:ident . $method:ident, $kind:ident) => {
        fn send(
            self,
            endpoint: Arc<Endpoint>,
            deadline: Instant,
            batching: bool,
        ) -> BoxFuture<'static, Result<Self::Answer>> {
            Box::pin(async move {
                if batching && self.encoded_len() <= BATCHED_BYTES_MAX {
                    match endpoint.lane().call(Request::$kind(self.clone()), deadline).await {
                        Ok(Answer::$kind(answer)) => return Ok(answer),
                        Ok(_) => return Err(Error::protocol(&endpoint.address, "an answer is of another kind")),
                        Err(error) if error.reason() == Some(Reason::Unimplemented) => {}
                        Err(error) => return Err(error),
                    }
                }
                let answer = endpoint.$service().$method(timed(self, deadline)).await;
                answer.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status, &endpoint.address))
            })
        }
    };
}

macro_rules! write {
    () => {
        fn id_slot(&mut self) -> Option<&mut Option<v1::WriteId>> {
            Some(&mut self.id)
        }

        fn log_index(answer: &Self::Answer) -> u64 {
            answer.log_index
        }
    };
}

macro_rules! calls {
    ($($service:ident . $method:ident $($kind:ident)?, $request:ident => $answer:ident, $safety:ident $(, $write:ident)?;)*) => {$(
        impl Call for v1::$request {
            type Answer = v1::$answer;

            fn safety(&self) -> Safety {
                Safety::$safety
            }

            $($write!();)?
            send!($service.$method $(, $kind)?);
        }
    )*};
}

calls! {
    kv.get Get, GetRequest => GetResponse, Read;
    kv.put Put, PutRequest => PutResponse, Id, write;
    kv.delete Delete, DeleteRequest => DeleteResponse, Id, write;
    kv.range Range, RangeRequest => RangeResponse, Read;
    kv.list, ListRequest => ListResponse, Read;
    kv.stat, StatRequest => StatResponse, Read;
    kv.copy, CopyRequest => CopyResponse, Id, write;
    kv.r#move, MoveRequest => MoveResponse, Id, write;
    kv.compact, CompactRequest => CompactResponse, Id, write;
    lease.grant, GrantRequest => GrantResponse, Id, write;
    lease.revoke, RevokeRequest => RevokeResponse, Id, write;
    lease.time_to_live, TimeToLiveRequest => TimeToLiveResponse, Read;
    lease.list_leases, ListLeasesRequest => ListLeasesResponse, Read;
    cluster.member_list, MemberListRequest => MemberListResponse, Read;
    cluster.member_add, MemberAddRequest => MemberAddResponse, Once;
    cluster.member_promote, MemberPromoteRequest => MemberPromoteResponse, Once;
    cluster.member_remove, MemberRemoveRequest => MemberRemoveResponse, Once;
    cluster.transfer_leader, TransferLeaderRequest => TransferLeaderResponse, Once;
    lock.downgrade, DowngradeRequest => DowngradeResponse, Same;
    lock.describe, DescribeLockRequest => DescribeLockResponse, Read;
    lock.force_release, ForceReleaseRequest => ForceReleaseResponse, Same;
    election.leader, LeaderRequest => LeaderResponse, Read;
    discovery.resolve, ResolveRequest => ResolveResponse, Read;
    discovery.services, ServicesRequest => ServicesResponse, Read;
    discovery.deregister, DeregisterRequest => DeregisterResponse, Same;
    discovery.report_health, ReportHealthRequest => ReportHealthResponse, Same;
    discovery.set_maintenance, SetMaintenanceRequest => SetMaintenanceResponse, Same;
    admin.status, StatusRequest => StatusResponse, Read;
    admin.digest, DigestRequest => DigestResponse, Read;
}

impl Call for v1::TxnRequest {
    type Answer = v1::TxnResponse;

    /// A transaction that only reads needs no id.
    fn safety(&self) -> Safety {
        if self.then.iter().chain(&self.otherwise).any(writes) { Safety::Id } else { Safety::Read }
    }

    write!();
    send!(kv.txn, Txn);
}

fn writes(op: &v1::TxnOp) -> bool {
    use v1::txn_op::Op;
    match &op.op {
        Some(Op::Put(_) | Op::Delete(_)) => true,
        Some(Op::Txn(txn)) => txn.then.iter().chain(&txn.otherwise).any(writes),
        Some(Op::Get(_) | Op::Range(_)) | None => false,
    }
}

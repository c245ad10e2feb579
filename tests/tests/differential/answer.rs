//! What a server answered to a step, in a form that can be compared.
//!
//! Invariants:
//! - Nothing that may be compared is lost: only ids and terms (present or not), the ids of leases that the server chose,
//!   remaining times (within what was granted), and the order of what has none (leases, keys of a lease) are evened out.

use std::collections::BTreeMap;

use quorate_proto::etcd::etcdserverpb::response_op::Response;
use quorate_proto::etcd::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseRevokeResponse, LeaseTimeToLiveResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
    WatchResponse,
};
use quorate_proto::etcd::mvccpb::{Event, KeyValue};
use tonic::{Code, Status};

use super::step::shown;

/// Stands for the id of a lease that the server chose.
pub const CHOSEN_BY_SERVER: i64 = -7_777;

/// Stands for a remaining time that is within what was granted.
pub const SOME_TIME_LEFT: i64 = 7_777_777;

/// The answer to one step and what was watched until its changes had arrived everywhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub reply: Reply,
    /// By stream and watch id; the order between watches is nobody's promise.
    pub watched: BTreeMap<(usize, i64), Vec<WatchResponse>>,
}

/// The direct answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The step has none.
    Done,
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
    KeepAlive(LeaseKeepAliveResponse),
    Many(Vec<Reply>),
    Refused {
        code: Code,
        message: String,
    },
    /// Nothing came, and that is an answer too.
    Silence(&'static str),
    /// Something had to come and did not; never equal to anything.
    Lost(String),
}

impl Reply {
    /// Whether something that had to come did not.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Many(all) => all.iter().any(Self::is_lost),
            _ => false,
        }
    }
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// Evens out what differs between any two servers; revisions are counted from `base`.
#[derive(Clone, Copy)]
pub struct Lens {
    pub base: i64,
}

impl Lens {
    fn header(self, header: &mut Option<ResponseHeader>) {
        if let Some(h) = header {
            h.revision = shown(h.revision, self.base);
            h.cluster_id = h.cluster_id.min(1);
            h.member_id = h.member_id.min(1);
            h.raft_term = h.raft_term.min(1);
        }
    }

    fn kv(self, kv: &mut KeyValue) {
        kv.create_revision = shown(kv.create_revision, self.base);
        kv.mod_revision = shown(kv.mod_revision, self.base);
    }

    fn range(self, response: &mut RangeResponse) {
        self.header(&mut response.header);
        response.kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    fn put(self, response: &mut PutResponse) {
        self.header(&mut response.header);
        response.prev_kv.iter_mut().for_each(|kv| self.kv(kv));
    }

    fn delete(self, response: &mut DeleteRangeResponse) {
        self.header(&mut response.header);
        response.prev_kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    fn txn(self, response: &mut TxnResponse) {
        self.header(&mut response.header);
        for op in &mut response.responses {
            match &mut op.response {
                Some(Response::ResponseRange(response)) => self.range(response),
                Some(Response::ResponsePut(response)) => self.put(response),
                Some(Response::ResponseDeleteRange(response)) => self.delete(response),
                Some(Response::ResponseTxn(response)) => self.txn(response),
                None => {}
            }
        }
    }

    fn event(self, event: &mut Event) {
        event.kv.iter_mut().chain(&mut event.prev_kv).for_each(|kv| self.kv(kv));
    }

    /// A response of a watch.
    pub fn watched(self, mut response: WatchResponse) -> WatchResponse {
        self.header(&mut response.header);
        response.compact_revision = shown(response.compact_revision, self.base);
        response.events.iter_mut().for_each(|event| self.event(event));
        response
    }

    /// A direct answer. `chosen` says whether the request named the lease.
    pub fn reply(self, mut reply: Reply, chosen: bool) -> Reply {
        match &mut reply {
            Reply::Range(response) => self.range(response),
            Reply::Put(response) => self.put(response),
            Reply::Delete(response) => self.delete(response),
            Reply::Txn(response) => self.txn(response),
            Reply::Compact(response) => self.header(&mut response.header),
            Reply::Revoke(response) => self.header(&mut response.header),
            Reply::KeepAlive(response) => self.header(&mut response.header),
            Reply::Grant(response) => {
                self.header(&mut response.header);
                if !chosen && response.id > 0 {
                    response.id = CHOSEN_BY_SERVER;
                }
            }
            Reply::TimeToLive(response) => {
                self.header(&mut response.header);
                response.keys.sort();
                if (0..=response.granted_ttl).contains(&response.ttl) {
                    response.ttl = SOME_TIME_LEFT;
                }
            }
            Reply::Leases(response) => {
                self.header(&mut response.header);
                // Sequences name leases below 1000; what servers choose is large.
                response
                    .leases
                    .iter_mut()
                    .filter(|lease| lease.id > 1000)
                    .for_each(|lease| lease.id = CHOSEN_BY_SERVER);
                response.leases.sort_by_key(|lease| lease.id);
            }
            Reply::Many(replies) => {
                for one in replies {
                    *one = self.reply(one.clone(), chosen);
                }
            }
            Reply::Done | Reply::Refused { .. } | Reply::Silence(_) | Reply::Lost(_) => {}
        }
        reply
    }
}

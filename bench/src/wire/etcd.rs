//! A client of etcd's wire, used for etcd and for Quorate's door alike.
//!
//! Invariants:
//! - Every watch is a stream of its own.

use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcd::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcd::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcd::v3lockpb;
use quorate_proto::etcd::v3lockpb::lock_client::LockClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::cluster::Standing;
use crate::failure::{Failure, Result, call, wrong};
use crate::wire::Service;

/// Bytes that a member may send ahead on one stream, and on one connection: as Quorate's own client has it.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Keep-alives that may wait to be sent.
const KEEP_ALIVES_WAITING: usize = 1;

/// One connection.
#[derive(Clone)]
pub struct EtcdWire(Channel);

/// One watch; the sender keeps its stream open.
pub struct EtcdWatch {
    answers: tonic::Streaming<pb::WatchResponse>,
    _requests: mpsc::Sender<pb::WatchRequest>,
}

/// A stream of keep-alives.
pub struct KeepAlives {
    channel: Channel,
    /// Opened by the first request: etcd does not answer a stream before it has one.
    stream: Option<KeepAliveStream>,
}

struct KeepAliveStream {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: tonic::Streaming<pb::LeaseKeepAliveResponse>,
}

async fn channel(address: SocketAddrV4) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(call("naming an endpoint"))?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    endpoint.connect().await.map_err(call("connecting"))
}

fn put(key: Bytes, value: Bytes, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key, value, lease, ..Default::default() }
}

fn op(put: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

/// Every answer of the key space has a header with a revision.
fn revision(header: Option<pb::ResponseHeader>) -> Result<i64> {
    header.map(|header| header.revision).ok_or_else(|| Failure::Wrong("an answer has no header".to_owned()))
}

impl EtcdWire {
    pub async fn open(address: SocketAddrV4) -> Result<Self> {
        Ok(Self(channel(address).await?))
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.0.clone())
    }

    pub async fn put(&self, key: Bytes, value: Bytes, lease: i64) -> Result<i64> {
        let answer = self.kv().put(put(key, value, lease)).await.map_err(call("put"))?.into_inner();
        revision(answer.header)
    }

    pub async fn get(&self, key: Bytes, serializable: bool) -> Result<Option<(Bytes, i64)>> {
        let request = pb::RangeRequest { key, serializable, ..Default::default() };
        let answer = self.kv().range(request).await.map_err(call("get"))?.into_inner();
        Ok(answer.kvs.into_iter().next().map(|kv| (kv.value, kv.mod_revision)))
    }

    pub async fn range(&self, from: Bytes, end: Bytes, limit: u64) -> Result<(u64, u64)> {
        let limit = limit.cast_signed();
        let request = pb::RangeRequest { key: from, range_end: end, limit, ..Default::default() };
        let answer = self.kv().range(request).await.map_err(call("range"))?.into_inner();
        let bytes: usize = answer.kvs.iter().map(|kv| kv.value.len()).sum();
        Ok((answer.kvs.len() as u64, bytes as u64))
    }

    pub async fn compare_and_put(&self, key: Bytes, value: Bytes, expected: i64) -> Result<Option<i64>> {
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(expected)),
            ..Default::default()
        };
        let request = pb::TxnRequest { compare: vec![compare], success: vec![op(put(key, value, 0))], failure: vec![] };
        let answer = self.kv().txn(request).await.map_err(call("compare-and-put"))?.into_inner();
        Ok(if answer.succeeded { Some(revision(answer.header)?) } else { None })
    }

    pub async fn fill(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<()> {
        let success = pairs.into_iter().map(|(key, value)| op(put(key, value, 0))).collect();
        let request = pb::TxnRequest { success, ..Default::default() };
        self.kv().txn(request).await.map_err(call("filling"))?;
        Ok(())
    }

    pub async fn grant(&self, ttl: Duration) -> Result<i64> {
        let request = pb::LeaseGrantRequest { ttl: ttl.as_secs().cast_signed(), id: 0 };
        let mut client = LeaseClient::new(self.0.clone());
        Ok(client.lease_grant(request).await.map_err(call("lease grant"))?.into_inner().id)
    }

    pub async fn revoke(&self, lease: i64) -> Result<()> {
        let request = pb::LeaseRevokeRequest { id: lease };
        LeaseClient::new(self.0.clone()).lease_revoke(request).await.map_err(call("lease revoke"))?;
        Ok(())
    }

    pub async fn leases(&self) -> Result<usize> {
        let mut client = LeaseClient::new(self.0.clone());
        let answer = client.lease_leases(pb::LeaseLeasesRequest {}).await.map_err(call("listing leases"))?;
        Ok(answer.into_inner().leases.len())
    }

    pub fn keep_alives(&self) -> KeepAlives {
        KeepAlives { channel: self.0.clone(), stream: None }
    }

    pub async fn lock(&self, name: Bytes, lease: i64) -> Result<Bytes> {
        let request = v3lockpb::LockRequest { name, lease };
        Ok(LockClient::new(self.0.clone()).lock(request).await.map_err(call("lock"))?.into_inner().key)
    }

    pub async fn unlock(&self, key: Bytes) -> Result<()> {
        let request = v3lockpb::UnlockRequest { key };
        LockClient::new(self.0.clone()).unlock(request).await.map_err(call("unlock"))?;
        Ok(())
    }

    pub async fn compact(&self, revision: i64) -> Result<()> {
        let request = pb::CompactionRequest { revision, physical: false };
        self.kv().compact(request).await.map_err(call("compaction"))?;
        Ok(())
    }

    pub async fn watch(&self, key: Bytes, end: Option<Bytes>) -> Result<EtcdWatch> {
        watch(self.0.clone(), key, end.unwrap_or_default()).await.map_err(call("watch"))
    }
}

async fn watch(channel: Channel, key: Bytes, range_end: Bytes) -> std::result::Result<EtcdWatch, Status> {
    let (requests, queue) = mpsc::channel(1);
    let create = pb::WatchCreateRequest { key, range_end, ..Default::default() };
    let request = pb::watch_request::RequestUnion::CreateRequest(create);
    // There is room for it: the queue is new.
    let _ = requests.try_send(pb::WatchRequest { request_union: Some(request) });
    let mut answers = WatchClient::new(channel).watch(ReceiverStream::new(queue)).await?.into_inner();
    match answers.message().await? {
        Some(answer) if answer.created && !answer.canceled => Ok(EtcdWatch { answers, _requests: requests }),
        answer => Err(Status::aborted(format!("the watch was not created: {answer:?}"))),
    }
}

impl KeepAlives {
    /// Renews a lease, which must exist.
    pub async fn renew(&mut self, lease: i64) -> Result<()> {
        let request = pb::LeaseKeepAliveRequest { id: lease };
        let answers = if let Some(stream) = &mut self.stream {
            stream.requests.send(request).await.map_err(call("keep-alive"))?;
            &mut stream.answers
        } else {
            let (requests, queue) = mpsc::channel(KEEP_ALIVES_WAITING);
            requests.send(request).await.map_err(call("keep-alive"))?;
            let opened = LeaseClient::new(self.channel.clone()).lease_keep_alive(ReceiverStream::new(queue)).await;
            let answers = opened.map_err(call("keep-alive"))?.into_inner();
            &mut self.stream.insert(KeepAliveStream { requests, answers }).answers
        };
        match answers.message().await.map_err(call("keep-alive"))? {
            Some(answer) if answer.id == lease && answer.ttl > 0 => Ok(()),
            Some(answer) if answer.id == lease => wrong("a lease that is kept alive has ended"),
            answer => wrong(format!("a keep-alive was answered by {answer:?}")),
        }
    }
}

impl EtcdWatch {
    pub async fn next(&mut self) -> Result<Vec<Bytes>> {
        match self.answers.message().await.map_err(call("watching"))? {
            Some(answer) if !answer.canceled => {
                Ok(answer.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.value).collect())
            }
            answer => wrong(format!("a watch ended: {answer:?}")),
        }
    }
}

pub async fn standing(address: SocketAddrV4) -> Result<Standing> {
    let mut client = MaintenanceClient::new(channel(address).await?);
    let answer = client.status(pb::StatusRequest {}).await.map_err(call("status"))?.into_inner();
    let header = answer.header.unwrap_or_default();
    Ok(Standing { member: header.member_id, leader: answer.leader, term: answer.raft_term })
}

fn absent() -> Bytes {
    Bytes::from_static(b"/bench/absent")
}

pub async fn is_served(service: Service, address: SocketAddrV4) -> Result<bool> {
    let channel = channel(address).await?;
    let key = Bytes::from_static(b"/");
    let answer = match service {
        Service::Kv => {
            let request = pb::RangeRequest { key, serializable: true, ..Default::default() };
            KvClient::new(channel).range(request).await.err()
        }
        Service::Lease => LeaseClient::new(channel).lease_leases(pb::LeaseLeasesRequest {}).await.err(),
        Service::Watch => watch(channel, key, Bytes::new()).await.err(),
        // Of a key that is not there, which does nothing.
        Service::Lock => LockClient::new(channel).unlock(v3lockpb::UnlockRequest { key: absent() }).await.err(),
    };
    match answer {
        None => Ok(true),
        Some(status) if status.code() == Code::Unimplemented => Ok(false),
        Some(status) => Err(call("asking what is served of etcd's wire")(status)),
    }
}

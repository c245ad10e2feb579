//! Quorate's own client, as a user has it: concurrent calls share messages.
//!
//! Invariants:
//! - Each client knows one member only, so it is one connection and never goes elsewhere.

use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use quorate::{
    Client, Compare, Instance, LeaseGuard, LeaseId, LockGuard, Op, Relation, Revision, ServiceChange, ServiceWatch,
    Txn, WatchStream,
};
use quorate_proto::v1::StatusRequest;
use quorate_proto::v1::admin_client::AdminClient;
use tonic::transport::Endpoint;

use crate::cluster::Standing;
use crate::failure::{Failure, Result, call, wrong};
use crate::plan::{LEASE_TTL, PATIENCE};

/// One connection.
#[derive(Clone)]
pub struct Native(Client);

/// One watch of a service.
pub struct NativeServiceWatch(ServiceWatch);

/// Who takes locks.
pub struct NativeLocker {
    session: LeaseGuard,
    held: Option<LockGuard>,
}

/// One watch.
pub struct NativeWatch(WatchStream);

impl Native {
    pub fn open(address: SocketAddrV4) -> Result<Self> {
        let builder = Client::builder().endpoints([address.to_string()]).deadline(PATIENCE);
        Ok(Self(builder.build().map_err(call("making a client"))?))
    }

    pub async fn put(&self, key: Bytes, value: Bytes, lease: i64) -> Result<i64> {
        let put = self.0.put(key, value);
        let put = if let Some(lease) = LeaseId::new(lease) { put.lease(lease) } else { put };
        Ok(put.await.map_err(call("put"))?.header.revision.get())
    }

    pub async fn get(&self, key: Bytes, serializable: bool) -> Result<Option<(Bytes, i64)>> {
        let get = self.0.get(key);
        let answer = if serializable { get.serializable() } else { get }.await.map_err(call("get"))?;
        Ok(answer.kv.map(|kv| (kv.value, kv.mod_revision.get())))
    }

    pub async fn range(&self, from: Bytes, end: Bytes, limit: u64) -> Result<(u64, u64)> {
        let answer = self.0.range(from, end).limit(limit).await.map_err(call("range"))?;
        let bytes: usize = answer.kvs.iter().map(|kv| kv.value.len()).sum();
        Ok((answer.kvs.len() as u64, bytes as u64))
    }

    pub async fn compare_and_put(&self, key: Bytes, value: Bytes, expected: i64) -> Result<Option<i64>> {
        let compare = Compare::mod_revision(&key, Relation::Equal, Revision(expected));
        let txn = Txn::when(compare).then(Op::put(key, value));
        let answer = self.0.txn(txn).await.map_err(call("compare-and-put"))?;
        Ok(answer.succeeded.then(|| answer.header.revision.get()))
    }

    pub async fn fill(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<()> {
        let txn = pairs.into_iter().fold(Txn::new(), |txn, (key, value)| txn.then(Op::put(key, value)));
        self.0.txn(txn).await.map_err(call("filling"))?;
        Ok(())
    }

    pub async fn grant(&self, ttl: Duration) -> Result<i64> {
        let granted = self.0.lease(ttl).grant_unattended().await.map_err(call("lease grant"))?;
        Ok(granted.id.get())
    }

    pub async fn come_and_go(&self, service: &str, id: &str) -> Result<()> {
        let instance = Instance::new(service, id).address("127.0.0.1").port(8080).metadata("rest", "x".repeat(150));
        let registration = self.0.register(instance).await.map_err(call("register"))?;
        let was_there = registration.deregister().await.map_err(call("deregister"))?;
        if was_there { Ok(()) } else { wrong("an instance was gone before it was deregistered") }
    }

    pub async fn resolve(&self, service: &str) -> Result<usize> {
        Ok(self.0.service(service).resolve().await.map_err(call("resolve"))?.instances.len())
    }

    pub async fn watch_service(&self, service: &str) -> Result<NativeServiceWatch> {
        let mut watch = NativeServiceWatch(self.0.service(service).watch());
        // The snapshot: what comes after it is new.
        watch.change().await?;
        Ok(watch)
    }

    pub async fn leases(&self) -> Result<usize> {
        Ok(self.0.leases().await.map_err(call("listing leases"))?.len())
    }

    pub async fn locker(&self) -> Result<NativeLocker> {
        let session = self.0.lease(LEASE_TTL).grant().await.map_err(call("lease grant"))?;
        Ok(NativeLocker { session, held: None })
    }

    pub async fn lock(&self, name: Bytes, locker: &mut NativeLocker) -> Result<()> {
        let lock = self.0.lock(name).session(&locker.session);
        locker.held = Some(lock.acquire().await.map_err(call("lock"))?);
        Ok(())
    }

    pub async fn compact(&self, revision: i64) -> Result<()> {
        self.0.compact(Revision(revision)).await.map_err(call("compaction"))?;
        Ok(())
    }

    pub async fn watch(&self, key: Bytes, end: Option<Bytes>) -> Result<NativeWatch> {
        let watch = self.0.watch(key);
        let watch = if let Some(end) = end { watch.range_to(end) } else { watch };
        Ok(NativeWatch(watch.start().await.map_err(call("watch"))?))
    }
}

impl NativeLocker {
    pub async fn unlock(&mut self) -> Result<()> {
        match self.held.take() {
            Some(guard) => guard.release().await.map_err(call("unlock")),
            None => wrong("nothing is held"),
        }
    }
}

impl NativeServiceWatch {
    async fn change(&mut self) -> Result<ServiceChange> {
        match self.0.next().await {
            Some(change) => change.map_err(call("watching a service")),
            None => wrong("a watch of a service ended"),
        }
    }

    /// Weights of what changed.
    pub async fn next(&mut self) -> Result<Vec<u64>> {
        Ok(self.change().await?.changed.iter().map(|instance| u64::from(instance.weight)).collect())
    }
}

impl NativeWatch {
    pub async fn next(&mut self) -> Result<Vec<Bytes>> {
        match self.0.next().await {
            Some(Ok(events)) => Ok(events.events.into_iter().map(|event| event.kv.value).collect()),
            Some(Err(error)) => Err(call("watching")(error)),
            None => wrong("a watch ended"),
        }
    }
}

pub async fn standing(address: SocketAddrV4) -> Result<Standing> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(call("naming an endpoint"))?;
    let channel = endpoint.connect().await.map_err(call("connecting"))?;
    let answer = AdminClient::new(channel).status(StatusRequest {}).await.map_err(call("status"))?.into_inner();
    let member = answer.member.ok_or_else(|| Failure::Wrong("a status names no member".to_owned()))?;
    let header = answer.header.unwrap_or_default();
    Ok(Standing { member: member.id, leader: answer.leader_id, term: header.raft_term })
}

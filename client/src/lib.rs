//! The client library of Quorate, a coordination service: a tree of keys, transactions, leases and watches over Raft.
//!
//! A [`Client`] talks to any member of a cluster and goes to another when one fails. Every call has a deadline, is
//! retried while that is safe, and says in its error what to do next ([`Error::kind`]). Writes carry a request id, so
//! that a write that is sent twice is applied once.
//!
//! ```no_run
//! use quorate::Client;
//!
//! # async fn example() -> quorate::Result<()> {
//! let client = Client::connect(["127.0.0.1:2379"]).await?;
//! client.put("/config/db/url", "postgres://db").await?;
//! if let Some(kv) = client.get("/config/db/url").await?.kv {
//!     println!("{} = {}", kv.key_text(), kv.value_text());
//! }
//! # Ok(()) }
//! ```
//!
//! | Wanted | Call |
//! |---|---|
//! | one key | [`Client::put`], [`Client::get`], [`Client::delete`] |
//! | many keys in order | [`Client::prefix`], [`Client::range`] |
//! | a directory | [`Client::list`], [`Client::stat`], [`Client::copy`], [`Client::rename`] |
//! | all or nothing | [`Client::txn`] with a [`Txn`] |
//! | changes as they happen | [`Client::watch`] |
//! | a subtree kept in memory | [`Client::reflector`] |
//! | keys that end with this process | [`Client::lease`] |
//! | one at a time, or so many | [`Client::lock`], [`Client::with_lock`], [`Client::multi_lock`] |
//! | one that leads | [`Client::election`] |
//! | late writers kept out of other resources | [`FenceGate`], with a lock's token |
//! | waiting for each other, counting, handing over | [`Client::barrier`], [`Client::double_barrier`], [`Client::counter`], [`Client::queue`] |
//! | to be found by others | [`Client::register`] |
//! | to find and call others | [`Client::service`] |
//!
//! Invariants:
//! - A write that may have been applied is sent again only under the same request id.
//! - Dropping a future of this library stops its waiting, not what the cluster already does: a write that was sent
//!   may still be applied. Dropping never corrupts the state of the client.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod admin;
mod call;
mod claim;
mod client;
mod cluster;
mod config;
mod discovery;
mod election;
mod endpoints;
mod error;
mod fence;
mod kv;
mod lane;
mod lease;
mod lock;
mod recipes;
mod reflector;
mod tasks;
mod txn;
mod types;
mod watch;
mod write_id;

pub use admin::{Digest, Snapshot, Status};
pub use bytes::Bytes;
pub use client::Client;
pub use cluster::{Member, Members};
pub use config::ClientBuilder;
pub use discovery::{
    BalancePolicy, Balanced, BreakerState, ChannelSnapshot, CheckKind, Health, HealthCheck, Idempotent, Instance,
    InstanceStatus, Instances, LiveSet, Register, Registration, RegistrationState, RegistrationStatus, Resilient,
    ResilientLayer, Resolved, Service, ServiceChange, ServiceChannel, ServiceDiscover, ServiceSummary, ServiceWatch,
    Services, ServicesPage, Transport,
};
pub use election::{Election, Leader, Leaders, Leadership};
pub use error::{Error, ErrorKind, Happened, Lost, Reason, Refusal, Result};
pub use fence::{FenceGate, FenceGates, Fenced};
pub use kv::{
    Child, Compact, CompactResponse, CopyTree, CopyTreeResponse, Cursor, Delete, DeleteResponse, Directory, Get,
    GetResponse, KeyValues, List, ListChildren, ListResponse, Put, PutResponse, Range, RangeResponse, Stat,
    StatResponse,
};
pub use lease::{GrantLease, GrantedLease, LeaseGuard, Leases, LeasesPage, TimeToLive, TimeToLiveResponse};
pub use lock::{Contender, ForceRelease, Lock, LockGuard, LockInfo, LockInfoCall, LockMode};
pub use quorate_proto::{ClientId, Key, KeyError, LeaseId, MemberId, Path, PathError, Revision, Token};
pub use recipes::{Barrier, Counter, DoubleBarrier, MultiLock, MultiLockGuard, Queue, QueueFull};
pub use reflector::{Change, Changes, Reflector, ReflectorBuilder, Tree};
pub use txn::{Compare, Op, OpResult, Relation, Txn, TxnCall, TxnResponse};
pub use types::{Header, IntoBytes, KeyValue};
pub use watch::{Event, EventKind, Watch, WatchEvents, WatchStream};
pub use write_id::WriteId;

#[cfg(test)]
mod fake;

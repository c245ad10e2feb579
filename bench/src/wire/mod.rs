//! The clients that a cluster is driven with: etcd's wire (the same code for both systems) and Quorate's own client.
//!
//! Invariants:
//! - One `Connection` is one TCP connection to one member, whatever the client.
//! - An answer that is not what the caller must get (a missing key, a value of another length, a compare that did not
//!   hold) is a failure, so no operation counts that did not do its work.

mod etcd;
mod native;

use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;

pub use self::etcd::KeepAlives;
use crate::cluster::{Standing, System};
use crate::failure::{Failure, Result, call, wrong};
use crate::plan::{LEASE_TTL, VALUE_BYTES};
use crate::works::discovery;

/// One connection.
#[derive(Clone)]
pub enum Connection {
    /// On etcd's wire.
    Etcd(etcd::EtcdWire),
    /// Quorate's client.
    Native(native::Native),
}

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// etcd's wire.
    Etcd,
    /// Quorate's client.
    Native,
}

/// Parts of etcd's wire that works need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Keys.
    Kv,
    /// Leases.
    Lease,
    /// Watches.
    Watch,
    /// Locks.
    Lock,
}

/// A watch of one key or several, or of one service.
pub enum Watcher {
    /// On etcd's wire.
    Etcd(Box<etcd::EtcdWatch>),
    /// Quorate's client.
    Native(native::NativeWatch),
    /// The keys of a service, on etcd's wire.
    EtcdService(Box<etcd::EtcdWatch>),
    /// A service, with Quorate's client.
    NativeService(native::NativeServiceWatch),
}

/// Who takes locks.
pub enum Locker {
    /// On etcd's wire.
    Etcd {
        /// Of the contender.
        lease: i64,
        /// The contender's key.
        held: Option<Bytes>,
    },
    /// Quorate's client.
    Native(native::NativeLocker),
}

/// Runs the call on whichever client it is.
macro_rules! either {
    ($self:ident, $wire:ident => $call:expr) => {
        match $self {
            Self::Etcd($wire) => $call.await,
            Self::Native($wire) => $call.await,
        }
    };
}

impl Connection {
    /// Connects to a member.
    pub async fn open(client: Client, address: SocketAddrV4) -> Result<Self> {
        Ok(match client {
            Client::Etcd => Self::Etcd(etcd::EtcdWire::open(address).await?),
            Client::Native => Self::Native(native::Native::open(address)?),
        })
    }

    /// Writes a key; the revision of the write.
    pub async fn put(&self, key: Bytes, value: Bytes, lease: i64) -> Result<i64> {
        either!(self, wire => wire.put(key, value, lease))
    }

    /// Reads a key that exists: its value and the revision of its last change.
    pub async fn get(&self, key: Bytes, serializable: bool) -> Result<(Bytes, i64)> {
        match either!(self, wire => wire.get(key, serializable))? {
            Some((value, revision)) if value.len() == VALUE_BYTES => Ok((value, revision)),
            Some((value, _)) => wrong(format!("a get found a value of {} bytes", value.len())),
            None => wrong("a get found no key"),
        }
    }

    /// Reads `limit` keys with their values, all of which exist.
    pub async fn range(&self, from: Bytes, end: Bytes, limit: u64) -> Result<()> {
        let (keys, bytes) = either!(self, wire => wire.range(from, end, limit))?;
        if keys != limit || bytes != limit * VALUE_BYTES as u64 {
            return wrong(format!("a range of {limit} keys found {keys} with {bytes} bytes"));
        }
        Ok(())
    }

    /// Writes a key if its last change is that of `revision`, which it must be; the revision of the write.
    pub async fn compare_and_put(&self, key: Bytes, value: Bytes, revision: i64) -> Result<i64> {
        match either!(self, wire => wire.compare_and_put(key, value, revision))? {
            Some(written) => Ok(written),
            None => wrong("a compare that holds was answered as if it did not"),
        }
    }

    /// Grants a lease that nobody keeps alive; its id.
    pub async fn grant(&self, ttl: Duration) -> Result<i64> {
        either!(self, wire => wire.grant(ttl))
    }

    /// How many leases there are.
    pub async fn leases(&self) -> Result<usize> {
        either!(self, wire => wire.leases())
    }

    /// A stream of keep-alives. Quorate's own client keeps its leases alive by itself, and has none.
    pub fn keep_alives(&self) -> Result<KeepAlives> {
        match self {
            Self::Etcd(wire) => Ok(wire.keep_alives()),
            Self::Native(_) => {
                wrong("a client that keeps leases alive by itself was asked for a stream of keep-alives")
            }
        }
    }

    /// Who takes locks with a lease of its own.
    pub async fn locker(&self) -> Result<Locker> {
        Ok(match self {
            Self::Etcd(wire) => Locker::Etcd { lease: wire.grant(LEASE_TTL).await?, held: None },
            Self::Native(wire) => Locker::Native(wire.locker().await?),
        })
    }

    /// Waits until the lock is held.
    pub async fn lock(&self, name: Bytes, locker: &mut Locker) -> Result<()> {
        match (self, locker) {
            (Self::Etcd(wire), Locker::Etcd { lease, held }) => *held = Some(wire.lock(name, *lease).await?),
            (Self::Native(wire), Locker::Native(locker)) => wire.lock(name, locker).await?,
            _ => return wrong("a lock is taken by another client"),
        }
        Ok(())
    }

    /// Gives up what is held.
    pub async fn unlock(&self, locker: &mut Locker) -> Result<()> {
        match (self, locker) {
            (Self::Etcd(wire), Locker::Etcd { held, .. }) => match held.take() {
                Some(key) => wire.unlock(key).await,
                None => wrong("nothing is held"),
            },
            (Self::Native(_), Locker::Native(locker)) => locker.unlock().await,
            _ => wrong("a lock is given up by another client"),
        }
    }

    /// Writes many keys in one transaction.
    pub async fn fill(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<()> {
        either!(self, wire => wire.fill(pairs))
    }

    /// Registers an instance of a service, and deregisters it.
    pub async fn come_and_go(&self, service: &str, id: &str) -> Result<()> {
        match self {
            Self::Etcd(wire) => {
                let lease = wire.grant(LEASE_TTL).await?;
                wire.put(discovery::key(service, id), discovery::document(1), lease).await?;
                wire.revoke(lease).await
            }
            Self::Native(wire) => wire.come_and_go(service, id).await,
        }
    }

    /// How many instances of a service there are.
    pub async fn resolve(&self, service: &str) -> Result<usize> {
        match self {
            Self::Etcd(wire) => {
                let (from, end) = (discovery::key(service, ""), Bytes::from(format!("/services/{service}0")));
                let (found, _) = wire.range(from, end, 0).await?;
                usize::try_from(found).map_err(call("counting instances"))
            }
            Self::Native(wire) => wire.resolve(service).await,
        }
    }

    /// Watches a service, or its keys, from now on.
    pub async fn watch_service(&self, service: &str) -> Result<Watcher> {
        Ok(match self {
            Self::Etcd(wire) => {
                let (from, end) = (discovery::key(service, ""), Bytes::from(format!("/services/{service}0")));
                Watcher::EtcdService(Box::new(wire.watch(from, Some(end)).await?))
            }
            Self::Native(wire) => Watcher::NativeService(wire.watch_service(service).await?),
        })
    }

    /// Compacts history before `revision`.
    pub async fn compact(&self, revision: i64) -> Result<()> {
        either!(self, wire => wire.compact(revision))
    }

    /// Watches a key, or all keys from there up to `end`, from now on.
    pub async fn watch(&self, key: Bytes, end: Option<Bytes>) -> Result<Watcher> {
        Ok(match self {
            Self::Etcd(wire) => Watcher::Etcd(Box::new(wire.watch(key, end).await?)),
            Self::Native(wire) => Watcher::Native(wire.watch(key, end).await?),
        })
    }
}

impl Watcher {
    /// What counts in the values of the next events; at least one.
    pub async fn next(&mut self) -> Result<Vec<u64>> {
        let counted = |values: Vec<Bytes>| {
            let number = |value: Bytes| value.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
            values.into_iter().map(number).collect()
        };
        match self {
            Self::Etcd(watch) => Ok(counted(watch.next().await?)),
            Self::Native(watch) => Ok(counted(watch.next().await?)),
            Self::EtcdService(watch) => watch.next().await?.iter().map(|document| weight_of(document)).collect(),
            Self::NativeService(watch) => watch.next().await,
        }
    }
}

fn weight_of(document: &[u8]) -> Result<u64> {
    let document: serde_json::Value = serde_json::from_slice(document).map_err(call("reading a document"))?;
    document["weight"].as_u64().ok_or_else(|| Failure::Wrong("a document has no weight".to_owned()))
}

/// What a member says of itself.
pub async fn standing(system: System, address: SocketAddrV4) -> Result<Standing> {
    match system {
        System::Peer => etcd::standing(address).await,
        System::Quorate => native::standing(address).await,
    }
}

/// Which parts of etcd's wire the member at this address serves.
pub async fn served(address: SocketAddrV4) -> Result<Vec<Service>> {
    let mut served = Vec::new();
    for service in [Service::Kv, Service::Lease, Service::Watch, Service::Lock] {
        if etcd::is_served(service, address).await? {
            served.push(service);
        }
    }
    Ok(served)
}

//! Who this member is to the others, the connections to them, and the marks that every call between members carries.
//!
//! Invariants:
//! - A call goes out only with cluster, sender and receiver in its metadata, and is taken only when cluster and
//!   receiver are this member's own: nothing of a re-created cluster, or for another member, ever reaches Raft.
//! - "Removed" is said only to who proves that it was a member in an older committed membership than the one that no
//!   longer has it: ids are never reused, so that is final. Who merely is not known yet is not told so.
//! - Appends, heartbeats, snapshots and forwards have connections of their own, so that bulk delays no heartbeat.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use quorate_proto::peer::HelloRequest;
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::{ClusterId, MemberId};
use quorate_state::versions::STATE_VERSION;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::config::Timing;
use crate::consensus::types::{Raft, RaftMetrics, StoredMembership};
use crate::sync::watch;

const CLUSTER: &str = "quorate-cluster-id";
const FROM: &str = "quorate-from";
const TO: &str = "quorate-to";
const MEMBERSHIP_INDEX: &str = "quorate-membership-index";
/// Stands in a refusal when the caller was removed.
pub const REMOVED: &str = "quorate-removed";

/// Largest message between members: the largest command and what stands around it, with room.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How much of a stream may be on its way unread.
pub const WINDOW_BYTES: u32 = 4 << 20;

/// This member as the others see it.
pub struct LocalMember {
    id: MemberId,
    name: String,
    client_address: String,
    state_version_max: u32,
    cluster: watch::Sender<Option<ClusterId>>,
    raft: OnceLock<Raft>,
    removed: watch::Sender<bool>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Appends and votes.
    Append,
    /// Heartbeats and the read barriers that they carry.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Forwarded requests.
    Forward,
    /// Hello.
    Hello,
}

/// Why a call cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Too early.
    #[error("this member belongs to no cluster yet")]
    NoCluster,
    /// Not `host:port`.
    #[error("{address:?} is no peer address; write host:port")]
    Address {
        /// What was given.
        address: String,
    },
}

/// Connections to the other members, made when first needed and kept.
pub struct Links {
    local: Arc<LocalMember>,
    timing: Timing,
    channels: Mutex<HashMap<(u64, Purpose), (String, Channel)>>,
}

impl LocalMember {
    /// A member that may not belong to a cluster yet.
    pub fn new(id: MemberId, name: String, client_address: String, cluster: Option<ClusterId>) -> Self {
        Self {
            id,
            name,
            client_address,
            state_version_max: STATE_VERSION,
            cluster: watch::Sender::new(cluster),
            raft: OnceLock::new(),
            removed: watch::Sender::new(false),
        }
    }

    /// Says that it knows state versions up to this one only.
    #[must_use]
    pub fn with_state_version_max(self, state_version_max: u32) -> Self {
        Self { state_version_max, ..self }
    }

    /// The highest state version that it knows.
    pub fn state_version_max(&self) -> u32 {
        self.state_version_max
    }

    /// Its id.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach it.
    pub fn client_address(&self) -> &str {
        &self.client_address
    }

    /// Its cluster, once it belongs to one.
    pub fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.borrow()
    }

    /// It belongs to this cluster from now on; the data directory has it already.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.cluster.send_replace(Some(cluster));
    }

    /// Raft is built: calls may reach it.
    pub fn set_raft(&self, raft: Raft) {
        // A second one would be a second start of the same member, which the data directory's lock excludes.
        let _ = self.raft.set(raft);
    }

    /// Raft, once it is built.
    pub fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    /// Says who it is, and asks who the other is.
    pub fn hello(&self) -> HelloRequest {
        HelloRequest {
            member_id: self.id.get(),
            cluster_id: self.cluster().map_or(0, ClusterId::get),
            name: self.name.clone(),
            membership_index: self.membership_index(),
        }
    }

    /// Raft's metrics, cloned: holding on to them would block Raft.
    pub fn metrics(&self) -> Option<RaftMetrics> {
        self.raft.get().map(|raft| raft.metrics().borrow_watched().clone())
    }

    /// Becomes true when another member proved that this one was removed.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    /// Takes note when a refusal says that this member was removed.
    pub fn heed(&self, refusal: &Status) {
        if refusal.metadata().contains_key(REMOVED) {
            self.set_removed();
        }
    }

    /// This member was removed.
    pub fn set_removed(&self) {
        self.removed.send_replace(true);
    }

    /// One more than the log index of the newest membership here that has this member, committed if possible; else 0.
    /// Shortly after a restart nothing may be known to be committed. A membership that is not is good enough: a member
    /// that joins hears from Raft only after its addition was committed.
    pub fn membership_index(&self) -> u64 {
        self.metrics().map_or(0, |metrics| {
            let known = [&metrics.committed_membership_config, &metrics.membership_config];
            known.into_iter().find(|stored| has(stored, self.id.get())).map_or(0, |stored| index(stored))
        })
    }

    /// Whether `asker`, which was a member at `membership_index`, was removed since.
    pub fn was_removed(&self, asker: u64, membership_index: u64) -> bool {
        self.metrics().is_some_and(|metrics| {
            let committed = &metrics.committed_membership_config;
            membership_index > 0 && index(committed) > membership_index && !has(committed, asker)
        })
    }

    /// Marks a call to another member.
    pub fn mark<T>(&self, to: u64, message: T) -> Result<Request<T>, LinkError> {
        let cluster = self.cluster().ok_or(LinkError::NoCluster)?;
        let mut request = Request::new(message);
        let marks =
            [(CLUSTER, cluster.get()), (FROM, self.id.get()), (TO, to), (MEMBERSHIP_INDEX, self.membership_index())];
        for (name, value) in marks {
            if let Ok(value) = format!("{value:016x}").parse() {
                request.metadata_mut().insert(name, value);
            }
        }
        Ok(request)
    }

    /// Checks the marks of a call that was received, and says from whom it is.
    pub fn check(&self, marks: &MetadataMap) -> Result<MemberId, Status> {
        let mark = |name: &'static str| {
            let value = marks.get(name).and_then(|value| u64::from_str_radix(value.to_str().ok()?, 16).ok());
            value.ok_or_else(|| Status::permission_denied(format!("{name} is missing; this port is for members only")))
        };
        let (cluster, from, to) = (mark(CLUSTER)?, mark(FROM)?, mark(TO)?);
        if to != self.id.get() {
            return Err(Status::permission_denied(format!(
                "this is member {} ({:?}), not {to:016x}; the address of {to:016x} leads to the wrong process",
                self.id, self.name
            )));
        }
        let Some(own) = self.cluster() else {
            return Err(Status::unavailable(format!("member {} belongs to no cluster yet", self.id)));
        };
        if cluster != own.get() {
            return Err(Status::permission_denied(format!(
                "member {} ({:?}) belongs to cluster {own}, not to {cluster:016x}; check the addresses of the members",
                self.id, self.name
            )));
        }
        let Some(from) = MemberId::new(from).filter(|from| *from != self.id) else {
            return Err(Status::permission_denied(format!("{FROM} is {from:016x}, which is no other member")));
        };
        if self.was_removed(from.get(), mark(MEMBERSHIP_INDEX)?) {
            return Err(removal(from));
        }
        Ok(from)
    }
}

impl Links {
    /// No connection is made yet.
    pub fn new(local: Arc<LocalMember>, timing: Timing) -> Self {
        Self { local, timing, channels: Mutex::default() }
    }

    /// This member.
    pub fn local(&self) -> &Arc<LocalMember> {
        &self.local
    }

    /// Raft's clocks.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// A client on the kept connection to `target`. It connects when it is used.
    pub fn peer(&self, target: u64, address: &str, purpose: Purpose) -> Result<PeerClient<Channel>, LinkError> {
        let mut channels = self.channels.lock();
        let kept = channels.get(&(target, purpose)).filter(|(kept, _)| kept == address);
        let channel = if let Some((_, channel)) = kept {
            channel.clone()
        } else {
            let channel = self.connect(address)?;
            channels.insert((target, purpose), (address.to_owned(), channel.clone()));
            channel
        };
        Ok(client(channel))
    }

    /// A client on a connection of its own, which is not kept: for a member whose id is not known yet, or on another
    /// runtime than Raft's.
    pub fn apart(&self, address: &str) -> Result<PeerClient<Channel>, LinkError> {
        self.connect(address).map(client)
    }

    fn connect(&self, address: &str) -> Result<Channel, LinkError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| LinkError::Address { address: address.to_owned() })?;
        // A dead peer is noticed within about two election timeouts even when nothing is sent.
        Ok(endpoint
            .tcp_nodelay(true)
            .connect_timeout(self.timing.election_max.max(Duration::from_millis(300)))
            .http2_keep_alive_interval(self.timing.election_max)
            .keep_alive_timeout(self.timing.election_max * 2)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_lazy())
    }
}

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The refusal that tells a member that it was removed.
pub fn removal(member: MemberId) -> Status {
    let mut status = Status::permission_denied(format!(
        "member {member} was removed from this cluster; to bring it back, empty its directory and start it with --join"
    ));
    status.metadata_mut().insert(REMOVED, tonic::metadata::MetadataValue::from_static("1"));
    status
}

/// One more than the log index of a membership, which is 0 for the first of a cluster; 0 for none.
pub fn index(stored: &StoredMembership) -> u64 {
    stored.log_id().as_ref().map_or(0, |log_id| log_id.index + 1)
}

fn has(stored: &StoredMembership, id: u64) -> bool {
    stored.membership().get_node(&id).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(id: u64, cluster: Option<u64>) -> LocalMember {
        let cluster = cluster.map(|id| ClusterId::new(id).unwrap());
        LocalMember::new(MemberId::new(id).unwrap(), format!("m{id}"), String::new(), cluster)
    }

    fn refused(by: &LocalMember, from: &LocalMember, to: u64) -> Status {
        by.check(from.mark(to, ()).unwrap().metadata()).unwrap_err()
    }

    #[test]
    fn a_call_is_taken_only_from_the_own_cluster_and_for_the_own_id() {
        let (one, two) = (local(1, Some(7)), local(2, Some(7)));
        assert_eq!(two.check(one.mark(2, ()).unwrap().metadata()).unwrap(), one.id());

        let status = refused(&two, &one, 3);
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert!(status.message().contains("this is member 0000000000000002"), "{status}");

        let status = refused(&two, &local(1, Some(8)), 2);
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert!(status.message().contains("belongs to cluster 0000000000000007"), "{status}");

        assert!(refused(&two, &local(2, Some(7)), 2).message().contains("no other member"));
        let status = two.check(&MetadataMap::new()).unwrap_err();
        assert!(status.message().contains("quorate-cluster-id is missing"), "{status}");
    }

    #[test]
    fn before_there_is_a_cluster_nothing_goes_out_and_nothing_is_taken() {
        assert_eq!(local(1, None).mark(2, ()).unwrap_err(), LinkError::NoCluster);
        let status = refused(&local(2, None), &local(1, Some(7)), 2);
        assert_eq!(status.code(), tonic::Code::Unavailable);
    }

    #[test]
    fn a_refusal_tells_a_removed_member() {
        let one = local(1, Some(7));
        one.heed(&Status::permission_denied("no"));
        assert!(!*one.removed().borrow());
        one.heed(&removal(one.id()));
        assert!(*one.removed().borrow());
    }
}

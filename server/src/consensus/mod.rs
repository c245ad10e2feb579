//! The room between the doors and the state machine: commands in, outcomes out, in one order for all members.
//!
//! What the other rooms see of it is here: [`Consensus`], the handle; [`ApplySink`], who is told what was applied;
//! [`LeaseClock`], whom it asks about leases when a follower forwards such a question.
//!
//! Invariants:
//! - An outcome is handed out only for an entry that is committed (fsynced at a quorum) and applied here or at the
//!   leader that answered.
//! - A read barrier serves only those who asked before its round started, at each hop.

pub mod applier;
pub mod apply_thread;
pub mod assemble;
pub mod backlog;
pub mod barrier;
pub mod bootstrap;
pub mod codec;
pub mod contact;
pub mod digests;
pub mod disk_watch;
mod flaws;
pub mod forward;
pub mod forward_lane;
pub mod forward_queue;
pub mod forward_server;
pub mod forward_wire;
mod gathering;
pub mod handle;
pub mod hot;
mod intake;
pub mod leader_end;
pub mod links;
pub mod log;
pub mod log_disk;
pub mod log_size;
pub mod log_synced;
pub mod membership;
pub mod network;
pub mod observer;
pub mod peer_door;
pub mod peers;
pub mod proposer;
pub mod purger;
mod raft_runtime;
pub mod reclaim;
pub mod rhythm;
pub mod rpc_codec;
pub mod scrub;
pub mod snapshot;
pub mod snapshot_send;
pub mod snapshotter;
pub mod start;
pub mod state_dir;
pub mod state_version;
pub mod status;
pub mod types;

pub use handle::Consensus;
pub use intake::Haste;
pub use start::{Params, StartError};

use tokio::time::Instant;

use futures::future::BoxFuture;
use quorate_proto::{LeaseId, MemberId, Revision};
use quorate_state::outcome::{Changes, LeaseChange, Outcome};

use crate::error::ConsensusError;

/// What became of a command that was proposed.
#[derive(Debug, Clone)]
pub struct Proposed {
    /// The decision.
    pub outcome: Outcome,
    /// Index of the log entry that carried it.
    pub log_index: u64,
    /// Term of the leader that answered.
    pub term: u64,
}

/// Told of every applied entry, on the apply thread, in order, after it is in the store. Must not block.
pub trait ApplySink: Send + Sync + 'static {
    /// An entry was applied.
    fn applied(&self, changes: Changes, leases: &[LeaseChange]);
    /// The store was replaced by a snapshot: all that was remembered of it is void.
    fn installed(&self, revision: Revision, compact_revision: Revision);
}

/// The leader's clocks of leases, asked by followers through the forward stream. Errors when not leading.
pub trait LeaseClock: Send + Sync + 'static {
    /// Renews after a quorum round that began after this call. 0 when the lease does not exist. In ms.
    fn keep_alive(&self, lease: LeaseId, deadline: Instant) -> BoxFuture<'_, Result<u64, ConsensusError>>;
    /// `(granted, remaining)` in ms; `(0, 0)` when the lease does not exist.
    fn time_to_live(&self, lease: LeaseId, deadline: Instant) -> BoxFuture<'_, Result<(u64, u64), ConsensusError>>;
}

/// Whether this member leads, and since when. Jobs of the leader start on `Leading` and end, awaited, on anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Another member leads, or none.
    Following {
        /// The leader, if one is known.
        leader: Option<MemberId>,
    },
    /// This member leads, and has applied the first entry of its own term.
    Leading {
        /// Its term.
        term: u64,
    },
}

/// One member of the cluster as the membership has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Id.
    pub id: MemberId,
    /// Name that the operator gave.
    pub name: String,
    /// `host:port` for members.
    pub peer_address: String,
    /// `host:port` for clients.
    pub client_address: String,
    /// Without a vote, or its vote is not in force yet.
    pub learner: bool,
}

/// What this member knows of consensus now.
#[derive(Debug, Clone)]
pub struct ConsensusStatus {
    /// Current term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<MemberId>,
    /// Last applied index.
    pub applied_index: u64,
    /// Last committed index known here.
    pub committed_index: u64,
    /// Last index in the local log.
    pub last_log_index: u64,
    /// All members.
    pub members: Vec<Member>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
}

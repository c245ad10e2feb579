//! Every number that defines the measurements: sizes, counts, times and the seed.
//!
//! Invariants:
//! - Both systems and all clients are measured with the same numbers.
//! - `QUICK` differs from `FULL` only in how long and how often, and in how much is compacted, leased and restarted.

use std::time::Duration;

/// Of all random choices.
pub const SEED: u64 = 0x0071_75d0_7a7e;
/// Members of each cluster.
pub const MEMBERS: usize = 3;
/// Connections of each client to each member.
pub const CONNECTIONS_PER_MEMBER: usize = 2;
/// Bytes of every value written.
pub const VALUE_BYTES: usize = 256;
/// Keys that exist before anything is measured; puts overwrite and gets read only these.
pub const KEYS: u64 = 10_000;
/// Further keys, numbered after those, that are never overwritten: they have no history.
pub const UNTOUCHED_KEYS: u64 = 10_000;
/// Keys of one range.
pub const RANGE_KEYS: u64 = 100;
/// Puts among 100 operations of the mixed work.
pub const MIXED_PUTS: u32 = 10;
/// Streams that watch the one key.
pub const WATCHERS: usize = 1_000;
/// Keys of the directory that is watched, which change at the same time.
pub const WATCHED_KEYS: usize = 16;
/// Of granted leases: none ends while something is measured.
pub const LEASE_TTL: Duration = Duration::from_hours(4);
/// Instances of the service that is asked for.
pub const INSTANCES: usize = 10;
/// Callers that grant and renew many leases.
pub const LEASE_CALLERS: usize = 256;
/// Callers that put while many leases end.
pub const EXPIRY_CALLERS: usize = 16;
/// Writers while a leader is killed, and how long each waits for an answer before it tries the next member.
pub const FAILOVER_WRITERS: usize = 6;
/// See [`FAILOVER_WRITERS`].
pub const FAILOVER_ATTEMPT: Duration = Duration::from_millis(100);
/// A writer's pause after a refusal.
pub const FAILOVER_PAUSE: Duration = Duration::from_millis(5);
/// How long a writer passes over a connection that did not answer, while another does; the others a little longer each.
pub const FAILOVER_SHUNNED: Duration = Duration::from_secs(1);
/// Writing before the kill, and without a longer pause at the end.
pub const FAILOVER_MARGIN: Duration = Duration::from_secs(1);
/// How long is looked on after the kill; longer while nothing is acknowledged.
pub const FAILOVER_WINDOW: Duration = Duration::from_secs(3);
/// Callers that write history before it is compacted.
pub const HISTORY_CALLERS: usize = 512;
/// Callers that read while history is compacted.
pub const COMPACTION_CALLERS: usize = 64;
/// Keys of one transaction, and transactions at a time, when a store is filled.
pub const FILL_TXN_KEYS: u64 = 100;
/// See [`FILL_TXN_KEYS`].
pub const FILL_CALLERS: usize = 32;
/// How long a cluster may take for what is not measured (to start, to settle), and a call before the run is given up.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at a state that is waited for.
pub const LOOK: Duration = Duration::from_millis(20);
/// etcd refuses writes at 2 GiB unless told otherwise. This is the only setting that is not its default.
pub const PEER_QUOTA_BYTES: u64 = 8 << 30;

/// What depends on how long a run may take.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Plan {
    /// Rounds of each work; the median counts.
    pub rounds: usize,
    /// How often the keys that exist are written anew before anything is measured: 3 MiB each time, as of a cluster that
    /// has been in use. After 30 MiB Quorate writes its log files over; etcd begins new ones all the time.
    pub run_in: usize,
    /// Load before each measured window.
    pub warm_up: Duration,
    /// The measured window.
    pub measured: Duration,
    /// How often history is written and compacted.
    pub compactions: usize,
    /// Revisions compacted at once.
    pub compacted_revisions: u64,
    /// From the request to compact on.
    pub compacting: Duration,
    /// Leases that live at the same time, and then end together.
    pub leases: usize,
    /// Their time to live: longer than it takes to grant or to renew all of them.
    pub lease_ttl: Duration,
    /// From the end of the first of them on.
    pub expiring: Duration,
    /// Leaders killed, one at a time.
    pub kills: usize,
    /// Keys in the store of a member that is restarted.
    pub restart_keys: u64,
    /// Restarts.
    pub restarts: usize,
}

/// `make bench`.
pub const FULL: Plan = Plan {
    rounds: 5,
    run_in: 20,
    warm_up: Duration::from_millis(500),
    measured: Duration::from_secs(2),
    compactions: 2,
    compacted_revisions: 500_000,
    compacting: Duration::from_secs(4),
    leases: 100_000,
    lease_ttl: Duration::from_mins(2),
    expiring: Duration::from_secs(15),
    kills: 5,
    restart_keys: 2_000_000,
    restarts: 3,
};

/// `make bench QUICK=1`.
pub const QUICK: Plan = Plan {
    rounds: 2,
    run_in: 0,
    warm_up: Duration::from_millis(100),
    measured: Duration::from_millis(400),
    compactions: 1,
    compacted_revisions: 20_000,
    compacting: Duration::from_secs(2),
    leases: 3_000,
    lease_ttl: Duration::from_secs(7),
    expiring: Duration::from_secs(3),
    kills: 1,
    restart_keys: 50_000,
    restarts: 1,
};

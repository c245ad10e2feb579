//! Watches free disk space, here and at the peers, so that the proposer can refuse what grows before a disk is full.
//!
//! Invariants:
//! - What is in memory only, and will be written, counts as written.
//! - Only the proposer asks; apply never does. What is committed is applied, full disk or not.
//! - Databases merge tables only while that leaves the reserve.
//! - Below the reserve here, or at members without whom no quorum has space, growth is refused; it clears by itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quorate_proto::MemberId;
use quorate_state::command::{Command, TxnOp};

use crate::consensus::peers::Peers;
use crate::consensus::types::Membership;
use crate::tasks::{Tasks, Work};

/// How often free space is looked at. In this time not more may be written than the reserve; looking costs little.
const INTERVAL: Duration = Duration::from_millis(100);

/// What writes to the disk in the background.
pub trait Databases: Send + Sync + 'static {
    /// Bytes that are in memory and have yet to be written.
    fn owed_bytes(&self) -> u64;
    /// From now on they merge tables by themselves if that takes no more than `room` bytes for a while.
    fn merge_within(&self, room: u64) -> std::io::Result<()>;
}

/// Free space of the disk that holds the data directory.
pub struct DiskSpace {
    /// None when tests say what is free.
    path: Option<PathBuf>,
    reserve_bytes: u64,
    free_bytes: AtomicU64,
    databases: OnceLock<Box<dyn Databases>>,
    /// Overrides what the disk says: for tests. `u64::MAX` when not set.
    pretended_bytes: AtomicU64,
}

impl DiskSpace {
    /// Looks at the disk that holds `path` for the first time.
    pub fn new(path: PathBuf, reserve_bytes: u64) -> Self {
        let space = Self::of(Some(path), reserve_bytes);
        space.look();
        space
    }

    /// A disk on which nothing is short until tests pretend that it is.
    pub fn pretended(reserve_bytes: u64) -> Self {
        Self::of(None, reserve_bytes)
    }

    fn of(path: Option<PathBuf>, reserve_bytes: u64) -> Self {
        Self {
            path,
            reserve_bytes,
            free_bytes: AtomicU64::new(u64::MAX),
            databases: OnceLock::new(),
            pretended_bytes: AtomicU64::new(u64::MAX),
        }
    }

    /// From now on these are asked what they have yet to write, and told how much they may take.
    pub fn share_among(&self, databases: impl Databases) {
        // A second time would be a second start of the same member, which the data directory's lock excludes.
        let _ = self.databases.set(Box::new(databases));
    }

    /// Free bytes, as last seen.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed).min(self.pretended_bytes.load(Ordering::Relaxed))
    }

    /// So many bytes must stay free.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Whether less is free here than must stay free.
    pub fn is_short(&self) -> bool {
        self.free_bytes() < self.reserve_bytes
    }

    /// Whether little more is free than must stay free: time to get back what can be had.
    pub fn is_nearly_short(&self) -> bool {
        self.free_bytes() < self.reserve_bytes.saturating_add(self.reserve_bytes / 4)
    }

    /// How much of the log to keep, when `wished` is what one would like to: less and less towards the reserve.
    pub fn log_allowance(&self, wished: u64) -> u64 {
        wished.min(self.free_bytes().saturating_sub(self.reserve_bytes) / 4)
    }

    /// Tests pretend that only so much is free; `None` ends that.
    pub fn pretend(&self, free_bytes: Option<u64>) {
        self.pretended_bytes.store(free_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Looks at the disk; free bytes.
    pub fn look(&self) -> u64 {
        let Some(path) = &self.path else { return self.free_bytes() };
        match rustix::fs::statvfs(path) {
            Ok(stat) => {
                let owed = self.databases.get().map_or(0, |databases| databases.owed_bytes());
                let free = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(owed);
                self.free_bytes.store(free, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "free disk space is unknown"),
        }
        self.free_bytes()
    }

    /// The member whose lack of space forbids growth, if any: this one, or a voter without whom no majority has
    /// space. A voter that has not said counts as absent, but only once another is known to be short.
    pub fn short_member(&self, own: MemberId, membership: &Membership, peers: &dyn Peers) -> Option<MemberId> {
        if self.free_bytes() < self.reserve_bytes {
            return Some(own);
        }
        membership.get_joint_config().iter().find_map(|voters| {
            let (mut fit, mut short) = (0, None);
            for id in voters {
                let free = if *id == own.get() {
                    Some(u64::MAX)
                } else {
                    MemberId::new(*id).and_then(|id| peers.free_bytes(id))
                };
                match free {
                    Some(free) if free < self.reserve_bytes => short = short.or(MemberId::new(*id)),
                    Some(_) => fit += 1,
                    None => {}
                }
            }
            short.filter(|_| fit <= voters.len() / 2)
        })
    }

    /// Looks at the disk now and then, until the member stops.
    pub async fn watch(self: Arc<Self>, tasks: Tasks) -> Result<(), std::convert::Infallible> {
        let mut tick = tokio::time::interval(INTERVAL);
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                () = tasks.stopped() => return Ok(()),
                _ = tick.tick() => {}
            }
            let this = self.clone();
            // A disk that hangs must not hold up what else runs here. It ends early only when the runtime does.
            let Ok(allotted) = tasks.blocking(Work::Look, move || this.allot(this.look())).await else { continue };
            // It is tried again at each look, and said once.
            if let (Err(error), false) = (&allotted, failed) {
                tracing::warn!(%error, "databases could not be told how much disk they may take");
            }
            failed = allotted.is_err();
        }
    }

    fn allot(&self, free: u64) -> std::io::Result<()> {
        let room = free.saturating_sub(self.reserve_bytes);
        self.databases.get().map_or(Ok(()), |databases| databases.merge_within(room))
    }
}

/// Whether a command may make the store larger. Deletes, revokes and compaction must go on when space is short.
pub fn grows(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::CopyTree(_) | Command::LeaseGrant { .. } => true,
        Command::Txn(txn) => txn.then.iter().chain(&txn.otherwise).any(op_grows),
        Command::Delete(_)
        | Command::LeaseRevoke { .. }
        | Command::LeaseCheckpoint(_)
        | Command::Compact { .. }
        | Command::SetStateVersion(_)
        | Command::Scrub => false,
    }
}

fn op_grows(op: &TxnOp) -> bool {
    match op {
        TxnOp::Put(_) => true,
        TxnOp::Txn(txn) => txn.then.iter().chain(&txn.otherwise).any(op_grows),
        TxnOp::Range(_) | TxnOp::Delete(_) => false,
    }
}

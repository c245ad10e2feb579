//! The ways back that begin a new cluster: from a snapshot archive, and from what one member has after the loss of a
//! majority. Both work on a data directory that nobody has open.
//!
//! Invariants:
//! - The new cluster has an id of its own, a revision far above the old one, compacted history and leases at their full
//!   time, so that no token, revision or cache of a client goes back.
//! - The log goes on behind the last applied position, in a term that is not lower.
//! - A restore that is broken off leaves no directory that a member would start from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use quorate_proto::{MemberId, Revision};
use quorate_state::apply::{Entry, Machine};
use quorate_state::outcome::Fault;
use quorate_state::restore::{REVISION_STEP, RebaseOptions, Rebased, rebase};
use quorate_state::store::StoreError;
use rocksdb::Cache;

use crate::archive::{self, ArchiveError};
use crate::config::Config;
use crate::consensus::apply_thread::state_entry;
use crate::consensus::codec;
use crate::consensus::log_disk::{LogDisk as _, LogOp, RocksLogDisk};
use crate::consensus::state_dir::{StateDir, sync_parent};
use crate::consensus::types::{LogId, Membership, Node, SnapshotDir, Vote, log_id};
use crate::data_dir::{DataDir, DataDirError};
use crate::store_rocks::RocksStore;

/// Entries applied at a time when a log is replayed.
const REPLAY_BYTES: u64 = 8 << 20;
const CACHE_BYTES: usize = 32 << 20;

/// Why there is no way back from here.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory is in use, damaged, or not empty.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is something already.
    #[error("{} is not empty; name a directory that is empty or does not exist", .0.display())]
    NotEmpty(PathBuf),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The state in it.
    #[error(transparent)]
    State(#[from] Fault),
    /// The member has nothing that could become a cluster.
    #[error("{}: this member has no data; there is nothing to go on with", .0.display())]
    Nothing(PathBuf),
    /// A disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::State(error.into())
    }
}

/// Who the first member of the new cluster is.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Its name.
    pub name: String,
    /// Where clients will reach it.
    pub client_address: String,
    /// Where members will reach it.
    pub peer_address: String,
}

/// What the new cluster begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Its only member.
    pub member: MemberId,
    /// Its revision; older ones are compacted.
    pub revision: Revision,
    /// Leases, with their full time.
    pub leases: u64,
}

/// Unpacks a snapshot archive into an empty data directory, as a new cluster of one member. It is made beside its place
/// and moved there when it is complete.
pub fn restore(archive: &Path, data_dir: &Path, options: &RestoreOptions) -> Result<Restored, RestoreError> {
    if fs::read_dir(data_dir).is_ok_and(|mut items| items.next().is_some()) {
        return Err(RestoreError::NotEmpty(data_dir.to_owned()));
    }
    // Checked whole before anything is made.
    archive::verify(File::open(archive)?)?;
    let made = beside(data_dir);
    if made.exists() {
        // Left by a restore that was broken off; its name says whose it is.
        fs::remove_dir_all(&made)?;
    }
    let restored = restore_into(archive, &made, options)?;
    fs::create_dir_all(data_dir)?;
    fs::rename(&made, data_dir)?;
    sync_parent(&data_dir.canonicalize()?)?;
    Ok(restored)
}

fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    data_dir.with_file_name(name)
}

fn restore_into(archive: &Path, data_dir: &Path, options: &RestoreOptions) -> Result<Restored, RestoreError> {
    let dir = DataDir::open(data_dir, &options.name)?;
    let unpacked = dir.snapshots().join("restore");
    fs::create_dir_all(&unpacked)?;
    archive::unpack(File::open(archive)?, &unpacked)?;
    let mut state = StateDir::open(dir.state())?;
    state.stage(&SnapshotDir::open(unpacked.clone())?)?;
    state.advance()?;
    fs::remove_dir_all(&unpacked)?;
    let node = Node {
        name: options.name.clone(),
        peer_address: options.peer_address.clone(),
        client_address: options.client_address.clone(),
    };
    let store = RocksStore::open(&state.path(), &Cache::new_lru_cache(CACHE_BYTES))?;
    let log = RocksLogDisk::open(&dir.log())?;
    begin_anew(&dir, &store, &log, node)
}

/// Makes what one member has the beginning of a new cluster of that member. All entries of its log are taken, for any
/// of them may have been acknowledged.
pub fn force_new_cluster(config: &Config) -> Result<Restored, RestoreError> {
    if !config.data_dir.is_dir() {
        return Err(RestoreError::Nothing(config.data_dir.clone()));
    }
    let dir = DataDir::open(&config.data_dir, &config.name)?;
    if dir.identity().cluster.is_none() {
        return Err(RestoreError::Nothing(config.data_dir.clone()));
    }
    let state = StateDir::open(dir.state())?;
    let store = RocksStore::open(&state.path(), &Cache::new_lru_cache(CACHE_BYTES))?;
    let log = RocksLogDisk::open(&dir.log())?;
    let mut machine = Machine::open(&store)?;
    replay(&mut machine, &log)?;
    drop(machine);
    let address = |set: &Option<String>, listen: &String| set.clone().unwrap_or_else(|| listen.clone());
    let node = Node {
        name: config.name.clone(),
        peer_address: address(&config.peer_advertise, &config.peer_listen),
        client_address: address(&config.advertise, &config.listen),
    };
    begin_anew(&dir, &store, &log, node)
}

/// Applies all that the log has beyond what is applied.
fn replay(machine: &mut Machine<&RocksStore>, log: &RocksLogDisk) -> Result<(), RestoreError> {
    let Some(last) = log.load()?.last else { return Ok(()) };
    loop {
        let next = machine.applied().0.map_or(0, |position| position.index + 1);
        if next > last.index {
            return Ok(());
        }
        let entries = log.read(next, last.index + 1, REPLAY_BYTES)?;
        let entries: io::Result<Vec<Entry>> = entries.into_iter().map(state_entry).collect();
        machine.apply(&entries?)?;
    }
}

/// The store becomes the state of a new cluster, the log goes on behind it.
fn begin_anew(dir: &DataDir, store: &RocksStore, log: &RocksLogDisk, node: Node) -> Result<Restored, RestoreError> {
    let member = dir.identity().member;
    // First: should this be broken off, no member of the old cluster listens to what is left, and it can be repeated.
    dir.begin_cluster()?;
    // Snapshots of the old cluster name its members, and what they have is in the store.
    clear(&dir.snapshots())?;
    let nodes = BTreeMap::from([(member.get(), node)]);
    let membership = Membership::new(vec![BTreeSet::from([member.get()])], nodes)
        .map_err(|error| Fault::Corrupt(error.to_string()))?;
    let rebased = rebase(
        store,
        &RebaseOptions { revision_step: REVISION_STEP, membership: codec::encode_membership(&membership) },
    )?;
    store.flush(true)?;
    continue_log(log, &rebased)?;
    Ok(Restored { member, revision: rebased.revision, leases: rebased.leases })
}

/// Removes all that a directory has: a snapshot is a directory with a file beside it.
fn clear(directory: &Path) -> io::Result<()> {
    for item in fs::read_dir(directory)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            fs::remove_dir_all(item.path())?;
        } else {
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}

fn continue_log(log: &RocksLogDisk, rebased: &Rebased) -> Result<(), RestoreError> {
    let applied: LogId = log_id(rebased.applied.term, rebased.applied.index);
    let voted = log.load()?.vote.map_or(0, |vote| vote.leader_id().term);
    let vote = Vote::new(voted.max(rebased.applied.term), 0);
    let ops = [LogOp::TruncateFrom(0), LogOp::PurgeThrough(applied), LogOp::Committed(applied), LogOp::Vote(vote)];
    Ok(log.write(&ops, true)?)
}

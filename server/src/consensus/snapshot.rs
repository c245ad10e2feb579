//! Snapshots: checkpoints of the store (hard links), one kept as the current one.
//!
//! Invariants:
//! - What a snapshot says of itself (last applied, membership) was read from it, not from the member.
//! - A directory gets its name `snapshot-<number>` only when it is complete, with its meta beside it.
//! - Building never blocks apply; one is built at a time.
//! - The current snapshot is never replaced by one that has less.
//!
//! Layout: `snapshot-<number>/` and `snapshot-<number>.meta` (as `codec::encode_snapshot_meta` has it);
//! `building-<number>` while it is made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use parking_lot::Mutex;
use quorate_state::flaw::Flaw;
use quorate_state::store::Store;
use quorate_state::view::View;
use rocksdb::Cache;

use crate::consensus::codec;
use crate::consensus::state_dir::{CurrentStore, sync_parent, write_atomically};
use crate::consensus::types::{Snapshot, SnapshotDir, SnapshotMeta, StoredMembership, TypeConfig, log_id};
use crate::store_rocks::RocksStore;
use crate::tasks::{Tasks, Work};

/// The snapshots of a member.
pub struct Snapshots {
    root: PathBuf,
    cache: Cache,
    /// The newest complete one.
    current: Mutex<Option<Kept>>,
    /// Held while one is made or taken in; the next number.
    next: Mutex<u64>,
}

struct Kept {
    meta: SnapshotMeta,
    dir: SnapshotDir,
}

/// openraft's builder: works in a task beside apply.
pub struct Builder {
    store: Arc<CurrentStore>,
    snapshots: Arc<Snapshots>,
    tasks: Tasks,
}

impl Snapshots {
    /// Opens the directory: keeps the newest snapshot, removes the rest and what was not finished.
    pub fn open(root: PathBuf, cache: Cache) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let mut newest: Option<u64> = None;
        for item in fs::read_dir(&root)? {
            let path = item?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("building-") {
                fs::remove_dir_all(&path)?;
            } else if let Some(number) = name.strip_prefix("snapshot-").and_then(|rest| rest.parse().ok()) {
                newest = newest.max(Some(number));
            }
        }
        let current = newest.map(|number| Self::load(&root, number)).transpose()?;
        let this =
            Self { root, cache, current: Mutex::new(current), next: Mutex::new(newest.map_or(1, |newest| newest + 1)) };
        this.remove_old(newest)?;
        Ok(this)
    }

    fn load(root: &Path, number: u64) -> io::Result<Kept> {
        let dir = SnapshotDir::open(root.join(name(number)))?;
        let meta = codec::decode_snapshot_meta(fs::read(root.join(meta_name(number)))?.into())?;
        Ok(Kept { meta, dir })
    }

    fn remove_old(&self, keep: Option<u64>) -> io::Result<()> {
        for item in fs::read_dir(&self.root)? {
            let path = item?.path();
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let kept = keep.is_some_and(|keep| file == name(keep) || file == meta_name(keep));
            if file.starts_with("snapshot-") && !kept {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                // The last reader of a retired one may still be removing it.
                removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(())
    }

    /// The newest snapshot.
    pub fn current(&self) -> Option<Snapshot> {
        self.current.lock().as_ref().map(|kept| Snapshot { meta: kept.meta.clone(), snapshot: kept.dir.clone() })
    }

    /// Where snapshots are; whoever receives one puts it together in here, under a name of its own.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a snapshot of what the store in force has now, or gives the current one when that has more. One that has
    /// as much is replaced: it may link to tables that the store no longer has. Blocks on disk.
    pub fn build(&self, store: &CurrentStore) -> io::Result<Snapshot> {
        let mut next = self.next.lock();
        // Only now: what was in force before the wait for the lock may be replaced.
        let store = store.get();
        let building = self.root.join(format!("building-{}", *next));
        if building.exists() {
            fs::remove_dir_all(&building)?;
        }
        store.checkpoint(&building).map_err(io::Error::other)?;
        let meta = if Flaw::PurgesBeforeFlush.is_put_in() { meta_of(&store)? } else { self.read_meta(&building)? };
        if let Some(current) = self.current().filter(|current| current.meta.last_log_id > meta.last_log_id) {
            fs::remove_dir_all(&building)?;
            return Ok(current);
        }
        self.keep(&mut next, meta, &building)
    }

    /// Takes in a snapshot that was received, as the current one unless that has as much.
    pub fn adopt(&self, meta: &SnapshotMeta, received: &SnapshotDir) -> io::Result<()> {
        let mut next = self.next.lock();
        let current = self.current();
        if current.as_ref().is_some_and(|current| current.snapshot.path() == received.path()) {
            return Ok(());
        }
        if current.is_some_and(|current| current.meta.last_log_id >= meta.last_log_id) {
            return fs::remove_dir_all(received.path());
        }
        self.keep(&mut next, meta.clone(), received.path()).map(drop)
    }

    fn keep(&self, next: &mut u64, meta: SnapshotMeta, complete: &Path) -> io::Result<Snapshot> {
        let number = *next;
        *next += 1;
        let path = self.root.join(name(number));
        write_atomically(&self.root.join(meta_name(number)), &codec::encode_snapshot_meta(&meta))?;
        fs::rename(complete, &path)?;
        sync_parent(&path)?;
        let dir = SnapshotDir::open(path)?;
        let old = self.current.lock().replace(Kept { meta: meta.clone(), dir: dir.clone() });
        if let Some(old) = old {
            // Its meta goes at once: without it the directory is only a leftover.
            let _ = fs::remove_file(old.dir.path().with_extension("meta"));
            old.dir.retire();
        }
        Ok(Snapshot { meta, snapshot: dir })
    }

    /// What a checkpoint contains, read from it.
    pub fn read_meta(&self, path: &Path) -> io::Result<SnapshotMeta> {
        let store = RocksStore::open_read_only(path, &self.cache).map_err(io::Error::other)?;
        meta_of(&store)
    }
}

/// Last applied position and membership of a store, as openraft has them.
pub fn meta_of(store: &RocksStore) -> io::Result<SnapshotMeta> {
    let view = View::new(store.snapshot()).map_err(io::Error::other)?;
    let membership = match view.membership().map_err(io::Error::other)? {
        Some((at, bytes)) => StoredMembership::new(Some(log_id(at.term, at.index)), codec::decode_membership(bytes)?),
        None => StoredMembership::default(),
    };
    let applied = view.applied();
    Ok(SnapshotMeta { last_log_id: applied.map(|at| log_id(at.term, at.index)), last_membership: membership })
}

fn name(number: u64) -> String {
    format!("snapshot-{number:06}")
}

fn meta_name(number: u64) -> String {
    format!("snapshot-{number:06}.meta")
}

impl Builder {
    /// For the store in force when it builds.
    pub fn new(store: Arc<CurrentStore>, snapshots: Arc<Snapshots>, tasks: Tasks) -> Self {
        Self { store, snapshots, tasks }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotDir;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (store, snapshots) = (self.store.clone(), self.snapshots.clone());
        let build = move || snapshots.build(&store);
        self.tasks.blocking(Work::Snapshot, build).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use quorate_state::apply::{Entry, LogPosition, Machine, Payload};

    use super::*;
    use crate::consensus::state_dir::Opened;

    /// A store that has applied so many entries.
    fn store(path: &Path, entries: u64, cache: &Cache) -> Arc<RocksStore> {
        let store = Arc::new(RocksStore::open(path, cache).unwrap());
        let mut machine = Machine::open(store.clone()).unwrap();
        let entry = |index| Entry { position: LogPosition { term: 1, index }, payload: Payload::Blank };
        machine.apply(&(0..entries).map(entry).collect::<Vec<_>>()).unwrap();
        store
    }

    fn opened(store: Arc<RocksStore>) -> Opened {
        Opened::of(&Machine::open(store).unwrap(), 0)
    }

    /// A builder that still has the store from before a snapshot was installed used to put what that has in the place
    /// of the one that was installed. The log before the newer one is purged, so no follower could be served again.
    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::new_lru_cache(1 << 20);
        let root = temp.path().join("snapshots");
        let snapshots = Snapshots::open(root.clone(), cache.clone()).unwrap();
        let newer = store(&temp.path().join("newer"), 9, &cache);
        let received = root.join("incoming-1");
        newer.checkpoint(&received).unwrap();
        let meta = snapshots.read_meta(&received).unwrap();
        assert_eq!(meta.last_log_id, Some(log_id(1, 8)));
        snapshots.adopt(&meta, &SnapshotDir::open(received).unwrap()).unwrap();

        let current = CurrentStore::new(opened(store(&temp.path().join("older"), 4, &cache)));
        assert_eq!(snapshots.build(&current).unwrap().meta, meta, "the newer one is the answer");
        assert_eq!(snapshots.current().unwrap().meta, meta);
        current.replace(opened(newer));
        snapshots.build(&current).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2, "the newer one and its meta, nothing else");
        drop(snapshots);
        assert_eq!(Snapshots::open(root, cache).unwrap().current().unwrap().meta, meta);
    }
}

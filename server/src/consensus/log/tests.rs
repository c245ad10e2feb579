//! openraft's own suite for log storages over ours, and what it does not ask.

use std::sync::atomic::{AtomicBool, Ordering};

use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{RaftSnapshotBuilder, StorageError};

use super::*;
use crate::consensus::log_disk::{LogLoad, RocksLogDisk};
use crate::consensus::types::{EncodedBatch, log_id};

/// The suite wants a state machine; this one remembers positions only.
#[derive(Default)]
struct Positions {
    applied: Option<LogId>,
    membership: StoredMembershipOf<TypeConfig>,
    snapshot: Option<SnapshotMetaOf<TypeConfig>>,
}

struct PositionsBuilder(SnapshotMetaOf<TypeConfig>);

impl RaftSnapshotBuilder<TypeConfig> for PositionsBuilder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, ()>, io::Error> {
        Ok(SnapshotOf::<TypeConfig, ()> { meta: self.0.clone(), snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Positions {
    type SnapshotData = ();
    type SnapshotBuilder = PositionsBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembershipOf<TypeConfig>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: futures::Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        use futures::StreamExt;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembershipOf::<TypeConfig>::new(self.applied, membership);
            }
            assert!(responder.is_none());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> PositionsBuilder {
        let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: self.applied, last_membership: self.membership.clone() };
        self.snapshot = Some(meta.clone());
        PositionsBuilder(meta)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<TypeConfig>, (): ()) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, ()>>, io::Error> {
        Ok(self.snapshot.clone().map(|meta| SnapshotOf::<TypeConfig, ()> { meta, snapshot: () }))
    }
}

struct Builder {
    tail_bytes_max: u64,
}

impl StoreBuilder<TypeConfig, LogStore, Positions, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Positions), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RocksLogDisk::open(dir.path()).unwrap());
        Ok((dir, start(disk, self.tail_bytes_max), Positions::default()))
    }
}

fn start(disk: Arc<dyn LogDisk>, tail_bytes_max: u64) -> LogStore {
    let (store, writer) = LogStore::open(disk, tail_bytes_max, Tasks::default()).unwrap();
    std::thread::spawn(move || futures::executor::block_on(writer.run()));
    store
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let batch = EncodedBatch(vec![u8::try_from(index % 251).unwrap(); bytes].into());
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(batch) }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_with_the_tail_in_memory() {
    Suite::test_all(Builder { tail_bytes_max: TAIL_BYTES_MAX }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_with_everything_read_from_disk() {
    Suite::test_all(Builder { tail_bytes_max: 0 }).await.unwrap();
}

#[tokio::test]
async fn the_tail_is_bounded_and_what_left_it_is_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = start(Arc::new(RocksLogDisk::open(dir.path()).unwrap()), 64 << 10);
    let entries: Vec<_> = (0..1000).map(|index| entry(1, index, 1000)).collect();
    for chunk in entries.chunks(10) {
        store.blocking_append(chunk.to_vec()).await.unwrap();
    }
    assert!(store.tail().bytes <= 64 << 10, "{}", store.tail().bytes);
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(0..1000).await.unwrap(), entries);
    assert_eq!(reader.try_get_log_entries(900..2000).await.unwrap(), entries[900..]);
    // Replication gets at most about a mebibyte at a time, across the border of disk and memory too.
    let streamed: Vec<_> = reader.entries_stream(3..998).await.try_collect().await.unwrap();
    assert_eq!(streamed, entries[3..998]);
    for start in [0, 500, 940, 999] {
        let some = reader.limited_get_log_entries(start, 1000).await.unwrap();
        let from = usize::try_from(start).unwrap();
        assert!(!some.is_empty());
        assert_eq!(some, entries[from..from + some.len()]);
    }
    let big: Vec<_> = (1000..1004).map(|index| entry(1, index, 700 << 10)).collect();
    store.blocking_append(big.clone()).await.unwrap();
    assert_eq!(reader.limited_get_log_entries(1000, 1004).await.unwrap(), big[..2]);
    store.purge(log_id(1, 500)).await.unwrap();
    assert!(reader.limited_get_log_entries(500, 1000).await.is_err(), "purged: an error, not a gap");
    assert_eq!(reader.try_get_log_entries(490..503).await.unwrap(), entries[501..503]);
}

#[tokio::test]
async fn vote_entries_and_committed_survive_a_restart_and_truncation_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut store, writer) =
            LogStore::open(Arc::new(RocksLogDisk::open(dir.path()).unwrap()), 0, Tasks::default()).unwrap();
        let thread = std::thread::spawn(move || futures::executor::block_on(writer.run()));
        store.save_vote(&Vote::new_committed(1, 9)).await.unwrap();
        store.blocking_append((0..10).map(|index| entry(1, index, 10))).await.unwrap();
        store.save_committed(Some(log_id(1, 4))).await.unwrap();
        store.truncate_after(Some(log_id(1, 6))).await.unwrap();
        store.blocking_append((7..9).map(|index| entry(2, index, 10))).await.unwrap();
        drop(store);
        thread.join().unwrap().unwrap();
    }
    let mut store = start(Arc::new(RocksLogDisk::open(dir.path()).unwrap()), 0);
    assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 8)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 4)));
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.read_vote().await.unwrap(), Some(Vote::new_committed(1, 9)));
    let expected: Vec<_> = (0..7).map(|index| entry(1, index, 10)).chain((7..9).map(|i| entry(2, i, 10))).collect();
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), expected);
}

/// A disk whose syncs fail once it is told so. It tells whether all it was given is synced.
struct Faulty {
    disk: RocksLogDisk,
    broken: AtomicBool,
    synced: AtomicBool,
}

impl Faulty {
    fn open(path: &std::path::Path) -> Arc<Self> {
        let disk = RocksLogDisk::open(path).unwrap();
        Arc::new(Self { disk, broken: AtomicBool::new(false), synced: AtomicBool::new(true) })
    }
}

impl LogDisk for Faulty {
    fn load(&self) -> io::Result<LogLoad> {
        self.disk.load()
    }
    fn write(&self, ops: &[LogOp], sync: bool) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            Err(io::Error::other("sync failed"))
        } else {
            self.synced.store(sync, Ordering::SeqCst);
            self.disk.write(ops, sync)
        }
    }
    fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        self.disk.read(start, end, bytes_max)
    }
    fn bytes(&self) -> u64 {
        self.disk.bytes()
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::open(dir.path());
    let (mut store, writer) = LogStore::open(disk.clone(), TAIL_BYTES_MAX, Tasks::default()).unwrap();
    let thread = std::thread::spawn(move || futures::executor::block_on(writer.run()));
    store.blocking_append([entry(1, 0, 10)]).await.unwrap();
    disk.broken.store(true, Ordering::SeqCst);
    assert!(store.blocking_append([entry(1, 1, 10)]).await.is_err());
    disk.broken.store(false, Ordering::SeqCst);
    assert!(thread.join().unwrap().is_err(), "the writer ends, which ends the member");
    assert!(store.blocking_append([entry(1, 2, 10)]).await.is_err());
    assert!(store.save_vote(&Vote::new(2, 1)).await.is_err());
}

/// A truncation used to be queued without a sync. With the power lost after the snapshot for which it was made was
/// installed, the log had entries of an older term beyond the state, and the member could not start.
#[tokio::test]
async fn a_truncation_is_on_disk_when_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::open(dir.path());
    let mut store = start(disk.clone(), TAIL_BYTES_MAX);
    store.blocking_append((0..10).map(|index| entry(1, index, 10))).await.unwrap();
    store.truncate_after(Some(log_id(1, 4))).await.unwrap();
    assert_eq!(disk.load().unwrap().last, Some(log_id(1, 4)));
    assert!(disk.synced.load(Ordering::SeqCst));
}

/// A snapshot of a newer term may end at a smaller index than a log that it replaces. What lay beyond used to stay,
/// and to follow what was purged.
#[tokio::test]
async fn a_purge_by_a_newer_term_leaves_nothing_of_an_older_one() {
    for tail_bytes_max in [0, TAIL_BYTES_MAX] {
        let dir = tempfile::tempdir().unwrap();
        let purged = log_id(3, 6);
        {
            let (mut store, writer) =
                LogStore::open(Arc::new(RocksLogDisk::open(dir.path()).unwrap()), tail_bytes_max, Tasks::default())
                    .unwrap();
            let thread = std::thread::spawn(move || futures::executor::block_on(writer.run()));
            store.blocking_append((0..10).map(|index| entry(2, index, 10))).await.unwrap();
            store.purge(purged).await.unwrap();
            let state = store.get_log_state().await.unwrap();
            assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(purged), Some(purged)));
            assert_eq!(store.reader().try_get_log_entries(..).await.unwrap(), []);
            assert_eq!(store.reader().live_bytes(), 0);
            store.blocking_append([entry(3, 7, 10)]).await.unwrap();
            assert_eq!(store.reader().try_get_log_entries(..).await.unwrap(), [entry(3, 7, 10)]);
            drop(store);
            thread.join().unwrap().unwrap();
        }
        let mut store = start(Arc::new(RocksLogDisk::open(dir.path()).unwrap()), tail_bytes_max);
        assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(3, 7)));
        assert_eq!(store.reader().try_get_log_entries(..).await.unwrap(), [entry(3, 7, 10)]);
    }
}

#[tokio::test]
async fn what_is_applied_is_read_in_bounded_pieces() {
    let dir = tempfile::tempdir().unwrap();
    for tail_bytes_max in [0, 3 << 20] {
        let disk = Arc::new(RocksLogDisk::open(&dir.path().join(tail_bytes_max.to_string())).unwrap());
        let mut store = start(disk, tail_bytes_max);
        let entries: Vec<_> = (0..20).map(|index| entry(1, index, 400 << 10)).collect();
        store.blocking_append(entries.clone()).await.unwrap();
        let mut reader = store.get_log_reader().await;
        let some = reader.read(0, 20, APPLY_BYTES_MAX).await.unwrap();
        assert_eq!(some, entries[..6], "two mebibytes and what passes them");
        let streamed: Vec<_> = reader.entries_stream(0..20).await.try_collect().await.unwrap();
        assert_eq!(streamed, entries);
        let streamed: Vec<_> = reader.entries_stream(17..99).await.try_collect().await.unwrap();
        assert_eq!(streamed, entries[17..]);
    }
}

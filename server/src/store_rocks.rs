//! The state machine's store over `RocksDB`. No other file knows how that is set up.
//!
//! Invariants:
//! - One column family and no WAL: a flush is a prefix of history, and the Raft log is the WAL of what follows it.
//! - After a failed write nothing more is taken until the store is opened again.
//! - It merges no tables by itself until it is told how much disk that may take.
//! - A store that was replaced keeps its files until its last user is gone, then removes them.
//!
//! The options were measured; what is not mentioned here brought nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quorate_state::flaw::Flaw;
use quorate_state::store::{Cursor, Read, Store, StoreError, Write, WriteBatch};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, CompactOptions, DB, DBCompressionType, DBRawIterator, FlushOptions, Options, ReadOptions,
    WriteOptions,
};

use crate::merges::Merges;
use crate::rewrites::{self, Slice};

/// A member's state in `RocksDB`.
pub struct RocksStore {
    db: DB,
    merges: Merges,
    failed: AtomicBool,
    // After `db`: the files go when nobody has them open.
    dir: StoreDir,
}

struct StoreDir {
    path: PathBuf,
    retired: AtomicBool,
}

/// An unchanging picture of a [`RocksStore`].
pub struct RocksSnapshot<'a>(rocksdb::Snapshot<'a>);

/// A position in a [`RocksStore`] or [`RocksSnapshot`].
pub struct RocksCursor<'a>(DBRawIterator<'a>);

impl RocksStore {
    /// Opens or creates the store in `path`. The cache may be shared with other stores.
    pub fn open(path: &Path, cache: &Cache) -> Result<Self, StoreError> {
        let (mut options, merges) = options(cache).map_err(io)?;
        // Tables without the file that names them are a store that lost it: not to be begun anew.
        options.create_if_missing(!has_tables(path));
        DB::open(&options, path).map(|db| Self::of(db, merges, path)).map_err(io)
    }

    /// Opens a checkpoint to look at it; leaves its files as they are.
    pub fn open_read_only(path: &Path, cache: &Cache) -> Result<Self, StoreError> {
        let (options, merges) = options(cache).map_err(io)?;
        DB::open_for_read_only(&options, path, false).map(|db| Self::of(db, merges, path)).map_err(io)
    }

    fn of(db: DB, merges: Merges, path: &Path) -> Self {
        let dir = StoreDir { path: path.to_owned(), retired: AtomicBool::new(false) };
        Self { db, merges, failed: AtomicBool::new(false), dir }
    }

    /// From now on merges tables by itself if that takes no more than `room` bytes of disk for a while. How many it may
    /// take now.
    pub fn merge_within(&self, room: u64) -> Result<u64, StoreError> {
        self.merges.keep_within(&self.db, room).map_err(io)
    }

    /// Writes what is only in memory to files; with `wait`, all of it is durable when this returns.
    pub fn flush(&self, wait: bool) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.db.flush_opt(&options).map_err(|error| {
            self.failed.store(true, Ordering::Release);
            io(error)
        })
    }

    /// Makes a copy at `path` (which must not exist, on the same file system) of hard links, flushing first.
    /// Writes go on meanwhile.
    pub fn checkpoint(&self, path: &Path) -> Result<(), StoreError> {
        let flush_from = if Flaw::PurgesBeforeFlush.is_put_in() { u64::MAX } else { 0 };
        let made = |checkpoint: Checkpoint<'_>| checkpoint.create_checkpoint_with_log_size(path, flush_from);
        Checkpoint::new(&self.db).and_then(made).map_err(io)
    }

    /// About how much disk it takes.
    pub fn bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.live-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }

    /// Bytes that are in memory and have yet to be written.
    pub fn unflushed_bytes(&self) -> u64 {
        self.db.property_int_value("rocksdb.cur-size-all-mem-tables").ok().flatten().unwrap_or(0)
    }

    /// Parts of the store with deletions that rewriting would carry out, in order of keys.
    pub fn slices_with_deletions(&self) -> Result<Vec<Slice>, StoreError> {
        Ok(rewrites::plan(&self.db.live_files().map_err(io)?))
    }

    /// Whether a part still has to be rewritten, after others were that may have taken it with them.
    pub fn still_has(&self, slice: &Slice) -> Result<bool, StoreError> {
        Ok(slice.is_in(&self.db.live_files().map_err(io)?))
    }

    /// Whether rewriting a part takes no more than `room` bytes of disk before it gives any back. Where its tables are
    /// larger, but so many deletions are among them that it might, all that is alive in it is read to see what would be
    /// written, until that is too much.
    pub fn fits(&self, slice: &Slice, room: u64) -> Result<bool, StoreError> {
        if slice.bytes <= room || slice.hoped_bytes > room {
            return Ok(slice.bytes <= room);
        }
        let mut options = read_options(false);
        options.set_auto_readahead_size(true);
        if let Some(end) = &slice.affected.end {
            options.set_iterate_upper_bound(end.as_slice());
        }
        let mut cursor = self.db.raw_iterator_opt(options);
        match &slice.affected.start {
            Some(start) => cursor.seek(start),
            None => cursor.seek_to_first(),
        }
        let mut bytes = slice.carried;
        while let Some((key, value)) = cursor.item() {
            bytes += (key.len() + value.len()) as u64;
            if bytes > room {
                return Ok(false);
            }
            cursor.next();
        }
        cursor.status().map(|()| true).map_err(io)
    }

    /// Rewrites a part, without what was deleted of it. Takes a while; reads and writes go on.
    pub fn rewrite(&self, slice: &Slice) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_opt(slice.keys.start.as_ref(), slice.keys.end.as_ref(), &options);
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.dir.path
    }

    /// Its files go when its last user does.
    pub fn retire(&self) {
        self.dir.retired.store(true, Ordering::Release);
    }
}

impl Drop for StoreDir {
    fn drop(&mut self) {
        if *self.retired.get_mut()
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a replaced store's files stay");
        }
    }
}

fn has_tables(path: &Path) -> bool {
    let is_table = |item: std::io::Result<std::fs::DirEntry>| {
        item.is_ok_and(|item| item.path().extension().is_some_and(|extension| extension == "sst"))
    };
    std::fs::read_dir(path).is_ok_and(|mut items| items.any(is_table))
}

fn options(cache: &Cache) -> Result<(Options, Merges), rocksdb::Error> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(4 << 10);
    table.set_bloom_filter(10.0, false);
    // In the cache they are evicted together with what they find; outside they cost about 1.3 B an entry.
    table.set_cache_index_and_filter_blocks(false);
    table.set_format_version(5);

    // Set aside for a table was what the largest has, 140 MB, however small it became: a nearly full disk has no such room.
    let mut options = Options::default().get_options_from_string("allow_fallocate=false")?;
    options.set_block_based_table_factory(&table);
    let merges = Merges::set_up(&mut options);
    // A larger memtable makes every insert dearer, and each member holds up to three of them. What is flushed lies in
    // twice as many files for that before it is merged: as many bytes as with larger ones.
    options.set_write_buffer_size(16 << 20);
    options.set_max_write_buffer_number(3);
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_bytes_for_level_base(256 << 20);
    options.set_target_file_size_base(128 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(1024);
    options.set_keep_log_file_num(4);
    // It takes a few kilobytes, and would set aside four megabytes whenever it is opened.
    options.set_manifest_preallocation_size(64 << 10);
    options.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    Ok((options, merges))
}

fn read_options(fill_cache: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(fill_cache);
    options.set_auto_readahead_size(false);
    options
}

fn io(error: rocksdb::Error) -> StoreError {
    StoreError::Io(error.into_string())
}

fn gathered(values: Vec<Result<Option<Vec<u8>>, rocksdb::Error>>) -> Result<Vec<Option<Bytes>>, StoreError> {
    values.into_iter().map(|value| value.map(|value| value.map(Bytes::from)).map_err(io)).collect()
}

impl Read for RocksStore {
    type Cursor<'a> = RocksCursor<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_pinned(key).map_err(io)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        gathered(self.db.multi_get(keys))
    }

    fn cursor(&self, fill_cache: bool) -> RocksCursor<'_> {
        RocksCursor(self.db.raw_iterator_opt(read_options(fill_cache)))
    }
}

impl Store for RocksStore {
    type Snapshot<'a> = RocksSnapshot<'a>;

    fn snapshot(&self) -> RocksSnapshot<'_> {
        RocksSnapshot(self.db.snapshot())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Latched);
        }
        let mut writes = rocksdb::WriteBatch::default();
        for write in batch.writes {
            match write {
                Write::Put { key, value } => writes.put(key, value),
                Write::Delete { key } => writes.delete(key),
                Write::DeleteRange { start, end } => writes.delete_range(start, end),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(writes, &options).map_err(|error| {
            self.failed.store(true, Ordering::Release);
            io(error)
        })
    }
}

impl Read for RocksSnapshot<'_> {
    type Cursor<'b>
        = RocksCursor<'b>
    where
        Self: 'b;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.0.get_pinned(key).map_err(io)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        gathered(self.0.multi_get(keys))
    }

    fn cursor(&self, fill_cache: bool) -> RocksCursor<'_> {
        RocksCursor(self.0.raw_iterator_opt(read_options(fill_cache)))
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.0.seek(key);
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.0.seek_for_prev(key);
    }

    fn next(&mut self) {
        self.0.next();
    }

    fn prev(&mut self) {
        self.0.prev();
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.0.item()
    }

    fn status(&self) -> Result<(), StoreError> {
        self.0.status().map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        Cache::new_lru_cache(8 << 20)
    }

    fn put(store: &RocksStore, key: &str, value: &str) {
        let mut batch = WriteBatch::default();
        batch.put(key.as_bytes(), value.as_bytes().to_vec());
        store.write(batch).unwrap();
    }

    fn get(read: &impl Read, key: &str) -> Option<String> {
        read.get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value.into()).unwrap())
    }

    #[test]
    fn reads_writes_cursors_and_snapshots() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(&dir.path().join("s"), &cache()).unwrap();
        for key in ["a", "b", "c", "d"] {
            put(&store, key, "1");
        }
        let snapshot = store.snapshot();
        let mut batch = WriteBatch::default();
        batch.put(*b"a", &b"2"[..]);
        batch.delete(*b"b");
        batch.delete_range(*b"c", *b"d");
        batch.put(*b"a", &b"3"[..]);
        store.write(batch).unwrap();

        assert_eq!(get(&store, "a").as_deref(), Some("3"));
        assert_eq!((get(&store, "b"), get(&store, "c")), (None, None));
        assert_eq!(get(&snapshot, "c").as_deref(), Some("1"));
        let many = snapshot.multi_get(&[b"b".to_vec(), b"x".to_vec()]).unwrap();
        assert_eq!(many, [Some(Bytes::from_static(b"1")), None]);

        let mut cursor = store.cursor(true);
        assert!(cursor.entry().is_none());
        cursor.seek(b"b");
        assert_eq!(cursor.entry(), Some((&b"d"[..], &b"1"[..])));
        cursor.next();
        assert!(cursor.entry().is_none());
        cursor.status().unwrap();
        let mut cursor = snapshot.cursor(false);
        cursor.seek_for_prev(b"bb");
        assert_eq!(cursor.entry(), Some((&b"b"[..], &b"1"[..])));
        cursor.prev();
        assert_eq!(cursor.entry(), Some((&b"a"[..], &b"1"[..])));
    }

    #[test]
    fn a_checkpoint_has_what_was_written_before_it_and_can_be_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        let store = RocksStore::open(&dir.path().join("s"), &cache()).unwrap();
        put(&store, "a", "1");
        store.checkpoint(&copy).unwrap();
        put(&store, "a", "2");
        let seen = RocksStore::open_read_only(&copy, &cache()).unwrap();
        assert_eq!(get(&seen, "a").as_deref(), Some("1"));
        let files = || std::fs::read_dir(&copy).unwrap().count();
        let before = files();
        drop(seen);
        assert_eq!(files(), before, "looking leaves no trace");
    }

    #[test]
    fn what_was_deleted_gives_its_disk_back_when_it_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(&dir.path().join("s"), &cache()).unwrap();
        let noise = |n: u64| -> Vec<u8> {
            (0..128).flat_map(|i| xxhash_rust::xxh3::xxh3_64(&(n << 8 | i).to_be_bytes()).to_be_bytes()).collect()
        };
        for n in 0..8_000_u64 {
            let mut batch = WriteBatch::default();
            batch.put(n.to_be_bytes(), noise(n));
            store.write(batch).unwrap();
        }
        store.flush(true).unwrap();
        assert_eq!(store.slices_with_deletions().unwrap(), [], "nothing was deleted");
        let before = store.bytes();
        assert!(before > 8 << 20, "{before}");
        for n in (0..8_000_u64).filter(|n| n % 10 > 0) {
            let mut batch = WriteBatch::default();
            batch.delete(n.to_be_bytes());
            store.write(batch).unwrap();
        }
        assert!(store.unflushed_bytes() > 0);
        store.flush(true).unwrap();
        for slice in store.slices_with_deletions().unwrap() {
            assert!(slice.bytes > before / 2, "{} of {before}", slice.bytes);
            assert!(store.fits(&slice, before / 5).unwrap(), "little of it is alive");
            assert!(!store.fits(&slice, before / 20).unwrap());
            assert!(store.still_has(&slice).unwrap());
            store.rewrite(&slice);
            assert!(!store.still_has(&slice).unwrap());
        }
        assert!(store.bytes() < before / 4, "{} of {before}", store.bytes());
        assert_eq!(store.slices_with_deletions().unwrap(), [], "none is left");
        assert_eq!(store.get(&7_990_u64.to_be_bytes()).unwrap().unwrap(), noise(7_990));
        assert_eq!(store.get(&7_991_u64.to_be_bytes()).unwrap(), None);
    }

    /// By their number it looked as if half of the store would go.
    #[test]
    fn deletions_of_small_entries_beside_large_ones_promise_little() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(&dir.path().join("s"), &cache()).unwrap();
        for n in 0..500_u64 {
            let mut batch = WriteBatch::default();
            batch.put([b"large".as_slice(), &n.to_be_bytes()].concat(), vec![7; 8 << 10]);
            batch.put([b"small".as_slice(), &n.to_be_bytes()].concat(), vec![7; 8]);
            store.write(batch).unwrap();
        }
        store.flush(true).unwrap();
        let mut batch = WriteBatch::default();
        (0..500_u64).for_each(|n| batch.delete([b"small".as_slice(), &n.to_be_bytes()].concat()));
        store.write(batch).unwrap();
        store.flush(true).unwrap();
        let slices = store.slices_with_deletions().unwrap();
        assert_eq!(slices.len(), 1);
        assert!(!store.fits(&slices[0], 500 * (8 << 10)).unwrap());
        assert!(store.fits(&slices[0], 500 * (8 << 10) + (64 << 10)).unwrap());
    }

    #[test]
    fn flushed_writes_survive_and_a_retired_store_removes_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        {
            let store = RocksStore::open(&path, &cache()).unwrap();
            put(&store, "a", "1");
            store.flush(true).unwrap();
        }
        let store = RocksStore::open(&path, &cache()).unwrap();
        assert_eq!(get(&store, "a").as_deref(), Some("1"));
        store.retire();
        assert!(path.exists());
        drop(store);
        assert!(!path.exists());
    }
}

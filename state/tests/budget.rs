//! What a command costs the store: counted, because every member pays it for every write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use quorate_proto::Key;
use quorate_state::apply::{Entry, LogPosition, Machine, Payload};
use quorate_state::command::*;
use quorate_state::store::{MemoryCursor, MemorySnapshot, MemoryStore, Read, Store, StoreError, WriteBatch};
use quorate_state::view::View;

/// Counts what it is asked.
#[derive(Default)]
struct Counting {
    store: MemoryStore,
    gets: AtomicUsize,
    cursors: AtomicUsize,
    batches: AtomicUsize,
    writes: AtomicUsize,
}

impl Read for Counting {
    type Cursor<'a> = MemoryCursor;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.store.get(key)
    }

    fn cursor(&self, fill_cache: bool) -> MemoryCursor {
        self.cursors.fetch_add(1, Ordering::Relaxed);
        self.store.cursor(fill_cache)
    }
}

impl Store for Counting {
    type Snapshot<'a> = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        self.store.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(batch.writes.len(), Ordering::Relaxed);
        self.store.write(batch)
    }
}

impl Counting {
    /// Gets, cursors, batches and writes since the last call.
    fn counted(&self) -> [usize; 4] {
        [&self.gets, &self.cursors, &self.batches, &self.writes].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

fn puts(index: u64, keys: &[&str], request: Option<RequestId>) -> Entry {
    let put = |key: &&str| Envelope {
        request,
        principal: Principal::default(),
        command: Command::Put(Put {
            key: Key::new((*key).to_owned()).unwrap(),
            value: Some(Bytes::from("value")),
            owner: Owner::None,
            expect: Expect::Anything,
            return_previous: false,
            must_have_parent: false,
            sequential: false,
        }),
    };
    let batch = Batch { stamp_ms: 1, commands: keys.iter().map(put).collect() };
    Entry { position: LogPosition { term: 1, index }, payload: Payload::Batch(batch) }
}

#[test]
fn an_overwrite_is_one_read_and_two_small_writes_and_touches_no_directory() {
    let store = Counting::default();
    let mut machine = Machine::open(&store).unwrap();
    machine.apply(&[puts(1, &["/a/b/c", "/a/b/d", "plain"], None)]).unwrap();
    store.counted();
    machine.apply(&[puts(2, &["/a/b/c"], None)]).unwrap();
    // One read; two writes for the key, one record for the batch, one head.
    assert_eq!(store.counted(), [1, 0, 1, 4]);
    machine.apply(&[puts(3, &["/a/b/c", "/a/b/d", "plain"], None)]).unwrap();
    assert_eq!(store.counted(), [3, 0, 1, 3 * 2 + 2]);
    // Two entries in one write: each has its record, the head is shared.
    machine.apply(&[puts(4, &["/a/b/c"], None), puts(5, &["/a/b/d"], None)]).unwrap();
    assert_eq!(store.counted(), [2, 0, 1, 2 * 2 + 2 + 1]);
}

#[test]
fn remembering_a_request_costs_no_read_and_no_write_of_its_own() {
    let store = Counting::default();
    let mut machine = Machine::open(&store).unwrap();
    machine.apply(&[puts(1, &["/a"], None)]).unwrap();
    store.counted();
    let client = quorate_proto::ClientId::new(1).unwrap();
    let request = RequestId { client, sequence: 1, lowest_unacknowledged: 1, seen_index: 1 };
    machine.apply(&[puts(2, &["/a"], Some(request))]).unwrap();
    assert_eq!(store.counted(), [1, 0, 1, 4]);
}

#[test]
fn a_new_child_of_a_directory_touches_that_directory_alone() {
    let store = Counting::default();
    let mut machine = Machine::open(&store).unwrap();
    machine.apply(&[puts(1, &["/a/b/c"], None)]).unwrap();
    store.counted();
    machine.apply(&[puts(2, &["/a/b/d"], None)]).unwrap();
    // Reads: metadata, child entry, directory. Writes: those of an overwrite, child entry, directory.
    assert_eq!(store.counted(), [3, 0, 1, 4 + 2]);
}

#[test]
fn a_get_is_two_reads_and_a_view_one() {
    let store = Counting::default();
    Machine::open(&store).unwrap().apply(&[puts(1, &["/a"], None)]).unwrap();
    store.counted();
    let view = View::new(&store).unwrap();
    assert_eq!(store.counted(), [1, 0, 0, 0]);
    view.get(&Key::new("/a").unwrap(), None).unwrap().unwrap();
    assert_eq!(store.counted(), [2, 0, 0, 0]);
}

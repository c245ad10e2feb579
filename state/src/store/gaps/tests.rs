//! A store reads the same with its gaps as without; and they grow together where keys come and go.

use proptest::prelude::*;

use super::*;
use crate::store::{MemoryStore, Store};

const TABLES: &[u8] = b"ce";

fn written(store: &MemoryStore, gaps: &RefCell<Gaps>, writes: &[(Vec<u8>, bool)]) {
    let mut batch = WriteBatch::default();
    for (key, put) in writes {
        if *put { batch.put(key.clone(), key.clone()) } else { batch.delete(key.clone()) }
    }
    gaps.borrow_mut().note(&batch);
    store.write(batch).unwrap();
}

/// Of a store and its gaps: no key lies in one, they are apart, within their tables, and counted.
fn check(store: &MemoryStore, gaps: &Gaps) {
    let mut bytes = 0;
    let mut last: Option<&Vec<u8>> = None;
    for (start, end) in &gaps.ends {
        assert!(start < end, "{start:?} {end:?}");
        assert!(last.is_none_or(|last| last < start), "{last:?} touches {start:?}");
        assert!(gaps.watches(start) && *end <= vec![start[0] + 1], "{start:?} to {end:?} leaves its table");
        let mut cursor = store.cursor(true);
        cursor.seek(start);
        assert!(cursor.entry().is_none_or(|(key, _)| key >= &end[..]), "{start:?} to {end:?} is not empty");
        bytes += start.len() + end.len();
        last = Some(end);
    }
    assert_eq!(bytes, gaps.bytes);
}

fn walk<C: Cursor>(mut cursor: C, moves: &[(u8, Vec<u8>)]) -> Vec<Option<Vec<u8>>> {
    let mut seen = Vec::new();
    for (kind, key) in moves {
        match kind % 5 {
            0 | 1 => cursor.seek(key),
            2 => cursor.seek_for_prev(key),
            3 if cursor.entry().is_some() => cursor.next(),
            4 if cursor.entry().is_some() => cursor.prev(),
            _ => {}
        }
        seen.push(cursor.entry().map(|(key, _)| key.to_vec()));
    }
    seen
}

/// Keys of watched tables and of those around them, some of which begin others.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(b"bcdef".to_vec()), prop::collection::vec(0u8..3, 0..3)).prop_map(|(table, rest)| {
        let mut key = vec![table];
        key.extend(rest);
        key
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn reads_as_without(
        rounds in prop::collection::vec(
            (prop::collection::vec((any_key(), any::<bool>()), 0..8), prop::collection::vec((any::<u8>(), any_key()), 0..8)),
            0..12,
        ),
    ) {
        let (store, gaps) = (MemoryStore::new(), RefCell::new(Gaps::of(TABLES)));
        for (writes, moves) in rounds {
            written(&store, &gaps, &writes);
            check(&store, &gaps.borrow());
            let gapped = Gapped::new(&store, &gaps);
            prop_assert_eq!(walk(gapped.cursor(true), &moves), walk(store.cursor(true), &moves));
            check(&store, &gaps.borrow());
        }
    }
}

fn contender(n: u32) -> Vec<u8> {
    [b"clock/", &n.to_be_bytes()[..]].concat()
}

#[test]
fn where_keys_come_and_go_one_gap_is_left() {
    let (store, gaps) = (MemoryStore::new(), RefCell::new(Gaps::of(TABLES)));
    written(&store, &gaps, &[(b"cabove".to_vec(), true), (b"czbelow".to_vec(), true)]);
    for n in 0..1000 {
        let gapped = Gapped::new(&store, &gaps);
        let mut cursor = gapped.cursor(true);
        cursor.seek(b"clock/");
        assert_eq!(cursor.entry().map(|(key, _)| key), Some(&b"czbelow"[..]), "nobody is there");
        // In no order.
        let key = contender((n * 7919) % 1000);
        written(&store, &gaps, &[(key.clone(), true)]);
        let gapped = Gapped::new(&store, &gaps);
        let mut cursor = gapped.cursor(true);
        cursor.seek(b"clock/");
        assert_eq!(cursor.entry().map(|(key, _)| key), Some(&key[..]));
        written(&store, &gaps, &[(key, false)]);
        assert!(gaps.borrow().ends.len() <= 2, "{:?}", gaps.borrow());
    }
    assert_eq!(gaps.borrow().around(b"clock/").map(|(_, end)| &end[..]), Some(&b"czbelow"[..]));
}

#[test]
fn too_many_are_forgotten() {
    let (store, gaps) = (MemoryStore::new(), RefCell::new(Gaps::of(TABLES)));
    let mut most = 0;
    for n in 0..40_000 {
        // Each is followed by one that stays.
        written(&store, &gaps, &[(contender(2 * n), false), (contender(2 * n + 1), true)]);
        most = most.max(gaps.borrow().ends.len());
    }
    assert_eq!(most, COUNT_MAX);
    let long = vec![b'c'; BYTES_MAX];
    written(&store, &gaps, &[(long, false)]);
    assert_eq!((gaps.borrow().ends.len(), gaps.borrow().bytes), (0, 0));
}

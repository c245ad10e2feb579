//! The overlay reads as the store will after the write: compared with a written copy, every walk.
//!
//! Invariants: see the module.

use super::*;
use crate::store::{MemoryStore, Store};
use proptest::prelude::*;

fn walk<C: Cursor>(mut cursor: C, moves: &[(u8, u8)]) -> Vec<Option<(Vec<u8>, Vec<u8>)>> {
    let mut seen = Vec::new();
    for (kind, key) in moves {
        match kind % 4 {
            0 => cursor.seek(&[*key]),
            1 => cursor.seek_for_prev(&[*key]),
            2 if cursor.entry().is_some() => cursor.next(),
            3 if cursor.entry().is_some() => cursor.prev(),
            _ => {}
        }
        seen.push(cursor.entry().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn reads_as_if_it_were_written(
        base in prop::collection::vec(0u8..16, 0..10),
        writes in prop::collection::vec((0u8..16, any::<bool>()), 0..10),
        moves in prop::collection::vec((any::<u8>(), 0u8..16), 0..20),
        undone in prop::collection::vec((0u8..16, any::<bool>()), 0..6),
    ) {
        let store = MemoryStore::new();
        let mut batch = WriteBatch::default();
        for key in base {
            batch.put([key], vec![key]);
        }
        store.write(batch).unwrap();
        let mut overlay = Overlay::new(&store);
        for (key, put) in writes {
            if put { overlay.put(vec![key], vec![key, 1]) } else { overlay.delete(vec![key]) }
        }
        overlay.begin();
        for (key, put) in undone {
            if put { overlay.put(vec![key], vec![key, 2]) } else { overlay.delete(vec![key]) }
        }
        overlay.rollback();
        let seen = walk(overlay.cursor(true), &moves);
        let written = store.clone();
        written.write(overlay.into_batch()).unwrap();
        prop_assert_eq!(seen, walk(written.cursor(true), &moves));
    }
}

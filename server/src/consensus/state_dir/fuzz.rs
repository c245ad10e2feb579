//! Damaged pointers to the state: one that was written is followed; of any other it is said that it is damaged, and what to
//! do, and everything stays.

use std::cell::Cell;

use super::*;
use crate::fuzzing::fuzz;

/// A directory with these epochs, each with a table in it.
fn fill(root: &Path) {
    for epoch in [1, 7] {
        let path = root.join(format!("epoch-{epoch:06}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("000009.sst"), "table").unwrap();
    }
}

#[test]
fn pointers_to_the_state() {
    let corpus = include_str!("../../../../tests/corpus/pointers.txt");
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().to_path_buf();
    fill(&root);
    let refused = Cell::new(0_u32);
    fuzz("pointers to the state", corpus, |input| {
        if decode_pointer(input).is_none() {
            refused.set(refused.get() + 1);
            // A disk is slow.
            if refused.get() % 32 != 1 {
                return false;
            }
        }
        fs::write(root.join(CURRENT), input).unwrap();
        match StateDir::open(root.clone()) {
            Ok(dir) => {
                assert_eq!(encode_pointer(dir.epoch).as_bytes(), input);
                assert!(dir.path().join("000009.sst").exists(), "only what is there can be in force");
                assert_eq!(fs::read_dir(&root).unwrap().count(), 2, "leftovers are removed");
                fill(&root);
                true
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("damaged") && text.contains("--join"), "{text}");
                assert_eq!(fs::read_dir(&root).unwrap().count(), 3, "nothing is removed");
                false
            }
        }
    });
}

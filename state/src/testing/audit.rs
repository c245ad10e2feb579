//! The tables of a store against each other: what must hold of the stored bytes whatever the history was.
//!
//! Invariants:
//! - Directories, attachments, newest metadata and counts follow from the newest versions in `h` alone.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::Key;

use super::check::dump;
use super::model::directories;
use crate::codec::{keys, records};
use crate::outcome::Meta;
use crate::store::Read;
use crate::view;

/// Panics when tables of the store contradict each other.
pub fn audit<R: Read>(read: &R) {
    let head = view::head(read).expect("a head");
    let (mut current, mut newest) = (BTreeMap::<Key, Meta>::new(), BTreeMap::<Key, Option<Meta>>::new());
    let (mut children, mut counts) = (BTreeSet::new(), BTreeMap::new());
    let (mut attached, mut leases) = (BTreeSet::new(), BTreeSet::new());
    for (stored, value) in dump(read) {
        match stored[0] {
            b'c' => {
                let key = Key::new(stored[1..].to_vec()).expect("a key");
                current.insert(key, records::read_current(&value).expect("c"));
            }
            b'h' => {
                let (key, revision) = keys::split_history(&stored).expect("h");
                let meta = records::version_parts(&value).expect("h").map(|(meta, _)| meta);
                assert!(revision <= head.revision, "a version of the future");
                assert!(meta.is_none_or(|meta| meta.mod_revision == revision), "a version at another revision");
                newest.entry(Key::new(key).expect("a key")).or_insert(meta);
            }
            b'd' => {
                let record = records::DirectoryRecord::decode(&value).expect("d");
                assert!(record.children > 0 || record.next_sequence > 0, "an empty directory record");
                counts.insert(stored[1..].to_vec(), record.children);
            }
            b'e' => {
                let (dir, name) = keys::split_child(&stored).expect("e");
                let bits = records::ChildBits::decode(&value).expect("e");
                children.insert((dir, name.to_vec(), bits.is_key, bits.is_directory));
            }
            b'a' => {
                let lease = keys::split_lease(&stored).expect("a");
                attached.insert((lease, Key::new(stored[9..].to_vec()).expect("a key")));
            }
            b'l' => {
                leases.insert(keys::split_lease(&stored).expect("l"));
            }
            b'r' => {
                let (first, index) = keys::split_record(&stored).expect("r");
                let record = records::ChangeRecord::decode(&value).expect("r");
                let last = first.0 + i64::try_from(record.revisions.len()).expect("few") - 1;
                assert!(last <= head.revision.0 && index <= head.applied.expect("applied").index, "r of the future");
            }
            b's' => {}
            table => panic!("an unknown table {table}"),
        }
    }
    let live = newest.into_iter().filter_map(|(key, meta)| Some((key, meta?))).collect::<BTreeMap<_, _>>();
    assert_eq!(current, live, "c and h disagree");
    assert_eq!(head.keys, current.len() as u64, "the count of keys");
    assert_eq!(head.leases, leases.len() as u64, "the count of leases");
    let of_lease = current.iter().filter_map(|(key, meta)| Some((meta.lease?, key.clone())));
    assert_eq!(attached, of_lease.collect(), "a and c disagree");
    assert!(attached.iter().all(|(lease, _)| leases.contains(lease)), "a key of a lease that is not there");
    let tree = directories(current.keys());
    let mut wanted = BTreeSet::new();
    for (dir, names) in &tree {
        wanted.extend(names.iter().map(|(name, (key, directory))| (dir.clone(), name.clone(), *key, *directory)));
    }
    assert_eq!(children, wanted, "e and c disagree");
    counts.retain(|_, children| *children > 0);
    let wanted = tree.into_iter().map(|(dir, names)| (dir, names.len() as u64)).collect();
    assert_eq!(counts, wanted, "d and e disagree");
}

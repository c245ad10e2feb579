//! Directories that say what the keys say, and such that do not.

use super::super::history::{Answer, ChangeLog, DirectoryStat};
use super::*;

/// Revision 2 puts /a/x/1 and /a/y, 3 overwrites /a/y, 4 deletes /a/x/1.
fn history(directory: Directory) -> History {
    let put = |key: &str, create_revision, mod_revision, version| {
        Change::Put(Kv { key: key.into(), value: "v".into(), create_revision, mod_revision, version, lease: 0 })
    };
    let gone = Change::Delete { key: "/a/x/1".into(), revision: 4 };
    let changes = vec![put("/a/x/1", 2, 2, 1), put("/a/y", 2, 2, 1), put("/a/y", 2, 3, 2), gone];
    let log = Some(ChangeLog { from: 2, to: 4, changes });
    History { log, directories: vec![directory], ..History::default() }
}

fn listed(revision: i64, children: &[(&str, bool, bool)]) -> bool {
    let child = |(name, is_key, is_directory): &(&str, bool, bool)| Child {
        name: (*name).into(),
        is_key: *is_key,
        is_directory: *is_directory,
    };
    let children = Some(children.iter().map(child).collect());
    check(&history(Directory { path: "/a".into(), revision, children, stat: None })).is_ok()
}

fn stat(revision: i64, children: u64, children_revision: i64) -> bool {
    let stat = Some(DirectoryStat { children, children_revision, next_sequence: 0 });
    check(&history(Directory { path: "/a".into(), revision, children: None, stat })).is_ok()
}

#[test]
fn children_are_what_the_keys_say_in_order() {
    assert!(listed(3, &[("x", false, true), ("y", true, false)]));
    assert!(!listed(3, &[("y", true, false), ("x", false, true)]), "out of order");
    assert!(!listed(3, &[("y", true, false)]), "x is missing");
    assert!(!listed(3, &[("x", true, true), ("y", true, false)]), "x is no key");
    assert!(listed(4, &[("y", true, false)]));
    assert!(!listed(4, &[("x", false, true), ("y", true, false)]), "x is gone");
}

#[test]
fn the_record_counts_them_and_says_when_one_came_or_went_last() {
    assert!(stat(3, 2, 2));
    assert!(!stat(3, 2, 3), "an overwritten key changes nothing");
    assert!(!stat(3, 1, 2), "there are two");
    assert!(stat(4, 1, 4));
    assert!(!stat(4, 1, 2), "one went");
}

#[test]
fn a_sequence_that_was_handed_out_is_never_next() {
    let told = |next_sequence| {
        let stat = Some(DirectoryStat { children: 1, children_revision: 2, next_sequence });
        let key = Octets::from("/q/00000000000000000003");
        let action = Action::PutSequential { directory: "/q".into(), value: "v".into(), lease: 0 };
        let operation = Operation {
            client: 1,
            request: None,
            invoked: 1,
            completed: 2,
            input: Input::Txn(super::super::history::Txn::of(action)),
            outcome: Outcome::Done { revision: 2, answer: Answer::of(vec![Done::Put { key, previous: None }]) },
        };
        let directories = vec![Directory { path: "/q".into(), revision: 2, children: None, stat }];
        check(&History { operations: vec![operation], directories, ..History::default() })
    };
    assert_eq!(told(4), Ok(()));
    assert!(told(3).is_err());
}

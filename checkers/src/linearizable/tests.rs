//! Small stories; random ones stand in `random.rs`.

use super::super::history::{ChangeLog, Compare, Picture, Relation, Target};
use super::*;

fn operation(invoked: u64, completed: u64, input: Input, outcome: Outcome) -> Operation {
    Operation { client: invoked, request: None, invoked, completed, input, outcome }
}

fn put(moments: (u64, u64), value: &str, revision: i64) -> Operation {
    let answer = Answer::of(vec![Done::Put { key: "k".into(), previous: None }]);
    operation(moments.0, moments.1, Input::put("k", value), Outcome::Done { revision, answer })
}

fn unknown(moments: (u64, u64), value: &str) -> Operation {
    operation(moments.0, moments.1, Input::put("k", value), Outcome::Unknown("lost".into()))
}

fn kv(value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Kv {
    Kv { key: "k".into(), value: value.into(), create_revision, mod_revision, version, lease: 0 }
}

fn get(moments: (u64, u64), revision: i64, kvs: &[Kv]) -> Operation {
    let answer = Answer::of(vec![Done::Read(kvs.to_vec())]);
    operation(moments.0, moments.1, Input::get("k"), Outcome::Done { revision, answer })
}

fn passes(operations: &[Operation]) -> bool {
    check(&History { operations: operations.to_vec(), ..History::default() }).is_ok()
}

#[test]
fn a_read_sees_what_was_acknowledged_before_it_began() {
    let write = put((1, 2), "a", 2);
    assert!(passes(&[write.clone(), get((3, 4), 2, &[kv("a", 2, 2, 1)])]));
    assert!(!passes(&[write.clone(), get((3, 4), 1, &[])]), "too old");
    assert!(passes(&[write.clone(), get((1, 4), 1, &[])]), "it began while the write was under way");
    assert!(!passes(&[write, get((3, 4), 2, &[])]), "its own revision has the key");
}

#[test]
fn a_serializable_read_may_be_old_but_not_wrong() {
    let write = put((1, 2), "a", 2);
    let mut read = get((3, 4), 1, &[]);
    let Input::Txn(txn) = &mut read.input else { unreachable!() };
    txn.serializable = true;
    assert!(passes(&[write.clone(), read.clone()]));
    let Input::Txn(txn) = &mut read.input else { unreachable!() };
    txn.min_revision = 2;
    assert!(!passes(&[write.clone(), read.clone()]), "older than it asked for");
    read.outcome = get((3, 4), 2, &[kv("b", 2, 2, 1)]).outcome;
    assert!(!passes(&[write, read]), "a value that nobody wrote");
}

#[test]
fn an_unknown_write_may_show_later_once_or_never() {
    let lost = unknown((1, 2), "a");
    assert!(passes(&[lost.clone()]));
    let late = [put((3, 4), "b", 2), get((5, 6), 3, &[kv("a", 2, 3, 2)])];
    assert!(passes(&[&[lost.clone()][..], &late[..]].concat()), "it came after it was given up");
    assert!(!passes(&late), "nobody wrote that");
    let twice = [put((3, 4), "b", 3), get((5, 6), 4, &[kv("a", 2, 4, 3)]), get((2, 6), 2, &[kv("a", 2, 2, 1)])];
    assert!(!passes(&[&[lost.clone()][..], &twice[..]].concat()), "it was applied twice");
    let early = [get((0, 0), 2, &[kv("a", 2, 2, 1)]), unknown((1, 2), "a")];
    assert!(!passes(&early), "seen before it began");
}

#[test]
fn two_unknown_writes_are_told_apart_when_one_fits_only_one_place() {
    // The conditional one fits revision 3 only, the plain one both: the plain one must take 4.
    let mut conditional = unknown((1, 2), "x");
    let Input::Txn(txn) = &mut conditional.input else { unreachable!() };
    txn.compares = vec![Compare { key: "k".into(), relation: Relation::Equal, target: Target::Value("a".into()) }];
    let story = [unknown((1, 2), "x"), conditional, put((3, 4), "a", 2), put((3, 9), "b", 4)];
    let log = |revisions: &[(&str, i64)]| {
        let changes = revisions.iter().enumerate();
        let changes =
            changes.map(|(at, (value, revision))| Change::Put(kv(value, 2, *revision, at as i64 + 1))).collect();
        let log = ChangeLog { from: 2, to: revisions.len() as i64 + 1, changes };
        check(&History { operations: story.to_vec(), log: Some(log), ..History::default() })
    };
    assert_eq!(log(&[("a", 2), ("x", 3), ("b", 4), ("x", 5)]), Ok(()));
    assert!(log(&[("a", 2), ("x", 3), ("b", 4), ("x", 5), ("x", 6)]).is_err(), "three of two");
}

#[test]
fn the_end_of_a_lease_takes_all_its_keys_or_is_no_end() {
    let leased = |key: &str| Kv { key: key.into(), lease: 9, ..kv("v", 1, 1, 1) };
    let gone = |keys: &[&str]| {
        let changes = keys.iter().map(|key| Change::Delete { key: (*key).into(), revision: 2 }).collect();
        let start = Some(Picture { revision: 1, keys: vec![leased("a"), leased("b"), kv("v", 1, 1, 1)] });
        check(&History { start, log: Some(ChangeLog { from: 2, to: 2, changes }), ..History::default() })
    };
    assert_eq!(gone(&["a", "b"]), Ok(()));
    assert!(gone(&["a"]).is_err(), "half of a lease");
    assert!(gone(&["a", "b", "k"]).is_err(), "a key that had no lease");
}

/// Found by random histories: a write nobody heard of may have deleted the key before it was put.
#[test]
fn a_put_after_a_hole_may_have_made_its_key() {
    let puts = [put((1, 2), "a", 2), put((3, 4), "b", 6)];
    let seen = |create, version| [&puts[..], &[get((5, 6), 6, &[kv("b", create, 6, version)])]].concat();
    assert!(passes(&seen(2, 2)), "nothing was in between");
    assert!(passes(&seen(6, 1)), "it was deleted in between");
    assert!(!passes(&[&puts[..], &[get((5, 6), 6, &[kv("c", 6, 6, 1)])]].concat()), "another value");
}

#[test]
fn what_others_write_needs_nobody_who_asked() {
    let log = Some(ChangeLog { from: 2, to: 2, changes: vec![Change::Put(kv("x", 2, 2, 1))] });
    let mut history = History { log, ..History::default() };
    assert!(check(&history).is_err());
    history.others.push(Span::Key("k".into()));
    assert!(check(&history).is_ok());
}

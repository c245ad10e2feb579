//! Small stories without believable revisions; random ones stand in `random.rs`.

use super::*;

fn operation(moments: (u64, u64), input: Input, outcome: Outcome) -> Operation {
    let (invoked, completed) = moments;
    Operation { client: 0, request: None, invoked, completed, input, outcome }
}

fn put(moments: (u64, u64), value: &str) -> Operation {
    let answer = Answer::of(vec![Done::Put { key: "k".into(), previous: None }]);
    // Every answer says the same revision: nobody looks at it.
    operation(moments, Input::put("k", value), Outcome::Done { revision: 1, answer })
}

fn get(moments: (u64, u64), value: &str, version: i64) -> Operation {
    let kv = Kv { key: "k".into(), value: value.into(), version, ..Kv::default() };
    let answer = Answer::of(vec![Done::Read(vec![kv])]);
    operation(moments, Input::get("k"), Outcome::Done { revision: 1, answer })
}

fn passes(operations: &[Operation]) -> bool {
    check(&History { operations: operations.to_vec(), ..History::default() }, 10_000).is_ok()
}

#[test]
fn what_overlaps_may_come_in_either_order() {
    let writes = [put((1, 9), "a"), put((1, 9), "b")];
    assert!(passes(&[&writes[..], &[get((10, 11), "a", 2)]].concat()));
    assert!(passes(&[&writes[..], &[get((10, 11), "b", 2)]].concat()));
    let both = [get((10, 11), "a", 2), get((12, 13), "b", 2)];
    assert!(!passes(&[&writes[..], &both].concat()), "the last is one of them");
    let seen = [get((2, 3), "a", 1), get((4, 5), "b", 2), get((10, 11), "a", 2)];
    assert!(!passes(&[&writes[..], &seen].concat()), "it went back");
}

#[test]
fn an_unknown_write_may_be_taken_at_any_time_after_it_began() {
    let lost = operation((1, 2), Input::put("k", "a"), Outcome::Unknown("lost".into()));
    assert!(passes(&[lost.clone(), put((3, 4), "b"), get((5, 6), "b", 1), get((7, 8), "a", 2)]));
    assert!(!passes(&[lost, put((3, 4), "b"), get((5, 6), "a", 2), get((7, 8), "b", 3)]));
}

#[test]
fn what_is_not_judged_is_counted() {
    let revoke = operation((1, 2), Input::Revoke { lease: 3 }, Outcome::Unknown("lost".into()));
    let operations = vec![put((1, 2), "a"), revoke];
    let searched = check(&History { operations, ..History::default() }, 10_000).unwrap();
    assert_eq!(searched, Searched { explained: 0, skipped: 1 });
}

//! Tellers that contradict each other.

use super::super::history::{Answer, ChangeLog, Input, RequestId};
use super::*;

fn put(revision: i64) -> Change {
    let kv = Kv { key: "k".into(), mod_revision: revision, create_revision: revision, version: 1, ..Kv::default() };
    Change::Put(kv)
}

fn logged(from: i64, to: i64, revisions: &[i64]) -> Result<Order, Violation> {
    let changes = revisions.iter().map(|revision| put(*revision)).collect();
    Order::of(&History { log: Some(ChangeLog { from, to, changes }), ..History::default() })
}

#[test]
fn a_log_has_every_revision_in_order_and_each_key_once() {
    assert!(logged(2, 4, &[2, 3, 4]).unwrap().is_whole());
    assert!(logged(2, 4, &[2, 4]).is_err(), "3 is missing");
    assert!(logged(2, 4, &[2, 3]).is_err(), "4 is missing");
    assert!(logged(2, 3, &[3, 2]).is_err(), "out of order");
    assert!(logged(2, 2, &[2, 2]).is_err(), "a key twice");
    assert!(logged(3, 3, &[2, 3]).is_err(), "before its beginning");
    assert_eq!(logged(4, 5, &[4, 5]).unwrap().first_hole_after(1), Some(2), "what was before is not known");
}

fn written(revision: i64, sequence: u64) -> Operation {
    Operation {
        client: 1,
        request: Some(RequestId { client: 1, sequence }),
        invoked: 0,
        completed: 1,
        input: Input::put("k", "v"),
        outcome: Outcome::Done { revision, answer: Answer::of(vec![Done::Put { key: "k".into(), previous: None }]) },
    }
}

#[test]
fn a_revision_is_acknowledged_to_one_request_only() {
    let of = |operations| claims(&History { operations, ..History::default() });
    assert!(of(vec![written(2, 1), written(2, 1)]).is_ok(), "two attempts");
    assert!(of(vec![written(2, 1), written(2, 2)]).is_err());
}

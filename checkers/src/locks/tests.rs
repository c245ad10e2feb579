//! Contenders and what they were told.

use super::super::history::{ChangeLog, Kv};
use super::*;

fn hold(mode: Mode, token: i64, moments: (u64, u64), ended: u64) -> Hold {
    Hold {
        lock: "l".into(),
        client: token.unsigned_abs(),
        mode,
        key: format!("l/{token}").into(),
        invoked: moments.0,
        completed: moments.1,
        token: Some(token),
        revision: None,
        downgraded: None,
        ended: Some(ended),
    }
}

/// A lock is granted to a contender that is there, as of the revision in the answer.
#[test]
fn who_is_gone_is_not_granted_a_lock() {
    let kv = |token: i64| Kv {
        key: format!("l/{token}").into(),
        create_revision: token,
        mod_revision: token,
        ..Kv::default()
    };
    let changes = vec![Change::Put(kv(5)), Change::Put(kv(6)), Change::Delete { key: "l/5".into(), revision: 7 }];
    let log = Some(ChangeLog { from: 2, to: 7, changes });
    let granted = |token, revision| {
        let hold = Hold { revision: Some(revision), ..hold(Mode::Exclusive, token, (0, 10), 20) };
        check(&History { holds: vec![hold], log: log.clone(), ..History::default() }).is_ok()
    };
    assert!(granted(5, 5));
    assert!(granted(5, 6));
    assert!(!granted(5, 7), "its key was deleted at 7");
    assert!(granted(6, 7));
    assert!(granted(6, 8), "nobody knows what came after the log");
    assert!(!granted(4, 6), "it was never there");
}

fn passes(holds: &[Hold]) -> bool {
    let verdict = check(&History { holds: holds.to_vec(), ..History::default() });
    println!("{verdict:?}");
    verdict.is_ok()
}

#[test]
fn one_holds_at_a_time() {
    let first = hold(Mode::Exclusive, 5, (0, 10), 20);
    assert!(passes(&[first.clone(), hold(Mode::Exclusive, 6, (1, 21), 30)]));
    assert!(!passes(&[first.clone(), hold(Mode::Exclusive, 6, (1, 19), 30)]), "both at once");
    let forever = Hold { ended: None, ..first };
    assert!(!passes(&[forever, hold(Mode::Exclusive, 6, (1, 99), 100)]), "the first never said that it ended");
}

#[test]
fn who_came_first_is_served_first() {
    let second = hold(Mode::Exclusive, 6, (1, 19), 20);
    assert!(!passes(&[hold(Mode::Exclusive, 5, (0, 30), 40), second.clone()]), "the larger token held first");
    let gave_up = Hold { token: None, ..hold(Mode::Exclusive, 5, (0, 30), 40) };
    assert!(passes(&[gave_up, second]));
}

#[test]
fn tokens_are_given_once_and_grow() {
    let first = hold(Mode::Exclusive, 5, (0, 10), 20);
    let stranger = Hold { key: "l/other".into(), ..hold(Mode::Exclusive, 5, (1, 30), 40) };
    assert!(!passes(&[first.clone(), stranger]), "one token for two contenders");
    assert!(!passes(&[first.clone(), hold(Mode::Exclusive, 4, (21, 30), 40)]), "asked for later, and smaller");
    assert!(passes(&[first.clone(), hold(Mode::Exclusive, 5, (12, 13), 20)]), "it joined its own hold");
    let elsewhere = Hold { lock: "m".into(), ..hold(Mode::Exclusive, 4, (12, 13), 20) };
    assert!(passes(&[first, elsewhere]), "another lock");
}

#[test]
fn shared_holds_go_together_but_not_past_one_who_waits_for_all() {
    let readers = [hold(Mode::Shared, 5, (0, 10), 30), hold(Mode::Shared, 6, (1, 11), 30)];
    assert!(passes(&readers));
    assert!(!passes(&[&readers[..], &[hold(Mode::Exclusive, 7, (2, 20), 40)]].concat()));
    let waited = [hold(Mode::Exclusive, 6, (1, 31), 40), hold(Mode::Shared, 7, (2, 12), 13)];
    assert!(!passes(&[&readers[..1], &waited[..]].concat()), "shared came past exclusive that waits");
}

#[test]
fn after_a_downgrade_others_may_share() {
    let first = Hold { downgraded: Some(15), ..hold(Mode::Exclusive, 5, (0, 10), 30) };
    assert!(passes(&[first.clone(), hold(Mode::Shared, 6, (1, 16), 20)]));
    assert!(!passes(&[first.clone(), hold(Mode::Shared, 6, (1, 14), 20)]), "before it");
    assert!(!passes(&[first, hold(Mode::Exclusive, 6, (1, 16), 20)]), "not shared");
}

#[test]
fn no_more_permits_than_there_are() {
    let two = |token, moments, ended| hold(Mode::Permit(2), token, moments, ended);
    let held = [two(5, (0, 10), 30), two(6, (0, 11), 20)];
    assert!(passes(&[&held[..], &[two(7, (1, 21), 40)]].concat()));
    assert!(!passes(&[&held[..], &[two(7, (1, 15), 40)]].concat()), "three of two");
}

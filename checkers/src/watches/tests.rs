//! A log of three revisions, and watches that were told of it rightly or wrongly.

use super::super::history::{ChangeLog, Span};
use super::*;

fn kv(key: &str, create_revision: i64, mod_revision: i64, version: i64) -> Kv {
    Kv { key: key.into(), value: "v".into(), create_revision, mod_revision, version, lease: 0 }
}

/// Revision 2 puts a and b, 3 puts a again, 4 deletes b.
fn log() -> [Change; 4] {
    let gone = Change::Delete { key: "b".into(), revision: 4 };
    [Change::Put(kv("a", 2, 2, 1)), Change::Put(kv("b", 2, 2, 1)), Change::Put(kv("a", 2, 3, 2)), gone]
}

fn events(which: &[usize]) -> Told {
    let log = log();
    let before = [None, None, Some(kv("a", 2, 2, 1)), Some(kv("b", 2, 2, 1))];
    let events = which.iter().map(|at| Event { change: log[*at].clone(), previous: before[*at].clone() }).collect();
    Told::Events { revision: 4, events, fragment: false }
}

fn fragment(which: &[usize]) -> Told {
    let Told::Events { revision, events, .. } = events(which) else { unreachable!() };
    Told::Events { revision, events, fragment: true }
}

fn watch(start: i64, told: &[Told]) -> Watch {
    let span = Span::Range(Octets::EMPTY, None);
    Watch { name: "w".into(), span, start, previous: true, no_puts: false, no_deletes: false, told: told.to_vec() }
}

fn judged(watch: Watch) -> Verdict {
    let log = ChangeLog { from: 2, to: 4, changes: log().to_vec() };
    check(&History { watches: vec![watch], log: Some(log), ..History::default() })
}

fn passes(start: i64, told: &[Told]) -> bool {
    let verdict = judged(watch(start, told));
    println!("{verdict:?}");
    verdict.is_ok()
}

#[test]
fn all_from_the_start_on_in_order_whole_and_once() {
    assert!(passes(2, &[events(&[0, 1]), events(&[2]), events(&[3])]));
    assert!(passes(2, &[events(&[0, 1, 2, 3])]), "several revisions in a message");
    assert!(passes(3, &[events(&[2, 3])]));
    assert!(!passes(3, &[events(&[0, 1]), events(&[2, 3])]), "before the start");
    assert!(!passes(2, &[events(&[2, 3])]), "not from the start on");
    assert!(!passes(2, &[events(&[0, 1]), events(&[3])]), "revision 3 is missing");
    assert!(!passes(2, &[events(&[0, 1]), events(&[3]), events(&[2])]), "out of order");
    assert!(!passes(2, &[events(&[0, 1]), events(&[2]), events(&[2])]), "twice");
    assert!(!passes(2, &[events(&[0, 0, 1])]), "twice in a message");
    assert!(!passes(2, &[events(&[0]), events(&[1]), events(&[2])]), "a transaction in halves");
    assert!(!passes(2, &[events(&[0]), events(&[2])]), "half a transaction");
}

#[test]
fn a_transaction_may_come_in_fragments_and_only_so() {
    assert!(passes(2, &[fragment(&[0]), events(&[1]), events(&[2])]));
    assert!(!passes(2, &[fragment(&[0]), Told::Progress(2), events(&[1])]), "a mark within a transaction");
    assert!(passes(2, &[fragment(&[0]), Told::Resumed, events(&[0, 1])]), "the half was dropped");
    assert!(!passes(2, &[fragment(&[0]), Told::Resumed, events(&[2])]), "the half was all");
}

#[test]
fn a_mark_promises_that_all_before_it_was_told() {
    assert!(passes(2, &[events(&[0, 1]), Told::Progress(2), events(&[2]), Told::Progress(3)]));
    assert!(!passes(2, &[events(&[0, 1]), Told::Progress(3)]), "3 was not told");
    assert!(!passes(2, &[Told::Progress(2)]), "nothing was told");
    assert!(!passes(2, &[events(&[0, 1]), events(&[2]), Told::Progress(2)]), "it fell behind");
    assert!(!passes(4, &[Told::Progress(2)]), "before the first revision wanted");
}

#[test]
fn without_a_start_it_begins_after_its_creation() {
    assert!(passes(0, &[Told::Created(2), events(&[2, 3])]));
    assert!(!passes(0, &[Told::Created(2), events(&[0, 1])]), "older than its creation");
    assert!(!passes(0, &[Told::Created(2), events(&[3])]), "3 is missing");
    assert!(!passes(0, &[events(&[3])]), "it was never created");
}

#[test]
fn resuming_repeats_nothing_and_misses_nothing() {
    assert!(passes(2, &[events(&[0, 1]), Told::Resumed, events(&[2, 3])]));
    assert!(!passes(2, &[events(&[0, 1]), Told::Resumed, events(&[0, 1])]));
    assert!(!passes(2, &[events(&[0, 1]), Told::Resumed, events(&[3])]));
    assert!(passes(2, &[Told::Compacted(3)]));
    assert!(!passes(3, &[Told::Compacted(3)]), "what is at the mark can be read");
}

#[test]
fn previous_values_are_right_or_compacted() {
    let lie = |previous: Option<Kv>| Told::Events {
        revision: 4,
        events: vec![Event { change: log()[2].clone(), previous }],
        fragment: false,
    };
    assert!(!passes(3, &[lie(Some(kv("a", 2, 2, 7)))]));
    assert!(!passes(3, &[lie(None)]), "it was there");
    let log = ChangeLog { from: 2, to: 4, changes: log().to_vec() };
    let history = |compacted| History {
        watches: vec![watch(3, &[lie(None)])],
        log: Some(log.clone()),
        compacted,
        ..History::default()
    };
    assert!(check(&history(3)).is_ok(), "it is compacted");
    assert!(check(&history(2)).is_err(), "the mark itself can be read");
}

#[test]
fn only_what_was_asked_for() {
    let mut narrow = watch(2, &[events(&[0]), events(&[2])]);
    narrow.span = Span::Key("a".into());
    assert_eq!(judged(narrow.clone()), Ok(()));
    narrow.told = vec![events(&[0, 1])];
    assert!(judged(narrow).is_err(), "another key");
    let mut filtered = watch(2, &[events(&[3])]);
    filtered.no_puts = true;
    assert_eq!(judged(filtered.clone()), Ok(()));
    filtered.told = vec![events(&[0, 1])];
    assert!(judged(filtered).is_err(), "puts");
}

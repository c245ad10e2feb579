//! Writes that came twice, or never.

use super::super::history::{Answer, ChangeLog, Done, Kv, Picture};
use super::*;

fn put(sequence: u64, value: &str, revision: Option<i64>) -> Operation {
    let answer = Answer::of(vec![Done::Put { key: "k".into(), previous: None }]);
    Operation {
        client: 1,
        request: Some(RequestId { client: 1, sequence }),
        invoked: sequence,
        completed: sequence,
        input: Input::put("k", value),
        outcome: match revision {
            Some(revision) => Outcome::Done { revision, answer },
            None => Outcome::Unknown("lost".into()),
        },
    }
}

fn kv(value: &str, revision: i64) -> Kv {
    let (create_revision, mod_revision) = (2, revision);
    Kv { key: "k".into(), value: value.into(), create_revision, mod_revision, version: revision - 1, lease: 0 }
}

fn history(operations: &[Operation], log: &[&str]) -> History {
    let changes = log.iter().zip(2..).map(|(value, revision)| Change::Put(kv(value, revision))).collect();
    let log = ChangeLog { from: 2, to: log.len() as i64 + 1, changes };
    History { operations: operations.to_vec(), log: Some(log), ..History::default() }
}

#[test]
fn attempts_of_one_request_make_one_change() {
    let attempts = [put(1, "a", None), put(1, "a", Some(2))];
    assert_eq!(check(&history(&attempts, &["a"])), Ok(()));
    assert!(check(&history(&attempts, &["a", "a"])).is_err(), "applied twice");
    let requests = [put(1, "a", None), put(2, "a", Some(2))];
    assert_eq!(check(&history(&requests, &["a", "a"])), Ok(()), "two requests of one value");
}

#[test]
fn attempts_of_one_request_have_one_answer() {
    let attempts = [put(1, "a", Some(2)), put(1, "a", Some(3))];
    let history = History { operations: attempts.to_vec(), ..History::default() };
    assert!(check(&history).is_err());
}

#[test]
fn an_acknowledged_write_is_there_at_the_end_or_overwritten_or_deleted() {
    let mut history = history(&[put(1, "a", Some(2))], &["a"]);
    let end = |keys: &[Kv], revision| Some(Picture { revision, keys: keys.to_vec() });
    history.end = end(&[kv("a", 2)], 2);
    assert_eq!(check(&history), Ok(()));
    history.end = end(&[], 2);
    assert!(check(&history).is_err(), "it is gone, and nobody deleted it");
    history.end = end(&[kv("a", 2)], 1);
    assert!(check(&history).is_err(), "the end is before it");
    history.log = None;
    history.end = end(&[], 3);
    assert!(check(&history).is_err(), "gone, without a log");
    history.operations.push(Operation {
        input: Input::delete("k"),
        outcome: Outcome::Unknown("lost".into()),
        ..put(2, "", None)
    });
    assert_eq!(check(&history), Ok(()), "somebody may have deleted it");
}

//! Revisions that fall, and metadata that cannot be.

use super::super::history::{Operation, Picture};
use super::*;

fn read(moments: (u64, u64), revision: i64) -> Operation {
    Operation {
        client: 1,
        request: None,
        invoked: moments.0,
        completed: moments.1,
        input: Input::get("k"),
        outcome: Outcome::Done { revision, answer: Answer::of(vec![Done::Read(Vec::new())]) },
    }
}

#[test]
fn a_client_sees_no_revision_fall() {
    let passes =
        |operations: [Operation; 2]| check(&History { operations: operations.to_vec(), ..History::default() }).is_ok();
    assert!(passes([read((1, 2), 5), read((3, 4), 5)]));
    assert!(!passes([read((1, 2), 5), read((3, 4), 4)]));
    assert!(passes([read((1, 4), 5), read((3, 6), 4)]), "they overlapped");
}

#[test]
fn what_is_said_of_a_key_does_not_contradict_itself() {
    let passes = |kvs: &[(i64, i64, i64)]| {
        let kv = |(create_revision, mod_revision, version): &(i64, i64, i64)| {
            let (create_revision, mod_revision, version) = (*create_revision, *mod_revision, *version);
            Kv { key: "k".into(), create_revision, mod_revision, version, ..Kv::default() }
        };
        let operations = kvs.iter().map(|it| Operation {
            outcome: Outcome::Done { revision: 9, answer: Answer::of(vec![Done::Read(vec![kv(it)])]) },
            ..read((1, 1), 9)
        });
        check(&History { operations: operations.collect(), ..History::default() }).is_ok()
    };
    assert!(passes(&[(2, 2, 1), (2, 5, 3), (7, 7, 1)]));
    assert!(!passes(&[(2, 2, 2)]), "created with version 2");
    assert!(!passes(&[(3, 2, 2)]), "changed before it was created");
    assert!(!passes(&[(2, 10, 2)]), "from the future");
    assert!(!passes(&[(2, 4, 3), (2, 5, 3)]), "the version stood still");
    assert!(!passes(&[(2, 4, 2), (2, 5, 4)]), "two changes in one revision");
    assert!(!passes(&[(2, 5, 3), (4, 6, 2)]), "created within its own life");
}

#[test]
fn one_change_is_shown_alike_everywhere() {
    let kv = |value: &str| Kv {
        key: "k".into(),
        value: value.into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 0,
    };
    let picture = |value| Some(Picture { revision: 2, keys: vec![kv(value)] });
    assert!(check(&History { start: picture("a"), end: picture("a"), ..History::default() }).is_ok());
    assert!(check(&History { start: picture("a"), end: picture("b"), ..History::default() }).is_err());
}

#[test]
fn a_watch_hears_no_revision_fall() {
    let passes = |told: Vec<Told>| {
        let span = super::super::history::Span::Key("k".into());
        let watch = super::super::history::Watch {
            name: "w".into(),
            span,
            start: 0,
            previous: false,
            no_puts: false,
            no_deletes: false,
            told,
        };
        check(&History { watches: vec![watch], ..History::default() }).is_ok()
    };
    assert!(passes(vec![Told::Created(3), Told::Progress(4)]));
    assert!(!passes(vec![Told::Created(3), Told::Progress(2)]));
}

//! The verdict on a real history can be "broken": one that was recorded from a real member passes, and fails as soon as
//! one thing in it is not as it was.

use std::time::Duration;

use quorate_tests::checkers::history::{
    Action, Answer, Change, Done, History, Input, Kv, Learned, LeaseFact, Outcome, Span, Told,
};
use quorate_tests::checkers::{Tolerance, check};
use quorate_tests::cluster::Cluster;

use crate::histories::start;

#[track_caller]
fn rejected(history: &History, what: &str) {
    let violations = check(history, Tolerance::default());
    assert!(!violations.is_empty(), "{what} was not noticed");
    println!("{what}: {}", violations[0].rule);
}

/// Place and revision of an acknowledged put of one key, and no more, after which nothing changed that key again.
fn last_put(history: &History) -> (usize, i64) {
    let end = history.end.as_ref().unwrap();
    let mut found = history.operations.iter().enumerate().filter_map(|(place, operation)| {
        let Outcome::Done { revision, .. } = operation.outcome else { return None };
        let Input::Txn(txn) = &operation.input else { return None };
        let [Action::Put { key, .. }] = txn.then.as_slice() else { return None };
        let stands = end.keys.iter().any(|kv| kv.key == *key && kv.mod_revision == revision);
        (txn.compares.is_empty() && stands).then_some((place, revision))
    });
    found.next().expect("some put was the last of its key")
}

/// The store is told to hold something else at that revision than the write that was acknowledged with it.
fn forget(history: &mut History, revision: i64) {
    for change in &mut history.log.as_mut().unwrap().changes {
        if change.revision() == revision {
            *change = Change::Delete { key: change.key().clone(), revision };
        }
    }
    history.end.as_mut().unwrap().keys.retain(|kv| kv.mod_revision != revision);
    for told in history.watches.iter_mut().flat_map(|watch| &mut watch.told) {
        if let Told::Events { events, .. } = told {
            events.retain(|event| event.change.revision() != revision);
        }
    }
}

/// A linearizable read of one key that was there.
fn a_read(history: &mut History) -> &mut Vec<Kv> {
    let found = history.operations.iter_mut().rev().find_map(|operation| {
        let whole = matches!(&operation.input, Input::Txn(txn) if !txn.serializable
            && matches!(txn.then.as_slice(), [Action::Read { span: Span::Key(_), .. }]));
        match &mut operation.outcome {
            Outcome::Done { answer: Answer { results, .. }, .. } if whole => match results.as_mut_slice() {
                [Done::Read(kvs)] if !kvs.is_empty() => Some(kvs),
                _ => None,
            },
            _ => None,
        }
    });
    found.expect("somebody read a key")
}

/// A watch of one wire that was told of changes at least twice: what it was told, and where the first two are.
fn a_watch(history: &mut History, etcd: bool) -> (&mut Vec<Told>, usize, usize) {
    let mut watches = history.watches.iter_mut().filter(|watch| watch.name.contains("etcd") == etcd);
    let found = watches.find_map(|watch| {
        let is_events = |at: &usize| matches!(watch.told[*at], Told::Events { .. });
        let events: Vec<usize> = (0..watch.told.len()).filter(is_events).collect();
        (events.len() > 1).then(|| (&mut watch.told, events[0], events[1]))
    });
    found.expect("a watch was told something")
}

/// A lease of which its holder is told that it is gone right after it was granted for an hour.
fn end_early(history: &mut History) {
    let fact = history.leases.iter_mut().find(|fact| matches!(fact.what, Learned::Alive { .. }));
    let fact = fact.expect("a lease was granted");
    fact.what = Learned::Alive { ttl_ms: 3_600_000 };
    let (lease, until) = (fact.lease, fact.completed);
    history.leases.retain(|fact| fact.lease != lease || fact.completed <= until);
    history.leases.push(LeaseFact { lease, invoked: until + 1, completed: until + 2, what: Learned::Gone });
}

/// Whoever holds the lock first claims it until the second has it.
fn hold_longer(history: &mut History) {
    let mut held: Vec<_> = history.holds.iter_mut().filter(|hold| hold.token.is_some()).collect();
    held.sort_by_key(|hold| hold.token);
    assert!(held.len() > 1, "the lock was held once only");
    held[0].ended = Some(held[1].completed + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_thing_that_is_not_as_it_was_is_noticed() {
    let cluster = Cluster::start(1).await;
    let run = start(&cluster, Duration::from_secs(3)).await;
    run.go_on(1_000).await;
    let history = run.end(&cluster).await.history;
    let tampered = |what: &str, tamper: &dyn Fn(&mut History)| {
        let mut other = history.clone();
        tamper(&mut other);
        rejected(&other, what);
    };

    let (place, revision) = last_put(&history);
    tampered("an acknowledged write that is lost", &|history| forget(history, revision));
    tampered("a value that nobody wrote", &|history| {
        let Input::Txn(txn) = &mut history.operations[place].input else { panic!("it is a put") };
        let Action::Put { value, .. } = &mut txn.then[0] else { panic!("it is a put") };
        *value = "something else".into();
    });
    tampered("a read that does not see a write before it", &|history| a_read(history).clear());
    for etcd in [false, true] {
        tampered("two messages of a watch in the wrong order", &|history| {
            let (told, one, two) = a_watch(history, etcd);
            told.swap(one, two);
        });
        tampered("an event that a watch missed", &|history| {
            let (told, one, _) = a_watch(history, etcd);
            let Told::Events { events, .. } = &mut told[one] else { panic!("it is events") };
            events.remove(0);
        });
    }
    tampered("a lease that ended early", &end_early);
    tampered("two that hold one lock", &hold_longer);
}

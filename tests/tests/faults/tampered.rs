//! The verdict on a real history can be "broken": one that was recorded from a real member passes, and fails as soon as
//! one thing in it is not as it was.

use std::time::Duration;

use quorate_tests::checkers::history::{
    Action, Answer, Change, Done, History, Input, Learned, LeaseFact, Outcome, Span, Told,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_thing_that_is_not_as_it_was_is_noticed() {
    let cluster = Cluster::start(1).await;
    let run = start(&cluster, Duration::from_secs(3)).await;
    run.go_on(1_000).await;
    let history = run.end(&cluster).await.history;

    let mut lost = history.clone();
    let (_, revision) = last_put(&lost);
    forget(&mut lost, revision);
    rejected(&lost, "an acknowledged write that is lost");

    let mut other = history.clone();
    let (place, _) = last_put(&other);
    if let Input::Txn(txn) = &mut other.operations[place].input {
        let Action::Put { value, .. } = &mut txn.then[0] else { panic!("it is a put") };
        *value = "something else".into();
    }
    rejected(&other, "a value that nobody wrote");

    let mut stale = history.clone();
    let read = stale.operations.iter_mut().rev().find_map(|operation| {
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
    read.expect("somebody read a key").clear();
    rejected(&stale, "a read that does not see a write before it");

    for etcd in [false, true] {
        let mut swapped = history.clone();
        let mut watches = swapped.watches.iter_mut().filter(|watch| watch.name.contains("etcd") == etcd);
        let told = watches.find_map(|watch| {
            let events: Vec<usize> =
                (0..watch.told.len()).filter(|at| matches!(watch.told[*at], Told::Events { .. })).collect();
            (events.len() > 1).then(|| (&mut watch.told, events[0], events[1]))
        });
        let (told, one, two) = told.expect("a watch was told something");
        told.swap(one, two);
        rejected(&swapped, "two messages of a watch in the wrong order");
    }

    let mut missed = history.clone();
    let told = missed.watches.iter_mut().flat_map(|watch| &mut watch.told);
    let mut messages = told.filter_map(|told| match told {
        Told::Events { events, .. } if !events.is_empty() => Some(events),
        _ => None,
    });
    messages.next().expect("a watch was told something").remove(0);
    rejected(&missed, "an event that a watch missed");

    let mut early = history.clone();
    let fact = early.leases.iter_mut().find(|fact| matches!(fact.what, Learned::Alive { .. }));
    let fact = fact.expect("a lease was granted");
    fact.what = Learned::Alive { ttl_ms: 3_600_000 };
    let (lease, until) = (fact.lease, fact.completed);
    early.leases.retain(|fact| fact.lease != lease || fact.completed <= until);
    early.leases.push(LeaseFact { lease, invoked: until + 1, completed: until + 2, what: Learned::Gone });
    rejected(&early, "a lease that ended early");

    let mut both = history;
    let mut held: Vec<_> = both.holds.iter_mut().filter(|hold| hold.token.is_some()).collect();
    held.sort_by_key(|hold| hold.token);
    assert!(held.len() > 1, "the lock was held once only");
    let later = held[1].completed;
    held[0].ended = Some(later + 1);
    rejected(&both, "two that hold one lock");
}

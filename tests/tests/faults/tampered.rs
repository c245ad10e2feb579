//! The verdict on a real history can be "broken": one that was recorded from a real member passes, and fails as soon as
//! one thing in it is not as it was.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use quorate_tests::checkers::history::{
    Action, Answer, Change, Done, Elected, ElectionFact, History, Hold, Input, Kv, Learned, LeaseFact, Mode, Outcome,
    Said, Span, Told,
};
use quorate_tests::checkers::{Tolerance, check};
use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;

use crate::histories::start;

/// The lock that clients of both wires want.
const LOCK: &str = "/chaos/locks/one";
/// The permits.
const PERMITS: &str = "/chaos/locks/permits";
/// The election.
const ELECTION: &str = "/chaos/elections/one";
/// Clients of etcd's wire that want the lock.
const ETCD_LOCKERS: RangeInclusive<u64> = 1441..=1460;

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

/// Holds of a lock or an election that were told, in the order of their tokens.
fn held<'h>(history: &'h mut History, lock: &str) -> Vec<&'h mut Hold> {
    let held = history.holds.iter_mut().filter(|hold| hold.token.is_some() && hold.lock == lock.into());
    let mut held: Vec<_> = held.collect();
    held.sort_by_key(|hold| hold.token);
    held
}

/// Whoever holds exclusively claims it until the next one has it that is of that wire.
fn hold_longer(history: &mut History, lock: &str, next_is_etcds: bool) {
    let mut held = held(history, lock);
    held.retain(|hold| hold.mode == Mode::Exclusive);
    let next = held.iter().skip(1).position(|hold| is_etcds(hold) == next_is_etcds).expect("two held it");
    held[next].ended = Some(held[next + 1].completed + 1);
}

fn is_etcds(hold: &Hold) -> bool {
    ETCD_LOCKERS.contains(&hold.client)
}

/// Of two permits three are held.
fn one_permit_more(history: &mut History) {
    let mut held = held(history, PERMITS);
    let [one, two, three, ..] = held.as_mut_slice() else { panic!("three had a permit") };
    (one.ended, two.ended) = (Some(three.completed + 1), Some(three.completed + 1));
}

/// A leader that was told that it is none was told that it said something.
fn heard_too_late(history: &mut History) {
    let mut said = history.elections.iter_mut().filter_map(|fact| match &mut fact.what {
        Elected::Proclaimed { said, .. } => Some(said),
        _ => None,
    });
    *said.find(|said| **said == Said::Lost).expect("somebody said something too late") = Said::Done;
}

/// Where facts of this kind tell of two terms, the later of which is told first then.
fn other_order(history: &mut History, of: impl Fn(&ElectionFact) -> Option<(u64, i64)>) {
    let found: Vec<_> = (0..).zip(&history.elections).filter_map(|(at, fact)| Some((at, of(fact)?))).collect();
    let pairs = found.iter().flat_map(|one| found.iter().map(move |two| (one, two)));
    let mut pairs = pairs.filter(|((_, (asker, one)), (_, (other, two)))| asker == other && one < two);
    let ((one, _), (two, _)) = pairs.next().expect("two terms were told");
    let (one, two): (usize, usize) = (*one, *two);
    let told = history.elections[one].what.clone();
    history.elections[one].what = std::mem::replace(&mut history.elections[two].what, told);
}

fn observed(fact: &ElectionFact) -> Option<(u64, i64)> {
    match &fact.what {
        Elected::Observed(leading) => Some((fact.client, leading.as_ref()?.term)),
        _ => None,
    }
}

fn read(fact: &ElectionFact) -> Option<(u64, i64)> {
    match &fact.what {
        Elected::Read(leading) => Some((fact.client, leading.as_ref()?.term)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_thing_that_is_not_as_it_was_is_noticed() {
    let cluster = Cluster::start(1).await;
    let run = start(&cluster, Duration::from_secs(3)).await;
    run.go_on(1_000).await;
    until("the history to have what is tampered with", || async {
        if is_full(&mut run.load.recorder().history()) { Ok(()) } else { Err("it has not yet") }
    })
    .await;
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
    for etcd in [false, true] {
        tampered("two that hold one lock", &|history| hold_longer(history, LOCK, etcd));
    }
    tampered("one permit too many", &one_permit_more);
    tampered("two that lead", &|history| hold_longer(history, ELECTION, false));
    tampered("a leader that is heard when it is none", &heard_too_late);
    tampered("terms that an observer is told in the wrong order", &|history| other_order(history, observed));
    tampered("a read of who leads no more", &|history| other_order(history, read));
}

/// There is enough to tamper with.
fn is_full(history: &mut History) -> bool {
    let mut exclusive = held(history, LOCK);
    exclusive.retain(|hold| hold.mode == Mode::Exclusive);
    let both = [false, true].iter().all(|etcd| exclusive.iter().skip(1).any(|hold| is_etcds(hold) == *etcd));
    let late = history.elections.iter().any(|fact| matches!(fact.what, Elected::Proclaimed { said: Said::Lost, .. }));
    let terms = |of: fn(&ElectionFact) -> Option<(u64, i64)>| {
        let told: BTreeSet<_> = history.elections.iter().filter_map(of).collect();
        told.iter().zip(told.iter().skip(1)).any(|(one, two)| one.0 == two.0)
    };
    let (observers, readers) = (terms(observed), terms(read));
    both && late && observers && readers && held(history, PERMITS).len() > 2 && held(history, ELECTION).len() > 1
}

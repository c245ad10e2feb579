//! The checkers against random histories: those that keep every promise pass, and each way of breaking one is seen.
//!
//! `QUORATE_SEED=7` runs one seed again, `QUORATE_SEEDS=1` new ones; else they are always the same.

use super::generate::{self, Wanted, history, seeds};
use super::history::{Change, Done, History, Outcome, Told};
use super::{Tolerance, check, linearizable, once, search, watches};

const SMALL: Wanted = Wanted { operations: 60, clients: 4, keys: 3, rich: false };
const RICH: Wanted = Wanted { operations: 200, clients: 5, keys: 5, rich: true };

#[test]
fn histories_without_a_fault_pass_every_checker() {
    for seed in seeds(150) {
        for wanted in [SMALL, RICH] {
            let history = history(seed, wanted);
            assert_eq!(check(&history, Tolerance::default()), [], "QUORATE_SEED={seed}");
        }
    }
}

#[test]
fn without_the_log_they_pass_as_well() {
    for seed in seeds(150) {
        for wanted in [SMALL, RICH] {
            let mut history = history(seed, wanted);
            history.log = None;
            assert_eq!(linearizable::check(&history), Ok(()), "QUORATE_SEED={seed}");
            history.watches.clear();
            history.end = None;
            assert_eq!(linearizable::check(&history), Ok(()), "QUORATE_SEED={seed}, from answers alone");
        }
    }
}

#[test]
fn a_written_history_is_read_back_the_same() {
    for seed in seeds(5) {
        let history = history(seed, RICH);
        let mut written = Vec::new();
        history.write(&mut written).unwrap();
        assert_eq!(History::read(&written[..]).unwrap(), history, "QUORATE_SEED={seed}");
    }
}

/// What the search rejects without revisions, the witness must reject too; and it must happen at all.
#[test]
fn what_the_search_rejects_the_witness_rejects() {
    let (mut both, mut witness_alone) = (0, 0);
    for seed in seeds(200) {
        let mut history = history(seed, SMALL);
        let reads = generate::reads(&history);
        let Some(read) = reads.get(seed as usize % reads.len().max(1)) else { continue };
        let Outcome::Done { answer, .. } = &mut history.operations[*read].outcome else { continue };
        for done in &mut answer.results {
            match done {
                Done::Read(kvs) if seed % 2 == 0 => kvs.clear(),
                Done::Read(kvs) => kvs.iter_mut().for_each(|kv| kv.version += 1),
                Done::Put { .. } | Done::Deleted(_) => {}
            }
        }
        let witness = linearizable::check(&history);
        match search::check(&history, 1_000_000) {
            Err(found) => {
                assert!(witness.is_err(), "QUORATE_SEED={seed}: only the search saw {found}");
                both += 1;
            }
            Ok(_) => witness_alone += usize::from(witness.is_err()),
        }
    }
    println!("{both} seen by both, {witness_alone} by the witness alone");
    assert!(both > 0 || std::env::var("QUORATE_SEED").is_ok());
}

/// Breaks histories in one way, and expects this checker to see each.
fn rejected(by: impl Fn(&History) -> bool, breaking: impl Fn(&mut History, usize) -> bool) {
    let mut broken = 0;
    for seed in seeds(100) {
        for wanted in [SMALL, RICH] {
            let mut history = history(seed, wanted);
            if breaking(&mut history, seed as usize) {
                broken += 1;
                assert!(by(&history), "QUORATE_SEED={seed}: it passed");
            }
        }
    }
    assert!(broken > 20 || std::env::var("QUORATE_SEED").is_ok(), "only {broken} histories could be broken so");
}

fn linearizable_sees(history: &History) -> bool {
    linearizable::check(history).is_err()
}

/// Any of these, chosen by the seed.
fn pick(places: &[usize], seed: usize) -> Option<usize> {
    places.get(seed % places.len().max(1)).copied()
}

fn writes(history: &History) -> Vec<usize> {
    generate::done(history, |_, answer| answer.changed())
}

fn puts(history: &History) -> Vec<usize> {
    generate::done(history, |_, answer| answer.results.iter().any(|done| matches!(done, Done::Put { .. })))
}

#[test]
fn a_read_of_another_value_is_rejected() {
    rejected(linearizable_sees, |history, seed| {
        let Some(place) = pick(&generate::reads(history), seed) else { return false };
        let Outcome::Done { answer, .. } = &mut history.operations[place].outcome else { return false };
        for done in &mut answer.results {
            if let Done::Read(kvs) = done {
                for kv in kvs {
                    kv.value = "never written".into();
                }
            }
        }
        true
    });
}

#[test]
fn a_read_that_began_after_a_later_write_was_over_is_rejected() {
    rejected(linearizable_sees, |history, seed| {
        let Some(place) = pick(&generate::reads(history), seed) else { return false };
        let Outcome::Done { revision: seen, .. } = history.operations[place].outcome else { return false };
        let later = writes(history).into_iter().find_map(|write| match &history.operations[write] {
            operation if matches!(operation.outcome, Outcome::Done { revision, .. } if revision > seen) => {
                Some(operation.completed)
            }
            _ => None,
        });
        let Some(later) = later else { return false };
        let operation = &mut history.operations[place];
        (operation.invoked, operation.completed) = (later + 1, later + 2);
        true
    });
}

#[test]
fn a_refused_write_that_happened_is_rejected() {
    rejected(linearizable_sees, |history, seed| {
        let Some(place) = pick(&puts(history), seed) else { return false };
        history.operations[place].outcome = Outcome::Refused("it says".into());
        true
    });
}

#[test]
fn an_acknowledged_write_that_the_log_does_not_have_is_rejected_by_two() {
    let both = |history: &History| linearizable_sees(history) && once::check(history).is_err();
    rejected(both, |history, seed| {
        let Some(place) = pick(&puts(history), seed) else { return false };
        let Outcome::Done { revision, .. } = history.operations[place].outcome else { return false };
        let log = history.log.as_mut().unwrap();
        for change in &mut log.changes {
            if let Change::Put(kv) = change
                && kv.mod_revision == revision
            {
                kv.value = "somebody else's".into();
            }
        }
        true
    });
}

#[test]
fn a_write_that_was_applied_twice_is_rejected_by_two() {
    let both = |history: &History| linearizable_sees(history) && once::check(history).is_err();
    rejected(both, |history, seed| {
        let log = history.log.as_mut().unwrap();
        let puts = log.changes.iter().filter_map(|change| match change {
            Change::Put(kv) => Some(kv.clone()),
            Change::Delete { .. } => None,
        });
        let puts: Vec<_> = puts.collect();
        let Some(mut again) = puts.get(seed % puts.len().max(1)).cloned() else { return false };
        log.to += 1;
        (again.create_revision, again.mod_revision, again.version) = (log.to, log.to, 1);
        log.changes.push(Change::Put(again));
        true
    });
}

#[test]
fn two_writes_with_each_others_revisions_are_rejected() {
    rejected(linearizable_sees, |history, seed| {
        let puts = puts(history);
        let (Some(a), Some(b)) = (pick(&puts, seed), pick(&puts, seed + 1)) else { return false };
        if a == b {
            return false;
        }
        let revision = |place: usize| match &history.operations[place].outcome {
            Outcome::Done { revision, .. } => *revision,
            Outcome::Refused(_) | Outcome::Unknown(_) => 0,
        };
        let (of_a, of_b) = (revision(a), revision(b));
        for (place, other) in [(a, of_b), (b, of_a)] {
            if let Outcome::Done { revision, .. } = &mut history.operations[place].outcome {
                *revision = other;
            }
        }
        true
    });
}

/// A watch and the place of a message with events in it.
fn message(history: &History, seed: usize) -> Option<(usize, usize)> {
    let mut found = Vec::new();
    for (watch, it) in history.watches.iter().enumerate() {
        let messages = it.told.iter().enumerate().filter(|(_, told)| matches!(told, Told::Events { .. }));
        found.extend(messages.map(|(message, _)| (watch, message)));
    }
    found.get(seed % found.len().max(1)).copied()
}

#[test]
fn a_watch_that_misses_repeats_or_swaps_is_rejected() {
    let sees = |history: &History| watches::check(history).is_err();
    rejected(sees, |history, seed| {
        let Some((watch, message)) = message(history, seed) else { return false };
        history.watches[watch].told.remove(message);
        true
    });
    rejected(sees, |history, seed| {
        let Some((watch, message)) = message(history, seed) else { return false };
        let again = history.watches[watch].told[message].clone();
        history.watches[watch].told.insert(message + 1, again);
        true
    });
    rejected(sees, |history, seed| {
        let Some((watch, message)) = message(history, seed) else { return false };
        let told = &mut history.watches[watch].told;
        told.swap(message, message + 1);
        // Only two marks in a row may change places.
        true
    });
}

#[test]
fn a_watch_that_lies_about_what_stood_there_is_rejected() {
    rejected(
        |history| watches::check(history).is_err(),
        |history, seed| {
            let Some((watch, message)) = message(history, seed) else { return false };
            let Told::Events { events, .. } = &mut history.watches[watch].told[message] else { return false };
            let lied = events.iter_mut().find_map(|event| event.previous.take());
            lied.is_some()
        },
    );
}

#[test]
fn a_hundred_thousand_operations_are_checked_at_once() {
    let seed = seeds(1).next().unwrap_or_default();
    let history = history(seed, Wanted { operations: 100_000, clients: 16, keys: 200, rich: false });
    let began = std::time::Instant::now();
    assert_eq!(check(&history, Tolerance::default()), [], "QUORATE_SEED={seed}");
    println!(
        "{} operations, {} changes: {:?}",
        history.operations.len(),
        history.log.unwrap().changes.len(),
        began.elapsed()
    );
}

//! Random histories: the machine against the model, in groups and alone, with purges, crashes and failing disks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

use proptest::prelude::*;
use quorate_state::apply::{Entry, LogPosition, Machine, Payload};
use quorate_state::outcome::Fault;
use quorate_state::store::MemoryStore;
use quorate_state::testing::{CrashStore, History, check_history, dump, histories, open_with_window};

fn config(cases: u32) -> ProptestConfig {
    // PROPTEST_CASES in the environment asks for more; nothing is written to files.
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

const WINDOW: u64 = 7;

type Content = Vec<(Vec<u8>, Vec<u8>)>;

/// Runs the whole history; gives the store's content and the writes.
fn run(history: &History) -> (Content, CrashStore) {
    let store = CrashStore::new();
    let mut machine = open_with_window(&store, WINDOW, usize::MAX).unwrap();
    for group in history.grouped() {
        machine.apply(group).unwrap();
    }
    drop(machine);
    (dump(&store), store)
}

/// Opens what a crash left, replays the rest of the log, and gives the content.
fn replay(history: &History, survivor: MemoryStore) -> Content {
    let mut machine = open_with_window(survivor, WINDOW, usize::MAX).unwrap();
    let applied = machine.applied().0.map(|position| position.index);
    let rest: Vec<_> = history.entries.iter().filter(|entry| applied < Some(entry.position.index)).cloned().collect();
    machine.apply(&rest).unwrap();
    dump(machine.store())
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn the_machine_does_what_the_model_does(history in histories(24)) {
        check_history(&history, WINDOW, MemoryStore::new());
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn a_crash_at_any_write_replays_to_the_same(history in histories(16)) {
        let (content, store) = run(&history);
        for kept in 0..=store.count() {
            prop_assert_eq!(&replay(&history, store.after_crash(kept)), &content, "after a crash that kept {} writes", kept);
        }
    }

    #[test]
    fn a_failed_write_latches_and_replays_to_the_same(history in histories(12)) {
        let (content, whole) = run(&history);
        for at in 0..whole.count() {
            let store = CrashStore::failing_at(at);
            let mut machine = open_with_window(&store, WINDOW, usize::MAX).unwrap();
            let groups = history.grouped();
            for (number, group) in groups.iter().enumerate() {
                match machine.apply(group) {
                    Ok(_) => prop_assert!(number < at),
                    Err(Fault::Store(_)) => prop_assert_eq!(number, at),
                    Err(Fault::Latched) => prop_assert!(number > at),
                    Err(fault) => prop_assert!(false, "{}", fault),
                }
            }
            prop_assert_eq!(&replay(&history, store.after_crash(at)), &content);
        }
    }
}

#[test]
fn entries_that_leave_a_gap_are_a_fault() {
    let entry = |term, index| Entry { position: LogPosition { term, index }, payload: Payload::Blank };
    let mut machine = Machine::open(MemoryStore::new()).unwrap();
    machine.apply(&[entry(1, 0), entry(2, 1)]).unwrap();
    assert!(matches!(machine.apply(&[entry(2, 3)]), Err(Fault::Corrupt(_))));
    assert!(matches!(machine.apply(&[entry(2, 2)]), Err(Fault::Latched)));
    let mut machine = Machine::open(machine.store()).unwrap();
    assert!(matches!(machine.apply(&[entry(1, 2)]), Err(Fault::Corrupt(_))), "a term that falls");
}

//! Deterministic simulation: whole clusters in one thread, with clients of both wires, under simulated time, over a
//! network and disks that go wrong; a seed says all of it. docs/simulation.md tells how to read and replay a run.
//!
//! Set `QUORATE_SEED` to replay one run with its whole trace; `make simulate SEEDS=1000` runs more of them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::needless_pass_by_value,
    reason = "tests with small numbers"
)]

mod clients;
mod dice;
mod disk;
mod faults;
mod historians;
mod holders;
mod lockers;
mod member;
mod net;
mod recorder;
mod surveyors;
mod trace;
mod truth;
mod watchers;
mod way;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
#[cfg(debug_assertions)]
use quorate_state::flaw::Flaw;
use trace::Keep;
#[cfg(debug_assertions)]
use world::Bug;
use world::{Plan, Report, run};

/// A tenth of the time of a run goes into memory with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds that every test run has: the first ones, and those that once found something.
const FIXED: [u64; 6] = [1, 2, 3, 4, 5, 6];

fn plan(seed: u64) -> Plan {
    let members = if seed % 3 == 2 { 5 } else { 3 };
    Plan { seed, members, time: Duration::from_secs(30), faults: true, keep: Keep::Tail, bug: None }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn complain(seed: u64, report: &Report) -> String {
    let trace = report.trace.kept().join("\n");
    let wrong = report.wrong.join("\n");
    format!("the end of the trace:\n{trace}\n\n{wrong}\n\nreplay it with QUORATE_SEED={seed}")
}

/// Runs the seeds on as many threads as there are cores, and tells how far it is. What went wrong, by seed.
fn run_all(seeds: &[u64]) -> Vec<(u64, String)> {
    let wrong = Mutex::new(Vec::new());
    let (next, done, simulated_ms) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    let work = || {
        while let Some(seed) = seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
            let report = std::panic::catch_unwind(|| run(plan(*seed)));
            let complaint = match &report {
                Ok(report) if report.wrong.is_empty() => None,
                Ok(report) => Some(complain(*seed, report)),
                Err(_) => Some(format!("it panicked; replay it with QUORATE_SEED={seed}")),
            };
            if let Ok(report) = &report {
                let ((events, _), operations) = (report.trace.digest(), report.history.operations.len());
                println!("seed {seed}: {events} events, {operations} operations, {:?}", report.simulated);
                let ms = u64::try_from(report.simulated.as_millis()).unwrap();
                simulated_ms.fetch_add(ms, Ordering::Relaxed);
            }
            if let Some(complaint) = complaint {
                println!("seed {seed} went wrong: {complaint}");
                wrong.lock().push((*seed, complaint));
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(10) || done == seeds.len() as u64 {
                let (simulated, took) = (simulated_ms.load(Ordering::Relaxed) / 1000, began.elapsed().as_secs_f64());
                let speed = simulated as f64 / took / threads as f64;
                let failed = wrong.lock().len();
                let of = seeds.len();
                println!(
                    "{done} of {of} runs, {failed} went wrong; {simulated} s in {took:.1} s: {speed:.0} a second a core"
                );
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    wrong.into_inner()
}

#[test]
fn the_same_seed_gives_the_same_run_event_for_event() {
    for seed in [1, 2] {
        let plan = Plan { keep: Keep::All, ..plan(seed) };
        let (one, two) = (run(plan).trace.kept(), run(plan).trace.kept());
        for (at, (a, b)) in one.iter().zip(&two).enumerate() {
            let before = &one[at.saturating_sub(20)..at];
            assert_eq!(a, b, "event {at} of seed {seed} differs, after\n{}", before.join("\n"));
        }
        assert_eq!(one.len(), two.len());
    }
}

#[test]
fn whatever_goes_wrong_every_promise_is_kept() {
    if let Some(seed) = number("QUORATE_SEED") {
        let report = run(Plan { keep: Keep::Print, ..plan(seed) });
        assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
        return;
    }
    let seeds: Vec<u64> = match number("QUORATE_SEEDS") {
        Some(count) => (0..count).map(|_| rand::random_range(0..u64::from(u32::MAX))).collect(),
        None => FIXED.to_vec(),
    };
    let wrong = run_all(&seeds);
    let failed: Vec<u64> = wrong.iter().map(|(seed, _)| *seed).collect();
    assert!(wrong.is_empty(), "seeds {failed:?} went wrong, see above; the first:\n{}", wrong[0].1);
}

/// Bugs, and the seed that found each when all were looked for; docs/simulation.md tells of them.
#[cfg(debug_assertions)]
const FOUND: [(Bug, u64); 31] = [
    (Bug::ForgottenSync, 1),
    (Bug::LostEvent, 1),
    (Bug::NoRequestId, 1),
    (Bug::Inside(Flaw::AnswersBeforeCommit), 1),
    (Bug::Inside(Flaw::VoteNotSaved), 1),
    (Bug::Inside(Flaw::PurgesBeforeFlush), 1),
    (Bug::Inside(Flaw::AppliesAgain), 1),
    (Bug::Inside(Flaw::HalfSnapshot), 1),
    (Bug::Inside(Flaw::RemovedCounts), 2),
    (Bug::Inside(Flaw::NoBarrier), 1),
    (Bug::Inside(Flaw::TrustsStaleLeader), 1),
    (Bug::Inside(Flaw::JoinsRound), 5),
    (Bug::Inside(Flaw::JointGap), 1),
    (Bug::Inside(Flaw::JointRepeat), 1),
    (Bug::Inside(Flaw::TornTransaction), 1),
    (Bug::Inside(Flaw::WrongPrevious), 1),
    (Bug::Inside(Flaw::Immortal), 1),
    (Bug::Inside(Flaw::KeyOutlivesLease), 1),
    (Bug::Inside(Flaw::TwoHolders), 1),
    (Bug::Inside(Flaw::ReusesRevision), 1),
    (Bug::Inside(Flaw::IgnoresCompares), 1),
    (Bug::Inside(Flaw::MembersDiffer), 1),
    (Bug::Inside(Flaw::CompactsTooMuch), 1),
    (Bug::Inside(Flaw::StaleDirectory), 1),
    (Bug::Inside(Flaw::AcksBeforeWrite), 1),
    (Bug::Inside(Flaw::ForgetsRequestIds), 1),
    (Bug::Inside(Flaw::EarlyMark), 1),
    (Bug::Inside(Flaw::ServesCompacted), 1),
    (Bug::Inside(Flaw::RenewsEnded), 4),
    (Bug::Inside(Flaw::HastyLeader), 1),
    (Bug::Inside(Flaw::GrantsToDead), 2),
];

/// Whether a run with this bug goes wrong. How often it came by the bug is printed where it does not.
#[cfg(debug_assertions)]
fn finds(bug: Bug, seed: u64) -> Option<String> {
    let plan = Plan { bug: Some(bug), ..plan(seed) };
    // Whoever loses what it voted for may well panic.
    match std::panic::catch_unwind(|| run(plan)) {
        Ok(report) if report.wrong.is_empty() => {
            println!("{bug:?}: seed {seed} came by it {} times and passed", report.reached);
            None
        }
        Ok(report) => report.wrong.into_iter().next(),
        Err(_) => Some("it panicked".to_owned()),
    }
}

/// Each bug that is put in on purpose is seen, first of all where it was found before. With `QUORATE_BUGS`, which says how
/// many seeds to try, all are looked for from the first seed on, also those that were never found; for the table.
#[cfg(debug_assertions)]
#[test]
fn a_bug_that_is_put_in_on_purpose_is_found() {
    let seeds_max = number("QUORATE_BUGS");
    let only = std::env::var("QUORATE_BUG").ok();
    let bugs = if seeds_max.is_some() { Bug::all() } else { FOUND.map(|(bug, _)| bug).to_vec() };
    let is_wanted = |bug: &Bug| only.as_ref().is_none_or(|only| format!("{bug:?}").contains(only));
    let bugs: Vec<Bug> = bugs.into_iter().filter(is_wanted).collect();
    let (next, missed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(bug) = bugs.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
            let before = FOUND.iter().find(|(found, _)| found == bug).filter(|_| seeds_max.is_none());
            let mut seeds = before.map(|(_, seed)| *seed).into_iter().chain(1..=seeds_max.unwrap_or(20));
            let found = seeds.find_map(|seed| Some((seed, finds(*bug, seed)?)));
            if let Some((seed, wrong)) = found {
                println!("{bug:?}: found by seed {seed}: {}", wrong.lines().next().unwrap_or_default());
            } else {
                println!("{bug:?}: not found");
                missed.lock().push(*bug);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    assert!(missed.lock().is_empty(), "not found: {:?}", missed.lock());
}

//! Deterministic simulation: whole clusters in one thread, with clients of both wires, under simulated time, over a
//! network and disks that go wrong; a seed says all of it. docs/simulation.md tells how to read and replay a run.
//!
//! Set `QUORATE_SEED` to replay one run with its whole trace, with `QUORATE_SCENARIO` one of a scenario; `make simulate
//! SEEDS=1000` runs more of them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::needless_pass_by_value,
    reason = "tests with small numbers"
)]

mod candidates;
mod clients;
mod dice;
mod disk;
mod faults;
mod historians;
mod holders;
mod lockers;
mod member;
mod net;
mod onlookers;
mod recorder;
mod scenarios;
mod sessions;
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
use scenarios::{ASTRAY, Scenario};
use trace::Keep;
#[cfg(debug_assertions)]
use world::Bug;
use world::{Plan, Report, run};

/// A tenth of the time of a run goes into memory with the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Seeds that every test run has.
const FIXED: [u64; 7] = [1, 2, 3, 4, 5, 6, 7];

/// Seeds besides, which nobody has tried before.
const NEW: u64 = 4;

/// Seeds that each scenario is run with.
const SCENARIO_SEEDS: u64 = 3;

fn plan(seed: u64) -> Plan {
    let members = if seed % 3 == 2 { 5 } else { 3 };
    Plan { seed, members, time: Duration::from_secs(30), faults: true, keep: Keep::Tail, bug: None }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn complain(replay: &str, report: &Report) -> String {
    let trace = report.trace.kept().join("\n");
    let wrong = report.wrong.join("\n");
    format!("the end of the trace:\n{trace}\n\n{wrong}\n\nreplay it with {replay}")
}

/// Seeds that follow from nothing.
fn new_seeds(count: u64) -> Vec<u64> {
    (0..count).map(|_| rand::random_range(0..u64::from(u32::MAX))).collect()
}

/// Runs the seeds on as many threads as there are cores, and tells how far it is. What went wrong, by seed.
fn run_all(seeds: &[u64]) -> Vec<(u64, String)> {
    let wrong = Mutex::new(Vec::new());
    let (next, done, simulated_ms) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    let work = || {
        while let Some(seed) = seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
            println!("seed {seed} begins; make simulate SEED={seed} replays it");
            let report = std::panic::catch_unwind(|| run(plan(*seed)));
            let replay = format!("make simulate SEED={seed}");
            let complaint = match &report {
                Ok(report) if report.wrong.is_empty() => None,
                Ok(report) => Some(complain(&replay, report)),
                Err(_) => Some(format!("it panicked; replay it with {replay}")),
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
        Some(count) => new_seeds(count),
        None => FIXED.into_iter().chain(new_seeds(NEW)).collect(),
    };
    let wrong = run_all(&seeds);
    let failed: Vec<u64> = wrong.iter().map(|(seed, _)| *seed).collect();
    assert!(wrong.is_empty(), "seeds {failed:?} went wrong, see above; the first:\n{}", wrong[0].1);
}

/// With `QUORATE_SCENARIO` that one alone; `QUORATE_SEEDS` says how many seeds, `QUORATE_SEED` replays one.
#[test]
fn what_is_written_down_goes_wrong_and_every_promise_is_kept() {
    let named = |name: String| Scenario::named(&name).unwrap_or_else(|| panic!("there is no scenario {name}"));
    let only = std::env::var("QUORATE_SCENARIO").ok().map(named);
    let replayed = number("QUORATE_SEED").filter(|_| only.is_some());
    let (seeds, keep) = match replayed {
        Some(seed) => (vec![seed], Keep::Print),
        None => ((1..=number("QUORATE_SEEDS").unwrap_or(SCENARIO_SEEDS)).collect(), Keep::Tail),
    };
    let mut wrong = Vec::new();
    for scenario in Scenario::ALL.into_iter().filter(|scenario| only.is_none_or(|only| only == *scenario)) {
        for seed in &seeds {
            let report = scenarios::run(scenario, *seed, keep, None);
            let replay = format!("make simulate SCENARIO={scenario:?} SEED={seed}");
            if !report.wrong.is_empty() {
                println!("{scenario:?} with seed {seed} went wrong: {}", complain(&replay, &report));
                wrong.push((scenario, *seed));
            }
        }
        println!("{scenario:?}: {} seeds", seeds.len());
    }
    assert!(wrong.is_empty(), "these went wrong, see above: {wrong:?}");
}

/// What finds a bug.
#[cfg(debug_assertions)]
#[derive(Debug, Clone, Copy)]
enum By {
    Seed(u64),
    Scenario(Scenario),
}

/// Bugs, and what found each when all were looked for; docs/simulation.md tells of them. One is found in two ways.
#[cfg(debug_assertions)]
const FOUND: [(Bug, By); 39] = [
    (Bug::ForgottenSync, By::Seed(3)),
    (Bug::LostEvent, By::Seed(1)),
    (Bug::NoRequestId, By::Seed(1)),
    (Bug::Inside(Flaw::AnswersBeforeCommit), By::Seed(1)),
    (Bug::Inside(Flaw::VoteNotSaved), By::Seed(1)),
    (Bug::Inside(Flaw::PurgesBeforeFlush), By::Seed(1)),
    (Bug::Inside(Flaw::AppliesAgain), By::Seed(1)),
    (Bug::Inside(Flaw::HalfSnapshot), By::Seed(1)),
    (Bug::Inside(Flaw::RemovedCounts), By::Seed(2)),
    (Bug::Inside(Flaw::DiscardedIsNo), By::Scenario(Scenario::Discarded)),
    (Bug::Inside(Flaw::DiscardedIsNo), By::Scenario(Scenario::Overtaken)),
    (Bug::Inside(Flaw::UnknownIsNo), By::Scenario(Scenario::Unheard)),
    (Bug::Inside(Flaw::NoBarrier), By::Seed(1)),
    (Bug::Inside(Flaw::TrustsStaleLeader), By::Seed(1)),
    (Bug::Inside(Flaw::JoinsRound), By::Seed(27)),
    (Bug::Inside(Flaw::JointGap), By::Seed(1)),
    (Bug::Inside(Flaw::JointRepeat), By::Seed(1)),
    (Bug::Inside(Flaw::WindowEdge), By::Scenario(Scenario::Edge)),
    (Bug::Inside(Flaw::TornTransaction), By::Seed(1)),
    (Bug::Inside(Flaw::WrongPrevious), By::Seed(1)),
    (Bug::Inside(Flaw::Immortal), By::Seed(1)),
    (Bug::Inside(Flaw::KeyOutlivesLease), By::Seed(1)),
    (Bug::Inside(Flaw::TwoHolders), By::Seed(1)),
    (Bug::Inside(Flaw::ReusesRevision), By::Seed(1)),
    (Bug::Inside(Flaw::IgnoresCompares), By::Seed(1)),
    (Bug::Inside(Flaw::MembersDiffer), By::Seed(1)),
    (Bug::Inside(Flaw::CompactsTooMuch), By::Seed(1)),
    (Bug::Inside(Flaw::StaleDirectory), By::Seed(1)),
    (Bug::Inside(Flaw::StalePicture), By::Seed(1)),
    (Bug::Inside(Flaw::AcksBeforeWrite), By::Seed(1)),
    (Bug::Inside(Flaw::ForgetsRequestIds), By::Seed(2)),
    (Bug::Inside(Flaw::EarlyMark), By::Seed(1)),
    (Bug::Inside(Flaw::ServesCompacted), By::Seed(1)),
    (Bug::Inside(Flaw::RenewsEnded), By::Seed(9)),
    (Bug::Inside(Flaw::DeposedKeepAlive), By::Scenario(Scenario::Deposed)),
    (Bug::Inside(Flaw::KeepsNote), By::Scenario(Scenario::Noted)),
    (Bug::Inside(Flaw::HastyLeader), By::Seed(1)),
    (Bug::Inside(Flaw::GrantsToDead), By::Seed(6)),
    (Bug::Inside(Flaw::LateCleanUp), By::Scenario(Scenario::Late)),
];

/// What was wrong in a run with this bug. How often it came by the bug is printed where nothing was.
#[cfg(debug_assertions)]
fn finds(bug: Bug, by: By) -> Option<String> {
    let go = || match by {
        By::Seed(seed) => run(Plan { bug: Some(bug), ..plan(seed) }),
        By::Scenario(scenario) => scenarios::run(scenario, 1, Keep::Tail, Some(bug)),
    };
    match std::panic::catch_unwind(go) {
        Ok(report) => {
            let found = report.wrong.into_iter().find(|wrong| !wrong.starts_with(ASTRAY));
            if found.is_none() {
                println!("{bug:?}: {by:?} came by it {} times and passed", report.reached);
            }
            found
        }
        // Whoever loses what it voted for may well panic. A scenario is not to.
        Err(_) => matches!(by, By::Seed(_)).then(|| "it panicked".to_owned()),
    }
}

/// Each bug that is put in on purpose is seen, first of all by what found it before. With `QUORATE_BUGS`, which says how
/// many seeds to try, all are looked for from the first seed on, and then in the scenarios; for the table.
#[cfg(debug_assertions)]
#[test]
fn a_bug_that_is_put_in_on_purpose_is_found() {
    let seeds_max = number("QUORATE_BUGS");
    let only = std::env::var("QUORATE_BUG").ok();
    let is_wanted = |(bug, _): &(Bug, By)| only.as_ref().is_none_or(|only| format!("{bug:?}").contains(only));
    assert!(Bug::all().iter().all(|bug| FOUND.iter().any(|(found, _)| found == bug)), "the table has them all");
    let bugs: Vec<(Bug, By)> = FOUND.into_iter().filter(is_wanted).collect();
    let (next, missed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((bug, by)) = bugs.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
            let seeds = (1..=seeds_max.unwrap_or(20)).map(By::Seed);
            let scenarios = Scenario::ALL.map(By::Scenario);
            let before = Some(*by).filter(|_| seeds_max.is_none());
            let mut ways = before.into_iter().chain(seeds).chain(scenarios);
            // What only a scenario finds is not looked for by chance.
            let found = match by {
                By::Scenario(_) if seeds_max.is_none() => finds(*bug, *by).map(|wrong| (*by, wrong)),
                _ => ways.find_map(|by| Some((by, finds(*bug, by)?))),
            };
            if let Some((by, wrong)) = found {
                println!("{bug:?}: found by {by:?}: {}", wrong.lines().next().unwrap_or_default());
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

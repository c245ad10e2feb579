//! Quorate's etcd door and Debian's etcd are given the same random requests; their answers must be equal, field for field.
//!
//! `QUORATE_SEED=7` runs the sequence of one seed again, `QUORATE_SEEDS=1000` runs more of them (`make differential`).
//! The parts: a step is one request, a target is a server that takes steps, a pair compares two of them, and the
//! exceptions say where an answer may differ and why.
//!
//! Invariants:
//! - Two etcds are equal under the same comparison, and a falsified answer is noticed: so the comparison itself is tested.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod answer;
mod exceptions;
mod generate;
mod pair;
mod scenarios;
mod show;
mod step;
mod tamper;
mod target;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use exceptions::{EXCEPTIONS, OF_ETCD_ITSELF};
use pair::Pair;
use quorate_server::Ephemeral;
use quorate_tests::cluster::Cluster;
use quorate_tests::etcd::Etcd;
use scenarios::SCENARIOS;
use tamper::{TAMPERINGS, Tampering};
use target::Target;

/// How many sequences run when nobody asks for more.
const SEEDS: u64 = 240;

/// So many mismatches end a run.
const MISMATCHES_MAX: usize = 3;

/// Pairs of servers at work at the same time: much of a sequence is waiting for etcd's watches.
const WORKERS: usize = 3;

async fn target(name: &'static str, etcd: &Etcd) -> Target {
    let mut target = Target::connect(name, &[etcd.endpoint().to_owned()]).await;
    target.loses_compacted_tombstones = true;
    target
}

/// The seeds to run: one that is asked for, or `count` of them.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let asked = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = asked("QUORATE_SEED") {
        return seed..seed + 1;
    }
    match asked("QUORATE_SEEDS") {
        Some(many) => {
            let first = u64::from(rand::random::<u32>());
            first..first + many * count / SEEDS
        }
        None => 0..count,
    }
}

/// Runs the seeds that `next` hands out until there are some mismatches; each shrunk and told.
async fn run(pair: &mut Pair, next: &AtomicU64, end: u64) -> Vec<String> {
    let mut stories = Vec::new();
    while stories.len() < MISMATCHES_MAX {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        if let Err(found) = pair.generate(seed, false).await {
            let whole = found.story();
            let shrunk = pair.shrink(found, 0).await.story();
            stories.push(format!("QUORATE_SEED={seed} runs this again; as it was found:\n{whole}shrunk:\n{shrunk}"));
        }
    }
    stories
}

fn assert_none(stories: &[String]) {
    assert!(stories.is_empty(), "{} mismatches\n{}", stories.len(), stories.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_equals_itself() {
    let (one, other) = tokio::join!(Etcd::start(), Etcd::start());
    let mut pair = Pair::new(target("etcd", &one).await, target("other", &other).await, OF_ETCD_ITSELF);
    let began = Instant::now();
    let seeds = seeds(40);
    assert_none(&run(&mut pair, &AtomicU64::new(seeds.start), seeds.end).await);
    println!(
        "{} sequences, {} steps, {:?}, etcd {}",
        seeds.end - seeds.start,
        pair.steps_taken,
        began.elapsed(),
        one.version()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorate_answers_as_etcd_does() {
    let seeds = seeds(SEEDS);
    let next = AtomicU64::new(seeds.start);
    let began = Instant::now();
    let work = (0..WORKERS).map(|_| async {
        let mut beside = beside().await;
        let stories = run(&mut beside.pair, &next, seeds.end).await;
        (stories, beside.pair.steps_taken, beside.pair.excused)
    });
    let (mut all, mut steps, mut excused) = (Vec::new(), 0, BTreeMap::<_, usize>::new());
    for (stories, taken, used) in futures::future::join_all(work).await {
        all.extend(stories);
        steps += taken;
        for (name, times) in used {
            *excused.entry(name).or_default() += times;
        }
    }
    println!("{} sequences, {steps} steps, {:?}", seeds.end - seeds.start, began.elapsed());
    for (name, times) in &excused {
        println!("excused {times} times: {name}");
    }
    assert_none(&all);
}

/// Debian's etcd beside a member of this process; both live as long as the value.
struct Beside {
    etcd: Etcd,
    _quorate: Ephemeral,
    pair: Pair,
}

async fn beside() -> Beside {
    let etcd = Etcd::start().await;
    let quorate = quorate_server::ephemeral().await.expect("start a member");
    let right = Target::connect("quorate", &[quorate.endpoint()]).await;
    let pair = Pair::new(target("etcd", &etcd).await, right, EXCEPTIONS);
    Beside { etcd, _quorate: quorate, pair }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_nobody_wrote_to_answer_alike() {
    for seed in seeds(4) {
        if let Err(found) = beside().await.pair.generate(seed, true).await {
            panic!("seed {seed} on fresh servers:\n{}", found.story());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_answers_as_etcd_does_through_any_member() {
    let etcd = Etcd::start().await;
    let cluster = Cluster::start(3).await;
    let right = Target::connect("cluster", &cluster.endpoints()).await;
    let mut pair = Pair::new(target("etcd", &etcd).await, right, EXCEPTIONS);
    let seeds = seeds(40);
    let began = Instant::now();
    assert_none(&run(&mut pair, &AtomicU64::new(seeds.start), seeds.end).await);
    println!("{} sequences, {} steps, {:?}", seeds.end - seeds.start, pair.steps_taken, began.elapsed());
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn particular_sequences_answer_alike() {
    let mut beside = beside().await;
    let mut wrong = Vec::new();
    for scenario in SCENARIOS {
        if let Err(found) = beside.pair.replay(&(scenario.steps)()).await {
            wrong.push(format!("{}:\n{}", scenario.name, found.story()));
        }
    }
    assert_none(&wrong);
}

/// Each exception is shown by its own sequence, so that none stays in the list when its reason is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exception_is_still_one() {
    let mut beside = beside().await;
    let version = beside.etcd.version().to_owned();
    for exception in EXCEPTIONS {
        beside.pair.excused.clear();
        if let Err(found) = beside.pair.replay(&(exception.witness)()).await {
            panic!("{}:\n{}", exception.name, found.story());
        }
        let used = beside.pair.excused.contains_key(exception.name);
        println!("{}: {}; etcd: {}", exception.name, exception.reason, exception.etcd);
        let expected = exception.etcd == "all" || version == "3.4.23";
        assert!(used || !expected, "etcd {version} and Quorate no longer differ in this: {}", exception.name);
    }
}

/// If this test fails, the comparison is blind on the eye that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn falsified_answers_are_noticed_and_shrunk() {
    let next = AtomicUsize::new(0);
    let work = (0..WORKERS).map(|_| async {
        let (one, other) = tokio::join!(Etcd::start(), Etcd::start());
        let mut pair = Pair::new(target("etcd", &one).await, target("falsified", &other).await, OF_ETCD_ITSELF);
        while let Some(tampering) = TAMPERINGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            notice(&mut pair, tampering).await;
        }
    });
    futures::future::join_all(work).await;
}

async fn notice(pair: &mut Pair, tampering: &Tampering) {
    pair.tamper = Some(tampering.change);
    let mut found = None;
    for seed in 0..400 {
        if let Err(mismatch) = pair.generate(seed, false).await {
            found = Some((seed, mismatch));
            break;
        }
    }
    let (seed, mismatch) = found.unwrap_or_else(|| panic!("nobody noticed: {}", tampering.name));
    let before = mismatch.steps.len();
    let shrunk = pair.shrink(mismatch, tampering.steps_max).await;
    println!("{}: seed {seed}, {before} steps shrunk to\n{}", tampering.name, shrunk.story());
    assert!(shrunk.steps.len() <= tampering.steps_max, "{}: {} steps left", tampering.name, shrunk.steps.len());
}

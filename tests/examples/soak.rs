//! A soak: clients of both wires against three real members for hours, with faults a tenth of the time. Each minute is a run
//! of its own: its history is checked, and memory, files, disk and latencies are noted.
//!
//! `make soak HOURS=8` or `make soak MINUTES=5`; `QUORATE_SEED=7` repeats the schedule of a run.
//!
//! Invariants:
//! - What the soak itself remembers is the history of one minute, and one row a minute.
//! - It fails when a promise was not kept, and when what members use grows without bound: see `Bound`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it measures, and ends when something is wrong")]

use std::path::Path;
use std::time::{Duration, Instant};

use quorate::Client;
use quorate_tests::chaos::{Dice, Figures, Load, Plan, Recorder, percentile};
use quorate_tests::cluster::Cluster;
use quorate_tests::watchdog::Watchdog;

/// How long the clients of a minute ask; the rest is for leases to end, and for checks.
const ASKING: Duration = Duration::from_secs(50);
/// How long something is wrong in each minute, in two parts.
const WRONG: Duration = Duration::from_secs(3);
/// A minute with its checks takes less, also on a slow machine.
const MINUTE_MAX: Duration = Duration::from_mins(10);
/// Keys that are deleted at once when a minute is over.
const PAGE: u32 = 1_000;
/// Rows from which on growth is judged.
const ROWS_MIN: usize = 9;

/// What a member uses.
#[derive(Debug, Clone, Copy)]
struct Use {
    memory_mib: u64,
    files: u64,
    disk_mib: u64,
}

/// What members may use. Caches and the kept part of the log fill in the first third of a soak; from then on what a member
/// uses goes up and down with compaction and restarts, and the most of the last third may not be far above the most of the
/// second. What grows with each minute does, in a soak of an hour or more. And nothing may ever be above the ceiling.
#[derive(Debug, Clone, Copy)]
struct Bound {
    name: &'static str,
    of: fn(&Use) -> u64,
    /// In percent of the second third.
    growth: u64,
    /// Besides, for what is small.
    slack: u64,
    ceiling: u64,
}

/// Ceilings are a few times what a member is set to use: 64 MiB of block cache and 120 MiB of tables in memory; a file for
/// each table, connection and thread; a log of 64 MiB and more, and a snapshot that holds on to a copy of the state.
const BOUNDS: [Bound; 3] = [
    Bound { name: "memory, MiB", of: |used| used.memory_mib, growth: 125, slack: 32, ceiling: 1_024 },
    Bound { name: "open files", of: |used| used.files, growth: 125, slack: 32, ceiling: 1_024 },
    Bound { name: "disk, MiB", of: |used| used.disk_mib, growth: 150, slack: 128, ceiling: 4_096 },
];

#[tokio::main]
async fn main() {
    let minutes: usize = std::env::args().nth(1).map_or(60, |minutes| minutes.parse().expect("minutes, a number"));
    let mut dice = Dice::of_environment();
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    println!(
        "{:>6} {:>8} {:>7} {:>8} {:>8} {:>8}   memory MiB / files / disk MiB of each member",
        "minute", "done", "unknown", "p50 ms", "p99 ms", "max ms"
    );
    let mut rows: Vec<Vec<Use>> = Vec::new();
    for minute in 1..=minutes {
        let began = Instant::now();
        let watchdog = Watchdog::begin(format!("minute {minute}"), MINUTE_MAX);
        let figures = one(minute, &mut dice, &mut cluster).await;
        clean(&client).await;
        let used: Vec<Use> = (0..3).map(|member| usage(&mut cluster, member)).collect();
        print(minute, &figures, &used);
        rows.push(used);
        drop(watchdog);
        if let Some(left) = Duration::from_mins(1).checked_sub(began.elapsed()) {
            tokio::time::sleep(left).await;
        }
    }
    cluster.assert_same_digests().await;
    let wrong: Vec<String> = BOUNDS.iter().filter_map(|bound| judge(bound, &rows)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("every promise that was checked was kept, and what members use is bounded");
}

/// One minute: its clients, its faults, its verdict.
async fn one(minute: usize, dice: &mut Dice, cluster: &mut Cluster) -> Figures {
    let plan = Plan::new(cluster.endpoints(), format!("/soak/{minute}"));
    let load = Load::start(plan, Recorder::default(), &dice.named(minute)).await.expect("the cluster answers");
    let until = Instant::now() + ASKING;
    for pause in [false, true] {
        tokio::time::sleep(dice.between_ms(5_000, 15_000)).await;
        let leader = cluster.wait_for_leader().await;
        let victim = if dice.happens(600) { leader } else { dice.below(3) };
        let fault =
            load.recorder().fault(format!("{} of {victim}; {leader} leads", if pause { "pause" } else { "kill -9" }));
        if pause {
            cluster.process(victim).pause();
        } else {
            cluster.kill(victim);
        }
        tokio::time::sleep(WRONG).await;
        if pause {
            cluster.process(victim).resume();
        } else {
            cluster.run(victim);
        }
        cluster.wait_for_leader().await;
        load.recorder().over(fault);
    }
    tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
    let finished = load.finish().await.expect("the healed cluster comes to an end");
    let violations = finished.violations();
    if !violations.is_empty() {
        let path = std::env::temp_dir().join(format!("quorate-soak-{}-{minute}.jsonl", std::process::id()));
        finished.history.write(std::fs::File::create(&path).unwrap()).unwrap();
        println!("the history of minute {minute} is in {}", path.display());
    }
    assert!(
        violations.is_empty(),
        "minute {minute}: {}",
        violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    Figures::of(&finished.history)
}

/// Deletes what the minute left, and gives up its history.
async fn clean(client: &Client) {
    loop {
        let page =
            client.range("/soak/", "/soak0").keys_only().page_size(PAGE).page().await.expect("read what is left");
        let Some(last) = page.kvs.last() else {
            client.compact(page.header.revision).await.expect("compact");
            return;
        };
        let mut after = last.key.to_vec();
        after.push(0);
        client.delete_range("/soak/", after).await.expect("delete what is left");
    }
}

fn usage(cluster: &mut Cluster, member: usize) -> Use {
    let disk = bytes_in(&cluster.places[member].data);
    let process = cluster.process(member);
    Use { memory_mib: process.resident_bytes() >> 20, files: process.open_files(), disk_mib: disk >> 20 }
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    // Files come and go while one looks.
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[expect(clippy::cast_precision_loss, reason = "it is for the eye")]
fn print(minute: usize, figures: &Figures, used: &[Use]) {
    let ms = |per_mille| percentile(&figures.latencies, per_mille) as f64 / 1e3;
    let members: Vec<String> =
        used.iter().map(|used| format!("{:>4} /{:>4} /{:>5}", used.memory_mib, used.files, used.disk_mib)).collect();
    let (done, unknown) = (figures.done, figures.unknown);
    let (p50, p99, max) = (ms(500), ms(990), ms(1000));
    println!("{minute:>6} {done:>8} {unknown:>7} {p50:>8.1} {p99:>8.1} {max:>8.0}   {}", members.join("   "));
}

/// What is wrong with what members used, if anything is.
fn judge(bound: &Bound, rows: &[Vec<Use>]) -> Option<String> {
    for member in 0..3 {
        let values: Vec<u64> = rows.iter().map(|row| (bound.of)(&row[member])).collect();
        let most = |values: &[u64]| values.iter().max().copied().unwrap_or_default();
        if most(&values) > bound.ceiling {
            return Some(format!("{} of member {member}: {} is above {}", bound.name, most(&values), bound.ceiling));
        }
        let third = values.len() / 3;
        let (before, last) = (most(&values[third..2 * third]), most(&values[2 * third..]));
        let allowed = before * bound.growth / 100 + bound.slack;
        if values.len() >= ROWS_MIN && last > allowed {
            return Some(format!("{} of member {member} grew from {before} to {last}; {values:?}", bound.name));
        }
    }
    None
}

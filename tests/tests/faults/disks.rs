//! Disks that fill under all members, and one that fails under one member.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use quorate::{Client, Happened, Reason};
use quorate_tests::cluster::Cluster;
use quorate_tests::load::{Load, progress};
use quorate_tests::tmpfs::Tmpfs;
use quorate_tests::wait::until;

/// Bytes that no compression makes smaller, different for each key.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

const DISK_MIB: u64 = 512;
const WRITERS: u64 = 4;
/// Of 32 puts of [`VALUE_BYTES`] each: more than there is space for above the reserve.
const ROUNDS: u32 = 4_000;
const VALUE_BYTES: usize = 8 << 10;

/// Puts until space is short; what was acknowledged, by key, with the seed of its value.
async fn fill(client: &Client, prefix: &'static str) -> BTreeMap<String, u64> {
    let full = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS).map(|writer| {
        let (client, full) = (client.clone(), full.clone());
        tokio::spawn(async move {
            let mut acknowledged = BTreeMap::new();
            let mut n = 0;
            while !full.load(Ordering::Relaxed) {
                n += 1;
                let (key, seed) = (format!("{prefix}/{writer}/{n}"), writer << 32 | n);
                match client.put(key.clone(), noise(seed, VALUE_BYTES)).await {
                    Ok(_) => drop(acknowledged.insert(key, seed)),
                    Err(error) => {
                        assert_eq!(error.reason(), Some(Reason::DiskSpace), "{error}");
                        assert_eq!(error.happened(), Happened::No, "{error}");
                        assert!(error.to_string().contains("delete keys and compact"), "{error}");
                        full.store(true, Ordering::Relaxed);
                    }
                }
            }
            acknowledged
        })
    });
    let mut sum = BTreeMap::new();
    for writer in writers.collect::<Vec<_>>() {
        sum.extend(writer.await.unwrap());
    }
    sum
}

async fn assert_all_there(client: &Client, prefix: &str, acknowledged: &BTreeMap<String, u64>) {
    let mut found = 0;
    let mut kvs = client.prefix(prefix).page_size(200).stream();
    while let Some(kv) = kvs.next().await {
        let kv = kv.unwrap();
        let seed = acknowledged.get(kv.key_text().as_ref()).expect("only what was acknowledged is there");
        assert!(kv.value == noise(*seed, VALUE_BYTES), "{} has another value", kv.key_text());
        found += 1;
    }
    assert_eq!(found, acknowledged.len(), "an acknowledged write is lost");
}

async fn free_mib(cluster: &Cluster) -> Vec<u64> {
    let mut free = Vec::new();
    for i in cluster.running() {
        free.push(cluster.status(i).await.unwrap().disk_free_bytes >> 20);
    }
    free
}

/// The least that any of them had free since, in MiB, looked at all the time.
fn least_free_mib(disks: &[Tmpfs]) -> Arc<AtomicU64> {
    let least = Arc::new(AtomicU64::new(u64::MAX));
    let seen = least.clone();
    let paths: Vec<_> = disks.iter().map(|disk| disk.path().to_owned()).collect();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            for path in &paths {
                let Ok(stat) = rustix::fs::statvfs(path) else { return };
                seen.fetch_min((stat.f_bavail * stat.f_frsize) >> 20, Ordering::Relaxed);
            }
        }
    });
    least
}

async fn puts_succeed(client: &Client) {
    until("puts to succeed again", || async {
        client.put("/after", "space").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// Three members, each on a disk of so many MiB, of which 256 MiB are kept free.
async fn on_small_disks(disks: &[Tmpfs]) -> Cluster {
    let flags = ["--disk-reserve-bytes", "268435456", "--snapshot-log-bytes", "4194304"];
    let mut cluster = Cluster::prepare(disks.len(), &flags).await;
    for (place, disk) in cluster.places.iter_mut().zip(disks) {
        place.data = disk.data();
    }
    cluster.run_all().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_fill_refuse_growth_in_time_and_recover_when_they_are_enlarged() {
    let Some(disks) = Tmpfs::mount_many(3, 512) else { return };
    let mut cluster = on_small_disks(&disks).await;
    let client = cluster.client().await;
    let mut acknowledged = fill(&client, "/fill").await;
    println!("{} puts of {VALUE_BYTES} bytes, free {:?} MiB", acknowledged.len(), free_mib(&cluster).await);

    // What the databases free in the background may let growth in again for a while; so that it stays refused, all but
    // half of the reserve is taken away of what is free now. Less would not do: what was let in before space was known
    // to be short, and the compaction below, want space too.
    for (disk, free) in disks.iter().zip(free_mib(&cluster).await) {
        disk.resize(u32::try_from(DISK_MIB - free + 128).unwrap());
    }
    let refused = || async {
        match client.put("/more", "x").await {
            Err(error) if error.reason() == Some(Reason::DiskSpace) => Ok(error),
            other => Err(format!("{other:?}")),
        }
    };
    until("growth to be refused", refused).await;
    // It is refused again and again; all else goes on.
    for _ in 0..20 {
        let error = refused().await.expect("growth is refused");
        assert_eq!(error.happened(), Happened::No, "{error}");
    }
    let more = client.delete("/more").await.unwrap().deleted;
    assert!(more <= 1);
    assert_all_there(&client, "/fill/", &acknowledged).await;
    for n in 1..=50 {
        let key = format!("/fill/0/{n}");
        assert_eq!(client.delete(key.clone()).await.unwrap().deleted, 1);
        acknowledged.remove(&key);
    }
    let revision = client.get("/fill").await.unwrap().header.revision;
    client.compact(revision).await.unwrap();
    for i in 0..3 {
        assert!(cluster.process(i).ended().is_none(), "a member died of a full disk");
    }
    assert!(free_mib(&cluster).await.iter().all(|free| *free > 0), "the reserve was used up");

    for disk in &disks {
        disk.resize(1024);
    }
    puts_succeed(&client).await;
    assert_all_there(&client, "/fill/", &acknowledged).await;
    cluster.assert_same_digests().await;
}

/// It used to depend on luck: the log kept what it keeps, snapshots held on to tables long replaced, and what was
/// deleted and compacted stayed on disk until the databases came round to it. And where tables were rewritten for that, they
/// could take the last byte of disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_fill_recover_by_deletes_and_compaction_alone_again_and_again() {
    let Some(disks) = Tmpfs::mount_many(3, 512) else { return };
    let mut cluster = on_small_disks(&disks).await;
    let client = cluster.client().await;
    let least = least_free_mib(&disks);
    for (prefix, kept) in [("/one", 20), ("/two", 20), ("/three", 20)] {
        let acknowledged = fill(&client, prefix).await;
        println!("{} puts of {VALUE_BYTES} bytes, free {:?} MiB", acknowledged.len(), free_mib(&cluster).await);
        let (kept, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            acknowledged.into_iter().enumerate().partition(|(i, _)| *i < kept);
        let deletes = rest.into_values().map(|(key, _)| client.delete(key).into_future());
        let mut deletes = futures::stream::iter(deletes).buffer_unordered(32);
        while let Some(deleted) = deletes.next().await {
            assert_eq!(deleted.unwrap().deleted, 1, "deletes go on");
        }
        let revision = client.get(prefix).await.unwrap().header.revision;
        client.compact(revision).await.unwrap();
        let started = Instant::now();
        puts_succeed(&client).await;
        // Not only for a moment: a member helps itself until a quarter above the reserve of 256 MiB is free.
        until("space a quarter above the reserve", || async {
            let free = free_mib(&cluster).await;
            if free.iter().all(|free| *free >= 320) { Ok(free) } else { Err(free) }
        })
        .await;
        println!("recovered {:?} after the compaction, free {:?} MiB", started.elapsed(), free_mib(&cluster).await);
        let kept: BTreeMap<String, u64> = kept.into_values().collect();
        assert_all_there(&client, &format!("{prefix}/"), &kept).await;
        for i in 0..3 {
            assert!(cluster.process(i).ended().is_none(), "a member died of a full disk");
        }
    }
    // A quarter of the reserve is for others than those who rewrite tables.
    let least = least.load(Ordering::Relaxed);
    println!("least free {least} MiB");
    assert!(least >= 32, "what was to be left to others was used up: {least} MiB");
    cluster.assert_same_digests().await;
}

/// Merging tables takes as much disk as they have before it gives any back: a store that is large beside what is free took
/// the last byte, merged nothing after that, and held back all writes for ever once too many tables lay unmerged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merging_a_large_store_neither_takes_the_reserve_nor_holds_writes_back() {
    let Some(disks) = Tmpfs::mount_many(1, 1100) else { return };
    let mut cluster = on_small_disks(&disks).await;
    let client = cluster.client().await;
    let (mut refused, mut least, mut n) = (0, u64::MAX, 0_u64);
    // It fills in the first half or so; what follows is mostly refused, with some that gets through now and then.
    for round in 0..ROUNDS {
        let puts = (0..32).map(|_| {
            n += 1;
            // In no order, so that each table has keys from everywhere.
            let key = format!("/large/{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64));
            client.put(key, noise(n, VALUE_BYTES)).into_future()
        });
        for put in futures::future::join_all(puts).await {
            if let Err(error) = put {
                assert_eq!(error.reason(), Some(Reason::DiskSpace), "round {round}: {error}");
                refused += 1;
            }
        }
        let free = free_mib(&cluster).await[0];
        least = least.min(free);
        assert!(cluster.process(0).ended().is_none(), "a member died of a full disk");
    }
    println!("{n} puts of {VALUE_BYTES} bytes, {refused} refused, least free {least} MiB");
    assert!(refused > 0, "the disk never was short");
    assert!(least >= 128, "more than half of the reserve was used up: {least} MiB");
    let piled_up = tables(&cluster.places[0].data);
    disks[0].resize(4096);
    puts_succeed(&client).await;
    until("tables to be merged again", || async {
        let now = tables(&cluster.places[0].data);
        if now <= piled_up / 2 { Ok(now) } else { Err(now) }
    })
    .await;
    println!("{piled_up} tables, then {}", tables(&cluster.places[0].data));
}

/// Tables of the state.
fn tables(data: &Path) -> usize {
    let state = std::fs::read_dir(data.join("state")).unwrap().map(|item| item.unwrap().path());
    let files = state.filter(|path| path.is_dir()).flat_map(|epoch| std::fs::read_dir(epoch).unwrap());
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|is| is == "sst")).count()
}

/// Waits until the member has what its leader has now; `false` when it does not answer any more. One that falls far behind
/// is sent a snapshot, which it goes on refusing for lack of space, and lives.
async fn keeps_up(cluster: &Cluster, member: usize, leader: usize) -> bool {
    let wanted = cluster.status(leader).await.expect("the leader answers").last_log_index;
    let status = until("the member to keep up, or to end", || async {
        match cluster.status(member).await {
            Ok(status) if status.last_log_index < wanted => Err(status.last_log_index),
            status => Ok(status),
        }
    });
    status.await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_under_one_member_ends_it_and_the_cluster_goes_on() {
    let Some(disks) = Tmpfs::mount_many(3, 2048) else { return };
    // The reserve is small, so that the disk fails before growth is refused.
    let mut cluster = Cluster::prepare(3, &["--disk-reserve-bytes", "1048576"]).await;
    for (place, disk) in cluster.places.iter_mut().zip(&disks) {
        place.data = disk.data();
    }
    cluster.run_all().await;
    let leader = cluster.wait_for_leader().await;
    let follower = (leader + 1) % 3;
    let client = cluster.client().await;
    let load = Load::start(&client, 2);
    progress(&client, 50).await;

    disks[follower].fill();
    let large = noise(7, 256 << 10);
    let mut n = 0;
    while keeps_up(&cluster, follower, leader).await {
        client.put("/large", large.clone()).await.unwrap();
        n += 1;
        assert!(n < 2_000, "{n} large values were taken by a disk without space");
    }
    let said = cluster.ended(follower).await;
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(said.contains("No space left on device") && said.contains("give the member more disk"), "{said}");

    progress(&client, 100).await;
    let started = Instant::now();
    client.get("/large").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    // It does not start without space, and says what to do.
    cluster.run(follower);
    let said = cluster.ended(follower).await;
    println!("{}", said.lines().last().unwrap_or_default());
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("No space left on device") && last.contains("disk"), "{said}");
    disks[follower].unfill();
    cluster.run(follower);
    cluster.wait_for_leader().await;
    let report = load.finish().await;
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

//! Clusters of real processes: killed, paused, stopped and restarted under load, without loss of what was acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use futures::StreamExt as _;
use quorate::{ClientBuilder, Reason};
use quorate_tests::cluster::Cluster;
use quorate_tests::load::{Load, progress};
use quorate_tests::wait::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_killed_in_a_loop_lose_no_acknowledged_write_and_apply_none_twice() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 8);
    for _ in 0..4 {
        progress(&client, 50).await;
        let leader = cluster.wait_for_leader().await;
        cluster.kill(leader);
        progress(&client, 50).await;
        cluster.run(leader);
        cluster.wait_for_leader().await;
    }
    let report = load.finish().await;
    println!(
        "{} acknowledged, {} unknown, longest gap of a writer {:?}",
        report.acknowledged.len(),
        report.unknown,
        report.longest_gap
    );
    assert!(report.refused.is_empty(), "refused although a quorum was there: {:?}", report.refused);
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_no_retryable_request() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 8);
    for i in 0..3 {
        progress(&client, 50).await;
        cluster.stop(i);
        progress(&client, 50).await;
        cluster.run(i);
        cluster.wait_for_leader().await;
    }
    let report = load.finish().await;
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    assert_eq!(report.unknown, 0, "a graceful stop leaves no request in doubt");
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_killed_at_once_has_everything_after_its_restart() {
    let mut cluster = Cluster::start(3).await;
    let before = cluster.client().await;
    let load = Load::start(&before, 8);
    progress(&before, 200).await;
    for i in 0..3 {
        cluster.kill(i);
    }
    let report = tokio::time::timeout(Duration::from_secs(90), load.finish()).await.expect("every call has a deadline");
    for i in 0..3 {
        cluster.run(i);
    }
    cluster.wait_for_leader().await;
    report.assert_all_there_once(&cluster.client().await).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_killed_under_load_has_everything_after_its_restart() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 4);
    for _ in 0..2 {
        progress(&client, 100).await;
        cluster.kill(0);
        cluster.run(0);
        cluster.wait_for_leader().await;
    }
    let report = load.finish().await;
    report.assert_all_there_once(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_quorum_says_so_within_the_deadline_and_whether_the_write_may_have_happened() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill(1);
    cluster.kill(2);
    let alone = ClientBuilder::default()
        .endpoints([cluster.endpoints()[0].as_str()])
        .deadline(Duration::from_secs(3))
        .connect()
        .await
        .unwrap();
    let started = std::time::Instant::now();
    let error = alone.put("/a", "1").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(20), "the deadline was 3 s: {:?}", started.elapsed());
    println!("{error}; {:?}, {:?}", error.kind(), error.happened());
    // Whatever it was: once the quorum is back, what the error said must be true.
    let happened = error.happened();
    cluster.run(1);
    cluster.wait_for_leader().await;
    let client = cluster.client().await;
    let there = client.get("/a").await.unwrap().kv.is_some();
    assert!(!(there && happened == quorate::Happened::No), "the error said No, but the write happened");
    assert!(client.get("/a").serializable().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_the_kill_of_its_member_without_gap_or_duplicate() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut watch = client.watch("/load").subtree().start().await.unwrap();
    let load = Load::start(&client, 4);
    let mut seen = std::collections::BTreeSet::new();
    let mut last = quorate::Revision(0);
    let mut killed = false;
    while seen.len() < 400 {
        let events = tokio::time::timeout(Duration::from_mins(1), watch.next()).await.unwrap().unwrap().unwrap();
        for event in &events.events {
            assert!(event.kv.mod_revision > last, "revisions only grow");
            last = event.kv.mod_revision;
            assert!(seen.insert(event.kv.key.clone()), "an event came twice");
        }
        if seen.len() > 100 && !killed {
            killed = true;
            let leader = cluster.wait_for_leader().await;
            cluster.kill(leader);
        }
    }
    let report = load.finish().await;
    // Every acknowledged write up to the last event was seen.
    for kv in client.prefix("/load/").await.unwrap().kvs {
        assert!(kv.mod_revision > last || seen.contains(&kv.key), "the watch missed {}", kv.key_text());
    }
    report.assert_all_there_once(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_is_replaced_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 4);
    progress(&client, 50).await;
    let leader = cluster.wait_for_leader().await;
    cluster.process(leader).pause();
    progress(&client, 50).await;
    cluster.process(leader).resume();
    cluster.wait_for_leader().await;
    let report = load.finish().await;
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_member_causes_no_election() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let leader = cluster.wait_for_leader().await;
    let term = cluster.status(leader).await.unwrap().header.unwrap().raft_term;
    let load = Load::start(&client, 64);
    progress(&client, 3_000).await;
    let report = load.finish().await;
    assert!(report.refused.is_empty() && report.unknown == 0);
    for i in cluster.running() {
        let now = cluster.status(i).await.unwrap().header.unwrap().raft_term;
        assert_eq!(now, term, "member {i} saw an election although nothing failed");
    }
}

/// The leader compacts by age without being asked, and the next leader goes on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_history_is_compacted_without_being_asked_under_each_leader() {
    let mut cluster = Cluster::start_with(3, &["--compact-age-s", "1"]).await;
    let client = cluster.client().await;
    for round in 0..2 {
        let old = client.put("/a", "old").await.unwrap().header.revision;
        let new = client.put("/a", "new").await.unwrap().header.revision;
        assert_eq!(client.get("/a").at(old).await.unwrap().kv.unwrap().value, "old", "not at once");
        until("the old value to be compacted", || async {
            match client.get("/a").at(old).await {
                Err(error) if error.reason() == Some(Reason::Compacted) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(client.get("/a").at(new).await.unwrap().kv.unwrap().value, "new", "what is in force stays readable");
        if round == 0 {
            let leader = cluster.wait_for_leader().await;
            cluster.kill(leader);
            cluster.wait_for_leader().await;
            cluster.run(leader);
        }
    }
    cluster.wait_for_leader().await;
    cluster.assert_same_digests().await;
}

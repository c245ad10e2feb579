//! Members as processes: a leader that is killed is noticed by its end, one that is paused or cut off by timeouts only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use quorate_tests::cluster::Cluster;
use quorate_tests::load::{Load, progress};
use quorate_tests::netns::Network;
use quorate_tests::wait::until;

/// What a member logs when it lets go of its leader by evidence.
const LET_GO: &str = "the leader's process has ended";

/// Leaders that are killed; more of them with `QUORATE_TEST_KILLS`.
fn kills() -> usize {
    std::env::var("QUORATE_TEST_KILLS").map_or(5, |kills| kills.parse().expect("QUORATE_TEST_KILLS is a number"))
}

fn let_go(cluster: &mut Cluster) -> Vec<usize> {
    cluster.running().into_iter().map(|i| cluster.process(i).output().matches(LET_GO).count()).collect()
}

async fn term(cluster: &Cluster, i: usize) -> u64 {
    cluster.status(i).await.unwrap().header.unwrap().raft_term
}

/// Waits until a member of these names another leader than `old`, with the term.
async fn another_leader(cluster: &Cluster, among: &[usize], old: u64) -> u64 {
    until("another leader", || async {
        let status = cluster.status(among[0]).await?;
        let term = status.header.map_or(0, |header| header.raft_term);
        if status.leader_id != 0 && status.leader_id != old { Ok(term) } else { Err(format!("{status:?}")) }
    })
    .await
}

/// Prints what a kill costs the clients; asserts only what does not depend on the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_cost_their_clients_little_and_no_acknowledged_write() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 4);
    let mut moments = Vec::new();
    for _ in 0..kills() {
        progress(&client, 50).await;
        let leader = cluster.wait_for_leader().await;
        let killed = Instant::now();
        cluster.kill(leader);
        progress(&client, 50).await;
        moments.push((killed, Instant::now()));
        cluster.run(leader);
        cluster.wait_for_leader().await;
    }
    let report = load.finish().await;
    let mut gaps: Vec<Duration> = moments.iter().map(|(from, to)| report.longest_gap_within(*from, *to)).collect();
    println!("gaps of a writer over {} kills, in order: {gaps:?}", gaps.len());
    gaps.sort();
    println!("median {:?}, worst {:?}", gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!("{} acknowledged, {} unknown", report.acknowledged.len(), report.unknown);
    assert!(report.refused.is_empty(), "refused although a quorum was there: {:?}", report.refused);
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_leaves_evidence_and_a_paused_one_does_not() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_for_leader().await;
    let id = cluster.status(leader).await.unwrap().leader_id;
    let others: Vec<usize> = cluster.running().into_iter().filter(|i| *i != leader).collect();
    cluster.process(leader).pause();
    another_leader(&cluster, &others, id).await;
    cluster.process(leader).resume();
    cluster.wait_for_leader().await;
    assert_eq!(let_go(&mut cluster), [0; 3], "a paused process has not ended");

    cluster.client().await.put("/a", "1").await.unwrap();
    let leader = cluster.wait_for_leader().await;
    cluster.kill(leader);
    let next = cluster.wait_for_leader().await;
    assert_ne!(next, leader);
    assert!(let_go(&mut cluster).iter().any(|times| *times > 0), "a killed one has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_by_the_network_is_replaced_by_timeouts_only() {
    let Some(network) = Network::new(3) else { return };
    let mut cluster = Cluster::prepare(3, &[]).await;
    cluster.move_into(&network);
    cluster.run_all().await;
    let client = cluster.client().await;
    client.put("/a", "1").await.unwrap();
    for _ in 0..2 {
        let leader = cluster.wait_for_leader().await;
        let (id, before) = (cluster.status(leader).await.unwrap().leader_id, term(&cluster, leader).await);
        let others: Vec<usize> = cluster.running().into_iter().filter(|i| *i != leader).collect();
        network.cut(leader);
        let after = another_leader(&cluster, &others, id).await;
        assert!(after > before);
        client.put("/a", "2").await.unwrap();
        network.mend(leader);
        cluster.wait_for_leader().await;
    }
    assert_eq!(let_go(&mut cluster), [0; 3], "lost packets are no evidence");

    // The same members in the same network do find a real end.
    client.put("/a", "3").await.unwrap();
    let leader = cluster.wait_for_leader().await;
    cluster.kill(leader);
    cluster.wait_for_leader().await;
    assert!(let_go(&mut cluster).iter().any(|times| *times > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_by_the_network_disturbs_nobody() {
    let Some(network) = Network::new(3) else { return };
    let mut cluster = Cluster::prepare(3, &[]).await;
    cluster.move_into(&network);
    cluster.run_all().await;
    let leader = cluster.wait_for_leader().await;
    let before = term(&cluster, leader).await;
    let follower = (leader + 1) % 3;
    let endpoint = cluster.endpoints()[leader].clone();
    let client = quorate::ClientBuilder::default().endpoints([endpoint.as_str()]).connect().await.unwrap();
    network.cut(follower);
    let load = Load::start(&client, 1);
    progress(&client, 1_000).await;
    network.mend(follower);
    cluster.wait_for_leader().await;
    progress(&client, 50).await;
    let report = load.finish().await;
    assert!(report.refused.is_empty() && report.unknown == 0, "{report:?}");
    for i in cluster.running() {
        assert_eq!(term(&cluster, i).await, before, "member {i} saw an election");
    }
    assert_eq!(let_go(&mut cluster), [0; 3]);
}

//! Restarts with many keys: how long until a member answers, and what memory it takes. Numbers are printed, only
//! correctness is asserted. `QUORATE_TEST_KEYS` sets how many keys.

use std::time::Instant;

use quorate_tests::cluster::Cluster;
use quorate_tests::restart::{answers, fill, memory, restart};

const VALUE_BYTES: usize = 100;

fn keys() -> u64 {
    std::env::var("QUORATE_TEST_KEYS").map_or(50_000, |keys| keys.parse().expect("QUORATE_TEST_KEYS is a number"))
}

async fn story(size: usize) {
    let keys = keys();
    let mut cluster = Cluster::start(size).await;
    fill(&cluster.client().await, keys, VALUE_BYTES).await;
    println!("after the load: {}", memory(&mut cluster));
    if size > 1 {
        cluster.kill(0);
        let started = Instant::now();
        cluster.run(0);
        println!("one of {size} killed: answers after {:?}", answers(&cluster, 0, started).await);
        cluster.wait_for_leader().await;
    }
    for i in 0..size {
        cluster.kill(i);
    }
    restart(&mut cluster, "killed", keys).await;
    for i in 0..size {
        cluster.stop(i);
    }
    restart(&mut cluster, "stopped", keys).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_restarts_with_many_keys() {
    story(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_restarts_with_many_keys() {
    story(3).await;
}

//! Restarts with many keys: how long until a member answers, and what memory it takes. Numbers are printed, only
//! correctness is asserted. `QUORATE_TEST_KEYS` sets how many keys.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use quorate::Client;
use quorate_proto::v1::GetRequest;
use quorate_proto::v1::kv_client::KvClient;
use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;

const VALUE_BYTES: usize = 100;
const OUTSTANDING: usize = 4_096;

fn keys() -> u64 {
    std::env::var("QUORATE_TEST_KEYS").map_or(50_000, |keys| keys.parse().expect("QUORATE_TEST_KEYS is a number"))
}

async fn load(client: &Client, keys: u64) {
    let started = Instant::now();
    let puts = (0..keys).map(|i| {
        let client = client.clone();
        async move { client.put(format!("/many/{}/{i:08}", i / 1_000), vec![b'v'; VALUE_BYTES]).await }
    });
    let mut puts = futures::stream::iter(puts).buffer_unordered(OUTSTANDING);
    while let Some(put) = puts.next().await {
        put.unwrap();
    }
    println!("{keys} keys put in {:?}", started.elapsed());
}

/// Waits until member `i` answers a linearizable get itself; how long since `started`.
async fn answers(cluster: &Cluster, i: usize, started: Instant) -> Duration {
    let endpoint = format!("http://{}", cluster.places[i].client);
    until("a linearizable get", || async {
        let mut kv = KvClient::connect(endpoint.clone()).await.map_err(|error| error.to_string())?;
        let request = GetRequest { key: "/many/0/00000000".into(), ..GetRequest::default() };
        let answer = kv.get(request).await.map_err(|status| status.to_string())?.into_inner();
        if answer.kv.is_some() { Ok(()) } else { Err("the key is not there".to_owned()) }
    })
    .await;
    started.elapsed()
}

fn memory(cluster: &mut Cluster) -> Vec<String> {
    let running = cluster.running();
    running.into_iter().map(|i| format!("{} MiB", cluster.process(i).resident_bytes() >> 20)).collect()
}

/// Starts all members again.
async fn restart(cluster: &mut Cluster, how: &str, keys: u64) {
    let started = Instant::now();
    for i in 0..cluster.places.len() {
        cluster.run(i);
    }
    let mut times = Vec::new();
    for i in 0..cluster.places.len() {
        times.push(answers(cluster, i, started).await);
    }
    println!("all {} {how}: answer after {times:?}, resident {:?}", times.len(), memory(cluster));
    let count = cluster.client().await.prefix("/many/").count().await.unwrap();
    assert_eq!(count, keys, "after members were {how}");
    println!("  resident after the count {:?}", memory(cluster));
}

async fn story(size: usize) {
    let keys = keys();
    let mut cluster = Cluster::start(size).await;
    load(&cluster.client().await, keys).await;
    println!("resident after the load {:?}", memory(&mut cluster));
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

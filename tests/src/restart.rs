//! Many keys, and how long a member takes until it answers again.
//!
//! Invariants:
//! - A member answers when it has answered a linearizable get itself.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use quorate::Client;
use quorate_proto::v1::GetRequest;
use quorate_proto::v1::kv_client::KvClient;

use crate::cluster::Cluster;
use crate::wait::until;

const OUTSTANDING: usize = 4_096;

/// Puts so many keys, a thousand in a directory, with values of so many bytes.
pub async fn fill(client: &Client, keys: u64, value_bytes: usize) {
    let started = Instant::now();
    let puts = (0..keys).map(|i| {
        let client = client.clone();
        async move { client.put(format!("/many/{}/{i:08}", i / 1_000), value(i, value_bytes)).await }
    });
    let mut puts = futures::stream::iter(puts).buffer_unordered(OUTSTANDING);
    while let Some(put) = puts.next().await {
        put.expect("a put is acknowledged");
    }
    println!("{keys} keys put in {:?}", started.elapsed());
}

/// Different for each key, and as compressible as text in hexadecimal is.
fn value(i: u64, bytes: usize) -> Vec<u8> {
    let mut state = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut value = Vec::with_capacity(bytes + 16);
    while value.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(format!("{state:016x}").as_bytes());
    }
    value.truncate(bytes);
    value
}

/// Waits until member `i` answers a linearizable get itself; how long since `started`.
pub async fn answers(cluster: &Cluster, i: usize, started: Instant) -> Duration {
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

/// Starts all members, which are down, and tells how long each takes and what memory.
pub async fn restart(cluster: &mut Cluster, how: &str, keys: u64) {
    let started = Instant::now();
    for i in 0..cluster.places.len() {
        cluster.run(i);
    }
    let waits = (0..cluster.places.len()).map(|i| answers(cluster, i, started));
    let times = futures::future::join_all(waits).await;
    println!("{} {how}: answer after {times:.2?}; {}", times.len(), memory(cluster));
    let count = cluster.client().await.prefix("/many/").count().await.expect("count the keys");
    assert_eq!(count, keys, "after members were {how}");
    println!("  after counting all keys: {}", memory(cluster));
}

/// Resident memory and CPU time of all running members.
pub fn memory(cluster: &mut Cluster) -> String {
    let mut seen = Vec::new();
    for i in cluster.running() {
        let process = cluster.process(i);
        let (now, most) = (process.resident_bytes() >> 20, process.resident_bytes_max() >> 20);
        seen.push(format!("{now}/{most} MiB {:.2?}", process.cpu()));
    }
    format!("resident now/at most, CPU used: {}", seen.join(", "))
}

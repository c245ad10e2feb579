//! Watchers that do not read: what they cost the member, whom they delay, and what they hear when they read again.
//!
//! Invariants:
//! - The member is a process of its own, so that its memory is its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::v1;
use quorate_tests::cluster::Cluster;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const KEY: &str = "/watched";
const CONNECTIONS: usize = 8;
const SLOW: usize = 1_000;
/// 64 MiB in all, four windows full.
const EVENTS: usize = 1_024;
const VALUE_BYTES: usize = 64 << 10;
/// What a watcher that does not read may cost: the buffer of its stream, a message of 64 KiB that is in it and one that
/// waits, and as much again for all that knows of it. Without a bound it would be 64 MiB.
const BYTES_OF_ONE_MAX: u64 = 320 << 10;
/// How many of them read again, of both doors and all connections alike: they are sent 3 GiB. All thousand would be sent
/// sixty.
const READERS: usize = 6 * CONNECTIONS;
/// What it may cost meanwhile, whatever their number: chunks of history, the threads that read it, and the store's own.
const BYTES_OF_CATCHING_UP_MAX: u64 = 512 << 20;
const PATIENCE: Duration = Duration::from_mins(1);

/// A watch of one of the doors, alone in its stream. Its client has said all that it will.
enum Watcher {
    Native(Streaming<v1::WatchResponse>),
    Etcd(Streaming<pb::WatchResponse>),
}

impl Watcher {
    /// Native ones have ids of their own, so that no two of them are sent the same bytes; those of etcd's wire share.
    async fn open(channel: Channel, number: usize) -> Result<Self, tonic::Status> {
        if (number / CONNECTIONS).is_multiple_of(2) {
            let watch_id = 1 + u64::try_from(number).unwrap();
            let create = v1::WatchCreate { watch_id, key: KEY.into(), ..Default::default() };
            let request = v1::WatchRequest { request: Some(v1::watch_request::Request::Create(create)) };
            let requests = stream::iter([request]);
            let mut answers = v1::watch_client::WatchClient::new(channel).watch(requests).await?.into_inner();
            assert!(answers.message().await?.expect("an answer").created);
            Ok(Self::Native(answers))
        } else {
            let create = pb::WatchCreateRequest { key: KEY.into(), ..Default::default() };
            let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            let requests = stream::iter([request]);
            let mut answers = pb::watch_client::WatchClient::new(channel).watch(requests).await?.into_inner();
            assert!(answers.message().await?.expect("an answer").created);
            Ok(Self::Etcd(answers))
        }
    }

    /// Numbers of the next puts.
    async fn next(&mut self) -> Vec<u64> {
        let values: Vec<Bytes> = match self {
            Self::Native(answers) => {
                let answer = answers.message().await.unwrap().expect("the stream goes on");
                answer.events.into_iter().map(|event| event.kv.unwrap().value).collect()
            }
            Self::Etcd(answers) => {
                let answer = answers.message().await.unwrap().expect("the stream goes on");
                answer.events.into_iter().map(|event| event.kv.unwrap().value).collect()
            }
        };
        values.iter().map(|value| u64::from_be_bytes(*value.first_chunk().unwrap())).collect()
    }

    /// Reads until it has heard of all `EVENTS` puts from `first` on.
    async fn hears_of_all(mut self, first: u64) -> Result<(), tokio::time::error::Elapsed> {
        let mut expected = first..first + u64::try_from(EVENTS).unwrap();
        while !expected.is_empty() {
            for number in timeout(PATIENCE, self.next()).await? {
                assert_eq!(Some(number), expected.next(), "each once, in order");
            }
        }
        Ok(())
    }
}

async fn channel(cluster: &Cluster) -> Channel {
    Endpoint::from_shared(cluster.endpoints()[0].clone()).unwrap().connect().await.unwrap()
}

async fn put(channel: &Channel, number: usize) -> Result<(), tonic::Status> {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
    let put = pb::PutRequest { key: KEY.into(), value: value.into(), ..Default::default() };
    pb::kv_client::KvClient::new(channel.clone()).put(put).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_that_do_not_read_cost_little_delay_nobody_and_miss_nothing() {
    // A small cache of blocks: what is read again from history is to be seen apart from it.
    let mut cluster = Cluster::start_with(1, &["--cache-bytes", "16777216"]).await;
    let writer = channel(&cluster).await;
    // As much as comes later, so that what the store and the log keep in memory is there before.
    let filled = stream::iter(0..EVENTS).map(|number| put(&writer, number)).buffer_unordered(16);
    filled.try_collect::<Vec<()>>().await.unwrap();
    let before = cluster.process(0).resident_bytes();

    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(channel(&cluster).await);
    }
    let opened = (0..SLOW).map(|number| Watcher::open(connections[number % CONNECTIONS].clone(), number));
    let slow: Vec<Watcher> = stream::iter(opened).buffered(32).try_collect().await.unwrap();
    let prompt = [0, CONNECTIONS].map(|number| Watcher::open(writer.clone(), number));
    let mut prompt = try_join_all(prompt).await.unwrap();
    let opened = cluster.process(0).resident_bytes();

    let mut longest = Duration::ZERO;
    for number in EVENTS..2 * EVENTS {
        put(&writer, number).await.unwrap();
        let acknowledged = Instant::now();
        for watcher in &mut prompt {
            let heard = timeout(PATIENCE, watcher.next()).await.expect("others are not delayed");
            assert_eq!(heard, [u64::try_from(number).unwrap()]);
        }
        longest = longest.max(acknowledged.elapsed());
    }
    let after = cluster.process(0).resident_bytes_max();
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{} MiB resident, {} with {SLOW} watchers, {} at most while {} went by; a reader waited {longest:?} at most",
        mib(before),
        mib(opened),
        mib(after),
        mib(u64::try_from(EVENTS * VALUE_BYTES).unwrap())
    );
    let bound = u64::try_from(SLOW).unwrap() * BYTES_OF_ONE_MAX;
    assert!(after.saturating_sub(before) < bound, "{} MiB more than before", mib(after - before));

    let mut readers = Vec::new();
    for (number, watcher) in slow.into_iter().enumerate() {
        if number < READERS {
            readers.push(watcher.hears_of_all(u64::try_from(EVENTS).unwrap()));
        }
    }
    try_join_all(readers).await.expect("who reads again hears of everything");
    let all = cluster.process(0).resident_bytes_max();
    println!("{} MiB at most while {READERS} of them read what they had missed", mib(all));
    assert!(all.saturating_sub(before) < BYTES_OF_CATCHING_UP_MAX, "{} MiB more than before", mib(all - before));
}

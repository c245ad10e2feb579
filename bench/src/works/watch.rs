//! The watch work: one writer, a thousand streams that watch its key.
//!
//! An operation is one event delivered to one watcher; what is timed is a whole fan-out, from the put to the last
//! watcher. The next put goes when all have the last one, so no system can gather several events into one message.
//!
//! Invariants:
//! - Every watcher sees every value, in order, or the run fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::failure::{Result, call, wrong};
use crate::keys::{Values, own_key, random};
use crate::load::Window;
use crate::plan::{PATIENCE, WATCHERS};
use crate::stage::Lane;
use crate::wire::Watcher;

/// Watches that are created at a time.
const OPENING: usize = 32;

struct Delivered {
    events: AtomicU64,
    round: Notify,
}

/// Runs one round.
pub async fn run(
    lane: &Lane,
    cluster: &Cluster,
    round: usize,
    warm_up: Duration,
    measured: Duration,
) -> Result<Window> {
    let mut values = Values::new(&mut random(round, 0));
    let key = own_key("watch", 0);
    let opened = stream::iter(0..WATCHERS).map(|i| {
        let (connection, key) = (&lane.connections[i % lane.connections.len()], key.clone());
        async move { connection.watch(key).await }
    });
    let watchers: Vec<Watcher> = opened.buffer_unordered(OPENING).try_collect().await?;
    let delivered = Arc::new(Delivered { events: AtomicU64::new(0), round: Notify::new() });
    let mut watching = JoinSet::new();
    for watcher in watchers {
        watching.spawn(watch(watcher, Arc::clone(&delivered)));
    }
    let writer = write(lane, cluster, &key, &mut values, &delivered, warm_up, measured);
    let first_end = async { watching.join_next().await };
    match select(Box::pin(writer), Box::pin(first_end)).await {
        Either::Left((window, _)) => window,
        Either::Right((Some(ended), _)) => wrong(format!("a watcher ended: {:?}", ended.map_err(call("watching"))?)),
        Either::Right((None, _)) => wrong("there are no watchers"),
    }
}

/// Counts the events of one watcher until it fails.
async fn watch(mut watcher: Watcher, delivered: Arc<Delivered>) -> Result<()> {
    let mut last = 0;
    loop {
        for value in watcher.next().await? {
            let number = value.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
            if number != last + 1 {
                return wrong(format!("a watcher saw value {number} after {last}"));
            }
            last = number;
            let events = delivered.events.fetch_add(1, Ordering::AcqRel) + 1;
            if events.is_multiple_of(WATCHERS as u64) {
                delivered.round.notify_one();
            }
        }
    }
}

async fn write(
    lane: &Lane,
    cluster: &Cluster,
    key: &Bytes,
    values: &mut Values,
    delivered: &Delivered,
    warm_up: Duration,
    measured: Duration,
) -> Result<Window> {
    let mut turn = 0;
    let mut fan_out = async || {
        let connection = &lane.connections[turn % lane.connections.len()];
        turn += 1;
        let begun = Instant::now();
        connection.put(key.clone(), values.fresh(), 0).await?;
        let all = timeout(PATIENCE, delivered.round.notified()).await;
        if all.is_err() {
            return wrong("an event has not reached all watchers");
        }
        Ok(begun.elapsed())
    };
    let begun = Instant::now();
    while begun.elapsed() < warm_up {
        fan_out().await?;
    }
    let mut window = Window::default();
    let (cpu, begun) = (cluster.cpu()?, Instant::now());
    while begun.elapsed() < measured {
        window.latencies.push(fan_out().await?);
    }
    window.elapsed = begun.elapsed();
    window.cpu = cluster.cpu()?.saturating_sub(cpu);
    window.operations = (window.latencies.len() * WATCHERS) as u64;
    Ok(window)
}

//! The watch works: a thousand streams that watch one key, a service whose one instance changes, or a directory in
//! which several keys change at the same time.
//!
//! An operation is one event delivered to one watcher; what is timed is a whole fan-out, from the puts to the last
//! watcher. The next puts go when all have the last ones: of one key or instance no system can gather several events
//! into one message, of a directory it can.
//!
//! Invariants:
//! - Every watcher sees every value, each key's in order, or the run fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select, try_join_all};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::failure::{Result, call, wrong};
use crate::keys::{Values, own_key, random};
use crate::load::Window;
use crate::plan::{PATIENCE, WATCHED_KEYS, WATCHERS};
use crate::stage::Lane;
use crate::wire::Watcher;
use crate::works::discovery;

/// Watches that are created at a time.
const OPENING: usize = 32;

/// The service with one instance.
const SERVICE: &str = "bench-watched";

/// The value before the first that counts.
const BEGINNING: u64 = u16::MAX as u64;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A key.
    Key,
    /// A service.
    Service,
    /// Several keys of a directory.
    Directory,
}

impl What {
    /// Keys that change at the same time, each once in a fan-out.
    fn keys(self) -> usize {
        match self {
            Self::Key | Self::Service => 1,
            Self::Directory => WATCHED_KEYS,
        }
    }
}

/// What the writer writes.
struct Source {
    what: What,
    values: Values,
    count: u64,
}

impl Source {
    fn key(&self, number: usize) -> Bytes {
        match self.what {
            What::Key => own_key("watch", 0),
            What::Service => discovery::key(SERVICE, "one"),
            What::Directory => own_key("watch-many", number),
        }
    }

    fn value(&mut self) -> Bytes {
        self.count += 1;
        match self.what {
            What::Key | What::Directory => self.values.fresh(),
            What::Service => discovery::document(self.count),
        }
    }

    /// The next value of every key. Value `n` is that of key `(n - 1) % keys`.
    fn next(&mut self) -> Vec<(Bytes, Bytes)> {
        (0..self.what.keys()).map(|number| (self.key(number), self.value())).collect()
    }
}

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
    what: What,
) -> Result<Window> {
    let mut source = Source { what, values: Values::new(&mut random(round, 0)), count: 0 };
    if what == What::Service {
        // From the same beginning in every round.
        lane.connections[0].put(source.key(0), discovery::document(BEGINNING), 0).await?;
    }
    let (key, end) = (source.key(0), source.key(WATCHED_KEYS));
    let opened = stream::iter(0..WATCHERS).map(|i| {
        let connection = &lane.connections[i % lane.connections.len()];
        let (key, end) = (key.clone(), end.clone());
        async move {
            match what {
                What::Key => connection.watch(key, None).await,
                What::Service => connection.watch_service(SERVICE).await,
                What::Directory => connection.watch(key, Some(end)).await,
            }
        }
    });
    let watchers: Vec<Watcher> = opened.buffer_unordered(OPENING).try_collect().await?;
    let delivered = Arc::new(Delivered { events: AtomicU64::new(0), round: Notify::new() });
    let mut watching = JoinSet::new();
    for watcher in watchers {
        watching.spawn(watch(watcher, what.keys() as u64, Arc::clone(&delivered)));
    }
    let writer = write(lane, cluster, &mut source, &delivered, warm_up, measured);
    let first_end = async { watching.join_next().await };
    match select(Box::pin(writer), Box::pin(first_end)).await {
        Either::Left((window, _)) => window,
        Either::Right((Some(ended), _)) => wrong(format!("a watcher ended: {:?}", ended.map_err(call("watching"))?)),
        Either::Right((None, _)) => wrong("there are no watchers"),
    }
}

/// Counts the events of one watcher until it fails.
async fn watch(mut watcher: Watcher, keys: u64, delivered: Arc<Delivered>) -> Result<()> {
    let mut seen = 0;
    let mut awaited: Vec<u64> = (1..=keys).collect();
    loop {
        for number in watcher.next().await? {
            // A member that was a little behind when the watch was created there.
            if seen == 0 && number == BEGINNING {
                continue;
            }
            let Some(awaited) = awaited.iter_mut().find(|awaited| **awaited == number) else {
                return wrong(format!("a watcher saw value {number} while it waited for one of {awaited:?}"));
            };
            *awaited += keys;
            seen += 1;
            let events = delivered.events.fetch_add(1, Ordering::AcqRel) + 1;
            if events.is_multiple_of(keys * WATCHERS as u64) {
                delivered.round.notify_one();
            }
        }
    }
}

async fn write(
    lane: &Lane,
    cluster: &Cluster,
    source: &mut Source,
    delivered: &Delivered,
    warm_up: Duration,
    measured: Duration,
) -> Result<Window> {
    let mut turn = 0;
    let mut fan_out = async || {
        let puts = source.next().into_iter().zip(turn..).map(|((key, value), turn)| {
            let connection = &lane.connections[turn % lane.connections.len()];
            async move { connection.put(key, value, 0).await }
        });
        turn += 1;
        let begun = Instant::now();
        try_join_all(puts).await?;
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
    window.operations = (window.latencies.len() * source.what.keys() * WATCHERS) as u64;
    Ok(window)
}

//! The watch works: one writer, a thousand streams that watch its key, or a service whose one instance it changes.
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
}

/// What the writer writes.
struct Source {
    what: What,
    values: Values,
    count: u64,
}

impl Source {
    fn key(&self) -> Bytes {
        match self.what {
            What::Key => own_key("watch", 0),
            What::Service => discovery::key(SERVICE, "one"),
        }
    }

    fn next(&mut self) -> Bytes {
        self.count += 1;
        match self.what {
            What::Key => self.values.fresh(),
            What::Service => discovery::document(self.count),
        }
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
    let key = source.key();
    if what == What::Service {
        // From the same beginning in every round.
        lane.connections[0].put(key.clone(), discovery::document(BEGINNING), 0).await?;
    }
    let opened = stream::iter(0..WATCHERS).map(|i| {
        let (connection, key) = (&lane.connections[i % lane.connections.len()], key.clone());
        async move {
            match what {
                What::Key => connection.watch(key).await,
                What::Service => connection.watch_service(SERVICE).await,
            }
        }
    });
    let watchers: Vec<Watcher> = opened.buffer_unordered(OPENING).try_collect().await?;
    let delivered = Arc::new(Delivered { events: AtomicU64::new(0), round: Notify::new() });
    let mut watching = JoinSet::new();
    for watcher in watchers {
        watching.spawn(watch(watcher, Arc::clone(&delivered)));
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
async fn watch(mut watcher: Watcher, delivered: Arc<Delivered>) -> Result<()> {
    let mut last = 0;
    loop {
        for number in watcher.next().await? {
            // A member that was a little behind when the watch was created there.
            if last == 0 && number == BEGINNING {
                continue;
            }
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
    source: &mut Source,
    delivered: &Delivered,
    warm_up: Duration,
    measured: Duration,
) -> Result<Window> {
    let mut turn = 0;
    let mut fan_out = async || {
        let connection = &lane.connections[turn % lane.connections.len()];
        turn += 1;
        let begun = Instant::now();
        connection.put(source.key(), source.next(), 0).await?;
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

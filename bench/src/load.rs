//! The load: callers in a closed loop, a warm-up, a measured window, and what the servers used in it.
//!
//! Invariants:
//! - An operation counts when it ends within the window; the window's length and the servers' CPU time are read at the
//!   same two moments.
//! - Each caller has one operation under way and goes over all connections in turn, so every member gets an equal share,
//!   whoever leads.
//! - The first failure of any caller is the failure of the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::failure::{Result, call, wrong};
use crate::plan::PATIENCE;
use crate::stage::Lane;
use crate::wire::Connection;

/// One caller of a work.
pub trait Caller: Send + 'static {
    /// What must be there before the first operation. Not measured.
    fn prepare<'a>(&'a mut self, _connection: &'a Connection) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// One operation.
    fn step<'a>(&'a mut self, connection: &'a Connection) -> BoxFuture<'a, Result<()>>;
}

/// What a window gave.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Operations that ended in it.
    pub operations: u64,
    /// How long it was.
    pub elapsed: Duration,
    /// CPU time of all members in it.
    pub cpu: Duration,
    /// How long each operation took (of a work whose operations are fewer than what is timed: of each that is timed).
    pub latencies: Vec<Duration>,
}

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// Runs the callers for the warm-up and the measured time.
pub async fn run(
    lane: &Lane,
    cluster: &Cluster,
    callers: Vec<Box<dyn Caller>>,
    warm_up: Duration,
    measured: Duration,
) -> Result<Window> {
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut running = JoinSet::new();
    for (i, mut caller) in callers.into_iter().enumerate() {
        answered(caller.prepare(&lane.connections[i % lane.connections.len()])).await?;
        running.spawn(run_caller(caller, lane.clone(), i, Arc::clone(&phase)));
    }
    sleep(warm_up).await;
    let cpu = cluster.cpu()?;
    let begun = Instant::now();
    phase.store(MEASURED, Ordering::Release);
    sleep(measured).await;
    phase.store(OVER, Ordering::Release);
    let elapsed = begun.elapsed();
    let cpu = cluster.cpu()?.saturating_sub(cpu);
    let mut window = Window { elapsed, cpu, ..Window::default() };
    let ended = async {
        while let Some(ended) = running.join_next().await {
            window.latencies.extend(ended.map_err(call("running a caller"))??);
        }
        Ok(())
    };
    answered(ended).await?;
    window.operations = window.latencies.len() as u64;
    if window.operations == 0 {
        return wrong("no operation ended within the window");
    }
    Ok(window)
}

/// What is not answered in good time fails the run.
pub async fn answered<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| wrong("a call was never answered"))
}

async fn run_caller(mut caller: Box<dyn Caller>, lane: Lane, i: usize, phase: Arc<AtomicU8>) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    for turn in i.. {
        let begun = Instant::now();
        caller.step(&lane.connections[turn % lane.connections.len()]).await?;
        match phase.load(Ordering::Acquire) {
            WARM_UP => {}
            MEASURED => latencies.push(begun.elapsed()),
            _ => break,
        }
    }
    Ok(latencies)
}

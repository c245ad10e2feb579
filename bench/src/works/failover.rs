//! The failover work: the longest time without an acknowledged write when the leader is killed with kill -9.
//!
//! Six writers, each with one put under way, go over all connections in turn; one that has no answer after 100 ms, or is
//! refused, goes on with the next, and leaves that connection alone for a while if there are others: else all six would
//! spend their time waiting for the dead member. What is measured is the service's pause: between two acknowledgements
//! to whomever.
//!
//! Invariants:
//! - One leader at a time: before the next is killed, all three members agree again.
//! - What is looked at is a window of some seconds after the kill, or more until writes flow: pauses that have other
//!   causes (a slow sync) neither end it nor keep it from ending, and count only if they are the longest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use std::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::failure::{Result, call, wrong};
use crate::figures::{Figures, Metric, ms};
use crate::keys::{Values, own_key, random};
use crate::plan::{
    FAILOVER_ATTEMPT, FAILOVER_MARGIN, FAILOVER_PAUSE, FAILOVER_SHUNNED, FAILOVER_WINDOW, FAILOVER_WRITERS, LOOK,
    PATIENCE, Plan,
};
use crate::stage::{Lane, Stage};

/// Name of the work.
pub const NAME: &str = "failover";

/// Acknowledgements to all writers together.
struct Flow {
    last: Instant,
    longest: Duration,
    count: usize,
}

impl Flow {
    fn begin(now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO, count: 0 }
    }

    fn acknowledged(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last);
        self.longest = self.longest.max(gap);
        self.last = self.last.max(now);
        self.count += 1;
    }

    /// Whether a window that began at `since` may end: it is long enough, and nobody waits for the end of a pause.
    fn may_end(&self, now: Instant, since: Instant, window: Duration) -> bool {
        let quiet = now.saturating_duration_since(self.last);
        self.count > 0 && now.saturating_duration_since(since) >= window && quiet < FAILOVER_MARGIN
    }
}

struct Shared {
    flow: Mutex<Flow>,
    over: AtomicBool,
}

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Flow) -> T) -> T {
        // A writer that panicked fails the run when it is joined.
        look(&mut self.flow.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Kills one leader of the lane's cluster after the other.
pub async fn run(stage: &mut Stage, lane: &Lane, plan: &Plan, figures: &mut Figures) -> Result<()> {
    for round in 0..plan.kills {
        let cluster = stage.cluster_mut(lane.subject);
        let leader = cluster.agreed().await?;
        let shared = Arc::new(Shared { flow: Mutex::new(Flow::begin(Instant::now())), over: AtomicBool::new(false) });
        let mut writers = JoinSet::new();
        for writer in 0..FAILOVER_WRITERS {
            writers.spawn(write(lane.clone(), round, writer, Arc::clone(&shared)));
        }
        look_on(lane, &shared, FAILOVER_MARGIN).await?;
        shared.with(|flow| (flow.longest, flow.count) = (Duration::ZERO, 0));
        cluster.kill(leader)?;
        let pause = look_on(lane, &shared, FAILOVER_WINDOW).await?;
        shared.over.store(true, Ordering::Release);
        while let Some(ended) = writers.join_next().await {
            ended.map_err(call("running a writer"))?;
        }
        figures.add(NAME, Metric::Pause, lane.subject, ms(pause));
        cluster.run(leader)?;
        cluster.agreed().await?;
        cluster.settled().await?;
    }
    Ok(())
}

/// Looks on for the length of the window, and longer until writes flow again. Gives the longest pause.
async fn look_on(lane: &Lane, shared: &Shared, window: Duration) -> Result<Duration> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        sleep(LOOK).await;
        if let Some(longest) = shared.with(|flow| flow.may_end(Instant::now(), since, window).then_some(flow.longest)) {
            return Ok(longest);
        }
    }
    let (count, quiet) = shared.with(|flow| (flow.count, flow.last.elapsed()));
    let subject = lane.subject;
    wrong(format!("{subject:?}: {count} writes were acknowledged within {PATIENCE:?}, the last {quiet:?} ago"))
}

async fn write(lane: Lane, round: usize, writer: usize, shared: Arc<Shared>) {
    let mut values = Values::new(&mut random(round, writer));
    let key = own_key("failover", writer);
    let mut shunned_until = vec![Instant::now(); lane.connections.len()];
    // Of another length for each: else all would try the dead member again at the same moment, and that be a pause.
    let shunned = FAILOVER_SHUNNED + FAILOVER_ATTEMPT * u32::try_from(writer).unwrap_or_default();
    for turn in writer.. {
        if shared.over.load(Ordering::Acquire) {
            return;
        }
        let at = next(turn, &shunned_until, Instant::now());
        let answer = timeout(FAILOVER_ATTEMPT, lane.connections[at].put(key.clone(), values.fresh(), 0)).await;
        let now = Instant::now();
        shunned_until[at] = if matches!(answer, Ok(Ok(_))) { now } else { now + shunned };
        match answer {
            Ok(Ok(_)) => shared.with(|flow| flow.acknowledged(now)),
            Ok(Err(_)) => sleep(FAILOVER_PAUSE).await,
            Err(_) => {}
        }
    }
}

/// The connection whose turn it is, passing over those that are shunned unless all are.
fn next(turn: usize, shunned_until: &[Instant], now: Instant) -> usize {
    let count = shunned_until.len();
    let in_turn = (0..count).map(|step| (turn + step) % count);
    in_turn.into_iter().find(|at| shunned_until[*at] <= now).unwrap_or(turn % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shunned_connection_is_passed_over_unless_all_are() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert_eq!(next(4, &[now, now, now], now), 1);
        assert_eq!(next(4, &[now, later, now], now), 2);
        assert_eq!(next(5, &[now, later, later], now), 0);
        assert_eq!(next(4, &[later, later, later], now), 1);
    }

    #[test]
    fn a_pause_is_between_acknowledgements_and_a_window_does_not_end_within_one() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let window = Duration::from_secs(2);
        let mut flow = Flow::begin(zero);
        assert!(!flow.may_end(at(2500), zero, window), "nothing was acknowledged yet");
        for ms in [10, 20, 720, 730] {
            flow.acknowledged(at(ms));
        }
        assert_eq!(flow.longest, Duration::from_millis(700));
        assert!(!flow.may_end(at(1000), zero, window), "the window is not over");
        assert!(!flow.may_end(at(2500), zero, window), "the pause since 0.73 s may go on");
        flow.acknowledged(at(2600));
        assert!(flow.may_end(at(2610), zero, window));
        assert_eq!(flow.longest, Duration::from_millis(1870));
    }
}

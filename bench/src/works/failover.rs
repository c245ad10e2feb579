//! The failover work: the longest time without an acknowledged write when the leader is killed with kill -9.
//!
//! Six writers, each with one put under way, go over all connections in turn; one that has no answer after 100 ms, or is
//! refused, goes on with the next, and leaves that connection alone for a while if there are others: else all six would
//! spend their time waiting for the dead member. What is measured is the service's pause: between two acknowledgements
//! to whomever.
//!
//! Invariants:
//! - One leader at a time: before the next is killed, all three members agree again.
//! - The pause has ended when writes have flowed for a second without another.

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
    FAILOVER_ATTEMPT, FAILOVER_MARGIN, FAILOVER_PAUSE, FAILOVER_SHUNNED, FAILOVER_WRITERS, LOOK, PATIENCE, Plan,
};
use crate::stage::{Lane, Stage};

/// Name of the work.
pub const NAME: &str = "failover";
/// A time without writes that is shorter than this is no pause.
const FLOWING: Duration = Duration::from_millis(50);

/// Acknowledgements to all writers together.
struct Flow {
    last: Instant,
    longest: Duration,
    /// When the last pause ended.
    flowing_since: Instant,
}

impl Flow {
    fn begin(now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO, flowing_since: now }
    }

    fn acknowledged(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last);
        self.longest = self.longest.max(gap);
        if gap >= FLOWING {
            self.flowing_since = now;
        }
        self.last = self.last.max(now);
    }

    fn has_flowed(&self, now: Instant, since: Instant) -> bool {
        let quiet = now.saturating_duration_since(self.last);
        let flowed = now.saturating_duration_since(self.flowing_since.max(since));
        quiet < FLOWING && flowed >= FAILOVER_MARGIN
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
        flowing(&shared, Instant::now()).await?;
        shared.with(|flow| flow.longest = Duration::ZERO);
        let killed = Instant::now();
        cluster.kill(leader)?;
        flowing(&shared, killed).await?;
        let pause = shared.with(|flow| flow.longest);
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

/// Waits until writes have flowed for a while since `since`.
async fn flowing(shared: &Shared, since: Instant) -> Result<()> {
    while since.elapsed() < PATIENCE {
        if shared.with(|flow| flow.has_flowed(Instant::now(), since)) {
            return Ok(());
        }
        sleep(LOOK).await;
    }
    wrong(format!("writes have not flowed within {PATIENCE:?}"))
}

async fn write(lane: Lane, round: usize, writer: usize, shared: Arc<Shared>) {
    let mut values = Values::new(&mut random(round, writer));
    let key = own_key("failover", writer);
    let mut shunned_until = vec![Instant::now(); lane.connections.len()];
    for turn in writer.. {
        if shared.over.load(Ordering::Acquire) {
            return;
        }
        let at = next(turn, &shunned_until, Instant::now());
        let answer = timeout(FAILOVER_ATTEMPT, lane.connections[at].put(key.clone(), values.fresh(), 0)).await;
        let now = Instant::now();
        shunned_until[at] = if matches!(answer, Ok(Ok(_))) { now } else { now + FAILOVER_SHUNNED };
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
    fn a_pause_is_between_acknowledgements_and_ends_when_writes_flow() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut flow = Flow::begin(zero);
        for ms in [10, 20, 720, 730] {
            flow.acknowledged(at(ms));
        }
        assert_eq!(flow.longest, Duration::from_millis(700));
        assert!(!flow.has_flowed(at(740), zero), "the pause has just ended");
        for ms in (740..=1_730).step_by(10) {
            flow.acknowledged(at(ms));
        }
        assert!(flow.has_flowed(at(1_735), zero));
        assert!(!flow.has_flowed(at(1_735), at(1_000)), "not for long enough since then");
        assert!(!flow.has_flowed(at(1_800), zero), "nothing has come for a while");
    }
}

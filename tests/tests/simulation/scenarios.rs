//! Scenarios: what goes wrong, and when, is written down instead of thrown. Members, network, disks, clients, recorder
//! and checks are those of every other run; only the delays of the network and of the disks follow from the seed.
//!
//! Invariants:
//! - A scenario judges nothing: what clients were told goes to the checkers.
//! - A step waits until the cluster is as the next one needs it. Time passes by the clock only where time is what the
//!   scenario is about.
//! - One that does not come to its end is wrong, and has found nothing.

mod contender;
mod deposed;
mod discarded;
mod edge;
mod late;
mod noted;
mod overtaken;
mod unconfirmed;
mod unheard;

use std::time::Duration;

use quorate_server::consensus::Leadership;
use quorate_server::consensus::types::LogId;
use tokio::time::{Instant, sleep};

use crate::faults::leader;
use crate::holders::Holder;
use crate::trace::Keep;
use crate::world::{Bug, Plan, Report, Setting, Watching, World, run_as};

/// What begins the complaint of a scenario that does not come to its end.
pub const ASTRAY: &str = "the scenario has gone astray";

/// For one step.
const STEP_MAX: Duration = Duration::from_mins(1);
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(1);
/// The same of a client.
const LOOK_BY_CLIENT: Duration = Duration::from_millis(100);

/// One scenario each; the files tell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Unheard,
    Discarded,
    Overtaken,
    Deposed,
    Noted,
    Late,
    Unconfirmed,
    Edge,
}

impl Scenario {
    /// Of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| format!("{scenario:?}").eq_ignore_ascii_case(name))
    }

    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Unheard,
        Self::Discarded,
        Self::Overtaken,
        Self::Deposed,
        Self::Noted,
        Self::Late,
        Self::Unconfirmed,
        Self::Edge,
    ];

    fn members(self) -> u64 {
        if self == Self::Discarded { 5 } else { 3 }
    }

    fn setting(self) -> Setting {
        let window_bytes = if self == Self::Edge { 1 } else { 1 << 20 };
        Setting { window_bytes, read_ms_max: 0, think_ms: 0 }
    }

    async fn tell(self, world: &mut World) -> Watching {
        let mut watching = Watching::begin();
        match self {
            Self::Unheard => unheard::tell(world).await,
            Self::Discarded => discarded::tell(world).await,
            Self::Overtaken => overtaken::tell(world).await,
            Self::Deposed => deposed::tell(world).await,
            Self::Noted => noted::tell(world).await,
            Self::Late => late::tell(world).await,
            Self::Unconfirmed => unconfirmed::tell(world).await,
            Self::Edge => edge::tell(world, &mut watching).await,
        }
        watching
    }
}

/// Runs one.
pub fn run(scenario: Scenario, seed: u64, keep: Keep, bug: Option<Bug>) -> Report {
    let plan = Plan { seed, members: scenario.members(), time: Duration::ZERO, faults: false, keep, bug };
    run_as(plan, Some(scenario.setting()), async |world| {
        world.settle().await;
        scenario.tell(world).await
    })
}

/// The leader, and the others.
fn roles(world: &World) -> (u64, Vec<u64>) {
    let leader = leader(world).expect("the cluster has settled").origin.id;
    (leader, world.running.keys().copied().filter(|id| *id != leader).collect())
}

/// How far a member's store is.
fn revision(world: &World, id: u64) -> i64 {
    world.running[&id].consensus.applied().borrow().revision
}

fn leads(world: &World, id: u64) -> bool {
    matches!(*world.running[&id].consensus.leadership().borrow(), Leadership::Leading { .. })
}

/// All ways between each of some and each of others.
fn between(some: &[u64], others: &[u64]) -> Vec<(u64, u64)> {
    some.iter().flat_map(|a| others.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

/// Waits until an entry after `last` is safe at one member and at another: that entry.
async fn entry_reaches(world: &World, last: Option<LogId>, one: u64, another: u64) -> Option<LogId> {
    let at = |id: u64| world.machines[&id].platter.last();
    until(world, "another has the entry", || at(one) > last && at(another) == at(one)).await;
    at(one)
}

/// The scenario cannot go on.
fn astray(world: &World, what: &str) {
    world.failures.lock().push(format!("{ASTRAY}: {what}"));
}

/// Looks again and again whether the key of a lease is gone.
async fn until_gone(world: &World, looker: &mut Holder, key: &str, lease: i64) {
    let end = Instant::now() + STEP_MAX;
    while !looker.look(key, lease).await {
        if Instant::now() > end {
            return astray(world, "the lease does not end");
        }
        sleep(LOOK_BY_CLIENT).await;
    }
}

/// Waits until it is so.
async fn until(world: &World, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + STEP_MAX;
    while !is_so() {
        if Instant::now() > end {
            return astray(world, what);
        }
        sleep(LOOK).await;
    }
    world.surroundings.trace.note(format!("scenario: {what}"));
}

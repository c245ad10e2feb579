//! The works: what is measured, each by its name, and the order in which they run.
//!
//! Invariants:
//! - Rounds of a work alternate between etcd and Quorate, forwards and backwards, so that what disturbs the machine
//!   disturbs both.
//! - Restarting, killing and many leases have clusters of their own; all else runs on one pair, so that "after all
//!   works" is after all of those.
//! - An election that the load brought about is counted: none is expected.

mod compaction;
pub mod discovery;
mod failover;
mod lease;
mod lock;
mod point;
mod range;
mod restart;
mod sessions;
mod watch;

use crate::cluster::Places;
use crate::failure::{Result, wrong};
use crate::figures::{Figures, Metric, float, mb};
use crate::load::{self, Caller, Window};
use crate::plan::Plan;
use crate::stage::{Lane, Stage, Subject};
use crate::wire::Service;

/// Names of works that are no closed loop of callers.
pub const WATCH: &str = "watch-1000";
/// See [`WATCH`].
pub const WATCH_SERVICE: &str = "watch-service-1000";
/// See [`WATCH`].
pub const WATCH_DIRECTORY: &str = "watch-directory-1000";
/// See [`WATCH`].
pub const MEMORY: &str = "memory";
/// The row of elections during load; not a work.
pub const ELECTIONS: &str = "elections";
pub use compaction::NAME as COMPACTION;
pub use failover::NAME as FAILOVER;
pub use restart::NAME as RESTART;
pub use sessions::{EXPIRY, KEEP_ALIVES};

/// A work of callers in a closed loop.
struct Steady {
    name: &'static str,
    callers: usize,
    needs: Service,
    caller: fn(usize, usize) -> Box<dyn Caller>,
}

const STEADY: [Steady; 15] = [
    Steady { name: "put-1", callers: 1, needs: Service::Kv, caller: point::put },
    Steady { name: "put-64", callers: 64, needs: Service::Kv, caller: point::put },
    Steady { name: "put-512", callers: 512, needs: Service::Kv, caller: point::put },
    Steady { name: "get-64", callers: 64, needs: Service::Kv, caller: point::get },
    Steady { name: "get-512", callers: 512, needs: Service::Kv, caller: point::get },
    Steady { name: "get-serializable-64", callers: 64, needs: Service::Kv, caller: point::get_serializable },
    Steady { name: "compare-and-put-64", callers: 64, needs: Service::Kv, caller: point::compare_and_put },
    Steady { name: "range-100-64", callers: 64, needs: Service::Kv, caller: range::untouched },
    Steady { name: "range-100-overwritten-64", callers: 64, needs: Service::Kv, caller: range::overwritten },
    Steady { name: "lease-put-64", callers: 64, needs: Service::Lease, caller: lease::lease_put },
    Steady { name: "lock-1", callers: 1, needs: Service::Lock, caller: lock::alone },
    Steady { name: "lock-contended-64", callers: 64, needs: Service::Lock, caller: lock::contended },
    Steady { name: "register-64", callers: 64, needs: Service::Lease, caller: discovery::register },
    Steady { name: "resolve-64", callers: 64, needs: Service::Kv, caller: discovery::resolve },
    Steady { name: "mixed-90-10-64", callers: 64, needs: Service::Kv, caller: point::mixed },
];

/// Names of all works, in the order in which they run.
pub fn names() -> Vec<&'static str> {
    STEADY
        .iter()
        .map(|work| work.name)
        .chain([WATCH, WATCH_DIRECTORY, WATCH_SERVICE, COMPACTION, MEMORY, KEEP_ALIVES, EXPIRY, FAILOVER, RESTART])
        .collect()
}

/// Which works run, and of whom.
pub struct Selection {
    works: Vec<String>,
    subjects: Vec<Subject>,
}

impl Selection {
    /// Those named; all when none is. The same with the subjects.
    pub fn of(named: &[String], subjects: Vec<Subject>) -> Result<Self> {
        let known = names();
        if let Some(unknown) = named.iter().find(|name| !known.contains(&name.as_str())) {
            return wrong(format!("there is no work {unknown:?}; there are {}", known.join(", ")));
        }
        let all = || known.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { works: if named.is_empty() { all() } else { named.to_vec() }, subjects })
    }

    fn has(&self, name: &str) -> bool {
        self.works.iter().any(|one| one == name)
    }

    fn leave(&self, mut stage: Stage) -> Stage {
        if !self.subjects.is_empty() {
            stage.lanes.retain(|lane| self.subjects.contains(&lane.subject));
        }
        stage
    }
}

/// Runs what is selected. Works that are done are in `figures` also when a later one fails; of that, nothing is.
pub async fn run(places: &Places, plan: &Plan, selection: &Selection, figures: &mut Figures) -> Result<()> {
    let own_stage = [KEEP_ALIVES, EXPIRY, FAILOVER, RESTART];
    if selection.works.iter().any(|name| !own_stage.contains(&name.as_str())) {
        let stage = selection.leave(Stage::usual(places, plan.run_in).await?);
        on_one_stage(&stage, plan, selection, figures).await?;
    }
    if selection.has(KEEP_ALIVES) || selection.has(EXPIRY) {
        eprintln!("bench: {KEEP_ALIVES} and {EXPIRY}, {} leases", plan.leases);
        let (stage, mut own) = (selection.leave(Stage::usual(places, plan.run_in).await?), Figures::default());
        sessions::run(&stage, plan, &mut own).await?;
        figures.append(own);
    }
    if selection.has(FAILOVER) {
        eprintln!("bench: {FAILOVER}");
        let (mut stage, mut own) = (selection.leave(Stage::usual(places, plan.run_in).await?), Figures::default());
        for lane in stage.lanes.clone() {
            failover::run(&mut stage, &lane, plan, &mut own).await?;
        }
        figures.append(own);
    }
    if selection.has(RESTART) {
        eprintln!("bench: {RESTART}, {} keys", plan.restart_keys);
        let (mut stage, mut own) =
            (selection.leave(Stage::open(places, plan.restart_keys, 0).await?), Figures::default());
        for subject in stage.lanes.iter().map(|lane| lane.subject).collect::<Vec<_>>() {
            restart::run(&mut stage, subject, plan, &mut own).await?;
        }
        figures.append(own);
    }
    Ok(())
}

async fn on_one_stage(stage: &Stage, plan: &Plan, selection: &Selection, figures: &mut Figures) -> Result<()> {
    let terms = stage.terms().await?;
    for work in STEADY.iter().filter(|work| selection.has(work.name)) {
        rounds(stage, plan, (work.name, work.needs), figures, async |lane, round| {
            let callers = (0..work.callers).map(|caller| (work.caller)(round, caller)).collect();
            load::run(lane, stage.cluster(lane.subject), callers, plan.warm_up, plan.measured).await
        })
        .await?;
    }
    let watches =
        [(WATCH, watch::What::Key), (WATCH_DIRECTORY, watch::What::Directory), (WATCH_SERVICE, watch::What::Service)];
    for (name, what) in watches {
        if selection.has(name) {
            rounds(stage, plan, (name, Service::Watch), figures, async |lane, round| {
                watch::run(lane, stage.cluster(lane.subject), round, plan.warm_up, plan.measured, what).await
            })
            .await?;
        }
    }
    if selection.has(COMPACTION) {
        eprintln!("bench: {COMPACTION}, {} revisions", plan.compacted_revisions);
        let mut own = Figures::default();
        for round in 0..plan.compactions {
            for lane in order(&stage.lanes, round) {
                compaction::run(lane, stage.cluster(lane.subject), round, plan, &mut own).await?;
            }
        }
        figures.append(own);
    }
    let terms_after = stage.terms().await?;
    for lane in &stage.lanes {
        let at = usize::from(lane.subject != Subject::Peer);
        let elections = terms_after[at].saturating_sub(terms[at]);
        figures.add(ELECTIONS, Metric::Elections, lane.subject, float(elections));
        if selection.has(MEMORY) {
            let bytes = stage.cluster(lane.subject).resident_bytes()?;
            figures.add(MEMORY, Metric::Memory, lane.subject, mb(bytes));
        }
    }
    Ok(())
}

/// Runs all rounds of a work over all lanes.
async fn rounds(
    stage: &Stage,
    plan: &Plan,
    (name, needs): (&str, Service),
    figures: &mut Figures,
    run: impl AsyncFn(&Lane, usize) -> Result<Window>,
) -> Result<()> {
    eprintln!("bench: {name}");
    let mut own = Figures::default();
    for round in 0..plan.rounds {
        for lane in order(&stage.lanes, round).into_iter().filter(|lane| lane.services.contains(&needs)) {
            let mut window = run(lane, round).await?;
            own.add_window(name, lane.subject, &mut window);
        }
    }
    figures.append(own);
    Ok(())
}

/// Forwards in even rounds, backwards in odd ones.
fn order(lanes: &[Lane], round: usize) -> Vec<&Lane> {
    let forwards = lanes.iter();
    if round.is_multiple_of(2) { forwards.collect() } else { forwards.rev().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_are_selected_by_name() {
        let some = Selection::of(&["put-64".to_owned(), "restart".to_owned()], Vec::new()).unwrap();
        assert!(some.has("put-64") && some.has(RESTART) && !some.has("get-64"));
        assert!(Selection::of(&[], Vec::new()).unwrap().has(MEMORY));
        let refused = Selection::of(&["put-65".to_owned()], Vec::new()).err().unwrap().to_string();
        assert!(refused.contains("put-65") && refused.contains("put-64"), "{refused}");
    }
}

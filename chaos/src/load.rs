//! All clients of a run, from its start to the end of its history.
//!
//! Invariants:
//! - A run writes below its own prefix only, where nothing stands when it begins.
//! - Nothing of it goes on after [`Load::finish`], and dropping it ends its clients.

use std::time::Duration;

use quorate::Client;
use quorate_checkers::history::{ChangeLog, History, Outcome, Picture};
use quorate_checkers::{Tolerance, Verdict, Violation, verdicts};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::ending::{self, Unfinished};
use crate::etcd::Etcd;
use crate::etcd_watchers::EtcdWatcher;
use crate::holders::Holder;
use crate::native::Native;
use crate::recorder::{Fault, Recorder};
use crate::town::{Plan, Town};
use crate::watchers::Watcher;
use crate::{candidates, etcd_lockers, lockers, observer, onlookers, surveyors};

/// How long clients may take to go home, and watchers to be told everything.
const HOME: Duration = Duration::from_mins(1);

pub use crate::town::Counts as Clients;

/// A run under way.
pub struct Load {
    town: Town,
    client: Client,
    clients: JoinSet<()>,
    watchers: JoinSet<()>,
    over: watch::Sender<bool>,
    goal: watch::Sender<Option<i64>>,
    start: i64,
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// What was recorded.
    pub history: History,
    /// What was done to the cluster.
    pub faults: Vec<Fault>,
    /// Answers that say that something is broken.
    pub broken: Vec<String>,
    /// Native calls that could be repeated, and failed all the same when their time was over.
    pub given_up: Vec<String>,
    /// How exact leases must be: a fault may keep the cluster from ending one.
    pub tolerance: Tolerance,
    /// Why there is no end, though all was healed: a broken promise, too.
    pub endless: Option<Endless>,
}

/// A healed cluster that does not come to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endless {
    /// What is missing.
    pub text: String,
    /// Clients were asking still: what they wrote is not in the history, which so cannot be judged.
    pub is_asked: bool,
}

impl Load {
    /// Starts all clients.
    pub async fn start(plan: Plan, recorder: Recorder, dice: &Dice) -> quorate::Result<Self> {
        let (over, goal) = (watch::Sender::new(false), watch::Sender::new(None));
        let town = Town::new(plan, recorder, over.subscribe());
        // It asks until the cluster answers, also after what was done to it.
        let builder = Client::builder().endpoints(&town.plan.endpoints).deadline(Duration::from_secs(20));
        let client = builder.connect().await?;
        let start = client.get(town.plan.prefix.clone()).await?.header.revision.get();
        town.recorder.with(|history| {
            history.start = Some(Picture { revision: start, keys: Vec::new() });
            history.others = ending::others(&town);
        });
        let (clients, watchers) = (JoinSet::new(), JoinSet::new());
        let mut load = Self { town, client, clients, watchers, over, goal, start };
        load.spawn(dice)?;
        Ok(load)
    }

    fn spawn(&mut self, dice: &Dice) -> quorate::Result<()> {
        let counts = self.town.plan.clients;
        let town = self.town.clone();
        let native = |id: u64| Native::new(id, town.clone(), dice.named(("client", id)));
        let etcd = |id: u64| Etcd::new(id, town.clone(), dice.named(("client", id)));
        let observer = Client::builder().endpoints(&town.plan.endpoints).deadline(observer::PATIENCE).build()?;
        self.clients.spawn(observer::live(town.clone(), observer));
        for id in 1001..=1000 + counts.native {
            self.clients.spawn(native(id)?.live());
        }
        for id in 1101..=1100 + counts.etcd {
            self.clients.spawn(etcd(id).live());
        }
        for id in 1201..=1200 + counts.holders {
            self.clients.spawn(Holder::native(native(id)?).live());
        }
        for id in 1301..=1300 + counts.etcd_holders {
            self.clients.spawn(Holder::etcd(etcd(id)).live());
        }
        for id in 1401..=1400 + counts.lockers {
            self.clients.spawn(lockers::live(native(id)?));
        }
        for id in 1421..=1420 + counts.permits {
            self.clients.spawn(lockers::live_by_permits(native(id)?));
        }
        for id in 1441..=1440 + counts.etcd_lockers {
            self.clients.spawn(etcd_lockers::live(etcd(id)));
        }
        for id in 1461..=1460 + counts.candidates {
            self.clients.spawn(candidates::live(native(id)?));
        }
        for id in 1481..=1480 + counts.onlookers {
            self.clients.spawn(onlookers::observe(native(id)?));
            self.clients.spawn(onlookers::ask(native(id + 10)?));
        }
        self.clients.spawn(surveyors::live(native(1501)?));
        for id in 1601..=1600 + counts.watchers {
            let watcher = Watcher::new(native(id)?, self.start + 1, self.goal.subscribe());
            self.watchers.spawn(watcher.live());
            let watcher = EtcdWatcher::new(etcd(id + 100), self.start + 1, self.goal.subscribe());
            self.watchers.spawn(watcher.live());
        }
        Ok(())
    }

    /// What is recorded.
    pub fn recorder(&self) -> &Recorder {
        &self.town.recorder
    }

    /// How many operations were answered so far.
    pub fn answered(&self) -> usize {
        self.town.recorder.with(|history| {
            let done = |outcome: &Outcome| matches!(outcome, Outcome::Done { .. });
            history.operations.iter().filter(|operation| done(&operation.outcome)).count()
        })
    }

    /// Ends all clients of a cluster that is healed, and reads what is there. What did not come to an end is said in what is
    /// given; an error is that nothing can be said.
    pub async fn finish(mut self) -> Result<Finished, Unfinished> {
        self.over.send_replace(true);
        let (mut log, mut picture) = (None, None);
        let ended = self.end(&mut log, &mut picture).await;
        let endless = match ended {
            Ok(()) => None,
            Err(error @ (Unfinished::Disagree(_) | Unfinished::Hang(_))) => {
                Some(Endless { text: error.to_string(), is_asked: !self.clients.is_empty() })
            }
            Err(error) => return Err(error),
        };
        let recorder = &self.town.recorder;
        let mut history = recorder.history();
        (history.log, history.end) = (log, picture);
        let late = recorder.longest_fault() + Duration::from_millis(Tolerance::default().lease_late_ms);
        Ok(Finished {
            history,
            faults: recorder.faults(),
            broken: recorder.broken(),
            given_up: recorder.given_up(),
            tolerance: Tolerance { lease_late_ms: u64::try_from(late.as_millis()).unwrap_or(u64::MAX) },
            endless,
        })
    }

    async fn end(&mut self, log: &mut Option<ChangeLog>, picture: &mut Option<Picture>) -> Result<(), Unfinished> {
        self.home(true).await?;
        ending::leases_end(&self.town, &self.client).await?;
        ending::agree(&self.town.recorder, &self.client).await?;
        let end = ending::picture(&self.town, &self.client).await?;
        let goal = end.revision;
        *log = Some(ending::log(&self.client, self.start + 1, goal).await?);
        *picture = Some(end);
        self.goal.send_replace(Some(goal));
        self.home(false).await
    }

    async fn home(&mut self, clients: bool) -> Result<(), Unfinished> {
        let recorder = self.town.recorder.clone();
        let tasks = if clients { &mut self.clients } else { &mut self.watchers };
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    recorder.is_broken(format!("a client of the run failed: {error}"));
                }
            }
        };
        if tokio::time::timeout(HOME, all).await.is_ok() {
            return Ok(());
        }
        Err(Unfinished::Hang(tasks.len()))
    }
}

impl Finished {
    /// What each checker says; the last are about answers that no member may give, and about the end.
    pub fn verdicts(&self) -> Vec<(&'static str, Verdict)> {
        let can_be_judged = !self.endless.as_ref().is_some_and(|endless| endless.is_asked);
        let mut all = if can_be_judged { verdicts(&self.history, self.tolerance) } else { Vec::new() };
        let broken = if self.broken.is_empty() {
            Ok(())
        } else {
            Err(Violation::new("no answer says that a member is broken", self.broken.join("\n")))
        };
        all.push(("sound answers", broken));
        let violation = |endless: &Endless| Violation::new("a healed cluster comes to an end", endless.text.as_str());
        all.push(("an end", self.endless.as_ref().map_or(Ok(()), |endless| Err(violation(endless)))));
        all
    }

    /// What was not kept.
    pub fn violations(&self) -> Vec<Violation> {
        self.verdicts().into_iter().filter_map(|(_, verdict)| verdict.err()).collect()
    }
}

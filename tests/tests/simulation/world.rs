//! A world: a cluster, its clients and its weather, from a seed.
//!
//! Invariants:
//! - Everything runs on one thread, under time that passes only when nobody has anything to do.
//! - All chance comes from the seed: see docs/simulation.md for what had to be closed for that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use quorate_proto::Revision;
use quorate_server::chance;
use quorate_server::config::AutoCompaction;
use quorate_server::consensus::Leadership;
use quorate_server::consensus::hot::Caches;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::sync::watch;
use quorate_state::command::{RangeQuery, Span};
use quorate_state::flaw::Flaw;
use quorate_state::store::Store as _;
use quorate_state::view::View;
use quorate_tests::checkers::history::{self, Digest, History, Kv, Learned, Picture};
use quorate_tests::checkers::{self, Tolerance};
use quorate_tests::watchdog::Watchdog;
use rocksdb::Cache;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::candidates::{self, Candidate};
use crate::clients::{Client, Town};
use crate::dice::Dice;
use crate::faults::{Faults, leads};
use crate::holders::Holder;
use crate::lockers::{self, Locker, Wire};
use crate::member::{Machine, Process, Surroundings, member_id, node};
use crate::net::Net;
use crate::recorder::{Recorder, log_of};
use crate::trace::{Keep, Trace};
use crate::watchers::Watcher;
use crate::{historians, onlookers, surveyors};

/// Of real time, for a run that takes seconds: where something spins, simulated time stands still for ever.
const RUN_MAX: Duration = Duration::from_mins(5);

/// So few that what was learned is left out again.
const PICTURE_BYTES: usize = 24 << 10;
/// After all is healed, members agree within this.
const AGREEMENT: Duration = Duration::from_mins(1);

/// After the last renewal every lease is over within this.
const LEASES_END: Duration = Duration::from_secs(15);

/// What a run is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub members: u64,
    /// Simulated time during which clients ask and things go wrong.
    pub time: Duration,
    pub faults: bool,
    /// What becomes of the trace.
    pub keep: Keep,
    /// Bugs that are put in on purpose.
    pub bug: Option<Bug>,
}

/// What members and clients are like.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// See [`Surroundings`].
    pub window_bytes: usize,
    pub read_ms_max: u64,
    /// See [`Town`].
    pub think_ms: u64,
}

impl Setting {
    /// As chance has it.
    fn any(dice: &Dice) -> Self {
        let window_bytes = *dice.of(&[1, 1 << 10, 8 << 10, 1 << 20]);
        let read_ms_max = *dice.of(&[0, 0, 30]);
        Self { window_bytes, read_ms_max, think_ms: *dice.of(&[100, 300, 1_000]) }
    }
}

/// A bug that is put in on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The log says that it is synced, and is not.
    ForgottenSync,
    /// An event of some watches is lost on its way.
    LostEvent,
    /// A write that was not answered is asked for again as if it were another one.
    NoRequestId,
    /// One within the members.
    Inside(Flaw),
}

impl Bug {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let outside = [Self::ForgottenSync, Self::LostEvent, Self::NoRequestId];
        outside.into_iter().chain(Flaw::ALL.map(Self::Inside)).collect()
    }

    #[cfg(debug_assertions)]
    fn flaw(self) -> Option<Flaw> {
        match self {
            Self::Inside(flaw) => Some(flaw),
            Self::ForgottenSync | Self::LostEvent | Self::NoRequestId => None,
        }
    }
}

/// What came of a run.
pub struct Report {
    pub trace: Trace,
    pub history: History,
    /// What was not as it must be.
    pub wrong: Vec<String>,
    pub simulated: Duration,
    /// How often a flaw was come by that was put in.
    pub reached: u64,
}

/// Watchers, and where they are to end.
pub struct Watching {
    goal: watch::Sender<Option<i64>>,
    watchers: JoinSet<()>,
}

impl Watching {
    /// Nobody yet.
    pub fn begin() -> Self {
        Self { goal: watch::Sender::new(None), watchers: JoinSet::new() }
    }

    pub fn add(&mut self, client: Client, etcd: bool) {
        let watcher = Watcher::new(client, self.goal.subscribe());
        self.watchers.spawn(watcher.live(etcd));
    }
}

/// Everything there is.
pub struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub surroundings: Surroundings,
    pub machines: BTreeMap<u64, Machine>,
    pub running: BTreeMap<u64, Process>,
    pub town: Town,
    pub failures: Arc<Mutex<Vec<String>>>,
    /// Members that were removed, and are to stay so.
    pub removed: Vec<u64>,
    /// Members whose failure was asked for.
    pub may_fail: Arc<Mutex<Vec<(u64, u64)>>>,
    _dir: tempfile::TempDir,
}

/// Runs a plan to its end: clients live while things go wrong, by chance.
pub fn run(plan: Plan) -> Report {
    run_as(plan, None, async |world| world.live().await)
}

/// Runs a plan to its end. What happens is told by `life`; the rest, and what is checked, are the same for all.
pub fn run_as(plan: Plan, setting: Option<Setting>, life: impl AsyncFnOnce(&mut World) -> Watching) -> Report {
    let _watchdog = Watchdog::begin(format!("the run of seed {}", plan.seed), RUN_MAX);
    chance::seed_thread(plan.seed);
    #[cfg(debug_assertions)]
    Flaw::put_in(plan.bug.and_then(Bug::flaw));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let report = runtime.block_on(async {
        let began = Instant::now();
        let mut world = World::begin(plan, setting).await;
        let watching = life(&mut world).await;
        world.end(watching, began).await
    });
    runtime.shutdown_background();
    report
}

#[cfg(debug_assertions)]
fn reached() -> u64 {
    Flaw::reached()
}

#[cfg(not(debug_assertions))]
fn reached() -> u64 {
    0
}

/// Memory that looks like a disk where there is such a thing: what a simulation stores is gone in a moment.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::Builder::new().prefix("simulation-").tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}

impl World {
    async fn begin(plan: Plan, setting: Option<Setting>) -> Self {
        let trace = Trace::new(plan.keep);
        let dice = Dice::new(plan.seed);
        let dir = scratch();
        let rules = SnapshotRules {
            every_bytes: 1 << 20,
            every_entries: 200 + dice.below(400) as u64,
            keep_bytes: 1 << 20,
            keep_entries: 20 + dice.below(100) as u64,
            interval: Duration::from_secs(1),
        };
        let setting = setting.unwrap_or_else(|| Setting::any(&dice));
        let surroundings = Surroundings {
            net: Net::new(dice.named("net"), trace.clone()),
            trace: trace.clone(),
            truth: Arc::default(),
            dir: dir.path().to_owned(),
            caches: Caches { blocks: Cache::new_lru_cache(8 << 20), picture_bytes: PICTURE_BYTES },
            rules,
            retention: AutoCompaction { age: None, revisions: None },
            window_bytes: setting.window_bytes,
            read_ms_max: setting.read_ms_max,
        };
        let town = Town {
            net: Arc::clone(&surroundings.net),
            recorder: Recorder::new(trace),
            known: Arc::new(Mutex::new((1..=plan.members).collect())),
            over: Arc::new(AtomicBool::new(false)),
            think_ms: setting.think_ms,
            released: Arc::default(),
            bug: plan.bug,
        };
        let mut world = Self {
            plan,
            dice,
            surroundings,
            machines: BTreeMap::new(),
            running: BTreeMap::new(),
            town,
            failures: Arc::default(),
            removed: Vec::new(),
            may_fail: Arc::default(),
            _dir: dir,
        };
        for id in 1..=plan.members {
            world.add_machine(id);
            world.start(id).await;
        }
        let nodes = (1..=plan.members).map(|id| (member_id(id), node(id))).collect();
        world.running[&1].consensus.initialise(nodes).await.unwrap();
        world
    }

    pub fn add_machine(&mut self, id: u64) {
        let forgets = self.plan.bug == Some(Bug::ForgottenSync);
        let machine = Machine::new(id, &self.surroundings, &self.dice, forgets);
        self.machines.insert(id, machine);
    }

    pub async fn start(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).unwrap();
        let process = machine.start(&self.surroundings).await;
        self.look_after(&process);
        self.running.insert(id, process);
    }

    /// Notes when it fails, which nobody has asked for, and when it leads.
    fn look_after(&self, process: &Process) {
        let (origin, trace) = (process.origin, self.surroundings.trace.clone());
        let (failures, may_fail) = (Arc::clone(&self.failures), Arc::clone(&self.may_fail));
        let (mut failed, net) = (process.tasks.failed(), Arc::clone(&self.surroundings.net));
        tokio::spawn(async move {
            if let Ok(reason) = failed.wait_for(Option::is_some).await.map(|reason| reason.clone().unwrap())
                && net.runs(origin)
            {
                trace.note(format!("{} failed: {reason}", origin.id));
                if !may_fail.lock().contains(&(origin.id, origin.process)) {
                    failures.lock().push(format!("member {} failed: {reason}", origin.id));
                }
            }
        });
        let (mut leadership, recorder) = (process.consensus.leadership(), self.town.recorder.clone());
        let net = Arc::clone(&self.surroundings.net);
        tokio::spawn(async move {
            while leadership.changed().await.is_ok() && net.runs(origin) {
                let now = *leadership.borrow_and_update();
                recorder.trace.note(format!("{} {now:?}", origin.id));
                if matches!(now, Leadership::Leading { .. }) {
                    recorder.leader();
                }
            }
        });
    }

    pub fn crash(&mut self, id: u64) {
        let Some(process) = self.running.remove(&id) else { return };
        let dice = self.dice.named(("crash", id, process.origin.process));
        self.machines.get_mut(&id).unwrap().crash(&process, &self.surroundings, &dice);
    }

    pub async fn stop(&mut self, id: u64) {
        let Some(process) = self.running.remove(&id) else { return };
        self.machines.get_mut(&id).unwrap().stop(process, &self.surroundings).await;
    }

    /// A client with dice of its own.
    pub fn client(&self, id: u64) -> Client {
        Client::new(id, self.town.clone(), self.dice.named(("client", id)))
    }

    /// Clients live while things go wrong, and a little longer. Watchers go on until they are told where to end.
    async fn live(&mut self) -> Watching {
        let mut clients = JoinSet::new();
        let client = |id: u64| self.client(id);
        for id in 1001..=1006 {
            if id % 3 == 0 {
                clients.spawn(client(id).live_etcd());
            } else {
                clients.spawn(client(id).live());
            }
        }
        (1011..=1014).for_each(|id| drop(clients.spawn(Holder::new(client(id)).live())));
        (1031..=1033).for_each(|id| drop(clients.spawn(Locker::new(client(id), Wire::Native).live())));
        clients.spawn(Locker::new(client(1034), Wire::Etcd).live());
        for (id, wire) in [(1051, Wire::Native), (1052, Wire::Native), (1053, Wire::Etcd)] {
            clients.spawn(Candidate::new(client(id), wire).live());
        }
        clients.spawn(onlookers::live(client(1061), Wire::Native));
        clients.spawn(onlookers::live(client(1062), Wire::Etcd));
        clients.spawn(surveyors::live(client(1041)));
        clients.spawn(historians::live(client(1042)));
        let mut watching = Watching::begin();
        (1021..=1023).for_each(|id| watching.add(client(id), id % 3 == 0));
        let until = Instant::now() + self.plan.time;
        if self.plan.faults {
            Faults::new(self.dice.named("faults")).happen(self, until).await;
        } else {
            sleep(self.plan.time).await;
        }
        self.surroundings.trace.note("all is healed");
        // Some more requests, which are to be answered now; and leases that nothing keeps alive any more.
        sleep(Duration::from_secs(*self.dice.of(&[3, 3, 12]))).await;
        self.town.over.store(true, Ordering::Relaxed);
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        watching
    }

    /// Waits until all members have the same, and reads what that is.
    async fn end(mut self, mut watching: Watching, began: Instant) -> Report {
        let mut wrong = Vec::new();
        // What is left of leases ends now.
        sleep(LEASES_END).await;
        if timeout(AGREEMENT, self.agree()).await.is_err() {
            let marks: Vec<_> = self.running.values().map(|process| (process.origin, mark(process))).collect();
            wrong.push(format!("members do not agree in time: {marks:?}"));
        }
        let revision = self.running.values().map(|process| process.consensus.applied().borrow().revision).max();
        watching.goal.send_replace(revision);
        let told = async {
            while let Some(done) = watching.watchers.join_next().await {
                done.unwrap();
            }
        };
        if timeout(AGREEMENT, told).await.is_err() {
            wrong.push(format!("{} watches were not told everything in time", watching.watchers.len()));
        }
        if timeout(AGREEMENT, self.agree()).await.is_ok() {
            self.note_end();
        }
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            self.stop(id).await;
        }
        let history = self.town.recorder.history();
        wrong.extend(self.failures.lock().drain(..));
        wrong.extend(self.surroundings.truth.wrong());
        wrong.extend(self.town.recorder.faults());
        wrong.extend(checkers::check(&history, Tolerance::default()).iter().map(ToString::to_string));
        Report {
            trace: self.surroundings.trace.clone(),
            history,
            wrong,
            simulated: began.elapsed(),
            reached: reached(),
        }
    }

    /// Waits for a leader; who does not belong to its cluster, as it has it, goes.
    pub async fn settle(&mut self) {
        let until = Instant::now() + AGREEMENT;
        let members = loop {
            let leaders = self.running.values().filter(|process| leads(process));
            // Of several, those of older terms do not know yet that they have lost.
            if let Some(leader) = leaders.max_by_key(|process| process.consensus.term())
                && leader.consensus.read_barrier(Instant::now() + Duration::from_secs(1)).await.is_ok()
                && is_one_set(leader)
            {
                break leader.consensus.status().members;
            }
            if Instant::now() > until {
                self.failures.lock().push("no leader within a minute of healing".to_owned());
                return;
            }
            sleep(Duration::from_millis(50)).await;
        };
        let ids: Vec<u64> = members.iter().map(|member| member.id.get()).collect();
        self.surroundings.trace.note(format!("members in the end: {ids:?}"));
        if let Some(id) = ids.iter().find(|id| self.removed.contains(id)) {
            self.failures.lock().push(format!("member {id} was removed, and is a member in the end"));
        }
        let others: Vec<u64> = self.machines.keys().copied().filter(|id| !ids.contains(id)).collect();
        for id in others {
            self.crash(id);
            self.machines.remove(&id);
        }
        *self.town.known.lock() = ids;
    }

    /// Has history compacted by a client that does not wait for it.
    pub fn compact(&self, revision: i64, dice: Dice) {
        let mut client = Client::new(1099, self.town.clone(), dice);
        tokio::spawn(async move { historians::compact(&mut client, revision).await });
    }

    async fn agree(&self) {
        loop {
            let mut marks: Vec<_> = self.running.values().map(mark).collect();
            marks.dedup();
            if marks.len() == 1 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn note_end(&self) {
        let revisions = self.surroundings.truth.revisions();
        for process in self.running.values() {
            let (index, digest) = mark(process);
            let digest = Digest { member: process.origin.id.to_string(), index, digest, healed: true };
            self.town.recorder.with(|history| history.digests.push(digest));
        }
        let Some(process) = self.running.values().next() else { return };
        let store = process.consensus.store();
        let view = View::new(store.snapshot()).unwrap();
        let end = picture(&view);
        for kv in end.keys.iter().filter(|kv| kv.lease != 0 && kv.key.as_slice().starts_with(b"/held/")) {
            let moment = self.surroundings.trace.moment();
            self.town.recorder.lease(kv.lease, moment, Learned::Seen);
        }
        self.town.recorder.with(|told| {
            told.start = Some(Picture { revision: 1, keys: Vec::new() });
            told.others =
                [lockers::DIRECTORY, candidates::DIRECTORY].map(|of| history::Span::Subtree(of.into())).into();
            told.log = Some(log_of(&revisions, end.revision));
            told.end = Some(end);
        });
    }
}

/// Whether no change of membership is under way.
fn is_one_set(process: &Process) -> bool {
    let metrics = process.consensus.raft().metrics();
    let now = metrics.borrow_watched();
    now.membership_config.membership().get_joint_config().len() == 1
}

/// How far a member is, and the digest of what it has.
fn mark(process: &Process) -> (u64, u64) {
    let store = process.consensus.store();
    let mark = View::new(store.snapshot()).unwrap().digest();
    (mark.index, mark.digest)
}

fn picture<R: quorate_state::store::Read>(view: &View<R>) -> Picture {
    let query = RangeQuery::all(Span::Range { start: Bytes::new(), end: None });
    let found = view.range(&query).unwrap();
    assert!(!found.more);
    let keys = found.kvs.into_iter().map(|kv| Kv {
        key: kv.key.as_bytes().to_vec().into(),
        value: kv.value.to_vec().into(),
        create_revision: kv.meta.create_revision.get(),
        mod_revision: kv.meta.mod_revision.get(),
        version: kv.meta.version,
        lease: kv.meta.lease.map_or(0, quorate_proto::LeaseId::get),
    });
    let Revision(revision) = view.revision();
    Picture { revision, keys: keys.collect() }
}

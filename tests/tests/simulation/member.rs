//! A member of a simulated cluster: the real rooms and doors on the one runtime, over a simulated disk and network.
//!
//! Invariants:
//! - The graph of a member is the real one: `Consensus::start`, the leader's jobs, the hub, the doors. Only what is
//!   passed in differs: the log's disk, the network, the time that blocking work takes, the wall clock.
//! - A crash leaves the log as its disk has it, and the state as of its last flush.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quorate_proto::{MemberId, Revision};
use quorate_server::api::{self, Identity, Rooms};
use quorate_server::config::{AutoCompaction, Limits, Timing};
use quorate_server::consensus::backlog::Backlog;
use quorate_server::consensus::disk_watch::DiskSpace;
use quorate_server::consensus::hot::Caches;
use quorate_server::consensus::snapshotter::SnapshotRules;
use quorate_server::consensus::types::Node;
use quorate_server::consensus::{ApplySink, Consensus, Params};
use quorate_server::leader::{LeaderJobs, Lessor};
use quorate_server::recipes::Cost;
use quorate_server::recipes::discovery::{Discovery, Networks};
use quorate_server::tasks::{Simulated, Tasks, Work};
use quorate_server::watch::{Hub, Listeners};
use quorate_state::outcome::{Changes, LeaseChange};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use crate::dice::Dice;
use crate::disk::Platter;
use crate::net::{End, Links, Net, Origin, SimPeers};
use crate::trace::Trace;
use crate::truth::Truth;

/// Where all clocks begin: some day in 2026.
const EPOCH_MS: i64 = 1_780_000_000_000;

/// Remaining times are noted of leases that live so long, and longer.
const NOTE_TTL_MIN: Duration = Duration::from_secs(5);

/// What stays of a member when its process ends, and what its surroundings are like.
pub struct Machine {
    pub id: u64,
    pub platter: Platter,
    pub conditions: Arc<Conditions>,
    path: PathBuf,
    processes: u64,
}

/// How fast a machine is, and what its clock says. Changes while its process runs.
pub struct Conditions {
    dice: Dice,
    began: Instant,
    /// What reading a page takes on a good day, at least and at most, before it is read and once more after.
    pub read_ms: (AtomicU64, AtomicU64),
    /// How often that was asked for.
    pub reads: AtomicU64,
    /// Work takes so many times as long as on a good day.
    pub slowness: AtomicU64,
    /// The wall clock is so much ahead.
    pub skew_ms: AtomicI64,
}

/// A process of a member.
#[derive(Clone)]
pub struct Process {
    pub origin: Origin,
    pub consensus: Arc<Consensus>,
    pub tasks: Tasks,
    rooms: Arc<Rooms>,
}

impl Process {
    /// What was done here for those who wait in lines.
    pub fn line(&self) -> Cost {
        self.rooms.lines.cost()
    }
}

/// What all members share.
pub struct Surroundings {
    pub net: Arc<Net>,
    pub trace: Trace,
    pub truth: Arc<Truth>,
    pub dir: PathBuf,
    pub caches: Caches,
    pub rules: SnapshotRules,
    pub retention: AutoCompaction,
    /// What watches find in memory: so little that they often fall behind.
    pub window_bytes: usize,
    /// A page of the store takes so long on a good day.
    pub read_ms_max: u64,
}

impl Simulated for Conditions {
    fn takes(&self, work: Work) -> Duration {
        let slowness = self.slowness.load(Ordering::Relaxed);
        if matches!(work, Work::Read) {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        let read_ms = (self.read_ms.0.load(Ordering::Relaxed), self.read_ms.1.load(Ordering::Relaxed));
        let (low, high) = match work {
            Work::LogWrite | Work::LogWritten => (0, 1),
            Work::Read if read_ms.1 > 0 => read_ms,
            Work::Apply | Work::Read | Work::LogRead => (0, u64::from(self.dice.happens(100))),
            Work::Snapshot | Work::Purge => (0, 20),
            Work::Look => (0, 0),
        };
        self.dice.between_ms(low * slowness, high * slowness)
    }

    fn wall_ms(&self) -> i64 {
        let since = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        EPOCH_MS + since + self.skew_ms.load(Ordering::Relaxed)
    }
}

/// Notes what is applied before it is passed on.
struct Tap {
    id: u64,
    truth: Arc<Truth>,
    then: Listeners,
}

impl ApplySink for Tap {
    fn applied(&self, changes: Changes, leases: &[LeaseChange]) {
        self.truth.applied(self.id, &changes);
        self.then.applied(changes, leases);
    }

    fn installed(&self, revision: Revision, compact_revision: Revision) {
        self.then.installed(revision, compact_revision);
    }
}

pub fn member_id(id: u64) -> MemberId {
    MemberId::new(id).unwrap()
}

pub fn node(id: u64) -> Node {
    Node { name: format!("m{id}"), peer_address: format!("m{id}:1"), client_address: format!("m{id}:2") }
}

impl Machine {
    pub fn new(id: u64, surroundings: &Surroundings, dice: &Dice, forgets: bool) -> Self {
        let conditions = Conditions {
            dice: dice.named(("machine", id)),
            began: Instant::now(),
            read_ms: (AtomicU64::new(0), AtomicU64::new(surroundings.read_ms_max)),
            reads: AtomicU64::new(0),
            slowness: AtomicU64::new(1),
            skew_ms: AtomicI64::new(0),
        };
        let path = surroundings.dir.join(format!("{id}-0"));
        Self { id, platter: Platter::new(forgets), conditions: Arc::new(conditions), path, processes: 0 }
    }

    /// Starts a process on what the machine's disk has.
    pub async fn start(&mut self, surroundings: &Surroundings) -> Process {
        self.processes += 1;
        let origin = Origin { id: self.id, process: self.processes };
        let tasks = Tasks::simulated(Arc::clone(&self.conditions) as _);
        let hub = Arc::new(Hub::new(surroundings.window_bytes));
        let lessor = Arc::new(Lessor::noting_from(NOTE_TTL_MIN));
        let then = Listeners::new(Arc::clone(&hub), Arc::clone(&lessor) as _);
        let sink = Tap { id: self.id, truth: Arc::clone(&surroundings.truth), then };
        std::fs::create_dir_all(&self.path).unwrap();
        let net = &surroundings.net;
        let timing = Timing::default();
        let consensus = Consensus::start(Params {
            id: member_id(self.id),
            state: self.path.join("state"),
            snapshots: self.path.join("snapshots"),
            log: Arc::new(self.platter.open()),
            caches: surroundings.caches.clone(),
            tasks: tasks.clone(),
            runtime: Handle::current(),
            sink: Arc::new(sink),
            backlog: Backlog::default(),
            network: Links { net: Arc::clone(net), from: origin },
            peers: Arc::new(SimPeers { net: Arc::clone(net), from: origin }),
            disk: Arc::new(DiskSpace::pretended(1 << 20)),
            timing,
            snapshot_rules: surroundings.rules,
        })
        .await
        .unwrap();
        net.listen(self.id, End { process: origin.process, consensus: consensus.clone(), routes: None });
        let consensus = Arc::new(consensus);
        hub.begin(Revision(consensus.applied().borrow().revision));
        let jobs = LeaderJobs { consensus: Arc::clone(&consensus), lessor, retention: surroundings.retention };
        jobs.start(&tasks, &Handle::current());
        api::watch_contact(Arc::clone(&consensus), Arc::clone(&hub), timing.election_max, &tasks, &Handle::current());
        let identity = Identity { cluster_id: 0xc1, member_id: member_id(self.id) };
        let rooms =
            Rooms::new(Arc::clone(&consensus), hub, identity, Limits::default(), timing.election_max, tasks.clone());
        let rooms = Arc::new(rooms);
        consensus.run();
        surroundings.trace.note(format!("{} started, process {}", self.id, origin.process));
        Self::open_doors(origin, &consensus, &rooms, surroundings);
        Process { origin, consensus, tasks, rooms }
    }

    /// Lets clients in once what was committed before is applied again, as the real start does.
    fn open_doors(origin: Origin, consensus: &Arc<Consensus>, rooms: &Arc<Rooms>, surroundings: &Surroundings) {
        let (consensus, rooms) = (Arc::clone(consensus), Arc::clone(rooms));
        let (net, trace) = (Arc::clone(&surroundings.net), surroundings.trace.clone());
        tokio::spawn(async move {
            if consensus.recovered(Instant::now() + Duration::from_mins(10)).await.is_ok() && net.runs(origin) {
                let discovery = Discovery::start(&rooms, Networks::default()).unwrap();
                let routes = api::native::routes(&rooms, &discovery);
                trace.note(format!("{} serves", origin.id));
                let process = origin.process;
                net.listen(origin.id, End { process, consensus: (*consensus).clone(), routes: Some(routes) });
            }
        });
    }

    /// The machine loses its power: what was not synced is gone. The process knows nothing of it, and reaches nobody
    /// any more.
    pub fn crash(&mut self, process: &Process, surroundings: &Surroundings, dice: &Dice) {
        surroundings.net.hang_up(self.id);
        let (kept, unsynced) = self.platter.crash(dice);
        surroundings.trace.note(format!("{} crashes; of {unsynced} writes that were not synced {kept} stay", self.id));
        let old = self.leave_files(surroundings);
        let process = process.clone();
        tokio::spawn(async move {
            process.tasks.stop();
            // It may have ended with an error already.
            let _ = process.consensus.raft().shutdown().await;
            let tasks = process.tasks.clone();
            drop(process);
            tasks.ended().await;
            let _ = std::fs::remove_dir_all(old);
        });
    }

    /// The next process gets a copy of the files: requests and streams of the old one may still have them open.
    fn leave_files(&mut self, surroundings: &Surroundings) -> PathBuf {
        let new = surroundings.dir.join(format!("{}-{}", self.id, self.processes));
        copy_as_of_one_moment(&self.path, &new);
        std::mem::replace(&mut self.path, new)
    }

    /// The process ends in good order.
    pub async fn stop(&mut self, process: Process, surroundings: &Surroundings) {
        surroundings.trace.note(format!("{} is asked to stop", self.id));
        process.rooms.close();
        process.consensus.stop().await;
        surroundings.net.hang_up(self.id);
        let tasks = process.tasks.clone();
        drop(process);
        tasks.stop();
        timeout(Duration::from_mins(1), tasks.ended()).await.expect("all tasks of a member that stops end");
        self.platter.close();
        drop(self.leave_files(surroundings));
        surroundings.trace.note(format!("{} has stopped", self.id));
    }
}

/// Copies a directory that is in use as a crash would leave it. Background work of the database may be under way in
/// threads; a copy during which a file changed is made again.
fn copy_as_of_one_moment(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        let copied = before.is_some() && copy_dir(from, to).is_ok();
        if copied && before == listing(from) {
            return;
        }
        let _ = std::fs::remove_dir_all(to);
        std::thread::yield_now();
    }
}

/// What is in a directory, each file with what changes when it is written to. None if it changed while it was read.
fn listing(dir: &Path) -> Option<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for item in std::fs::read_dir(dir).ok()? {
        let path = item.ok()?.path();
        let meta = std::fs::symlink_metadata(&path).ok()?;
        if meta.is_dir() {
            found.extend(listing(&path)?);
        }
        found.insert(path, (meta.len(), meta.modified().ok()?));
    }
    Some(found)
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_dir(&item.path(), &target)?;
        } else if item.file_name() != "LOCK" {
            std::fs::copy(item.path(), &target)?;
        }
    }
    Ok(())
}

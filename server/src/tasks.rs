//! All long-lived tasks and threads of a member, in one table. Only this file spawns them.
//!
//! Invariants:
//! - Every task has a name, an owner, and a rule for what its end means.
//! - A task that ends in error or panic under `EndsMember` stops the member; nothing runs on half-alive.
//! - A simulated member has the same tasks, all on one runtime: what would have a thread is a task there, and what would
//!   block a thread takes simulated time.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;

use crate::scheduling::{Contention, let_the_waker_go_on};
use crate::sync::watch;

/// What it means when a task ends before it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The member cannot go on: it stops serving and the process ends.
    EndsMember,
    /// Logged; whoever needs it starts another.
    Logged,
}

/// The table.
macro_rules! table {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $owner:literal, $on_error:ident;)*) => {
        /// A long-lived task or thread.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Task { $($(#[$doc])* $kind),* }

        impl Task {
            /// Name in logs and of threads; at most 15 bytes, which is what the kernel shows.
            pub const fn name(self) -> &'static str { match self { $(Self::$kind => $name),* } }
            /// Room that owns it.
            pub const fn owner(self) -> &'static str { match self { $(Self::$kind => $owner),* } }
            /// What its unasked end means.
            pub const fn on_error(self) -> OnError { match self { $(Self::$kind => OnError::$on_error),* } }
        }
    };
}

table! {
    /// Appends to the log and syncs: one queue, one writer.
    LogWriter,      "q-log",       "consensus", EndsMember;
    /// Applies committed entries. A thread of its own, so that a long command delays no heartbeat.
    Apply,          "q-apply",     "consensus", EndsMember;
    /// Packs commands into batches at the leader.
    Proposer,       "q-proposer",  "consensus", EndsMember;
    /// Shares read barriers.
    Barrier,        "q-barrier",   "consensus", EndsMember;
    /// Carries forwarded requests to the leader.
    Forwarder,      "q-forward",   "consensus", EndsMember;
    /// Carries those of another runtime than Raft's.
    ForwardLane,    "q-fwd-lane",  "consensus", EndsMember;
    /// Notices that the leader's process has ended.
    LeaderEnd,      "q-leader-end", "consensus", EndsMember;
    /// Answers forwarded requests of one follower.
    ForwardServer,  "q-fwd-serve", "consensus", Logged;
    /// Follows Raft's metrics: leadership, membership, fatal end.
    RaftObserver,   "q-observer",  "consensus", EndsMember;
    /// Asks Raft for snapshots and purges, by bytes of log.
    Snapshotter,    "q-snapshot",  "consensus", EndsMember;
    /// Installs a snapshot that was received.
    SnapshotInstall, "q-install",  "consensus", Logged;
    /// Serves the peer port.
    PeerDoor,       "q-peer",      "consensus", EndsMember;
    /// Makes one change of membership, to its end.
    MembershipChange, "q-members", "consensus", Logged;
    /// Finishes a change of membership that an earlier leader left half-done.
    MembershipWatch, "q-joint", "consensus", EndsMember;
    /// Notices that this member was removed from its cluster.
    Removal,        "q-removal",   "consensus", EndsMember;
    /// Asks for a vote once a member that joined has caught up.
    Join,           "q-join",      "consensus", Logged;
    /// Notices at a restart that all other listed members belong to another cluster.
    Strangers,      "q-strangers", "consensus", EndsMember;
    /// Purges compacted history in small steps, on blocking threads.
    Purger,         "q-purge",     "consensus", EndsMember;
    /// Gets disk back while it is short, on blocking threads.
    Reclaimer,      "q-reclaim",   "consensus", EndsMember;
    /// Watches free disk space.
    DiskWatch,      "q-disk",      "consensus", EndsMember;
    /// Accepts client connections and hands them to the door runtimes.
    Accept,         "q-accept",    "api",       EndsMember;
    /// One current-thread runtime of the doors. A thread.
    Door,           "q-door",      "api",       EndsMember;
    /// One client connection.
    Connection,     "q-conn",      "api",       Logged;
    /// One stream of a client (watch, keep-alive, batch).
    Stream,         "q-stream",    "api",       Logged;
    /// Wakes the calls and watch streams of one door runtime.
    Pump,           "q-pump",      "api",       EndsMember;
    /// Follows the contenders of one lock or election for those who wait here.
    Line,           "q-line",      "recipes",   Logged;
    /// Puts one contender into its line, to a known outcome.
    LinePut,        "q-line-put",  "recipes",   Logged;
    /// Takes one contender out of its line.
    LineLeave,      "q-line-leave", "recipes",  Logged;
    /// Notices when no leader was heard of for too long.
    Contact,        "q-contact",   "watch",     EndsMember;
    /// What discovery does by itself. A thread with a runtime of its own.
    Discovery,      "q-discovery", "recipes",   EndsMember;
    /// Notices that most instances of a service expire at once.
    Protection,     "q-protect",   "recipes",   EndsMember;
    /// Makes health checks, and says that this member does.
    Checker,        "q-checker",   "recipes",   EndsMember;
    /// Answers DNS queries that come in packets.
    DnsUdp,         "q-dns-udp",   "api",       EndsMember;
    /// Accepts DNS connections.
    DnsTcp,         "q-dns-tcp",   "api",       EndsMember;
    /// Answers the queries of one DNS connection.
    DnsConnection,  "q-dns-conn",  "api",       Logged;
    /// Starts and ends the leader's jobs.
    LeaderJobs,     "q-leader",    "leader",    EndsMember;
    /// Expires leases while leading.
    Expiry,         "q-expiry",    "leader",    EndsMember;
    /// Notes remaining times of leases while leading.
    Checkpointer,   "q-checkpt",   "leader",    EndsMember;
    /// Compacts history by age or revisions while leading.
    Compactor,      "q-compact",   "leader",    EndsMember;
    /// Hashes the whole content, slowly. A thread; an error is damage.
    Scrubber,       "q-scrub",     "consensus", EndsMember;
    /// Raises the state version while leading.
    StateVersion,   "q-version",   "consensus", EndsMember;
    /// Compares digests between members.
    DigestCompare,  "q-digest",    "consensus", EndsMember;
}

/// Work that blocks its thread for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// A write to the log, before it is on disk.
    LogWrite,
    /// The time from when it is on disk until that is known.
    LogWritten,
    /// Entries that are not in memory are read from the log.
    LogRead,
    /// Entries are applied, or a snapshot is installed.
    Apply,
    /// A page of the store is read.
    Read,
    /// A snapshot is made.
    Snapshot,
    /// A step of purging, or of getting disk back.
    Purge,
    /// Free disk space is looked at.
    Look,
}

/// What a simulated member has in the place of threads and of the wall clock.
pub trait Simulated: Send + Sync + 'static {
    /// How long this takes, now.
    fn takes(&self, work: Work) -> Duration;
    /// What this member's clock says, in ms since 1970.
    fn wall_ms(&self) -> i64;
}

/// Spawns, counts and ends tasks. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: Arc<watch::Sender<bool>>,
    failed: Arc<watch::Sender<Option<String>>>,
    simulated: Option<Arc<dyn Simulated>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: Arc::new(watch::Sender::new(false)),
            failed: Arc::new(watch::Sender::new(None)),
            simulated: None,
        }
    }
}

impl Tasks {
    /// Those of a member that runs on one runtime, under simulated time.
    pub fn simulated(by: Arc<dyn Simulated>) -> Self {
        Self { simulated: Some(by), ..Self::default() }
    }

    /// Whether everything runs on one runtime.
    pub fn is_simulated(&self) -> bool {
        self.simulated.is_some()
    }

    /// Runs `future` on `runtime` until it ends by itself. A long-lived task listens to [`Tasks::stopped`].
    pub fn spawn<E: std::fmt::Display>(
        &self,
        task: Task,
        runtime: &Handle,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let tasks = self.clone();
        let guard = EndGuard { tasks: self.clone(), task, ended: false };
        runtime.spawn(self.tracker.track_future(async move {
            let mut guard = guard;
            if let Err(error) = future.await {
                tasks.report(task, &error.to_string());
            }
            guard.ended = true;
        }))
    }

    /// Runs `body` on a thread of its own, where it may block; simulated, as a task of `runtime`.
    pub fn spawn_thread<E: std::fmt::Display>(
        &self,
        task: Task,
        runtime: &Handle,
        body: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> std::io::Result<()> {
        if self.is_simulated() {
            self.spawn(task, runtime, body);
            return Ok(());
        }
        let tasks = self.clone();
        let token = self.tracker.token();
        let thread = std::thread::Builder::new().name(task.name().to_owned()).spawn(move || {
            let _token = token;
            let mut guard = EndGuard { tasks: tasks.clone(), task, ended: false };
            if task == Task::LogWriter {
                let_the_waker_go_on();
            }
            if let Err(error) = futures::executor::block_on(body) {
                tasks.report(task, &error.to_string());
            }
            guard.ended = true;
        });
        thread.map(drop)
    }

    /// A runtime on a thread of its own, until the member is asked to stop; simulated, the one on which this is called.
    pub fn own_runtime(&self, task: Task, builder: &mut Builder) -> std::io::Result<Handle> {
        if self.is_simulated() {
            return Ok(Handle::current());
        }
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        let stopping = self.clone();
        self.spawn_thread(task, &handle, async move {
            runtime.block_on(stopping.stopped());
            runtime.shutdown_background();
            Ok::<(), std::io::Error>(())
        })?;
        Ok(handle)
    }

    /// Runs work that blocks where it disturbs nobody. An error says that it panicked, or that the runtime has ended.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: Work,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        if self.is_simulated() {
            // Half of it before, half of it until the caller hears of it: what was read may be old by then.
            self.takes(work).await;
            let done = body();
            self.takes(work).await;
            return Ok(done);
        }
        tokio::task::spawn_blocking(body).await
    }

    /// On a thread, work takes the time that it takes; simulated, as long as it is told to.
    pub async fn takes(&self, work: Work) {
        if let Some(simulated) = &self.simulated {
            let time = simulated.takes(work);
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
        }
    }

    /// How long the thread that asks waits for processors; simulated, there is nothing to wait for.
    pub fn contention(&self) -> Contention {
        if self.is_simulated() { Contention::default() } else { Contention::of_this_thread() }
    }

    /// The wall clock, in ms since 1970.
    pub fn wall_ms(&self) -> i64 {
        if let Some(simulated) = &self.simulated {
            return simulated.wall_ms();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        i64::try_from(now).unwrap_or(i64::MAX)
    }

    /// Completes when the member is asked to stop.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives in `self`, so this cannot fail before it is true.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Whether the member was asked to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Asks all tasks to stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all tasks have ended; call [`Tasks::stop`] first.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// The runtime of consensus, on a thread of its own, until what is returned is dropped.
    pub fn drive(&self, runtime: Runtime, patience: Duration) -> std::io::Result<Driven> {
        let handle = runtime.handle().clone();
        let (end, asked) = tokio::sync::oneshot::channel::<()>();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let tasks = self.clone();
        std::thread::Builder::new().name("q-raft".to_owned()).spawn(move || {
            // Its sender is dropped, never used.
            let _ = runtime.block_on(asked);
            runtime.shutdown_timeout(patience);
            futures::executor::block_on(tasks.ended());
            drop(done);
        })?;
        Ok(Driven { tasks: self.clone(), handle, end: Some(end), ended, patience })
    }

    /// Says why the member must stop; the first reason stands.
    pub fn fail(&self, reason: String) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!(reason, "member failed");
                *failed = Some(reason);
            }
            first
        });
    }

    /// Why the member must stop, once it must.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    fn report(&self, task: Task, error: &str) {
        match task.on_error() {
            OnError::EndsMember => self.fail(format!("{} ({}): {error}", task.name(), task.owner())),
            OnError::Logged => tracing::debug!(task = task.name(), error, "task ended"),
        }
    }
}

/// A runtime that runs on a thread of its own. Dropping it cuts everything off: it stops and ends all tasks of the member,
/// and waits for their end, at most for its patience. It may be dropped on a thread of another runtime.
///
/// Threads that close a database while the process ends would abort it.
pub struct Driven {
    tasks: Tasks,
    handle: Handle,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    ended: std::sync::mpsc::Receiver<()>,
    patience: Duration,
}

impl Driven {
    /// Spawns on it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.tasks.stop();
        drop(self.end.take());
        // An error says that all have ended, or that time is over; there is nothing more to do then.
        let _ = self.ended.recv_timeout(self.patience);
    }
}

/// Notices a panic: the only way to drop it with `ended` false on a live runtime.
struct EndGuard {
    tasks: Tasks,
    task: Task,
    ended: bool,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.ended && std::thread::panicking() {
            self.tasks.report(self.task, "panicked");
        }
    }
}

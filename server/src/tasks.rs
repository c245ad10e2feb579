//! All long-lived tasks and threads of a member, in one table. Only this file spawns them.
//!
//! Invariants:
//! - Every task has a name, an owner, and a rule for what its end means.
//! - A task that ends in error or panic under `EndsMember` stops the member; nothing runs on half-alive.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

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
    /// Applies committed entries. A thread, never on the Raft runtime.
    Apply,          "q-apply",     "consensus", EndsMember;
    /// Packs commands into batches at the leader.
    Proposer,       "q-proposer",  "consensus", EndsMember;
    /// Shares read barriers.
    Barrier,        "q-barrier",   "consensus", EndsMember;
    /// Carries forwarded requests to the leader.
    Forwarder,      "q-forward",   "consensus", EndsMember;
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

/// Spawns, counts and ends tasks. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: Arc<watch::Sender<bool>>,
    failed: Arc<watch::Sender<Option<String>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: Arc::new(watch::Sender::new(false)),
            failed: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Tasks {
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

    /// Runs `body` on a thread of its own.
    pub fn spawn_thread<E: std::fmt::Display>(
        &self,
        task: Task,
        body: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        let tasks = self.clone();
        let token = self.tracker.token();
        std::thread::Builder::new().name(task.name().to_owned()).spawn(move || {
            let _token = token;
            let mut guard = EndGuard { tasks: tasks.clone(), task, ended: false };
            if let Err(error) = body() {
                tasks.report(task, &error.to_string());
            }
            guard.ended = true;
        })
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

    /// Cuts everything off: ends `runtime`, then waits until all tasks and threads have ended, at most so long. For drop:
    /// it may be called on a thread of another runtime, which must not be blocked by a runtime's own end.
    ///
    /// Threads that close a database while the process ends would abort it.
    pub fn cut_off(&self, runtime: Runtime, patience: Duration) {
        self.stop();
        let tasks = self.clone();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let ending = move || {
            runtime.shutdown_timeout(patience);
            futures::executor::block_on(tasks.ended());
            drop(done);
        };
        if std::thread::Builder::new().name("q-end".to_owned()).spawn(ending).is_ok() {
            // An error says that all have ended, or that time is over; there is nothing more to do then.
            let _ = ended.recv_timeout(patience);
        }
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

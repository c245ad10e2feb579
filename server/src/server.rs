//! A member: starts its parts in the order in which they depend on each other, and stops them in the other order.
//!
//! Invariants:
//! - Clients are let in only when this member belongs to a cluster and has applied again what was committed before.
//! - Whatever ends a part that the member cannot do without ends the member; [`Server::failed`] says why.
//! - Stopping hands leadership over first, then answers what was accepted, then closes.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::{ClusterId, MemberId, Revision};
use quorate_state::versions::STATE_VERSION;
use tokio::time::Instant;

use crate::api::{self, Identity, Rooms, dns};
use crate::config::Config;
use crate::consensus::assemble::{Assembled, Assembly};
use crate::consensus::bootstrap::BootstrapError;
use crate::consensus::hot::Caches;
use crate::consensus::links::LocalMember;
use crate::consensus::snapshotter::SnapshotRules;
use crate::consensus::state_dir::with_advice;
use crate::consensus::{Consensus, StartError as ConsensusStartError};
use crate::data_dir::{DataDir, DataDirError};
use crate::error::ConsensusError;
use crate::leader::{LeaderJobs, Lessor};
use crate::recipes::discovery::Discovery;
use crate::serve::{self, Doors};
use crate::tasks::{Driven, Tasks};
use crate::watch::{Hub, Listeners};

/// What was committed before a restart is applied again within this, or the member does not start.
const RECOVERY_PATIENCE: Duration = Duration::from_mins(10);
/// For leadership to be taken over when stopping.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);
/// For what was accepted to be answered when stopping.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// For a failed part to tell its reason.
const REASON_PATIENCE: Duration = Duration::from_secs(1);

/// For everything to end when a member is dropped.
const CUT_OFF_PATIENCE: Duration = Duration::from_secs(5);

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is not this member's, is damaged, or is in use.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}; is another process there, or is it not an address of this machine?")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The store, the log, or openraft.
    #[error(transparent)]
    Consensus(#[from] ConsensusStartError),
    /// It could not come into its cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// What was committed before could not be applied again.
    #[error("recovery did not end: {0}")]
    Recovery(ConsensusError),
    /// A part failed while it waited for the others.
    #[error("{0}")]
    Failed(String),
    /// The operating system refused something.
    #[error("{}", with_advice(&.0.to_string()))]
    Io(#[from] io::Error),
    /// The services could not be put together.
    #[error("the services could not be put together: {0}")]
    Services(String),
}

/// A running member. Stop it with [`Server::stop`]; dropping it cuts everything off.
pub struct Server {
    id: MemberId,
    peer_address: SocketAddr,
    dns_address: Option<SocketAddr>,
    doors: Doors,
    rooms: Arc<Rooms>,
    consensus: Arc<Consensus>,
    core: Core,
    /// Held until the very end: another process may open the directory once it is dropped.
    _data_dir: Arc<DataDir>,
}

/// The tasks and the runtime of consensus; ended when dropped.
struct Core {
    tasks: Tasks,
    runtime: Driven,
}

impl Core {
    fn new() -> io::Result<Self> {
        let tasks = Tasks::default();
        // Of one thread: a scheduler for several costs more for each wake.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime: tasks.drive(runtime, CUT_OFF_PATIENCE)?, tasks })
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.runtime.handle().clone()
    }
}

impl Server {
    /// Starts a member and returns once it serves. An empty one first comes into its cluster, which waits for the
    /// other members as long as it takes; drop the future to give up.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let data_dir = Arc::new(DataDir::open(&config.data_dir, &config.name)?);
        let client_listener = listen(&config.listen)?;
        let dns_sockets = config.dns_listen.as_deref().map(bind_dns).transpose()?;
        let core = Core::new()?;
        let hub = Arc::new(Hub::new(config.watch_window_bytes));
        let lessor = Arc::new(Lessor::default());
        let sink = Arc::new(Listeners::new(Arc::clone(&hub), Arc::clone(&lessor) as _));
        let (assembled, peer_address) = assemble(&config, &data_dir, &core, &client_listener, sink).await?;
        let consensus = Arc::new(assembled.consensus);
        hub.begin(Revision(consensus.applied().borrow().revision));
        let come_in = async {
            assembled.bootstrap.run().await?;
            let recovered = consensus.recovered(Instant::now() + RECOVERY_PATIENCE).await;
            recovered.map_err(StartError::Recovery)
        };
        // A member that fails, or learns that it was removed, while it waits for others must not wait on.
        tokio::select! {
            biased;
            reason = failure(&core.tasks) => return Err(StartError::Failed(reason)),
            done = come_in => if let Err(error) = done {
                return Err(root_of(error, &core.tasks).await);
            }
        }

        let jobs = LeaderJobs { consensus: Arc::clone(&consensus), lessor, retention: config.auto_compaction };
        jobs.start(&core.tasks, &core.handle());
        let rooms = rooms(&config, &core, &consensus, &assembled.local, &hub);
        let discovery = Discovery::start(&rooms, config.check_networks.clone())?;
        let dns_address = serve_dns(dns_sockets, &discovery, &config, &core.tasks)?;
        let routes = api::native::with_reflection(api::native::routes(&rooms, &discovery))
            .map_err(|error| StartError::Services(error.to_string()))?;
        let doors = serve::open(client_listener, &routes, config.door_threads, &core.tasks, &core.handle())?;
        let id = data_dir.identity().member;
        tracing::info!(%id, name = config.name, clients = %doors.address(), peers = %peer_address, "serving");
        Ok(Self { id, peer_address, dns_address, doors, rooms, consensus, core, _data_dir: data_dir })
    }

    /// Its id.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Where clients are served.
    pub fn client_address(&self) -> SocketAddr {
        self.doors.address()
    }

    /// Where members are served.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where names of services are answered, if they are.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns_address
    }

    /// Consensus, for programs that embed a member and want to look inside.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }

    /// Completes when the member cannot go on, with the reason. Stop it then.
    pub async fn failed(&self) -> String {
        failure(&self.core.tasks).await
    }

    /// Stops: leadership is handed over, what was accepted is answered, streams end, everything is closed.
    pub async fn stop(self) {
        if !self.consensus.hand_over(HAND_OVER_PATIENCE).await {
            tracing::info!("no other member has taken over leadership; stopping all the same");
        }
        self.rooms.close();
        self.doors.drain(DRAIN_PATIENCE).await;
        self.consensus.stop().await;
        self.core.tasks.stop();
        self.core.tasks.ended().await;
        tracing::info!(id = %self.id, "stopped");
    }
}

/// Who waited for a part that failed may hear of its end before its reason is told.
async fn root_of(error: StartError, tasks: &Tasks) -> StartError {
    match error {
        StartError::Recovery(_) | StartError::Bootstrap(BootstrapError::Consensus(_)) => {
            let reason = tokio::time::timeout(REASON_PATIENCE, failure(tasks)).await;
            reason.map_or(error, StartError::Failed)
        }
        error => error,
    }
}

/// Completes when a part has failed that the member cannot do without, with the reason.
async fn failure(tasks: &Tasks) -> String {
    let mut failed = tasks.failed();
    match failed.wait_for(Option::is_some).await {
        Ok(reason) => reason.as_deref().map(with_advice).unwrap_or_default(),
        Err(_) => "the member has stopped".to_owned(),
    }
}

/// The parts of consensus, assembled and started.
async fn assemble(
    config: &Config,
    data_dir: &Arc<DataDir>,
    core: &Core,
    clients: &TcpListener,
    sink: Arc<Listeners>,
) -> Result<(Assembled, SocketAddr), StartError> {
    let peers = listen(&config.peer_listen)?;
    let peer_address = peers.local_addr()?;
    let advertised_to_peers = advertised(config.peer_advertise.as_ref(), &peers)?;
    let runtime = core.handle();
    let assembly = Assembly {
        data_dir: Arc::clone(data_dir),
        peer_listener: on_runtime(&runtime, peers)?,
        peer_address: advertised_to_peers,
        client_address: advertised(config.advertise.as_ref(), clients)?,
        start: config.start.clone(),
        timing: config.timing,
        tasks: core.tasks.clone(),
        runtime,
        sink,
        caches: Caches::new(config.cache_bytes),
        disk_reserve_bytes: config.disk_reserve_bytes,
        snapshot_rules: SnapshotRules { every_bytes: config.snapshot_log_bytes, ..SnapshotRules::default() },
        state_version_max: STATE_VERSION,
    };
    Ok((assembly.start().await?, peer_address))
}

fn on_runtime(runtime: &tokio::runtime::Handle, listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    let _entered = runtime.enter();
    tokio::net::TcpListener::from_std(listener)
}

fn rooms(config: &Config, core: &Core, consensus: &Arc<Consensus>, local: &LocalMember, hub: &Arc<Hub>) -> Arc<Rooms> {
    let identity = Identity { cluster_id: local.cluster().map_or(0, ClusterId::get), member_id: local.id() };
    let election_max = config.timing.election_max;
    api::watch_contact(Arc::clone(consensus), Arc::clone(hub), election_max, &core.tasks, &core.handle());
    let tasks = core.tasks.clone();
    Arc::new(Rooms::new(Arc::clone(consensus), Arc::clone(hub), identity, config.limits, election_max, tasks))
}

fn listen(address: &str) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen { address: address.to_owned(), error };
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
    TcpListener::bind(&addresses[..]).map_err(failed)
}

fn bind_dns(address: &str) -> Result<dns::Sockets, StartError> {
    dns::Sockets::bind(address).map_err(|error| StartError::Listen { address: address.to_owned(), error })
}

/// Answers names of services, if that is wanted. Gives where.
fn serve_dns(
    sockets: Option<dns::Sockets>,
    discovery: &Arc<Discovery>,
    config: &Config,
    tasks: &Tasks,
) -> io::Result<Option<SocketAddr>> {
    let Some(sockets) = sockets else { return Ok(None) };
    let address = sockets.address()?;
    sockets.serve(discovery, &config.dns_domain, tasks)?;
    tracing::info!(%address, domain = %config.dns_domain, "answering names of services");
    Ok(Some(address))
}

/// What others are told: what was set, else where the listener is.
fn advertised(set: Option<&String>, listener: &TcpListener) -> io::Result<String> {
    match set {
        Some(address) => Ok(address.clone()),
        None => Ok(listener.local_addr()?.to_string()),
    }
}

//! A cluster of processes.
//!
//! Invariants:
//! - Member `i` keeps its addresses and directory over all its restarts.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use quorate::{Client, ClientBuilder};
use quorate_proto::v1::admin_client::AdminClient;
use quorate_proto::v1::{StatusRequest, StatusResponse};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::address::{at, loopback};
use crate::netns::Network;
use crate::process::Process;
use crate::wait::until;

/// A member's place: addresses and directory, whether it runs or not.
pub struct Place {
    /// Name.
    pub name: String,
    /// Client address.
    pub client: String,
    /// Peer address.
    pub peer: String,
    /// Data directory.
    pub data: PathBuf,
    /// Network namespace, if not this process's own.
    pub namespace: Option<String>,
}

/// Members, running or not.
pub struct Cluster {
    /// Their places, by index.
    pub places: Vec<Place>,
    /// Their processes, by index; `None` while one does not run.
    pub processes: Vec<Option<Process>>,
    extra: Vec<String>,
    dir: TempDir,
    _turn: SemaphorePermit<'static>,
}

/// One cluster at a time: three members and a load fill two cores, and a starved cluster tests the machine instead.
static TURN: Semaphore = Semaphore::const_new(1);

impl Cluster {
    /// Starts `size` members of a new cluster and waits until all know the leader. One member is a plain single.
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, &[]).await
    }

    /// The same with more flags for each member.
    pub async fn start_with(size: usize, extra: &[&str]) -> Self {
        let mut cluster = Self::prepare(size, extra).await;
        cluster.run_all().await;
        cluster
    }

    /// The places of `size` members, of which none runs yet: for a test that changes them first.
    pub async fn prepare(size: usize, extra: &[&str]) -> Self {
        let turn = TURN.acquire().await.expect("the semaphore is never closed");
        let dir = tempfile::tempdir().expect("make a directory");
        Self {
            places: (0..size).map(|i| Place::new(i, &dir)).collect(),
            processes: (0..size).map(|_| None).collect(),
            extra: extra.iter().map(|flag| (*flag).to_owned()).collect(),
            dir,
            _turn: turn,
        }
    }

    /// Moves all members, of which none runs yet, into a network of their own.
    pub fn move_into(&mut self, network: &Network) {
        for (i, place) in self.places.iter_mut().enumerate() {
            let address = network.address(i);
            place.client = format!("{address}:2379");
            place.peer = format!("{address}:2380");
            place.namespace = Some(network.namespace(i));
        }
    }

    /// Starts all members that do not run and waits until all know the leader.
    pub async fn run_all(&mut self) {
        for i in 0..self.places.len() {
            if self.processes[i].is_none() {
                self.run(i);
            }
        }
        self.wait_for_leader().await;
    }

    /// The directory that holds everything of this cluster.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Client addresses of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.places.iter().map(|place| format!("http://{}", place.client)).collect()
    }

    /// A client of all members, whose calls wait out an election.
    pub async fn client(&self) -> Client {
        let builder = ClientBuilder::default().endpoints(self.endpoints()).deadline(Duration::from_secs(30));
        builder.connect().await.expect("connect to the cluster")
    }

    /// The flags with which member `i` is started.
    pub fn arguments(&self, i: usize) -> Vec<String> {
        let place = &self.places[i];
        let mut arguments = place.arguments();
        if self.places.len() > 1 {
            let members: Vec<String> = self.places.iter().map(|p| format!("{}={}", p.name, p.peer)).collect();
            arguments.extend(["--cluster".to_owned(), members.join(",")]);
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// Starts member `i`, which must not run.
    pub fn run(&mut self, i: usize) {
        let arguments = self.arguments(i);
        self.run_with(i, &arguments);
    }

    /// Starts member `i` with exactly these arguments.
    pub fn run_with(&mut self, i: usize, arguments: &[String]) {
        assert!(self.processes[i].is_none(), "member {i} runs already");
        let output = self.dir.path().join(format!("{}.log", self.places[i].name));
        self.processes[i] = Some(match &self.places[i].namespace {
            Some(namespace) => Process::start_in(namespace, arguments, &output),
            None => Process::start(arguments, &output),
        });
    }

    /// A new member that joins through member `through`.
    pub fn join(&mut self, through: usize) -> usize {
        let i = self.places.len();
        let place = Place::new(i, &self.dir);
        let mut arguments = place.arguments();
        arguments.extend(["--join".to_owned(), self.places[through].client.clone()]);
        arguments.extend(self.extra.iter().cloned());
        self.places.push(place);
        self.processes.push(None);
        self.run_with(i, &arguments);
        i
    }

    /// kill -9 of member `i`.
    pub fn kill(&mut self, i: usize) {
        self.process(i).kill();
        self.processes[i] = None;
    }

    /// Asks member `i` to stop, waits, and asserts that it ended well.
    pub fn stop(&mut self, i: usize) {
        let status = self.process(i).stop();
        assert!(status.success(), "member {i} ended with {status}:\n{}", self.process(i).output());
        self.processes[i] = None;
    }

    /// Waits until member `i` has ended by itself, asserts that it says it failed, and gives what it printed.
    pub async fn ended(&mut self, i: usize) -> String {
        let status = until("the member to end by itself", || {
            let ended = self.process(i).ended().ok_or("it runs");
            async move { ended }
        })
        .await;
        let output = self.process(i).output();
        assert!(!status.success(), "member {i} ended as if all were well:\n{output}");
        self.processes[i] = None;
        output
    }

    /// The process of member `i`, which must run.
    pub fn process(&mut self, i: usize) -> &mut Process {
        self.processes[i].as_mut().expect("the member runs")
    }

    /// Member `i`'s own view of itself.
    pub async fn status(&self, i: usize) -> Result<StatusResponse, String> {
        let endpoint = format!("http://{}", self.places[i].client);
        let mut admin = AdminClient::connect(endpoint).await.map_err(|error| error.to_string())?;
        let answer = admin.status(StatusRequest {}).await.map_err(|status| status.to_string())?;
        Ok(answer.into_inner())
    }

    /// Waits until all running members agree on a leader that runs; its index.
    pub async fn wait_for_leader(&self) -> usize {
        until("a leader known to all", || async {
            let mut leaders = Vec::new();
            let mut ids = Vec::new();
            for i in self.running() {
                let status = self.status(i).await?;
                ids.push((i, status.member.map_or(0, |member| member.id)));
                leaders.push(status.leader_id);
            }
            let leader = leaders[0];
            let place = ids.iter().find(|(_, id)| *id == leader && leader != 0).map(|(i, _)| *i);
            match place {
                Some(i) if leaders.iter().all(|seen| *seen == leader) => Ok(i),
                _ => Err(format!("leaders {leaders:x?} of {ids:x?}")),
            }
        })
        .await
    }

    /// Indexes of the members that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|i| self.processes[*i].is_some()).collect()
    }

    /// Waits until all running members have the same applied index, and asserts that their digests are equal there.
    pub async fn assert_same_digests(&self) {
        let digests = until("one applied index on all members", || async {
            let mut seen = Vec::new();
            for i in self.running() {
                let status = self.status(i).await?;
                seen.push((status.digest_index, status.digest, status.header.map_or(0, |header| header.revision)));
            }
            if seen.iter().all(|(index, _, _)| *index == seen[0].0) { Ok(seen) } else { Err(format!("{seen:x?}")) }
        })
        .await;
        assert!(digests.iter().all(|one| *one == digests[0]), "digests differ: {digests:x?}");
    }
}

impl Place {
    fn new(i: usize, dir: &TempDir) -> Self {
        let address: Ipv4Addr = loopback();
        let name = format!("n{}", i + 1);
        let data = dir.path().join(&name);
        Self { client: at(address, 2379), peer: at(address, 2380), name, data, namespace: None }
    }

    /// The flags that every start of this member needs.
    pub fn arguments(&self) -> Vec<String> {
        let data = self.data.display().to_string();
        ["--name", &self.name, "--data-dir", &data, "--listen", &self.client, "--peer-listen", &self.peer]
            .map(str::to_owned)
            .to_vec()
    }
}

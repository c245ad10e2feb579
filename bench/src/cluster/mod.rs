//! A cluster of three processes on loopback, of either system, with its data in a directory of its own.
//!
//! Invariants:
//! - Each member has an address of its own and keeps it, and its directory, over all restarts.
//! - Data lies on a disk: a file system in memory is refused, because there fsync costs nothing.

mod flags;
pub mod proc;
mod process;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::failure::{Result, io, wrong};
use crate::plan::{LOOK, MEMBERS, PATIENCE};
use crate::wire;
use process::Process;

/// Which program the members run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// etcd.
    Peer,
    /// Quorate.
    Quorate,
}

/// Where programs and data are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The `etcd` binary.
    pub peer: PathBuf,
    /// The `quorate` binary.
    pub quorate: PathBuf,
    /// In which directory clusters keep their data.
    pub data: PathBuf,
}

/// One member.
pub struct Member {
    name: String,
    address: Ipv4Addr,
    data: PathBuf,
    process: Option<Process>,
}

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub member: u64,
    /// The leader that it knows; 0 for none.
    pub leader: u64,
    /// Its Raft term.
    pub term: u64,
}

/// Three members, running or not.
pub struct Cluster {
    system: System,
    program: PathBuf,
    members: Vec<Member>,
    dir: TempDir,
}

impl Member {
    /// Where clients are served.
    pub fn client_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, 2379)
    }

    fn peer_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, 2380)
    }
}

/// A loopback address that no other run uses: the process id is in it.
fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = (std::process::id() % 0x3fff).to_be_bytes();
    Ipv4Addr::new(127, 192 + high, low, NEXT.fetch_add(1, Ordering::Relaxed).max(1))
}

/// Refuses a directory whose files are only in memory.
fn must_be_a_disk(dir: &Path) -> Result<()> {
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6]; // tmpfs, ramfs
    let found = rustix::fs::statfs(dir).map_err(|error| io("cannot look at the file system")(error.into()))?;
    // The field's type differs between architectures.
    if IN_MEMORY.iter().any(|kind| i128::from(found.f_type) == i128::from(*kind)) {
        return wrong(format!("{} is in memory, where fsync costs nothing; name a disk with --data", dir.display()));
    }
    Ok(())
}

impl Cluster {
    /// Starts three members with empty directories and waits until all know one leader.
    pub async fn start(system: System, places: &Places) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("quorate-bench-").tempdir_in(&places.data);
        let dir = dir.map_err(io(format!("cannot make a directory in {}", places.data.display())))?;
        must_be_a_disk(dir.path())?;
        let member = |i: usize| {
            let name = format!("n{}", i + 1);
            Member { address: loopback(), data: dir.path().join(&name), name, process: None }
        };
        let members = (0..MEMBERS).map(member).collect();
        let program = if system == System::Peer { places.peer.clone() } else { places.quorate.clone() };
        let mut cluster = Self { system, program, members, dir };
        for i in 0..MEMBERS {
            cluster.run(i)?;
        }
        cluster.agreed().await?;
        Ok(cluster)
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Starts member `i`, which must not run.
    pub fn run(&mut self, i: usize) -> Result<()> {
        let arguments = flags::of(self.system, &self.members, i);
        let output = self.dir.path().join(format!("{}.log", self.members[i].name));
        self.members[i].process = Some(Process::start(&self.program, &arguments, &output)?);
        Ok(())
    }

    /// kill -9 of member `i`.
    pub fn kill(&mut self, i: usize) -> Result<()> {
        self.members[i].process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Stops member `i` as an operator would.
    pub fn stop(&mut self, i: usize) -> Result<()> {
        self.members[i].process.take().map_or(Ok(()), |mut process| process.stop())
    }

    fn running(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().filter_map(|member| member.process.as_ref())
    }

    /// CPU time of all members so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.running().map(|process| proc::cpu(process.id())).sum()
    }

    /// Resident memory of all members.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.running().map(|process| proc::resident_bytes(process.id())).sum()
    }

    /// Resident memory of member `i`.
    pub fn resident_bytes_of(&self, i: usize) -> Result<u64> {
        self.members[i].process.as_ref().map_or(Ok(0), |process| proc::resident_bytes(process.id()))
    }

    /// Waits until all members that run agree on a leader that runs; its index.
    pub async fn agreed(&mut self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = match self.leader().await {
                Ok(Some(leader)) => return Ok(leader),
                Ok(None) => "they disagree".to_owned(),
                Err(failure) => failure.to_string(),
            };
            for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
                process.check()?;
            }
            if Instant::now() > deadline {
                return wrong(format!("the members have not agreed on a leader within {PATIENCE:?}: {seen}"));
            }
            sleep(LOOK).await;
        }
    }

    async fn leader(&self) -> Result<Option<usize>> {
        let mut found = None;
        let mut leaders = Vec::new();
        for (i, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some()) {
            let standing = wire::standing(self.system, member.client_address()).await?;
            if standing.leader != 0 && standing.leader == standing.member {
                found = Some(i);
            }
            leaders.push(standing.leader);
        }
        Ok(found.filter(|_| leaders.iter().all(|leader| *leader == leaders[0])))
    }

    /// The highest Raft term among the members.
    pub async fn term(&self) -> Result<u64> {
        let mut term = 0;
        for member in &self.members {
            term = term.max(wire::standing(self.system, member.client_address()).await?.term);
        }
        Ok(term)
    }

    /// Waits until the members have done what earlier work left them to do: hardly any CPU for half a second.
    pub async fn settled(&self) -> Result<()> {
        const SLICE: Duration = Duration::from_millis(500);
        const BUSY: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + PATIENCE;
        let mut before = self.cpu()?;
        while Instant::now() < deadline {
            sleep(SLICE).await;
            let now = self.cpu()?;
            if now.saturating_sub(before) < BUSY {
                return Ok(());
            }
            before = now;
        }
        wrong(format!("the members of {:?} are still busy after {PATIENCE:?} without load", self.system))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_in_memory_is_refused() {
        assert!(must_be_a_disk(Path::new("/dev/shm")).is_err());
        assert!(must_be_a_disk(&std::env::current_dir().unwrap()).is_ok());
    }
}

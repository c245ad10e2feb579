//! Members of the demo and of `chaos`: child processes of this same binary, in a temporary directory.
//!
//! Invariants:
//! - No child outlives its `Members`: stop asks, drop kills.
//! - A member keeps its addresses and its directory over restarts.
//! - Children are in process groups of their own, so Ctrl-C reaches only this process, which then stops them in order.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;

/// How long a member may take to stop when asked, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// One member, running or not.
pub struct MemberProcess {
    /// `n1`, …
    pub name: String,
    /// For clients.
    pub client_address: String,
    peer_address: String,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl MemberProcess {
    /// Process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The last lines that it logged, to say why it failed.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// The three members.
pub struct Members {
    /// In order of their names.
    pub all: Vec<MemberProcess>,
    dir: TempDir,
}

impl Members {
    /// Chooses addresses and directories for `count` members, below a directory whose name begins so; starts none.
    pub fn prepare(prefix: &str, count: usize) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir();
        let dir = dir.map_err(|error| Failure::io("cannot make a temporary directory", &error))?;
        let addresses = free_addresses(2 * count).map_err(|error| Failure::io("cannot find free ports", &error))?;
        let member = |(index, pair): (usize, &[String])| {
            let name = format!("n{}", index + 1);
            MemberProcess {
                client_address: pair[0].clone(),
                peer_address: pair[1].clone(),
                data_dir: dir.path().join(&name),
                log: dir.path().join(format!("{name}.log")),
                name,
                child: None,
            }
        };
        let all = addresses.chunks_exact(2).enumerate().map(member).collect();
        Ok(Self { all, dir })
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Addresses for clients, in order.
    pub fn endpoints(&self) -> Vec<String> {
        self.all.iter().map(|member| member.client_address.clone()).collect()
    }

    /// Starts a member that does not run, for the first time or again.
    pub fn start(&mut self, index: usize) -> Result<(), Failure> {
        let cluster: Vec<String> = self.all.iter().map(|m| format!("{}={}", m.name, m.peer_address)).collect();
        let binary = std::env::current_exe().map_err(|error| Failure::io("cannot find this binary", &error))?;
        let member = &mut self.all[index];
        let log = File::options().create(true).append(true).open(&member.log);
        let log = log.map_err(|error| Failure::io("cannot make a log file", &error))?;
        let mut command = Command::new(binary);
        // Settings of the shell that runs the demo are not meant for its members.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").args(["--name", &member.name]).arg("--data-dir").arg(&member.data_dir);
        command.args(["--listen", &member.client_address, "--peer-listen", &member.peer_address]);
        command.args(["--cluster", &cluster.join(",")]);
        // What somebody tries out with the demo listens on this machine.
        command.args(["--check-networks", "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|error| Failure::io("cannot start a member", &error))?;
        member.child = Some(child);
        Ok(())
    }

    /// kill -9; the process is gone when this returns.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        if let Some(mut child) = self.all[index].child.take() {
            child.kill().await.map_err(|error| Failure::io("cannot kill a member", &error))?;
        }
        Ok(())
    }

    /// Sends a signal to a member, if it runs.
    pub fn signal(&self, index: usize, signal: Signal) {
        if let Some(pid) = self.all[index].process_id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks a member to stop and waits; kills it if it does not.
    pub async fn stop_one(&mut self, index: usize) -> Result<(), Failure> {
        self.signal(index, Signal::TERM);
        if let Some(mut child) = self.all[index].child.take()
            && timeout_at(Instant::now() + STOP_WITHIN, child.wait()).await.is_err()
        {
            child.kill().await.map_err(|error| Failure::io("cannot kill a member", &error))?;
        }
        Ok(())
    }

    /// Fails if a member that should run has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        for member in &mut self.all {
            let ended = member.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(Failure::Failed(format!("member {} ended by itself ({status})", member.name)));
            }
        }
        Ok(())
    }

    /// Shows on stderr what each member logged last.
    pub fn print_last_words(&self) {
        for member in &self.all {
            eprintln!("--- {}, last lines of its log ---\n{}", member.name, member.last_words());
        }
    }

    /// Asks all to stop and waits; kills those that do not. The directory is removed.
    pub async fn stop(mut self) -> Result<(), Failure> {
        for index in 0..self.all.len() {
            self.signal(index, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for member in &mut self.all {
            if let Some(mut child) = member.child.take()
                && timeout_at(deadline, child.wait()).await.is_err()
            {
                let _ = child.kill().await;
            }
        }
        self.dir.close().map_err(|error| Failure::io("cannot remove the temporary directory", &error))
    }
}

/// Loopback addresses that are free now. All are held until all are found, so they differ.
fn free_addresses(count: usize) -> std::io::Result<Vec<String>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_member_gets_two_addresses_of_its_own() {
        let members = Members::prepare("quorate-demo-", 3).unwrap();
        let addresses: BTreeSet<&String> =
            members.all.iter().flat_map(|member| [&member.client_address, &member.peer_address]).collect();
        assert_eq!(addresses.len(), 6);
        assert_eq!(members.endpoints().len(), 3);
        assert!(members.dir().is_dir());
    }
}

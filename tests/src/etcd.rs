//! Debian's etcd as a process: the one that Quorate's etcd door is compared with.
//!
//! Invariants:
//! - Each has a directory and loopback addresses of its own; both are gone when the value is dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate_proto::etcd::etcdserverpb::StatusRequest;
use quorate_proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::address::{at, loopback};
use crate::wait::until;

/// What the directory must have free to lie in memory: etcd reserves 64 MiB a file of its log.
const MEMORY_FREE_BYTES: u64 = 1 << 30;

/// A running etcd, a single member.
pub struct Etcd {
    child: Child,
    endpoint: String,
    version: String,
    output: PathBuf,
    _dir: TempDir,
}

impl Etcd {
    /// Starts one with etcd's own defaults and waits until it serves.
    pub async fn start() -> Self {
        let dir = quick_dir();
        let address = loopback();
        let (client, peer) = (format!("http://{}", at(address, 2379)), format!("http://{}", at(address, 2380)));
        let output = dir.path().join("output");
        let file = File::create(&output).expect("make the output file");
        let mut command = Command::new("etcd");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        let child = command
            .args(["--name", "n1", "--logger", "zap", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("n1={peer}")])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("clone the output file"))
            .stderr(file)
            .spawn()
            .expect("start etcd: `scripts/foreign-clients` installs it");
        let mut etcd = Self { child, endpoint: client, version: String::new(), output, _dir: dir };
        etcd.version = etcd.wait().await;
        etcd
    }

    async fn wait(&self) -> String {
        until("etcd to serve", || async {
            let channel = channel(&self.endpoint).await?;
            let answer = MaintenanceClient::new(channel).status(StatusRequest {}).await;
            let status = answer.map_err(|status| status.to_string())?.into_inner();
            if status.leader == 0 { Err("no leader".to_owned()) } else { Ok(status.version) }
        })
        .await
    }

    /// `http://address:port`, for clients.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its version, such as `3.4.23`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.output).unwrap_or_default();
            let mut lines = text.lines().skip_while(|line| !line.starts_with("panic")).take(20).peekable();
            if lines.peek().is_some() {
                eprintln!("--- etcd panicked ---\n{}", lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// A connection to a server of etcd's wire.
pub async fn channel(endpoint: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    endpoint.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|error| error.to_string())
}

/// A directory in memory where there is room: what is compared are answers, not disks.
fn quick_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    if free >= MEMORY_FREE_BYTES
        && let Ok(dir) = tempfile::tempdir_in(memory)
    {
        return dir;
    }
    tempfile::tempdir().expect("make a directory")
}

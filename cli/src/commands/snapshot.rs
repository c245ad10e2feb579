//! `quorate snapshot`: save from a running cluster, restore into a new one.
//!
//! Invariants:
//! - A file under its final name is a whole archive: it is written beside, synced, then renamed.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use futures::StreamExt;
use quorate::{Client, Snapshot};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Output, byte_count};

/// Examples for the help.
pub const EXAMPLES: &str = "\
Examples:
  quorate snapshot save backup.quorate
  quorate snapshot restore backup.quorate --data-dir d1";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save the state of a running cluster to a file, with everything acknowledged before
    #[command(after_help = "Examples:\n  quorate snapshot save backup.quorate")]
    Save(SaveArgs),
    /// Make a data directory from a snapshot file; works without a running cluster
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
}

const RESTORE_EXAMPLES: &str = "\
The new cluster has one member and a new identity. Revisions go on 10^9 higher than in the snapshot, with all history \
before compacted, so that tokens and revisions that clients remember never come twice. Leases get their full time to \
live. Then start it, and let others join:

Examples:
  quorate snapshot restore backup.quorate --data-dir d1 --name n1
  quorate serve --name n1 --data-dir d1
  quorate serve --name n2 --data-dir d2 --listen … --peer-listen … --join 127.0.0.1:2379";

/// Flags of `snapshot save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// File to make
    pub file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub overwrite: bool,
}

/// Flags of `snapshot restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// File made by `quorate snapshot save`
    pub file: PathBuf,
    /// Data directory to make; must be empty or not exist
    #[arg(long, env = "QUORATE_DATA_DIR", hide_env_values = true)]
    pub data_dir: PathBuf,
    /// Name of the member
    #[arg(long, env = "QUORATE_NAME", default_value = "quorate", hide_env_values = true)]
    pub name: String,
    /// Address on which it will serve clients
    #[arg(long, env = "QUORATE_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:2379")]
    #[arg(hide_env_values = true)]
    pub listen: String,
    /// Address on which it will serve other members
    #[arg(long, env = "QUORATE_PEER_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:2380")]
    #[arg(hide_env_values = true)]
    pub peer_listen: String,
}

/// Saves a snapshot.
pub async fn save(args: SaveArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let refused = |error| Failure::io(&format!("cannot write {}", args.file.display()), &error);
    if !args.overwrite && args.file.exists() {
        return Err(Failure::Failed(format!("{} exists; see --overwrite", args.file.display())));
    }
    // Beside the final file, so that renaming cannot cross a file system.
    let directory = match args.file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut part = tempfile::Builder::new().prefix(".quorate-snapshot-").tempfile_in(directory).map_err(refused)?;
    let snapshot = client.snapshot().await?;
    let revision = snapshot.revision().get();
    let bytes = receive(snapshot, part.as_file_mut(), &args.file).await?;
    part.as_file().sync_all().map_err(refused)?;
    if args.overwrite {
        part.persist(&args.file).map_err(|error| refused(error.error))?;
    } else {
        part.persist_noclobber(&args.file).map_err(|error| refused(error.error))?;
    }
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(refused)?;
    output.either(
        || format!("{}: {} at revision {revision}", args.file.display(), byte_count(bytes)),
        || json!({"file": args.file.display().to_string(), "bytes": bytes, "revision": revision}),
    )
}

/// Writes all that comes; bytes written.
async fn receive(mut snapshot: Snapshot, file: &mut File, name: &Path) -> Result<u64, Failure> {
    let mut progress = Progress::new(snapshot.total_bytes());
    let mut bytes = 0;
    while let Some(part) = snapshot.next().await {
        let part = part?;
        file.write_all(&part).map_err(|error| Failure::io(&format!("cannot write {}", name.display()), &error))?;
        bytes += part.len() as u64;
        progress.show(bytes);
    }
    progress.end();
    Ok(bytes)
}

/// One line on stderr that is written over, on a terminal only.
struct Progress {
    total_bytes: u64,
    shown: Option<Instant>,
    enabled: bool,
}

impl Progress {
    const EVERY: Duration = Duration::from_millis(100);

    fn new(total_bytes: u64) -> Self {
        Self { total_bytes, shown: None, enabled: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, bytes: u64) {
        if !self.enabled || self.shown.is_some_and(|shown| shown.elapsed() < Self::EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let percent = (bytes * 100).checked_div(self.total_bytes).map_or_else(String::new, |p| format!(" ({p} %)"));
        eprint!("\r\x1b[K{} of {}{percent}", byte_count(bytes), byte_count(self.total_bytes));
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// Makes a data directory from an archive.
pub fn restore(args: &RestoreArgs, output: Output) -> Result<(), Failure> {
    let options = quorate_server::restore::RestoreOptions {
        name: args.name.clone(),
        client_address: args.listen.clone(),
        peer_address: args.peer_listen.clone(),
    };
    let restored = quorate_server::restore::restore(&args.file, &args.data_dir, &options);
    restored.map_err(|error| Failure::Failed(format!("cannot restore {}: {error}", args.file.display())))?;
    output.either(
        || {
            let (dir, name) = (args.data_dir.display(), &args.name);
            format!("{dir} restored; start it with: quorate serve --name {name} --data-dir {dir}")
        },
        || json!({"data_dir": args.data_dir.display().to_string(), "name": args.name}),
    )
}

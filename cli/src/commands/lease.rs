//! `quorate lease`: grant, revoke, keep alive, look.
//!
//! Invariants:
//! - Lease ids are shown and taken in hexadecimal.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use quorate::{Client, LeaseId};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::input;
use crate::output::{Output, printable};
use crate::render;

/// After a failed keep-alive the next is sent so much later.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Examples for the help.
pub const EXAMPLES: &str = "\
Examples:
  quorate lease grant 30s
  quorate put /workers/7 10.0.0.7:80 --lease 6f3a9c0000000001
  quorate lease keep-alive 6f3a9c0000000001
  quorate lease ttl 6f3a9c0000000001 --keys
  quorate lease revoke 6f3a9c0000000001";

/// What to do with leases.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Make a lease; prints its id
    #[command(after_help = "Examples:\n  quorate lease grant 30s\n  quorate lease grant 500ms --id 2a")]
    Grant(GrantArgs),
    /// End a lease and delete its keys, in one revision
    #[command(after_help = "Examples:\n  quorate lease revoke 6f3a9c0000000001")]
    Revoke(OneLease),
    /// Keep a lease alive until Ctrl-C; the lease is not revoked then, it runs out
    #[command(after_help = "Examples:\n  quorate lease keep-alive 6f3a9c0000000001\n  \
                            quorate lease keep-alive 6f3a9c0000000001 --once")]
    KeepAlive(KeepAliveArgs),
    /// Show how long a lease has left
    #[command(after_help = "Examples:\n  quorate lease ttl 6f3a9c0000000001 --keys")]
    Ttl(TtlArgs),
    /// List all leases
    #[command(after_help = "Examples:\n  quorate lease list --output json")]
    List,
}

/// Flags of `lease grant`.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Time to live: 500ms to 10 years
    #[arg(value_parser = input::duration)]
    pub ttl: Duration,
    /// Id of the lease, in hexadecimal; chosen by the cluster without it
    #[arg(long, value_name = "LEASE", value_parser = input::lease_id)]
    pub id: Option<LeaseId>,
}

/// A lease.
#[derive(Debug, Args)]
pub struct OneLease {
    /// Lease id, in hexadecimal
    #[arg(value_parser = input::lease_id)]
    pub lease: LeaseId,
}

/// Flags of `lease keep-alive`.
#[derive(Debug, Args)]
pub struct KeepAliveArgs {
    /// Lease id, in hexadecimal
    #[arg(value_parser = input::lease_id)]
    pub lease: LeaseId,
    /// Once, then end
    #[arg(long)]
    pub once: bool,
}

/// Flags of `lease ttl`.
#[derive(Debug, Args)]
pub struct TtlArgs {
    /// Lease id, in hexadecimal
    #[arg(value_parser = input::lease_id)]
    pub lease: LeaseId,
    /// With the keys that it owns
    #[arg(long)]
    pub keys: bool,
}

/// Runs it.
pub async fn run(command: LeaseCommand, client: &Client, output: Output) -> Result<(), Failure> {
    match command {
        LeaseCommand::Grant(args) => grant(args, client, output).await,
        LeaseCommand::Revoke(args) => revoke(args, client, output).await,
        LeaseCommand::KeepAlive(args) => keep_alive(args, client, output).await,
        LeaseCommand::Ttl(args) => time_to_live(args, client, output).await,
        LeaseCommand::List => list(client, output).await,
    }
}

async fn grant(args: GrantArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut call = client.lease(args.ttl);
    if let Some(id) = args.id {
        call = call.id(id);
    }
    let granted = call.grant_unattended().await?;
    let ttl_ms = milliseconds(granted.ttl);
    output.either(|| granted.id.to_string(), || json!({"lease": granted.id.to_string(), "ttl_ms": ttl_ms}))
}

async fn revoke(args: OneLease, client: &Client, output: Output) -> Result<(), Failure> {
    let deleted = client.lease_revoke(args.lease).await?;
    output.either(
        || format!("lease {} revoked, keys deleted: {deleted}", args.lease),
        || json!({"lease": args.lease.to_string(), "deleted": deleted}),
    )
}

async fn keep_alive(args: KeepAliveArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut ends = None;
    loop {
        let sent = Instant::now();
        match client.lease_keep_alive(args.lease).await.map_err(Failure::from) {
            Ok(ttl) => {
                // The cluster counts from when it received the request, which was later.
                ends = Some(sent + ttl);
                confirmed(args.lease, ttl, output)?;
                if args.once {
                    return Ok(());
                }
                // A third leaves time for two more attempts before the lease ends.
                tokio::time::sleep(ttl / 3).await;
            }
            Err(failure @ (Failure::Unavailable(_) | Failure::OutcomeUnknown(_))) => {
                if args.once || ends.is_none_or(|ends| Instant::now() > ends) {
                    return Err(Failure::Unavailable(failure.to_string()));
                }
                eprintln!("quorate: {failure}; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn confirmed(lease: LeaseId, ttl: Duration, output: Output) -> Result<(), Failure> {
    let ttl_ms = milliseconds(ttl);
    if output.is_json() {
        return output.json_line(&json!({"lease": lease.to_string(), "ttl_ms": ttl_ms}));
    }
    output.line(&format!("lease {lease} lives for {ttl_ms} ms from now"))
}

async fn time_to_live(args: TtlArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut call = client.lease_time_to_live(args.lease);
    if args.keys {
        call = call.with_keys();
    }
    let found = call.await?;
    let Some(remaining) = found.remaining else {
        return Err(Failure::NotFound(format!("lease {} does not exist (any more)", args.lease)));
    };
    let (remaining_ms, granted_ms) = (milliseconds(remaining), milliseconds(found.granted));
    output.either(
        || {
            let mut text = format!("{remaining_ms} ms of {granted_ms} ms");
            for key in &found.keys {
                text.push('\n');
                text.push_str(&printable(key));
            }
            text
        },
        || {
            let keys: Vec<Json> = found.keys.iter().map(|key| render::with_key(key, Json::Null)).collect();
            let keys = if args.keys { Json::from(keys) } else { Json::Null };
            json!({
                "lease": args.lease.to_string(), "remaining_ms": remaining_ms, "granted_ttl_ms": granted_ms,
                "keys": keys,
            })
        },
    )
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let leases: Vec<String> = client.leases().await?.iter().map(ToString::to_string).collect();
    if output.is_json() {
        return output.json(&json!({"leases": leases}));
    }
    leases.iter().try_for_each(|lease| output.line(lease))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

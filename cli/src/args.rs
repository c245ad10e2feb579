//! The command line as a whole: global flags, and one variant for each verb.
//!
//! Invariants:
//! - Every verb's help shows an example; the exit codes stand in the help of the whole.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    chaos, compact, completions, demo, elect, kv, lease, lock, member, serve, service, snapshot, status, tree, txn,
    watch,
};
use crate::failure::EXIT_CODES;
use crate::input;
use crate::output::Format;

/// Quorate: coordination for distributed programs. A tree of keys, transactions, leases and watches over Raft.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, max_term_width = 100, after_help = EXIT_CODES, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every verb.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Members to talk to, host:port, separated by commas; any member serves any request
    #[arg(long, global = true, env = "QUORATE_ENDPOINTS", default_value = "127.0.0.1:2379", value_delimiter = ',')]
    #[arg(value_name = "HOST:PORT,…", value_parser = endpoint, hide_env_values = true)]
    pub endpoints: Vec<String>,

    /// How long one request may take, retries included
    #[arg(long, global = true, env = "QUORATE_TIMEOUT", default_value = "10s", value_parser = input::duration)]
    #[arg(value_name = "DURATION", hide_env_values = true)]
    pub timeout: Duration,

    /// How results are printed
    #[arg(long, short, global = true, env = "QUORATE_OUTPUT", default_value = "table", value_name = "FORMAT")]
    #[arg(hide_env_values = true)]
    pub output: Format,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a member: alone by default, or one of a cluster
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<serve::ServeArgs>),
    /// Start a three-member cluster here, show what it does, and check it
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::DemoArgs),
    /// Break a test cluster on purpose, and check that every promise is kept
    #[command(after_help = chaos::EXAMPLES)]
    Chaos(Box<chaos::ChaosArgs>),
    /// Print the value of a key
    #[command(after_help = kv::GET_EXAMPLES)]
    Get(kv::GetArgs),
    /// Write a key
    #[command(after_help = kv::PUT_EXAMPLES)]
    Put(kv::PutArgs),
    /// Delete a key, or a path and everything below it
    #[command(after_help = kv::DELETE_EXAMPLES, visible_alias = "rm")]
    Delete(kv::DeleteArgs),
    /// List the direct children of a directory
    #[command(after_help = tree::LS_EXAMPLES)]
    Ls(tree::LsArgs),
    /// Show everything below a directory as a tree
    #[command(after_help = tree::TREE_EXAMPLES)]
    Tree(tree::TreeArgs),
    /// Show what stands at a path: key, directory, or both
    #[command(after_help = tree::STAT_EXAMPLES)]
    Stat(tree::StatArgs),
    /// Copy a path and everything below it, in one revision
    #[command(after_help = tree::CP_EXAMPLES)]
    Cp(tree::CopyArgs),
    /// Move a path and everything below it, in one revision
    #[command(after_help = tree::MV_EXAMPLES)]
    Mv(tree::CopyArgs),
    /// Print changes as they happen, from now or from a revision
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::WatchArgs),
    /// Run a transaction, written in a small language
    #[command(after_help = txn::EXAMPLES)]
    Txn(txn::TxnArgs),
    /// Work with leases: keys that end when nobody keeps their lease alive
    #[command(subcommand, after_help = lease::EXAMPLES)]
    Lease(lease::LeaseCommand),
    /// Hold a lock while a command runs; see who holds it; take it away
    #[command(after_help = lock::EXAMPLES)]
    Lock(Box<lock::LockArgs>),
    /// Lead an election while a command runs; see who leads
    #[command(after_help = elect::EXAMPLES)]
    Elect(Box<elect::ElectArgs>),
    /// Register instances of services, find them, take them out of service
    #[command(subcommand, after_help = service::EXAMPLES)]
    Service(service::ServiceCommand),
    /// Show and change who belongs to the cluster
    #[command(subcommand, after_help = member::EXAMPLES)]
    Member(member::MemberCommand),
    /// Show each member: leader, term, revision, applied index, digest, store size
    #[command(after_help = status::EXAMPLES)]
    Status(status::StatusArgs),
    /// Save a snapshot of a running cluster, or start a new cluster from one
    #[command(subcommand, after_help = snapshot::EXAMPLES)]
    Snapshot(snapshot::SnapshotCommand),
    /// Give up history before a revision, to free its space
    #[command(after_help = compact::EXAMPLES)]
    Compact(compact::CompactArgs),
    /// Print a completion script for a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::CompletionsArgs),
}

/// `host:port`, `[::1]:port`; a scheme is taken off, for people who paste one.
fn endpoint(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let form = "an endpoint is host:port, as in 127.0.0.1:2379";
    let (host, port) = address.rsplit_once(':').ok_or_else(|| form.to_owned())?;
    if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
        return Err(form.to_owned());
    }
    Ok(address.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example_in_its_help() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("quorate "), "{} has no example", verb.get_name());
        }
    }

    #[test]
    fn endpoints_are_host_and_port() {
        assert_eq!(endpoint("127.0.0.1:2379"), Ok("127.0.0.1:2379".to_owned()));
        assert_eq!(endpoint("http://[::1]:2379/"), Ok("[::1]:2379".to_owned()));
        for wrong in ["localhost", "localhost:", ":2379", "a:99999", "https://a:1", "a/b:1"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }
}

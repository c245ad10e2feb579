//! One file for each verb, or for a family of verbs, and the way from arguments to them.
//!
//! Invariants:
//! - A client verb ends at Ctrl-C with exit code 130; `serve`, `demo`, `chaos`, `lock`, `elect` and `service register` handle signals
//!   themselves, because they have something to clean up.

pub mod chaos;
pub mod compact;
pub mod completions;
pub mod demo;
pub mod elect;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod member;
pub mod serve;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod tree;
pub mod txn;
pub mod under;
pub mod watch;

use std::future::Future;

use crate::args::{Cli, Command};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

/// Runs the verb.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.global.output);
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Snapshot(snapshot::SnapshotCommand::Restore(args)) => snapshot::restore(&args, output),
        Command::Demo(args) => block_on(demo::run(args, output)),
        Command::Chaos(args) => block_on(chaos::run(*args, &Connection::new(&cli.global), output)),
        Command::Lock(args) => block_on(lock::run(*args, &Connection::new(&cli.global), output)),
        Command::Elect(args) => block_on(elect::run(*args, &Connection::new(&cli.global), output)),
        Command::Service(service::ServiceCommand::Register(args)) => {
            let connection = Connection::new(&cli.global);
            block_on(async { service::register(*args, &connection.open()?, output).await })
        }
        command => {
            let connection = Connection::new(&cli.global);
            block_on(until_interrupted(client_verb(command, connection, output)))
        }
    }
}

async fn client_verb(command: Command, connection: Connection, output: Output) -> Result<(), Failure> {
    match command {
        Command::Get(args) => kv::get(args, &connection.open()?, output).await,
        Command::Put(args) => kv::put(args, &connection.open()?, output).await,
        Command::Delete(args) => kv::delete(args, &connection.open()?, output).await,
        Command::Ls(args) => tree::ls(args, &connection.open()?, output).await,
        Command::Tree(args) => tree::tree(args, &connection.open()?, output).await,
        Command::Stat(args) => tree::stat(args, &connection.open()?, output).await,
        Command::Cp(args) => tree::copy(args, &connection.open()?, output).await,
        Command::Mv(args) => tree::rename(args, &connection.open()?, output).await,
        Command::Watch(args) => watch::run(args, &connection.open()?, output).await,
        Command::Txn(args) => txn::run(args, &connection, output).await,
        Command::Lease(command) => lease::run(command, &connection.open()?, output).await,
        Command::Service(command) => service::run(command, &connection.open()?, output).await,
        Command::Member(command) => member::run(command, &connection.open()?, output).await,
        Command::Status(args) => status::run(args, &connection, output).await,
        Command::Snapshot(snapshot::SnapshotCommand::Save(args)) => {
            snapshot::save(args, &connection.open()?, output).await
        }
        Command::Compact(args) => compact::run(args, &connection.open()?, output).await,
        // Not for clients; `run` has dealt with them.
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Chaos(_)
        | Command::Completions(_)
        | Command::Snapshot(_)
        | Command::Lock(_)
        | Command::Elect(_) => Ok(()),
    }
}

/// Drives a future on a runtime of this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::io("cannot start", &error))?.block_on(future)
}

/// Ends with [`Failure::Interrupted`] at Ctrl-C.
async fn until_interrupted(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        result = verb => result,
    }
}

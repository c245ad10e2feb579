//! Quorate and etcd side by side on this machine: three members of each, the same load in turns, and a table of ratios.
//!
//! A run starts a cluster of each system with data on the same disk, drives them alternately in short rounds with a
//! closed loop of callers, and reads what the servers used from /proc. The works stand in `works/`, all numbers that
//! define them in `plan.rs`, what is to be reached in `targets.rs`.
//!
//! Invariants:
//! - An error fails the run. The table of such a run says so, and has the works that were done before it.

mod cluster;
mod failure;
mod figures;
mod fill;
mod keys;
mod load;
mod plan;
mod report;
mod stage;
mod targets;
mod wire;
mod works;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Places;
use crate::failure::{Result, io, wrong};
use crate::figures::Figures;
use crate::report::Report;
use crate::stage::Subject;
use crate::works::Selection;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads of the load generator: it shares two cores with the servers.
const THREADS: usize = 2;

/// Runs Quorate and etcd side by side and compares them.
#[derive(Debug, Parser)]
struct Args {
    /// The quorate binary
    #[arg(long, value_name = "FILE")]
    quorate: PathBuf,
    /// The etcd binary
    #[arg(long, value_name = "FILE", default_value = "etcd")]
    peer: PathBuf,
    /// Only these works, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    works: Vec<String>,
    /// Only these as they are driven, separated by commas: for a profile of one, which has no ratios then
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subjects: Vec<Subject>,
    /// Short windows and small stores: to see that it runs, not to quote
    #[arg(long)]
    quick: bool,
    /// Where results.md, results.json and results.svg go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// On which disk the members keep their data
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data: PathBuf,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let plan = if args.quick { plan::QUICK } else { plan::FULL };
    let selection = Selection::of(&args.works, args.subjects)?;
    let places = Places { peer: args.peer, quorate: args.quorate, data: args.data };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let mut figures = Figures::default();
    let works = works::run(&places, &plan, &selection, &mut figures);
    let done = runtime.map_err(io("cannot start"))?.block_on(unless_stopped(works));
    if !figures.rows().is_empty() {
        let report = Report::new(&places, plan, figures, done.as_ref().err())?;
        println!("{}", report.table());
        report.write(&args.out)?;
        println!("Written to {}.", args.out.display());
    }
    done
}

/// Ends early when asked to stop, so that members are killed and their data is removed.
async fn unless_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate()).map_err(io("cannot listen for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("cannot listen for signals"))?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => wrong("stopped"),
        _ = interrupt.recv() => wrong("stopped"),
    }
}

//! `quorate demo`: a real three-member cluster on this machine, what it does, and a check of every claim.
//!
//! Invariants:
//! - Whatever happens (success, a failed claim, Ctrl-C), the members are stopped and the directory is removed.
//! - Nothing is claimed that was not measured or compared; a claim that fails ends the demo with an error.

pub mod members;
pub mod narrator;
pub mod observer;
mod story;
mod writer;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::members::Members;
use self::narrator::Narrator;
use self::story::Story;
use crate::failure::Failure;
use crate::output::Output;

/// Examples for the help.
pub const EXAMPLES: &str = "\
Needs nothing but this binary: members are child processes, on free ports of 127.0.0.1, in a temporary directory.
Exit code 0 only if every claim was checked and held.

Examples:
  quorate demo
  quorate demo --writes 5000       more writes around the kill of the leader
  quorate demo --keep              afterwards the cluster stays up until Ctrl-C";

/// The programs in `examples/`, and what each shows.
const PROGRAMS: [(&str, &str); 4] = [
    ("leader_election", "one of several leads; when it ends, another does"),
    ("distributed_lock", "a pause longer than the lease: unfenced writes are lost, fenced ones are not"),
    ("service_discovery", "three instances, one killed, no request fails"),
    ("config_watch", "a typed configuration, reloaded as it changes"),
];

/// Flags of `demo`.
#[derive(Debug, Clone, Copy, Args)]
pub struct DemoArgs {
    /// Writes to acknowledge before the leader is killed, and as many after
    #[arg(long, value_name = "COUNT", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub writes: u64,
    /// Afterwards print the endpoints and keep the cluster up until Ctrl-C
    #[arg(long)]
    pub keep: bool,
}

/// Runs it.
pub async fn run(args: DemoArgs, output: Output) -> Result<(), Failure> {
    let narrator = Narrator::new(output);
    let mut members = Members::prepare("quorate-demo-", 3)?;
    let told = tokio::select! {
        biased;
        failure = interrupted() => Err(failure),
        told = Story::new(&mut members, narrator, args).tell() => told,
    };
    if let Err(failure) = &told
        && !failure.is_silent()
    {
        members.print_last_words();
    }
    let kept = match &told {
        Ok(()) if args.keep => keep(&members, narrator).await,
        _ => Ok(()),
    };
    let stopped = members.stop().await;
    told.and(kept).and(stopped)?;
    narrator.say("stopped the members, removed their directory")?;
    if args.keep { Ok(()) } else { name_examples(narrator) }
}

/// What can be run against a cluster that stays.
fn name_examples(narrator: Narrator) -> Result<(), Failure> {
    narrator.chapter("what to look at next: programs to copy, which run against this cluster")?;
    narrator.say("quorate demo --keep keeps it up; in another terminal, in the source tree:")?;
    list_examples(narrator)
}

fn list_examples(narrator: Narrator) -> Result<(), Failure> {
    for (name, shows) in PROGRAMS {
        narrator.say(&format!("make example NAME={name:<18} {shows}"))?;
    }
    Ok(())
}

async fn keep(members: &Members, narrator: Narrator) -> Result<(), Failure> {
    narrator.chapter("the cluster stays up; Ctrl-C stops it and removes it")?;
    narrator.say(&format!("in another terminal: export QUORATE_ENDPOINTS={}", members.endpoints().join(",")))?;
    narrator.say(&format!("data and logs: {}", members.dir().display()))?;
    list_examples(narrator)?;
    match interrupted().await {
        Failure::Interrupted => Ok(()),
        failure => Err(failure),
    }
}

/// Completes at Ctrl-C, or when asked to end.
pub async fn interrupted() -> Failure {
    let (terminate, hang_up) = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hang_up)) = (terminate, hang_up) else {
        return Failure::Failed("cannot listen for signals".to_owned());
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Failure::Interrupted
}

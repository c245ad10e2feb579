//! `quorate chaos`: a load of clients of both wires on a test cluster, faults, and a check of all that the clients saw.
//!
//! Invariants:
//! - Whatever happens (violations, an error, Ctrl-C), what was broken is healed, and members of its own are stopped.
//! - Nothing is written but below the prefix, where nothing may stand before.
//! - Exit code 0 only if every promise that was checked was kept.

mod foreign;
mod hook;
mod local;
mod nemesis;
mod refusal;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use quorate_chaos::{Dice, Finished, Load, Plan, Recorder, Report, Subject, Unfinished};
use quorate_checkers::history::History;
use quorate_checkers::{Tolerance, Violation, check};
use tokio::time::Instant;

use self::foreign::Foreign;
use self::hook::Hook;
use self::local::Local;
use self::nemesis::Nemesis;
use crate::commands::demo::interrupted;
use crate::commands::demo::narrator::Narrator;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

/// Examples for the help.
pub const EXAMPLES: &str = "\
Clients of both wires read, write, watch, hold leases and locks and lead, while things go wrong; what they saw is then
checked: linearizability, exactly once, revisions, watches, leases, locks, elections, directories, equal digests of members.
With --local three members of this binary are killed, paused and restarted. On a cluster of yours leadership is
transferred, and what --fault-command says is done. Exit code 9 if a promise was broken.

Examples:
  quorate chaos --local --seconds 60 --report report.html
  quorate chaos --endpoints a:2379,b:2379,c:2379 --yes-this-is-a-test-cluster \\
      --fault-command 'net=ssh b ./cut-network=ssh b ./mend-network'
  quorate chaos --check history.jsonl     check a history that --history wrote";

/// Flags of `chaos`.
#[derive(Debug, Clone, Args)]
pub struct ChaosArgs {
    /// Start a cluster of three members of this binary in a temporary directory, and use that
    #[arg(long, conflicts_with = "fault_commands")]
    pub local: bool,
    /// How long things go wrong
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Write a report, one page of HTML
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write the history, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Only check a history that was written before
    #[arg(long, value_name = "FILE", conflicts_with_all = ["local", "report", "history", "fault_commands"])]
    pub check: Option<PathBuf>,
    /// Write below this path, where nothing may stand
    #[arg(long, value_name = "PATH", default_value = "/quorate-chaos", value_parser = prefix)]
    pub prefix: String,
    /// Repeat the schedule of faults of a run
    #[arg(long)]
    pub seed: Option<u64>,
    /// A fault of yours: a name, a command that breaks something, a command that mends it; may be given several times
    #[arg(long = "fault-command", value_name = "NAME=BREAK=MEND", value_parser = hook::parse)]
    pub fault_commands: Vec<Hook>,
    /// The cluster of --endpoints may be broken; without this, nothing is done to it
    #[arg(long)]
    pub yes_this_is_a_test_cluster: bool,
}

/// A path that is not the root.
fn prefix(text: &str) -> Result<String, String> {
    match quorate::Path::new(text.to_owned()) {
        Ok(_) if text != "/" => Ok(text.to_owned()),
        Ok(_) => Err("the whole tree is not a place of its own; name a path such as /quorate-chaos".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs it.
pub async fn run(args: ChaosArgs, connection: &Connection, output: Output) -> Result<(), Failure> {
    let narrator = Narrator::new(output);
    if let Some(path) = &args.check {
        return check_file(path, narrator);
    }
    let dice = Dice::new(args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())));
    let mut nemesis = if args.local {
        Nemesis::Local(Box::new(Local::start()?))
    } else {
        refusal::look(&args, connection).await?;
        Nemesis::Foreign(Foreign::new(connection, args.fault_commands.clone()))
    };
    let told = tokio::select! {
        biased;
        failure = interrupted() => Err(failure),
        told = story(&args, &mut nemesis, &dice, narrator) => told,
    };
    let ended = nemesis.end(narrator).await;
    told.and(ended)
}

async fn story(args: &ChaosArgs, nemesis: &mut Nemesis, dice: &Dice, narrator: Narrator) -> Result<(), Failure> {
    let endpoints = nemesis.ready().await?;
    narrator.chapter(&format!("clients of both wires at {}; seed {}", endpoints.join(", "), dice.seed()))?;
    // A directory remembers what it handed out, so that each run has one that is new.
    let prefix = format!("{}/{:08x}", args.prefix, rand::random::<u32>());
    let load = Load::start(Plan::new(endpoints.clone(), prefix), Recorder::default(), dice).await?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    nemesis.strike_until(until, &mut dice.named("faults"), load.recorder(), narrator).await?;
    narrator.chapter("all is healed; clients end, and what stands there is read")?;
    let finished = load.finish().await.map_err(unfinished)?;
    if let Some(path) = &args.history {
        write(path, |file| finished.history.write(file))?;
        narrator.say(&format!("history: {}", path.display()))?;
    }
    let report = Report::of(subject(args, dice, &endpoints, &finished), &finished);
    narrator.say(&report.summary())?;
    if let Some(path) = &args.report {
        write(path, |mut file| file.write_all(report.html().as_bytes()))?;
        narrator.say(&format!("report: {}", path.display()))?;
    }
    for (name, verdict) in report.verdicts() {
        if verdict.is_ok() {
            narrator.proved(name)?;
        }
    }
    judge(&report.violations())?;
    if args.local { Ok(()) } else { refusal::clean(&args.prefix, &endpoints).await }
}

fn subject(args: &ChaosArgs, dice: &Dice, endpoints: &[String], finished: &Finished) -> Subject {
    let setting = |name: &str, value: String| (name.to_owned(), value);
    let settings = vec![
        setting("quorate", env!("CARGO_PKG_VERSION").to_owned()),
        setting("seconds", args.seconds.to_string()),
        setting("seed of the schedule", dice.seed().to_string()),
        setting("members", endpoints.join(", ")),
        setting("own cluster", args.local.to_string()),
        setting("prefix", args.prefix.clone()),
        setting("leases may end later by", format!("{} ms", finished.tolerance.lease_late_ms)),
    ];
    Subject { title: "quorate chaos".to_owned(), settings }
}

fn unfinished(error: Unfinished) -> Failure {
    match error {
        Unfinished::Silent(error) => error.into(),
        error => Failure::Failed(error.to_string()),
    }
}

fn judge(violations: &[&Violation]) -> Result<(), Failure> {
    if violations.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = violations.iter().map(|violation| format!("broken: {violation}")).collect();
    Err(Failure::Violated(texts.join("\n")))
}

fn write(path: &Path, content: impl FnOnce(BufWriter<File>) -> std::io::Result<()>) -> Result<(), Failure> {
    let written = File::create(path).and_then(|file| content(BufWriter::new(file)));
    written.map_err(|error| Failure::io(&format!("cannot write {}", path.display()), &error))
}

fn check_file(path: &Path, narrator: Narrator) -> Result<(), Failure> {
    let read = File::open(path).and_then(|file| History::read(BufReader::new(file)));
    let history = read.map_err(|error| Failure::io(&format!("cannot read {}", path.display()), &error))?;
    let violations = check(&history, Tolerance::default());
    judge(&violations.iter().collect::<Vec<_>>())?;
    narrator.proved(&format!("{} operations, every promise that was checked was kept", history.operations.len()))
}

#[cfg(test)]
mod tests {
    use quorate_checkers::history::{Answer, Done, Input, Operation, Outcome};

    use super::*;
    use crate::output::Format;

    fn acknowledged(revision: i64) -> Operation {
        let done = Done::Put { key: "/a".into(), previous: None };
        let outcome = Outcome::Done { revision, answer: Answer::of(vec![done]) };
        let (invoked, completed) = (revision.unsigned_abs() * 10, revision.unsigned_abs() * 10 + 5);
        Operation { client: 1, request: None, invoked, completed, input: Input::put("/a", "1"), outcome }
    }

    fn checked(history: &History) -> Result<(), Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        history.write(&file).unwrap();
        check_file(file.path(), Narrator::new(Output::new(Format::Table)))
    }

    #[test]
    fn a_history_that_was_tampered_with_gives_its_own_exit_code() {
        let history = History { operations: vec![acknowledged(2), acknowledged(3)], ..History::default() };
        checked(&history).unwrap();
        let mut tampered = history;
        tampered.operations[1] = Operation { invoked: 30, completed: 35, ..acknowledged(2) };
        let failure = checked(&tampered).unwrap_err();
        assert_eq!(failure.exit_code(), 9);
        assert!(failure.to_string().contains("two writes were acknowledged with one revision"), "{failure}");
    }

    #[test]
    fn a_file_that_is_no_history_is_not_called_broken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nothing\n").unwrap();
        let failure = check_file(file.path(), Narrator::new(Output::new(Format::Table))).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.to_string().contains("line 1"), "{failure}");
    }

    #[test]
    fn the_whole_tree_is_no_prefix() {
        assert!(prefix("/").is_err() && prefix("a").is_err());
        assert_eq!(prefix("/a/b"), Ok("/a/b".to_owned()));
    }
}

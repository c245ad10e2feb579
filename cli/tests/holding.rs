//! `quorate lock` and `quorate elect`: commands that run while something is held, and how they end.
//!
//! Invariants:
//! - Each test has a member of its own.
#![expect(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// The command, for a cluster.
fn quorate(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command.args(arguments).env("QUORATE_ENDPOINTS", &cluster.places[0].client).stdin(Stdio::null());
    command
}

fn run(cluster: &Cluster, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = quorate(cluster, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn json(cluster: &Cluster, arguments: &[&str]) -> Json {
    let (code, stdout, stderr) = run(cluster, &[arguments, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Starts one that goes on, and gives the first line that it prints.
fn start(cluster: &Cluster, arguments: &[&str]) -> (Child, String) {
    let mut child = quorate(cluster, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

async fn waiting(cluster: &Cluster, lock: &str, count: u64) {
    until("waiters", || async {
        let info = json(cluster, &["lock", lock, "--who"]);
        if info["waiting"] == count { Ok(()) } else { Err(info) }
    })
    .await;
}

/// A wait ends as busy. On a machine that is starved the answer may come later than it is waited for.
async fn busy(cluster: &Cluster, arguments: &[&str]) {
    until("a wait that ends as busy", || async {
        let code = run(cluster, arguments).0;
        if code == 7 { Ok(()) } else { Err(code) }
    })
    .await;
}

#[tokio::test]
async fn a_command_runs_while_its_lock_is_held_and_its_exit_code_is_passed_on() {
    let cluster = Cluster::start(1).await;
    let shown = "echo $QUORATE_LOCK_NAME; echo $QUORATE_LOCK_KEY; quorate=$QUORATE_LOCK_TOKEN; echo $quorate; exit 3";
    let (code, stdout, _) = run(&cluster, &["lock", "jobs", "--", "sh", "-c", shown]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((code, lines[0]), (3, "jobs"));
    assert!(lines[1].starts_with("jobs/") && lines[2].parse::<i64>().unwrap() > 0, "{stdout}");
    assert_eq!(run(&cluster, &["lock", "jobs", "--", "sh", "-c", "kill -9 $$"]).0, 137);
    assert_eq!(run(&cluster, &["lock", "jobs", "--", "/no/such/command"]).0, 127);
    let (code, stdout, _) = run(&cluster, &["lock", "jobs", "--", "quorate-is-not-asked"]);
    assert_eq!((code, stdout.as_str()), (127, ""));
    assert!(json(&cluster, &["lock", "jobs", "--who"])["holders"].as_array().unwrap().is_empty(), "all given back");
    assert_eq!(json(&cluster, &["lease", "list"])["leases"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn what_cannot_be_told_is_not_held() {
    let cluster = Cluster::start(1).await;
    for verb in [&["lock", "told"][..], &["elect", "told", "me"]] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let status = quorate(&cluster, &[verb, &["--ttl", "1h"]].concat()).stdout(full).status().unwrap();
        assert!(!status.success());
        assert_eq!(json(&cluster, &["lease", "list"])["leases"].as_array().unwrap().len(), 0, "{verb:?}");
    }
}

#[tokio::test]
async fn one_holds_others_wait_are_busy_or_are_shown() {
    let cluster = Cluster::start(1).await;
    let (mut holder, token) = start(&cluster, &["lock", "jobs", "--owner", "first"]);
    let (code, _, said) = run(&cluster, &["lock", "jobs", "--try", "--", "true"]);
    assert_eq!(code, 7, "{said}");
    busy(&cluster, &["lock", "jobs", "--wait", "50ms", "--", "true"]).await;
    let mut waiter = quorate(&cluster, &["lock", "jobs", "--", "true"]).spawn().unwrap();
    waiting(&cluster, "jobs", 1).await;
    let (_, table, _) = run(&cluster, &["lock", "jobs", "--who"]);
    assert!(table.starts_with("STATE") && table.contains("holds") && table.contains("first"), "{table}");
    assert!(table.contains(&token) && table.contains("waits"), "{table}");

    // A waiter that is interrupted leaves nothing behind.
    signal(&waiter, Signal::TERM);
    assert_eq!(waiter.wait().unwrap().code(), Some(143));
    waiting(&cluster, "jobs", 0).await;
    signal(&holder, Signal::INT);
    assert_eq!(holder.wait().unwrap().code(), Some(130));
    assert_eq!(run(&cluster, &["lock", "jobs", "--try", "--", "true"]).0, 0);
}

#[tokio::test]
async fn permits_and_shared_holds_go_together() {
    let cluster = Cluster::start(1).await;
    let (mut one, _) = start(&cluster, &["lock", "pool", "--permits", "2"]);
    assert_eq!(run(&cluster, &["lock", "pool", "--permits", "2", "--try", "--", "true"]).0, 0);
    assert_eq!(run(&cluster, &["lock", "pool", "--permits", "3", "--try", "--", "true"]).0, 4, "another number");
    let (mut two, _) = start(&cluster, &["lock", "doc", "--shared"]);
    assert_eq!(run(&cluster, &["lock", "doc", "--shared", "--try", "--", "true"]).0, 0);
    assert_eq!(run(&cluster, &["lock", "doc", "--try", "--", "true"]).0, 7);
    for child in [&mut one, &mut two] {
        signal(child, Signal::INT);
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_signal_reaches_the_command_and_the_lock_is_given_back_after_its_end() {
    let cluster = Cluster::start(1).await;
    let script = "trap 'echo told; exit 9' TERM; echo begun; while :; do sleep 0.05; done";
    let (mut child, line) = start(&cluster, &["lock", "jobs", "--", "sh", "-c", script]);
    assert_eq!(line, "begun");
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(run(&cluster, &["lock", "jobs", "--try", "--", "true"]).0, 0);
}

#[tokio::test]
async fn a_lock_that_is_taken_away_ends_the_command() {
    let cluster = Cluster::start(1).await;
    let (code, _, said) = run(&cluster, &["lock", "jobs", "--force-release", "--yes"]);
    assert_eq!(code, 3, "{said}");
    // One that does not want to end is made to.
    let script = "trap '' TERM; echo begun; while :; do sleep 0.05; done";
    let arguments = ["lock", "jobs", "--owner", "stuck", "--grace", "200ms", "--", "sh", "-c", script];
    let (child, line) = start(&cluster, &arguments);
    assert_eq!(line, "begun");
    let (code, _, said) = run(&cluster, &["lock", "jobs", "--force-release"]);
    assert!(code == 2 && said.contains("--yes"), "{said}");
    let taken = json(&cluster, &["lock", "jobs", "--force-release", "-y"]);
    assert_eq!(taken["released"]["owner"], "stuck");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(8), "{said}");
    assert!(said.contains("is lost") && said.contains("the command was ended"), "{said}");
}

#[tokio::test]
async fn one_leads_and_others_see_who() {
    let cluster = Cluster::start(1).await;
    assert_eq!(run(&cluster, &["elect", "db", "--who"]).0, 3);
    let (mut observer, line) = start(&cluster, &["elect", "--observe", "db"]);
    assert_eq!(line, "nobody leads");
    let (mut leader, term) = start(&cluster, &["elect", "db", "host-7"]);
    let seen = json(&cluster, &["elect", "db", "--who"]);
    assert_eq!((seen["value"].as_str(), seen["term"].to_string()), (Some("host-7"), term));
    busy(&cluster, &["elect", "db", "host-8", "--wait", "50ms", "--", "true"]).await;
    signal(&leader, Signal::INT);
    assert_eq!(leader.wait().unwrap().code(), Some(130));
    let (code, stdout, _) =
        run(&cluster, &["elect", "db", "host-8", "--", "sh", "-c", "echo $QUORATE_ELECTION_TERM; exit 5"]);
    assert!(code == 5 && stdout.trim().parse::<i64>().is_ok(), "{code} {stdout}");
    signal(&observer, Signal::INT);
    assert_eq!(observer.wait().unwrap().code(), Some(130));
}

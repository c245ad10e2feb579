//! The demonstration, as a user runs it, and cut short.
//!
//! Invariants:
//! - After it has ended, in whatever way, no member runs and no directory is left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value as Json;

fn demo(temp_dir: &Path, flags: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["demo", "--output", "json"]).args(flags).env("TMPDIR", temp_dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Process ids that the demo has named so far.
fn process_id(line: &Json) -> Option<Pid> {
    let text = line["text"].as_str().unwrap();
    let (_, after) = text.split_once("is process ")?;
    Pid::from_raw(after.split(',').next().unwrap().parse().unwrap())
}

fn nothing_is_left(temp_dir: &Path, members: &[Pid]) {
    assert_eq!(members.len(), 3);
    for member in members {
        assert!(test_kill_process(*member).is_err(), "{member:?} still runs");
    }
    assert_eq!(std::fs::read_dir(temp_dir).unwrap().count(), 0, "the directory is left");
}

#[test]
fn the_demo_checks_its_claims_and_cleans_up() {
    let temp_dir = tempfile::tempdir().unwrap();
    let mut child = demo(temp_dir.path(), &["--writes", "50"]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let lines: Vec<Json> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    let status = child.wait().unwrap();
    let checked = lines.iter().filter(|line| line["kind"] == "checked").count();
    assert!(status.success(), "{status}: {lines:#?}");
    assert_eq!(checked, 6, "{lines:#?}");
    let said = |words: &str| lines.iter().any(|line| line["text"].as_str().unwrap().contains(words));
    assert!(said("killed n") && said("longest time between two acknowledged writes"), "{lines:#?}");
    assert!(said("read back and equal, 0 lost") && said("its lease ended"), "{lines:#?}");
    nothing_is_left(temp_dir.path(), &lines.iter().filter_map(process_id).collect::<Vec<_>>());
}

#[test]
fn ctrl_c_stops_the_members_and_removes_the_directory() {
    let temp_dir = tempfile::tempdir().unwrap();
    let mut child = demo(temp_dir.path(), &["--writes", "1000000"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut members = Vec::new();
    while members.len() < 3 {
        let line: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        members.extend(process_id(&line));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    nothing_is_left(temp_dir.path(), &members);
}

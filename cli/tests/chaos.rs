//! `quorate chaos` as a user runs it: on a cluster of its own, and what it does not do to one of others.
//!
//! Invariants:
//! - After it has ended, in whatever way, no member runs and no directory is left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use quorate_tests::cluster::Cluster;

fn chaos(temp_dir: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command.arg("chaos").args(flags).env("TMPDIR", temp_dir).stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_run_on_a_cluster_of_its_own_writes_a_report_and_a_history_that_can_be_checked_again() {
    let (temp_dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (report, history) = (kept.path().join("report.html"), kept.path().join("history.jsonl"));
    let files = [report.to_str().unwrap(), history.to_str().unwrap()];
    let run = chaos(temp_dir.path(), &["--local", "--seconds", "8", "--report", files[0], "--history", files[1]]);
    assert!(run.status.success(), "{}", said(&run));
    assert_eq!(std::fs::read_dir(temp_dir.path()).unwrap().count(), 0, "the directory is left");

    let page = std::fs::read_to_string(&report).unwrap();
    for part in ["Every promise that was checked was kept.", "<svg", "linearizable", "<h2>Faults</h2>"] {
        assert!(page.contains(part), "{part} is not in the report");
    }
    let checked = chaos(temp_dir.path(), &["--check", files[1]]);
    assert!(checked.status.success(), "{}", said(&checked));

    // As if the last change had never been: whoever was told of it was told something wrong.
    let text = std::fs::read_to_string(&history).unwrap();
    let tampered: Vec<String> = text.lines().map(tampered).collect();
    std::fs::write(&history, tampered.join("\n")).unwrap();
    let checked = chaos(temp_dir.path(), &["--check", files[1]]);
    assert_eq!(checked.status.code(), Some(9), "{}", said(&checked));
    assert!(said(&checked).contains("broken: "), "{}", said(&checked));
}

/// A line of a history; of the log, without its last change.
fn tampered(line: &str) -> String {
    let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
    if let Some(changes) = record.get_mut("log").and_then(|log| log["changes"].as_array_mut()) {
        changes.pop().unwrap();
    }
    record.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_others_is_broken_only_where_and_when_its_owner_says_so() {
    let temp_dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(3).await;
    let endpoints = cluster.places.iter().map(|place| place.client.clone()).collect::<Vec<_>>().join(",");
    let consent = "--yes-this-is-a-test-cluster";

    let refused = chaos(temp_dir.path(), &["--endpoints", &endpoints]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains(consent), "{}", said(&refused));

    let client = cluster.client().await;
    client.put("/mine/own", "1").await.unwrap();
    // Not below the prefix, but before what is.
    client.put("/mine-too", "1").await.unwrap();
    let refused = chaos(temp_dir.path(), &["--endpoints", &endpoints, consent, "--prefix", "/mine"]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(said(&refused).contains("/mine/own stands there"), "{}", said(&refused));

    let (broken, mended) = (temp_dir.path().join("broken"), temp_dir.path().join("mended"));
    let hook = format!("touch=touch {}=touch {}", broken.display(), mended.display());
    let flags = ["--endpoints", &endpoints, consent, "--seconds", "10", "--fault-command", &hook];
    let run = tokio::task::block_in_place(|| chaos(temp_dir.path(), &flags));
    assert!(run.status.success(), "{}", said(&run));
    assert_eq!(broken.exists(), mended.exists(), "what was broken was mended");
    assert!(said(&run).contains("touch") || said(&run).contains("transfer of leadership"), "{}", said(&run));
    assert_eq!(client.prefix("/quorate-chaos").await.unwrap().kvs.len(), 0, "it cleans up");
    assert_eq!(client.get("/mine/own").await.unwrap().into_value(), Some("1".into()), "what stood there stays");
}

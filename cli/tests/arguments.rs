//! The built command, without a cluster: help, usage errors, exit codes, completions.
//!
//! Invariants:
//! - No test needs a network beyond an address on which nobody listens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

const VERBS: [&str; 22] = [
    "serve",
    "demo",
    "get",
    "put",
    "delete",
    "ls",
    "tree",
    "stat",
    "cp",
    "mv",
    "watch",
    "txn",
    "lease",
    "lock",
    "elect",
    "service",
    "member",
    "status",
    "snapshot",
    "compact",
    "completions",
    "help",
];

fn quorate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Refused as wrong usage, with these words.
#[track_caller]
fn refused(arguments: &[&str], words: &str) {
    let output = quorate(arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?} said {said}");
    assert!(said.contains(words), "{arguments:?}: {words:?} is not in {said}");
    assert!(output.stdout.is_empty(), "nothing goes to stdout on a usage error");
}

#[test]
fn the_help_names_every_verb_and_exit_code() {
    let output = quorate(&["--help"]);
    let help = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    for verb in VERBS {
        assert!(help.lines().any(|line| line.trim_start().starts_with(verb)), "{verb} is not in {help}");
    }
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "130"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(code)), "{code} is not in {help}");
    }
    for word in ["QUORATE_ENDPOINTS", "127.0.0.1:2379", "QUORATE_TIMEOUT", "json"] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
}

#[test]
fn the_help_of_every_verb_has_an_example_and_no_colours_in_a_pipe() {
    for verb in VERBS.iter().filter(|verb| **verb != "help") {
        let output = quorate(&[verb, "--help"]);
        let help = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{verb}");
        assert!(help.contains("xample"), "{verb} has no example: {help}");
        assert!(help.contains(&format!("quorate {verb}")), "{verb} has no example of its own: {help}");
        assert!(!help.contains('\x1b'), "{verb} has colours: {help:?}");
    }
}

#[test]
fn the_transaction_language_is_in_its_help() {
    let help = stdout(&quorate(&["txn", "--help"]));
    for word in ["compare", "then", "else", "put", "delete-tree", "range", "ttl="] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
}

#[test]
fn no_verb_is_wrong_usage() {
    assert_eq!(quorate(&[]).status.code(), Some(2));
    refused(&["frobnicate"], "frobnicate");
}

#[test]
fn bad_arguments_are_refused_with_the_way_out() {
    refused(&["get"], "KEY");
    refused(&["get", ""], "the key is empty");
    refused(&["get", &"k".repeat(4097)], "4097 bytes");
    refused(&["get", "/a", "--revision", "0"], "--revision");
    refused(&["get", "/a", "--limit", "3"], "--prefix");
    refused(&["put", "/a"], "VALUE");
    refused(&["put", "/a", "x", "--ttl", "5"], "5s or 5ms");
    refused(&["put", "/a", "x", "--lease", "0"], "not 0");
    refused(&["put", "/a", "x", "--lease", "7", "--ttl", "5s"], "cannot be used with");
    refused(&["put", "/a", "x", "--if-absent", "--if-present"], "cannot be used with");
    refused(&["delete", "/a", "--recursive", "--prefix"], "cannot be used with");
    refused(&["ls", "config"], "\"/config\"");
    refused(&["ls", "/a//b"], "empty segment");
    refused(&["ls", "/a/"], "ends with");
    refused(&["stat", "//"], "empty segment");
    refused(&["cp", "/", "/b"], "root");
    refused(&["mv", "/a"], "TO");
    refused(&["watch", "/a", "--children", "--subtree"], "cannot be used with");
    refused(&["watch", "/a", "--no-puts", "--no-deletes"], "cannot be used with");
    refused(&["lease", "grant", "soon"], "unit");
    refused(&["lease", "ttl", "xyz"], "hexadecimal");
    refused(&["compact"], "REVISION");
    refused(&["compact", "5", "--keep", "5"], "cannot be used with");
    refused(&["completions", "cmd"], "cmd");
    refused(&["status", "--endpoints", "nonsense"], "host:port");
    refused(&["status", "--timeout", "5"], "5s or 5ms");
    refused(&["status", "--output", "xml"], "xml");
}

#[test]
fn a_transaction_that_does_not_parse_is_refused_before_anything_is_sent() {
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), "put /a x\nfrob /b\n").unwrap();
    let name = script.path().display().to_string();
    refused(&["txn", &name, "--endpoints", "127.0.0.1:1"], "line 2: \"frob\" is not a statement");
}

#[test]
fn a_value_from_a_file_that_is_not_there_is_named() {
    let output = quorate(&["put", "/a", "@/no/such/file", "--endpoints", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/no/such/file"), "{}", stderr(&output));
}

#[test]
fn nobody_there_is_unavailable() {
    let nobody = ["--endpoints", "127.0.0.1:1", "--timeout", "300ms"];
    for verb in [&["get", "/a"][..], &["put", "/a", "x"], &["ls"], &["status"], &["member", "list"]] {
        let output = quorate(&[verb, &nobody].concat());
        assert_eq!(output.status.code(), Some(5), "{verb:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("quorate: "), "{verb:?}: {}", stderr(&output));
    }
}

#[test]
fn with_json_an_error_is_json_too() {
    let output = quorate(&["get", "/a", "--endpoints", "127.0.0.1:1", "--timeout", "300ms", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["kind"], "unavailable");
    assert_eq!(error["exit_code"], 5);
}

#[test]
fn settings_of_every_verb_come_from_the_environment_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let output = command.args(["get", "/a"]).env("QUORATE_ENDPOINTS", "nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("host:port"), "{}", stderr(&output));
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = quorate(&["completions", shell]);
        let script = stdout(&output);
        assert!(output.status.success(), "{shell}");
        assert!(script.contains("keep-alive") && script.contains("snapshot"), "{shell}");
    }
}

#[test]
fn restoring_needs_a_file_and_a_directory() {
    refused(&["snapshot", "restore"], "FILE");
    refused(&["snapshot", "restore", "x"], "--data-dir");
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("d").display().to_string();
    let output = quorate(&["snapshot", "restore", "/no/such/file", "--data-dir", &data_dir]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/no/such/file"), "{}", stderr(&output));
}

//! `quorate serve` as far as its settings: help, precedence, and what is refused before anything is touched.
//!
//! Invariants:
//! - No test here starts a member: every start is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs `quorate serve` in a directory of its own.
fn serve(dir: &TempDir, flags: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command.arg("serve").args(flags).envs(variables.iter().copied()).current_dir(dir.path());
    command.stdin(Stdio::null()).output().unwrap()
}

/// Refused as wrong usage with all these words, and without having made anything.
#[track_caller]
fn refused(flags: &[&str], variables: &[(&str, &str)], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let output = serve(&dir, flags, variables);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{flags:?} {variables:?} said {said}");
    for word in words {
        assert!(said.contains(word), "{flags:?} {variables:?}: {word:?} is not in {said}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a refused start makes no directory");
}

#[test]
fn the_help_shows_default_unit_and_bounds_of_each_setting() {
    let dir = tempfile::tempdir().unwrap();
    let output = serve(&dir, &["--help"], &[]);
    let help = String::from_utf8(output.stdout).unwrap();
    // Lines are wrapped at the width of the terminal.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = [
        "--name <NAME>",
        "--listen <HOST:PORT>",
        "[default: 127.0.0.1:2379]",
        "--cluster <NAME=HOST:PORT,...>",
        "--join <HOST:PORT>",
        "--heartbeat-ms <MS>",
        "[default: 75 ms; from 10 to 5000]",
        "--election-min-ms <MS>",
        "[default: 250 ms;",
        "--value-bytes-max <BYTES>",
        "[default: 1572864 bytes;",
        "--compact-age-s <SECONDS>",
        "--config <FILE>",
        "QUORATE_CONFIG",
        "--force-new-cluster",
        "--yes",
    ];
    for words in expected {
        assert!(help.contains(words), "{words:?} is not in {help}");
    }
}

#[test]
fn unknown_settings_are_refused_wherever_they_stand() {
    refused(&["--lisen", "127.0.0.1:1"], &[], &["--lisen", "--listen"]);
    refused(&[], &[("QUORATE_LISEN", "127.0.0.1:1")], &["QUORATE_LISEN", "listen"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "lisen = \"127.0.0.1:1\"\n").unwrap();
    let name = file.path().display().to_string();
    refused(&["--config", &name], &[], &[&name, "lisen", "listen"]);
    refused(&[], &[("QUORATE_CONFIG", &name)], &[&name, "lisen"]);
}

#[test]
fn contradictory_settings_are_refused() {
    let both = ["--name", "a", "--cluster", "a=127.0.0.1:1", "--join", "127.0.0.1:2"];
    refused(&both, &[], &["--cluster", "--join", "exclude"]);
    refused(
        &["--cluster", "a=127.0.0.1:1"],
        &[("QUORATE_JOIN", "127.0.0.1:2"), ("QUORATE_NAME", "a")],
        &["QUORATE_JOIN"],
    );
    refused(&["--name", "b", "--cluster", "a=127.0.0.1:1"], &[], &["does not list", "\"b\""]);
    refused(&["--heartbeat-ms", "200", "--election-min-ms", "250"], &[], &["election-min-ms", "heartbeat-ms"]);
    refused(&["--yes"], &[], &["--force-new-cluster"]);
}

#[test]
fn values_out_of_bounds_and_unreadable_files_are_refused() {
    refused(&["--heartbeat-ms", "1"], &[], &["--heartbeat-ms", "10 to 5000"]);
    refused(&[], &[("QUORATE_HEARTBEAT_MS", "soon")], &["QUORATE_HEARTBEAT_MS", "\"soon\""]);
    refused(&["--listen", "localhost"], &[], &["--listen", "HOST:PORT"]);
    refused(&["--config", "/no/such/file.toml"], &[], &["/no/such/file.toml"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "name = = 1\n").unwrap();
    refused(&["--config", &file.path().display().to_string()], &[], &[&file.path().display().to_string()]);
    refused(&["--log", "a=b=c"], &[], &["--log"]);
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "heartbeat-ms = 1\n").unwrap();
    let name = file.path().display().to_string();
    let variable = [("QUORATE_HEARTBEAT_MS", "2"), ("QUORATE_CONFIG", name.as_str())];
    refused(&["--heartbeat-ms", "3"], &variable, &["--heartbeat-ms", "\"3\""]);
    refused(&[], &variable, &["QUORATE_HEARTBEAT_MS", "\"2\""]);
    refused(&[], &variable[1..], &[&name, "\"1\""]);
}

#[test]
fn a_new_cluster_is_not_forced_without_an_answer() {
    refused(&["--force-new-cluster"], &[], &["--yes"]);
}

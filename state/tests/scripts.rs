//! Runs the scripts in `state/scripts`: the rules of the machine as commands and what they answer, one rule a file.
//!
//! A script is text: `#` comments, `mark: name` (a coverage mark that the script must hit), `> command`, and below
//! each command its expected output. With `QUORATE_REWRITE_SCRIPTS=1` the expectations are rewritten instead of
//! compared. `> wrote <command>` shows every key that the command wrote. The commands are in `parse.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

#[path = "scripts_runner/parse.rs"]
mod parse;
#[path = "scripts_runner/print.rs"]
mod print;
#[path = "scripts_runner/run.rs"]
mod run;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    // Not what it was when this was compiled: a target directory may serve several checkouts.
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join(name)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The script again, with the output that its commands have now.
fn replayed(script: &str) -> String {
    let mut session = run::Session::new();
    let mut out = String::new();
    let mut after_command = false;
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").unwrap();
            out.push_str(&session.run(command));
            after_command = true;
        } else if line.is_empty() || line.starts_with('#') || line.starts_with("mark: ") {
            writeln!(out, "{line}").unwrap();
            after_command = false;
        } else {
            assert!(after_command, "a line that is no command, comment or output: {line}");
        }
    }
    out
}

/// Runs `action` and sees that it hits each mark.
macro_rules! marks {
    ($($mark:ident),* $(,)?) => {
        fn with_marks<T>(marks: &[&str], action: &mut dyn FnMut() -> T) -> T {
            match marks.split_first() {
                None => action(),
                $(Some((&stringify!($mark), rest)) => {
                    cov_mark::check!($mark);
                    with_marks(rest, action)
                })*
                Some((unknown, _)) => panic!("the mark {unknown} is not in the list of tests/scripts.rs"),
            }
        }
    };
}

marks! {
    checkpoint_passes_over_missing_lease, command_above_version, compact_below_mark, compact_in_future, copy_destination_exists,
    copy_of_nothing, copy_overlap, dedup_acknowledged, dedup_expired, dedup_forgets, dedup_replayed, dedup_reused,
    delete_of_a_put_key, digest_mark_stored, duplicate_put, empty_range_as_missing_key, existence_has_no_order, expect_failed, key_created,
    gap_leapt_over, lease_exists, not_a_path, not_empty, own_lease_becomes_shared, own_lease_ends_with_its_key, parent_missing,
    past_list_prefix_directory, purge_drops_records, purge_step_is_full, put_keep_value_of_missing_key,
    range_over_long_history,
    put_with_lease_of_another_key, put_with_missing_lease, revoke_missing_lease, revoke_passes_over_missing_lease,
    sequence_name_taken, too_many_changes, tree_child_stays, tree_child_was_there, tree_directory_appears,
    tree_directory_vanishes, ttl_out_of_bounds, txn_reads_compacted, txn_reads_future, txn_rolled_back,
}

fn marks_of(script: &str) -> Vec<&str> {
    script.lines().filter_map(|line| line.strip_prefix("mark: ")).collect()
}

#[test]
fn scripts_say_what_the_machine_does() {
    let rewrite = std::env::var_os("QUORATE_REWRITE_SCRIPTS").is_some();
    let mut wrong = Vec::new();
    let scripts = files(&folder("scripts"), "txt");
    assert!(!scripts.is_empty(), "no scripts");
    for path in scripts {
        let script = std::fs::read_to_string(&path).unwrap();
        let found = with_marks(&marks_of(&script), &mut || replayed(&script));
        if found == script {
            continue;
        }
        if rewrite {
            std::fs::write(&path, found).unwrap();
        } else {
            let differs = found.lines().zip(script.lines()).find(|(found, wanted)| found != wanted);
            wrong.push(format!("{}: {differs:?} (found, wanted)\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_mark_is_hit_by_a_script() {
    let scripts: Vec<_> =
        files(&folder("scripts"), "txt").iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let named: BTreeSet<_> = scripts.iter().flat_map(|script| marks_of(script)).map(str::to_owned).collect();
    let mut missing = BTreeSet::new();
    for path in files(&folder("src"), "rs") {
        let source = std::fs::read_to_string(&path).unwrap();
        for part in source.split("cov_mark::hit!(").skip(1) {
            let mark = part.split(')').next().unwrap_or_default().to_owned();
            if !named.contains(&mark) {
                missing.insert(mark);
            }
        }
    }
    assert!(missing.is_empty(), "no script names the marks {missing:?}");
}

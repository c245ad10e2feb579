//! The house rules that a program can check, over the whole workspace: headers, sizes, words that must not be left
//! behind, files that no module names, and paths that the documents name.
//!
//! The rules are docs/architecture.md's; each test names its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// No source file is longer.
const LINES_MAX: usize = 500;

/// Crates and folders that hold code of the workspace.
const CODE: [&str; 10] =
    ["proto", "state", "server", "client", "checkers", "chaos", "cli", "tests", "bench", "examples"];

fn root() -> PathBuf {
    // Not what it was when this was compiled: a target directory may serve several checkouts.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    Path::new(&package).parent().unwrap().to_path_buf()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name.starts_with("target") {
            continue;
        }
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in CODE {
        walk(&root().join(folder), &mut found);
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    found.sort();
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Tests, by where they stand: a folder of a crate named `tests`, or a file that a module keeps its tests in.
/// The harness, in `tests/src`, is code like any other.
fn is_test(path: &Path) -> bool {
    let shown = shown(path);
    shown.ends_with("tests.rs")
        || shown.contains("/tests/") && !shown.starts_with("tests/src/")
        || shown.starts_with("tests/") && !shown.starts_with("tests/src/")
}

fn report(rule: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

#[test]
fn every_file_begins_by_saying_what_lives_in_it() {
    let mut wrong = Vec::new();
    for path in rust_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.starts_with("//! ") {
            wrong.push(shown(&path));
        }
    }
    report("files without a //! header", &wrong);
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for path in rust_files().into_iter().filter(|path| !is_test(path)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > LINES_MAX && !text.contains("@generated") {
            wrong.push(format!("{} has {lines} lines, at most {LINES_MAX} are allowed", shown(&path)));
        }
    }
    report("files that are too long", &wrong);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together, so that this file does not find itself.
    let words = [["to", "do!("], ["unimple", "mented!("], ["d", "bg!("], ["FIX", "ME"], ["TO", "DO:"], ["XX", "X:"]]
        .map(|p| p.concat());
    let mut wrong = Vec::new();
    for path in rust_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    report("left for later", &wrong);
}

/// Module names that a file declares: `mod a;` and `pub(crate) mod b;`, with the `#[path = "…"]` before it.
fn declared(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let parent = path.parent().unwrap();
    let is_root = ["lib", "main", "mod", "build"].contains(&stem.as_str()) || is_crate_root(path);
    let folder = if is_root { parent.to_path_buf() } else { parent.join(&stem) };
    let mut found = Vec::new();
    let mut named: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(file) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            named = Some(file.to_owned());
            continue;
        }
        let Some(name) = line.strip_suffix(';').and_then(|line| {
            let (before, name) = line.rsplit_once("mod ")?;
            let before = before.trim();
            (before.is_empty() || before.starts_with("pub")).then_some(name)
        }) else {
            continue;
        };
        match named.take() {
            Some(file) => found.push(parent.join(file)),
            None => found.extend([folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")]),
        }
    }
    found
}

/// What cargo itself compiles as a root: lib, main, build script, tests, benches, examples, binaries.
fn is_crate_root(path: &Path) -> bool {
    let shown = shown(path);
    let parts: Vec<_> = shown.split('/').collect();
    match parts.as_slice() {
        [krate @ .., "src", "lib.rs" | "main.rs"] => root().join(krate.join("/")).join("Cargo.toml").exists(),
        [_, "build.rs"]
        | [_, "src", "bin", _]
        | [_, "tests" | "benches" | "examples", _]
        | ["examples", _]
        | [_, "tests" | "benches" | "examples", _, "main.rs"] => true,
        // Targets with a path of their own, as Cargo.toml names them.
        [krate, rest @ ..] => {
            let manifest = std::fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap_or_default();
            manifest.contains(&format!("path = \"{}\"", rest.join("/")))
        }
        [] => false,
    }
}

#[test]
fn every_file_is_in_the_module_tree() {
    let files = rust_files();
    let mut named = BTreeSet::new();
    for path in &files {
        named.extend(declared(path, &std::fs::read_to_string(path).unwrap()));
    }
    let outside = files.iter().filter(|path| !is_crate_root(path) && !named.contains(*path));
    report("files that no module names", &outside.map(|path| shown(path)).collect::<Vec<_>>());
}

/// Words in backticks that look like a path of the repository.
fn paths_named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        for word in line.split('`').skip(1).step_by(2) {
            let top = word.split('/').next().unwrap_or_default();
            let known = CODE.contains(&top) || ["docs", "deploy"].contains(&top);
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
            if known && word.contains('/') && plain {
                found.push(word.trim_end_matches('/').to_owned());
            }
        }
    }
    found
}

#[test]
fn every_path_that_the_documents_name_exists() {
    let mut documents = Vec::new();
    walk(&root().join("docs"), &mut documents);
    documents.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    let mut wrong = Vec::new();
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md") && path.exists()) {
        for path in paths_named(&std::fs::read_to_string(document).unwrap()) {
            let inside = !Path::new(&path).components().any(|part| part == Component::ParentDir);
            if inside && !root().join(&path).exists() {
                wrong.push(format!("{} names {path}", shown(document)));
            }
        }
    }
    report("paths that do not exist", &wrong);
}

#[test]
fn paths_in_documents_are_recognised() {
    let text = "see `state/src/apply.rs`, `docs/`, `docs/x.md`, `a/b`, `GET /v1`\n```\n`state/none`\n```\n`tests/*.rs`";
    assert_eq!(paths_named(text), ["state/src/apply.rs", "docs", "docs/x.md"]);
}

#[test]
fn declared_modules_are_recognised() {
    let text = "mod a;\npub(crate) mod b;\n#[path = \"x/y.rs\"]\nmod c;\n// mod d;\nmod e {\n";
    let at = root().join("state/src/lib.rs");
    let found: Vec<_> = declared(&at, text).iter().map(|path| shown(path)).collect();
    assert_eq!(
        found,
        ["state/src/a.rs", "state/src/a/mod.rs", "state/src/b.rs", "state/src/b/mod.rs", "state/src/x/y.rs"]
    );
}

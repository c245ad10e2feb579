//! Every client verb of the built command against one real member: outputs, formats, exit codes.
//!
//! Invariants:
//! - The member is killed and its directory removed when the test ends, also when it fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    command
}

fn free_address() -> String {
    quorate_tests::address::free().to_string()
}

/// `quorate serve` as a single member.
struct Member {
    child: Child,
    address: String,
    peer_address: String,
    dir: TempDir,
}

impl Member {
    /// Starts it and waits until it answers.
    fn start() -> Self {
        let (address, peer_address, dir) = (free_address(), free_address(), tempfile::tempdir().unwrap());
        let child = Self::spawn(&address, &peer_address, &dir, "d");
        let member = Self { child, address, peer_address, dir };
        member.wait();
        member
    }

    fn spawn(address: &str, peer_address: &str, dir: &TempDir, data_dir: &str) -> Child {
        let log = std::fs::File::create(dir.path().join(format!("{data_dir}.log"))).unwrap();
        let mut serve = command();
        serve.args(["serve", "--listen", address, "--peer-listen", peer_address, "--data-dir"]);
        serve.arg(dir.path().join(data_dir)).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.run(&["status", "--timeout", "1s"]).status.code() != Some(0) {
            assert!(Instant::now() < deadline, "the member does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it logged, before and after a restart.
    fn log(&self) -> String {
        let logs = ["d.log", "restored.log"].map(|name| std::fs::read_to_string(self.dir.path().join(name)));
        logs.into_iter().flatten().collect()
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut client = command();
        client.args(arguments).env("QUORATE_ENDPOINTS", &self.address);
        client
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.client(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a verb that must succeed; its stdout.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Json {
        serde_json::from_str(&self.ok(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    /// Runs a verb that must end with this code and these words.
    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, words: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {words:?} is not in {said}");
    }

    fn with_stdin(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child =
            self.client(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it with SIGINT, as Ctrl-C does.
fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn values_pipe_byte_for_byte() {
    let member = Member::start();
    member.ok(&["put", "/a/text", "hällo"]);
    assert_eq!(member.ok(&["get", "/a/text"]), "hällo");
    assert_eq!(member.with_stdin(&["put", "/a/bytes", "-"], &[0xff, 0, b'\n']).status.code(), Some(0));
    assert_eq!(member.run(&["get", "/a/bytes"]).stdout, [0xff, 0, b'\n']);
    let file = member.dir.path().join("value");
    std::fs::write(&file, "from a file").unwrap();
    member.ok(&["put", "/a/file", &format!("@{}", file.display())]);
    assert_eq!(member.ok(&["get", "/a/file"]), "from a file");
    member.ok(&["put", "/a/at", "@@x"]);
    assert_eq!(member.ok(&["get", "/a/at"]), "@x");
    member.ok(&["put", "/a/minus", "-5"]);
    assert_eq!(member.ok(&["get", "/a/minus"]), "-5");

    let text = member.json(&["get", "/a/text"]);
    assert_eq!((text["key"].as_str(), text["value"].as_str()), (Some("/a/text"), Some("hällo")));
    assert_eq!((text["version"].as_i64(), text["lease"].is_null()), (Some(1), true));
    assert!(text["modified_unix_ms"].as_i64().unwrap() > 1_600_000_000_000);
    assert_eq!(member.json(&["get", "/a/bytes"])["value_base64"], "/wAK");

    assert_eq!(member.ok(&["get", "/a/", "--prefix", "--keys-only"]), "/a/at\n/a/bytes\n/a/file\n/a/minus\n/a/text\n");
    assert_eq!(member.ok(&["get", "/a/", "--prefix", "--limit", "1"]), "/a/at\t@x\n");
    member.fails(&["get", "/none"], 3, "/none does not exist");
}

#[test]
fn conditions_of_put_and_delete() {
    let member = Member::start();
    let first = member.json(&["put", "/a", "1", "--if-absent"])["revision"].as_i64().unwrap();
    member.fails(&["put", "/a", "2", "--if-absent"], 4, "");
    member.fails(&["put", "/b", "2", "--if-present"], 4, "");
    member.fails(&["put", "/a", "2", "--if-revision", "999"], 4, "");
    let second = member.json(&["put", "/a", "2", "--if-revision", &first.to_string(), "--previous"]);
    assert_eq!(second["previous"]["value"], "1");
    assert_eq!(member.ok(&["get", "/a", "--revision", &first.to_string()]), "1");
    member.fails(&["put", "/none/below", "x", "--must-have-parent"], 4, "");
    let numbered = member.json(&["put", "/queue", "x", "--sequential"])["key"].as_str().unwrap().to_owned();
    assert!(numbered.starts_with("/queue/0000000000000000000"), "{numbered}");
    member.fails(&["delete", "/a", "--if-revision", &first.to_string()], 4, "");
    member.fails(&["delete", "/queue", "--must-be-empty"], 4, "");
    assert_eq!(member.json(&["delete", "/a"])["deleted"], 1);
    member.fails(&["delete", "/a"], 3, "/a does not exist");
    assert_eq!(member.json(&["delete", "/a", "--ignore-missing"])["deleted"], 0);
    assert_eq!(member.json(&["delete", "/queue", "--recursive"])["deleted"], 1);
    member.fails(&["put", "/x", "y", "--lease", "77"], 3, "");
}

#[test]
fn a_tree_of_paths() {
    let member = Member::start();
    for (key, value) in [("/c/db/url", "u"), ("/c/db/pool", "20"), ("/c/name", "n"), ("/c-x", "y")] {
        member.ok(&["put", key, value]);
    }
    assert_eq!(member.ok(&["ls", "/c"]), "db/\nname\n");
    assert_eq!(member.ok(&["ls"]), "c/\nc-x\n");
    let long = member.ok(&["ls", "/c", "--long"]);
    assert!(long.starts_with("NAME") && long.contains("name") && long.lines().count() == 3, "{long}");
    let children = member.json(&["ls", "/c"])["children"].clone();
    assert_eq!(children[0], serde_json::json!({"name": "db", "is_key": false, "is_directory": true, "kv": null}));
    assert_eq!(children[1]["kv"]["value"], "n");
    let drawn = member.ok(&["tree", "/c", "--values"]);
    let expected = "/c\n├── db/\n│   ├── pool = 20\n│   └── url = u\n└── name = n\n\ndirectories: 1, keys: 3\n";
    assert_eq!(drawn, expected);
    assert_eq!(member.json(&["tree", "/c"])["children"][0]["children"][1]["name"], "url");
    assert_eq!(member.json(&["stat", "/c"])["directory"]["children"], 2);
    assert_eq!(member.json(&["stat", "/c/name"])["value_bytes"], 1);
    assert!(member.ok(&["stat", "/c"]).contains("children"));
    assert_eq!(member.json(&["cp", "/c", "/d"])["copied"], 3);
    assert_eq!(member.json(&["mv", "/d/db", "/e"])["moved"], 2);
    assert_eq!(member.ok(&["get", "/e/pool"]), "20");
    member.fails(&["get", "/d/db/pool"], 3, "");
    member.fails(&["ls", "/none"], 3, "/none does not exist");
    member.fails(&["stat", "/none"], 3, "/none does not exist");
    member.fails(&["tree", "/none"], 3, "/none");
    member.fails(&["cp", "/none", "/x"], 3, "");
}

#[test]
fn a_watch_prints_a_line_an_event_and_resumes_from_a_revision() {
    let member = Member::start();
    let first = member.json(&["put", "/w/a", "1"])["revision"].as_i64().unwrap();
    let mut watch = member
        .client(&["watch", "--subtree", "/w", "--from", &first.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().contains("put     /w/a = 1"));
    member.ok(&["put", "/w/b", "2"]);
    assert!(next().contains("put     /w/b = 2"));
    member.ok(&["delete", "/w/a"]);
    assert!(next().contains("delete  /w/a"));
    interrupt(&watch);
    assert_eq!(watch.wait().unwrap().code(), Some(130));

    let from = first.to_string();
    let again = member.ok(&["watch", "--subtree", "/w", "--from", &from, "--count", "3", "--prev", "--output", "json"]);
    let events: Vec<Json> = again.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 3);
    assert_eq!((&events[0]["event"], &events[0]["kv"]["value"]), (&"put".into(), &"1".into()));
    assert_eq!((&events[2]["event"], &events[2]["previous"]["value"]), (&"delete".into(), &"1".into()));
}

#[test]
fn a_transaction_takes_one_side_or_the_other() {
    let member = Member::start();
    let script = b"compare missing /lock\nput /lock me\nelse\nget /lock\n";
    let won = member.with_stdin(&["txn", "--output", "json"], script);
    assert_eq!(won.status.code(), Some(0), "{}", String::from_utf8_lossy(&won.stderr));
    assert_eq!(serde_json::from_slice::<Json>(&won.stdout).unwrap()["succeeded"], true);
    let lost = member.with_stdin(&["txn", "--output", "json"], script);
    let answer: Json = serde_json::from_slice(&lost.stdout).unwrap();
    assert_eq!(lost.status.code(), Some(4));
    assert_eq!((&answer["succeeded"], &answer["results"][0]["get"]["value"]), (&false.into(), &"me".into()));
    let text = member.with_stdin(&["txn"], b"put /x 1\nrange /x /y\ndelete /lock");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("put     /x") && text.contains("/x = 1") && text.contains("delete  1 keys"), "{text}");
}

#[test]
fn leases_own_keys() {
    let member = Member::start();
    let lease = member.ok(&["lease", "grant", "60s"]).trim().to_owned();
    member.ok(&["put", "/l/a", "x", "--lease", &lease]);
    assert_eq!(member.json(&["get", "/l/a"])["lease"], lease.as_str());
    let left = member.json(&["lease", "ttl", &lease, "--keys"]);
    assert_eq!((&left["granted_ttl_ms"], &left["keys"][0]["key"]), (&60_000.into(), &"/l/a".into()));
    assert!(member.ok(&["lease", "list"]).contains(&lease));
    assert!(member.ok(&["lease", "keep-alive", &lease, "--once"]).contains("60000 ms"));
    assert_eq!(member.json(&["lease", "revoke", &lease])["deleted"], 1);
    member.fails(&["get", "/l/a"], 3, "");
    member.fails(&["lease", "ttl", &lease], 3, &lease);
    member.fails(&["lease", "keep-alive", &lease, "--once"], 3, &lease);
    member.fails(&["lease", "revoke", &lease], 3, "");
    let chosen = member.json(&["lease", "grant", "60s", "--id", "2a"]);
    assert_eq!(chosen["lease"], "000000000000002a");
    member.fails(&["lease", "grant", "60s", "--id", "2a"], 4, "");
    member.ok(&["put", "/l/own", "x", "--ttl", "60s"]);
    assert!(member.json(&["get", "/l/own"])["lease"].is_string());
}

#[test]
fn status_members_and_compaction() {
    let member = Member::start();
    for value in ["1", "2", "3"] {
        member.ok(&["put", "/a", value]);
    }
    let status = member.json(&["status"]);
    let one = &status["members"][0];
    for field in ["name", "id", "leader", "term", "revision", "applied_index", "digest", "store_bytes"] {
        assert!(!one[field].is_null(), "{field} is missing in {one}");
    }
    assert_eq!(one["leader"], one["id"]);
    assert_eq!(one["role"], "leader");
    assert!(member.ok(&["status"]).contains("DIGEST@INDEX"));
    let with_one_that_is_down = format!("{},127.0.0.1:1", member.address);
    let text = member.ok(&["status", "--endpoints", &with_one_that_is_down]);
    assert!(text.lines().any(|line| line.contains("127.0.0.1:1 ") && line.contains("no answer")), "{text}");
    let members = member.json(&["member", "list"]);
    assert_eq!(members["members"][0]["role"], "leader");
    member.fails(&["member", "promote", "nobody"], 3, "nobody");

    let newest = one["revision"].as_i64().unwrap();
    member.ok(&["compact", &newest.to_string()]);
    member.fails(&["get", "/a", "--revision", &(newest - 1).to_string()], 1, "compact");
    assert_eq!(member.ok(&["get", "/a", "--revision", &newest.to_string()]), "3");
}

#[test]
fn a_snapshot_is_saved_and_restored() {
    let mut member = Member::start();
    member.ok(&["put", "/s/a", "kept"]);
    let file = member.dir.path().join("backup").display().to_string();
    member.ok(&["snapshot", "save", &file]);
    member.fails(&["snapshot", "save", &file], 1, "--overwrite");
    member.ok(&["put", "/s/a", "later"]);
    let revision = member.json(&["status"])["members"][0]["revision"].as_i64().unwrap();
    let restored = member.dir.path().join("restored").display().to_string();
    let flags = ["--listen", &member.address, "--peer-listen", &member.peer_address];
    let arguments = [&["snapshot", "restore", &file, "--data-dir", &restored][..], &flags].concat();
    member.ok(&arguments);
    member.fails(&arguments, 1, "");
    member.child.kill().unwrap();
    member.child.wait().unwrap();
    member.child = Member::spawn(&member.address, &member.peer_address, &member.dir, "restored");
    member.wait();
    assert_eq!(member.ok(&["get", "/s/a"]), "kept");
    let raised = member.json(&["status"])["members"][0]["revision"].as_i64().unwrap();
    assert!(raised > revision + 900_000_000, "{raised} after {revision}");
}

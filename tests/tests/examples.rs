//! The examples, each run against a cluster of three: what they claim holds, or they fail.
//!
//! Invariants:
//! - An example ends by itself.

#![expect(clippy::expect_used, reason = "the functions that tests share are tests too")]

use std::process::Stdio;

use quorate_tests::cluster::Cluster;
use quorate_tests::process::example;
use quorate_tests::wait::PATIENCE;
use tokio::process::Command;

/// Runs an example against a cluster, and gives what it printed.
async fn run(name: &str, cluster: &Cluster) -> String {
    let endpoints: Vec<String> = cluster.places.iter().map(|place| place.client.clone()).collect();
    let mut command = Command::new(example(name));
    command.env("QUORATE_ENDPOINTS", endpoints.join(",")).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("the example ends by itself");
    let output = ended.expect("start the example");
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("--- {name} ---\n{printed}{said}");
    assert!(output.status.success(), "{name} ended with {}", output.status);
    printed.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_holds_what_it_claims() {
    let cluster = Cluster::start(3).await;
    assert!(run("tour", &cluster).await.contains("pool = 20"));
    assert!(run("config_watch", &cluster).await.contains("in force: Settings"));
    assert!(run("leader_election", &cluster).await.contains("bob's late write is refused"));
    let told = run("distributed_lock", &cluster).await;
    assert!(told.contains("fenced by LockGuard::txn"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_when_an_instance_dies() {
    let cluster = Cluster::start(3).await;
    assert!(run("service_discovery", &cluster).await.contains(", 0 failed;"));
}

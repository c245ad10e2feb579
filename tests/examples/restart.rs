//! Measures restarts with many keys: how long until each member answers a linearizable read, and what memory it takes,
//! after a clean stop and after kill -9 in the middle of a load.
//!
//! `make restart`, or `target/debug/examples/restart [members] [keys] [bytes of a value]` once the workspace is built.
//!
//! Invariants:
//! - Numbers are printed, only correctness is asserted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it measures, and ends when something is wrong")]

use quorate_tests::cluster::Cluster;
use quorate_tests::restart::{fill, memory, restart};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let members = usize::try_from(arguments.next().unwrap_or(1)).expect("a small number");
    let keys = arguments.next().unwrap_or(1_000_000);
    let value_bytes = usize::try_from(arguments.next().unwrap_or(256)).expect("a small number");

    let mut cluster = Cluster::start(members).await;
    fill(&cluster.client().await, keys, value_bytes).await;
    println!("after the load: {}", memory(&mut cluster));
    for round in 0..3 {
        for i in 0..members {
            cluster.kill(i);
        }
        restart(&mut cluster, "killed", keys).await;
        for i in 0..members {
            cluster.stop(i);
        }
        restart(&mut cluster, "stopped", keys).await;
        if round < 2 {
            // So that there is something to apply again after the next kill.
            fill(&cluster.client().await, keys / 10, value_bytes).await;
        }
    }
    cluster.assert_same_digests().await;
}

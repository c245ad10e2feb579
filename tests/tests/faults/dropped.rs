//! Whoever is done with a client drops it: nothing of it stays at the members, whatever it was used for.
//!
//! Found by the soak, whose members had some more connections after each minute.

use std::time::Duration;

use futures::StreamExt as _;
use quorate::{Client, Revision};
use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;

/// Uses of a client, by name.
const USES: [&str; 7] = ["reads", "writes", "status", "watch", "lease", "lock", "lock given up"];

async fn used(client: Client, what: &str) {
    match what {
        "reads" => drop(client.get("/a").await.unwrap()),
        "writes" => drop(client.put("/a", "1").await.unwrap()),
        "status" => drop(client.status_of_all().await),
        "watch" => {
            let mut stream = client.watch("/").subtree().from(Revision(2)).start().await.unwrap();
            stream.next().await.unwrap().unwrap();
        }
        "lease" => {
            let guard = client.lease(Duration::from_secs(10)).grant().await.unwrap();
            guard.revoke().await.unwrap();
        }
        "lock" => {
            let guard = client.lock("one").acquire().await.unwrap();
            guard.release().await.unwrap();
        }
        _ => {
            let guard = client.lock("two").acquire().await.unwrap();
            let other = client.lock("two").wait(Duration::from_millis(50)).acquire().await;
            assert!(other.is_err());
            drop(guard);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_dropped_leaves_no_connection() {
    let mut cluster = Cluster::start(1).await;
    cluster.client().await.put("/a", "0").await.unwrap();
    for what in USES {
        let before = cluster.process(0).open_files();
        for _ in 0..20 {
            used(cluster.client().await, what).await;
        }
        until(&format!("the connections to end of clients that were used for {what}"), || {
            let open = cluster.process(0).open_files();
            async move { if open < before + 10 { Ok(()) } else { Err(format!("{before} open before, {open} after")) } }
        })
        .await;
        println!("{what}: {before} files were open before, {} are after", cluster.process(0).open_files());
    }
}

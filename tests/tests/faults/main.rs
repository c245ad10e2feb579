//! What goes wrong with members: directories that are not theirs or damaged, disks that fill or fail, logs that are
//! torn, members that are removed; and restarts with many keys.
//!
//! Invariants:
//! - What was acknowledged is counted and compared after every fault.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod disks;
mod many;
mod members;
mod refused;
mod torn;

use std::time::Duration;

use quorate::{Client, ClientBuilder};
use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;

/// A client of all members.
async fn client(cluster: &Cluster) -> Client {
    ClientBuilder::default().endpoints(cluster.endpoints()).deadline(Duration::from_secs(30)).connect().await.unwrap()
}

/// Waits until the load has had another `writes` acknowledged, by the directory's own count.
async fn progress(client: &Client, writes: u64) {
    let children = || async {
        let stat = client.stat("/load").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stat.directory.map_or(0, |directory| directory.children))
    };
    let before = until("the load's directory", children).await;
    until("the load to go on", || async {
        let now = children().await?;
        if now >= before + writes { Ok(()) } else { Err(format!("{now} children, {before} before")) }
    })
    .await;
}

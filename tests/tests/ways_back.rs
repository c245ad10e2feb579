//! The documented ways back (docs/operations.md): a member that lost its disk, a restored snapshot, a lost majority.
//! What clients held from before (a token, a watch, a reflector, a lease) never goes backwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use futures::StreamExt as _;
use quorate::{Client, ClientBuilder, Reason, Reflector, Revision, WatchStream};
use quorate_tests::cluster::Cluster;
use quorate_tests::process::binary;
use quorate_tests::wait::until;

async fn client(endpoints: &[String]) -> Client {
    ClientBuilder::default().endpoints(endpoints).deadline(Duration::from_secs(30)).connect().await.unwrap()
}

fn quorate(arguments: &[&str]) -> Output {
    let output = Command::new(binary()).args(arguments).output().expect("run quorate");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "quorate {arguments:?} failed: {text}");
    output
}

/// What a client holds from before.
struct Held {
    client: Client,
    token: Revision,
    watch: WatchStream,
    reflector: Reflector,
}

impl Held {
    async fn take(endpoints: &[String]) -> Self {
        let client = client(endpoints).await;
        client.put("/config/a", "1").await.unwrap();
        let token = client.put("/locks/x", "me").await.unwrap().header.revision;
        let watch = client.watch("/config").subtree().start().await.unwrap();
        let reflector = client.reflector("/config").await.unwrap();
        Self { client, token, watch, reflector }
    }

    /// After a way back to a new cluster: nothing that was held is overtaken by something older.
    async fn assert_nothing_goes_backwards(mut self, seen: Revision) {
        let put = until("a write", || async {
            self.client.put("/config/b", "after").await.map_err(|error| error.to_string())
        })
        .await;
        assert!(
            put.header.revision.0 >= seen.0 + 1_000_000_000,
            "the revision was not raised: {}",
            put.header.revision
        );
        // A token given out now is above all that were given out before.
        assert!(put.header.revision > self.token);
        // The reflector comes to the new content, and its revision never falls.
        self.reflector.wait_until(put.header.revision).await.unwrap();
        assert!(self.reflector.revision() >= seen);
        assert_eq!(self.reflector.get("/config/b").unwrap().value, "after");
        // The watch is told that it missed something, instead of going on as if not.
        let told = loop {
            match tokio::time::timeout(Duration::from_secs(30), self.watch.next()).await.expect("the watch is told") {
                Some(Ok(events)) => assert!(events.revision.0 < 1_000_000_000, "the watch went on over the gap"),
                Some(Err(error)) => break error,
                None => panic!("the watch ended without a word"),
            }
        };
        assert_eq!(told.reason(), Some(Reason::Compacted), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_comes_back_as_another_one() {
    let mut cluster = Cluster::start(3).await;
    let mut held = Held::take(&cluster.endpoints()).await;
    let guard = held.client.lease(Duration::from_secs(20)).grant().await.unwrap();
    held.client.put("/config/mine", "x").lease(&guard).await.unwrap();
    let lost = (0..3).find(|i| cluster.processes[*i].is_some()).unwrap();
    let lost_id = cluster.status(lost).await.unwrap().member.unwrap().id;
    cluster.kill(lost);
    std::fs::remove_dir_all(&cluster.places[lost].data).unwrap();

    // On its empty disk it is not let in as if nothing had happened.
    cluster.run(lost);
    let status = cluster.process(lost).wait();
    let output = cluster.process(lost).output();
    assert!(!status.success() && output.contains("--join") && output.contains("remove"), "{output}");
    cluster.processes[lost] = None;

    let id = quorate::MemberId::new(lost_id).unwrap();
    held.client.member_remove(id).await.unwrap();
    let _ = std::fs::remove_dir_all(&cluster.places[lost].data);
    let mut arguments = cluster.places[lost].arguments();
    arguments.extend(["--join".to_owned(), cluster.places[(lost + 1) % 3].client.clone()]);
    cluster.run_with(lost, &arguments);
    until("three voters", || async {
        let members = held.client.members().await.map_err(|error| error.to_string())?.members;
        let voters = members.iter().filter(|member| !member.learner).count();
        if voters == 3 { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    cluster.wait_for_leader().await;
    cluster.assert_same_digests().await;

    // Nothing happened to what the clients held: the cluster is the same.
    guard.check().unwrap();
    let put = held.client.put("/config/a", "2").await.unwrap();
    assert!(put.header.revision > held.token && put.header.revision.0 < 1_000_000_000);
    held.reflector.wait_until(put.header.revision).await.unwrap();
    let mut reached = Revision(0);
    while reached < put.header.revision {
        let events = held.watch.next().await.unwrap().unwrap();
        assert!(events.revision >= reached, "the watch went backwards");
        reached = events.revision;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_snapshot_takes_nothing_back() {
    let mut cluster = Cluster::start(1).await;
    let held = Held::take(&cluster.endpoints()).await;
    let lease = held.client.lease(Duration::from_mins(10)).grant_unattended().await.unwrap();
    held.client.put("/owned", "x").lease(lease.id).await.unwrap();
    let archive = cluster.dir().join("backup.qsnap");
    let archive = archive.to_str().unwrap();
    quorate(&["--endpoints", &cluster.places[0].client, "snapshot", "save", archive]);
    // Acknowledged after the snapshot: lost by the restore, as anybody would expect, but never overtaken.
    let after = held.client.put("/config/late", "x").await.unwrap().header.revision;
    held.reflector.wait_until(after).await.unwrap();
    let old_id = cluster.status(0).await.unwrap().header.unwrap().cluster_id;
    cluster.stop(0);

    let place = &cluster.places[0];
    let data = cluster.dir().join("restored");
    let restore = |to: &Path| {
        let to = to.to_str().unwrap().to_owned();
        Command::new(binary())
            .args(["snapshot", "restore", archive, "--data-dir", &to, "--name", &place.name])
            .args(["--listen", &place.client, "--peer-listen", &place.peer])
            .output()
            .unwrap()
    };
    let done = restore(&data);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let again = restore(&data);
    assert!(!again.status.success(), "a restore never writes over data");
    cluster.places[0].data = data;
    cluster.run(0);
    cluster.wait_for_leader().await;

    assert_ne!(cluster.status(0).await.unwrap().header.unwrap().cluster_id, old_id);
    let fresh = client(&cluster.endpoints()).await;
    assert_eq!(fresh.get("/owned").await.unwrap().kv.unwrap().lease, Some(lease.id));
    let left = fresh.lease_time_to_live(lease.id).await.unwrap().remaining.unwrap();
    assert!(left > Duration::from_secs(500), "a restored lease has its full time: {left:?}");
    assert!(fresh.get("/config/late").await.unwrap().kv.is_none());
    held.assert_nothing_goes_backwards(after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_majority_goes_on_from_one_member() {
    let mut cluster = Cluster::start(3).await;
    let held = Held::take(&cluster.endpoints()).await;
    let seen = held.client.put("/config/last", "x").await.unwrap().header.revision;
    held.reflector.wait_until(seen).await.unwrap();
    cluster.assert_same_digests().await;
    for i in 0..3 {
        cluster.kill(i);
    }
    for i in 1..3 {
        std::fs::remove_dir_all(&cluster.places[i].data).unwrap();
    }
    let mut arguments = cluster.places[0].arguments();
    arguments.extend(["--force-new-cluster".to_owned()]);
    // It asks first, and there is nobody to answer.
    cluster.run_with(0, &arguments);
    assert!(!cluster.process(0).wait().success(), "it went on without being sure");
    cluster.processes[0] = None;
    arguments.push("--yes".to_owned());
    cluster.run_with(0, &arguments);
    cluster.wait_for_leader().await;

    let alone = client(&[format!("http://{}", cluster.places[0].client)]).await;
    assert!(alone.get("/config/last").await.unwrap().kv.is_some(), "an acknowledged write is lost");
    for i in 1..3 {
        let mut arguments = cluster.places[i].arguments();
        arguments.extend(["--join".to_owned(), cluster.places[0].client.clone()]);
        cluster.run_with(i, &arguments);
    }
    until("three voters", || async {
        let members = alone.members().await.map_err(|error| error.to_string())?.members;
        let voters = members.iter().filter(|member| !member.learner).count();
        if voters == 3 { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    held.assert_nothing_goes_backwards(seen).await;
    cluster.wait_for_leader().await;
    cluster.assert_same_digests().await;
}

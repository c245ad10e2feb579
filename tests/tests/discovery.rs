//! Discovery with the client library against real members: what callers and watchers see when the leader is killed, when
//! the whole cluster is away, and when a registration ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use quorate::{Client, Instance, RegistrationState};
use quorate_tests::cluster::Cluster;
use quorate_tests::wait::until;

fn instance(id: &str) -> Instance {
    Instance::new("orders", id).address("127.0.0.1").port(1)
}

async fn known(client: &Client, ids: &[&str]) {
    let wanted: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    until("these instances", || async {
        let found = client.service("orders").resolve().await.map_err(|error| error.to_string())?;
        let ids: BTreeSet<String> = found.instances.into_iter().map(|each| each.id).collect();
        if ids == wanted { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_and_no_watcher_sees_a_registration_go() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut changes = client.service("orders").watch();
    let registration = client.register(instance("a")).ttl(Duration::from_secs(10)).await.unwrap();
    let lease = registration.status().lease;
    for _ in 0..3 {
        let leader = cluster.wait_for_leader().await;
        cluster.kill(leader);
        let other = client.register(instance(&format!("mark-{leader}"))).await.unwrap();
        // Confirmed again by the member that it went to.
        let mut status = registration.subscribe();
        status.wait_for(|status| status.state == RegistrationState::Registered).await.unwrap();
        other.deregister().await.unwrap();
        cluster.run(leader);
        cluster.wait_for_leader().await;
    }
    let _last = client.register(instance("last")).permanent().await.unwrap();
    loop {
        let change = changes.next().await.unwrap().unwrap();
        assert!(!change.removed.contains(&"a".to_owned()), "{change:?}");
        if change.snapshot && change.changed.iter().any(|each| each.id == "last") {
            assert!(change.changed.iter().any(|each| each.id == "a"), "{change:?}");
        }
        if change.changed.iter().any(|each| each.id == "last") {
            break;
        }
    }
    let status = registration.status();
    assert_eq!((status.lease, status.renewals), (lease, 0));
    assert!(registration.deregister().await.unwrap());
    known(&client, &["last"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_cluster_goes_and_comes_back_and_the_known_instances_stay() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let _registration = client.register(instance("a")).ttl(Duration::from_mins(1)).await.unwrap();
    let orders = client.service("orders").instances().await.unwrap();
    let mut sets = orders.subscribe();
    for i in 0..3 {
        cluster.kill(i);
    }
    let away = sets.wait_for(|set| !set.following).await.unwrap().clone();
    assert_eq!(away.instances.len(), 1);
    cluster.run_all().await;
    let back = sets.wait_for(|set| set.following).await.unwrap().clone();
    assert_eq!(back.instances.len(), 1);
    assert!(back.revision >= away.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_registers_is_found_changed_taken_out_and_removed() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let registration = client.register(instance("a").tag("v1").zone("here")).await.unwrap();
    assert_eq!(client.service("orders").tag("v1").resolve().await.unwrap().instances.len(), 1);
    registration.update(instance("a").tag("v2").zone("here")).await.unwrap();
    assert_eq!(client.service("orders").tag("v1").resolve().await.unwrap().instances.len(), 0);
    assert_eq!(
        client.service("orders").zone("elsewhere").resolve().await.unwrap().instances.len(),
        1,
        "preferred only"
    );
    assert_eq!(client.service("orders").only_zone("elsewhere").resolve().await.unwrap().instances.len(), 0);

    registration.maintenance(true, "new disk").await.unwrap();
    assert_eq!(client.service("orders").resolve().await.unwrap().instances.len(), 0);
    registration.maintenance(false, "").await.unwrap();
    registration.report(quorate::Health::Warning, "busy").await.unwrap();
    let found = client.service("orders").resolve().await.unwrap().instances.remove(0);
    assert_eq!((found.health, found.health_note.contains("busy")), (quorate::Health::Warning, true));
    let services = client.services().await.unwrap();
    assert_eq!((services[0].name.as_str(), services[0].instances, services[0].healthy), ("orders", 1, 1));

    let taken = client.register(instance("a")).deadline(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(taken.reason(), Some(quorate::Reason::InstanceExists));
    drop(registration);
    known(&client, &[]).await;
    assert!(!client.deregister("orders", "a").await.unwrap());
}

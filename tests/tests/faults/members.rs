//! Members that leave and come: removed ones are told and disturb nobody, a fourth joins under load, a leader is removed.

use quorate::{Client, Happened, MemberId};
use quorate_tests::cluster::Cluster;
use quorate_tests::load::{Load, progress};
use quorate_tests::wait::until;

async fn id_of(client: &Client, name: &str) -> MemberId {
    let members = client.members().await.unwrap();
    members.members.iter().find(|member| member.name == name).and_then(|member| member.id).unwrap()
}

/// Removes a member. When it is the one that was asked, it may end before it has answered.
async fn remove(client: &Client, name: &str) {
    let id = id_of(client, name).await;
    if let Err(error) = client.member_remove(id).await {
        assert_eq!(error.happened(), Happened::Unknown, "{error}");
    }
    until("the member to be gone", || async {
        let members = client.members().await.map_err(|error| error.to_string())?;
        if members.members.iter().all(|member| member.id != Some(id)) { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
}

async fn term(cluster: &Cluster, i: usize) -> u64 {
    cluster.status(i).await.unwrap().header.unwrap().raft_term
}

const TOLD: &str = "was removed from its cluster";
const WAY_BACK: &str = "empty its directory and start it with --join";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_told_ends_and_disturbs_nobody() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_for_leader().await;
    let client = cluster.client().await;
    let (running, away) = ((leader + 1) % 3, (leader + 2) % 3);
    let before = term(&cluster, leader).await;

    // One that runs: told at once.
    remove(&client, &cluster.places[running].name).await;
    let said = cluster.ended(running).await;
    assert!(said.contains(TOLD) && said.contains(WAY_BACK), "{said}");

    // It does not start again from that directory.
    cluster.run(running);
    let said = cluster.ended(running).await;
    assert!(said.contains("was removed from its cluster") && said.contains("--join"), "{said}");

    // It comes back empty, by the way that the message names; so that there are three again.
    std::fs::remove_dir_all(&cluster.places[running].data).unwrap();
    let mut arguments = cluster.places[running].arguments();
    arguments.extend(["--join".to_owned(), cluster.places[leader].client.clone()]);
    cluster.run_with(running, &arguments);
    voters(&client, 3).await;

    // One that is away while it is removed: told when it comes back.
    cluster.kill(away);
    remove(&client, &cluster.places[away].name).await;
    cluster.run(away);
    let said = cluster.ended(away).await;
    assert!(said.contains(TOLD) && said.contains(WAY_BACK), "{said}");

    client.put("/still", "here").await.unwrap();
    assert_eq!(term(&cluster, leader).await, before, "a removed member caused an election");
    cluster.assert_same_digests().await;
}

/// Waits until the cluster has so many members, all of them voters.
async fn voters(client: &Client, count: usize) {
    until("the number of voters", || async {
        let members = client.members().await.map_err(|error| error.to_string())?;
        let voters = members.members.iter().filter(|member| !member.learner).count();
        if voters == count && members.members.len() == count { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_joins_under_load_and_then_the_leader_is_removed() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 4);
    progress(&client, 100).await;
    cluster.join(0);
    voters(&client, 4).await;
    progress(&client, 100).await;

    let leader = cluster.wait_for_leader().await;
    remove(&client, &cluster.places[leader].name).await;
    let said = cluster.ended(leader).await;
    assert!(said.contains(TOLD) && said.contains(WAY_BACK), "{said}");
    progress(&client, 100).await;
    voters(&client, 3).await;
    let next = cluster.wait_for_leader().await;
    assert_ne!(next, leader);

    let report = load.finish().await;
    println!(
        "{} acknowledged, {} unknown, longest gap of a writer {:?}",
        report.acknowledged.len(),
        report.unknown,
        report.longest_gap
    );
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

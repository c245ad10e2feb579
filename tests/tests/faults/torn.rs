//! A log whose end is not what was written: a record that was never finished, and one that never reached the disk
//! although the disk said so.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use quorate_tests::cluster::Cluster;
use quorate_tests::load::{Load, progress};
use quorate_tests::wait::until;

/// The newest write-ahead file of a member's log.
fn newest(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("log")).unwrap().map(|item| item.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_record_at_the_end_of_the_log_is_passed_over() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 4);
    for member in 0..3 {
        progress(&client, 100).await;
        cluster.kill(member);
        // What a power cut leaves of a write that was never acknowledged: the beginning of a record (checksum, length
        // 200, whole record), and not all of its bytes.
        let torn = [&[0x5a, 0xa5, 0x12, 0x34, 200, 0, 1][..], &[7; 60]].concat();
        let mut file = File::options().append(true).open(newest(&cluster.places[member].data)).unwrap();
        file.write_all(&torn).unwrap();
        progress(&client, 50).await;
        cluster.run(member);
        cluster.wait_for_leader().await;
    }
    let report = load.finish().await;
    println!("{} acknowledged, {} unknown", report.acknowledged.len(), report.unknown);
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_what_it_had_synced_costs_the_cluster_nothing_and_the_member_can_be_replaced() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let load = Load::start(&client, 4);
    progress(&client, 100).await;
    let leader = cluster.wait_for_leader().await;
    let lost = (leader + 1) % 3;
    cluster.kill(lost);
    // The very last record may be one that was never acknowledged: killed before its sync was noted. Half is more.
    let file = newest(&cluster.places[lost].data);
    let length = fs::metadata(&file).unwrap().len();
    File::options().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
    // It broke its promise, so it must not vote and append as if it had not; and it must say so at once. It used to sit
    // there in silence, while the leader never sent it anything again.
    for _ in 0..2 {
        let started = Instant::now();
        cluster.run(lost);
        let said = cluster.ended(lost).await;
        println!("after {:?}: {}", started.elapsed(), said.lines().last().unwrap_or_default());
        for part in ["its end is gone", "remove this member from the cluster", "--join"] {
            assert!(said.contains(part), "{part:?} is not said in:\n{said}");
        }
    }
    progress(&client, 500).await;

    let name = cluster.places[lost].name.clone();
    let members = client.members().await.unwrap();
    let id = members.members.iter().find(|member| member.name == name).and_then(|member| member.id).unwrap();
    client.member_remove(id).await.unwrap();
    fs::remove_dir_all(&cluster.places[lost].data).unwrap();
    let mut arguments = cluster.places[lost].arguments();
    arguments.extend(["--join".to_owned(), cluster.places[leader].client.clone()]);
    cluster.run_with(lost, &arguments);
    until("three voters", || async {
        let members = client.members().await.map_err(|error| error.to_string())?;
        let voters = members.members.iter().filter(|member| !member.learner).count();
        if voters == 3 { Ok(()) } else { Err(format!("{voters} voters")) }
    })
    .await;
    let report = load.finish().await;
    println!("{} acknowledged, {} unknown", report.acknowledged.len(), report.unknown);
    report.assert_all_there_once(&client).await;
    cluster.assert_same_digests().await;
}

//! What a member refuses to start from, with a message that says what to do; and that it leaves everything as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quorate_tests::cluster::Cluster;
use quorate_tests::process::Process;
use quorate_tests::wait::until;

/// Every file with what is in it, but the lock and what the databases tell about themselves in plain text.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if name != "LOCK" && !name.starts_with("LOG") {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Starts a member that must end by itself; its message has all of `says`.
async fn refuses(arguments: &[String], says: &[&str]) {
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut process = Process::start(arguments, output.path());
    let status = until("the member to refuse", || {
        let ended = process.ended().ok_or_else(|| process.output());
        async move { ended }
    })
    .await;
    let output = process.output();
    println!("{}", output.lines().last().unwrap_or_default());
    assert!(!status.success(), "it ended as if all were well:\n{output}");
    for part in says {
        assert!(output.contains(part), "{part:?} is not said in:\n{output}");
    }
}

/// The same from a directory that must be the same afterwards.
async fn refuses_unchanged(arguments: &[String], dir: &Path, says: &[&str]) {
    let before = content(dir);
    refuses(arguments, says).await;
    let after = content(dir);
    for (path, bytes) in &before {
        assert!(after.get(path) == Some(bytes), "{} was changed or removed", path.display());
    }
}

/// A single member that had some keys and was stopped.
async fn used() -> Cluster {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    for i in 0..100 {
        client.put(format!("/a/{i}"), vec![b'x'; 1_000]).await.unwrap();
    }
    cluster.stop(0);
    cluster
}

/// It comes back with everything once the damage is undone.
async fn comes_back(cluster: &mut Cluster) {
    cluster.run(0);
    cluster.wait_for_leader().await;
    assert_eq!(cluster.client().await.prefix("/a/").count().await.unwrap(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_of_another_name_or_of_a_stranger_is_refused() {
    let mut cluster = used().await;
    let (arguments, data) = (cluster.arguments(0), cluster.places[0].data.clone());
    let named = [arguments.clone(), vec!["--name".to_owned(), "other".to_owned()]].concat();
    let named: Vec<String> = named[2..].to_vec();
    refuses_unchanged(&named, &data, &["belongs to member \"n1\"", "check --data-dir and --name"]).await;

    comes_back(&mut cluster).await;
    refuses(&arguments, &["is in use by another process", "give this member a directory of its own"]).await;
    assert!(cluster.client().await.get("/a/1").await.is_ok(), "the first one goes on");
    cluster.stop(0);

    let foreign = cluster.dir().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    let arguments = ["--data-dir".to_owned(), foreign.display().to_string()];
    refuses_unchanged(&arguments, &foreign, &["thesis.txt", "choose an empty or new directory"]).await;
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing was put beside it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_format_and_a_damaged_identity_are_refused() {
    let mut cluster = used().await;
    let (arguments, data) = (cluster.arguments(0), cluster.places[0].data.clone());
    let cases: [(&str, &[u8], &[&str]); 4] = [
        ("FORMAT", b"quorate data directory, format 2\n", &["has format 2", "start it with a newer program"]),
        ("FORMAT", b"", &["which format the directory has", "--join", "restore a snapshot"]),
        ("identity", b"quorate identity 1\nmember 00\n", &["its checksum is wrong", "--join", "restore a snapshot"]),
        ("identity", b"", &["its checksum is wrong", "--join"]),
    ];
    for (file, bytes, says) in cases {
        let path = data.join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        refuses_unchanged(&arguments, &data, says).await;
        fs::write(&path, good).unwrap();
    }
    comes_back(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_parts_are_refused_and_never_begun_anew() {
    let mut cluster = used().await;
    let (arguments, data) = (cluster.arguments(0), cluster.places[0].data.clone());
    let (state, epoch) = (data.join("state"), data.join("state/epoch-000001"));
    let parts = [
        (data.join("identity"), &data, "identity: it is missing"),
        (data.join("FORMAT"), &data, "FORMAT: it is missing"),
        (data.join("log"), &data, "log: it is missing"),
        (data.join("log/CURRENT"), &data, "CURRENT: it is missing, but this member belongs to a cluster"),
        (data.join("state"), &data, "state: it is missing"),
        // From here on the log is in order: opening it may put its files in order, too.
        (data.join("state/CURRENT"), &state, "CURRENT is missing"),
        (epoch.clone(), &state, "epoch-000001 is damaged"),
        (epoch.join("CURRENT"), &state, "epoch-000001 is damaged"),
    ];
    for (path, unchanged, says) in parts {
        let aside = cluster.dir().join("aside");
        fs::rename(&path, &aside).unwrap();
        refuses_unchanged(&arguments, unchanged, &[says, "--join"]).await;
        assert!(!path.exists(), "{} was made anew", path.display());
        fs::rename(&aside, &path).unwrap();
    }
    comes_back(&mut cluster).await;
}

/// The largest table of the state.
fn table(epoch: &Path) -> PathBuf {
    let files = fs::read_dir(epoch).unwrap().map(|item| item.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    tables.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_of_the_state_are_refused() {
    let mut cluster = used().await;
    let (arguments, data) = (cluster.arguments(0), cluster.places[0].data.clone());
    let (state, epoch) = (data.join("state"), data.join("state/epoch-000001"));
    let table = table(&epoch);
    let good = fs::read(&table).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let cases: [(PathBuf, Vec<u8>); 4] = [
        // In the last bytes, by which a table is known as one.
        (table.clone(), flipped(good.len() - 3)),
        (table.clone(), good[..good.len() - 100].to_vec()),
        (epoch.join("CURRENT"), b"MANIFEST-999999\n".to_vec()),
        (data.join("state/CURRENT"), b"one\n".to_vec()),
    ];
    for (path, bytes) in cases {
        let good = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        refuses_unchanged(&arguments, &state, &["is damaged", "remove this member from the cluster", "--join"]).await;
        fs::write(&path, good).unwrap();
    }
    comes_back(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_among_the_values_is_an_error_and_never_another_value() {
    let mut cluster = used().await;
    let table = table(&cluster.places[0].data.join("state/epoch-000001"));
    let good = fs::read(&table).unwrap();
    let mut bytes = good.clone();
    bytes[good.len() / 2] ^= 0x10;
    fs::write(&table, bytes).unwrap();
    cluster.run(0);
    cluster.wait_for_leader().await;
    let client = cluster.client().await;
    let mut errors = 0;
    for i in 0..100 {
        match client.get(format!("/a/{i}")).deadline(std::time::Duration::from_secs(2)).await {
            Ok(answer) => assert_eq!(answer.into_value().unwrap(), vec![b'x'; 1_000], "a damaged value was served"),
            Err(error) => {
                errors += 1;
                println!("{error}");
            }
        }
    }
    assert!(errors > 0, "the damage was not noticed");
    cluster.kill(0);
    fs::write(&table, good).unwrap();
    comes_back(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_member_that_meets_a_running_cluster_is_told_to_join() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    client.put("/a", "1").await.unwrap();
    cluster.kill(2);
    fs::remove_dir_all(&cluster.places[2].data).unwrap();
    let says = ["belongs to a running cluster that does not know it", "remove the old one", "--join"];
    refuses(&cluster.arguments(2), &says).await;
    // The way that the message names works.
    let members = client.members().await.unwrap();
    let old = members.members.iter().find(|member| member.name == "n3").unwrap();
    client.member_remove(old.id.unwrap()).await.unwrap();
    fs::remove_dir_all(&cluster.places[2].data).unwrap();
    let mut arguments = cluster.places[2].arguments();
    arguments.extend(["--join".to_owned(), cluster.places[0].client.clone()]);
    cluster.run_with(2, &arguments);
    cluster.wait_for_leader().await;
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_directory_of_another_cluster_is_refused_and_disturbs_nobody() {
    let mut cluster = Cluster::start(3).await;
    cluster.client().await.put("/of", "the first").await.unwrap();
    for i in 0..3 {
        cluster.kill(i);
    }
    // The first cluster's directories go aside; a second cluster begins at the same addresses.
    let first = cluster.dir().join("first");
    fs::rename(&cluster.places[0].data, &first).unwrap();
    for i in 1..3 {
        fs::remove_dir_all(&cluster.places[i].data).unwrap();
    }
    cluster.run_all().await;
    let client = cluster.client().await;
    client.put("/of", "the second").await.unwrap();
    cluster.kill(0);
    let leader = cluster.wait_for_leader().await;
    let term = cluster.status(leader).await.unwrap().header.unwrap().raft_term;
    let second = cluster.dir().join("second");
    fs::rename(&cluster.places[0].data, &second).unwrap();
    fs::rename(&first, &cluster.places[0].data).unwrap();
    let data = cluster.places[0].data.clone();
    let identity = fs::read(data.join("identity")).unwrap();
    refuses(&cluster.arguments(0), &["belongs to cluster", "--data-dir", "choose an empty directory"]).await;
    assert_eq!(fs::read(data.join("identity")).unwrap(), identity);
    assert_eq!(cluster.status(leader).await.unwrap().header.unwrap().raft_term, term, "it disturbed the second");
    fs::rename(&data, &first).unwrap();
    fs::rename(&second, &data).unwrap();
    cluster.run(0);
    cluster.wait_for_leader().await;
    assert_eq!(client.get("/of").await.unwrap().into_value().unwrap(), "the second");
    cluster.assert_same_digests().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_contradictory_settings_are_refused() {
    let cluster = Cluster::prepare(1, &[]).await;
    let place = &cluster.places[0];
    let file = cluster.dir().join("quorate.toml");
    fs::write(&file, "disk-reserve-byte = 1048576\n").unwrap();
    let file = file.display().to_string();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--lisen", "127.0.0.1:1"], &["--lisen", "--listen"]),
        (&["--config", &file], &["disk-reserve-byte", "do you mean \"disk-reserve-bytes\""]),
        (&["--cluster", "n1=127.0.0.1:1", "--join", "127.0.0.1:2"], &["exclude each other", "give one of them"]),
        (&["--cluster", "n7=127.0.0.1:1"], &["does not list this member", "\"n1\""]),
        (&["--cluster", "n1"], &["NAME=HOST:PORT"]),
        (&["--heartbeat-ms", "200"], &["less than twice heartbeat-ms"]),
        (&["--election-max-ms", "260"], &["less than 1.2 times election-min-ms"]),
        (&["--value-bytes-max", "12"], &["--value-bytes-max", "12"]),
    ];
    for (flags, says) in cases {
        let arguments = [place.arguments(), flags.iter().map(|flag| (*flag).to_owned()).collect()].concat();
        refuses(&arguments, says).await;
        assert!(!place.data.exists(), "nothing is made before the settings are known to be good");
    }
}

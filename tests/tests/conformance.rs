//! Clients that others wrote, unmodified, against a cluster of three real members: etcdctl, the `etcd-client` crate,
//! Python's etcd3, Node's etcd3. What each does and expects is a program of its own in tests/conformance.
//!
//! `scripts/foreign-clients` installs what is not there; the tests call it.
//!
//! Invariants:
//! - Each client has a cluster of its own, to which nobody else writes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LeaseGrantOptions, LockOptions, ProclaimOptions,
    PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use futures::StreamExt as _;
use quorate_proto::v1;
use quorate_proto::v1::lock_client::LockClient;
use quorate_tests::cluster::Cluster;
use tokio::process::Command;

/// A program that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(3);

fn root() -> PathBuf {
    // Not what it was when this was compiled: a target directory may serve several checkouts.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    Path::new(&package).parent().expect("the workspace").to_path_buf()
}

/// Where the libraries of foreign clients are: beside what was built.
fn installed() -> PathBuf {
    let test = std::env::current_exe().expect("know one's own path");
    let target = test.ancestors().find(|dir| dir.join("debug").is_dir() || dir.join("release").is_dir());
    target.expect("tests are built into a target directory").join("foreign-clients")
}

async fn run(command: &mut Command) {
    let shown = format!("{:?}", command.as_std());
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(PATIENCE, running).await.unwrap_or_else(|_| panic!("{shown} hangs")).expect("run it");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{shown} ended with {}:\n{text}", output.status);
    println!("{text}");
}

/// A cluster, and a program of tests/conformance run against it.
async fn program(interpreter: &Path, name: &str) {
    run(Command::new(root().join("scripts/foreign-clients")).arg(installed())).await;
    let cluster = Cluster::start(3).await;
    let addresses: Vec<_> = cluster.places.iter().map(|place| place.client.as_str()).collect();
    let mut command = Command::new(interpreter);
    command.arg(root().join("tests/conformance").join(name));
    command.env("ENDPOINTS", addresses.join(",")).env("MODULES", installed().join("node"));
    run(&mut command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_works() {
    program(Path::new("bash"), "etcdctl.sh").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_etcd3_works() {
    program(&installed().join("python/bin/python"), "client.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_etcd3_works() {
    program(Path::new("node"), "client.mjs").await;
}

async fn clients(cluster: &Cluster) -> (Client, Client) {
    let endpoints = cluster.endpoints();
    let one = Client::connect([&endpoints[0]], None).await.expect("connect to one member");
    let other = Client::connect([&endpoints[1]], None).await.expect("connect to another");
    (one, other)
}

fn texts(kvs: &[etcd_client::KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| format!("{}={}", kv.key_str().unwrap(), kv.value_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcd_client_crate_reads_and_writes() {
    let cluster = Cluster::start(3).await;
    let (mut one, mut other) = clients(&cluster).await;
    for name in ["x", "y", "z"] {
        one.put(format!("/p/{name}"), name, None).await.unwrap();
    }
    let put = one.put("/p/x", "X", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value(), b"x");
    let newest = put.header().unwrap().revision();

    let all = other.get("/p/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(
        (texts(all.kvs()), all.count(), all.more()),
        (vec!["/p/x=X".into(), "/p/y=y".into(), "/p/z=z".into()], 3, false)
    );
    let options = GetOptions::new().with_prefix().with_limit(2).with_sort(SortTarget::Mod, SortOrder::Descend);
    let some = other.get("/p/", Some(options)).await.unwrap();
    assert_eq!((texts(some.kvs()), some.count(), some.more()), (vec!["/p/x=X".into(), "/p/z=z".into()], 3, true));
    let before = other.get("/p/x", Some(GetOptions::new().with_revision(newest - 1))).await.unwrap();
    assert_eq!(texts(before.kvs()), ["/p/x=x"]);
    let counted = other.get("/p/", Some(GetOptions::new().with_prefix().with_count_only())).await.unwrap();
    assert_eq!((counted.kvs().len(), counted.count()), (0, 3));

    let txn = Txn::new()
        .when([Compare::value("/p/x", CompareOp::Equal, "X"), Compare::mod_revision("/p/x", CompareOp::Equal, newest)])
        .and_then([TxnOp::put("/p/x", "2", None), TxnOp::get("/p/x", None), TxnOp::delete("/p/y", None)])
        .or_else([TxnOp::put("/p/x", "wrong", None)]);
    let done = one.txn(txn).await.unwrap();
    assert!(done.succeeded());
    match done.op_responses().as_slice() {
        [TxnOpResponse::Put(_), TxnOpResponse::Get(get), TxnOpResponse::Delete(delete)] => {
            assert_eq!((texts(get.kvs()), delete.deleted()), (vec!["/p/x=2".into()], 1));
        }
        wrong => panic!("{wrong:?}"),
    }
    let gone = one.delete("/p/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await.unwrap();
    assert_eq!((gone.deleted(), texts(gone.prev_kvs())), (2, vec!["/p/x=2".into(), "/p/z=z".into()]));

    one.compact(newest, None).await.unwrap();
    let compacted = other.get("/p/x", Some(GetOptions::new().with_revision(newest - 1))).await.unwrap_err();
    assert!(compacted.to_string().contains("etcdserver: mvcc: required revision has been compacted"), "{compacted}");
    assert_eq!(one.member_list().await.unwrap().members().len(), 3);
    let status = other.status().await.unwrap();
    assert!(status.leader() != 0 && status.raft_term() > 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcd_client_crate_watches_and_keeps_leases_alive() {
    let cluster = Cluster::start(3).await;
    let (mut one, mut other) = clients(&cluster).await;
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut watch = other.watch("/w/", Some(options)).await.unwrap();
    let created = watch.next().await.unwrap().unwrap();
    assert!(created.created() && created.header().unwrap().revision() > 0);

    let lease = one.lease_grant(60, Some(LeaseGrantOptions::new().with_id(4711))).await.unwrap();
    assert_eq!((lease.id(), lease.ttl()), (4711, 60));
    let first = one.put("/w/1", "a", None).await.unwrap().header().unwrap().revision();
    one.put("/w/1", "b", Some(PutOptions::new().with_lease(4711))).await.unwrap();
    let (mut keeper, mut kept) = other.lease_keep_alive(4711).await.unwrap();
    for _ in 0..2 {
        keeper.keep_alive().await.unwrap();
        assert_eq!(kept.message().await.unwrap().unwrap().ttl(), 60);
    }
    let left = other.lease_time_to_live(4711, None).await.unwrap();
    assert!(left.granted_ttl() == 60 && (0..=60).contains(&left.ttl()), "{left:?}");
    assert_eq!(other.leases().await.unwrap().leases().len(), 1);
    one.lease_revoke(4711).await.unwrap();

    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap().unwrap();
        for event in response.events() {
            let value = |kv: Option<&etcd_client::KeyValue>| kv.map(|kv| kv.value_str().unwrap().to_owned());
            seen.push((event.event_type(), event.kv().unwrap().mod_revision(), value(event.prev_kv())));
        }
    }
    let expected = [
        (EventType::Put, first, None),
        (EventType::Put, first + 1, Some("a".to_owned())),
        (EventType::Delete, first + 2, Some("b".to_owned())),
    ];
    assert_eq!(seen, expected);

    // The same again for who comes late, on the same stream; then it is told that there is no more.
    let mut late = other.watch("/w/1", Some(WatchOptions::new().with_start_revision(first))).await.unwrap();
    assert!(late.next().await.unwrap().unwrap().created());
    let mut events = 0;
    while events < 3 {
        events += late.next().await.unwrap().unwrap().events().len();
    }
    late.request_progress().await.unwrap();
    let mark = late.next().await.unwrap().unwrap();
    assert!(mark.events().is_empty() && mark.header().unwrap().revision() >= first + 2, "{mark:?}");
    late.cancel(0).await.unwrap();
    assert!(late.next().await.unwrap().unwrap().canceled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcd_client_crate_locks_and_elects_and_a_native_lock_of_the_same_name_waits() {
    let cluster = Cluster::start(3).await;
    let (mut one, mut other) = clients(&cluster).await;
    let lease = one.lease_grant(60, None).await.unwrap().id();
    let held = one.lock("jobs", Some(LockOptions::new().with_lease(lease))).await.unwrap();
    assert_eq!(held.key(), format!("jobs/{lease:x}").as_bytes());

    let mut native = LockClient::connect(cluster.endpoints()[2].clone()).await.unwrap();
    let wish = v1::AcquireRequest { name: "jobs".into(), acquire_id: 7, ..Default::default() };
    let waiting = tokio::spawn({
        let (mut native, wish) = (native.clone(), wish.clone());
        async move { native.acquire(wish).await }
    });
    let describe = v1::DescribeLockRequest { name: "jobs".into(), ..Default::default() };
    while native.describe(describe.clone()).await.unwrap().into_inner().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!waiting.is_finished());
    one.unlock(held.key()).await.unwrap();
    let ours = waiting.await.unwrap().unwrap().into_inner();
    let theirs = tokio::spawn(async move { other.lock("jobs", None).await.map(|_| other) });
    while native.describe(describe.clone()).await.unwrap().into_inner().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!theirs.is_finished());
    let release = v1::ReleaseRequest { name: "jobs".into(), acquire_id: 7, token: ours.token, ..Default::default() };
    assert!(native.release(release).await.unwrap().into_inner().released);
    let mut other = theirs.await.unwrap().unwrap();

    let won = one.campaign("e", "a", lease).await.unwrap();
    let leader = won.leader().unwrap().clone();
    let mut observed = other.observe("e").await.unwrap();
    assert_eq!(observed.next().await.unwrap().unwrap().kv().unwrap().value(), b"a");
    one.proclaim("b", Some(ProclaimOptions::new().with_leader(leader.clone()))).await.unwrap();
    assert_eq!(observed.next().await.unwrap().unwrap().kv().unwrap().value(), b"b");
    assert_eq!(other.leader("e").await.unwrap().kv().unwrap().value(), b"b");
    one.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
    let nobody = other.leader("e").await.unwrap_err();
    assert!(nobody.to_string().contains("election: no leader"), "{nobody}");
}

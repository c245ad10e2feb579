//! The client against a real member in this process: what the documentation says, seen.
//!
//! Invariants:
//! - Each test has a member of its own, so that revisions are its own.

#![expect(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use quorate::{
    Client, Compare, Error, ErrorKind, EventKind, LeaseId, Lost, Op, OpResult, Reason, Relation, Revision, Txn,
    WatchEvents, WatchStream,
};
use quorate_server::Ephemeral;

async fn member() -> (Ephemeral, Client) {
    let member = quorate_server::ephemeral().await.unwrap();
    let client = Client::connect([member.endpoint()]).await.unwrap();
    (member, client)
}

async fn next(watch: &mut WatchStream) -> WatchEvents {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap()
}

fn texts(kvs: &[quorate::KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| format!("{}={}", kv.key_text(), kv.value_text())).collect()
}

#[tokio::test]
async fn a_key_is_put_read_and_deleted() {
    let (_member, client) = member().await;
    let first = client.put("/a", "1").await.unwrap();
    let second = client.put("/a", "2").previous().await.unwrap();
    assert_eq!(second.header.revision, first.header.revision.next());
    assert_eq!(second.previous.unwrap().value_text(), "1");

    let now = client.get("/a").await.unwrap().kv.unwrap();
    assert_eq!((now.value_text().as_ref(), now.version), ("2", 2));
    assert_eq!((now.create_revision, now.mod_revision), (first.header.revision, second.header.revision));
    let then = client.get("/a").at(first.header.revision).await.unwrap();
    assert_eq!(then.into_value().unwrap(), "1");

    let gone = client.delete("/a").previous().await.unwrap();
    assert_eq!((gone.deleted, texts(&gone.previous)), (1, vec!["/a=2".to_owned()]));
    assert!(client.get("/a").serializable().min_revision(gone.header.revision).await.unwrap().kv.is_none());
    assert_eq!(client.delete("/a").await.unwrap().deleted, 0);
}

#[tokio::test]
async fn expectations_are_checked() {
    let (_member, client) = member().await;
    let first = client.put("/a", "1").expect_absent().await.unwrap().header.revision;
    let error = client.put("/a", "2").expect_absent().await.unwrap_err();
    assert!(error.is_precondition());
    assert_eq!(error.kind(), ErrorKind::FixRequest);
    match &error {
        Error::Refused(refusal) => assert_eq!(refusal.current_mod_revision, first),
        other => panic!("{other:?}"),
    }
    client.put("/a", "2").expect_revision(first).await.unwrap();
    assert!(client.delete("/a").expect_revision(first).await.unwrap_err().is_precondition());
    assert!(client.put("/b", "1").expect_present().await.unwrap_err().is_precondition());
    assert!(client.put("/x/y", "1").must_have_parent().await.unwrap_err().is_precondition());
}

#[tokio::test]
async fn many_concurrent_writes_are_paged_through_in_order() {
    let (_member, client) = member().await;
    let puts = (0..2500).map(|at| client.put(format!("/n/{at:04}"), at.to_string()).into_future());
    for put in join_all(puts).await {
        put.unwrap();
    }
    let expected: Vec<String> = (0..2500).map(|at| format!("/n/{at:04}={at}")).collect();

    let mut stream = client.prefix("/n/").page_size(700).stream();
    let mut streamed = Vec::new();
    while let Some(kv) = stream.try_next().await.unwrap() {
        if streamed.len() == 100 {
            // Not seen: all pages are of the revision of the first.
            client.put("/n/2000a", "late").await.unwrap();
        }
        streamed.push(kv);
    }
    assert_eq!(texts(&streamed), expected);

    assert_eq!(client.prefix("/n/").count().await.unwrap(), 2501);
    client.delete("/n/2000a").await.unwrap();
    let mut down = client.prefix("/n/").descending().page_size(999).await.unwrap().kvs;
    down.reverse();
    assert_eq!(texts(&down), expected);
    let few = client.range("/n/0003", "/n/9").limit(2).keys_only().await.unwrap();
    assert_eq!((texts(&few.kvs), few.more), (vec!["/n/0003=".to_owned(), "/n/0004=".to_owned()], true));
}

#[tokio::test]
async fn a_tree_is_listed_copied_moved_and_removed() {
    let (_member, client) = member().await;
    for (key, value) in [("/c/a", "1"), ("/c/b/x", "2"), ("/c/b/y", "3"), ("/c/b", "4")] {
        client.put(key, value).await.unwrap();
    }
    let listed: Vec<_> = client.list("/c").page_size(1).with_values().stream().try_collect().await.unwrap();
    let shape: Vec<_> = listed.iter().map(|child| (child.name.as_str(), child.is_key, child.is_directory)).collect();
    assert_eq!(shape, [("a", true, false), ("b", true, true)]);
    assert_eq!(listed[1].kv.as_ref().unwrap().value_text(), "4");

    let stat = client.stat("/c/b").await.unwrap();
    assert_eq!((stat.kv.unwrap().version, stat.directory.unwrap().children, stat.value_bytes), (1, 2, 1));

    assert_eq!(client.copy("/c", "/d").await.unwrap().keys, 4);
    assert_eq!(client.rename("/c/b", "/e").await.unwrap().keys, 3);
    assert_eq!(texts(&client.prefix("/c").await.unwrap().kvs), ["/c/a=1"]);
    assert_eq!(texts(&client.prefix("/e").await.unwrap().kvs), ["/e=4", "/e/x=2", "/e/y=3"]);
    assert_eq!(client.delete_subtree("/d").await.unwrap().deleted, 4);
    let names: Vec<_> = client.list("/").await.unwrap().children.into_iter().map(|child| child.name).collect();
    assert_eq!(names, ["c", "e"]);

    let one = client.put("/queue", "x").sequential().await.unwrap();
    let two = client.put("/queue", "y").sequential().await.unwrap();
    assert!(one.key < two.key && one.key_text().starts_with("/queue/"), "{} {}", one.key_text(), two.key_text());
    assert!(client.delete("/e").must_be_empty().await.unwrap_err().is_precondition());
}

#[tokio::test]
async fn a_transaction_takes_one_branch() {
    let (_member, client) = member().await;
    let claim =
        |who: &'static str| Txn::when(Compare::absent("/lead")).then(Op::put("/lead", who)).otherwise(Op::get("/lead"));
    let first = client.txn(claim("one")).await.unwrap();
    assert!(first.succeeded && !first.replayed);
    let second = client.txn(claim("two")).await.unwrap();
    match second.results.as_slice() {
        [OpResult::Get(Some(kv))] => assert_eq!(kv.value_text(), "one"),
        other => panic!("{other:?}"),
    }
    let guarded = Txn::when(vec![
        Compare::create_revision("/lead", Relation::Equal, first.header.revision),
        Compare::value_is("/lead", "one"),
        Compare::version("/lea", Relation::Less, 2).for_prefix(),
    ])
    .then(client.put("/lead", "three").previous())
    .then(Op::delete_subtree("/nothing"))
    .then(Op::txn(Txn::when(Compare::exists("/other")).otherwise(Op::put("/other", "1"))));
    let third = client.txn(guarded).await.unwrap();
    assert!(third.succeeded);
    match third.results.as_slice() {
        [OpResult::Put(put), OpResult::Delete(delete), OpResult::Txn(inner)] => {
            assert_eq!(put.previous.as_ref().unwrap().value_text(), "one");
            assert_eq!((delete.deleted, inner.succeeded, inner.results.len()), (0, false, 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.get("/other").await.unwrap().kv.unwrap().mod_revision, third.header.revision);
}

#[tokio::test]
async fn a_watch_sees_whole_transactions_from_any_revision() {
    let (_member, client) = member().await;
    let mut live = client.watch("/w").subtree().previous().start().await.unwrap();
    let mut children = client.watch("/w").children().no_deletes().start().await.unwrap();
    let begin = live.next_revision();
    client.put("/w/a", "1").await.unwrap();
    client.put("/elsewhere", "1").await.unwrap();
    client.txn(Txn::new().then(Op::put("/w/a", "2")).then(Op::put("/w/b/c", "3"))).await.unwrap();
    let last = client.delete("/w/a").await.unwrap().header.revision;

    let mut late = client.watch("/w").subtree().previous().from(begin).start().await.unwrap();
    for watch in [&mut live, &mut late] {
        let first = next(watch).await;
        assert_eq!((first.revision, first.events.len()), (begin, 1));
        assert!(first.events[0].previous.is_none());
        let both = next(watch).await;
        assert_eq!(both.events.len(), 2, "a transaction is seen whole");
        assert_eq!(both.events[0].previous.as_ref().unwrap().value_text(), "1");
        let gone = next(watch).await;
        assert_eq!((gone.revision, gone.events[0].kind), (last, EventKind::Delete));
        assert_eq!(watch.next_revision(), last.next());
    }
    assert_eq!(next(&mut children).await.events[0].kv.key_text(), "/w/a");
    let direct = next(&mut children).await;
    assert_eq!((direct.events.len(), direct.events[0].kv.value_text().as_ref()), (1, "2"));

    live.request_progress();
    let mark = next(&mut live).await;
    assert!(mark.is_progress() && mark.revision == last, "{mark:?}");
}

#[tokio::test]
async fn a_large_transaction_is_put_together_again() {
    let (_member, client) = member().await;
    let mut watch = client.watch("/big").subtree().start().await.unwrap();
    let txn = (0..60).fold(Txn::new(), |txn, at| txn.then(Op::put(format!("/big/{at:02}"), vec![at; 100_000])));
    let revision = client.txn(txn).await.unwrap().header.revision;
    let whole = next(&mut watch).await;
    assert_eq!((whole.revision, whole.events.len()), (revision, 60));
    assert!(whole.events.iter().all(|event| event.kv.value.len() == 100_000));
}

#[tokio::test]
async fn what_is_compacted_is_said() {
    let (_member, client) = member().await;
    let first = client.put("/a", "1").await.unwrap().header.revision;
    let last = client.put("/a", "2").await.unwrap().header.revision;
    client.compact(last).await.unwrap();
    for error in [
        client.get("/a").at(first).await.unwrap_err(),
        client.prefix("/").at(first).await.unwrap_err(),
        client.compact(first).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Compacted { compact_revision, .. } if compact_revision == last), "{error:?}");
    }
    let ended = match client.watch("/a").from(first).start().await {
        Ok(mut watch) => watch.next().await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(ended, Error::Compacted { compact_revision, .. } if compact_revision == last), "{ended:?}");
    let mut watch = client.watch("/a").from(last).start().await.unwrap();
    assert_eq!(next(&mut watch).await.revision, last);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let (_member, client) = member().await;
    let none = LeaseId::new(99).unwrap();
    for (error, reason, kind) in [
        (client.put("", "1").await.unwrap_err(), Reason::InvalidArgument, ErrorKind::FixRequest),
        (client.put(vec![b'a'; 5000], "1").await.unwrap_err(), Reason::InvalidArgument, ErrorKind::FixRequest),
        (client.list("/a//b").await.unwrap_err(), Reason::InvalidArgument, ErrorKind::FixRequest),
        (client.delete_subtree("/a/").await.unwrap_err(), Reason::InvalidArgument, ErrorKind::FixRequest),
        (client.get("/a").at(Revision(1000)).await.unwrap_err(), Reason::FutureRevision, ErrorKind::FixRequest),
        (client.put("/a", vec![0; 2 << 20]).await.unwrap_err(), Reason::TooLarge, ErrorKind::FixRequest),
        (client.put("/a", "1").lease(none).await.unwrap_err(), Reason::LeaseNotFound, ErrorKind::Reacquire),
        (client.lease_revoke(none).await.unwrap_err(), Reason::LeaseNotFound, ErrorKind::Reacquire),
        (client.lease_keep_alive(none).await.unwrap_err(), Reason::LeaseNotFound, ErrorKind::Reacquire),
        (client.copy("/a", "/a/b").await.unwrap_err(), Reason::InvalidArgument, ErrorKind::FixRequest),
    ] {
        assert_eq!((error.reason(), error.kind()), (Some(reason), kind), "{error}");
        assert_eq!(error.happened(), quorate::Happened::No, "{error}");
    }
}

#[tokio::test]
async fn a_reflector_follows_and_reads_its_own_writes() {
    let (_member, client) = member().await;
    client.put("/r", "root").await.unwrap();
    client.put("/r/a", "1").await.unwrap();
    client.put("/rx", "not below").await.unwrap();
    let reflector = client.reflector("/r").await.unwrap();
    assert_eq!(texts(&reflector.snapshot().iter().cloned().collect::<Vec<_>>()), ["/r=root", "/r/a=1"]);

    for round in 0..50 {
        let written = client.put("/r/a", round.to_string()).await.unwrap().header.revision;
        reflector.wait_until(written).await.unwrap();
        assert_eq!(reflector.get("/r/a").unwrap().value_text(), round.to_string());
    }
    let elsewhere = client.put("/elsewhere", "1").await.unwrap().header.revision;
    tokio::time::timeout(Duration::from_secs(5), reflector.wait_until(elsewhere)).await.unwrap().unwrap();
    let all = client.reflector("/").await.unwrap();
    assert_eq!(all.snapshot().len(), 4);
}

#[tokio::test]
async fn a_held_lease_outlives_its_time_and_takes_its_keys_along() {
    let (_member, client) = member().await;
    let ttl = Duration::from_millis(600);
    let guard = client.lease(ttl).grant().await.unwrap();
    client.put("/l/held", "1").lease(&guard).await.unwrap();
    let alone = client.lease(ttl).grant_unattended().await.unwrap();
    client.put("/l/alone", "1").lease(alone.id).await.unwrap();
    client.put("/l/own", "1").ttl(ttl).await.unwrap();
    let mut watch = client.watch("/l").subtree().start().await.unwrap();

    let mut expired = vec![];
    // One revision or two: leases that end at the same time go together.
    while expired.len() < 2 {
        let changes = next(&mut watch).await;
        assert!(changes.events.iter().all(|event| event.lease_ended));
        expired.extend(changes.events.iter().map(|event| event.kv.key_text().into_owned()));
    }
    expired.sort();
    assert_eq!(expired, ["/l/alone", "/l/own"]);

    tokio::time::sleep(ttl * 2).await;
    guard.check().unwrap();
    let left = client.lease_time_to_live(guard.id()).with_keys().await.unwrap();
    assert!(left.remaining.is_some_and(|left| left <= ttl));
    assert_eq!((left.granted, left.keys.as_slice()), (ttl, &["/l/held".into()][..]));
    assert_eq!(client.leases().await.unwrap(), [guard.id()]);
    for name in ["/l/more", "/l/most"] {
        client.put(name, "1").lease(&guard).await.unwrap();
        next(&mut watch).await;
    }
    let asked = || client.lease_time_to_live(guard.id()).with_keys().page_size(2);
    let first = asked().page().await.unwrap();
    assert_eq!((first.keys.len(), first.next.is_some()), (2, true));
    assert_eq!(asked().after(first.next.unwrap()).page().await.unwrap().keys, ["/l/most"]);
    assert_eq!(asked().await.unwrap().keys, ["/l/held", "/l/more", "/l/most"]);
    let other = client.lease(ttl * 100).grant_unattended().await.unwrap().id;
    let one = client.leases().page_size(1).page().await.unwrap();
    assert_eq!((one.leases.len(), one.next.is_some()), (1, true));
    assert_eq!(client.leases().page_size(1).await.unwrap().len(), 2);
    client.lease_revoke(other).await.unwrap();
    for name in ["/l/more", "/l/most"] {
        client.delete(name).await.unwrap();
        next(&mut watch).await;
    }

    drop(guard);
    let gone = next(&mut watch).await;
    assert_eq!((gone.events[0].kind, gone.events[0].kv.key_text().as_ref()), (EventKind::Delete, "/l/held"));
}

#[tokio::test]
async fn a_guard_hears_that_its_lease_was_revoked() {
    let (_member, client) = member().await;
    let guard = client.lease(Duration::from_secs(3)).grant().await.unwrap();
    assert_eq!(client.lease_revoke(guard.id()).await.unwrap(), 0);
    assert_eq!(tokio::time::timeout(Duration::from_secs(3), guard.lost()).await.unwrap(), Lost::Gone);

    let guard = client.lease(Duration::from_secs(3)).grant().await.unwrap();
    client.put("/a", "1").lease(&guard).await.unwrap();
    assert_eq!(guard.revoke().await.unwrap(), 1);
    assert!(client.get("/a").await.unwrap().kv.is_none());
}

#[tokio::test]
async fn an_operator_sees_the_member() {
    let (member, client) = member().await;
    client.put("/a", "1").await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.keys, status.leader, status.alarms.len()), (1, status.member.id, 0));
    let members = client.members().await.unwrap();
    assert_eq!((members.members.len(), members.leader), (1, status.member.id));
    assert_eq!(client.status_of_all().await.len(), 1);
    let digest = client.digest_of(member.endpoint(), None).await.unwrap();
    assert_ne!(digest.digest, 0);

    let snapshot = client.snapshot().await.unwrap();
    assert!(snapshot.revision() >= Revision(2));
    let total = snapshot.total_bytes();
    let parts: Vec<_> = snapshot.try_collect().await.unwrap();
    assert_eq!(parts.iter().map(|part| part.len() as u64).sum::<u64>(), total);
}

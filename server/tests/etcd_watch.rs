//! Watches of etcd's wire over real sockets, and across the doors.
//!
//! Invariants:
//! - What one test waits for comes; what must not come is shown by something later that comes instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod support;

use std::time::Duration;

use doors::etcd::{Watching, delete, events, kv, lease, put, refused, watch, with_leader};
use doors::three::Three;
use doors::{Doors, Events};
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::v1;
use quorate_server::config::Limits;
use tonic::Code;

fn revision(response: &pb::WatchResponse) -> i64 {
    response.header.unwrap().revision
}

fn from(start_revision: i64, create: pb::WatchCreateRequest) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { start_revision, ..create }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_hears_of_its_keys_in_order_with_the_revision_of_the_events() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    kv.put(put("a", "0")).await.unwrap();
    let mut watching = Watching::open(&doors).await;
    let one = watching.create(watch("a", "")).await;
    let all = watching.create(watch("", "\0")).await;
    assert_eq!((one.watch_id, revision(&one), all.watch_id, revision(&all)), (0, 2, 1, 2));
    assert!(one.header.unwrap().raft_term > 0 && one.header.unwrap().cluster_id == 0xc1);
    kv.put(put("a", "1")).await.unwrap();
    let mut heard = [watching.next().await, watching.next().await];
    heard.sort_by_key(|response| response.watch_id);
    for (response, id) in heard.iter().zip(0..) {
        assert_eq!((response.watch_id, revision(response), events(response)), (id, 3, vec!["PUT a=1@3".to_owned()]));
        assert!(!response.created && !response.canceled && !response.fragment);
    }
    kv.put(put("b", "2")).await.unwrap();
    kv.delete_range(delete("b", "")).await.unwrap();
    let mut rest = Vec::new();
    while rest.len() < 2 {
        let response = watching.next().await;
        assert_eq!(response.watch_id, 1);
        rest.extend(events(&response));
    }
    assert_eq!(rest, ["PUT b=2@4", "DELETE b@5"]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_a_past_revision_and_waits_for_a_future_one() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let mut watching = Watching::open(&doors).await;
    let past = watching.create(from(3, watch("a", ""))).await;
    assert_eq!(revision(&past), 4);
    let caught_up = watching.next().await;
    assert_eq!((events(&caught_up), revision(&caught_up)), (vec!["PUT a=2@3".to_owned(), "PUT a=3@4".to_owned()], 4));
    watching.cancel(past.watch_id).await;
    assert!(watching.next().await.canceled);
    watching.create(from(7, watch("a", ""))).await;
    for value in ["5", "6", "7"] {
        kv.put(put("a", value)).await.unwrap();
    }
    assert_eq!(events(&watching.next().await), ["PUT a=7@7"]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_comes_whole_and_its_lease_takes_all_keys_at_once() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    lease(&doors).lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 7 }).await.unwrap();
    let mut watching = Watching::open(&doors).await;
    watching.create(watch("k", "l")).await;
    let puts = ["k1", "k2", "x"].map(|key| {
        let put = pb::PutRequest { lease: 7, ..put(key, "v") };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    });
    kv.txn(pb::TxnRequest { success: puts.to_vec(), ..Default::default() }).await.unwrap();
    assert_eq!(events(&watching.next().await), ["PUT k1=v@2", "PUT k2=v@2"]);
    lease(&doors).lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap();
    assert_eq!(events(&watching.next().await), ["DELETE k1@3", "DELETE k2@3"]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_values_and_filters() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    let mut watching = Watching::open(&doors).await;
    watching.create(pb::WatchCreateRequest { prev_kv: true, watch_id: 1, ..watch("a", "") }).await;
    watching.create(pb::WatchCreateRequest { filters: vec![0], watch_id: 2, ..watch("a", "") }).await;
    watching.create(pb::WatchCreateRequest { filters: vec![1], watch_id: 3, ..watch("a", "") }).await;
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    kv.delete_range(delete("a", "")).await.unwrap();
    let mut heard: [Vec<String>; 4] = Default::default();
    let mut previous = Vec::new();
    while heard.iter().map(Vec::len).sum::<usize>() < 6 {
        let response = watching.next().await;
        assert!(!response.events.is_empty(), "what is filtered away is not sent as nothing");
        heard[usize::try_from(response.watch_id).unwrap()].extend(events(&response));
        let before = response.events.iter().map(|event| event.prev_kv.clone());
        previous.extend(before.filter(|_| response.watch_id == 1));
        assert!(response.watch_id == 1 || response.events.iter().all(|event| event.prev_kv.is_none()));
    }
    assert_eq!(heard[1], ["PUT a=1@2", "PUT a=2@3", "DELETE a@4"]);
    assert_eq!(
        (&heard[2], &heard[3]),
        (&vec!["DELETE a@4".to_owned()], &vec!["PUT a=1@2".to_owned(), "PUT a=2@3".to_owned()])
    );
    let previous: Vec<_> = previous.into_iter().map(|kv| kv.map(|kv| (kv.value, kv.mod_revision))).collect();
    assert_eq!(previous, [None, Some(("1".into(), 2)), Some(("2".into(), 3))]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_value_below_the_compaction_mark_is_not_told() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.compact(pb::CompactionRequest { revision: 3, physical: false }).await.unwrap();
    let mut watching = Watching::open(&doors).await;
    watching.create(pb::WatchCreateRequest { prev_kv: true, ..from(3, watch("a", "")) }).await;
    let response = watching.next().await;
    assert_eq!(events(&response), ["PUT a=2@3", "PUT a=3@4"]);
    let previous: Vec<_> = response.events.into_iter().map(|event| event.prev_kv.map(|kv| kv.value)).collect();
    assert_eq!(previous, [None, Some("2".into())]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_chosen_by_either_side_and_cancelled_by_the_client() {
    let doors = Doors::single().await;
    let mut watching = Watching::open(&doors).await;
    let with_id = |watch_id| pb::WatchCreateRequest { watch_id, ..watch("a", "") };
    assert_eq!(watching.create(with_id(1)).await.watch_id, 1);
    assert_eq!(watching.create(with_id(0)).await.watch_id, 0);
    assert_eq!(watching.create(with_id(0)).await.watch_id, 2, "1 is taken");
    let twice = watching.create(with_id(1)).await;
    assert_eq!((twice.watch_id, twice.canceled), (-1, true));
    assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    // An unknown id is passed over; the answer to the next is the first to come.
    watching.cancel(77).await;
    watching.cancel(1).await;
    let cancelled = watching.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.compact_revision), (1, true, 0));
    assert_eq!((cancelled.cancel_reason.as_str(), revision(&cancelled)), ("", 1));
    assert_eq!(watching.create(with_id(1)).await.watch_id, 1);
    kv(&doors).put(put("a", "1")).await.unwrap();
    let mut heard: Vec<i64> = Vec::new();
    for _ in 0..3 {
        heard.push(watching.next().await.watch_id);
    }
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_cannot_be_are_answered_and_the_stream_goes_on() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    for value in ["1", "2", "3", "4"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await.unwrap();
    let mut watching = Watching::open(&doors).await;
    for (create, reason) in [
        (watch("b", "a"), "mvcc: watcher range is empty"),
        (watch("b", "b"), "mvcc: watcher range is empty"),
        (from(-1, watch("a", "")), "etcdserver: mvcc: required revision has been compacted"),
    ] {
        let answer = watching.create(create).await;
        assert_eq!((answer.watch_id, answer.canceled, answer.cancel_reason.as_str()), (-1, true, reason));
        assert_eq!(revision(&answer), 5);
    }
    let old = watching.create(from(3, watch("a", ""))).await;
    assert!(!old.canceled && revision(&old) == 5);
    let compacted = watching.next().await;
    assert_eq!((compacted.watch_id, compacted.canceled, compacted.compact_revision), (old.watch_id, true, 4));
    assert_eq!((compacted.cancel_reason.as_str(), revision(&compacted)), ("", 0));
    watching.create(from(4, watch("a", ""))).await;
    assert_eq!(events(&watching.next().await), ["PUT a=3@4", "PUT a=4@5"], "the mark itself can be read");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_for_progress_is_told_for_the_stream_when_all_watches_are_in_step() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    let mut watching = Watching::open(&doors).await;
    // Without a watch there is nothing to say.
    watching.ask_progress().await;
    watching.create(watch("a", "")).await;
    watching.create(watch("b", "")).await;
    kv.put(put("x", "1")).await.unwrap();
    watching.ask_progress().await;
    let mark = watching.next().await;
    assert_eq!((mark.watch_id, revision(&mark), mark.events.len()), (-1, 2, 0));
    assert!(!mark.created && !mark.canceled);
    for at in 0..50 {
        kv.put(put(if at % 2 == 0 { "a" } else { "b" }, "v")).await.unwrap();
        watching.ask_progress().await;
        let mut last = 0;
        loop {
            let response = watching.next().await;
            if response.watch_id == -1 {
                assert_eq!(
                    (last, revision(&response)),
                    (at + 3, at + 3),
                    "events come before the mark that covers them"
                );
                break;
            }
            last = response.events.last().unwrap().kv.as_ref().unwrap().mod_revision;
        }
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_by_time_to_watches_that_asked() {
    let limits = Limits { watch_progress: Duration::from_millis(150), ..Limits::default() };
    let doors = Doors::single_with(limits).await;
    let mut watching = Watching::open(&doors).await;
    watching.create(watch("a", "")).await;
    let notified = watching.create(pb::WatchCreateRequest { progress_notify: true, ..watch("b", "") }).await;
    kv(&doors).put(put("x", "1")).await.unwrap();
    for _ in 0..2 {
        let mark = watching.next().await;
        assert_eq!((mark.watch_id, revision(&mark), mark.events.len()), (notified.watch_id, 2, 0));
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_comes_in_fragments_where_asked() {
    let doors = Doors::single().await;
    let mut kv = kv(&doors);
    let mut watching = Watching::open(&doors).await;
    watching.create(pb::WatchCreateRequest { fragment: true, ..watch("k", "l") }).await;
    let value = "v".repeat(1 << 20);
    let puts = (0..5).map(|at| {
        let put = put(&format!("k{at}"), &value);
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    });
    kv.txn(pb::TxnRequest { success: puts.collect(), ..Default::default() }).await.unwrap();
    let (mut keys, mut parts) = (Vec::new(), 0);
    loop {
        let response = watching.next().await;
        parts += 1;
        keys.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().key.clone()));
        if !response.fragment {
            break;
        }
    }
    assert_eq!((keys, parts), (["k0", "k1", "k2", "k3", "k4"].map(bytes::Bytes::from).to_vec(), 5));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_clients_side_does_not_end_its_watches() {
    let doors = Doors::single().await;
    let mut watching = Watching::open(&doors).await;
    watching.create(watch("a", "")).await;
    watching.half_close();
    for at in 2..5 {
        kv(&doors).put(put("a", "1")).await.unwrap();
        assert_eq!(events(&watching.next().await), [format!("PUT a=1@{at}")]);
    }
    // Nor does it keep the member from stopping.
    doors.drain().await;
    refused(watching.try_next().await, Code::Unavailable, "etcdserver: server stopped");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_only_streams_that_asked_for_one_end() {
    let three = Three::start().await;
    let first = &three.members[&1];
    kv(first).put(put("a", "1")).await.unwrap();
    let mut hasty = Watching::open_as(first, with_leader).await;
    let mut patient = Watching::open(first).await;
    hasty.create(watch("a", "")).await;
    patient.create(watch("a", "")).await;
    three.net.part(&[1], &[2, 3]);
    refused(hasty.try_next().await, Code::Unavailable, "etcdserver: no leader");
    three.net.heal();
    let mut lost = first.rooms.hub.contact_lost();
    tokio::time::timeout(Duration::from_secs(20), lost.wait_for(|lost| !*lost))
        .await
        .expect("contact is back")
        .unwrap();
    kv(first).put(put("a", "2")).await.unwrap();
    assert_eq!(events(&patient.next().await), ["PUT a=2@3"]);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_door_hears_of_what_came_through_the_other() {
    let doors = Doors::single().await;
    let mut watching = Watching::open(&doors).await;
    watching.create(watch("/", "0")).await;
    let mut native = Events::open(&doors).await;
    let create = v1::WatchCreate {
        watch_id: 1,
        key: "/".into(),
        scope: v1::watch_create::Scope::Subtree.into(),
        ..Default::default()
    };
    native.create(create).await;
    doors.kv().put(v1::PutRequest { key: "/n".into(), value: "1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(events(&watching.next().await), ["PUT /n=1@2"]);
    kv(&doors).put(put("/e", "2")).await.unwrap();
    let heard = native.next_events(2).await;
    let keys: Vec<_> = heard.iter().map(|event| event.kv.as_ref().unwrap().key.clone()).collect();
    assert_eq!(keys, ["/n", "/e"]);
    assert_eq!(events(&watching.next().await), ["PUT /e=2@3"]);
    // A lease granted through one door ends, and is heard of through both.
    lease(&doors).lease_grant(pb::LeaseGrantRequest { ttl: 2, id: 7 }).await.unwrap();
    let owner = Some(v1::put_request::Owner::LeaseId(7));
    doors.kv().put(v1::PutRequest { key: "/l".into(), owner, ..Default::default() }).await.unwrap();
    assert_eq!(events(&watching.next().await), ["PUT /l=@4"]);
    assert_eq!(events(&watching.next().await), ["DELETE /l@5"]);
    let heard = native.next_events(2).await;
    assert!(heard[1].lease_ended, "{heard:?}");
    let gone = lease(&doors).lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: false }).await.unwrap();
    assert_eq!(gone.into_inner().ttl, -1);
    doors.stop().await;
}

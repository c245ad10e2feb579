//! The native API on three members: through followers, across elections, without a quorum.
//!
//! Invariants:
//! - What a member without a quorum says, it says within the caller's deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod support;

use std::time::Duration;

use doors::three::Three;
use doors::{Events, detail};
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Happened, Kind};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};

fn put(key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn within<T>(request: T, timeout: &str) -> Request<T> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn read_barrier_what_one_member_acknowledged_another_reads() {
    let three = Three::start().await;
    for round in 0..30 {
        let (writer, reader) = (&three.members[&(round % 3 + 1)], &three.members[&((round + 1) % 3 + 1)]);
        let value = round.to_string();
        let written = writer.kv().put(put("/a", &value)).await.unwrap().into_inner();
        let read =
            reader.kv().get(v1::GetRequest { key: "/a".into(), ..Default::default() }).await.unwrap().into_inner();
        assert_eq!(read.kv.unwrap().value, value);
        let options = v1::ReadOptions { serializable: true, min_revision: written.header.unwrap().revision };
        let bounded = v1::GetRequest { key: "/a".into(), read: Some(options), ..Default::default() };
        assert_eq!(writer.kv().get(bounded).await.unwrap().into_inner().kv.unwrap().value, value);
    }
    three.stop().await;
}

/// A starved machine may answer after the caller gave up: once in a few times it is in time.
async fn told_in_time(ask: impl AsyncFn() -> (Status, bool)) -> Status {
    for _ in 0..10 {
        let (status, in_time) = ask().await;
        if in_time && status.code() != Code::Cancelled {
            return status;
        }
    }
    panic!("it is never told in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_quorum_says_so_in_time() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let alone = three.others(leader)[0];
    let rest: Vec<u64> = three.others(alone);
    let member = &three.members[&alone];
    let mut events = Events::open(member).await;
    events.create(v1::WatchCreate { watch_id: 1, key: "/a".into(), ..Default::default() }).await;
    three.net.part(&[alone], &rest);
    let end = events.next().await.end.unwrap();
    assert_eq!(end.reason(), v1::watch_end::Reason::Unavailable);
    let status = told_in_time(async || {
        let began = Instant::now();
        let status = member.kv().put(within(put("/a", "1"), "800m")).await.unwrap_err();
        (status, began.elapsed() < Duration::from_millis(800))
    });
    let status = status.await;
    assert_eq!((status.code(), detail(&status).kind()), (Code::Unavailable, Kind::NoQuorum), "{status}");
    let get = v1::GetRequest { key: "/a".into(), ..Default::default() };
    let status = told_in_time(async || (member.kv().get(within(get.clone(), "500m")).await.unwrap_err(), true)).await;
    let detail = detail(&status);
    assert_eq!((status.code(), detail.kind(), detail.happened()), (Code::Unavailable, Kind::NoQuorum, Happened::No));
    let stale = v1::ReadOptions { serializable: true, min_revision: 0 };
    member.kv().get(v1::GetRequest { read: Some(stale), ..get }).await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(member.channel());
    let check = tonic_health::pb::HealthCheckRequest { service: String::new() };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 2, "not serving");
    three.net.heal();
    member.kv().put(put("/a", "2")).await.unwrap();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_does_not_claim_that_a_write_did_not_happen() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    three.net.part(&[leader], &others);
    // Appended at the leader, not committed: it may yet.
    let status = three.members[&leader].kv().put(within(put("/a", "1"), "300m")).await.unwrap_err();
    assert_eq!(detail(&status).happened(), Happened::Unknown, "{status}");
    three.leader_among(&others).await;
    three.net.heal();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_live_through_followers_and_across_an_election() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    let (mut lease, mut kv) = (three.members[&others[0]].lease(), three.members[&others[0]].kv());
    lease.grant(v1::GrantRequest { ttl_ms: 1_500, lease_id: 9, ..Default::default() }).await.unwrap();
    let owner = Some(v1::put_request::Owner::LeaseId(9));
    kv.put(v1::PutRequest { owner, ..put("/a", "1") }).await.unwrap();
    let mut events = Events::open(&three.members[&others[1]]).await;
    events.create(v1::WatchCreate { watch_id: 1, key: "/a".into(), ..Default::default() }).await;
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = lease.keep_alive(requests).await.unwrap().into_inner();
    for round in 0..10 {
        if round == 4 {
            three.net.part(&[leader], &others);
            three.leader_among(&others).await;
        }
        sender.send(v1::KeepAliveRequest { lease_id: 9 }).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl_ms, 1_500);
        sleep(Duration::from_millis(300)).await;
    }
    let sent = Instant::now();
    sender.send(v1::KeepAliveRequest { lease_id: 9 }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl_ms, 1_500);
    let event = events.next_events(1).await.remove(0);
    assert!(event.lease_ended, "{event:?}");
    let took = sent.elapsed();
    assert!(took >= Duration::from_millis(1_500) && took < Duration::from_secs(4), "{took:?}");
    three.net.heal();
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_an_old_leader_that_is_cut_off_confirms_nothing() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    let mut lease = three.members[&leader].lease();
    lease.grant(v1::GrantRequest { ttl_ms: 60_000, lease_id: 9, ..Default::default() }).await.unwrap();
    three.net.part(&[leader], &others);
    let ask = v1::TimeToLiveRequest { lease_id: 9, ..Default::default() };
    let status = lease.time_to_live(within(ask, "1S")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    three.net.heal();
    three.stop().await;
}

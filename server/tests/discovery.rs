//! Service discovery over real sockets: registering, resolving, watching, reports, protection.
//!
//! Invariants:
//! - Whatever is watched from outside is watched by the raw keys too: what nobody changed moves no revision.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod found;
mod support;

use std::time::Duration;

use doors::three::Three;
use doors::{Doors, detail};
use found::{Registration, Watched, asked, health, instance, resolve};
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::Health;
use quorate_proto::v1::error_detail::Kind;
use quorate_proto::v1::health_check::Kind as Check;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, kind: Kind, says: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), detail(&status).kind()), (code, kind), "{status}");
    assert!(status.message().contains(says), "{status}");
}

fn ids(instances: &[v1::Instance]) -> Vec<&str> {
    instances.iter().map(|instance| instance.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_registers_is_resolved_and_leaves_in_good_order() {
    let doors = Doors::single().await;
    let mut first = Registration::open(&doors).await;
    let answer = first.register(asked(v1::Instance { zone: "eu".into(), ..instance("web", "a") })).await;
    assert!(answer.lease_id != 0 && answer.ttl_ms == 5_000 && !answer.renewed, "{answer:?}");
    let mut second = Registration::open(&doors).await;
    let tagged = v1::Instance { tags: vec!["v2".into(), "canary".into()], weight: 7, ..instance("web", "b") };
    second.register(asked(tagged)).await;
    let found = resolve(&doors, v1::ResolveRequest { service: "web".into(), ..Default::default() }).await;
    assert_eq!(ids(&found.instances), ["a", "b"]);
    assert_eq!((found.instances[0].weight, found.instances[1].weight), (100, 7));
    assert_eq!(found.instances[0].health(), Health::Passing);
    assert_eq!(found.instances[0].lease_id, answer.lease_id);
    let by_tag = v1::ResolveRequest { service: "web".into(), tags: vec!["canary".into()], ..Default::default() };
    assert_eq!(ids(&resolve(&doors, by_tag).await.instances), ["b"]);
    let by_zone = v1::ResolveRequest { service: "web".into(), zone: "eu".into(), ..Default::default() };
    assert_eq!(ids(&resolve(&doors, by_zone).await.instances), ["a"]);
    first.end().await;
    let found = resolve(&doors, v1::ResolveRequest { service: "web".into(), ..Default::default() }).await;
    assert_eq!(ids(&found.instances), ["b"], "gone at once, long before its time to live");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_leaves_the_instance_and_goes_on_without_a_change() {
    let doors = Doors::single().await;
    let (mut stream, between) = Registration::open_through(&doors).await;
    let lease = stream.register(asked(instance("web", "a"))).await.lease_id;
    let mut watched = Watched::open(&doors, "web", 0).await;
    assert_eq!(ids(&watched.next().await.changed), ["a"]);
    let version = doors.version_of("/services/web/a");
    between.cut().await;
    assert!(stream.try_heartbeat().await.is_err(), "the client notices");
    let mut again = Registration::open(&doors).await;
    let answer = again.register(v1::RegisterInstance { lease_id: lease, ..asked(instance("web", "a")) }).await;
    assert_eq!((answer.lease_id, answer.renewed), (lease, false));
    assert_eq!(doors.version_of("/services/web/a"), version, "nothing was written");
    // What changes is seen as a change of the same instance.
    let other = v1::Instance { weight: 9, ..instance("web", "a") };
    let answer = again.register(asked(other)).await;
    assert_eq!((answer.lease_id, answer.renewed), (lease, false));
    let update = watched.next().await;
    assert_eq!((update.changed[0].weight, update.removed.len()), (9, 0));
    doors.stop().await;
}

/// What clients of other languages do that give a call up: they reset its stream, over a connection that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_is_not_one_that_ended() {
    let doors = Doors::single().await;
    for (id, gives_up) in [("given-up", true), ("ended", false)] {
        let socket = tokio::net::TcpStream::connect(doors.serving.address()).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::post(format!("http://{}/quorate.v1.Discovery/Register", doors.serving.address()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut requests) = client.send_request(request, false).unwrap();
        let message = v1::register_request::Message::Register(asked(instance("web", id)));
        let message = v1::RegisterRequest { message: Some(message) }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        requests.send_data([&[0], &length[..], &message].concat().into(), false).unwrap();
        let mut answers = response.await.unwrap().into_body();
        assert!(answers.data().await.unwrap().is_ok(), "it is registered");
        if gives_up {
            requests.send_reset(h2::Reason::CANCEL);
        } else {
            requests.send_data(bytes::Bytes::new(), true).unwrap();
            while let Some(more) = answers.data().await {
                more.unwrap();
            }
        }
        let plain = v1::ResolveRequest { service: "web".into(), ..Default::default() };
        assert_eq!(ids(&resolve(&doors, plain).await.instances), ["given-up"]);
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_program_is_silent_goes_when_its_time_is_over() {
    let doors = Doors::single().await;
    let mut stream = Registration::open(&doors).await;
    let short = v1::RegisterInstance { ttl_ms: 1_000, ..asked(instance("web", "a")) };
    let lease = stream.register(short).await.lease_id;
    let mut watched = Watched::open(&doors, "web", 0).await;
    assert_eq!(watched.next().await.changed.len(), 1);
    // The stream stands, but no heartbeat comes on it.
    assert_eq!(watched.next().await.removed, ["a"]);
    let answer = stream.heartbeat().await;
    assert!(answer.renewed && answer.lease_id != 0, "{answer:?}");
    assert_eq!(ids(&watched.next().await.changed), ["a"]);
    let answer = stream.heartbeat().await;
    assert!(!answer.renewed && answer.ttl_ms == 1_000, "{answer:?}");
    assert_ne!(lease, 0);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_living_instance_is_refused_to_others() {
    let doors = Doors::single().await;
    let mut first = Registration::open(&doors).await;
    first.register(asked(instance("web", "a"))).await;
    let mut other = Registration::open(&doors).await;
    let result = other.try_register(asked(v1::Instance { port: 99, ..instance("web", "a") })).await;
    refused(result, Code::AlreadyExists, Kind::InstanceExists, "10.0.0.1:80");
    let mut permanent = Registration::open(&doors).await;
    let result = permanent.try_register(v1::RegisterInstance { permanent: true, ..asked(instance("web", "a")) }).await;
    refused(result, Code::AlreadyExists, Kind::InstanceExists, "under lease");
    let answer = deregister(&doors, "web", "a").await;
    assert!(answer.deregistered);
    // The heartbeat of the first notices, and registers anew.
    assert!(first.heartbeat().await.renewed);
    doors.stop().await;
}

async fn deregister(doors: &Doors, service: &str, id: &str) -> v1::DeregisterResponse {
    let request = v1::DeregisterRequest { service: service.into(), id: id.into() };
    found::client(doors).deregister(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_instance_outlives_its_stream_until_it_is_deregistered() {
    let doors = Doors::single().await;
    let permanent =
        |port| v1::RegisterInstance { permanent: true, ..asked(v1::Instance { port, ..instance("db", "main") }) };
    let mut stream = Registration::open(&doors).await;
    let answer = stream.register(permanent(1)).await;
    assert_eq!((answer.lease_id, answer.ttl_ms), (0, 0));
    assert!(!stream.heartbeat().await.renewed);
    stream.end().await;
    let mut stream = Registration::open(&doors).await;
    assert_eq!(stream.register(permanent(2)).await.instance.unwrap().port, 2);
    stream.end().await;
    assert_eq!(
        resolve(&doors, v1::ResolveRequest { service: "db".into(), ..Default::default() }).await.instances.len(),
        1
    );
    assert!(deregister(&doors, "db", "main").await.deregistered);
    assert!(!deregister(&doors, "db", "main").await.deregistered);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_registration_is_said() {
    let doors = Doors::single().await;
    let base = || instance("web", "a");
    let check = |kind| v1::HealthCheck { kind: Some(kind), ..Default::default() };
    let cases: Vec<(v1::RegisterInstance, &str)> = vec![
        (asked(v1::Instance { service: "Web".into(), ..base() }), "lower-case"),
        (asked(v1::Instance { id: "a/b".into(), ..base() }), "the id"),
        (asked(v1::Instance { address: "no host".into(), ..base() }), "address"),
        (asked(v1::Instance { address: "10.0.0".into(), ..base() }), "address"),
        (asked(v1::Instance { port: 0, ..base() }), "port"),
        (asked(v1::Instance { port: 65_536, ..base() }), "port"),
        (asked(v1::Instance { weight: 65_536, ..base() }), "weight"),
        (asked(v1::Instance { tags: vec!["a".into(), "a".into()], ..base() }), "twice"),
        (asked(v1::Instance { health: 9, ..base() }), "health 9"),
        (asked(v1::Instance { health: Health::Maintenance.into(), ..base() }), "SetMaintenance"),
        (asked(v1::Instance { checks: vec![v1::HealthCheck::default()], ..base() }), "exactly one"),
        (asked(v1::Instance { checks: vec![check(Check::Http("ftp://x/".into()))], ..base() }), "http://"),
        (asked(v1::Instance { checks: vec![check(Check::Tcp("x".into()))], ..base() }), "host:port"),
        (asked(v1::Instance { checks: vec![check(Check::TtlMs(1))], ..base() }), "ttl_ms"),
        (v1::RegisterInstance { ttl_ms: 999, ..asked(base()) }, "ttl_ms"),
        (v1::RegisterInstance { permanent: true, lease_id: 7, ..asked(base()) }, "no lease"),
        (v1::RegisterInstance::default(), "missing"),
    ];
    for (request, says) in cases {
        let mut stream = Registration::open(&doors).await;
        refused(stream.try_register(request).await, Code::InvalidArgument, Kind::InvalidArgument, says);
    }
    let mut stream = Registration::open(&doors).await;
    refused(stream.try_heartbeat().await, Code::InvalidArgument, Kind::InvalidArgument, "nothing is registered");
    let mut stream = Registration::open(&doors).await;
    stream.register(asked(base())).await;
    let result = stream.try_register(asked(instance("web", "b"))).await;
    refused(result, Code::InvalidArgument, Kind::InvalidArgument, "another stream");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_each_change_once_and_goes_on_after_a_revision() {
    let doors = Doors::single().await;
    let mut a = Registration::open(&doors).await;
    a.register(asked(instance("web", "a"))).await;
    let mut watched = Watched::open(&doors, "web", 0).await;
    let first = watched.next().await;
    assert!(first.snapshot && ids(&first.changed) == ["a"]);
    let at = first.header.unwrap().revision;
    let mut b = Registration::open(&doors).await;
    b.register(asked(instance("web", "b"))).await;
    let mut elsewhere = Registration::open(&doors).await;
    elsewhere.register(asked(instance("other", "x"))).await;
    let update = watched.next().await;
    assert_eq!((ids(&update.changed), update.snapshot, update.removed.len()), (vec!["b"], false, 0));
    report(&doors, "web", "a", Health::Critical).await.unwrap();
    assert_eq!(watched.next().await.removed, ["a"], "it no longer matches");
    report(&doors, "web", "a", Health::Warning).await.unwrap();
    assert_eq!(watched.next().await.changed[0].health(), Health::Warning);
    // From where the first watch began: what is different since then.
    let mut resumed = Watched::open(&doors, "web", at).await;
    assert!(!resumed.next().await.snapshot);
    let known = resumed.until(|known, _| known.get("a").is_some_and(|a| a.health() == Health::Warning)).await;
    assert!(known.contains_key("b"));
    let compact = v1::CompactRequest { revision: known["a"].mod_revision, ..Default::default() };
    doors.kv().compact(compact).await.unwrap();
    let mut late = Watched::open(&doors, "web", at).await;
    let all = late.next().await;
    assert!(all.snapshot && ids(&all.changed) == ["a", "b"], "{all:?}");
    doors.stop().await;
}

async fn report(
    doors: &Doors,
    service: &str,
    id: &str,
    health: Health,
) -> Result<v1::ReportHealthResponse, tonic::Status> {
    let note = "as it says".to_owned();
    let request = v1::ReportHealthRequest { service: service.into(), id: id.into(), health: health.into(), note };
    found::client(doors).report_health(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_reports_counts_unless_it_is_in_maintenance() {
    let doors = Doors::single().await;
    let mut stream = Registration::open(&doors).await;
    stream.register(asked(instance("web", "a"))).await;
    assert_eq!(report(&doors, "web", "a", Health::Warning).await.unwrap().health(), Health::Warning);
    let maintain = |on| v1::SetMaintenanceRequest { service: "web".into(), id: "a".into(), on, note: "disks".into() };
    let answer = found::client(&doors).set_maintenance(maintain(true)).await.unwrap().into_inner();
    assert_eq!(answer.health(), Health::Maintenance);
    assert_eq!(report(&doors, "web", "a", Health::Passing).await.unwrap().health(), Health::Maintenance);
    let version = doors.version_of("/services/web/a");
    report(&doors, "web", "a", Health::Passing).await.unwrap();
    assert_eq!(doors.version_of("/services/web/a"), version, "a report that says nothing new writes nothing");
    let (now, note) = health(&doors, "web", "a").await;
    assert_eq!((now, note.as_str()), (Health::Maintenance, "disks"));
    let answer = found::client(&doors).set_maintenance(maintain(false)).await.unwrap().into_inner();
    assert_eq!(answer.health(), Health::Passing);
    // The lease has stayed: a heartbeat finds all in order.
    assert!(!stream.heartbeat().await.renewed);
    let missing = report(&doors, "web", "none", Health::Passing).await;
    refused(missing, Code::NotFound, Kind::InstanceNotFound, "none");
    let wrong = report(&doors, "web", "a", Health::Maintenance).await;
    refused(wrong, Code::InvalidArgument, Kind::InvalidArgument, "PASSING");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_others_are_served_and_malformed_ones_hide_nothing() {
    let doors = Doors::single().await;
    let put = async |key: &str, value: &str| {
        let put = v1::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        doors.kv().put(put).await.unwrap();
    };
    put("/services/web/good", r#"{"address":"db.example","port":1,"owner":{"team":"x"}}"#).await;
    put("/services/web/bad", "{").await;
    put("/services/web/b ad", r#"{"address":"10.0.0.9","port":1}"#).await;
    put("/services/web/worse", r#"{"address":"10.0.0.9","port":0}"#).await;
    put("/services/web/below/it", r#"{"address":"10.0.0.9","port":1}"#).await;
    put("/services/Not-A-Name/x", "?").await;
    let plain = v1::ResolveRequest { service: "web".into(), ..Default::default() };
    assert_eq!(ids(&resolve(&doors, plain.clone()).await.instances), ["good"]);
    let all = resolve(&doors, v1::ResolveRequest { worst: Health::Maintenance.into(), ..plain }).await;
    assert_eq!(ids(&all.instances), ["b ad", "bad", "good", "worse"]);
    assert!(all.instances.iter().all(|found| found.malformed.is_empty() == (found.id == "good")), "{all:?}");
    refused(report(&doors, "web", "bad", Health::Passing).await, Code::FailedPrecondition, Kind::Precondition, "mend");
    report(&doors, "web", "good", Health::Warning).await.unwrap();
    let get = v1::GetRequest { key: "/services/web/good".into(), ..Default::default() };
    let kept = doors.kv().get(get).await.unwrap().into_inner().kv.unwrap().value;
    assert!(String::from_utf8_lossy(&kept).contains(r#""team":"x""#), "what is not known is kept");
    let page = v1::ServicesRequest { page_size: 1, ..Default::default() };
    let services = found::client(&doors).services(page).await.unwrap().into_inner().services;
    assert!(services.is_empty(), "the first name is none of a service: {services:?}");
    let services = found::client(&doors).services(v1::ServicesRequest::default()).await.unwrap().into_inner().services;
    assert_eq!((services[0].name.as_str(), services[0].instances, services[0].healthy), ("web", 4, 1));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_paged() {
    let doors = Doors::single().await;
    let mut streams = Vec::new();
    for service in ["a", "b", "c", "d", "e"] {
        let mut stream = Registration::open(&doors).await;
        stream.register(asked(instance(service, "1"))).await;
        streams.push(stream);
    }
    let (mut names, mut cursor) = (Vec::new(), bytes::Bytes::new());
    loop {
        let page = v1::ServicesRequest { page_size: 2, cursor, ..Default::default() };
        let page = found::client(&doors).services(page).await.unwrap().into_inner();
        names.extend(page.services.into_iter().map(|service| service.name));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_most_instances_expire_at_once_they_stay_listed_until_enough_are_back() {
    let doors = Doors::single().await;
    let mut streams = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        let mut stream = Registration::open(&doors).await;
        let ttl_ms = if id == "e" { 60_000 } else { 1_000 };
        stream.register(v1::RegisterInstance { ttl_ms, ..asked(instance("web", id)) }).await;
        streams.push(stream);
    }
    let mut watched = Watched::open(&doors, "web", 0).await;
    assert_eq!(watched.next().await.changed.len(), 5);
    // Four of five fall silent.
    let known = watched.until(|known, protected| protected && known.values().filter(|i| i.expired).count() == 4).await;
    assert_eq!(known.len(), 5);
    let all = v1::ResolveRequest { service: "web".into(), ..Default::default() };
    let found = resolve(&doors, all.clone()).await;
    assert_eq!((ids(&found.instances), found.protected), (vec!["a", "b", "c", "d", "e"], true));
    assert!(found.instances.iter().all(|found| found.expired == (found.id != "e")));
    // Two come back: three of five are there.
    for stream in &mut streams[..2] {
        assert!(stream.heartbeat().await.renewed);
    }
    let known = watched.until(|_, protected| !protected).await;
    assert!(known.values().all(|instance| !instance.expired), "{known:?}");
    let found = resolve(&doors, all).await;
    assert!(!found.protected && found.instances.iter().all(|instance| !instance.expired), "{found:?}");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_loss_is_believed_and_settings_of_a_service_are_heeded() {
    let doors = Doors::single().await;
    let settings = v1::PutRequest {
        key: "/services/careless".into(),
        value: r#"{"protect_share":1}"#.into(),
        ..Default::default()
    };
    doors.kv().put(settings).await.unwrap();
    let mut streams = Vec::new();
    for (service, id) in [("pair", "a"), ("pair", "b"), ("careless", "a"), ("careless", "b"), ("careless", "c")] {
        let mut stream = Registration::open(&doors).await;
        stream.register(v1::RegisterInstance { ttl_ms: 1_000, ..asked(instance(service, id)) }).await;
        streams.push(stream);
    }
    for service in ["pair", "careless"] {
        let mut watched = Watched::open(&doors, service, 0).await;
        watched.until(|known, protected| known.is_empty() && !protected).await;
        let found = resolve(&doors, v1::ResolveRequest { service: service.into(), ..Default::default() }).await;
        assert!(found.instances.is_empty() && !found.protected);
    }
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_goes_on_at_another_member_under_a_new_leader_without_a_flap() {
    let mut three = Three::start().await;
    let leader = three.leader().await;
    let others = three.others(leader);
    let (second, other) = (others[0], others[1]);
    let mut stream = Registration::open(&three.members[&leader]).await;
    let lease = stream.register(v1::RegisterInstance { ttl_ms: 10_000, ..asked(instance("web", "a")) }).await.lease_id;
    let mut watched = Watched::open(&three.members[&other], "web", 0).await;
    let first = watched.next().await;
    assert_eq!(ids(&first.changed), ["a"]);
    // The leader goes; the instance goes on elsewhere.
    three.remove(leader).await;
    drop(stream);
    let mut again = Registration::open(&three.members[&second]).await;
    let answer = loop {
        let request = v1::RegisterInstance { lease_id: lease, ttl_ms: 10_000, ..asked(instance("web", "a")) };
        match again.try_register(request).await {
            Ok(answer) => break answer,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        again = Registration::open(&three.members[&second]).await;
    };
    assert_eq!((answer.lease_id, answer.renewed), (lease, false));
    let mut marker = Registration::open(&three.members[&second]).await;
    marker.register(asked(instance("web", "marker"))).await;
    // The next change that is seen is another's.
    let update = match tokio::time::timeout(PATIENCE, watched.try_next()).await.unwrap() {
        Ok(update) => update,
        // The watcher's member may have lost contact meanwhile; its client goes on after the last revision.
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            let mut watched = Watched::open(&three.members[&second], "web", first.header.unwrap().revision).await;
            let mut update = watched.next().await;
            while update.changed.is_empty() && update.removed.is_empty() {
                update = watched.next().await;
            }
            update
        }
    };
    assert_eq!((ids(&update.changed), update.removed.len()), (vec!["marker"], 0));
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_choose_its_lease_or_bring_one() {
    let doors = Doors::single().await;
    let with = |lease_id, ttl_ms, id| v1::RegisterInstance { lease_id, ttl_ms, ..asked(instance("web", id)) };
    // Chosen: whoever never saw the answer goes on all the same.
    let mut stream = Registration::open(&doors).await;
    let answer = stream.register(with(0x7777, 5_000, "a")).await;
    assert_eq!((answer.lease_id, answer.renewed), (0x7777, true));
    let mut again = Registration::open(&doors).await;
    let answer = again.register(with(0x7777, 5_000, "a")).await;
    assert_eq!((answer.lease_id, answer.renewed), (0x7777, false));
    // Another time to live is another lease, and the same instance.
    let version = doors.version_of("/services/web/a");
    let answer = again.register(with(0x7777, 60_000, "a")).await;
    assert!(answer.lease_id != 0x7777 && answer.ttl_ms == 60_000 && !answer.renewed, "{answer:?}");
    assert_eq!(doors.version_of("/services/web/a"), version + 1, "one change, and no gap");
    // Brought: it stays what it is, and the instance goes with it.
    let granted = v1::GrantRequest { ttl_ms: 30_000, ..Default::default() };
    let lease_id = doors.lease().grant(granted).await.unwrap().into_inner().lease_id;
    let mut stream = Registration::open(&doors).await;
    let answer = stream.register(with(lease_id, 5_000, "b")).await;
    assert_eq!((answer.lease_id, answer.ttl_ms), (lease_id, 30_000));
    assert!(!stream.heartbeat().await.renewed);
    doors.lease().revoke(v1::RevokeRequest { lease_id, ..Default::default() }).await.unwrap();
    assert_eq!(doors.version_of("/services/web/b"), 0);
    // A lease that belongs to another instance is not shared with it.
    let answer = stream.register(with(answer.lease_id, 5_000, "b")).await;
    let mut third = Registration::open(&doors).await;
    assert_ne!(third.register(with(answer.lease_id, 5_000, "c")).await.lease_id, answer.lease_id);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protection_is_over_when_its_time_is() {
    let doors = Doors::single().await;
    let value = r#"{"protect_for_s":2}"#.into();
    let settings = v1::PutRequest { key: "/services/web".into(), value, ..Default::default() };
    doors.kv().put(settings).await.unwrap();
    let mut streams = Vec::new();
    for id in ["a", "b", "c"] {
        let mut stream = Registration::open(&doors).await;
        stream.register(v1::RegisterInstance { ttl_ms: 1_000, ..asked(instance("web", id)) }).await;
        streams.push(stream);
    }
    let mut watched = Watched::open(&doors, "web", 0).await;
    let known = watched.until(|known, protected| protected && known.len() == 3).await;
    assert!(known.values().all(|instance| instance.expired && instance.port == 80), "{known:?}");
    // Who begins to watch meanwhile is told the same.
    let mut late = Watched::open(&doors, "web", 0).await;
    assert_eq!(late.until(|_, _| true).await, known);
    for watched in [&mut watched, &mut late] {
        assert!(watched.until(|_, protected| !protected).await.is_empty());
    }
    doors.stop().await;
}

//! Health checks that the cluster makes, against listeners of the tests.
//!
//! Invariants:
//! - What a listener answers is set by the test; every connection to it is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod found;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use doors::Doors;
use doors::three::Three;
use found::{Registration, Watched, asked, client, health, instance, resolve};
use quorate_proto::v1;
use quorate_proto::v1::Health;
use quorate_proto::v1::health_check::Kind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server whose health the test decides.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, connections) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let (answered, counted) = (Arc::clone(&status), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let status = answered.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                });
            }
        });
        Self { address, status, connections }
    }

    fn say(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn http(&self) -> Kind {
        Kind::Http(format!("http://{}/health", self.address))
    }
}

/// Every second, critical at the first failure.
fn check(kind: Kind) -> v1::HealthCheck {
    v1::HealthCheck { kind: Some(kind), interval_ms: 1_000, timeout_ms: 900, failures: 1, ..Default::default() }
}

/// A permanent instance with these checks.
async fn register(doors: &Doors, id: &str, checks: Vec<v1::HealthCheck>) {
    let mut stream = Registration::open(doors).await;
    let instance = v1::Instance { checks, ..instance("web", id) };
    stream.register(v1::RegisterInstance { permanent: true, ..asked(instance) }).await;
    stream.end().await;
}

/// Everything, also what does not serve.
async fn watch_all(doors: &Doors) -> Watched {
    let worst = Health::Maintenance.into();
    Watched::ask(doors, v1::WatchServiceRequest { service: "web".into(), worst, ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_what_its_checks_say() {
    let doors = Doors::single().await;
    let server = Server::start().await;
    register(&doors, "a", vec![check(server.http()), check(Kind::Tcp(server.address.to_string()))]).await;
    let mut watched = watch_all(&doors).await;
    let first = &watched.next().await.changed[0];
    assert_eq!((first.health(), first.health_note.as_str()), (Health::Critical, "not checked yet"));
    for (status, expected) in
        [(200, Health::Passing), (429, Health::Warning), (503, Health::Critical), (204, Health::Passing)]
    {
        server.say(status);
        watched.until(|known, _| known["a"].health() == expected).await;
    }
    // Checks that say the same again write nothing.
    let (version, made) = (doors.version_of("/services/web/a"), server.connections.load(Ordering::SeqCst));
    while server.connections.load(Ordering::SeqCst) < made + 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(doors.version_of("/services/web/a"), version);
    server.say(302);
    let known = watched.until(|known, _| known["a"].health() == Health::Critical).await;
    assert!(known["a"].health_note.contains("redirects"), "{known:?}");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_service_is_asked_by_its_name() {
    let doors = Doors::single().await;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.Cart", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    register(&doors, "all", vec![check(Kind::Grpc(address.to_string()))]).await;
    register(&doors, "cart", vec![check(Kind::Grpc(format!("{address}/shop.Cart")))]).await;
    register(&doors, "none", vec![check(Kind::Grpc(format!("{address}/shop.None")))]).await;
    let mut watched = watch_all(&doors).await;
    let checked = |instance: &v1::Instance| instance.health_note != "not checked yet";
    let known = watched.until(|known, _| known.len() == 3 && known.values().all(checked)).await;
    assert_eq!(known["all"].health(), Health::Passing);
    assert!(known["cart"].health_note.contains("NOT_SERVING"), "{known:?}");
    assert_eq!(known["none"].health(), Health::Critical);
    reporter.set_service_status("shop.Cart", tonic_health::ServingStatus::Serving).await;
    watched.until(|known, _| known["cart"].health() == Health::Passing).await;
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_within_the_networks_is_not_connected_to() {
    let doors = Doors::single_guarded().await;
    let server = Server::start().await;
    let named = format!("http://localhost:{}/", server.address.port());
    register(&doors, "a", vec![check(server.http())]).await;
    register(&doors, "b", vec![check(Kind::Http(named))]).await;
    register(&doors, "c", vec![check(Kind::Tcp(server.address.to_string()))]).await;
    register(&doors, "d", vec![check(Kind::Grpc(server.address.to_string()))]).await;
    register(&doors, "e", vec![check(Kind::Tcp("169.254.169.254:80".into()))]).await;
    let mut watched = watch_all(&doors).await;
    let refused = |instance: &v1::Instance| instance.health_note.contains("check-networks");
    let known = watched.until(|known, _| known.len() == 5 && known.values().all(refused)).await;
    assert!(known.values().all(|instance| instance.health() == Health::Critical));
    assert_eq!(server.connections.load(Ordering::SeqCst), 0, "nothing came here");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_to_report_is_critical_when_it_does_not() {
    let doors = Doors::single().await;
    register(&doors, "a", vec![check(Kind::TtlMs(1_500))]).await;
    assert_eq!(health(&doors, "web", "a").await.0, Health::Critical);
    let report = async |health: Health| {
        let note = "mine".to_owned();
        let request = v1::ReportHealthRequest { service: "web".into(), id: "a".into(), health: health.into(), note };
        client(&doors).report_health(request).await.unwrap().into_inner().health()
    };
    assert_eq!(report(Health::Passing).await, Health::Passing);
    let version = doors.version_of("/services/web/a");
    // Reports in time keep it passing, without a write.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(report(Health::Passing).await, Health::Passing);
    }
    assert_eq!(doors.version_of("/services/web/a"), version);
    let mut watched = watch_all(&doors).await;
    let known = watched.until(|known, _| known["a"].health() == Health::Critical).await;
    assert!(known["a"].health_note.contains("no report"), "{known:?}");
    assert_eq!(report(Health::Warning).await, Health::Warning);
    assert_eq!(health(&doors, "web", "a").await, (Health::Warning, "mine".to_owned()));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_critical_for_too_long_is_removed() {
    let doors = Doors::single().await;
    let server = Server::start().await;
    server.say(500);
    let dying = v1::HealthCheck { remove_after_ms: 10_000, ..check(server.http()) };
    let began = tokio::time::Instant::now();
    register(&doors, "a", vec![dying]).await;
    register(&doors, "b", vec![check(server.http())]).await;
    let mut watched = watch_all(&doors).await;
    let known = watched.until(|known, _| !known.contains_key("a") && !known.is_empty()).await;
    assert!(began.elapsed() >= Duration::from_secs(9), "not before its time: {:?}", began.elapsed());
    assert_eq!(known.keys().collect::<Vec<_>>(), ["b"]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_of_a_member_that_dies_move_to_others() {
    let mut three = Three::start().await;
    let server = Server::start().await;
    let first = three.leader().await;
    let ids: Vec<String> = (0..12).map(|id| format!("i{id}")).collect();
    for id in &ids {
        register(&three.members[&first], id, vec![check(server.http())]).await;
    }
    let mut watched = watch_all(&three.members[&first]).await;
    let all = |health: Health| {
        move |known: &std::collections::BTreeMap<String, v1::Instance>, _: bool| {
            known.len() == 12 && known.values().all(|instance| instance.health() == health)
        }
    };
    watched.until(all(Health::Passing)).await;
    // All three take part.
    let deadline = support::soon();
    while three.members.keys().any(|id| three.members[&first].version_of(&format!("quorate.checkers/{id:016x}")) == 0) {
        assert!(tokio::time::Instant::now() < deadline, "a member does not say that it checks");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let victim = *three.members.keys().find(|id| **id != first).unwrap();
    three.remove(victim).await;
    server.say(500);
    watched.until(all(Health::Critical)).await;
    let found =
        resolve(&three.members[&first], v1::ResolveRequest { service: "web".into(), ..Default::default() }).await;
    assert!(found.instances.is_empty());
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_long_for_its_checks_stops_no_member() {
    let doors = Doors::single().await;
    let server = Server::start().await;
    let document =
        r#"{"address":"10.0.0.9","port":1,"checks":[{"ttl_ms":1000,"interval_ms":1000,"status":"passing"}]}"#;
    // As long as a key may be; the one that says that a report came would be longer.
    let key = format!("/services/web/{}", "x".repeat(4_096 - "/services/web/".len()));
    let put = v1::PutRequest { key: key.into(), value: document.into(), ..Default::default() };
    doors.kv().put(put).await.unwrap();
    register(&doors, "a", vec![check(server.http())]).await;
    let made = server.connections.load(Ordering::SeqCst);
    while server.connections.load(Ordering::SeqCst) < made + 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let known = watch_all(&doors).await.next().await.changed;
    assert!(known.iter().any(|instance| !instance.malformed.is_empty()), "{known:?}");
    doors.stop().await;
}

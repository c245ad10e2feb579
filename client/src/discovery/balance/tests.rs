//! Channels over real instances, some of which are killed, with a fake registry that comes and goes.
//!
//! Invariants:
//! - No test depends on which instance chance picks first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_proto::v1;
use quorate_proto::v1::kv_client::KvClient;
use tower::Layer as _;

use super::{BalancePolicy, BreakerState, ResilientLayer, ServiceChannel};
use crate::Instance;
use crate::discovery::fake::{Member, Registry, client};
use crate::fake::{Fake, Reply, Script, usual};

/// An instance that answers by script, in this zone.
fn register(registry: &Registry, id: &str, zone: &str, script: Script) -> Fake {
    let fake = script.without_batch().start();
    registry.put(instance(id, &fake).zone(zone).wire());
    fake
}

fn instance(id: &str, fake: &Fake) -> Instance {
    let (address, port) = fake.address.split_once(':').unwrap();
    Instance::new("orders", id).address(address).port(port.parse().unwrap())
}

async fn channel(member: &Member) -> ServiceChannel {
    client([member]).service("orders").channel().await.unwrap()
}

async fn get(channel: &ServiceChannel) -> Result<(), tonic::Status> {
    KvClient::new(channel.clone()).get(v1::GetRequest::default()).await.map(drop)
}

fn calls(fake: &Fake) -> usize {
    fake.script.seen.lock().items.len()
}

fn failing() -> Script {
    Script::default().on_item(|_, _| Reply::Refuse(tonic::Status::unavailable("not now")))
}

async fn until(is_so: impl Fn() -> bool) {
    let looked = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_killed_under_load_and_no_idempotent_call_fails() {
    let registry = Registry::new();
    let member = registry.member();
    let mut instances: Vec<Fake> =
        ["a", "b", "c"].iter().map(|id| register(&registry, id, "", Script::default())).collect();
    let channel = channel(&member).await.idempotent();
    let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(parking_lot::Mutex::new(Vec::new())));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (channel, done, failed) = (channel.clone(), done.clone(), failed.clone());
            tokio::spawn(async move {
                while done.fetch_add(1, Ordering::Relaxed) < 6000 {
                    if let Err(error) = get(&channel).await {
                        failed.lock().push(error);
                    }
                }
            })
        })
        .collect();
    until(|| instances.iter().all(|each| calls(each) > 100)).await;
    drop(instances.remove(1));
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(failed.lock().is_empty(), "{:?}", failed.lock());
    let snapshot = channel.snapshot();
    let states: Vec<_> = snapshot.instances.iter().map(|each| each.breaker).collect();
    assert_eq!((states[0], states[2]), (BreakerState::Closed, BreakerState::Closed));
    assert_ne!(states[1], BreakerState::Closed);
    assert!(snapshot.instances.iter().all(|each| each.in_flight == 0), "{snapshot:?}");
}

#[tokio::test]
async fn only_idempotent_calls_are_made_again_after_an_instance_worked_on_them() {
    let registry = Registry::new();
    let member = registry.member();
    let ill = [register(&registry, "a", "", failing()), register(&registry, "b", "", failing())];
    let channel = channel(&member).await;
    assert_eq!(get(&channel).await.unwrap_err().message(), "not now");
    assert_eq!(ill.iter().map(calls).sum::<usize>(), 1);

    let well = register(&registry, "c", "", Script::default());
    until(|| channel.snapshot().instances.len() == 3).await;
    get(&channel.idempotent()).await.unwrap();
    get(&channel.idempotent_methods(|path| path == "/quorate.v1.Kv/Get")).await.unwrap();
    let mut request = tonic::Request::new(v1::GetRequest::default());
    request.extensions_mut().insert(super::Idempotent);
    KvClient::new(channel.clone()).get(request).await.unwrap();
    assert_eq!(calls(&well), 3);
}

#[tokio::test]
async fn answers_of_the_application_are_neither_retried_nor_held_against_the_instance() {
    let registry = Registry::new();
    let member = registry.member();
    let one = register(
        &registry,
        "a",
        "",
        Script::default().on_item(|_, _| Reply::Refuse(tonic::Status::not_found("no such order"))),
    );
    let channel = channel(&member).await.idempotent();
    for _ in 0..20 {
        assert_eq!(get(&channel).await.unwrap_err().code(), tonic::Code::NotFound);
    }
    assert_eq!(calls(&one), 20);
    assert_eq!(channel.snapshot().instances[0].breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_call_that_was_never_sent_goes_elsewhere_whatever_it_does() {
    let registry = Registry::new();
    let member = registry.member();
    for id in ["a", "b", "c"] {
        drop(register(&registry, id, "", Script::default()));
    }
    let well = register(&registry, "d", "", Script::default());
    let channel = channel(&member).await;
    for _ in 0..10 {
        get(&channel).await.unwrap();
    }
    assert_eq!(calls(&well), 10);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let registry = Registry::new();
    let member = registry.member();
    let ill = [register(&registry, "a", "", failing()), register(&registry, "b", "", failing())];
    let policy = BalancePolicy { retry_share: 0.0, retries_per_second: 1, ..BalancePolicy::default() };
    let channel = client([&member]).service("orders").policy(policy).channel().await.unwrap().idempotent();
    for _ in 0..30 {
        get(&channel).await.unwrap_err();
    }
    let sent = ill.iter().map(calls).sum::<usize>();
    assert!((31..=50).contains(&sent), "30 calls, and ten retries for ten seconds: {sent}");
}

#[tokio::test]
async fn the_cluster_goes_and_the_channel_goes_on_with_the_last_known_instances() {
    let registry = Registry::new();
    let member = registry.member();
    let _instances = [register(&registry, "a", "", Script::default()), register(&registry, "b", "", Script::default())];
    let channel = channel(&member).await;
    get(&channel).await.unwrap();
    drop(member);
    until(|| !channel.snapshot().following).await;
    for _ in 0..20 {
        get(&channel).await.unwrap();
    }
    assert_eq!(channel.snapshot().instances.len(), 2);
}

#[tokio::test]
async fn a_watch_that_broke_is_taken_up_at_another_member_after_what_it_saw() {
    let registry = Registry::new();
    let (first, second) = (registry.member(), registry.member());
    let _one = register(&registry, "a", "", Script::default());
    let channel = client([&first, &second]).service("orders").channel().await.unwrap();
    let watched = registry.watches().len();
    assert_eq!(watched, 1);
    // One of them serves the watch; both go, one after the other, and a third comes under no new name.
    drop(first);
    registry.put(Instance::new("orders", "b").address("127.0.0.1").port(1).wire());
    until(|| channel.snapshot().instances.len() == 2).await;
    assert!(registry.watches().iter().skip(1).all(|watch| watch.after_revision == 1), "{:?}", registry.watches());
    drop(second);
}

#[tokio::test]
async fn the_own_zone_comes_first_and_the_others_serve_when_nobody_is_there() {
    let registry = Registry::new();
    let member = registry.member();
    let near = register(&registry, "a", "here", Script::default());
    let far = register(&registry, "b", "there", Script::default());
    let channel = client([&member]).service("orders").zone("here").channel().await.unwrap();
    for _ in 0..20 {
        get(&channel).await.unwrap();
    }
    assert_eq!((calls(&near), calls(&far)), (20, 0));
    drop(near);
    for _ in 0..5 {
        get(&channel.idempotent()).await.unwrap();
    }
    assert_eq!(calls(&far), 5);
}

#[tokio::test]
async fn an_instance_that_is_removed_finishes_what_it_has_and_gets_no_more() {
    let registry = Registry::new();
    let member = registry.member();
    let gate = Arc::new(std::sync::Barrier::new(2));
    let held = gate.clone();
    let slow = Script::default().on_item(move |_, item| {
        held.wait();
        Reply::Answer(usual(item))
    });
    let slow = register(&registry, "a", "", slow);
    let channel = channel(&member).await;
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { get(&channel).await }
    });
    until(|| calls(&slow) == 1).await;
    registry.remove("a");
    let other = register(&registry, "b", "", Script::default());
    until(|| channel.snapshot().instances.iter().map(|each| each.instance.id.as_str()).eq(["b"])).await;
    get(&channel).await.unwrap();
    assert_eq!((calls(&slow), calls(&other)), (1, 1));
    tokio::task::spawn_blocking(move || gate.wait()).await.unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_an_instance_it_says_so() {
    let registry = Registry::new();
    let member = registry.member();
    let error = get(&channel(&member).await).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert!(error.message().contains("no instance of orders"), "{error}");
}

#[tokio::test]
async fn a_lazy_channel_waits_for_the_first_instances() {
    let registry = Registry::new();
    let member = registry.member();
    let one = register(&registry, "a", "", Script::default());
    let channel = client([&member]).service("orders").channel_lazy();
    get(&channel).await.unwrap();
    assert_eq!(calls(&one), 1);
}

#[tokio::test]
async fn the_layer_fails_at_once_while_its_breaker_is_open_and_heals() {
    let script = Script::default().on_item(|nth, item| match nth {
        0..5 => Reply::Refuse(tonic::Status::unavailable("not now")),
        _ => Reply::Answer(usual(item)),
    });
    let fake = script.without_batch().start();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", fake.address)).unwrap();
    let policy = BalancePolicy { open_min: Duration::from_millis(50), ..BalancePolicy::default() };
    let guarded = ResilientLayer::new(policy).layer(endpoint.connect_lazy());
    let mut kv = KvClient::new(guarded);
    for _ in 0..5 {
        kv.get(v1::GetRequest::default()).await.unwrap_err();
    }
    let error = kv.get(v1::GetRequest::default()).await.unwrap_err();
    assert!(error.message().contains("breaker is open"), "{error}");
    assert_eq!(calls(&fake), 5);
    let healed = async {
        while kv.get(v1::GetRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), healed).await.unwrap();
}

#[tokio::test]
async fn a_long_answer_is_not_sent_again_once_its_first_message_was_handed_on() {
    let registry = Registry::new();
    let member = registry.member();
    let script = || {
        Script::default().on_watch(|_, _, pipe| async move {
            pipe.created(1).await;
            drop(pipe.answers.send(Err(tonic::Status::unavailable("broken"))).await);
        })
    };
    let fakes = [register(&registry, "a", "", script()), register(&registry, "b", "", script())];
    let channel = channel(&member).await.idempotent();
    let create = v1::WatchRequest {
        request: Some(v1::watch_request::Request::Create(v1::WatchCreate { watch_id: 1, ..Default::default() })),
    };
    let mut watch = v1::watch_client::WatchClient::new(channel);
    let requests = futures::StreamExt::chain(futures::stream::iter([create]), futures::stream::pending());
    let mut answers = watch.watch(requests).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().created);
    assert_eq!(answers.message().await.unwrap_err().message(), "broken");
    assert_eq!(fakes.iter().map(|fake| fake.script.seen.lock().watches.len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_failure_before_the_first_message_is_hidden_from_an_idempotent_call() {
    let registry = Registry::new();
    let member = registry.member();
    let broken = Script::default().on_watch(|_, _, pipe| async move {
        drop(pipe.answers.send(Err(tonic::Status::unavailable("broken"))).await);
    });
    let well = Script::default().on_watch(|_, _, pipe| async move { pipe.created(1).await });
    let fakes = [register(&registry, "a", "", broken), register(&registry, "b", "", well)];
    let channel = channel(&member).await.idempotent();
    for _ in 0..8 {
        let create = v1::WatchRequest {
            request: Some(v1::watch_request::Request::Create(v1::WatchCreate { watch_id: 1, ..Default::default() })),
        };
        let mut watch = v1::watch_client::WatchClient::new(channel.clone());
        let requests = futures::StreamExt::chain(futures::stream::iter([create]), futures::stream::pending());
        let mut answers = watch.watch(requests).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
    }
    assert!(fakes.iter().all(|fake| !fake.script.seen.lock().watches.is_empty()));
}

#[tokio::test]
async fn an_answer_that_is_no_grpc_counts_as_the_failure_that_its_status_says() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let proxy = tower::service_fn(move |_: http::Request<tonic::body::Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let page = tonic::body::Body::new(http_body_util::Full::from("no upstream"));
        let response = http::Response::builder().status(503).body(page).unwrap();
        std::future::ready(Ok::<_, tonic::Status>(response))
    });
    let policy = BalancePolicy { attempts: 3, failures_in_a_row: 3, ..BalancePolicy::default() };
    let channel = ResilientLayer::new(policy).idempotent().layer(proxy);
    let mut client = KvClient::new(channel.clone());
    let error = client.get(v1::GetRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert!(error.message().contains("503"), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 3, "an idempotent call is made again");
    let error = client.get(v1::GetRequest::default()).await.unwrap_err();
    assert!(error.message().contains("breaker is open"), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_first_call_waits_for_instances_no_longer_than_its_deadline() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    drop(member);
    let lazy = client.service("orders").channel_lazy();
    let mut request = tonic::Request::new(v1::GetRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let began = std::time::Instant::now();
    let error = KvClient::new(lazy).get(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(3));
}

//! Registrations against a fake registry of several members.
//!
//! Invariants:
//! - Whatever the members do, callers see the instance come once and go once.

use std::time::Duration;

use crate::discovery::fake::{Entry, Registry, client};
use crate::{Health, Instance, Reason, RegistrationState};

fn instance() -> Instance {
    Instance::new("orders", "a").address("10.0.0.7").port(80)
}

#[tokio::test]
async fn it_stays_registered_while_members_come_and_go_and_nobody_sees_a_gap() {
    let registry = Registry::new();
    let (first, second) = (registry.member(), registry.member());
    let address = first.address.clone();
    let client = client([&first, &second]);
    let registration = client.register(instance()).ttl(Duration::from_secs(1)).await.unwrap();
    let lease = registration.status().lease;
    // One of them has the stream: after both were replaced in turn it must have moved.
    drop(first);
    let beats = registry.heartbeats();
    registry.until(|registry| registry.heartbeats() > beats).await;
    let third = registry.member_at(&address);
    drop(second);
    registry.until(|registry| registry.registers().len() > 1).await;
    let beats = registry.heartbeats();
    registry.until(|registry| registry.heartbeats() > beats).await;
    drop(third);
    assert_eq!(registration.status().lease, lease);
    assert!(registry.registers().iter().all(|sent| Some(sent.lease_id) == lease.map(quorate_proto::LeaseId::get)));
    assert_eq!(registry.log().len(), 1, "one registration, no removal: {:?}", registry.log());
}

#[tokio::test]
async fn what_was_lost_is_registered_anew() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    let registration = client.register(instance()).ttl(Duration::from_secs(1)).await.unwrap();
    assert_eq!(registration.status().renewals, 0, "the first time is no renewal");
    registry.remove("a");
    registry.until(|registry| registry.instance("a").is_some()).await;
    let mut status = registration.subscribe();
    let renewed = tokio::time::timeout(Duration::from_secs(10), status.wait_for(|status| status.renewals == 1)).await;
    assert_eq!(renewed.unwrap().unwrap().state, RegistrationState::Registered);
}

#[tokio::test]
async fn a_report_is_kept_for_when_it_must_register_anew() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    let registration = client.register(instance()).ttl(Duration::from_secs(1)).await.unwrap();
    assert_eq!(registration.report(Health::Warning, "busy").await.unwrap(), Health::Warning);
    let address = member.address.clone();
    drop(member);
    registry.remove("a");
    let _member = registry.member_at(&address);
    registry.until(|registry| registry.instance("a").is_some()).await;
    assert_eq!(registry.instance("a").unwrap().health, Health::Warning.wire());
}

#[tokio::test]
async fn deregistering_and_dropping_remove_it() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    let registration = client.register(instance()).await.unwrap();
    assert!(registration.deregister().await.unwrap());
    assert_eq!(registry.log().last(), Some(&Entry::Removed("a".to_owned())));

    let registration = client.register(instance()).await.unwrap();
    drop(registration);
    registry.until(|registry| registry.instance("a").is_none()).await;
    assert_eq!(registry.log().len(), 4, "nothing registers it again: {:?}", registry.log());
}

#[tokio::test]
async fn a_refused_update_goes_to_its_caller_and_what_was_before_stands() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    let registration = client.register(instance()).await.unwrap();
    registration.update(instance().weight(7)).await.unwrap();
    assert_eq!(registry.instance("a").unwrap().weight, 7);
    let refused = registration.update(instance().port(0)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::InvalidArgument));
    registration.update(instance().weight(8)).await.unwrap();
    assert_eq!(registry.instance("a").unwrap().weight, 8);
    assert!(registration.update(Instance::new("orders", "b")).await.is_err(), "service and id stay");
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_at_once() {
    let registry = Registry::new();
    let member = registry.member();
    let refused = client([&member]).register(instance().port(0)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::InvalidArgument));
}

#[tokio::test]
async fn a_program_that_was_killed_and_started_again_waits_for_its_earlier_self() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    registry.put(quorate_proto::v1::Instance { lease_id: 7, ..instance().wire() });
    let taken = client.register(instance()).deadline(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(taken.reason(), Some(Reason::InstanceExists));

    let registering = tokio::spawn(client.register(instance()).into_future());
    let tries = registry.registers().len();
    registry.until(|registry| registry.registers().len() > tries).await;
    registry.remove("a");
    registering.await.unwrap().unwrap().deregister().await.unwrap();
}

#[tokio::test]
async fn a_member_that_falls_silent_is_left_and_the_loss_is_told() {
    let registry = Registry::new();
    let member = registry.member();
    let client = client([&member]);
    let registration = client.register(instance()).ttl(Duration::from_secs(1)).await.unwrap();
    registry.silence(true);
    tokio::time::timeout(Duration::from_secs(20), registration.lost()).await.unwrap();
    assert_eq!(registration.status().state, RegistrationState::Lost);
    registry.silence(false);
    let mut status = registration.subscribe();
    let back = status.wait_for(|status| status.state == RegistrationState::Registered);
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap().unwrap();
}

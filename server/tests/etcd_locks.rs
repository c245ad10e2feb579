//! Locks and elections of etcd's wire: its keys, texts and codes, and that both doors keep each other out.
//!
//! Invariants:
//! - Texts and codes are compared to the letter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contenders;
mod doors;
mod support;

use std::time::Duration;

use contenders::{acquire, describe, grant, release, waits};
use doors::{Doors, etcd};
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::v3electionpb as election;
use quorate_proto::etcd::v3lockpb as lock;
use quorate_proto::v1;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

fn locks(doors: &Doors) -> lock::lock_client::LockClient<Channel> {
    lock::lock_client::LockClient::new(doors.channel())
}

fn elections(doors: &Doors) -> election::election_client::ElectionClient<Channel> {
    election::election_client::ElectionClient::new(doors.channel())
}

fn locked(doors: &Doors, lease: i64) -> impl Future<Output = Result<lock::LockResponse, Status>> + use<> {
    let mut client = locks(doors);
    let request = lock::LockRequest { name: "l".into(), lease };
    async move { client.lock(request).await.map(tonic::Response::into_inner) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_a_key_of_its_lease_and_the_same_again_is_the_same_key() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let held = locked(&doors, lease).await.unwrap();
    assert_eq!(held.key, format!("l/{lease:x}"));
    assert_eq!(locked(&doors, lease).await.unwrap().key, held.key);
    let own = waits(&doors, locked(&doors, 0), "l", 1).await;
    locks(&doors).unlock(lock::UnlockRequest { key: held.key }).await.unwrap();
    let own = timeout(Duration::from_secs(20), own).await.unwrap().unwrap().unwrap();
    let lease = i64::from_str_radix(std::str::from_utf8(&own.key[2..]).unwrap(), 16).unwrap();
    let asked = pb::LeaseTimeToLiveRequest { id: lease, keys: false };
    assert_eq!(etcd::lease(&doors).lease_time_to_live(asked).await.unwrap().into_inner().granted_ttl, 60);
    etcd::refused(locked(&doors, 0x7f7f).await, Code::Unknown, "etcdserver: requested lease not found");
    let unlock = locks(&doors).unlock(lock::UnlockRequest { key: "".into() }).await;
    etcd::refused(unlock, Code::Unknown, "etcdserver: key is not provided");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_keep_each_other_out() {
    let doors = Doors::single().await;
    let (ours, theirs) = (grant(&doors, 60_000).await, grant(&doors, 60_000).await);
    let held = acquire(&doors, "l", ours, 1).await.unwrap();
    let foreign = waits(&doors, locked(&doors, theirs), "l", 1).await;
    let next = waits(&doors, acquire(&doors, "l", ours, 2), "l", 2).await;
    let shown = describe(&doors, "l").await;
    assert_eq!((shown.holders[0].foreign, shown.waiters[0].foreign), (false, true));
    assert!(release(&doors, "l", ours, 1, held.token).await);
    let key = foreign.await.unwrap().unwrap().key;
    assert!(!next.is_finished());
    locks(&doors).unlock(lock::UnlockRequest { key }).await.unwrap();
    next.await.unwrap().unwrap();
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_lease_is_lost_says_so_in_etcds_words() {
    let doors = Doors::single().await;
    let (holder, lost) = (grant(&doors, 60_000).await, grant(&doors, 60_000).await);
    locked(&doors, holder).await.unwrap();
    let waiting = waits(&doors, locked(&doors, lost), "l", 1).await;
    doors.lease().revoke(v1::RevokeRequest { lease_id: lost, ..Default::default() }).await.unwrap();
    etcd::refused(waiting.await.unwrap(), Code::Unknown, "mutex: session is expired");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_is_won_proclaimed_observed_and_resigned() {
    let doors = Doors::single().await;
    let (one, two) = (grant(&doors, 60_000).await, grant(&doors, 60_000).await);
    let mut client = elections(&doors);
    let named = election::LeaderRequest { name: "e".into() };
    etcd::refused(client.leader(named.clone()).await, Code::Unknown, "election: no leader");
    let mut stream = client.observe(named.clone()).await.unwrap().into_inner();
    let campaign = |lease, value: &str| {
        let (mut client, value) = (elections(&doors), value.to_owned().into());
        let request = election::CampaignRequest { name: "e".into(), lease, value };
        async move { client.campaign(request).await.map(tonic::Response::into_inner) }
    };
    let won = campaign(one, "a").await.unwrap().leader.unwrap();
    assert_eq!((won.key.clone(), won.lease), (format!("e/{one:x}").into(), one));
    let kv = stream.message().await.unwrap().unwrap().kv.unwrap();
    assert_eq!((kv.value.clone(), kv.create_revision), ("a".into(), won.rev));
    let again = campaign(one, "b").await.unwrap().leader.unwrap();
    assert_eq!(again, won, "the value is another, the term is the same");
    assert_eq!(stream.message().await.unwrap().unwrap().kv.unwrap().value, "b");
    let next = waits(&doors, campaign(two, "c"), "e", 1).await;
    let proclaim = |leader, value: &str| election::ProclaimRequest { leader, value: value.to_owned().into() };
    client.proclaim(proclaim(Some(won.clone()), "d")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().kv.unwrap().value, "d");
    client.resign(election::ResignRequest { leader: Some(won.clone()) }).await.unwrap();
    let next = next.await.unwrap().unwrap().leader.unwrap();
    assert_eq!(client.leader(named).await.unwrap().into_inner().kv.unwrap().create_revision, next.rev);
    assert_eq!(stream.message().await.unwrap().unwrap().kv.unwrap().value, "c");
    etcd::refused(client.proclaim(proclaim(Some(won), "e")).await, Code::Unknown, "election: not leader");
    let missing = "\"leader\" field must be provided";
    etcd::refused(client.proclaim(proclaim(None, "e")).await, Code::Unknown, missing);
    etcd::refused(client.resign(election::ResignRequest { leader: None }).await, Code::Unknown, missing);
    doors.stop().await;
}

//! Elections over real sockets: campaign, proclaim, resign, observe.
//!
//! Invariants:
//! - What a stream tells is compared term by term.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contenders;
mod doors;
mod support;

use std::time::Duration;

use contenders::{Client, campaign, describe, detail_of, election, gone, grant, next, observe, until_waiting};
use doors::Doors;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::Kind;
use tokio::time::timeout;
use tonic::Code;

async fn leader(doors: &Doors) -> Option<v1::Leader> {
    let request = v1::LeaderRequest { name: "e".into(), read: None };
    election(doors).leader(request).await.unwrap().into_inner().leader
}

async fn resign(doors: &Doors, lease_id: i64, campaign_id: u64, term: i64) -> bool {
    let request = v1::ResignRequest { name: "e".into(), lease_id, campaign_id, term };
    election(doors).resign(request).await.unwrap().into_inner().resigned
}

fn proclaim(lease_id: i64, campaign_id: u64, term: i64, value: &str) -> v1::ProclaimRequest {
    v1::ProclaimRequest { name: "e".into(), lease_id, campaign_id, term, value: value.to_owned().into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_follow_each_other_and_every_term_and_value_is_observed() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let mut stream = observe(&doors, 0).await;
    assert_eq!((next(&mut stream).await.as_str(), leader(&doors).await), ("nobody", None));
    let one = campaign(&doors, lease, 1, "one").await.unwrap().unwrap();
    assert_eq!(next(&mut stream).await, format!("{}=one", one.term));
    let two = campaign(&doors, lease, 2, "two");
    until_waiting(&doors, "e", 1).await;
    let three = campaign(&doors, lease, 3, r#"{"lock":1,"mode":"shared"}"#);
    until_waiting(&doors, "e", 2).await;
    election(&doors).proclaim(proclaim(lease, 1, one.term, "uno")).await.unwrap();
    assert_eq!(next(&mut stream).await, format!("{}=uno", one.term));
    assert_eq!(leader(&doors).await.unwrap().value, "uno");
    assert!(resign(&doors, lease, 1, one.term).await);
    let two = two.await.unwrap().unwrap();
    assert!(two.term > one.term);
    assert_eq!(next(&mut stream).await, format!("{}=two", two.term));
    assert!(!three.is_finished(), "a value is the candidate's, whatever it looks like");
    // One that waits may give up, too, and never leads.
    assert!(resign(&doors, lease, 3, 0).await);
    assert_eq!(detail_of(&three.await.unwrap().unwrap_err()).kind(), Kind::LockLost);
    assert!(resign(&doors, lease, 2, two.term).await);
    assert_eq!((next(&mut stream).await.as_str(), leader(&doors).await), ("nobody", None));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_and_one_that_waits_proclaim_nothing() {
    let doors = Doors::single().await;
    let (first, second) = (grant(&doors, 60_000).await, grant(&doors, 60_000).await);
    let one = campaign(&doors, first, 1, "one").await.unwrap().unwrap();
    let two = campaign(&doors, second, 2, "two");
    until_waiting(&doors, "e", 1).await;
    let waiting = describe(&doors, "e").await.waiters[0].clone();
    let kv = doors.kv().get(v1::GetRequest { key: waiting.key, ..Default::default() }).await.unwrap();
    let term = kv.into_inner().kv.unwrap().create_revision;
    let status = election(&doors).proclaim(proclaim(second, 2, term, "too soon")).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Aborted, Kind::LockLost), "{status}");
    doors.lease().revoke(v1::RevokeRequest { lease_id: first, ..Default::default() }).await.unwrap();
    let two = two.await.unwrap().unwrap();
    let status = election(&doors).proclaim(proclaim(first, 1, one.term, "late")).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Aborted, Kind::LockLost), "{status}");
    election(&doors).proclaim(proclaim(second, 2, two.term, "dos")).await.unwrap();
    assert_eq!(leader(&doors).await.unwrap().value, "dos");
    doors.stop().await;
}

/// An attempt of a campaign that came late said once more what its leader had replaced by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_is_asked_for_again_unsays_nothing() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let led = campaign(&doors, lease, 1, "one").await.unwrap().unwrap();
    election(&doors).proclaim(proclaim(lease, 1, led.term, "uno")).await.unwrap();
    let again = campaign(&doors, lease, 1, "one").await.unwrap().unwrap();
    assert_eq!((again.term, leader(&doors).await.unwrap().value.as_ref()), (led.term, &b"uno"[..]));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_is_cancelled_leaves_and_a_stream_resumes_at_a_revision() {
    let doors = Doors::single().await;
    let lease = grant(&doors, 60_000).await;
    let one = campaign(&doors, lease, 1, "one").await.unwrap().unwrap();
    let client = Client::connect(&doors).await;
    let mut other = v1::election_client::ElectionClient::new(client.channel.clone());
    let request = v1::CampaignRequest { name: "e".into(), lease_id: lease, campaign_id: 2, ..Default::default() };
    let waiting = tokio::spawn(async move { other.campaign(request).await });
    until_waiting(&doors, "e", 1).await;
    waiting.abort();
    gone(&doors, &format!("e/{lease:x}-2")).await;
    let mut stream = observe(&doors, one.header.unwrap().revision).await;
    assert_eq!(next(&mut stream).await, format!("{}=one", one.term));
    // A member that stops ends its streams with a reason to go elsewhere.
    doors.rooms.close();
    let status = timeout(Duration::from_secs(20), stream.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), detail_of(&status).kind()), (Code::Unavailable, Kind::ShuttingDown), "{status}");
    doors.stop().await;
}

//! Elections against fakes.
//!
//! Invariants:
//! - Every test names in its story what the member does and what the caller must see.

use std::time::Duration;

use futures::StreamExt as _;

use quorate_proto::v1;
use quorate_proto::v1::batch_answer::Answer;
use quorate_proto::v1::batch_item::Request as Item;

use crate::fake::{Locks, Reply, Script, Turn, usual};
use crate::{ErrorKind, Leaders, Lost};

async fn next(leaders: &mut Leaders) -> Option<(i64, String)> {
    let item = tokio::time::timeout(Duration::from_secs(10), leaders.next()).await.unwrap().unwrap().unwrap();
    item.map(|leader| (leader.term.0, leader.value_text().into_owned()))
}

#[tokio::test]
async fn a_candidate_leads_until_it_resigns() {
    let locks = Locks::on_attempt(|nth| match nth {
        0 => Turn::Refuse(tonic::Status::unavailable("broken")),
        _ => Turn::Grant(12),
    });
    let leads = |item: &Item| match item {
        Item::Txn(txn) => {
            assert_eq!((txn.compares.len(), txn.then.len(), txn.id.is_some()), (1, 1, true));
            let header = Some(v1::Header { revision: 50, ..Default::default() });
            Reply::Answer(Answer::Txn(v1::TxnResponse { header, succeeded: true, ..Default::default() }))
        }
        item => Reply::Answer(usual(item)),
    };
    let fake = Script::default().on_item(move |_, item| leads(item)).with_locks(&locks).start();
    let leadership = fake.client().election("db").ttl(Duration::from_secs(3)).campaign("me").await.unwrap();
    assert_eq!((leadership.term().0, leadership.key()), (12, &b"election/key"[..]));
    leadership.proclaim("still me").await.unwrap();
    {
        let seen = locks.seen.lock();
        assert_eq!(seen.campaigns.len(), 2);
        assert_eq!(seen.campaigns[0].campaign_id, seen.campaigns[1].campaign_id);
    }
    leadership.resign().await.unwrap();
    assert_eq!(fake.script.seen.lock().revoked, [7]);
}

#[tokio::test]
async fn who_does_not_lead_proclaims_nothing() {
    let fake = Script::default().on_keep_alive(|_, _| Some(0)).start();
    let leadership = fake.client().election("db").ttl(Duration::from_millis(600)).campaign("me").await.unwrap();
    assert_eq!(leadership.lost().await, Lost::Gone);
    assert_eq!(leadership.proclaim("me").await.unwrap_err().kind(), ErrorKind::Reacquire);
}

#[tokio::test]
async fn an_observer_resumes_without_repeating_itself() {
    let locks = Locks::observed(vec![
        vec![None, Some((60, "a")), Some((60, "b"))],
        vec![Some((60, "b"))],
        vec![Some((70, "c")), None],
    ]);
    let fake = Script::default().with_locks(&locks).start();
    let mut leaders = fake.client().election("db").observe();
    assert_eq!(next(&mut leaders).await, None);
    for (term, value) in [(60, "a"), (60, "b"), (70, "c")] {
        assert_eq!(next(&mut leaders).await, Some((term, value.to_owned())));
    }
    assert_eq!(next(&mut leaders).await, None);
    let asked: Vec<_> = locks.seen.lock().observes.iter().map(|each| each.min_revision).collect();
    assert_eq!(asked, [0, 60, 60], "the next member is as far as the last one was");
}

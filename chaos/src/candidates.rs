//! Clients that want to lead: each campaigns, says things of itself while it is sure that it leads, and stops.
//!
//! Invariants:
//! - A leadership is claimed up to the last moment that was taken before `check()` was content.
//! - No two things that are said are the same.

use std::time::Duration;

use quorate::{Compare, ErrorKind, Leadership, Txn};
use quorate_checkers::history::{Elected, Hold, Mode, Said};

use crate::native::Native;

/// Short, so that a pause outlasts it.
const TTL: Duration = Duration::from_millis(1_500);

/// Campaigns again and again until it is over.
pub(crate) async fn live(mut client: Native) {
    while client.town.think(&mut client.dice, 10).await {
        campaign(&mut client).await;
    }
}

async fn campaign(client: &mut Native) {
    let (recorder, election) = (client.town.recorder.clone(), client.town.election());
    let (value, wait) = (client.value(), client.dice.between_ms(500, 5_000));
    let invoked = recorder.moment();
    let won = client.client.election(election.clone()).ttl(TTL).wait(wait).campaign(value.clone()).await;
    let leads = won.as_ref().ok().map(|leadership| (leadership.key().into(), leadership.term().0));
    // The library asks again by itself: an attempt that was not answered may have led in a term of its own.
    let unanswered = Elected::Campaigned { value: value.as_str().into(), leads: None };
    recorder.election(&election, client.id, invoked, unanswered);
    let what = Elected::Campaigned { value: value.into(), leads };
    let completed = recorder.election(&election, client.id, invoked, what);
    let mut hold = Hold::wanted(election.as_str(), client.id, Mode::Exclusive, invoked, completed);
    match won {
        Ok(leadership) => {
            (hold.key, hold.token) = (leadership.key().into(), Some(leadership.term().0));
            lead(client, &leadership, &mut hold).await;
            recorder.hold(hold);
            stop(client, leadership).await;
        }
        Err(error) => {
            recorder.look_at(&error);
            recorder.hold(hold);
        }
    }
}

/// Leads for a while, and proclaims things meanwhile.
async fn lead(client: &mut Native, leadership: &Leadership, hold: &mut Hold) {
    let recorder = client.town.recorder.clone();
    let until = tokio::time::Instant::now() + client.dice.between_ms(5, 2_500);
    loop {
        let sure = recorder.moment();
        if leadership.check().is_err() {
            return;
        }
        hold.ended = Some(sure);
        if tokio::time::Instant::now() >= until || client.town.is_over() {
            return;
        }
        let think = client.dice.between_ms(0, 50);
        client.town.pause(think).await;
        if client.dice.happens(500) {
            let value = client.value();
            let invoked = recorder.moment();
            let said = match leadership.proclaim(value.clone()).await {
                Ok(()) => Said::Done,
                Err(error) => failed(client, &error),
            };
            let what = Elected::Proclaimed { term: leadership.term().0, value: value.into(), said };
            recorder.election(&client.town.election(), client.id, invoked, what);
        }
    }
}

/// Stops leading; some have one more thing to say, which comes too late.
async fn stop(client: &mut Native, leadership: Leadership) {
    let recorder = client.town.recorder.clone();
    let (term, key, fence) = (leadership.term().0, leadership.key().to_vec(), leadership.fence());
    let invoked = recorder.moment();
    let said = match leadership.resign().await {
        Ok(()) => Said::Done,
        Err(error) => failed(client, &error),
    };
    recorder.election(&client.town.election(), client.id, invoked, Elected::Resigned { term, said });
    if client.dice.happens(500) {
        say_late(client, term, key, fence).await;
    }
}

/// What a leader sends that does not know yet that it is none.
async fn say_late(client: &mut Native, term: i64, key: Vec<u8>, fence: Vec<Compare>) {
    let value = client.value();
    let write = client.client.put(key, value.clone()).keep_lease();
    let invoked = client.town.recorder.moment();
    let said = match client.client.txn(Txn::when(fence).then(write)).await {
        Ok(answer) if answer.succeeded => Said::Done,
        Ok(_) => Said::Lost,
        Err(error) => failed(client, &error),
    };
    let what = Elected::Proclaimed { term, value: value.into(), said };
    client.town.recorder.election(&client.town.election(), client.id, invoked, what);
}

fn failed(client: &Native, error: &quorate::Error) -> Said {
    client.town.recorder.look_at(error);
    if error.kind() == ErrorKind::Reacquire { Said::Lost } else { Said::Unknown }
}

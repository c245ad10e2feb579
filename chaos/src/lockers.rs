//! Clients that want one lock: each waits for it, holds it for a while as long as it is sure of it, and lets go of it.
//!
//! Invariants:
//! - A hold is claimed up to the last moment that was taken before `check()` was content.

use std::time::Duration;

use quorate_checkers::history::{Hold, Mode};

use crate::native::Native;

/// Short, so that a pause outlasts it.
const TTL: Duration = Duration::from_millis(1_500);

/// Wants the lock again and again until it is over.
pub(crate) async fn live(mut client: Native) {
    while !client.town.is_over() {
        let think = client.dice.between_ms(0, 10 * client.town.plan.think_ms);
        client.town.pause(think).await;
        hold(&mut client).await;
    }
}

async fn hold(client: &mut Native) {
    let lock = format!("{}/one", client.town.locks());
    let recorder = client.town.recorder.clone();
    let wait = client.dice.between_ms(500, 5_000);
    let invoked = recorder.moment();
    let acquired = client.client.lock(lock.clone()).ttl(TTL).wait(wait).acquire().await;
    let completed = recorder.moment();
    let mut hold = Hold {
        lock: lock.as_str().into(),
        client: client.id,
        mode: Mode::Exclusive,
        key: acquired.as_ref().map_or_else(|_| Vec::new(), |guard| guard.key().to_vec()).into(),
        invoked,
        completed,
        token: acquired.as_ref().ok().map(|guard| guard.token().0),
        revision: None,
        downgraded: None,
        ended: Some(completed),
    };
    let guard = match acquired {
        Ok(guard) => guard,
        Err(error) => {
            recorder.look_at(&error);
            return recorder.hold(hold);
        }
    };
    // Some hold it for longer than its session lives without renewal.
    let until = tokio::time::Instant::now() + client.dice.between_ms(5, 2_500);
    loop {
        let sure = recorder.moment();
        if guard.check().is_err() {
            break;
        }
        hold.ended = Some(sure);
        if tokio::time::Instant::now() >= until || client.town.is_over() {
            break;
        }
        client.town.pause(Duration::from_millis(10)).await;
    }
    recorder.hold(hold);
    if let Err(error) = guard.release().await {
        recorder.look_at(&error);
    }
}

//! Clients that want a lock, or a permit: each waits for it, holds it for a while as long as it is sure of it, and lets go of it.
//!
//! Invariants:
//! - A hold is claimed up to the last moment that was taken before `check()` was content.
//! - A hold that is downgraded is claimed as shared from before that was asked for.

use std::time::Duration;

use quorate::LockMode;
use quorate_checkers::history::{Hold, Mode};

use crate::native::Native;

/// Short, so that a pause outlasts it.
const TTL: Duration = Duration::from_millis(1_500);

/// Permits that there are.
const PERMITS: u32 = 2;

/// Wants the lock that all share, exclusively or shared, again and again until it is over.
pub(crate) async fn live(mut client: Native) {
    let lock = client.town.one_lock();
    while client.town.think(&mut client.dice, 10).await {
        let mode = if client.dice.happens(600) { Mode::Exclusive } else { Mode::Shared };
        hold(&mut client, &lock, mode).await;
    }
}

/// Wants one of a few permits again and again until it is over.
pub(crate) async fn live_by_permits(mut client: Native) {
    let lock = format!("{}/permits", client.town.locks());
    while client.town.think(&mut client.dice, 10).await {
        hold(&mut client, &lock, Mode::Permit(PERMITS)).await;
    }
}

async fn hold(client: &mut Native, lock: &str, mode: Mode) {
    let recorder = client.town.recorder.clone();
    let wait = client.dice.between_ms(500, 5_000);
    let wanted = match mode {
        Mode::Exclusive => LockMode::Exclusive,
        Mode::Shared => LockMode::Shared,
        Mode::Permit(permits) => LockMode::Permit(permits),
    };
    let invoked = recorder.moment();
    let acquired = client.client.lock(lock.to_owned()).mode(wanted).ttl(TTL).wait(wait).acquire().await;
    let completed = recorder.moment();
    let mut hold = Hold::wanted(lock, client.id, mode, invoked, completed);
    let mut guard = match acquired {
        Ok(guard) => guard,
        Err(error) => {
            recorder.look_at(&error);
            return recorder.hold(hold);
        }
    };
    (hold.key, hold.token) = (guard.key().into(), Some(guard.token().0));
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
        if guard.mode() == LockMode::Exclusive && client.dice.happens(10) {
            hold.downgraded = Some(recorder.moment());
            if let Err(error) = guard.downgrade().await {
                recorder.look_at(&error);
                break;
            }
        }
    }
    recorder.hold(hold);
    if let Err(error) = guard.release().await {
        recorder.look_at(&error);
    }
}

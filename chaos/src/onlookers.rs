//! Clients that want to know who leads: observers, who are told, and some who ask.
//!
//! Invariants:
//! - What one stream says is recorded under one name, and each stream has its own: it is a stream that promises an order.

use std::time::Duration;

use futures::StreamExt as _;
use quorate_checkers::history::{Elected, Leading};

use crate::native::Native;

/// How often one looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Observes until it is over, and begins anew now and then.
pub(crate) async fn observe(mut client: Native) {
    let (recorder, election) = (client.town.recorder.clone(), client.town.election());
    for stream in 0.. {
        let mut leaders = client.client.election(election.clone()).observe();
        let name = client.id * 1_000_000 + stream;
        let until = tokio::time::Instant::now() + client.dice.between_ms(1_000, 20_000);
        while tokio::time::Instant::now() < until {
            if client.town.is_over() {
                return;
            }
            let Ok(item) = tokio::time::timeout(LOOK_EVERY, leaders.next()).await else { continue };
            match item {
                Some(Ok(leader)) => {
                    let now = recorder.moment();
                    recorder.election(&election, name, now, Elected::Observed(leader.as_ref().map(leading)));
                }
                Some(Err(error)) => {
                    recorder.look_at(&error);
                    break;
                }
                None => break,
            }
        }
        client.town.pause(LOOK_EVERY).await;
    }
}

/// Asks who leads until it is over.
pub(crate) async fn ask(mut client: Native) {
    let (recorder, election) = (client.town.recorder.clone(), client.town.election());
    while client.town.think(&mut client.dice, 3).await {
        let invoked = recorder.moment();
        match client.client.election(election.clone()).leader().await {
            Ok(leader) => {
                recorder.election(&election, client.id, invoked, Elected::Read(leader.as_ref().map(leading)));
            }
            Err(error) => recorder.look_at(&error),
        }
    }
}

fn leading(leader: &quorate::Leader) -> Leading {
    Leading { key: (&leader.key).into(), term: leader.term.0, value: (&leader.value).into() }
}

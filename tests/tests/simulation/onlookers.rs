//! Clients of both wires that want to know who leads: they observe for a while, and ask now and then.
//!
//! Invariants:
//! - What one stream says is recorded under one name, and each stream has its own: it is a stream that promises an order.

use std::time::Duration;

use quorate_proto::etcd::{mvccpb, v3electionpb as pb};
use quorate_proto::v1;
use quorate_tests::checkers::history::{Elected, Leading};
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use crate::candidates::election;
use crate::clients::Client;
use crate::lockers::Wire;
use crate::way::ask;

const PATIENCE: Duration = Duration::from_secs(2);
/// How often one looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Observes and asks until it is over.
pub async fn live(mut client: Client, wire: Wire) {
    let recorder = client.town.recorder.clone();
    for stream in 0.. {
        client.think().await;
        if client.town.is_over() {
            return;
        }
        let name = client.id * 1_000_000 + stream;
        let until = Instant::now() + client.dice.between_ms(500, 8_000);
        let seen = match wire {
            Wire::Native => observe(&client, name, until).await,
            Wire::Etcd => observe_etcd(&client, name, until).await,
        };
        let invoked = recorder.trace.moment();
        let asked = match wire {
            Wire::Native => read(&client).await,
            Wire::Etcd => read_etcd(&client).await,
        };
        match asked {
            Ok(leading) => recorder.election(client.id, invoked, Elected::Read(leading)),
            Err(status) => recorder.look_at(&status),
        }
        if let Err(status) = seen {
            recorder.look_at(&status);
        }
        client.move_on();
    }
}

async fn observe(client: &Client, name: u64, until: Instant) -> Result<(), Status> {
    let request = v1::ObserveRequest { name: election().into(), min_revision: 0 };
    let mut elections = v1::election_client::ElectionClient::new(client.way());
    let Ok(stream) = timeout(PATIENCE, elections.observe(request)).await else { return Ok(()) };
    follow(client, name, until, stream?.into_inner(), |answer| answer.leader.map(leading)).await
}

async fn observe_etcd(client: &Client, name: u64, until: Instant) -> Result<(), Status> {
    let mut elections = pb::election_client::ElectionClient::new(client.way());
    let request = pb::LeaderRequest { name: election().into() };
    let Ok(stream) = timeout(PATIENCE, elections.observe(request)).await else { return Ok(()) };
    follow(client, name, until, stream?.into_inner(), |answer| answer.kv.map(etcd_leading)).await
}

async fn follow<T>(
    client: &Client,
    name: u64,
    until: Instant,
    mut stream: Streaming<T>,
    told: impl Fn(T) -> Option<Leading>,
) -> Result<(), Status> {
    while Instant::now() < until && !client.town.is_over() {
        let Ok(answer) = timeout(LOOK_EVERY, stream.message()).await else { continue };
        let Some(answer) = answer? else { break };
        let now = client.town.recorder.trace.moment();
        client.town.recorder.election(name, now, Elected::Observed(told(answer)));
    }
    Ok(())
}

async fn read(client: &Client) -> Result<Option<Leading>, Status> {
    let request = v1::LeaderRequest { name: election().into(), read: None };
    let mut elections = v1::election_client::ElectionClient::new(client.way());
    let answer = ask(PATIENCE, request, |request| async move { elections.leader(request).await }).await?;
    Ok(answer.leader.map(leading))
}

async fn read_etcd(client: &Client) -> Result<Option<Leading>, Status> {
    let request = pb::LeaderRequest { name: election().into() };
    let mut elections = pb::election_client::ElectionClient::new(client.way());
    match ask(PATIENCE, request, |request| async move { elections.leader(request).await }).await {
        Ok(answer) => Ok(answer.kv.map(etcd_leading)),
        Err(status) if status.message() == "election: no leader" => Ok(None),
        Err(status) => Err(status),
    }
}

fn leading(leader: v1::Leader) -> Leading {
    Leading { key: leader.key.to_vec().into(), term: leader.term, value: leader.value.to_vec().into() }
}

fn etcd_leading(kv: mvccpb::KeyValue) -> Leading {
    Leading { key: kv.key.to_vec().into(), term: kv.create_revision, value: kv.value.to_vec().into() }
}

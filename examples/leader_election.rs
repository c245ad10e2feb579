//! Three candidates, one leader: what happens when it resigns, when it dies, and when it only seems dead.
//!
//! Run it against a cluster on 127.0.0.1:2379 (`quorate serve`), or name others in `QUORATE_ENDPOINTS`. It ends by itself,
//! and fails if the story does not go as told.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use quorate::{Client, Election, ErrorKind, Leader, Leaders, Op};

type Error = Box<dyn std::error::Error>;

/// How soon another leads when a leader is silent.
const TTL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let name = format!("examples/election-{:08x}", rand::random::<u32>());
    let observer = connect().await?;
    let mut leaders = observer.election(&name).observe();

    // Each candidate is a program of its own in real life; here each has a client of its own.
    let (ada, bob, cat) = (connect().await?, connect().await?, connect().await?);
    let candidate = |client: &Client| -> Election { client.election(&name).ttl(TTL) };

    let first = candidate(&ada).campaign("ada").await?;
    let leader = next_leader(&mut leaders).await?;
    println!("{} leads in term {}", leader.value_text(), leader.term);
    check(leader.term == first.term(), "the observer sees the term that the leader has")?;

    // The others wait in the queue, in the order in which they came.
    let (bobs, cats) = (candidate(&bob), candidate(&cat));
    let second = tokio::spawn(async move { bobs.campaign("bob").await });
    in_queue(&observer, &name, 2).await?;
    let third = tokio::spawn(async move { cats.campaign("cat").await });
    in_queue(&observer, &name, 3).await?;

    let resigned = Instant::now();
    first.resign().await?;
    let second = second.await??;
    println!("ada resigns; bob leads in term {} after {} ms", second.term(), resigned.elapsed().as_millis());
    check(next_leader(&mut leaders).await?.value_text() == "bob", "who came next leads next")?;

    // Bob's session ends without bob being asked, as after a pause that was longer than its time to live.
    let session = second.lease();
    observer.lease_revoke(session).await?;
    let third = third.await??;
    println!("bob's session ends; cat leads in term {}", third.term());
    check(third.term() > second.term(), "terms only grow")?;

    // Bob, who was just about to write, writes; and the cluster does not take it.
    let key = format!("/{name}/shards");
    let late = bob.txn(second.txn().then(Op::put(&key, "bob's"))).await?;
    check(!late.succeeded, "a deposed leader writes nothing")?;
    let written = cat.txn(third.txn().then(Op::put(&key, "cat's"))).await?;
    check(written.succeeded, "the leader writes")?;
    println!("bob's late write is refused, cat's is taken: {key} = {}", value(&observer, &key).await?);
    let told = tokio::time::timeout(PATIENCE, second.lost()).await?;
    println!("bob is told: {told}");
    match second.proclaim("still bob").await {
        Err(error) if error.kind() == ErrorKind::Reacquire => {}
        other => return Err(format!("bob could still proclaim: {other:?}").into()),
    }

    third.resign().await?;
    observer.delete(&key).await?;
    println!("All as it should be: one leader at a time, and terms that only grow.");
    Ok(())
}

async fn connect() -> quorate::Result<Client> {
    let endpoints = std::env::var("QUORATE_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    Client::builder().endpoints(endpoints.split(',')).deadline(PATIENCE).connect().await
}

/// The next one that leads; that nobody does in between is passed over.
async fn next_leader(leaders: &mut Leaders) -> Result<Leader, Error> {
    loop {
        let next = tokio::time::timeout(PATIENCE, leaders.next()).await?.ok_or("the stream of leaders ended")?;
        if let Some(leader) = next? {
            return Ok(leader);
        }
    }
}

/// Waits until so many stand for election.
async fn in_queue(client: &Client, name: &str, candidates: u64) -> Result<(), Error> {
    let until = Instant::now() + PATIENCE;
    while client.prefix(format!("{name}/")).count().await? < candidates {
        check(Instant::now() < until, "the candidates come")?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn value(client: &Client, key: &str) -> Result<String, Error> {
    let value = client.get(key).await?.into_value().unwrap_or_default();
    Ok(String::from_utf8_lossy(&value).into_owned())
}

fn check(holds: bool, claim: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {claim}").into()) }
}

//! A first tour: keys, a watch, a lease. Run it against a member on 127.0.0.1:2379 (`quorate serve`), or name others in
//! `QUORATE_ENDPOINTS`.

use std::time::Duration;

use futures::StreamExt as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints = std::env::var("QUORATE_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = quorate::Client::connect(endpoints.split(',')).await?;
    client.put("/config/db/pool", "20").await?;
    for child in client.list("/config/db").with_values().await?.children {
        println!("{} = {}", child.name, child.kv.map_or_else(String::new, |kv| kv.value_text().into_owned()));
    }

    // Nothing is missed and nothing comes twice, also when the member that serves the watch dies.
    let mut changes = client.watch("/workers").subtree().start().await?;
    let session = client.lease(Duration::from_secs(2)).grant().await?;
    client.put("/workers/7", "10.0.0.7:80").lease(&session).await?;
    // The session keeps itself alive until it is dropped; then its keys go.
    drop(session);
    let mut left = 2;
    while left > 0 {
        let Some(events) = changes.next().await else { break };
        for event in events?.events {
            println!("{:?} {}", event.kind, event.kv.key_text());
            left -= 1;
        }
    }
    Ok(())
}

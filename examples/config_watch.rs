//! A typed configuration that is reloaded while the program runs.
//!
//! The settings stand at keys below one directory. A reflector keeps them in memory; after each change, which is seen whole,
//! the program reads them into its own type. What makes no sense is reported and not used: the last good configuration
//! stays. Run it against a cluster on 127.0.0.1:2379 (`quorate serve`), or name others in `QUORATE_ENDPOINTS`. It plays the
//! operator too, ends by itself, and fails if the story does not go as told.

use std::time::Duration;

use futures::StreamExt as _;
use quorate::{Client, Op, Tree, Txn};
use serde::Deserialize;
use serde_json::{Map, Value};

type Error = Box<dyn std::error::Error>;

const PATIENCE: Duration = Duration::from_secs(30);

/// What the program wants to know.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: String,
    pool: u32,
    #[serde(default)]
    read_only: bool,
}

impl Settings {
    /// Out of the keys directly below `directory`, whose values are JSON or plain text.
    fn read(tree: &Tree, directory: &str) -> Result<Self, String> {
        let mut fields = Map::new();
        for kv in tree.iter() {
            let Some(name) =
                kv.key_text().strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned)
            else {
                continue;
            };
            let text = kv.value_text().into_owned();
            fields.insert(name, serde_json::from_str(&text).unwrap_or(Value::String(text)));
        }
        serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints = std::env::var("QUORATE_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2379".to_owned());
    let client = Client::builder().endpoints(endpoints.split(',')).deadline(PATIENCE).connect().await?;
    let directory = format!("/examples/config-{:08x}", rand::random::<u32>());
    let key = |name: &str| format!("{directory}/{name}");
    client.txn(Txn::new().then(Op::put(key("url"), "postgres://db:5432")).then(Op::put(key("pool"), "20"))).await?;

    let reflector = client.reflector(&directory).await?;
    let mut changes = reflector.changes();
    let mut now = Settings::read(changes.begins_with(), &directory)?;
    println!("begins with {now:?}");
    check(now.pool == 20 && !now.read_only, "the first reading is complete")?;

    // The operator: two settings that belong together, then a mistake, then its correction.
    client.txn(Txn::new().then(Op::put(key("pool"), "40")).then(Op::put(key("read_only"), "true"))).await?;
    client.put(key("pool"), "many").await?;
    let last = client.put(key("pool"), "60").await?.header.revision;

    // The program.
    let (mut applied, mut refused) = (Vec::new(), 0);
    loop {
        let change = tokio::time::timeout(PATIENCE, changes.next()).await?.ok_or("the changes ended")??;
        // What a change brings in detail does not matter here; the tree is always whole.
        let tree = match change {
            quorate::Change::Events(_) => reflector.snapshot(),
            quorate::Change::Reset(tree) => tree,
        };
        match Settings::read(&tree, &directory) {
            Ok(settings) if settings == now => {}
            Ok(settings) => {
                println!("at revision {}: {settings:?}", tree.revision());
                check(settings.read_only == (settings.pool > 20), "what was written together is seen together")?;
                now = settings;
                applied.push(now.pool);
            }
            Err(error) => {
                println!("at revision {}: not used, {error}", tree.revision());
                refused += 1;
            }
        }
        if tree.revision() >= last {
            break;
        }
    }
    check(now.pool == 60 && now.read_only, "the last configuration is in force")?;
    check(!applied.contains(&0), "a mistake is never in force")?;
    println!("{} configurations applied, {refused} refused; in force: {now:?}", applied.len());
    client.delete_subtree(&directory).await?;
    Ok(())
}

fn check(holds: bool, claim: &str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {claim}").into()) }
}

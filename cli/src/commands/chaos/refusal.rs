//! What is not done to a cluster of others, and what is cleaned up there.
//!
//! Invariants:
//! - A cluster is not touched before its owner has said that it may be broken, and nothing of it that stands there.

use std::time::Duration;

use quorate::{Client, ErrorKind};

use super::ChaosArgs;
use crate::connection::Connection;
use crate::failure::Failure;

/// How many keys are deleted at once.
const PAGE: u32 = 1_000;

/// Refuses a cluster that may not be broken, and a prefix below which something stands.
pub async fn look(args: &ChaosArgs, connection: &Connection) -> Result<(), Failure> {
    if !args.yes_this_is_a_test_cluster {
        return Err(Failure::Usage(
            "this breaks the cluster of --endpoints on purpose; if it is for tests only, say \
             --yes-this-is-a-test-cluster, and else --local, which starts one of its own"
                .to_owned(),
        ));
    }
    let client = connection.open()?;
    let below = client.range(format!("{}/", args.prefix), format!("{}0", args.prefix)).limit(1).await?;
    let found = client.get(args.prefix.clone()).await?.kv.or(below.kvs.into_iter().next());
    match found {
        None => Ok(()),
        Some(kv) => Err(Failure::Precondition(format!(
            "{} is not empty: {} stands there; delete it, or choose another place with --prefix",
            args.prefix,
            kv.key_text()
        ))),
    }
}

/// Deletes what a run left.
pub async fn clean(prefix: &str, endpoints: &[String]) -> Result<(), Failure> {
    let client = Client::builder().endpoints(endpoints).deadline(Duration::from_secs(20)).build()?;
    let (start, end) = (format!("{prefix}/"), format!("{prefix}0"));
    loop {
        let page = client.range(start.clone(), end.clone()).keys_only().page_size(PAGE).page().await?;
        let Some(last) = page.kvs.last() else { return Ok(()) };
        let mut after = last.key.to_vec();
        after.push(0);
        match client.delete_range(start.clone(), after).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::RetrySameId => {}
            Err(error) => return Err(error.into()),
        }
    }
}

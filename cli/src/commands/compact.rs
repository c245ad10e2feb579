//! `quorate compact`: history before a revision is given up.
//!
//! Invariants:
//! - The revision is named by the caller; nothing is compacted by accident.

use clap::Args;
use quorate::{Client, Revision};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;

/// Examples for the help.
pub const EXAMPLES: &str = "\
Reads and watches of revisions before REVISION fail afterwards; what stands now stays as it is.

Examples:
  quorate compact 1042
  quorate compact --keep 10000      all but the newest 10000 revisions";

/// Flags of `compact`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct CompactArgs {
    /// The oldest revision that stays readable
    #[arg(value_parser = clap::value_parser!(i64).range(1..), group = "what")]
    pub revision: Option<i64>,
    /// Keep so many revisions, the newest
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i64).range(0..), group = "what")]
    pub keep: Option<i64>,
}

/// Compacts.
pub async fn run(args: CompactArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let revision = match (args.revision, args.keep) {
        (Some(revision), _) => revision,
        (None, Some(keep)) => newest_but(client, keep).await?,
        (None, None) => return Err(Failure::Usage("name a REVISION, or --keep COUNT".to_owned())),
    };
    client.compact(Revision(revision)).await?;
    output.either(
        || format!("compacted: revision {revision} is the oldest that stays readable"),
        || json!({"compact_revision": revision}),
    )
}

/// The revision that is `keep` before the newest.
async fn newest_but(client: &Client, keep: i64) -> Result<i64, Failure> {
    let newest = client.stat("/").await?.header.revision.get();
    match newest.saturating_sub(keep) {
        revision @ 1.. => Ok(revision),
        _ => Err(Failure::Precondition(format!("there are only {newest} revisions; nothing to compact"))),
    }
}

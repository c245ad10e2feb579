//! What is read when all is over: keys, every change, and whether members agree.
//!
//! Invariants:
//! - Everything is read after clients have ended, and faults are healed.

use std::time::Duration;

use futures::StreamExt as _;
use quorate::{Client, Revision, Status};
use quorate_checkers::history::{ChangeLog, Digest, Learned, Octets, Picture, Span};
use tokio::time::Instant;

use crate::convert::{event, kv};
use crate::recorder::Recorder;
use crate::town::{Town, below};

/// How long a healed cluster may take to agree, and to say so.
const AGREEMENT: Duration = Duration::from_mins(1);

/// After the last renewal every lease of a run is over within this.
const LEASES_END: Duration = Duration::from_secs(12);

/// How often one looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a history has no end.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// The cluster, which should be healed, does not answer.
    #[error("the cluster does not answer although all faults are healed: {0}")]
    Silent(#[from] quorate::Error),
    /// Members stand at different places.
    #[error("a minute after all was healed the members are not at one index: {0}")]
    Disagree(String),
    /// Watches lack something.
    #[error(
        "a minute after all was healed {0} clients have not ended: a watch was not told everything, or a call hangs"
    )]
    Hang(usize),
    /// The history of the store that is needed for the check is not there.
    #[error("the changes of this run cannot be read any more, they were compacted: {0}")]
    NoLog(String),
}

/// Waits until no lease of the run is left, or none may be; what is left then is a fact that the checkers judge.
pub(crate) async fn leases_end(town: &Town, client: &Client) -> Result<(), Unfinished> {
    let (start, end) = below(&town.held());
    let until = Instant::now() + LEASES_END;
    loop {
        let invoked = town.recorder.moment();
        let left = client.range(start.clone(), end.clone()).await?;
        if left.kvs.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            for lease in left.kvs.iter().filter_map(|kv| kv.lease) {
                town.recorder.lease(lease.get(), invoked, Learned::Seen);
            }
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until all members stand at one index, and notes what they say is there.
pub(crate) async fn agree(recorder: &Recorder, client: &Client) -> Result<(), Unfinished> {
    let until = Instant::now() + AGREEMENT;
    loop {
        let asked = client.status_of_all().await;
        let told: Vec<&Status> = asked.iter().filter_map(|(_, status)| status.as_ref().ok()).collect();
        let same = told.windows(2).all(|pair| pair[0].digest_index == pair[1].digest_index);
        if same && told.len() == asked.len() {
            let digests = told.iter().map(|status| Digest {
                member: status.member.name.clone(),
                index: status.digest_index,
                digest: status.digest,
                healed: true,
            });
            recorder.with(|history| history.digests.extend(digests));
            return Ok(());
        }
        if Instant::now() > until {
            let seen: Vec<_> = asked
                .iter()
                .map(|(endpoint, status)| match status {
                    Ok(status) => format!("{endpoint} at {}", status.digest_index),
                    Err(error) => format!("{endpoint}: {error}"),
                })
                .collect();
            return Err(Unfinished::Disagree(seen.join(", ")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// All keys of the run.
pub(crate) async fn picture(town: &Town, client: &Client) -> Result<Picture, Unfinished> {
    let (start, end) = below(&town.plan.prefix);
    let found = client.range(start, end).await?;
    Ok(Picture { revision: found.header.revision.get(), keys: found.kvs.iter().map(kv).collect() })
}

/// Every change of the store from one revision to another, read from history.
pub(crate) async fn log(client: &Client, from: i64, to: i64) -> Result<ChangeLog, Unfinished> {
    let mut changes = Vec::new();
    let all = client.watch("\0").range_to("").from(Revision(from)).progress(Duration::from_millis(100));
    let mut stream = all.start().await?;
    if from > to {
        return Ok(ChangeLog { from, to, changes });
    }
    loop {
        let read = tokio::time::timeout(AGREEMENT, stream.next()).await;
        let Ok(Some(item)) = read else {
            return Err(Unfinished::NoLog(format!("after revision {}", stream.next_revision())));
        };
        let item = item.map_err(|error| match error {
            quorate::Error::Compacted { .. } => Unfinished::NoLog(error.to_string()),
            error => Unfinished::Silent(error),
        })?;
        let events = item.events.iter().filter(|event| event.kv.mod_revision.get() <= to);
        changes.extend(events.map(|one| event(one).change));
        if item.revision.get() >= to {
            break;
        }
    }
    Ok(ChangeLog { from, to, changes })
}

/// Everything that is not of this run, and locks and elections: their keys are written by members.
pub(crate) fn others(town: &Town) -> Vec<Span> {
    let (start, end) = below(&town.plan.prefix);
    vec![
        Span::Range(Octets::EMPTY, Some(start.into())),
        Span::Range(end.into(), None),
        Span::Subtree(town.locks().into()),
        Span::Subtree(town.elections().into()),
    ]
}

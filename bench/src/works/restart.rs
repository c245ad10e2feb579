//! The restart work: a follower with many keys is stopped as an operator would, and started again.
//!
//! Invariants:
//! - Timed is from the start of the process to its first linearizable answer to a client that is connected to it.
//! - Memory is read at that moment, of that member.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::failure::{Result, wrong};
use crate::figures::{Figures, Metric, mb, ms};
use crate::keys::first_key;
use crate::plan::{MEMBERS, PATIENCE, Plan};
use crate::stage::{Stage, Subject};
use crate::wire::Connection;

/// Name of the work.
pub const NAME: &str = "restart";
/// Between two looks at a member that starts.
const LOOK: Duration = Duration::from_millis(2);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Restarts a follower of the subject's cluster several times.
pub async fn run(stage: &mut Stage, subject: Subject, plan: &Plan, figures: &mut Figures) -> Result<()> {
    stage.cluster(subject).settled().await?;
    for _ in 0..plan.restarts {
        let cluster = stage.cluster_mut(subject);
        let follower = (cluster.agreed().await? + 1) % MEMBERS;
        let address = cluster.members()[follower].client_address();
        cluster.stop(follower)?;
        let begun = Instant::now();
        cluster.run(follower)?;
        first_answer(subject, address).await?;
        figures.add(NAME, Metric::RestartTime, subject, ms(begun.elapsed()));
        figures.add(NAME, Metric::MemberMemory, subject, mb(cluster.resident_bytes_of(follower)?));
        cluster.agreed().await?;
        cluster.settled().await?;
    }
    Ok(())
}

async fn first_answer(subject: Subject, address: SocketAddrV4) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        // A client library that finds nobody listening waits before it tries again; so it is asked only afterwards.
        if TcpStream::connect(address).await.is_ok() {
            let answered = timeout(ATTEMPT, async {
                Connection::open(subject.client(), address).await?.get(first_key(), false).await
            });
            if matches!(answered.await, Ok(Ok(_))) {
                return Ok(());
            }
        }
        sleep(LOOK).await;
    }
    wrong(format!("a restarted member has not answered within {PATIENCE:?}"))
}

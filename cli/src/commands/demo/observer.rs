//! Looking at members and at changes, with a deadline.
//!
//! Invariants:
//! - Nothing is waited for without a deadline, and no result depends on how often one looks.

use std::time::Duration;

use futures::StreamExt;
use quorate::{Client, Event, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::members::Members;
use super::narrator::Narrator;
use crate::commands::watch::line_of;
use crate::failure::Failure;

/// How long anything in the demo may take, generously: a slow machine is not a failed claim.
pub const PATIENCE: Duration = Duration::from_mins(1);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until there is an answer.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(Failure::Failed(format!("waited {} s in vain for {what}", PATIENCE.as_secs())));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// One member's view of itself; `None` when it does not answer.
pub async fn status_of(endpoint: &str) -> Option<Status> {
    let client = Client::builder().endpoints([endpoint]).deadline(Duration::from_secs(1)).build().ok()?;
    client.status_of(endpoint).await.ok()
}

/// The status of each member, or `None` while one does not answer.
pub async fn all_statuses(endpoints: &[String]) -> Option<Vec<Status>> {
    let asked = endpoints.iter().map(|endpoint| status_of(endpoint));
    futures::future::join_all(asked).await.into_iter().collect()
}

/// The view of the leader that all members know, once they all name the same.
pub async fn common_leader(members: &mut Members, endpoints: &[String]) -> Result<Status, Failure> {
    until("a leader that all members know", async || {
        members.check_alive()?;
        let Some(statuses) = all_statuses(endpoints).await else { return Ok(None) };
        let leader = statuses[0].leader;
        if leader.is_none() || statuses.iter().any(|status| status.leader != leader) {
            return Ok(None);
        }
        Ok(statuses.into_iter().find(|status| status.member.id == leader))
    })
    .await
}

/// A watch that prints what it sees, and hands it on.
pub struct LiveWatch {
    events: mpsc::Receiver<Result<Event, Failure>>,
}

impl LiveWatch {
    /// Begins with what happens from now on.
    pub async fn start(client: &Client, path: &str, narrator: Narrator) -> Result<Self, Failure> {
        let mut stream = client.watch(path).subtree().start().await?;
        let (sender, events) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Some(changes) = stream.next().await {
                match changes {
                    Ok(changes) => {
                        for event in changes.events {
                            let told = narrator.watched(&line_of(&event, narrator.output())).map(|()| event);
                            if sender.send(told).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(error) => {
                        // Nobody may be left to hear it, which is fine.
                        let _ = sender.send(Err(error.into())).await;
                        return;
                    }
                }
            }
        });
        Ok(Self { events })
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        match timeout(PATIENCE, self.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => Err(Failure::Failed("the watch ended by itself".to_owned())),
            Err(_) => Err(Failure::Failed("the watch did not see a change that was acknowledged".to_owned())),
        }
    }
}

//! Raises the state version once all members know the next one, so that a cluster is upgraded member by member and an
//! older one never meets a command that it cannot read. What needs which version: `quorate_state::versions`.
//!
//! Invariants:
//! - Raised is only to what every member, voter or learner, has said it knows, in answer to a question of this round; who
//!   does not answer holds it back.
//! - No member is added between the question and the end of the proposal (`membership::Turn`), and from then on none
//!   that does not know the version.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::ClusterId;
use quorate_state::command::{Command, Envelope, Principal};
use tokio::time::Instant;

use crate::consensus::handle::Consensus;
use crate::consensus::links::{Links, Purpose};
use crate::consensus::membership::Turn;
use crate::consensus::{Leadership, Member};
use crate::error::Happened;
use crate::tasks::Tasks;

/// Between two rounds of asking, while there is something to raise.
const PAUSE: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(1);
const PROPOSE_MAX: Duration = Duration::from_secs(10);

/// The task.
pub struct VersionRaise {
    /// This member.
    pub consensus: Consensus,
    /// Ways to the others.
    pub links: Arc<Links>,
}

impl VersionRaise {
    /// Works until the member stops.
    pub async fn run(self, tasks: Tasks) -> Result<(), Infallible> {
        tokio::select! {
            biased;
            () = tasks.stopped() => {}
            () = self.follow() => {}
        }
        Ok(())
    }

    async fn follow(&self) {
        let mut leadership = self.consensus.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            match now {
                Leadership::Leading { term } if self.consensus.state_version() < self.own_max() => {
                    self.round(term).await;
                    tokio::time::sleep(PAUSE).await;
                }
                _ => {
                    if leadership.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn own_max(&self) -> u32 {
        self.links.local().state_version_max()
    }

    /// Asks all members, and raises to what all know.
    async fn round(&self, term: u64) {
        let turn = self.consensus.raft().extension::<Turn>();
        let mut proposed = turn.0.lock().await;
        let members = self.consensus.status().members;
        let known = join_all(members.iter().map(|member| self.ask(member))).await;
        let Some(version) = known.into_iter().min().flatten() else { return };
        let before = *proposed;
        if version <= self.consensus.state_version() {
            return;
        }
        *proposed = version.max(before);
        let command = Command::SetStateVersion(version);
        let envelope = Envelope { request: None, principal: Principal::default(), command };
        match self.consensus.propose_in_term(term, envelope, Instant::now() + PROPOSE_MAX).await {
            Ok(_) => tracing::info!(version, "the state version was raised: all members know it"),
            Err(error) => {
                if error.happened() == Happened::No {
                    *proposed = before;
                }
                tracing::info!(version, %error, "the state version was not raised; it will be tried again");
            }
        }
    }

    /// The highest version that a member knows; `None` when it does not answer.
    async fn ask(&self, member: &Member) -> Option<u32> {
        if member.id == self.consensus.id() {
            return Some(self.own_max());
        }
        let ask = async {
            let mut peer = self.links.peer(member.id.get(), &member.peer_address, Purpose::Hello).ok()?;
            let answer = peer.hello(self.links.local().hello()).await.ok()?.into_inner();
            let cluster = self.links.local().cluster().map(ClusterId::get);
            let is_it = answer.member_id == member.id.get() && Some(answer.cluster_id) == cluster;
            is_it.then_some(answer.state_version_max.max(1))
        };
        tokio::time::timeout(ANSWER_MAX, ask).await.ok().flatten()
    }
}

impl Consensus {
    /// The state version in force here.
    pub fn state_version(&self) -> u32 {
        self.parts.applied.mark.borrow().state_version
    }
}

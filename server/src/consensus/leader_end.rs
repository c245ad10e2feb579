//! Notices that the leader's process has ended, and asks for votes without waiting for an election timeout.
//!
//! A process that has ended is known at once: its connections end, and its host refuses new ones. So a voter whose
//! stream to the leader has ended listens for two heartbeats, then knocks twice. When all is still and closed, it lets
//! go of its lease on the leader and campaigns. With heartbeats of 75 ms, that is 150 ms after the end.
//!
//! Invariants:
//! - Evidence is all of this together: the stream to the leader ended; since then, for two heartbeats, no append of it
//!   came, and none of its streams is open; then its port refused twice, `KNOCKS_APART`. A timeout, a reset, silence or
//!   a refusal alone is none: a leader that lives keeps its own streams to this member, or opens them again.
//! - A voter lets go of its lease by its own evidence only, once a term; no message tells it to.
//! - It campaigns through pre-vote: the term rises only when a quorum has let go, too.
//! - Evidence is looked at again before each step; another vote, or a word of the leader, ends it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use quorate_proto::MemberId;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::Timing;
use crate::consensus::contact::Contacts;
use crate::consensus::types::{Raft, Vote};
use crate::sync::watch;
use crate::tasks::Tasks;

/// Between the two knocks.
const KNOCKS_APART: Duration = Duration::from_millis(20);
/// A leader that lives is heard within one heartbeat; the other is for a machine that is busy.
const SILENT_HEARTBEATS: u32 = 2;

/// The stream to a leader was up, and has ended.
#[derive(Debug, Clone)]
pub struct LinkEnd {
    /// The leader.
    pub leader: MemberId,
    /// Its `host:port` for members.
    pub address: String,
    /// When the end was seen.
    pub at: Instant,
}

/// What came of the ends that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Ends of streams after which the lease was kept: the leader lives, or it cannot be told.
    pub kept: u64,
    /// Leases that were let go of.
    pub let_go: u64,
}

/// The task.
pub struct LeaderEnd {
    /// This member.
    pub id: MemberId,
    /// Whom it follows.
    pub raft: Raft,
    /// What it hears.
    pub contacts: Arc<Contacts>,
    /// Raft's clocks.
    pub timing: Timing,
    /// The last stream to a leader that has ended.
    pub ends: watch::Receiver<Option<LinkEnd>>,
    /// Told what came of it.
    pub verdicts: watch::Sender<Verdicts>,
}

/// A leader whose process may have ended.
struct Suspect {
    end: LinkEnd,
    /// The vote that made it the leader.
    vote: Vote,
    /// Its last word.
    heard: Option<Instant>,
    /// This member's place among the voters that are left, and their number.
    rank: u32,
    voters: u32,
}

impl LeaderEnd {
    /// Works until the member stops.
    pub async fn run(mut self, tasks: Tasks) -> Result<(), Infallible> {
        tokio::select! {
            biased;
            () = tasks.stopped() => {}
            () = self.follow() => {}
        }
        Ok(())
    }

    async fn follow(&mut self) {
        let mut let_go = None;
        while self.ends.changed().await.is_ok() {
            let Some(end) = self.ends.borrow_and_update().clone() else { continue };
            let suspect = match self.suspect(end) {
                Some(suspect) if let_go.as_ref() != Some(&suspect.vote) => self.examine(suspect).await,
                _ => None,
            };
            let Some(suspect) = suspect else {
                self.verdicts.send_modify(|verdicts| verdicts.kept += 1);
                continue;
            };
            tracing::info!(leader = %suspect.end.leader, "the leader's process has ended; its lease is let go of");
            // To Raft this is the word of the leader that another may campaign; it counts only while that vote stands.
            let request = TransferLeaderRequest::new(suspect.vote, suspect.end.leader.get(), None);
            if self.raft.handle_transfer_leader(request).await.is_err() {
                // Raft has ended, and the member with it.
                return;
            }
            let_go = Some(suspect.vote);
            self.verdicts.send_modify(|verdicts| verdicts.let_go += 1);
            self.campaign(&suspect).await;
        }
    }

    /// `None` when another leads by now, or this member has no vote.
    fn suspect(&self, end: LinkEnd) -> Option<Suspect> {
        let metrics = self.raft.server_metrics();
        let now = metrics.borrow_watched();
        if now.current_leader != Some(end.leader.get()) {
            return None;
        }
        let mut left: Vec<u64> = now.membership_config.voter_ids().filter(|id| *id != end.leader.get()).collect();
        left.sort_unstable();
        let rank = u32::try_from(left.iter().position(|id| *id == self.id.get())?).ok()?;
        let (vote, voters) = (now.vote, u32::try_from(left.len()).ok()?);
        Some(Suspect { heard: self.contacts.heard(end.leader), end, vote, rank, voters })
    }

    /// Returns the suspect when its process has ended.
    async fn examine(&self, mut suspect: Suspect) -> Option<Suspect> {
        let silence = self.timing.heartbeat * SILENT_HEARTBEATS;
        // What was on its way when the process ended may arrive a moment later, and begins the silence anew.
        loop {
            let since = suspect.heard.map_or(suspect.end.at, |heard| heard.max(suspect.end.at));
            if since > suspect.end.at + silence {
                return None;
            }
            sleep_until(since + silence.saturating_sub(KNOCKS_APART)).await;
            let heard = self.contacts.heard(suspect.end.leader);
            if heard == suspect.heard {
                break;
            }
            suspect.heard = heard;
        }
        let address = &suspect.end.address;
        let patience = self.timing.heartbeat;
        if !self.stands(&suspect) || !is_refused(address, patience).await {
            return None;
        }
        sleep(KNOCKS_APART).await;
        (is_refused(address, patience).await && self.stands(&suspect)).then_some(suspect)
    }

    /// Whether the suspect still is the leader, and is silent and disconnected.
    fn stands(&self, suspect: &Suspect) -> bool {
        let leader = suspect.end.leader;
        let follows = {
            let metrics = self.raft.server_metrics();
            let now = metrics.borrow_watched();
            now.current_leader == Some(leader.get()) && now.vote == suspect.vote
        };
        follows && !self.contacts.is_open(leader) && self.contacts.heard(leader) == suspect.heard
    }

    /// Asks for votes, in turns with the other voters, for as long as an election timeout could last.
    async fn campaign(&self, suspect: &Suspect) {
        // Half a turn before the first: the others see the same end a moment earlier or later.
        let turn = self.timing.heartbeat / 2;
        let until = Instant::now() + self.timing.election_max;
        sleep(turn / 2 + turn * suspect.rank).await;
        while Instant::now() < until && self.stands(suspect) {
            if self.raft.trigger().elect(true).await.is_err() {
                return;
            }
            sleep(turn * suspect.voters).await;
        }
    }
}

/// Whether nobody listens there: every address of the name refuses at once.
async fn is_refused(address: &str, patience: Duration) -> bool {
    let knock = async {
        let mut refused = false;
        for address in lookup_host(address).await? {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused = true,
                Err(error) => return Err(error),
                Ok(_) => return Ok(false),
            }
        }
        Ok(refused)
    };
    matches!(timeout(patience, knock).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn only_a_port_where_nobody_listens_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!is_refused(&address, PATIENCE).await, "accepted by the backlog, as of a process that hangs");
        drop(listener);
        assert!(is_refused(&address, PATIENCE).await);
        assert!(!is_refused("no such name.invalid:1", PATIENCE).await);
    }
}

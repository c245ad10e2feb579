//! Follows openraft's metrics: who leads, whether openraft has ended, whether this member was taken out.
//!
//! Invariants:
//! - `Leading` is said only after the first entry of the own term was applied here; so a leader's reads and clocks
//!   start from everything that was acknowledged before it.
//! - The end of openraft's core is the end of the member.

use openraft::async_runtime::watch::WatchReceiver;
use quorate_proto::MemberId;

use crate::consensus::Leadership;
use crate::consensus::applier::AppliedMark;
use crate::consensus::types::Raft;
use crate::sync::watch;
use crate::tasks::Tasks;

/// The task.
pub struct Observer {
    /// This member.
    pub id: MemberId,
    /// What is followed.
    pub raft: Raft,
    /// How far the store is.
    pub applied: watch::Receiver<AppliedMark>,
    /// Who leads.
    pub leadership: watch::Sender<Leadership>,
    /// Becomes true when a committed membership is without this member that once was in it.
    pub removed: watch::Sender<bool>,
}

/// What the metrics say, as far as it matters here.
struct Seen {
    fatal: Option<String>,
    term: u64,
    is_leader: bool,
    leader: Option<u64>,
    is_member: bool,
}

impl Observer {
    /// Works until the member stops.
    pub async fn run(mut self, tasks: Tasks) -> Result<(), String> {
        let mut metrics = self.raft.metrics();
        let mut was_member = false;
        loop {
            let seen = {
                // Held for these lines only: the core waits for it.
                let now = metrics.borrow_and_update();
                let id = self.id.get();
                Seen {
                    fatal: now.running_state.as_ref().err().map(ToString::to_string),
                    term: now.current_term,
                    is_leader: now.state.is_leader(),
                    leader: now.current_leader,
                    is_member: now.committed_membership_config.get_node(&id).is_some(),
                }
            };
            if let Some(fatal) = seen.fatal {
                self.leadership.send_replace(Leadership::Following { leader: None });
                return if tasks.is_stopping() { Ok(()) } else { Err(fatal) };
            }
            let mark = *self.applied.borrow_and_update();
            let leads = seen.is_leader && mark.term == seen.term;
            let leadership = if leads {
                Leadership::Leading { term: seen.term }
            } else {
                let leader = seen.leader.and_then(MemberId::new).filter(|leader| *leader != self.id);
                Leadership::Following { leader }
            };
            self.leadership.send_if_modified(|old| std::mem::replace(old, leadership) != leadership);
            if was_member && !seen.is_member {
                self.removed.send_if_modified(|removed| !std::mem::replace(removed, true));
            }
            was_member |= seen.is_member;
            tokio::select! {
                biased;
                // Only while leadership waits for the first own entry.
                changed = self.applied.changed(), if seen.is_leader && !leads => changed.map_err(|e| e.to_string())?,
                changed = metrics.changed() => if changed.is_err() && !tasks.is_stopping() {
                    return Err("openraft ended".to_owned());
                } else if changed.is_err() {
                    return Ok(());
                },
                () = tasks.stopped() => return Ok(()),
            }
        }
    }
}

//! Compares digests between members: do their stores say the same? Each member asks all voters and judges itself.
//!
//! Invariants:
//! - Only pairs of the same log index are compared, and only indexes that a quorum of voters has a pair for decide.
//! - A minority value names the members that hold it; without a majority nobody is named, all are suspect, and none takes writes until it is settled.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::MemberId;
use quorate_proto::peer::DigestsRequest;
use quorate_state::outcome::Fault;
use quorate_state::store::Store as _;
use quorate_state::view::View;

use crate::consensus::Member;
use tokio::time::Instant;

use crate::consensus::handle::Consensus;
use crate::consensus::links::{Links, Purpose};
use crate::tasks::Tasks;

const INTERVAL: Duration = Duration::from_secs(30);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A log index and the digest after it.
pub type Pair = (u64, u64);

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All that could be compared is equal.
    Equal,
    /// These members differ from what the majority has at this index.
    Minority {
        /// Log index of the newest pair that differs.
        log_index: u64,
        /// Who must step out.
        members: Vec<MemberId>,
    },
    /// No value has a majority of the voters.
    NoMajority {
        /// Log index of the pair.
        log_index: u64,
    },
}

/// Compares the newest index that a majority of `voters` has a pair for.
pub fn compare(voters: usize, pairs: &BTreeMap<MemberId, Vec<Pair>>) -> Verdict {
    let majority = voters / 2 + 1;
    let mut by_index: BTreeMap<u64, Vec<(u64, MemberId)>> = BTreeMap::new();
    for (member, pairs) in pairs {
        for (log_index, digest) in pairs {
            by_index.entry(*log_index).or_default().push((*digest, *member));
        }
    }
    let Some((log_index, held)) = by_index.into_iter().rev().find(|(_, held)| held.len() >= majority) else {
        return Verdict::Equal;
    };
    let mut by_digest: BTreeMap<u64, Vec<MemberId>> = BTreeMap::new();
    for (digest, member) in held {
        by_digest.entry(digest).or_default().push(member);
    }
    if by_digest.len() == 1 {
        return Verdict::Equal;
    }
    let Some(right) = by_digest.iter().find(|(_, members)| members.len() >= majority).map(|(digest, _)| *digest) else {
        return Verdict::NoMajority { log_index };
    };
    by_digest.remove(&right);
    Verdict::Minority { log_index, members: by_digest.into_values().flatten().collect() }
}

/// Compares this member with the others, again and again, and steps out when it is wrong.
#[derive(Clone)]
pub struct Comparison {
    /// This member.
    pub consensus: Consensus,
    /// Ways to the others.
    pub links: Arc<Links>,
    /// Ends the member.
    pub tasks: Tasks,
}

impl Comparison {
    /// Works until the member stops.
    pub async fn run(self) -> Result<(), Infallible> {
        let mut pause = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = self.tasks.stopped() => return Ok(()),
                _ = pause.tick() => self.once().await,
            }
        }
    }

    /// One comparison. A member that cannot be asked has no say in it.
    pub async fn once(&self) {
        let voters: Vec<Member> =
            self.consensus.status().members.into_iter().filter(|member| !member.learner).collect();
        let asked = voters.iter().map(|voter| async move { (voter.id, self.pairs(voter).await) });
        let answers = join_all(asked).await;
        let pairs = answers.into_iter().filter_map(|(member, pairs)| Some((member, pairs?))).collect();
        self.judge(&compare(voters.len(), &pairs));
    }

    fn judge(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Equal => self.consensus.set_diverged(None),
            Verdict::Minority { log_index, members } if members.contains(&self.consensus.id()) => {
                self.tasks.fail(format!(
                    "the digest at log index {log_index} differs from the majority's: this member's data is wrong; \
                     remove the member, empty its directory and let it join again"
                ));
            }
            // It steps out by itself; what the majority has is right.
            Verdict::Minority { log_index, members } => {
                tracing::error!(log_index, ?members, "members differ from the majority and will step out");
                self.consensus.set_diverged(None);
            }
            Verdict::NoMajority { log_index } => self.consensus.set_diverged(Some(*log_index)),
        }
    }

    async fn pairs(&self, member: &Member) -> Option<Vec<Pair>> {
        if member.id == self.consensus.id() {
            return self.consensus.digest_pairs().ok();
        }
        let id = member.id.get();
        let ask = async {
            let mut peer = self.links.peer(id, &member.peer_address, Purpose::Forward).ok()?;
            let request = self.links.local().mark(id, DigestsRequest {}).ok()?;
            let answer = peer.digests(request).await.ok()?.into_inner();
            Some(answer.pairs.into_iter().map(|pair| (pair.log_index, pair.digest)).collect())
        };
        tokio::time::timeout(ASK_TIMEOUT, ask).await.ok().flatten()
    }
}

impl Consensus {
    /// The stored pairs of this member.
    pub fn digest_pairs(&self) -> Result<Vec<Pair>, Fault> {
        let store = self.store();
        let marks = View::new(store.snapshot())?.digests()?;
        Ok(marks.into_iter().map(|mark| (mark.index, mark.digest)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> MemberId {
        MemberId::new(id).unwrap()
    }

    fn verdict(voters: usize, pairs: &[(u64, &[Pair])]) -> Verdict {
        compare(voters, &pairs.iter().map(|(id, pairs)| (member(*id), pairs.to_vec())).collect())
    }

    #[test]
    fn the_minority_value_is_named() {
        let pairs: &[(u64, &[Pair])] =
            &[(1, &[(1024, 7), (2048, 8)]), (2, &[(1024, 7), (2048, 8)]), (3, &[(1024, 7), (2048, 9)])];
        assert_eq!(verdict(3, pairs), Verdict::Minority { log_index: 2048, members: vec![member(3)] });
    }

    #[test]
    fn a_member_that_lags_is_compared_where_it_can_be() {
        assert_eq!(verdict(3, &[(1, &[(1024, 7), (2048, 8)]), (2, &[(1024, 7)]), (3, &[])]), Verdict::Equal);
        assert_eq!(verdict(3, &[(1, &[(1024, 7)])]), Verdict::Equal, "one member alone decides nothing");
    }

    #[test]
    fn without_a_majority_nobody_is_named() {
        assert_eq!(verdict(3, &[(1, &[(1024, 7)]), (2, &[(1024, 8)])]), Verdict::NoMajority { log_index: 1024 });
    }
}

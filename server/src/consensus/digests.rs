//! Compares digests between members: do their stores say the same? Each member asks all voters and judges itself. The
//! same for scrubs, the hashes of the whole content, which come more slowly and see more.
//!
//! Invariants:
//! - Only pairs of the same log index are compared, and only indexes that a quorum of voters has a pair for decide.
//! - A minority value names the members that hold it; without a majority nobody is named, all are suspect, and none takes writes until it is settled.
//! - There is no majority only when none can come about any more: a voter whose walk is still under way is waited for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quorate_proto::MemberId;
use quorate_proto::peer::{DigestPair, DigestsRequest, DigestsResponse};
use quorate_state::digest::DigestMark;
use quorate_state::outcome::Fault;
use quorate_state::scrub::DEFINITION;
use quorate_state::store::Store as _;
use quorate_state::view::View;
use tokio::time::Instant;

use crate::consensus::Member;
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

/// The pairs of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// What there is.
    pub pairs: Vec<Pair>,
    /// A pair may still come for this log index and all after it; `u64::MAX`: none is waited for.
    pub open: u64,
}

/// What a member says of its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Of the running digest.
    pub digests: Pairs,
    /// Of scrubs.
    pub scrubs: Pairs,
}

/// Compares the newest index that a majority of `voters` has a pair for, and that is decided.
pub fn compare(voters: usize, said: &BTreeMap<MemberId, Pairs>) -> Verdict {
    let majority = voters / 2 + 1;
    let mut by_index: BTreeMap<u64, BTreeMap<u64, Vec<MemberId>>> = BTreeMap::new();
    for (member, Pairs { pairs, .. }) in said {
        for (log_index, digest) in pairs {
            by_index.entry(*log_index).or_default().entry(*digest).or_default().push(*member);
        }
    }
    for (log_index, mut by_digest) in by_index.into_iter().rev() {
        let holders: Vec<MemberId> = by_digest.values().flatten().copied().collect();
        if holders.len() < majority {
            continue;
        }
        if by_digest.len() == 1 {
            return Verdict::Equal;
        }
        let most = by_digest.values().map(Vec::len).max().unwrap_or_default();
        if most >= majority {
            by_digest.retain(|_, members| members.len() < majority);
            return Verdict::Minority { log_index, members: by_digest.into_values().flatten().collect() };
        }
        let to_come = said.iter().filter(|(id, pairs)| pairs.open <= log_index && !holders.contains(id));
        if most + to_come.count() < majority {
            return Verdict::NoMajority { log_index };
        }
    }
    Verdict::Equal
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
        if voters.is_empty() {
            // Not known yet: nothing is, and nothing that was found before is settled by that.
            return;
        }
        let asked = voters.iter().map(|voter| async move { (voter.id, self.ask(voter).await) });
        let (mut digests, mut scrubs) = (BTreeMap::new(), BTreeMap::new());
        for (member, said) in join_all(asked).await {
            let Some(said) = said else { continue };
            digests.insert(member, said.digests);
            scrubs.insert(member, said.scrubs);
        }
        let compared = [
            ("the running digest", compare(voters.len(), &digests)),
            ("the scrub's hash of the whole content", compare(voters.len(), &scrubs)),
        ];
        let diverged = compared.iter().filter_map(|(what, verdict)| self.judge(what, verdict)).max();
        self.consensus.set_diverged(diverged);
    }

    /// Steps out when it must. Gives the log index at which there is no majority.
    fn judge(&self, what: &str, verdict: &Verdict) -> Option<u64> {
        match verdict {
            Verdict::Equal => None,
            Verdict::Minority { log_index, members } if members.contains(&self.consensus.id()) => {
                self.tasks.fail(format!(
                    "{what} at log index {log_index} differs from the majority's: the data of this member, {}, is wrong; \
                     remove the member, empty its directory and let it join again",
                    self.consensus.id()
                ));
                None
            }
            // It steps out by itself; what the majority has is right.
            Verdict::Minority { log_index, members } => {
                tracing::error!(what, log_index, ?members, "members differ from the majority and will step out");
                None
            }
            Verdict::NoMajority { log_index } => {
                tracing::error!(what, log_index, "members differ and there is no majority; writes are refused");
                Some(*log_index)
            }
        }
    }

    async fn ask(&self, member: &Member) -> Option<Said> {
        if member.id == self.consensus.id() {
            return self.consensus.said().ok();
        }
        let id = member.id.get();
        let ask = async {
            let mut peer = self.links.peer(id, &member.peer_address, Purpose::Forward).ok()?;
            let request = self.links.local().mark(id, DigestsRequest {}).ok()?;
            match peer.digests(request).await {
                Ok(said) => Some(decode(said.into_inner())),
                Err(status) => {
                    tracing::debug!(member = %member.id, %status, "a member does not say what it has");
                    None
                }
            }
        };
        tokio::time::timeout(ASK_TIMEOUT, ask).await.ok().flatten()
    }
}

impl Consensus {
    /// The stored pairs of this member.
    pub fn said(&self) -> Result<Said, Fault> {
        // In this order: what is still open is asked before what is there, so that nothing falls between.
        let next = self.applied().borrow().next_index;
        let open = self.scrubs().walking().map_or(next, |walking| walking.min(next));
        let store = self.store();
        let view = View::new(store.snapshot())?;
        let pairs = |marks: Vec<DigestMark>| marks.into_iter().map(|mark| (mark.index, mark.digest)).collect();
        Ok(Said {
            digests: Pairs { pairs: pairs(view.digests()?), open: u64::MAX },
            scrubs: Pairs { pairs: pairs(view.scrubs()?), open },
        })
    }
}

/// For another member.
pub fn encode(said: Said) -> DigestsResponse {
    let wire = |pairs: Vec<Pair>| {
        pairs.into_iter().map(|(log_index, digest)| DigestPair { log_index, digest }).collect::<Vec<_>>()
    };
    DigestsResponse {
        pairs: wire(said.digests.pairs),
        scrub_open: said.scrubs.open,
        scrubs: wire(said.scrubs.pairs),
        scrub_definition: DEFINITION,
    }
}

/// From another member. Hashes of another definition say nothing.
pub fn decode(said: DigestsResponse) -> Said {
    let pairs = |pairs: Vec<DigestPair>| pairs.into_iter().map(|pair| (pair.log_index, pair.digest)).collect();
    let scrubs = if said.scrub_definition == DEFINITION {
        Pairs { pairs: pairs(said.scrubs), open: said.scrub_open }
    } else {
        Pairs { pairs: Vec::new(), open: u64::MAX }
    };
    Said { digests: Pairs { pairs: pairs(said.pairs), open: u64::MAX }, scrubs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> MemberId {
        MemberId::new(id).unwrap()
    }

    fn verdict(voters: usize, pairs: &[(u64, &[Pair])]) -> Verdict {
        let pairs = pairs.iter().map(|(id, pairs)| (*id, *pairs, u64::MAX)).collect::<Vec<_>>();
        open_verdict(voters, &pairs)
    }

    fn open_verdict(voters: usize, pairs: &[(u64, &[Pair], u64)]) -> Verdict {
        let of = |(id, pairs, open): &(u64, &[Pair], u64)| (member(*id), Pairs { pairs: pairs.to_vec(), open: *open });
        compare(voters, &pairs.iter().map(of).collect())
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

    #[test]
    fn who_is_still_walking_is_waited_for() {
        let (one, two): (&[Pair], &[Pair]) = (&[(9, 7), (20, 7)], &[(9, 7), (20, 8)]);
        let third = |pairs, open| open_verdict(3, &[(1, one, 21), (2, two, 21), (3, pairs, open)]);
        assert_eq!(third(&[(9, 7)], 20), Verdict::Equal, "it walks, or has not come so far");
        assert_eq!(third(&[(9, 7)], 21), Verdict::NoMajority { log_index: 20 }, "it has passed it by");
        assert_eq!(third(&[(9, 7), (20, 8)], 21), Verdict::Minority { log_index: 20, members: vec![member(1)] });
        assert_eq!(third(&[(9, 3)], 20), Verdict::Minority { log_index: 9, members: vec![member(3)] });
        assert_eq!(open_verdict(3, &[(1, one, 21), (2, two, 21)]), Verdict::NoMajority { log_index: 20 });
        let five = [(1, one, 21), (2, two, 21), (3, &[(20, 6)][..], 21), (4, &[][..], 20), (5, &[][..], 21)];
        assert_eq!(open_verdict(5, &five), Verdict::NoMajority { log_index: 20 }, "one alone cannot settle it");
    }

    #[test]
    fn hashes_of_another_definition_say_nothing() {
        let said = Said {
            digests: Pairs { pairs: vec![(1024, 1)], open: u64::MAX },
            scrubs: Pairs { pairs: vec![(1030, 2)], open: 1040 },
        };
        let wire = encode(said.clone());
        assert_eq!(decode(wire.clone()), said);
        let other = decode(DigestsResponse { scrub_definition: DEFINITION + 1, ..wire });
        assert_eq!(other.scrubs, Pairs { pairs: vec![], open: u64::MAX });
        assert_eq!(other.digests, said.digests);
    }
}

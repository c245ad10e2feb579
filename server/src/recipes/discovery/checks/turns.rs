//! Which member makes which check: the one whose hash with it is the highest (rendezvous hashing). When a member comes
//! or goes, only the checks that it gets or had move.
//!
//! Invariants:
//! - All members that know of the same members decide alike, without talking.

use std::collections::BTreeSet;

use quorate_proto::MemberId;
use xxhash_rust::xxh3::xxh3_64;

use crate::recipes::discovery::names::InstanceName;

/// Whose turn a check is, of these members.
pub fn of(name: &InstanceName, check: usize, members: &BTreeSet<MemberId>) -> Option<MemberId> {
    let text = format!("{}/{}/{check}", name.service, name.id);
    let score = |member: &MemberId| {
        let bytes = [&member.get().to_be_bytes()[..], text.as_bytes()].concat();
        (xxh3_64(&bytes), *member)
    };
    members.iter().max_by_key(|member| score(member)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_shared_out_and_only_those_of_a_lost_member_move() {
        let members: BTreeSet<MemberId> = (1..=3).filter_map(MemberId::new).collect();
        let lost = MemberId::new(2).unwrap();
        let fewer: BTreeSet<MemberId> = members.iter().copied().filter(|member| *member != lost).collect();
        let mut counts = std::collections::BTreeMap::new();
        for id in 0..300 {
            let name = InstanceName::new("web", id.to_string()).unwrap();
            let before = of(&name, 0, &members).unwrap();
            *counts.entry(before).or_insert(0) += 1;
            let after = of(&name, 0, &fewer).unwrap();
            assert!(before == lost || before == after, "it stays where it was");
        }
        assert!(counts.len() == 3 && counts.values().all(|count| *count > 50), "{counts:?}");
        assert_eq!(of(&InstanceName::new("web", "a").unwrap(), 0, &BTreeSet::new()), None);
    }
}

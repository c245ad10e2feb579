//! Members that agree, and such that do not.

use super::*;

fn passes(told: &[(&str, u64, u64, bool)]) -> bool {
    let digest = |(member, index, digest, healed): &(&str, u64, u64, bool)| Digest {
        member: (*member).to_owned(),
        index: *index,
        digest: *digest,
        healed: *healed,
    };
    check(&History { digests: told.iter().map(digest).collect(), ..History::default() }).is_ok()
}

#[test]
fn one_index_has_one_digest() {
    assert!(passes(&[("a", 5, 1, false), ("b", 5, 1, false), ("b", 6, 2, false)]));
    assert!(!passes(&[("a", 5, 1, false), ("b", 5, 2, false)]));
}

#[test]
fn after_healing_all_are_at_one_index() {
    assert!(passes(&[("a", 5, 1, true), ("b", 4, 9, true), ("b", 5, 1, true)]));
    assert!(!passes(&[("a", 5, 1, true), ("b", 4, 9, true)]), "b stayed behind, so that nothing was compared");
}

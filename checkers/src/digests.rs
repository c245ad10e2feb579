//! Members whose content is the same say so.
//!
//! Invariants:
//! - Only what was told of one index is compared; after healing all members must have told of one and the same.

use std::collections::BTreeMap;

use super::history::{Digest, History};
use super::{Verdict, Violation};

const RULE: &str = "equal digests";

/// Checks it.
pub fn check(history: &History) -> Verdict {
    let mut first: BTreeMap<u64, &Digest> = BTreeMap::new();
    for digest in &history.digests {
        let known = *first.entry(digest.index).or_insert(digest);
        if known.digest != digest.digest {
            return Err(Violation::new(RULE, format!("{known:?} and {digest:?}")));
        }
    }
    let mut healed: BTreeMap<&str, u64> = BTreeMap::new();
    for digest in history.digests.iter().filter(|digest| digest.healed) {
        let highest = healed.entry(&digest.member).or_default();
        *highest = digest.index.max(*highest);
    }
    let mut reached = healed.values();
    let one = reached.next();
    if reached.all(|index| Some(index) == one) {
        return Ok(());
    }
    Err(Violation::new(RULE, format!("after healing the members are not at one index: {healed:?}")))
}

#[cfg(test)]
mod tests;

//! Leases are never early and never immortal; their keys go together.
//!
//! A lease lives at least its time from the moment the last granted renewal *left*, for the cluster counts from its
//! receipt. It is gone at the latest its time after the last renewal that may have arrived, or after the last change of
//! leader, for a new leader may begin its time anew; plus what an election and a tick take.
//!
//! Invariants:
//! - A moment between these two bounds says nothing, whatever was seen.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Change, History, Learned, LeaseFact, Moment};
use super::model::Keys;
use super::order::Order;
use super::{Verdict, Violation};

const EARLY: &str = "leases never early";
const IMMORTAL: &str = "leases never immortal";

/// Checks it; `late_ms` is how much later than its time a lease may end.
pub fn check(history: &History, late_ms: u64) -> Verdict {
    let mut by_lease: BTreeMap<i64, Vec<&LeaseFact>> = BTreeMap::new();
    let mut leaders = history.leaders.clone();
    leaders.sort_unstable();
    history.leases.iter().for_each(|fact| by_lease.entry(fact.lease).or_default().push(fact));
    for (lease, mut facts) in by_lease {
        facts.sort_by_key(|fact| fact.completed);
        never_early(lease, &facts)?;
        never_immortal(lease, &facts, &leaders, late_ms)?;
    }
    together(history)
}

fn micros(ms: u64) -> u64 {
    ms.saturating_mul(1_000)
}

fn never_early(lease: i64, facts: &[&LeaseFact]) -> Verdict {
    let revoked = facts.iter().filter(|fact| fact.what == Learned::Revoked).map(|fact| fact.invoked).min();
    let gone = facts.iter().filter(|fact| fact.what == Learned::Gone);
    let Some(gone) = gone.min_by_key(|fact| fact.completed) else { return Ok(()) };
    for fact in facts {
        let alive_until = match fact.what {
            Learned::Alive { ttl_ms } => fact.invoked + micros(ttl_ms),
            // What was asked for after it was known to be gone must not be there.
            Learned::Seen => fact.invoked,
            Learned::MaybeRenewed { .. } | Learned::Gone | Learned::Revoked => continue,
        };
        let risen = fact.invoked > gone.completed;
        let asked = revoked.is_some_and(|revoked| revoked <= gone.completed);
        if risen || (gone.completed < alive_until && !asked) {
            let text = format!("lease {lease} was gone by {}, although {fact:?}", gone.completed);
            return Err(Violation::new(EARLY, text));
        }
    }
    Ok(())
}

fn never_immortal(lease: i64, facts: &[&LeaseFact], leaders: &[Moment], late_ms: u64) -> Verdict {
    // Facts are in the order in which they were learned.
    for (at, fact) in facts.iter().enumerate() {
        if !matches!(fact.what, Learned::Seen | Learned::Alive { .. }) {
            continue;
        }
        let renewals = facts.iter().enumerate().filter_map(|(other, renewal)| match renewal.what {
            Learned::Alive { ttl_ms } | Learned::MaybeRenewed { ttl_ms } => Some((other, renewal, ttl_ms)),
            Learned::Seen | Learned::Gone | Learned::Revoked => None,
        });
        // A renewal that was answered cannot prove itself: it needs one before it, but the grant, which is the first.
        let before = renewals.filter(|(other, renewal, _)| *other != at && renewal.invoked <= fact.invoked);
        let ends = before.map(|(_, renewal, ttl_ms)| {
            let mut end = renewal.completed + micros(ttl_ms);
            for leader in leaders {
                // Each change of leader that came while it may have lived may have begun its time anew.
                if *leader <= end + micros(late_ms) {
                    end = end.max(leader + micros(ttl_ms));
                }
            }
            end + micros(late_ms)
        });
        if let Some(end) = ends.max()
            && fact.invoked > end
        {
            let text = format!("lease {lease} had to be gone by {end}, but {fact:?}");
            return Err(Violation::new(IMMORTAL, text));
        }
    }
    Ok(())
}

/// When a lease ends, all keys that it owns go in one revision: afterwards none of them is left.
fn together(history: &History) -> Verdict {
    let ended = history.leases.iter().filter(|fact| fact.what == Learned::Gone).map(|fact| fact.lease);
    let ended: BTreeSet<_> = ended.collect();
    if ended.is_empty() {
        return Ok(());
    }
    let order = Order::of(history)?;
    if !order.is_whole() {
        return Ok(());
    }
    let mut keys = Keys::of(&order.start.keys);
    let mut last_loss = BTreeMap::new();
    for (revision, entry) in &order.entries {
        let owners = entry.changes.iter().filter_map(|change| match change {
            Change::Delete { key, .. } => keys.get(key).map(|kv| kv.lease),
            Change::Put(_) => None,
        });
        let only_deletes = entry.changes.iter().all(|change| matches!(change, Change::Delete { .. }));
        let losing: BTreeSet<_> = owners.filter(|lease| ended.contains(lease)).collect();
        entry.changes.iter().for_each(|change| keys.apply(change));
        // Somebody may have deleted some keys of a lease; its end is the last such deletion, after which none is left.
        last_loss.extend(losing.into_iter().filter(|_| only_deletes).map(|lease| (lease, *revision)));
    }
    for lease in ended {
        if let Some(key) = keys.owned(lease).next() {
            let text =
                format!("lease {lease} is gone, and {key:?} of it is left; see revision {:?}", last_loss.get(&lease));
            return Err(Violation::new(IMMORTAL, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

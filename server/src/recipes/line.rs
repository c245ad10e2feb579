//! A line of contenders: who holds, and who comes to hold by each change. Knows nothing of the store or of waiting.
//!
//! The rule, in order of creation: an exclusive contender holds when nobody is ahead; a shared one when all ahead are
//! shared; one with a permit of N when all ahead have permits of N and are fewer than N. So those who hold are always the
//! first of the line, and nobody overtakes.
//!
//! Invariants:
//! - A contender and its companion have one place; it is there as long as either of them is.
//! - A change costs those who come to hold by it, and a few steps in a tree; not those who wait, nor those who hold.
//!
//! Example: of a line `shared 5, shared 7, exclusive 8, shared 9` the first two hold. When both have gone, 8 does; 9
//! waits although it could have held with the first two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use quorate_proto::{Key, Revision};
use quorate_state::flaw::Flaw;

use super::contender::{Claim, Contender};

/// Where in the line: order of creation, then of the key.
type At = (Revision, Key);

/// The line.
#[derive(Debug, Default)]
pub struct Line {
    places: BTreeMap<At, Place>,
    keys: HashMap<Key, At>,
    /// Keys below the name that no contender has.
    strangers: BTreeSet<Key>,
    /// How many hold: the first so many.
    holders: usize,
    /// The last of them.
    last: Option<At>,
    /// Until who holds was counted anew: behind this place nobody does.
    counted_anew: Option<At>,
    /// How many places ask for permits of so many.
    permits: BTreeMap<u32, usize>,
}

#[derive(Debug, Default)]
struct Place {
    contender: Option<Contender>,
    companion: Option<Contender>,
    holds: bool,
}

impl Place {
    /// What it asks for: the contender decides as long as it is there.
    fn claim(&self) -> Claim {
        self.contender.as_ref().or(self.companion.as_ref()).map_or(Claim::Exclusive, |contender| contender.claim)
    }

    fn is_empty(&self) -> bool {
        self.contender.is_none() && self.companion.is_none()
    }
}

impl Line {
    /// A contender has come, or has changed.
    pub fn put(&mut self, contender: Contender) {
        let at = (contender.created, contender.stands_for.as_ref().unwrap_or(&contender.key).clone());
        if self.keys.get(&contender.key).is_some_and(|was| *was != at) {
            self.remove(&contender.key);
        }
        self.keys.insert(contender.key.clone(), at.clone());
        let is_new = !self.places.contains_key(&at);
        self.change(&at, |place| {
            if contender.stands_for.is_some() {
                place.companion = Some(contender);
            } else {
                place.contender = Some(contender);
            }
        });
        // Who comes is last. It is not with those that a restore or a move has put in one revision.
        if is_new && self.may_hold_upto().is_some_and(|last| at < *last) {
            self.start_over();
        }
    }

    /// A key that no contender has is there.
    pub fn put_stranger(&mut self, key: Key) {
        self.strangers.insert(key);
    }

    /// A key has gone.
    pub fn remove(&mut self, key: &Key) {
        self.strangers.remove(key);
        let Some(at) = self.keys.remove(key) else { return };
        self.change(&at, |place| {
            let is = |contender: &Contender| contender.key == *key;
            if place.companion.as_ref().is_some_and(is) {
                place.companion = None;
            } else {
                place.contender = None;
            }
        });
        if self.places.get(&at).is_some_and(Place::is_empty) {
            self.leave(&at);
        }
    }

    /// Who has come to hold since this was last asked, in order. Companions are not named.
    pub fn granted(&mut self) -> Vec<Key> {
        let mut granted = Vec::new();
        let first = self.places.first_key_value().map(|(_, place)| place.claim());
        let from = self.last.clone().map_or(Bound::Unbounded, Bound::Excluded);
        for (at, place) in self.places.range_mut((from, Bound::Unbounded)) {
            if !first.is_none_or(|first| admits(first, self.holders, place.claim())) {
                break;
            }
            self.holders += 1;
            self.last = Some(at.clone());
            if !std::mem::replace(&mut place.holds, true) {
                granted.extend(place.contender.as_ref().map(|contender| contender.key.clone()));
            }
        }
        self.counted_anew = None;
        granted
    }

    /// The contender, or companion, with this key.
    pub fn get(&self, key: &Key) -> Option<&Contender> {
        let place = self.places.get(self.keys.get(key)?)?;
        [&place.contender, &place.companion].into_iter().flatten().find(|contender| contender.key == *key)
    }

    /// Whether it holds, as of the last [`Line::granted`].
    pub fn holds(&self, key: &Key) -> bool {
        self.keys.get(key).and_then(|at| self.places.get(at)).is_some_and(|place| place.holds)
    }

    /// A key that no contender has, if there is one.
    pub fn stranger(&self) -> Option<&Key> {
        self.strangers.first()
    }

    /// How many permits somebody ahead of this contender counts, if it is not as many as the contender does.
    pub fn counts_otherwise(&self, key: &Key) -> Option<u32> {
        let at = self.keys.get(key)?;
        self.ask_otherwise(self.places.get(at)?.claim(), Some(at))
    }

    /// The same for one that is not in the line yet.
    pub fn would_count_otherwise(&self, claim: Claim) -> Option<u32> {
        self.ask_otherwise(claim, None)
    }

    fn ask_otherwise(&self, claim: Claim, at: Option<&At>) -> Option<u32> {
        let Claim::Permit(mine) = claim else { return None };
        if self.permits.keys().all(|permits| *permits == mine) {
            return None;
        }
        let end = at.map_or(Bound::Unbounded, Bound::Excluded);
        let ahead = self.places.range::<At, _>((Bound::Unbounded, end)).map(|(_, place)| place.claim());
        ahead.into_iter().find_map(|claim| match claim {
            Claim::Permit(permits) if permits != mine => Some(permits),
            _ => None,
        })
    }

    /// Whether a contender that came now would hold at once.
    pub fn would_admit(&self, claim: Claim) -> bool {
        let first = self.places.first_key_value().map(|(_, place)| place.claim());
        self.holders == self.places.len() && first.is_none_or(|first| admits(first, self.holders, claim))
    }

    /// All places in order: the contender, its companion, and whether it holds.
    pub fn places(&self) -> impl Iterator<Item = (Option<&Contender>, Option<&Contender>, bool)> {
        self.places.values().map(|place| (place.contender.as_ref(), place.companion.as_ref(), place.holds))
    }

    /// The first contender, which leads an election.
    pub fn first(&self) -> Option<&Contender> {
        let (_, place) = self.places.first_key_value()?;
        place.contender.as_ref().or(place.companion.as_ref())
    }

    /// Changes a place, which is made if it is not there; those who hold are counted anew when what they ask for changes.
    fn change(&mut self, at: &At, change: impl FnOnce(&mut Place)) {
        let place = self.places.entry(at.clone()).or_default();
        let (was_empty, was) = (place.is_empty(), place.claim());
        change(place);
        let (is_empty, is) = (place.is_empty(), place.claim());
        if !was_empty {
            self.count(was, false);
        }
        if !is_empty {
            self.count(is, true);
        }
        let may_hold = self.may_hold_upto().is_some_and(|last| at <= last);
        if may_hold && !was_empty && !is_empty && was != is {
            self.start_over();
        }
    }

    /// A place is empty.
    fn leave(&mut self, at: &At) {
        let Some(place) = self.places.remove(at) else { return };
        if self.last.as_ref().is_some_and(|last| at <= last) {
            self.holders -= 1;
            if self.last.as_ref() == Some(at) {
                self.last = self.places.range(..at.clone()).next_back().map(|(at, _)| at.clone());
            }
        }
        debug_assert!(place.is_empty(), "only empty places leave");
    }

    /// Nobody behind this place holds.
    fn may_hold_upto(&self) -> Option<&At> {
        self.last.as_ref().max(self.counted_anew.as_ref())
    }

    /// The next [`Line::granted`] looks at all, and names those that did not hold before.
    fn start_over(&mut self) {
        let upto = self.may_hold_upto().cloned();
        (self.holders, self.last) = (0, None);
        let first = self.places.first_key_value().map(|(_, place)| place.claim());
        let (Some(upto), Some(first)) = (upto, first) else { return };
        let mut still = 0;
        for (_, place) in self.places.range_mut(..=&upto) {
            let admitted = admits(first, still, place.claim());
            still = if admitted { still + 1 } else { usize::MAX };
            place.holds &= admitted;
        }
        self.counted_anew = Some(upto);
    }

    fn count(&mut self, claim: Claim, comes: bool) {
        let Claim::Permit(permits) = claim else { return };
        let places = self.permits.entry(permits).or_default();
        *places = if comes { *places + 1 } else { *places - 1 };
        if *places == 0 {
            self.permits.remove(&permits);
        }
    }
}

/// Whether the next one holds, after so many that do, the first of which asks for `first`.
fn admits(first: Claim, holders: usize, next: Claim) -> bool {
    match (first, next) {
        _ if holders == 0 => true,
        (Claim::Exclusive, Claim::Exclusive) if Flaw::TwoHolders.is_put_in() => holders < 2,
        (Claim::Shared, Claim::Shared) => holders < usize::MAX,
        (Claim::Permit(permits), Claim::Permit(others)) => {
            permits == others && u32::try_from(holders).is_ok_and(|holders| holders < permits)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;

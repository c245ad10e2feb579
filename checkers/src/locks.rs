//! Locks, permits and leaderships: exclusive by token, first come, first served.
//!
//! A client claims a hold from the answer until it begins to release, is told of the loss, is paused or dies. Tokens say
//! in which order the holds came; so whatever conflicts with a hold and has a smaller token must be over when the hold is
//! answered. That one rule is mutual exclusion and fairness at once.
//!
//! Invariants:
//! - Only the time in which a client claims a hold counts against others; what the cluster still has is its own matter.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Change, History, Hold, Mode, Moment, Octets};
use super::{Verdict, Violation};

/// Checks it.
pub fn check(history: &History) -> Verdict {
    let mut by_lock: BTreeMap<&Octets, Vec<&Hold>> = BTreeMap::new();
    for hold in history.holds.iter().filter(|hold| hold.token.is_some()) {
        by_lock.entry(&hold.lock).or_default().push(hold);
    }
    for mut holds in by_lock.into_values() {
        holds.sort_by_key(|hold| (hold.token, hold.completed));
        unique(&holds)?;
        growing(&holds)?;
        over_before(&holds)?;
    }
    there(history)
}

/// As of the revision in the answer, the contender's key stood there with the token. Only where the log covers it.
fn there(history: &History) -> Verdict {
    let Some(log) = &history.log else { return Ok(()) };
    let mut by_key: BTreeMap<&Octets, Vec<&Change>> = BTreeMap::new();
    log.changes.iter().for_each(|change| by_key.entry(change.key()).or_default().push(change));
    for hold in &history.holds {
        let (Some(token), Some(revision)) = (hold.token, hold.revision) else { continue };
        if token < log.from || revision > log.to {
            continue;
        }
        let changes = by_key.get(&hold.key).map_or(&[][..], Vec::as_slice);
        let last = changes[..changes.partition_point(|change| change.revision() <= revision)].last();
        if !matches!(last, Some(Change::Put(kv)) if kv.create_revision == token) {
            let text = format!("as of {revision} the contender is {last:?}: {hold:?}");
            return Err(Violation::new("who holds is there", text));
        }
    }
    Ok(())
}

/// One token, one contender.
fn unique(holds: &[&Hold]) -> Verdict {
    let same = holds.windows(2).find(|pair| pair[0].token == pair[1].token && pair[0].key != pair[1].key);
    match same {
        None => Ok(()),
        Some(pair) => Err(Violation::new("a token is given once", format!("{:?} and {:?}", pair[0], pair[1]))),
    }
}

/// Who asks after somebody was told a token gets a larger one, but for those who join a hold that they know.
fn growing(holds: &[&Hold]) -> Verdict {
    let mut told: Vec<_> = holds.iter().map(|hold| (hold.completed, hold.token, &hold.key)).collect();
    told.sort_unstable();
    let mut asked: Vec<_> = holds.to_vec();
    asked.sort_by_key(|hold| hold.invoked);
    let (mut told, mut highest) = (told.into_iter().peekable(), None);
    for hold in asked {
        while let Some((_, token, key)) = told.next_if(|(completed, _, _)| *completed < hold.invoked) {
            highest = highest.max(Some((token, key)));
        }
        let Some((token, key)) = highest else { continue };
        if hold.token < token || (hold.token == token && hold.key != *key) {
            let text = format!("{token:?} was told before this was asked for: {hold:?}");
            return Err(Violation::new("tokens grow", text));
        }
    }
    Ok(())
}

/// What conflicts with a hold and has a smaller token is over when the hold is answered.
fn over_before(holds: &[&Hold]) -> Verdict {
    // Of those with smaller tokens: when the last was over that was exclusive, that was any.
    let mut exclusive = Latest::default();
    let mut any = Latest::default();
    let mut permits: BTreeSet<(Moment, usize)> = BTreeSet::new();
    for group in holds.chunk_by(|a, b| a.token == b.token) {
        for hold in group {
            let before = if hold.mode == Mode::Exclusive { &any } else { &exclusive };
            before.over_by(hold)?;
            if let Mode::Permit(permits_in_all) = hold.mode {
                let others = permits.range((hold.completed + 1, 0)..).take(permits_in_all as usize).count();
                if others >= permits_in_all as usize {
                    let text =
                        format!("{others} others with smaller tokens had a permit when this was given: {hold:?}");
                    return Err(Violation::new("no more permits than there are", text));
                }
            }
        }
        for hold in group {
            let end = hold.ended.unwrap_or(Moment::MAX);
            any.add(end, hold);
            if hold.mode == Mode::Exclusive {
                exclusive.add(hold.downgraded.unwrap_or(end).min(end), hold);
            }
            if matches!(hold.mode, Mode::Permit(_)) {
                permits.insert((end, permits.len()));
            }
        }
    }
    Ok(())
}

/// Of holds with smaller tokens, the one that was claimed longest.
#[derive(Debug, Default)]
struct Latest<'a> {
    hold: Option<(Moment, &'a Hold)>,
}

impl<'a> Latest<'a> {
    fn add(&mut self, end: Moment, hold: &'a Hold) {
        if self.hold.is_none_or(|(latest, _)| end > latest) {
            self.hold = Some((end, hold));
        }
    }

    fn over_by(&self, hold: &Hold) -> Verdict {
        match self.hold {
            Some((end, other)) if end > hold.completed => {
                let text = format!("{hold:?} was given while this, which came first, was claimed: {other:?}");
                Err(Violation::new("locks exclude, first come first served", text))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

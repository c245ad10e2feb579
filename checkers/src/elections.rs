//! Elections: one leader a term, terms that only grow, and nobody who hears of a leader that is over.
//!
//! That leaders do not lead together, and that who came first leads first, is what [`locks`](super::locks) says of the same
//! leaderships as holds. Here is what they say and what others are told. All that is known of an election has a place: a term,
//! and how far the leader had come in it, counted by what it said; that a term is over is its last place. What was known before
//! something was asked, and answered by the cluster as a whole, must not be later than the answer.
//!
//! Invariants:
//! - What a leader says counts in the order in which it asked: the library promises that a proclamation that comes late
//!   never counts after a later one.
//! - What comes unasked may be old; only its order is judged.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Change, Elected, ElectionFact, History, Leading, Moment, Octets, Said};
use super::{Verdict, Violation};

/// A term, and how far it had come.
type Place = (i64, usize);

/// The place after all of a term.
const OVER: usize = usize::MAX;

/// Checks it.
pub fn check(history: &History) -> Verdict {
    let mut by_election: BTreeMap<&Octets, Vec<&ElectionFact>> = BTreeMap::new();
    for fact in &history.elections {
        by_election.entry(&fact.election).or_default().push(fact);
    }
    for (name, mut facts) in by_election {
        facts.sort_by_key(|fact| (fact.completed, fact.invoked));
        let sayings = Sayings::of(&facts);
        one_leader_a_term(&facts)?;
        sayings.were_asked_for(&facts)?;
        sayings.observed_in_order(&facts)?;
        sayings.known_before(&facts)?;
        logged(history, name, &facts)?;
    }
    Ok(())
}

/// Who was seen to lead.
fn seen(fact: &ElectionFact) -> Option<&Leading> {
    match &fact.what {
        Elected::Read(leading) | Elected::Observed(leading) => leading.as_ref(),
        _ => None,
    }
}

fn one_leader_a_term(facts: &[&ElectionFact]) -> Verdict {
    let mut keys: BTreeMap<i64, &Octets> = BTreeMap::new();
    for fact in facts {
        let said = match &fact.what {
            Elected::Campaigned { leads, .. } => leads.as_ref().map(|(key, term)| (*term, key)),
            _ => seen(fact).map(|leading| (leading.term, &leading.key)),
        };
        let Some((term, key)) = said else { continue };
        if *keys.entry(term).or_insert(key) != key {
            let text = format!("{} led in term {term} too: {fact:?}", keys[&term]);
            return Err(Violation::new("a term has one leader", text));
        }
    }
    Ok(())
}

/// What leaders said of themselves.
struct Sayings<'a> {
    /// Of a term: what was asked to be said, in order, and when.
    by_term: BTreeMap<i64, Vec<(&'a Octets, Moment)>>,
    /// Of candidates that were not told whether they lead.
    without_term: BTreeMap<&'a Octets, Moment>,
}

impl<'a> Sayings<'a> {
    fn of(facts: &[&'a ElectionFact]) -> Self {
        let mut asked = facts.to_vec();
        asked.sort_by_key(|fact| fact.invoked);
        let mut all = Self { by_term: BTreeMap::new(), without_term: BTreeMap::new() };
        for fact in asked {
            match &fact.what {
                Elected::Campaigned { value, leads: Some((_, term)) } | Elected::Proclaimed { term, value, .. } => {
                    all.by_term.entry(*term).or_default().push((value, fact.invoked));
                }
                Elected::Campaigned { value, leads: None } => {
                    all.without_term.entry(value).or_insert(fact.invoked);
                }
                _ => {}
            }
        }
        all
    }

    /// How far the leader had come when it said this. The last of equal ones: that only makes checks weaker.
    fn rank(&self, term: i64, value: &Octets) -> usize {
        let said = self.by_term.get(&term).map_or(&[][..], Vec::as_slice);
        said.iter().rposition(|(said, _)| *said == value).unwrap_or_default()
    }

    fn place(&self, leading: &Leading) -> Place {
        (leading.term, self.rank(leading.term, &leading.value))
    }

    fn were_asked_for(&self, facts: &[&ElectionFact]) -> Verdict {
        for fact in facts {
            let Some(leading) = seen(fact) else { continue };
            let said = self.by_term.get(&leading.term).into_iter().flatten();
            let mut in_term = said.filter(|(value, _)| *value == &leading.value).map(|(_, asked)| *asked);
            let without = self.without_term.get(&leading.value).copied();
            if !in_term.any(|asked| asked < fact.completed) && without.is_none_or(|asked| asked >= fact.completed) {
                let text = format!("nobody had asked for that to be said in this term: {fact:?}");
                return Err(Violation::new("leaders say what is told of them", text));
            }
        }
        Ok(())
    }

    fn observed_in_order(&self, facts: &[&ElectionFact]) -> Verdict {
        let mut last: BTreeMap<u64, (Place, &ElectionFact)> = BTreeMap::new();
        for fact in facts {
            let Elected::Observed(leading) = &fact.what else { continue };
            let before = last.get(&fact.client);
            let place = match leading {
                Some(leading) => self.place(leading),
                None => (before.map_or(0, |((term, _), _)| *term), OVER),
            };
            if let Some((was, told)) =
                before.filter(|(was, _)| *was > place || leading.is_some() && was.1 == OVER && was.0 == place.0)
            {
                let text = format!("{was:?} was told before {place:?}: {told:?}, then {fact:?}");
                return Err(Violation::new("observers see terms, and what is said in them, in order", text));
            }
            last.insert(fact.client, (place, fact));
        }
        Ok(())
    }

    /// What a fact says for all that come later; nothing, if it is of nobody's term, or may not have been.
    fn told(&self, fact: &ElectionFact) -> Option<Place> {
        match &fact.what {
            Elected::Campaigned { leads: Some((_, term)), .. } => Some((*term, 0)),
            Elected::Proclaimed { term, value, said: Said::Done } => Some((*term, self.rank(*term, value))),
            Elected::Resigned { term, said: Said::Done } => Some((*term, OVER)),
            _ => seen(fact).map(|leading| self.place(leading)),
        }
    }

    /// What the cluster as a whole answers is not before what was known when it was asked.
    fn known_before(&self, facts: &[&ElectionFact]) -> Verdict {
        let told = facts.iter().filter_map(|fact| Some((fact.completed, self.told(fact)?, *fact)));
        let mut known: Vec<_> = told.collect();
        // That nobody leads ends every term that was known when it was asked.
        let nobody: Vec<_> = facts.iter().filter(|fact| fact.what == Elected::Read(None)).collect();
        for fact in nobody {
            let terms = known.iter().filter(|(completed, ..)| *completed < fact.invoked).map(|(_, place, _)| place.0);
            if let Some(term) = terms.max() {
                known.push((fact.completed, (term, OVER), *fact));
            }
        }
        known.sort_by_key(|(completed, place, _)| (*completed, *place));
        let mut asked = facts.to_vec();
        asked.sort_by_key(|fact| fact.invoked);
        let (mut known, mut highest) = (known.into_iter().peekable(), None);
        for fact in asked {
            while let Some((_, place, by)) = known.next_if(|(completed, ..)| *completed < fact.invoked) {
                if highest.is_none_or(|(highest, _)| place > highest) {
                    highest = Some((place, by));
                }
            }
            let answer = match &fact.what {
                // It says nothing of a place that was not its own.
                Elected::Observed(_) | Elected::Resigned { .. } => None,
                _ => self.told(fact),
            };
            let (Some(answer), Some((highest, by))) = (answer, highest) else { continue };
            if answer < highest {
                let text = format!("{highest:?} was known before this was asked, by {by:?}: {fact:?}");
                return Err(Violation::new("who is deposed does not lead", text));
            }
        }
        Ok(())
    }
}

/// Terms whose campaign was asked for more than once: an attempt that comes late writes the contender again, as it is.
fn asked_again(facts: &[&ElectionFact]) -> BTreeSet<i64> {
    let campaigns = |fact: &&ElectionFact| match &fact.what {
        Elected::Campaigned { leads, .. } => Some(((fact.client, fact.invoked), leads.as_ref().map(|(_, term)| *term))),
        _ => None,
    };
    let campaigns: Vec<_> = facts.iter().filter_map(campaigns).collect();
    let unanswered: BTreeSet<_> = campaigns.iter().filter(|(_, term)| term.is_none()).map(|(of, _)| *of).collect();
    campaigns.into_iter().filter(|(of, _)| unanswered.contains(of)).filter_map(|(_, term)| term).collect()
}

/// Who led at every revision, by the log, if that covers all that happened below the name.
fn logged(history: &History, name: &Octets, facts: &[&ElectionFact]) -> Verdict {
    let below = [name.as_slice(), b"/"].concat();
    let (Some(log), Some(start)) = (&history.log, &history.start) else { return Ok(()) };
    let stood = start.keys.iter().any(|kv| kv.key.as_slice().starts_with(&below));
    if log.from != start.revision + 1 || stood {
        return Ok(());
    }
    let mut contenders: BTreeMap<i64, Leading> = BTreeMap::new();
    let mut led: BTreeSet<(i64, Octets, Octets)> = BTreeSet::new();
    let mut written: BTreeMap<&Octets, Vec<(i64, bool)>> = BTreeMap::new();
    let touched = asked_again(facts);
    let changes = log.changes.iter().filter(|change| change.key().as_slice().starts_with(&below));
    let changes: Vec<_> = changes.collect();
    for at in changes.chunk_by(|a, b| a.revision() == b.revision()) {
        for change in at {
            match change {
                Change::Put(kv) => {
                    let (term, key, value) = (kv.create_revision, kv.key.clone(), kv.value.clone());
                    let before = contenders.insert(term, Leading { key, term, value });
                    if touched.contains(&term) && before.is_some_and(|before| before.value == kv.value) {
                        continue;
                    }
                    let leads = contenders.first_key_value().is_some_and(|(first, _)| *first == term);
                    written.entry(&kv.value).or_default().push((term, leads));
                }
                Change::Delete { key, .. } => contenders.retain(|_, contender| contender.key != *key),
            }
        }
        let first = contenders.first_key_value();
        led.extend(first.map(|(term, leading)| (*term, leading.key.clone(), leading.value.clone())));
    }
    for fact in facts {
        if let Some(leading) = seen(fact)
            && !led.contains(&(leading.term, leading.key.clone(), leading.value.clone()))
        {
            return Err(Violation::new("who leads is who came first", format!("it never led like this: {fact:?}")));
        }
        let Elected::Proclaimed { term, value, said } = &fact.what else { continue };
        let times = written.get(value).map_or(&[][..], Vec::as_slice);
        let kept = match said {
            Said::Done => times == [(*term, true)],
            Said::Lost => times.is_empty(),
            Said::Unknown => times.is_empty() || times == [(*term, true)],
        };
        if !kept {
            let text = format!("written in (term, led): {times:?}: {fact:?}");
            return Err(Violation::new("a proclamation is written once, by who leads, or refused", text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Revisions only grow, and what is said of a key does not contradict itself.
//!
//! Invariants:
//! - It looks at answers alone: no order of changes, no model.

use std::collections::{BTreeMap, HashMap};

use super::history::{Answer, Change, Done, History, Input, Kv, Octets, Outcome, Told};
use super::{Verdict, Violation};

const RULE: &str = "revisions only grow";

/// Checks it.
pub fn check(history: &History) -> Verdict {
    by_client(history)?;
    let mut seen = Seen::default();
    for picture in history.start.iter().chain(&history.end) {
        picture.keys.iter().try_for_each(|kv| seen.add(kv, picture.revision))?;
    }
    for operation in &history.operations {
        let Outcome::Done { revision, answer } = &operation.outcome else { continue };
        let at = match &operation.input {
            Input::Txn(txn) if txn.at > 0 => txn.at.min(*revision),
            _ => *revision,
        };
        kvs(answer).try_for_each(|kv| seen.add(kv, at))?;
    }
    for watch in &history.watches {
        let mut before = 0;
        for told in &watch.told {
            let revision = match told {
                Told::Created(revision) | Told::Progress(revision) => *revision,
                Told::Events { revision, events, .. } => {
                    for event in events {
                        let at = if *revision == 0 { event.change.revision() } else { *revision };
                        if let Change::Put(kv) = &event.change {
                            seen.add(kv, at)?;
                        }
                        event.previous.iter().try_for_each(|kv| seen.add(kv, event.change.revision() - 1))?;
                    }
                    continue;
                }
                Told::Resumed => {
                    before = 0;
                    continue;
                }
                Told::Compacted(_) => continue,
            };
            if revision < before {
                let text = format!("watch {} was told revision {revision} after {before}", watch.name);
                return Err(Violation::new(RULE, text));
            }
            before = revision;
        }
    }
    seen.judge()
}

/// A client that does one thing after the other sees no revision fall, serializable reads aside.
fn by_client(history: &History) -> Verdict {
    let mut answered: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for operation in &history.operations {
        let serializable = matches!(&operation.input, Input::Txn(txn) if txn.serializable);
        if let (Outcome::Done { revision, .. }, false) = (&operation.outcome, serializable) {
            answered.entry(operation.client).or_default().push((operation.invoked, operation.completed, *revision));
        }
    }
    for (client, mut answers) in answered {
        let mut over: Vec<_> = answers.iter().map(|(_, completed, revision)| (*completed, *revision)).collect();
        over.sort_unstable();
        answers.sort_unstable();
        let (mut over, mut highest) = (over.into_iter().peekable(), 0);
        for (invoked, _, revision) in answers {
            while let Some((_, before)) = over.next_if(|(completed, _)| *completed < invoked) {
                highest = highest.max(before);
            }
            if revision < highest {
                let text = format!("client {client} was answered {revision} at {invoked}, and {highest} before");
                return Err(Violation::new(RULE, text));
            }
        }
    }
    Ok(())
}

fn kvs(answer: &Answer) -> impl Iterator<Item = &Kv> {
    answer.results.iter().flat_map(|done| match done {
        Done::Read(kvs) => kvs.as_slice(),
        Done::Put { previous: Some(Some(kv)), .. } => std::slice::from_ref(kv),
        Done::Put { .. } | Done::Deleted(_) => &[],
    })
}

/// Everything that was ever shown of each key.
#[derive(Debug, Default)]
struct Seen {
    by_key: HashMap<Octets, BTreeMap<i64, Kv>>,
}

impl Seen {
    fn add(&mut self, kv: &Kv, at: i64) -> Verdict {
        let new = kv.version == 1;
        let sane = kv.create_revision >= 1 && kv.version >= 1 && kv.mod_revision <= at;
        if !sane || (kv.create_revision == kv.mod_revision) != new || kv.create_revision > kv.mod_revision {
            return Err(Violation::new(RULE, format!("what was shown as of {at} contradicts itself: {kv:?}")));
        }
        let known = self.by_key.entry(kv.key.clone()).or_default().entry(kv.mod_revision).or_insert_with(|| kv.clone());
        if known == kv {
            return Ok(());
        }
        Err(Violation::new(RULE, format!("one change was shown as {known:?} and as {kv:?}")))
    }

    /// Later changes of a key have no earlier creation, and within one life exactly the higher version.
    fn judge(&self) -> Verdict {
        for changes in self.by_key.values() {
            for (a, b) in changes.values().zip(changes.values().skip(1)) {
                let same_life = a.create_revision == b.create_revision;
                let right = if same_life {
                    let between = b.mod_revision - a.mod_revision;
                    b.version > a.version && b.version - a.version <= between
                } else {
                    b.create_revision > a.mod_revision
                };
                if !right {
                    return Err(Violation::new(RULE, format!("{a:?} cannot have become {b:?}")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

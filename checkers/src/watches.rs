//! What watches promise: ordered, unique, atomic, reliable, resumable; marks of progress and previous values are true.
//!
//! Invariants:
//! - Changes that nobody but one watch tells of cannot be missed by it; all that the [`Order`] knows must be told.

use std::collections::{HashMap, HashSet};

use super::history::{Change, Event, History, Kv, Octets, Told, Watch};
use super::order::{Order, Source};
use super::{Verdict, Violation, model};

/// Checks them all.
pub fn check(history: &History) -> Verdict {
    if history.watches.is_empty() {
        return Ok(());
    }
    let order = Order::of(history)?;
    let past = Past::of(&order);
    history.watches.iter().try_for_each(|watch| Listening::new(watch, &order, &past, history.compacted).listen())
}

/// What each key was, and when.
struct Past<'a> {
    by_key: HashMap<&'a Octets, Vec<(i64, Option<&'a Kv>)>>,
}

impl<'a> Past<'a> {
    fn of(order: &'a Order) -> Self {
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for kv in &order.start.keys {
            by_key.entry(&kv.key).or_default().push((order.start.revision, Some(kv)));
        }
        for (revision, entry) in &order.entries {
            for change in &entry.changes {
                let kv = match change {
                    Change::Put(kv) => Some(kv),
                    Change::Delete { .. } => None,
                };
                by_key.entry(change.key()).or_default().push((*revision, kv));
            }
        }
        Self { by_key }
    }

    /// What the key was just before this revision.
    fn before(&self, key: &Octets, revision: i64) -> Option<&'a Kv> {
        let changes = self.by_key.get(key)?;
        let later = changes.partition_point(|(at, _)| *at < revision);
        changes[..later].last().and_then(|(_, kv)| *kv)
    }
}

/// A watch that is followed through all that it was told.
struct Listening<'a> {
    watch: &'a Watch,
    order: &'a Order,
    past: &'a Past<'a>,
    compacted: i64,
    /// Revisions before the first that is not known whole.
    whole: i64,
    /// All of what comes before this was told.
    next: i64,
    /// Keys told of the revision that is being told.
    open: Option<(i64, HashSet<&'a Octets>)>,
    /// The last message said that more of its last revision comes.
    fragment: bool,
}

impl<'a> Listening<'a> {
    fn new(watch: &'a Watch, order: &'a Order, past: &'a Past<'a>, compacted: i64) -> Self {
        let whole = order.first_hole_after(order.start.revision).unwrap_or(i64::MAX);
        Self { watch, order, past, compacted, whole, next: watch.start, open: None, fragment: false }
    }

    fn listen(&mut self) -> Verdict {
        for told in &self.watch.told {
            match told {
                Told::Created(revision) if self.next == 0 => self.next = revision + 1,
                Told::Events { revision, events, fragment } => self.events(*revision, events, *fragment)?,
                Told::Progress(revision) => self.progress(*revision)?,
                // The client drops the half of a revision that it has, and asks for the whole again.
                Told::Resumed => (self.open, self.fragment) = (None, false),
                Told::Compacted(revision) if self.next > 0 && self.next >= *revision => {
                    let text = format!("ended as compacted at {revision}, and {} came next", self.next);
                    return Err(self.broken("resumable", &text));
                }
                Told::Created(_) | Told::Compacted(_) => {}
            }
        }
        Ok(())
    }

    fn events(&mut self, header: i64, events: &'a [Event], fragment: bool) -> Verdict {
        for event in events {
            let revision = event.change.revision();
            if header != 0 && revision > header {
                return Err(self.broken("ordered", &format!("{event:?} in a message of revision {header}")));
            }
            if self.open.as_ref().is_none_or(|(open, _)| *open != revision) {
                self.begin(revision, event)?;
            }
            self.event(event, revision)?;
        }
        self.fragment = fragment;
        if fragment { Ok(()) } else { self.finish() }
    }

    /// A new revision begins: it is later than all before, and all between was told.
    fn begin(&mut self, revision: i64, event: &Event) -> Verdict {
        if let Some((open, _)) = &self.open
            && revision > *open
        {
            self.finish()?;
        }
        let started = self.watch.start.max(self.order.start.revision);
        if revision < self.next || self.next == 0 {
            let told_before = self.open.is_some() || self.next > started;
            let rule = if told_before { "ordered, unique and atomic" } else { "resumable" };
            return Err(self.broken(rule, &format!("{} or later came next, not {event:?}", self.next)));
        }
        self.nothing_missed(revision)?;
        self.open = Some((revision, HashSet::new()));
        Ok(())
    }

    fn event(&mut self, event: &'a Event, revision: i64) -> Verdict {
        let key = event.change.key();
        if !self.wanted(&event.change) {
            return Err(self.broken("only what was asked for", &format!("{event:?}")));
        }
        let again = self.open.as_mut().is_some_and(|(_, keys)| !keys.insert(key));
        if again {
            return Err(self.broken("unique", &format!("told twice: {event:?}")));
        }
        let known = self.order.entries.get(&revision);
        let exact = revision < self.whole || known.is_some_and(|entry| entry.source == Source::Log);
        let same = known.is_some_and(|entry| entry.changes.contains(&event.change));
        if exact && !same {
            let text = format!("{event:?} was told, and {known:?} is what happened");
            return Err(self.broken("reliable", &text));
        }
        self.previous(event, revision)
    }

    fn previous(&self, event: &Event, revision: i64) -> Verdict {
        let expected = self.past.before(event.change.key(), revision);
        let right = match (&event.previous, expected) {
            _ if revision > self.whole => true,
            (Some(told), Some(expected)) => self.watch.previous && told == expected,
            (Some(_), None) => false,
            (None, None) => true,
            (None, Some(_)) => !self.watch.previous || revision <= self.compacted,
        };
        if right {
            return Ok(());
        }
        let text = format!("{expected:?} stood there before {event:?}");
        Err(self.broken("previous value right", &text))
    }

    /// The revision that is being told is over: all that was asked for of it was told.
    fn finish(&mut self) -> Verdict {
        let Some((revision, keys)) = self.open.take() else { return Ok(()) };
        self.next = revision + 1;
        let Some(entry) = self.order.entries.get(&revision) else { return Ok(()) };
        let mut missed = entry.changes.iter().filter(|change| self.wanted(change) && !keys.contains(change.key()));
        match missed.next() {
            None => Ok(()),
            Some(missed) => Err(self.broken("atomic", &format!("a revision was told without {missed:?}"))),
        }
    }

    fn progress(&mut self, revision: i64) -> Verdict {
        if self.fragment {
            return Err(self.broken("progress truthful", &format!("a mark of {revision} within a revision")));
        }
        self.finish()?;
        if self.next > 0 && revision + 1 < self.next {
            // A mark may not fall behind what was told; behind the first revision wanted there is none.
            return Err(self.broken("progress truthful", &format!("a mark of {revision}, and {} was next", self.next)));
        }
        self.nothing_missed(revision + 1).map_err(|missed| Violation::new("progress truthful", missed.text))?;
        self.next = revision + 1;
        Ok(())
    }

    /// Nothing that was asked for lies between what was told and this revision.
    fn nothing_missed(&self, before: i64) -> Verdict {
        let from = self.next.max(self.order.start.revision + 1);
        if from >= before {
            return Ok(());
        }
        let between = self.order.entries.range(from..before).flat_map(|(_, entry)| &entry.changes);
        match between.into_iter().find(|change| self.wanted(change)) {
            None => Ok(()),
            Some(missed) => Err(self.broken("reliable", &format!("before {before} this was not told: {missed:?}"))),
        }
    }

    fn wanted(&self, change: &Change) -> bool {
        let kind = match change {
            Change::Put(_) => !self.watch.no_puts,
            Change::Delete { .. } => !self.watch.no_deletes,
        };
        kind && model::holds(&self.watch.span, change.key())
    }

    fn broken(&self, rule: &'static str, text: &str) -> Violation {
        Violation::new(rule, format!("watch {} of {:?}: {text}", self.watch.name, self.watch.span))
    }
}

#[cfg(test)]
mod tests;

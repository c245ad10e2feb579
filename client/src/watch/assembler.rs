//! Whole transactions out of the messages of a watch.
//!
//! Invariants:
//! - Revisions are delivered in growing order, each once; what goes back is an error, not an event.
//! - A transaction is delivered when its last fragment is here; of one that broke off, nothing is.
//!
//! Example: the messages `[7 7 8](fragment)`, `[8 8 9]` are delivered as 7, 8, 9 with two, three and one event; if the
//! stream breaks between them, 7 was delivered and the watch resumes at 8.

use quorate_proto::{Revision, v1};

use super::WatchEvents;

/// Puts transactions together.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// First revision that has not been delivered; 0 while unknown.
    next: i64,
    /// The transaction of which more may come.
    open: Option<WatchEvents>,
}

impl Assembler {
    pub(super) fn new(next: i64) -> Self {
        Self { next, open: None }
    }

    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Everything up to `revision` is delivered or of no interest.
    pub(super) fn begin_after(&mut self, revision: i64) {
        self.next = self.next.max(revision.saturating_add(1));
    }

    /// The stream broke: what is not whole will come again.
    pub(super) fn broke(&mut self) {
        self.open = None;
    }

    /// The transactions that these events complete, or what is wrong with them.
    pub(super) fn events(&mut self, events: Vec<v1::Event>, fragment: bool) -> Result<Vec<WatchEvents>, String> {
        let mut whole = Vec::new();
        for event in events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            match &mut self.open {
                Some(open) if open.revision.get() == revision => open.events.push(event.into()),
                _ => {
                    whole.extend(self.close());
                    if revision < self.next.max(1) {
                        return Err(format!("an event of revision {revision} came after revision {}", self.next - 1));
                    }
                    self.open = Some(WatchEvents { revision: Revision(revision), events: vec![event.into()] });
                }
            }
        }
        if !fragment {
            whole.extend(self.close());
        }
        Ok(whole)
    }

    /// A mark: everything up to `revision` has been sent.
    pub(super) fn progress(&mut self, revision: i64) -> Result<Option<WatchEvents>, String> {
        if let Some(open) = &self.open {
            return Err(format!("progress to {revision} came within the transaction of revision {}", open.revision));
        }
        if revision < self.next - 1 {
            // Less than is known already: of an older member, after a resume.
            return Ok(None);
        }
        self.begin_after(revision);
        Ok(Some(WatchEvents { revision: Revision(revision), events: Vec::new() }))
    }

    fn close(&mut self) -> Option<WatchEvents> {
        let open = self.open.take()?;
        self.begin_after(open.revision.get());
        Some(open)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64) -> v1::Event {
        v1::Event { kv: Some(v1::KeyValue { mod_revision: revision, ..Default::default() }), ..Default::default() }
    }

    fn events(revisions: &[i64]) -> Vec<v1::Event> {
        revisions.iter().map(|revision| event(*revision)).collect()
    }

    fn shape(whole: &[WatchEvents]) -> Vec<(i64, usize)> {
        whole.iter().map(|each| (each.revision.get(), each.events.len())).collect()
    }

    #[test]
    fn fragments_are_put_together() {
        let mut assembler = Assembler::new(7);
        assert_eq!(shape(&assembler.events(events(&[7, 7, 8]), true).unwrap()), [(7, 2)]);
        assert_eq!(assembler.next(), 8);
        assert_eq!(shape(&assembler.events(events(&[8, 8, 9]), false).unwrap()), [(8, 3), (9, 1)]);
        assert_eq!(assembler.next(), 10);
    }

    #[test]
    fn of_a_transaction_that_broke_off_nothing_is_delivered() {
        let mut assembler = Assembler::new(7);
        assert!(assembler.events(events(&[7]), true).unwrap().is_empty());
        assembler.broke();
        assert_eq!(assembler.next(), 7, "it is asked for again");
        assert_eq!(shape(&assembler.events(events(&[7, 7]), false).unwrap()), [(7, 2)]);
    }

    #[test]
    fn what_goes_back_or_comes_twice_is_refused() {
        let mut assembler = Assembler::new(7);
        assembler.events(events(&[9]), false).unwrap();
        assert!(assembler.events(events(&[9]), false).unwrap_err().contains("revision 9"));
        assert!(assembler.events(events(&[11, 10]), false).is_err());
    }

    #[test]
    fn progress_moves_on_but_never_back() {
        let mut assembler = Assembler::new(7);
        assert_eq!(assembler.progress(9).unwrap().map(|mark| mark.revision.get()), Some(9));
        assert_eq!(assembler.next(), 10);
        assert_eq!(assembler.progress(5).unwrap(), None);
        assert_eq!(assembler.next(), 10);
        assembler.events(events(&[10]), true).unwrap();
        assert!(assembler.progress(12).is_err(), "not within a transaction");
    }
}

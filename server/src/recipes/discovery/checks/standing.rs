//! How a check stands at the member that follows it: successes and failures in a row, and since when it is critical.
//!
//! Invariants:
//! - A status changes only after as many outcomes in a row as its check asks for.

use std::time::Duration;

use tokio::time::Instant;

use super::probe::Outcome;
use crate::recipes::discovery::check::{Check, NOT_CHECKED};
use crate::recipes::discovery::document::{Health, note};

/// A check that is followed.
#[derive(Debug, Clone)]
pub struct Standing {
    /// As its document has it.
    pub check: Check,
    /// A job of it is under way.
    pub busy: bool,
    /// When it is looked at next.
    pub due: Instant,
    passes: u32,
    failures: u32,
    critical_since: Option<Instant>,
    /// Its document was seen since something was begun to be written there.
    heard: bool,
}

impl Standing {
    /// Of a check that is looked at for the first time.
    pub fn new(check: Check, due: Instant, now: Instant) -> Self {
        let critical_since = (check.status == Health::Critical).then_some(now);
        Self { check, busy: false, due, passes: 0, failures: 0, critical_since, heard: true }
    }

    /// Its document was written: the same check, which may say something else.
    pub fn says(&mut self, check: Check, now: Instant) {
        self.heard = true;
        self.critical_since = match (check.status, self.critical_since) {
            (Health::Critical, None) => Some(now),
            (Health::Critical, since) => since,
            _ => None,
        };
        self.check = check;
    }

    /// A job begins to write something down; for it, the check as it stands.
    pub fn begin_to_write(&mut self) -> Check {
        (self.busy, self.heard) = (true, false);
        self.check.clone()
    }

    /// This was written down. Where the document was seen since, that is newer, or what comes next is.
    pub fn wrote(&mut self, check: Check, now: Instant) {
        if !self.heard {
            self.says(check, now);
        }
    }

    /// Another member makes this check.
    pub fn rest(&mut self) {
        (self.passes, self.failures) = (0, 0);
    }

    /// Takes an outcome; gives what the check says now, if that is to be written down.
    pub fn take(&mut self, outcome: Outcome) -> Option<(Health, String)> {
        let (status, text) = match outcome {
            Outcome::Pass => (Health::Passing, String::new()),
            Outcome::Warn(text) => (Health::Warning, text),
            Outcome::Fail(text) => (Health::Critical, text),
        };
        let enough = if status == Health::Critical {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
            self.failures >= self.check.failures
        } else {
            self.failures = 0;
            self.passes = self.passes.saturating_add(1);
            self.passes >= self.check.passes
        };
        // The first reason of one that has been critical from the beginning.
        let unexplained = self.check.note.is_empty() || self.check.note == NOT_CHECKED;
        let explains = status == Health::Critical && self.check.status == Health::Critical && unexplained;
        (explains || enough && status != self.check.status).then(|| (status, note(&text)))
    }

    /// When its instance is to be removed.
    pub fn removal(&self) -> Option<Instant> {
        let after = Some(self.check.remove_after_ms).filter(|after_ms| *after_ms > 0)?;
        Some(self.critical_since? + Duration::from_millis(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(passes: u32, failures: u32, status: Health) -> Standing {
        let note = "once".to_owned();
        let check = Check { tcp: Some("h:1".to_owned()), passes, failures, status, note, ..Check::default() };
        Standing::new(check, Instant::now(), Instant::now())
    }

    fn fail() -> Outcome {
        Outcome::Fail("no".to_owned())
    }

    #[test]
    fn it_takes_so_many_in_a_row() {
        let mut check = standing(2, 3, Health::Passing);
        assert_eq!((check.take(fail()), check.take(fail())), (None, None));
        assert_eq!(check.take(Outcome::Pass), None, "the row is broken");
        assert_eq!((check.take(fail()), check.take(fail())), (None, None));
        let told = check.take(fail()).unwrap();
        assert_eq!(told, (Health::Critical, "no".to_owned()));
        check.says(Check { status: told.0, note: told.1, ..check.check.clone() }, Instant::now());
        assert_eq!((check.take(fail()), check.take(Outcome::Pass)), (None, None));
        assert_eq!(check.take(Outcome::Pass), Some((Health::Passing, String::new())));
    }

    #[test]
    fn the_first_reason_of_a_critical_check_is_told_at_once() {
        let mut check = standing(1, 3, Health::Critical);
        check.check.note = NOT_CHECKED.to_owned();
        assert_eq!(check.take(fail()), Some((Health::Critical, "no".to_owned())));
        check.check.note = "no".to_owned();
        assert_eq!(check.take(fail()), None);
        let warning = check.take(Outcome::Warn("busy".to_owned()));
        assert_eq!(warning, Some((Health::Warning, "busy".to_owned())));
    }

    #[test]
    fn what_was_written_does_not_hide_what_was_said_since() {
        let mut check = standing(1, 1, Health::Passing);
        let lapsed = Check { status: Health::Critical, ..check.begin_to_write() };
        // Both documents are seen before the job that wrote the first of them has ended.
        check.says(lapsed.clone(), Instant::now());
        check.says(Check { status: Health::Passing, ..lapsed.clone() }, Instant::now());
        check.wrote(lapsed.clone(), Instant::now());
        assert_eq!(check.check.status, Health::Passing);
        // What is not seen yet counts all the same.
        assert_eq!(check.begin_to_write().status, Health::Passing);
        check.wrote(lapsed, Instant::now());
        assert_eq!(check.check.status, Health::Critical);
    }

    #[test]
    fn removal_counts_from_when_it_became_critical() {
        let mut check = standing(1, 1, Health::Passing);
        check.check.remove_after_ms = 10_000;
        assert_eq!(check.removal(), None);
        let (at, later) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        check.says(Check { status: Health::Critical, ..check.check.clone() }, at);
        check.says(Check { note: "another".to_owned(), ..check.check.clone() }, later);
        assert_eq!(check.removal(), Some(at + Duration::from_secs(10)));
        check.says(Check { status: Health::Passing, ..check.check.clone() }, later);
        assert_eq!(check.removal(), None);
    }
}

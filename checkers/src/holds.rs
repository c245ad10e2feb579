//! Whether a history of exclusive holds of one lock is one that a lock may have.
//!
//! Times are of one clock, which all clients share. A client is *sure* of its hold at a time if it took the time first and
//! then found `check()` to be content; so a process that was stopped in between claims nothing.
//!
//! Invariants:
//! - Only what the history proves to be wrong is rejected: a grant counts from when its answer was there.

use std::collections::BTreeMap;

/// A moment, in nanoseconds.
pub type Moment = u64;

/// One hold, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Who.
    pub client: usize,
    /// Its fencing token.
    pub token: i64,
    /// When it was asked for.
    pub asked: Moment,
    /// When it was there.
    pub granted: Moment,
    /// When the client was sure of it last.
    pub sure: Moment,
}

/// A fenced write that the cluster took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Of the hold.
    pub token: i64,
    /// Of the write.
    pub revision: i64,
}

/// What all clients saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// All holds.
    pub holds: Vec<Hold>,
    /// All fenced writes, each of which added one to a number.
    pub writes: Vec<Write>,
    /// Writes of which nobody knows whether they were taken.
    pub unknown: u64,
    /// The number in the end.
    pub number: u64,
}

impl History {
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.tokens_are_of_one_hold()?;
        self.nobody_is_sure_when_another_holds()?;
        self.tokens_grow()?;
        self.late_writes_are_refused()?;
        self.no_write_is_lost()
    }

    fn by_token(&self) -> Vec<Hold> {
        let mut holds = self.holds.clone();
        holds.sort_by_key(|hold| hold.token);
        holds
    }

    fn tokens_are_of_one_hold(&self) -> Result<(), String> {
        let mut seen = BTreeMap::new();
        for hold in &self.holds {
            if let Some(other) = seen.insert(hold.token, hold) {
                return Err(format!("two holds have one token: {other:?} and {hold:?}"));
            }
        }
        Ok(())
    }

    /// A later hold is granted after every earlier one has ended.
    fn nobody_is_sure_when_another_holds(&self) -> Result<(), String> {
        let mut latest: Option<Hold> = None;
        for hold in self.by_token() {
            if let Some(before) = latest.filter(|before| before.sure > hold.granted) {
                return Err(format!("{before:?} is sure still when {hold:?} holds already"));
            }
            if latest.is_none_or(|before| before.sure < hold.sure) {
                latest = Some(hold);
            }
        }
        Ok(())
    }

    /// Whoever asks after another was granted has the larger token.
    fn tokens_grow(&self) -> Result<(), String> {
        let mut by_grant = self.holds.clone();
        by_grant.sort_by_key(|hold| hold.granted);
        for later in &self.holds {
            let before = by_grant.partition_point(|hold| hold.granted < later.asked);
            let largest = by_grant[..before].iter().max_by_key(|hold| hold.token);
            if let Some(earlier) = largest.filter(|earlier| earlier.token >= later.token) {
                return Err(format!("{later:?} was asked for when {earlier:?} was there, and has no larger token"));
            }
        }
        Ok(())
    }

    fn late_writes_are_refused(&self) -> Result<(), String> {
        let mut writes = self.writes.clone();
        writes.sort_by_key(|write| write.revision);
        for pair in writes.windows(2) {
            if pair[0].revision == pair[1].revision {
                return Err(format!("two writes have one revision: {:?} and {:?}", pair[0], pair[1]));
            }
            if pair[0].token > pair[1].token {
                return Err(format!("{:?} was taken after {:?}", pair[1], pair[0]));
            }
        }
        for write in &self.writes {
            if write.revision <= write.token {
                return Err(format!("{write:?} was taken before its lock was asked for"));
            }
        }
        Ok(())
    }

    fn no_write_is_lost(&self) -> Result<(), String> {
        let taken = self.writes.len() as u64;
        if (taken..=taken + self.unknown).contains(&self.number) {
            return Ok(());
        }
        Err(format!(
            "{taken} writes were taken, of {} it is not known, and the number is {}",
            self.unknown, self.number
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(token: i64, asked: Moment, granted: Moment, sure: Moment) -> Hold {
        Hold { client: 0, token, asked, granted, sure }
    }

    fn good() -> History {
        History {
            holds: vec![hold(5, 0, 10, 20), hold(7, 5, 21, 30), hold(9, 25, 31, 31)],
            writes: vec![Write { token: 5, revision: 6 }, Write { token: 7, revision: 12 }],
            unknown: 1,
            number: 2,
        }
    }

    #[track_caller]
    fn rejected(history: &History, word: &str) {
        let said = history.check().unwrap_err();
        assert!(said.contains(word), "{said}");
    }

    #[test]
    fn holds_one_after_the_other_are_accepted() {
        good().check().unwrap();
        History { number: 3, ..good() }.check().unwrap();
    }

    #[test]
    fn two_holders_at_one_time_are_rejected() {
        let mut history = good();
        history.holds[0].sure = 22;
        rejected(&history, "sure still");
        // Also when another was in between.
        let mut history = good();
        history.holds[0].sure = 32;
        history.holds[2].granted = 31;
        rejected(&history, "sure still");
    }

    #[test]
    fn one_token_for_two_holds_is_rejected() {
        let mut history = good();
        history.holds[2].token = 7;
        rejected(&history, "one token");
    }

    #[test]
    fn a_token_that_goes_back_is_rejected() {
        let mut history = good();
        history.holds[2].token = 6;
        history.holds[2].sure = 20;
        history.holds[2].granted = 26;
        assert!(history.check().is_err());
        let alone = History { holds: vec![hold(9, 0, 10, 10), hold(7, 20, 30, 30)], ..History::default() };
        assert!(alone.check().is_err());
    }

    #[test]
    fn a_late_write_is_rejected() {
        let mut history = good();
        history.writes[0].revision = 13;
        rejected(&history, "was taken after");
    }

    #[test]
    fn a_lost_write_is_rejected() {
        rejected(&History { number: 1, ..good() }, "the number is 1");
        rejected(&History { number: 4, ..good() }, "the number is 4");
    }
}

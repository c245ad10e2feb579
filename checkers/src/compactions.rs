//! What is compacted is gone: once a compaction was answered, no read of an older revision is.
//!
//! Invariants:
//! - A read that began before the answer may have been either way.

use super::history::{History, Input, Outcome};
use super::{Verdict, Violation};

const RULE: &str = "compacted is gone";

/// Checks it.
pub fn check(history: &History) -> Verdict {
    for operation in &history.operations {
        let (Input::Txn(txn), Outcome::Done { .. }) = (&operation.input, &operation.outcome) else { continue };
        if txn.at == 0 || txn.serializable {
            continue;
        }
        let known = history.compactions.iter().filter(|compaction| compaction.completed < operation.invoked);
        if let Some(compaction) = known.max_by_key(|compaction| compaction.revision)
            && txn.at < compaction.revision
        {
            return Err(Violation::new(RULE, format!("after {compaction:?} this was answered: {operation:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::history::{Action, Answer, Compaction, Done, Operation, Span, Txn};
    use super::*;

    fn read(at: i64, invoked: u64) -> Operation {
        let action = Action::Read { span: Span::Key("/k".into()), limit: None };
        let outcome = Outcome::Done { revision: 20, answer: Answer::of(vec![Done::Read(Vec::new())]) };
        let input = Input::Txn(Txn { at, ..Txn::of(action) });
        Operation { client: 1, request: None, invoked, completed: invoked + 5, input, outcome }
    }

    fn history(read: Operation) -> History {
        let compactions = vec![Compaction { revision: 10, completed: 100 }, Compaction { revision: 7, completed: 200 }];
        History { compactions, operations: vec![read], ..History::default() }
    }

    #[test]
    fn a_read_below_an_answered_compaction_is_rejected() {
        assert!(check(&history(read(9, 101))).is_err());
        assert!(check(&history(read(9, 300))).is_err());
    }

    #[test]
    fn the_mark_itself_the_present_and_reads_that_began_before_pass() {
        assert_eq!(check(&history(read(10, 101))), Ok(()));
        assert_eq!(check(&history(read(0, 101))), Ok(()));
        assert_eq!(check(&history(read(9, 100))), Ok(()));
    }
}

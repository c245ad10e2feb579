//! What a flaw needs that is more than a line where it is put in; see [`quorate_state::flaw`].
//!
//! Invariants:
//! - Nothing here is reached without a flaw.

use bytes::Bytes;
use quorate_proto::Revision;
use quorate_state::codec::decode_envelope;
use quorate_state::command::{Command, Expect, Owner, Put};
use quorate_state::outcome::{Done, Outcome, PutDone};

use crate::consensus::Proposed;
use crate::consensus::intake::Answer;

/// Answers plain puts as if they were decided already, and gives the other answers, none if they all were.
pub fn foretell(envelopes: &[Bytes], answers: Vec<Answer>, term: u64, revision: i64) -> Vec<Answer> {
    let puts: Vec<Option<Put>> = envelopes.iter().map(plain_put).collect();
    if puts.iter().any(Option::is_none) {
        return answers;
    }
    for ((answer, put), revision) in answers.into_iter().zip(puts.into_iter().flatten()).zip(revision + 1..) {
        let done = Done::Put(PutDone { key: put.key, lease: None, previous: None });
        let outcome = Outcome { revision: Revision(revision), replayed: false, result: Ok(done) };
        let _ = answer.send(Ok(Proposed { outcome, log_index: 0, term }));
    }
    Vec::new()
}

fn plain_put(envelope: &Bytes) -> Option<Put> {
    match decode_envelope(envelope).ok()?.command {
        Command::Put(put)
            if put.expect == Expect::Anything
                && put.owner == Owner::None
                && !put.return_previous
                && !put.sequential =>
        {
            Some(put)
        }
        _ => None,
    }
}

//! State versions: from which one on each part of the command language may stand in the log.
//!
//! Invariants:
//! - A command is proposed, and applied, only when the version in force has all of its parts; so a member that knows
//!   the version in force can read everything in the log.
//! - The version in force rises by a command, after all members said that they know it, and never falls.
//! - The table is complete: a new command, or a new field of one, does not compile before it has its line here.
//!
//! | version | adds |
//! |---|---|
//! | 1 | everything else |
//! | 2 | [`Command::Scrub`] |

use crate::command::{Command, Compare, CopyTree, Delete, Put, RangeQuery, Refine, Txn, TxnOp};

/// The highest version that this program knows.
pub const STATE_VERSION: u32 = 2;

/// What a new store begins with.
pub const FIRST: u32 = 1;

/// The version from which on a command may be proposed: that of its youngest part.
pub fn since(command: &Command) -> u32 {
    match command {
        Command::Put(put) => of_put(put),
        Command::Delete(delete) => of_delete(delete),
        Command::Txn(txn) => of_txn(txn),
        Command::CopyTree(CopyTree { from: _, to: _, keep_leases: _, remove_source: _, limit: _ })
        | Command::LeaseGrant { lease: _, ttl_ms: _ }
        | Command::LeaseRevoke { leases: _, cause: _ }
        | Command::LeaseCheckpoint(_)
        | Command::Compact { revision: _, only_forward: _ }
        | Command::SetStateVersion(_) => FIRST,
        Command::Scrub => 2,
    }
}

fn of_put(put: &Put) -> u32 {
    let Put { key: _, value: _, owner: _, expect: _, return_previous: _, must_have_parent: _, sequential: _ } = put;
    FIRST
}

fn of_delete(delete: &Delete) -> u32 {
    let Delete { span: _, expect: _, must_be_empty: _, return_previous: _, limit: _ } = delete;
    FIRST
}

fn of_txn(txn: &Txn) -> u32 {
    let Txn { compares, then, otherwise } = txn;
    let compares = compares.iter().map(of_compare);
    compares.chain(then.iter().chain(otherwise).map(of_op)).max().unwrap_or(FIRST)
}

fn of_op(op: &TxnOp) -> u32 {
    match op {
        TxnOp::Range(query) => of_query(query),
        TxnOp::Put(put) => of_put(put),
        TxnOp::Delete(delete) => of_delete(delete),
        TxnOp::Txn(txn) => of_txn(txn),
    }
}

fn of_compare(compare: &Compare) -> u32 {
    let Compare { span: _, empty_as_missing: _, relation: _, target: _ } = compare;
    FIRST
}

fn of_query(query: &RangeQuery) -> u32 {
    let RangeQuery {
        span: _,
        revision: _,
        limit: _,
        bytes_max: _,
        descending: _,
        keys_only: _,
        count_only: _,
        count_all: _,
        refine: Refine { sort: _, window_first: _, mod_min: _, mod_max: _, create_min: _, create_max: _ },
    } = query;
    FIRST
}

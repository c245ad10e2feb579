//! Answers of scripts, in words.

use std::fmt::Write;

use quorate_state::apply::Applied;
use quorate_state::outcome::*;

pub fn text(bytes: &[u8]) -> String {
    if bytes.is_empty() { "\"\"".into() } else { bytes.escape_ascii().to_string() }
}

pub fn kv(kv: &KeyValue) -> String {
    let meta = &kv.meta;
    let lease = meta.lease.map_or(String::new(), |lease| format!(" lease {}", lease.get()));
    format!(
        "{} = {} (created {} modified {} version {}{lease})",
        text(kv.key.as_bytes()),
        text(&kv.value),
        meta.create_revision,
        meta.mod_revision,
        meta.version
    )
}

pub fn applied(applied: &Applied) -> String {
    let mut out = String::new();
    for outcome in &applied.outcomes {
        let replayed = if outcome.replayed { " (remembered)" } else { "" };
        match &outcome.result {
            Ok(done) => {
                writeln!(out, "ok at {}{replayed}: {}", outcome.revision, self::done(done)).unwrap();
                details(done, &mut out);
            }
            Err(rejection) => writeln!(out, "refused at {}{replayed}: {rejection}", outcome.revision).unwrap(),
        }
    }
    for change in &applied.leases {
        match change {
            LeaseChange::Granted { lease, ttl_ms } => writeln!(out, "lease {} granted, {ttl_ms} ms", lease.get()),
            LeaseChange::Ended { lease } => writeln!(out, "lease {} ended", lease.get()),
            LeaseChange::Checkpointed { lease, remaining_ms: Some(ms) } => {
                writeln!(out, "lease {} has {ms} ms left", lease.get())
            }
            LeaseChange::Checkpointed { lease, remaining_ms: None } => {
                writeln!(out, "lease {} has its full time", lease.get())
            }
        }
        .unwrap();
    }
    if let Some(mark) = applied.compacted {
        writeln!(out, "compacted to {mark}").unwrap();
    }
    out
}

/// A transaction that was only read.
pub fn read_txn(txn: &TxnDone) -> String {
    let mut out = format!("{}\n", if txn.succeeded { "then" } else { "else" });
    results(txn, 1, &mut out);
    out
}

fn done(done: &Done) -> String {
    match done {
        Done::Put(put) => put_text(put),
        Done::Delete(delete) => format!("deleted {}", delete.deleted),
        Done::Txn(txn) => if txn.succeeded { "then" } else { "else" }.into(),
        Done::CopyTree(keys) => format!("copied {keys}"),
        Done::LeaseGrant { lease, .. } => format!("granted {}", lease.get()),
        Done::LeaseRevoke { deleted } => format!("revoked, deleted {deleted}"),
        Done::LeaseCheckpoint => "noted".into(),
        Done::Compact => "compacted".into(),
        Done::StateVersion(version) => format!("state version {version}"),
        Done::Scrub => "to be scrubbed".into(),
    }
}

fn put_text(put: &PutDone) -> String {
    let lease = put.lease.map_or(String::new(), |lease| format!(" lease {}", lease.get()));
    format!("put {}{lease}", text(put.key.as_bytes()))
}

fn details(done: &Done, out: &mut String) {
    match done {
        Done::Put(put) => previous(put.previous.as_slice(), 1, out),
        Done::Delete(delete) => previous(&delete.previous, 1, out),
        Done::Txn(txn) => results(txn, 1, out),
        _ => {}
    }
}

fn previous(kvs: &[KeyValue], depth: usize, out: &mut String) {
    for kv in kvs {
        writeln!(out, "{}was {}", "  ".repeat(depth), self::kv(kv)).unwrap();
    }
}

fn results(txn: &TxnDone, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for result in &txn.results {
        match result {
            TxnResult::Put(put) => {
                writeln!(out, "{indent}{}", put_text(put)).unwrap();
                previous(put.previous.as_slice(), depth + 1, out);
            }
            TxnResult::Delete(delete) => {
                writeln!(out, "{indent}deleted {}", delete.deleted).unwrap();
                previous(&delete.previous, depth + 1, out);
            }
            TxnResult::Range(done) => out.push_str(&range(done, &indent)),
            TxnResult::Txn(nested) => {
                writeln!(out, "{indent}{}", if nested.succeeded { "then" } else { "else" }).unwrap();
                results(nested, depth + 1, out);
            }
        }
    }
}

pub fn range(done: &RangeDone, indent: &str) -> String {
    let mut out = String::new();
    for kv in &done.kvs {
        writeln!(out, "{indent}{}", self::kv(kv)).unwrap();
    }
    writeln!(out, "{indent}count {}{}", done.count, if done.more { ", more" } else { "" }).unwrap();
    out
}

pub fn change(change: &Change) -> String {
    let key = text(change.key.as_bytes());
    match &change.kind {
        ChangeKind::Put { value, .. } => format!("put {key} = {} after {}", text(value), change.previous),
        ChangeKind::Delete { lease_ended: false } => format!("delete {key} after {}", change.previous),
        ChangeKind::Delete { lease_ended: true } => format!("lease ended {key} after {}", change.previous),
    }
}

//! A machine that scripts talk to. Besides commands it knows reads and a few words about itself:
//!
//! ```text
//! get KEY [at=N]   range|range-tree … (options of a query)   list DIR [after=NAME] [limit=N] [at=N] [values]   stat PATH
//! leases   lease ID   changes N [bytes=N]   stored [TABLE]   purge   reopen   stamp MS   blank N   window INDEXES BYTES
//! read TXN (one that only reads)   hash [N]   scrubbed
//! members TEXT   rebase STEP   fill PREFIX N (N puts in one entry, answers not shown)   wrote COMMAND
//! ```

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::Revision;
use quorate_state::apply::{Entry, LogPosition, Machine, Payload};
use quorate_state::codec::{describe, describe_key};
use quorate_state::command::{Batch, Command, Span};
use quorate_state::compaction::purge_step;
use quorate_state::restore::{RebaseOptions, rebase};
use quorate_state::store::{MemorySnapshot, Store, Write as StoreWrite};
use quorate_state::testing::{CrashStore, dump, open_with_window};
use quorate_state::view::{ListQuery, ReadError, View};

use crate::parse::{self, Words, bytes, number};
use crate::print;

pub struct Session {
    store: Arc<CrashStore>,
    machine: Machine<Arc<CrashStore>>,
    stamp_ms: i64,
    window: (u64, usize),
}

impl Session {
    pub fn new() -> Self {
        let store = Arc::new(CrashStore::new());
        let machine = Machine::open(store.clone()).unwrap();
        Self { store, machine, stamp_ms: 1000, window: (100_000, usize::MAX) }
    }

    /// Runs a line and gives what it prints.
    pub fn run(&mut self, line: &str) -> String {
        if let Some(command) = line.strip_prefix("wrote ") {
            let out = self.run(command);
            return out + &self.last_write();
        }
        let envelopes: Option<Vec<_>> = line.split(" && ").map(parse::envelope).collect();
        if let Some(commands) = envelopes {
            return self.entry(Payload::Batch(Batch { stamp_ms: self.stamp_ms, commands }));
        }
        let mut words = parse::words(line);
        let name = words.next().unwrap();
        self.own_words(&name, &mut words).unwrap_or_else(|| match self.read(&name, words) {
            Ok(out) => out,
            Err(error) => format!("refused: {error}\n"),
        })
    }

    fn entry(&mut self, payload: Payload) -> String {
        let last = self.machine.applied().0.unwrap_or(LogPosition { term: 1, index: 0 });
        let entry = Entry { position: LogPosition { term: 1, index: last.index + 1 }, payload };
        match self.machine.apply(&[entry]) {
            Ok(applied) => print::applied(&applied[0]),
            Err(fault) => format!("fault: {fault}\n"),
        }
    }

    fn last_write(&self) -> String {
        let mut out = String::new();
        for write in self.store.last_write().unwrap().writes {
            match write {
                // The head changes each time; its digest says nothing to a reader.
                StoreWrite::Put { key, .. } if key == b"shead" => writeln!(out, "  put s head"),
                StoreWrite::Put { key, value } => writeln!(out, "  put {}", describe(&key, &value)),
                StoreWrite::Delete { key } => writeln!(out, "  delete {}", describe_key(&key)),
                StoreWrite::DeleteRange { start, end } => {
                    writeln!(out, "  delete from {} to {}", describe_key(&start), describe_key(&end))
                }
            }
            .unwrap();
        }
        out
    }

    fn reopen(&mut self) {
        self.machine = open_with_window(self.store.clone(), self.window.0, self.window.1).unwrap();
    }

    fn own_words(&mut self, name: &str, words: &mut Words) -> Option<String> {
        let mut out = String::new();
        match name {
            "stamp" => self.stamp_ms = number(&words.next().unwrap()),
            "reopen" => self.reopen(),
            "window" => {
                self.window = (number(&words.next().unwrap()), number(&words.next().unwrap()));
                self.reopen();
            }
            "blank" => {
                for _ in 0..number::<u32>(&words.next().unwrap()) {
                    out += &self.entry(Payload::Blank);
                }
            }
            "members" => out = self.entry(Payload::Membership(bytes(&words.next().unwrap()))),
            "fill" => {
                let (prefix, count) = (words.next().unwrap(), number::<u32>(&words.next().unwrap()));
                let put = |n| parse::envelope(&format!("put {prefix}{n:05} v")).unwrap();
                let commands = (0..count).map(put).collect();
                self.entry(Payload::Batch(Batch { stamp_ms: self.stamp_ms, commands }));
            }
            "purge" => {
                let before = self.store.count();
                let purge = purge_step(&self.store).unwrap();
                writeln!(out, "{purge:?}").unwrap();
                if self.store.count() > before && !words.any(|word| word == "quietly") {
                    out += &self.last_write();
                }
            }
            "rebase" => {
                let options =
                    RebaseOptions { revision_step: number(&words.next().unwrap()), membership: Bytes::from("new") };
                writeln!(out, "{:?}", rebase(&self.store, &options).unwrap()).unwrap();
                self.reopen();
            }
            "stored" => {
                let table = words.next();
                for (key, value) in dump(&self.store) {
                    let line = describe(&key, &value);
                    if table.as_ref().is_none_or(|table| line.starts_with(&format!("{table} "))) {
                        writeln!(out, "{line}").unwrap();
                    }
                }
            }
            _ => return None,
        }
        Some(out)
    }

    fn read(&self, name: &str, mut words: Words) -> Result<String, ReadError> {
        let view = View::new(self.store.snapshot())?;
        let mut out = String::new();
        match name {
            "get" | "range" | "range-tree" => {
                let span = parse::span(name, &mut words);
                let single = matches!(span, Span::Key(_));
                let query = parse::query(span, &mut words);
                match (&query.span, single) {
                    (Span::Key(key), true) => match view.get(key, query.revision)? {
                        Some(kv) => writeln!(out, "{}", print::kv(&kv)).unwrap(),
                        None => writeln!(out, "nothing").unwrap(),
                    },
                    _ => out = print::range(&view.range(&query)?, ""),
                }
            }
            "read" => match parse::command(&mut words) {
                Some(Command::Txn(txn)) => match view.txn(&txn)? {
                    Ok(done) => out = print::read_txn(&done),
                    Err(rejection) => writeln!(out, "refused: {rejection}").unwrap(),
                },
                other => panic!("only a transaction is read: {other:?}"),
            },
            "hash" => {
                let at = words.next().map(|word| Revision(number(&word)));
                writeln!(out, "{:016x}", view.content_hash(at)?).unwrap();
            }
            "scrubbed" => {
                let mark = view.scrub(|_| true)?.unwrap();
                writeln!(out, "{:016x} at index {}", mark.digest, mark.index).unwrap();
            }
            "list" => return list(&view, words),
            "stat" => out = stat(&view, &bytes(&words.next().unwrap()))?,
            "leases" => {
                for (id, record) in view.leases(None, usize::MAX)? {
                    let keys = view.lease_keys(id, None, usize::MAX)?;
                    writeln!(out, "{}: {record:?} {keys:?}", id.get()).unwrap();
                }
            }
            "changes" => {
                let from = Revision(number(&words.next().unwrap()));
                let bytes = words.next().map_or(usize::MAX, |word| number(word.strip_prefix("bytes=").unwrap()));
                let chunk = view.changes(from, bytes, |_| true)?;
                for changes in chunk.revisions {
                    let texts: Vec<_> = changes.changes.iter().map(print::change).collect();
                    writeln!(out, "{}: {}", changes.revision, texts.join(", ")).unwrap();
                }
                writeln!(out, "next {}", chunk.next).unwrap();
            }
            "status" => {
                let counts = view.counts();
                let (at, mark) = (view.revision(), view.compact_revision());
                writeln!(out, "revision {at}, compacted {mark}, {counts:?}, members {:?}", view.membership()?).unwrap();
            }
            "digests" => {
                let marks: Vec<_> = view.digests()?.iter().map(|mark| mark.index).collect();
                writeln!(out, "digests at {marks:?}").unwrap();
            }
            other => panic!("unknown word {other}"),
        }
        Ok(out)
    }
}

fn stat(view: &View<MemorySnapshot>, path: &[u8]) -> Result<String, ReadError> {
    let mut out = String::new();
    let stat = view.stat(path)?;
    if let Some((meta, bytes)) = stat.meta {
        writeln!(out, "key, modified {}, {bytes} bytes", meta.mod_revision).unwrap();
    }
    if let Some(dir) = stat.directory {
        let (children, at, next) = (dir.children, dir.children_revision, dir.next_sequence);
        writeln!(out, "directory of {children}, changed at {at}, next sequence {next}").unwrap();
    }
    if stat == quorate_state::view::Stat::default() {
        writeln!(out, "nothing").unwrap();
    }
    Ok(out)
}

fn list(view: &View<MemorySnapshot>, mut words: Words) -> Result<String, ReadError> {
    let dir = bytes(&words.next().unwrap());
    let mut query = ListQuery { dir, after: None, limit: 1000, with_values: false, revision: None };
    for word in words {
        match (word.as_str(), word.split_once('=')) {
            (_, Some(("after", name))) => query.after = Some(bytes(name)),
            (_, Some(("limit", limit))) => query.limit = number(limit),
            (_, Some(("at", revision))) => query.revision = Some(Revision(number(revision))),
            ("values", _) => query.with_values = true,
            _ => panic!("unknown option {word}"),
        }
    }
    let done = view.list(&query)?;
    let mut out = String::new();
    for child in done.children {
        let kinds = [("key", child.is_key), ("directory", child.is_directory)];
        let kinds: Vec<_> = kinds.iter().filter(|(_, is)| *is).map(|(kind, _)| *kind).collect();
        let value = child.kv.map_or(String::new(), |kv| format!(": {}", print::text(&kv.value)));
        writeln!(out, "{} ({}){value}", print::text(&child.name), kinds.join(" and ")).unwrap();
    }
    writeln!(out, "at {}{}", done.revision, if done.more { ", more" } else { "" }).unwrap();
    Ok(out)
}

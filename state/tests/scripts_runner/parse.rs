//! The commands of scripts, in words.
//!
//! ```text
//! put KEY VALUE|~ [lease=ID] [keep] [ttl=ID:MS] [absent] [present] [mod=N] [prev] [parent] [seq]    ~ keeps the value
//! delete KEY | delete-tree PATH | delete-range START END|-  [absent] [present] [mod=N] [empty] [prev] [limit=N]
//! txn [if COMPARE , COMPARE] then OP ; OP [else OP ; OP]      OP is range, put, delete… or ( txn … )
//! COMPARE: version|create|mod|lease|value SPAN [or-missing] =|!=|>|< X, or exists|missing|exists> SPAN; SPAN is KEY or START..END
//! copy FROM TO [keep] [limit=N] | move …     grant ID MS     revoke ID… | expire ID…     checkpoint ID=MS|ID=-
//! compact N [forward]     version N     scrub
//! ```
//! `client/sequence[/lowest[/seen]]@` before a command gives it a request id; `&&` joins commands to one entry.

use std::iter::Peekable;
use std::vec::IntoIter;

use bytes::Bytes;
use quorate_proto::{ClientId, Key, LeaseId, Path, Revision};
use quorate_state::command::*;

pub type Words = Peekable<IntoIter<String>>;

pub fn words(text: &str) -> Words {
    text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter().peekable()
}

/// `\0` and `\xHH` stand for bytes.
pub fn bytes(word: &str) -> Bytes {
    let (mut out, mut rest) = (Vec::new(), word.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'\\', [b'0', tail @ ..]) => {
                out.push(0);
                tail
            }
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let hex = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                tail
            }
            _ => {
                out.push(*first);
                tail
            }
        };
    }
    out.into()
}

pub fn key(word: &str) -> Key {
    Key::new(bytes(word)).unwrap()
}

pub fn lease(word: &str) -> LeaseId {
    LeaseId::new(word.parse().unwrap()).unwrap()
}

pub fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn end(word: &str) -> Option<Bytes> {
    (word != "-").then(|| bytes(word))
}

fn expect(word: &str) -> Option<Expect> {
    match word.split_once('=') {
        None if word == "absent" => Some(Expect::Absent),
        None if word == "present" => Some(Expect::Present),
        Some(("mod", revision)) => Some(Expect::ModRevision(Revision(number(revision)))),
        _ => None,
    }
}

/// Options up to the end of the operation.
fn options(words: &mut Words) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(word) = words.next_if(|word| ![";", "else", ")"].contains(&word.as_str())) {
        found.push(word);
    }
    found
}

fn put(words: &mut Words) -> Put {
    let (name, value) = (words.next().unwrap(), words.next().unwrap());
    let mut put = Put {
        key: key(&name),
        value: (value != "~").then(|| bytes(&value)),
        owner: Owner::None,
        expect: Expect::Anything,
        return_previous: false,
        must_have_parent: false,
        sequential: false,
    };
    for word in options(words) {
        match word.split_once('=') {
            Some(("lease", id)) => put.owner = Owner::Lease(lease(id)),
            Some(("ttl", both)) => {
                let (id, ttl_ms) = both.split_once(':').unwrap();
                put.owner = Owner::Ttl { lease: lease(id), ttl_ms: number(ttl_ms) };
            }
            None if word == "keep" => put.owner = Owner::Keep,
            None if word == "prev" => put.return_previous = true,
            None if word == "parent" => put.must_have_parent = true,
            None if word == "seq" => put.sequential = true,
            _ => put.expect = expect(&word).unwrap_or_else(|| panic!("unknown option {word}")),
        }
    }
    put
}

fn delete(span: Span, words: &mut Words) -> Delete {
    let mut delete =
        Delete { span, expect: Expect::Anything, must_be_empty: false, return_previous: false, limit: None };
    for word in options(words) {
        match word.split_once('=') {
            Some(("limit", limit)) => delete.limit = Some(number(limit)),
            None if word == "empty" => delete.must_be_empty = true,
            None if word == "prev" => delete.return_previous = true,
            _ => delete.expect = expect(&word).unwrap_or_else(|| panic!("unknown option {word}")),
        }
    }
    delete
}

pub fn query(span: Span, words: &mut Words) -> RangeQuery {
    let mut query = RangeQuery::all(span);
    for word in options(words) {
        match (word.as_str(), word.split_once('=')) {
            (_, Some(("at", revision))) => query.revision = Some(Revision(number(revision))),
            (_, Some(("limit", limit))) => query.limit = Some(number(limit)),
            (_, Some(("bytes", bytes))) => query.bytes_max = Some(number(bytes)),
            ("desc", _) => query.descending = true,
            ("keys", _) => query.keys_only = true,
            ("count", _) => query.count_only = true,
            ("count-all", _) => query.count_all = true,
            ("window", _) => query.refine.window_first = true,
            (_, Some(("sort", by))) => {
                query.refine.sort = Some(match by {
                    "version" => SortBy::Version,
                    "create" => SortBy::CreateRevision,
                    "mod" => SortBy::ModRevision,
                    "value" => SortBy::Value,
                    _ => panic!("unknown order {by}"),
                });
            }
            (_, Some(("mod-min", revision))) => query.refine.mod_min = Some(Revision(number(revision))),
            (_, Some(("mod-max", revision))) => query.refine.mod_max = Some(Revision(number(revision))),
            (_, Some(("create-min", revision))) => query.refine.create_min = Some(Revision(number(revision))),
            (_, Some(("create-max", revision))) => query.refine.create_max = Some(Revision(number(revision))),
            _ => panic!("unknown option {word}"),
        }
    }
    query
}

/// What of the words is a span, by the name of the operation.
pub fn span(name: &str, words: &mut Words) -> Span {
    let first = words.next().unwrap();
    if name.ends_with("-tree") {
        Span::Subtree(Path::new(bytes(&first)).unwrap())
    } else if name.ends_with("-range") || name == "range" {
        Span::Range { start: if first == "-" { Bytes::new() } else { bytes(&first) }, end: end(&words.next().unwrap()) }
    } else {
        Span::Key(key(&first))
    }
}

fn compare(words: &mut Words) -> Compare {
    let property = words.next().unwrap();
    let span = words.next().unwrap();
    let span = match span.split_once("..") {
        Some((start, last)) => Span::Range { start: bytes(start), end: end(last) },
        None => Span::Key(key(&span)),
    };
    let empty_as_missing = words.next_if(|word| word == "or-missing").is_some();
    let exists =
        |relation, exists| Compare { span: span.clone(), empty_as_missing, relation, target: Target::Exists(exists) };
    match property.as_str() {
        "exists" => return exists(Relation::Equal, true),
        "missing" => return exists(Relation::Equal, false),
        "exists>" => return exists(Relation::Greater, false),
        _ => {}
    }
    let relation = match words.next().unwrap().as_str() {
        "=" => Relation::Equal,
        "!=" => Relation::NotEqual,
        ">" => Relation::Greater,
        "<" => Relation::Less,
        other => panic!("unknown relation {other}"),
    };
    let word = words.next().unwrap();
    let target = match property.as_str() {
        "version" => Target::Version(number(&word)),
        "create" => Target::CreateRevision(Revision(number(&word))),
        "mod" => Target::ModRevision(Revision(number(&word))),
        "lease" => Target::Lease(LeaseId::new(number(&word))),
        "value" => Target::Value(bytes(&word)),
        other => panic!("unknown property {other}"),
    };
    Compare { span, empty_as_missing, relation, target }
}

fn txn(words: &mut Words) -> Txn {
    let mut txn = Txn::default();
    if words.next_if(|word| word == "if").is_some() {
        txn.compares.push(compare(words));
        while words.next_if(|word| word == ",").is_some() {
            txn.compares.push(compare(words));
        }
    }
    for (word, ops) in [("then", &mut txn.then), ("else", &mut txn.otherwise)] {
        if words.next_if(|next| next == word).is_some() {
            ops.push(op(words));
            while words.next_if(|word| word == ";").is_some() {
                ops.push(op(words));
            }
        }
    }
    txn
}

fn op(words: &mut Words) -> TxnOp {
    let name = words.next().unwrap();
    match name.as_str() {
        "put" => TxnOp::Put(put(words)),
        "delete" | "delete-tree" | "delete-range" => {
            let span = span(&name, words);
            TxnOp::Delete(delete(span, words))
        }
        "range" | "get" => {
            let span = span(&name, words);
            TxnOp::Range(query(span, words))
        }
        "(" => {
            assert_eq!(words.next().as_deref(), Some("txn"));
            let nested = txn(words);
            assert_eq!(words.next().as_deref(), Some(")"));
            TxnOp::Txn(nested)
        }
        other => panic!("unknown operation {other}"),
    }
}

/// `None` when the first word is no command.
pub fn command(words: &mut Words) -> Option<Command> {
    let name = words.peek()?.clone();
    let known =
        "put delete delete-tree delete-range txn copy move grant revoke expire checkpoint compact version scrub";
    if !known.split(' ').any(|known| known == name) {
        return None;
    }
    words.next();
    Some(match name.as_str() {
        "put" => Command::Put(put(words)),
        "txn" => Command::Txn(txn(words)),
        "copy" | "move" => {
            let path = |word: Option<String>| Path::new(bytes(&word.unwrap())).unwrap();
            let (from, to) = (path(words.next()), path(words.next()));
            let options = options(words);
            let limit = options.iter().find_map(|word| word.strip_prefix("limit="));
            Command::CopyTree(CopyTree {
                from,
                to,
                keep_leases: options.iter().any(|word| word == "keep"),
                remove_source: name == "move",
                limit: limit.map_or(10_000, number),
            })
        }
        "grant" => Command::LeaseGrant { lease: lease(&words.next().unwrap()), ttl_ms: number(&words.next().unwrap()) },
        "revoke" | "expire" => Command::LeaseRevoke {
            leases: words.by_ref().map(|word| lease(&word)).collect(),
            cause: if name == "expire" { LeaseEnd::Expired } else { LeaseEnd::Asked },
        },
        "checkpoint" => {
            let note = |word: String| {
                let (id, ms) = word.split_once('=').unwrap();
                (lease(id), (ms != "-").then(|| number(ms)))
            };
            Command::LeaseCheckpoint(words.by_ref().map(note).collect())
        }
        "compact" => Command::Compact {
            revision: Revision(number(&words.next().unwrap())),
            only_forward: words.next_if(|word| word == "forward").is_some(),
        },
        "version" => Command::SetStateVersion(number(&words.next().unwrap())),
        "scrub" => Command::Scrub,
        _ => {
            let span = span(&name, words);
            Command::Delete(delete(span, words))
        }
    })
}

/// A command with its request id, if it has one.
pub fn envelope(text: &str) -> Option<Envelope> {
    let mut words = words(text);
    let id = words.next_if(|word| word.ends_with('@'));
    let request = id.map(|id| {
        let numbers: Vec<u64> = id.trim_end_matches('@').split('/').map(number).collect();
        RequestId {
            client: ClientId::new(numbers[0]).unwrap(),
            sequence: numbers[1],
            lowest_unacknowledged: numbers.get(2).copied().unwrap_or(0),
            seen_index: numbers.get(3).copied().unwrap_or(0),
        }
    });
    let command = command(&mut words)?;
    assert_eq!(words.next(), None, "words are left over in: {text}");
    Some(Envelope { request, principal: Principal::default(), command })
}

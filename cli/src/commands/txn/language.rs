//! The small language of `quorate txn`, one statement a line.
//!
//! ```text
//! # only the first deployer wins
//! compare missing /deploy/lock
//! compare value /deploy/version = "v1"
//! put /deploy/lock "by alice" ttl=30s
//! else
//! get /deploy/lock
//! ```
//!
//! Invariants:
//! - Parsing is all or nothing: an error names its line and nothing is sent.
//! - A statement that could be read in two ways is refused.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Key, LeaseId};

use super::words::{Word, split};
use crate::input;

/// A whole transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Run when they do.
    pub then: Vec<Statement>,
    /// Run when one does not.
    pub otherwise: Vec<Statement>,
}

/// How two sides relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `<`
    Less,
}

/// What a compare looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The value.
    Value(Bytes),
    /// Number of changes since creation.
    Version(i64),
    /// Revision of creation.
    Create(i64),
    /// Revision of the last change.
    Mod(i64),
    /// The lease; `None` for "no lease".
    Lease(Option<LeaseId>),
    /// Whether the key exists.
    Exists(bool),
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Whose.
    pub key: Key,
    /// What is compared.
    pub target: Target,
    /// How.
    pub relation: Relation,
}

/// Who owns a key that is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// A lease.
    Lease(LeaseId),
    /// A lease of its own.
    Ttl(Duration),
    /// The lease that it has.
    Keep,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `get KEY`
    Get(Key),
    /// `range START END [limit=N]`; no end for "to the last key".
    Range {
        /// Inclusive.
        start: Bytes,
        /// Exclusive; `None` for no end.
        end: Option<Bytes>,
        /// At most so many, if it was said.
        limit: Option<u32>,
    },
    /// `put KEY VALUE [lease=ID|ttl=DURATION|keep-lease]`
    Put {
        /// Key.
        key: Key,
        /// Value.
        value: Bytes,
        /// Owner.
        owner: Owner,
    },
    /// `delete KEY`
    Delete(Key),
    /// `delete-tree PATH`
    DeleteTree(Key),
}

/// Why a script is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// What is wrong, and how it should look.
    pub reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Compares,
    Then,
    Otherwise,
}

/// Reads a whole script.
pub fn parse(text: &str) -> Result<Script, ParseError> {
    let mut script = Script::default();
    let mut section = Section::Compares;
    for (index, line) in text.lines().enumerate() {
        parse_line(line, &mut section, &mut script).map_err(|reason| ParseError { line: index + 1, reason })?;
    }
    if script.then.is_empty() && script.otherwise.is_empty() && script.compares.is_empty() {
        let reason = "the transaction is empty; write at least one statement, as in: put /a x".to_owned();
        return Err(ParseError { line: 1, reason });
    }
    Ok(script)
}

fn parse_line(line: &str, section: &mut Section, script: &mut Script) -> Result<(), String> {
    let words = split(line)?;
    let Some((verb, arguments)) = words.split_first() else { return Ok(()) };
    match (verb.text()?, arguments) {
        ("compare", arguments) => {
            if *section != Section::Compares {
                return Err("compares come first, before the operations".to_owned());
            }
            script.compares.push(compare(arguments)?);
        }
        ("then", []) => match section {
            Section::Compares => *section = Section::Then,
            _ => return Err("\"then\" stands once, between the compares and the operations".to_owned()),
        },
        ("else", []) => match section {
            Section::Otherwise => return Err("\"else\" stands once".to_owned()),
            _ if script.compares.is_empty() => {
                return Err("\"else\" without a compare would never run".to_owned());
            }
            _ => *section = Section::Otherwise,
        },
        ("then" | "else", _) => return Err("\"then\" and \"else\" stand alone on their line".to_owned()),
        (verb, arguments) => {
            let statement = statement(verb, arguments)?;
            if *section == Section::Otherwise {
                script.otherwise.push(statement);
            } else {
                *section = Section::Then;
                script.then.push(statement);
            }
        }
    }
    Ok(())
}

fn compare(arguments: &[Word]) -> Result<Compare, String> {
    let form = "a compare is: compare version|create|mod|value|lease KEY =|!=|>|< OPERAND, \
                or: compare exists|missing KEY";
    match arguments {
        [what, key] => {
            let exists = match what.text()? {
                "exists" => true,
                "missing" => false,
                _ => return Err(form.to_owned()),
            };
            Ok(Compare { key: as_key(key)?, target: Target::Exists(exists), relation: Relation::Equal })
        }
        [what, key, relation, operand] => {
            let relation = match relation.text()? {
                "=" | "==" => Relation::Equal,
                "!=" => Relation::NotEqual,
                ">" => Relation::Greater,
                "<" => Relation::Less,
                other => return Err(format!("{other:?} is not one of = != > <")),
            };
            let target = match what.text()? {
                "value" => Target::Value(operand.bytes()),
                "version" => Target::Version(number(operand)?),
                "create" => Target::Create(number(operand)?),
                "mod" => Target::Mod(number(operand)?),
                "lease" if relation == Relation::Equal => Target::Lease(lease_or_none(operand)?),
                "lease" => return Err("leases are compared with = only".to_owned()),
                _ => return Err(form.to_owned()),
            };
            Ok(Compare { key: as_key(key)?, target, relation })
        }
        _ => Err(form.to_owned()),
    }
}

fn statement(verb: &str, arguments: &[Word]) -> Result<Statement, String> {
    match (verb, arguments) {
        ("get", [key]) => Ok(Statement::Get(as_key(key)?)),
        ("get", _) => Err("get takes one key: get KEY".to_owned()),
        ("put", [key, value, options @ ..]) => {
            Ok(Statement::Put { key: as_key(key)?, value: value.bytes(), owner: owner(options)? })
        }
        ("put", _) => {
            Err("put takes a key and a value: put KEY VALUE [lease=ID | ttl=DURATION | keep-lease]".to_owned())
        }
        ("delete", [key]) => Ok(Statement::Delete(as_key(key)?)),
        ("delete", _) => Err("delete takes one key: delete KEY".to_owned()),
        ("delete-tree", [path]) => Ok(Statement::DeleteTree(as_path(path)?)),
        ("delete-tree", _) => Err("delete-tree takes one path: delete-tree PATH".to_owned()),
        ("range", [start, rest @ ..]) => range(start, rest),
        ("range", []) => Err("range takes bounds: range START [END] [limit=N]".to_owned()),
        (other, _) => Err(format!(
            "{other:?} is not a statement; there are compare, then, else, get, range, put, delete and delete-tree"
        )),
    }
}

fn range(start: &Word, rest: &[Word]) -> Result<Statement, String> {
    let mut end = None;
    let mut limit = None;
    for word in rest {
        match word.option("limit") {
            Some(count) => match count.parse() {
                Ok(count @ 1..) => limit = Some(count),
                _ => return Err(format!("limit={count} is not a positive number")),
            },
            None if end.is_none() => end = Some(word.bytes()),
            None => return Err("range takes bounds: range START [END] [limit=N]".to_owned()),
        }
    }
    Ok(Statement::Range { start: start.bytes(), end, limit })
}

fn owner(options: &[Word]) -> Result<Owner, String> {
    match options {
        [] => Ok(Owner::Nobody),
        [option] => {
            if let Some(id) = option.option("lease") {
                return Ok(Owner::Lease(input::lease_id(id)?));
            }
            if let Some(ttl) = option.option("ttl") {
                return Ok(Owner::Ttl(input::duration(ttl)?));
            }
            if option.text() == Ok("keep-lease") {
                return Ok(Owner::Keep);
            }
            Err("after the value of a put stands nothing, or lease=ID, ttl=DURATION or keep-lease; \
                 a value with spaces is quoted: put /a \"x y\""
                .to_owned())
        }
        _ => Err("a put has one owner: lease=ID, ttl=DURATION or keep-lease; \
                  a value with spaces is quoted: put /a \"x y\""
            .to_owned()),
    }
}

fn as_key(word: &Word) -> Result<Key, String> {
    Key::new(word.bytes()).map_err(|error| error.to_string())
}

fn as_path(word: &Word) -> Result<Key, String> {
    quorate_proto::Path::new(word.bytes()).map(quorate_proto::Path::into_key).map_err(|error| error.to_string())
}

fn number(word: &Word) -> Result<i64, String> {
    word.text()?.parse().map_err(|_| format!("{:?} is not a whole number", word.text().unwrap_or_default()))
}

fn lease_or_none(word: &Word) -> Result<Option<LeaseId>, String> {
    match word.text()? {
        "none" => Ok(None),
        id => input::lease_id(id).map(Some),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text.to_owned()).unwrap()
    }

    fn put(at: &str, value: &'static str, owner: Owner) -> Statement {
        Statement::Put { key: key(at), value: value.into(), owner }
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn compares_operations_and_else() {
        let script = parse("# try\ncompare version /a = 3\n\nput /a x\nget /c\nelse\ndelete /b\n").unwrap();
        let version = Compare { key: key("/a"), target: Target::Version(3), relation: Relation::Equal };
        assert_eq!(script.compares, [version]);
        assert_eq!(script.then, [put("/a", "x", Owner::Nobody), Statement::Get(key("/c"))]);
        assert_eq!(script.otherwise, [Statement::Delete(key("/b"))]);
    }

    #[test]
    fn every_target_and_relation() {
        let targets = |line: &str| parse(line).unwrap().compares.remove(0);
        let of = |target, relation| Compare { key: key("k"), target, relation };
        assert_eq!(targets("compare value k != \"a b\""), of(Target::Value("a b".into()), Relation::NotEqual));
        assert_eq!(targets("compare create k > 7"), of(Target::Create(7), Relation::Greater));
        assert_eq!(targets("compare mod k < 9"), of(Target::Mod(9), Relation::Less));
        assert_eq!(targets("compare lease k = ff"), of(Target::Lease(LeaseId::new(255)), Relation::Equal));
        assert_eq!(targets("compare lease k = none"), of(Target::Lease(None), Relation::Equal));
        assert_eq!(targets("compare exists k"), of(Target::Exists(true), Relation::Equal));
        assert_eq!(targets("compare missing k"), of(Target::Exists(false), Relation::Equal));
    }

    #[test]
    fn a_put_may_have_an_owner() {
        let script = parse("put /a x lease=1f\nput /b y ttl=1.5s\nput /c z keep-lease").unwrap();
        let lease = Owner::Lease(LeaseId::new(31).unwrap());
        let ttl = Owner::Ttl(Duration::from_millis(1500));
        assert_eq!(script.then, [put("/a", "x", lease), put("/b", "y", ttl), put("/c", "z", Owner::Keep)]);
    }

    #[test]
    fn a_range_has_bounds_and_a_limit() {
        let script = parse("range a b limit=5\nrange a").unwrap();
        let bounded = Statement::Range { start: "a".into(), end: Some("b".into()), limit: Some(5) };
        let open = Statement::Range { start: "a".into(), end: None, limit: None };
        assert_eq!(script.then, [bounded, open]);
    }

    #[test]
    fn a_quoted_word_is_never_an_option_or_a_verb() {
        assert_eq!(parse("put /a \"ttl=5s\"").unwrap().then, [put("/a", "ttl=5s", Owner::Nobody)]);
        assert!(refused("put /a x \"ttl=5s\"").contains("after the value of a put stands nothing"));
    }

    #[test]
    fn only_compares_is_a_transaction_that_asks() {
        assert_eq!(parse("compare exists /a").unwrap().compares.len(), 1);
    }

    #[test]
    fn errors_name_the_line_and_the_way_out() {
        assert!(refused("").contains("empty"));
        assert!(refused("put /a x\nfrob /a").starts_with("line 2: \"frob\" is not a statement"));
        assert!(refused("put /a").contains("put KEY VALUE"));
        assert!(refused("put /a x y").contains("quoted"));
        assert!(refused("put /a x y z").contains("quoted"));
        assert!(refused("put \"\" x").contains("key is empty"));
        assert!(refused("put /a x\ncompare exists /b").contains("come first"));
        assert!(refused("put /a x\nelse\nget /a").contains("would never run"));
        assert!(refused("compare exists /a\nelse\nget /a\nelse").contains("once"));
        assert!(refused("compare exists /a\nget /a\nthen").contains("once"));
        assert!(refused("compare version /a ~ 3").contains("= != > <"));
        assert!(refused("compare version /a = x").contains("whole number"));
        assert!(refused("compare lease /a > 3").contains("= only"));
        assert!(refused("range a b limit=0").contains("positive"));
        assert!(refused("compare exists /a = 3").contains("a compare is"));
        assert!(refused("delete-tree /a/").contains("ends with"));
        assert!(refused("range a b limit=x").contains("limit=x"));
        assert!(refused("else now").contains("alone"));
        assert!(refused("put /a x ttl=5").contains("no unit"));
    }
}

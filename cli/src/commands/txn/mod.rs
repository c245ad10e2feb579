//! `quorate txn`: a transaction from a script.
//!
//! Invariants:
//! - The script is read and checked whole before anything is sent.

mod language;
mod words;

use std::ffi::OsString;
use std::io::{IsTerminal, Read};

use clap::Args;
use quorate::{Compare, Op, OpResult, TxnResponse};
use serde_json::{Value as Json, json};

use self::language::{Owner, Relation, Script, Statement, Target};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::{Output, Style, printable};
use crate::render::{self, short_value};

/// The language, for the help.
pub const EXAMPLES: &str = r#"The language: one statement a line; # begins a comment; words with spaces stand
in double quotes, with the escapes \n \t \r \0 \xHH \" \\ inside.

  compare version KEY = N        changes since its creation, 0 when it is missing; also != > <
  compare create KEY = REV       revision of its creation; 0 when it is missing
  compare mod KEY = REV          revision of its last change; 0 when it is missing
  compare value KEY = VALUE      its value; a missing key matches no value
  compare lease KEY = LEASE      its lease, or none
  compare exists KEY             it exists
  compare missing KEY            it does not exist
  then                           optional: what follows runs when all compares hold
  else                           what follows runs when one does not
  get KEY
  range START [END] [limit=N]    keys from START up to, not including, END; or to the last
  put KEY VALUE [lease=LEASE | ttl=DURATION | keep-lease]
  delete KEY
  delete-tree PATH               the path and everything below it

All of it happens in one revision, or nothing. Exit code 0 when all compares held, 4 when
one did not (then the else part has run, if there is one).

Examples:
  printf 'compare missing /lock\nput /lock me ttl=30s\nelse\nget /lock\n' | quorate txn
  quorate txn move-traffic.txn --output json"#;

/// Flags of `txn`.
#[derive(Debug, Args)]
pub struct TxnArgs {
    /// File with the transaction; - for stdin
    #[arg(default_value = "-")]
    pub file: OsString,
}

/// Reads, sends and prints.
pub async fn run(args: TxnArgs, connection: &Connection, output: Output) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let script = language::parse(&text).map_err(|error| Failure::Usage(error.to_string()))?;
    let client = connection.open()?;
    let answer = client.txn(transaction(&script, &client)).await?;
    let printed = if output.is_json() { output.json(&json_of(&answer)) } else { print(&answer, output) };
    printed?;
    if answer.succeeded {
        return Ok(());
    }
    let ran = if script.otherwise.is_empty() { "nothing was done" } else { "the else part has run" };
    Err(Failure::Precondition(format!("a compare did not hold; {ran}")))
}

fn read(file: &OsString) -> Result<String, Failure> {
    if file != "-" {
        let name = file.display();
        return std::fs::read_to_string(file).map_err(|error| Failure::io(&format!("cannot read {name}"), &error));
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        eprintln!("Type the transaction, one statement a line, then Ctrl-D. `quorate txn --help` shows the language.");
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).map_err(|error| Failure::io("cannot read stdin", &error))?;
    Ok(text)
}

fn transaction(script: &Script, client: &quorate::Client) -> quorate::Txn {
    let mut txn = quorate::Txn::when(script.compares.iter().map(condition).collect::<Vec<_>>());
    for statement in &script.then {
        txn = txn.then(operation(statement, client));
    }
    for statement in &script.otherwise {
        txn = txn.otherwise(operation(statement, client));
    }
    txn
}

fn condition(compare: &language::Compare) -> Compare {
    let relation = match compare.relation {
        Relation::Equal => quorate::Relation::Equal,
        Relation::NotEqual => quorate::Relation::NotEqual,
        Relation::Greater => quorate::Relation::Greater,
        Relation::Less => quorate::Relation::Less,
    };
    let key = &compare.key;
    match &compare.target {
        Target::Value(value) => Compare::value(key, relation, value),
        Target::Version(version) => Compare::version(key, relation, *version),
        Target::Create(revision) => Compare::create_revision(key, relation, quorate::Revision(*revision)),
        Target::Mod(revision) => Compare::mod_revision(key, relation, quorate::Revision(*revision)),
        Target::Lease(lease) => Compare::lease(key, *lease),
        Target::Exists(true) => Compare::exists(key),
        Target::Exists(false) => Compare::absent(key),
    }
}

fn operation(statement: &Statement, client: &quorate::Client) -> Op {
    match statement {
        Statement::Get(key) => Op::get(key),
        Statement::Delete(key) => Op::delete(key),
        Statement::DeleteTree(path) => Op::delete_subtree(path),
        Statement::Range { start, end, limit } => {
            let call = client.range(start, end.clone().unwrap_or_default());
            if let Some(limit) = limit { call.limit(u64::from(*limit)).into() } else { call.into() }
        }
        Statement::Put { key, value, owner } => {
            let call = client.put(key, value);
            match owner {
                Owner::Nobody => call.into(),
                Owner::Lease(lease) => call.lease(*lease).into(),
                Owner::Ttl(ttl) => call.ttl(*ttl).into(),
                Owner::Keep => call.keep_lease().into(),
            }
        }
    }
}

fn print(answer: &TxnResponse, output: Output) -> Result<(), Failure> {
    let verdict = if answer.succeeded {
        output.paint.paint(Style::Green, "all compares held")
    } else {
        output.paint.paint(Style::Red, "a compare did not hold")
    };
    output.line(&format!("{verdict}; revision {}", answer.header.revision))?;
    if answer.replayed {
        return output.line("(an earlier attempt had been applied; values read then are not shown)");
    }
    answer.results.iter().try_for_each(|result| print_result(result, output))
}

fn print_result(result: &OpResult, output: Output) -> Result<(), Failure> {
    match result {
        OpResult::Get(Some(kv)) => output.line(&format!("get     {} = {}", printable(&kv.key), short_value(&kv.value))),
        OpResult::Get(None) => output.line("get     (does not exist)"),
        OpResult::Range(range) => {
            output.line(&format!("range   {} keys{}", range.kvs.len(), if range.more { ", and more" } else { "" }))?;
            let mut pairs = range.kvs.iter();
            pairs
                .try_for_each(|kv| output.line(&format!("        {} = {}", printable(&kv.key), short_value(&kv.value))))
        }
        OpResult::Put(put) => output.line(&format!("put     {}", printable(&put.key))),
        OpResult::Delete(delete) => output.line(&format!("delete  {} keys", delete.deleted)),
        OpResult::Txn(inner) => inner.results.iter().try_for_each(|result| print_result(result, output)),
    }
}

fn json_of(answer: &TxnResponse) -> Json {
    let results: Vec<Json> = answer.results.iter().map(json_of_result).collect();
    json!({
        "succeeded": answer.succeeded, "revision": answer.header.revision.get(), "replayed": answer.replayed,
        "results": results,
    })
}

fn json_of_result(result: &OpResult) -> Json {
    match result {
        OpResult::Get(kv) => json!({"get": kv.as_ref().map(|kv| render::key_value(kv, true))}),
        OpResult::Range(range) => {
            let kvs: Vec<Json> = range.kvs.iter().map(|kv| render::key_value(kv, true)).collect();
            json!({"range": {"kvs": kvs, "more": range.more}})
        }
        OpResult::Put(put) => {
            json!({"put": render::with_key(&put.key, json!({"lease": render::lease(put.lease)}))})
        }
        OpResult::Delete(delete) => json!({"delete": {"deleted": delete.deleted}}),
        OpResult::Txn(inner) => json!({"txn": json_of(inner)}),
    }
}

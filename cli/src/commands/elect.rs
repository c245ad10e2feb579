//! `quorate elect`: lead while a command runs, and see who leads.
//!
//! Invariants:
//! - The leadership is given up after the command has ended, however it ended.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use quorate::{Client, ErrorKind, Key, Leader, Leadership};
use serde_json::{Map, Value as Json};

use super::lock::os;
use super::under::{self, Ended, Signals, Work};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::input::{self, Value};
use crate::output::{Output, json_bytes, printable};
use crate::render;

/// Examples for the help.
pub const EXAMPLES: &str = "\
The command finds the leadership in its environment: QUORATE_ELECTION_NAME, QUORATE_ELECTION_KEY and
QUORATE_ELECTION_TERM, a fencing token that grows with every leader. Without a command the term is
printed and the leadership held until Ctrl-C.

Signals are passed on to the command; when it has ended, the next candidate leads. If the leadership
is lost meanwhile, the command gets SIGTERM, and SIGKILL after --grace.

Exit code: the command's own (128 + N when signal N ended it, 126 or 127 when it cannot be started),
7 when somebody else leads for all of --wait, 8 when the leadership was lost.

Examples:
  quorate elect billing host-7:8080 -- ./billing --active
  quorate elect billing host-7:8080 --ttl 3s        lead until Ctrl-C
  quorate elect billing --who
  quorate elect billing --observe                   each change of leader, until Ctrl-C";

/// Flags of `elect`.
#[derive(Debug, Args)]
pub struct ElectArgs {
    /// Name of the election
    #[arg(value_parser = input::key_parser())]
    pub name: Key,
    /// What others read of this candidate: text, @FILE, or - for stdin
    #[arg(value_parser = Value::parser(), required_unless_present_any = ["observe", "who"])]
    pub value: Option<Value>,
    /// Print who leads, and then each change
    #[arg(long, conflicts_with_all = ["value", "wait", "command", "who"])]
    pub observe: bool,
    /// Print who leads now
    #[arg(long, conflicts_with_all = ["value", "wait", "command"])]
    pub who: bool,
    /// Wait so long at most
    #[arg(long, value_name = "DURATION", value_parser = input::duration)]
    pub wait: Option<Duration>,
    /// When this process dies or is cut off, another leads after so long: 500ms to 10 years
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "10s")]
    pub ttl: Duration,
    /// After a loss, how long the command has to end by itself
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "5s")]
    pub grace: Duration,
    /// What to run while leading
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs it.
pub async fn run(args: ElectArgs, connection: &Connection, output: Output) -> Result<(), Failure> {
    let client = connection.open()?;
    let mut signals = Signals::take()?;
    if args.who {
        let nobody = || Failure::NotFound(format!("nobody leads {}", args.name));
        let leader = client.election(&args.name).leader().await?.ok_or_else(nobody)?;
        return print(Some(&leader), output);
    }
    if args.observe {
        return tokio::select! {
            biased;
            signal = signals.next() => Err(under::ended_by(signal)),
            ended = observe(&args, &client, output) => ended,
        };
    }
    let value = match args.value.clone() {
        Some(value) => value.read()?,
        None => Bytes::new(),
    };
    lead(&args, value, &client, connection, output, &mut signals).await
}

async fn observe(args: &ElectArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut leaders = client.election(&args.name).observe();
    while let Some(leader) = leaders.next().await {
        print(leader?.as_ref(), output)?;
    }
    Err(Failure::Failed("the stream of leaders ended by itself".to_owned()))
}

async fn lead(
    args: &ElectArgs,
    value: Bytes,
    client: &Client,
    connection: &Connection,
    output: Output,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let session = client.lease(args.ttl).grant().await?;
    let mut election = client.election(&args.name).session(&session);
    if let Some(limit) = args.wait {
        election = election.wait(limit);
    }
    let (leadership, session) = under::unless_signalled(election.campaign(value), session, signals).await?;
    if args.command.is_empty()
        && let Err(failure) = print_leading(&leadership, args, output)
    {
        under::end(session).await;
        return Err(failure);
    }
    let environment = vec![
        ("QUORATE_ELECTION_NAME", os(args.name.as_bytes())),
        ("QUORATE_ELECTION_KEY", os(leadership.key())),
        ("QUORATE_ELECTION_TERM", leadership.term().to_string().into()),
        ("QUORATE_ENDPOINTS", connection.endpoints.join(",").into()),
    ];
    let work = Work { command: &args.command, environment, grace: args.grace };
    let ended = work.run(leadership.lost(), signals).await;
    let checked = leadership.check();
    let resigned = leadership.resign().await;
    under::end(session).await;
    match ended? {
        Ended::Lost => {
            let text = checked.err().map_or_else(|| "it is lost".to_owned(), |error| error.to_string());
            let ended = if args.command.is_empty() { "" } else { "; the command was ended" };
            Err(Failure::Lost(format!("{text}{ended}")))
        }
        Ended::Signal(signal) => Err(under::ended_by(signal)),
        Ended::Command(status) => match resigned {
            Err(error) if error.kind() == ErrorKind::Reacquire => Err(Failure::Lost(error.to_string())),
            _ => under::result_of(status),
        },
    }
}

fn print_leading(leadership: &Leadership, args: &ElectArgs, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        let mut document = Map::new();
        json_bytes(&mut document, "name", args.name.as_bytes());
        document.insert("term".to_owned(), leadership.term().0.into());
        json_bytes(&mut document, "key", leadership.key());
        document.insert("lease".to_owned(), leadership.lease().to_string().into());
        return output.json_line(&document);
    }
    eprintln!("quorate: leading {} until Ctrl-C; the term:", args.name);
    output.line(&leadership.term().to_string())
}

fn print(leader: Option<&Leader>, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json_line(&leader.map_or(Json::Null, json_of));
    }
    output.line(&match leader {
        Some(leader) => format!("term {}  {}", leader.term, printable(&leader.value)),
        None => "nobody leads".to_owned(),
    })
}

fn json_of(leader: &Leader) -> Json {
    let mut document = Map::new();
    document.insert("term".to_owned(), leader.term.0.into());
    json_bytes(&mut document, "value", &leader.value);
    json_bytes(&mut document, "key", &leader.key);
    document.insert("lease".to_owned(), render::lease(leader.lease));
    Json::Object(document)
}

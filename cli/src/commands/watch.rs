//! `quorate watch`: changes as they happen.
//!
//! Invariants:
//! - One line an event, flushed at once; a change is printed once, also over broken connections and lost members.

use clap::Args;
use futures::StreamExt;
use quorate::{Client, Event, EventKind, Key, Revision, Watch};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::input;
use crate::output::{Output, Style, printable};
use crate::render::{self, short_value};

/// Examples for the help.
pub const EXAMPLES: &str = "\
Goes on until Ctrl-C (exit code 130), through the loss of members; what happened meanwhile is not \
missed.
With --output json each event is one JSON object on a line.

Examples:
  quorate watch /config/db/url
  quorate watch --subtree /config
  quorate watch --subtree / --from 1                  all since the beginning, and what comes
  quorate watch --children /services/web --count 1    wait for one change
  quorate watch --prefix user: --previous             keys that start so, and what stood there";

/// Flags of `watch`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct WatchArgs {
    /// Key, or path with --children or --subtree
    #[arg(value_parser = input::key_parser())]
    pub key: Key,
    /// The direct children of the path
    #[arg(long, group = "scope")]
    pub children: bool,
    /// The path and everything below it; / for all paths
    #[arg(long, group = "scope")]
    pub subtree: bool,
    /// All keys that start with KEY
    #[arg(long, group = "scope")]
    pub prefix: bool,
    /// First revision wanted; what happened since is printed first
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    pub from: Option<i64>,
    /// With what stood there before
    #[arg(long, visible_alias = "prev")]
    pub previous: bool,
    /// Without puts
    #[arg(long, conflicts_with = "no_deletes")]
    pub no_puts: bool,
    /// Without deletes
    #[arg(long)]
    pub no_deletes: bool,
    /// End after so many events
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// Prints events until Ctrl-C, or until `--count`.
pub async fn run(args: WatchArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut left = args.count;
    let mut stream = builder(&args, client)?.start().await?;
    while let Some(changes) = stream.next().await {
        for event in changes?.events {
            print(&event, output)?;
            left = left.map(|left| left - 1);
            if left == Some(0) {
                return Ok(());
            }
        }
    }
    Err(Failure::Failed("the watch ended by itself".to_owned()))
}

fn builder(args: &WatchArgs, client: &Client) -> Result<Watch, Failure> {
    let mut watch = client.watch(&args.key);
    if args.children || args.subtree {
        must_be_directory(&args.key)?;
        watch = if args.children { watch.children() } else { watch.subtree() };
    }
    if args.prefix {
        watch = watch.prefix();
    }
    if let Some(revision) = args.from {
        watch = watch.from(Revision(revision));
    }
    if args.previous {
        watch = watch.previous();
    }
    if args.no_puts {
        watch = watch.no_puts();
    }
    if args.no_deletes {
        watch = watch.no_deletes();
    }
    Ok(watch)
}

/// Children and subtrees are those of a path.
fn must_be_directory(key: &Key) -> Result<(), Failure> {
    let text = std::str::from_utf8(key.as_bytes()).map_err(|_| Failure::Usage(format!("{key} is not a path")))?;
    input::directory(text).map(|_| ()).map_err(Failure::Usage)
}

fn print(event: &Event, output: Output) -> Result<(), Failure> {
    if output.is_json() { output.json_line(&json_of(event)) } else { output.line(&line_of(event, output)) }
}

/// An event as one line of text.
pub fn line_of(event: &Event, output: Output) -> String {
    let key = printable(&event.kv.key);
    let before = match &event.previous {
        Some(previous) => format!(" (before: {})", short_value(&previous.value)),
        None => String::new(),
    };
    let revision = output.paint.paint(Style::Dim, &format!("{:>6}", event.kv.mod_revision.get()));
    match event.kind {
        EventKind::Put => {
            let put = output.paint.paint(Style::Green, "put   ");
            format!("{revision}  {put}  {key} = {}{before}", short_value(&event.kv.value))
        }
        EventKind::Delete => {
            let delete = output.paint.paint(Style::Red, "delete");
            let why = if event.lease_ended { " (its lease ended)" } else { "" };
            format!("{revision}  {delete}  {key}{why}{before}")
        }
    }
}

fn json_of(event: &Event) -> Json {
    let previous = event.previous.as_ref().map(|kv| render::key_value(kv, true));
    match event.kind {
        EventKind::Put => json!({"event": "put", "kv": render::key_value(&event.kv, true), "previous": previous}),
        EventKind::Delete => {
            let revision = event.kv.mod_revision.get();
            let kv = render::with_key(&event.kv.key, json!({"mod_revision": revision}));
            json!({"event": "delete", "kv": kv, "lease_ended": event.lease_ended, "previous": previous})
        }
    }
}

//! `quorate lock`: hold a lock while a command runs, see who holds one, and take one away.
//!
//! Invariants:
//! - The lock is given back after the command has ended, however it ended.
//! - What may harm others, a forced release, is done only when the operator says yes.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use clap::Args;
use quorate::{Client, Contender, ErrorKind, Key, Lock, LockGuard, LockInfo, LockMode, Token};
use serde_json::{Map, Value as Json, json};

use super::under::{self, Ended, Signals, Work};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::input;
use crate::output::{Output, json_bytes, printable};
use crate::render;

/// Examples for the help.
pub const EXAMPLES: &str = "\
The command finds the lock in its environment: QUORATE_LOCK_NAME, QUORATE_LOCK_KEY and the fencing
token QUORATE_LOCK_TOKEN, which grows with every hold: let what the command writes to refuse smaller
tokens than it has seen. Without a command the token is printed and the lock held until Ctrl-C.

Signals are passed on to the command; when it has ended, the lock is given back. If the lock is lost
meanwhile, the command gets SIGTERM, and SIGKILL after --grace.

Exit code: the command's own (128 + N when signal N ended it, 126 or 127 when it cannot be started),
7 when the lock is busy (--try, --wait), 8 when it was lost.

Examples:
  quorate lock backup -- ./backup.sh
  quorate lock backup --try -- ./backup.sh            only if nobody else is at it
  quorate lock reports --permits 3 --wait 1m -- make report
  quorate lock config --shared -- cat app.toml
  quorate lock backup --who                           who holds it, who waits
  quorate lock backup --force-release                 take it from whoever holds it; asks first";

/// Flags of `lock`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct LockArgs {
    /// Name of the lock
    #[arg(value_parser = input::key_parser())]
    pub name: Key,
    /// Together with others that are shared, too
    #[arg(long, group = "mode")]
    pub shared: bool,
    /// One of so many permits; all must say the same number
    #[arg(long, group = "mode", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub permits: Option<u32>,
    /// Wait so long at most
    #[arg(long, value_name = "DURATION", value_parser = input::duration, conflicts_with = "try")]
    pub wait: Option<Duration>,
    /// Do not wait
    #[arg(long)]
    pub r#try: bool,
    /// When this process dies or is cut off, others get the lock after so long: 500ms to 10 years
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "10s")]
    pub ttl: Duration,
    /// Who this is, for those who look; host:pid when left out
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<String>,
    /// After a loss, how long the command has to end by itself
    #[arg(long, value_name = "DURATION", value_parser = input::duration, default_value = "5s")]
    pub grace: Duration,
    /// Show who holds the lock and who waits for it
    #[arg(long, conflicts_with_all = ["mode", "wait", "try", "owner", "command", "force_release"])]
    pub who: bool,
    /// Take the lock from its holder: the one with this token, or the only one there is
    #[arg(long, value_name = "TOKEN", num_args = 0..=1, conflicts_with_all = ["mode", "wait", "try", "owner", "command"])]
    #[expect(clippy::option_option, reason = "a flag with a value that can be left out")]
    pub force_release: Option<Option<i64>>,
    /// Do not ask before --force-release
    #[arg(long, short = 'y', requires = "force_release")]
    pub yes: bool,
    /// What to run while the lock is held
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs it.
pub async fn run(args: LockArgs, connection: &Connection, output: Output) -> Result<(), Failure> {
    let client = connection.open()?;
    if args.who {
        return who(&client.lock_info(&args.name).await?, output);
    }
    if let Some(token) = args.force_release {
        return force_release(&args, token.map(Token), &client, output).await;
    }
    hold(&args, &client, connection, output).await
}

async fn hold(args: &LockArgs, client: &Client, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut signals = Signals::take()?;
    let session = client.lease(args.ttl).grant().await?;
    let acquire = asked(args, client).session(&session).acquire();
    let (guard, session) = under::unless_signalled(acquire, session, &mut signals).await?;
    if args.command.is_empty()
        && let Err(failure) = print_held(&guard, output)
    {
        under::end(session).await;
        return Err(failure);
    }
    let environment = vec![
        ("QUORATE_LOCK_NAME", os(guard.name())),
        ("QUORATE_LOCK_KEY", os(guard.key())),
        ("QUORATE_LOCK_TOKEN", guard.token().to_string().into()),
        ("QUORATE_ENDPOINTS", connection.endpoints.join(",").into()),
    ];
    let work = Work { command: &args.command, environment, grace: args.grace };
    let ended = work.run(guard.lost(), &mut signals).await;
    let checked = guard.check();
    let released = guard.release().await;
    under::end(session).await;
    match ended? {
        Ended::Lost => Err(lost(checked, args.command.is_empty())),
        Ended::Signal(signal) => Err(under::ended_by(signal)),
        Ended::Command(status) => match released {
            // It has ended, but not alone.
            Err(error) if error.kind() == ErrorKind::Reacquire => Err(Failure::Lost(error.to_string())),
            _ => under::result_of(status),
        },
    }
}

fn lost(checked: quorate::Result<()>, idle: bool) -> Failure {
    let text = checked.err().map_or_else(|| "it is lost".to_owned(), |error| error.to_string());
    Failure::Lost(if idle { text } else { format!("{text}; the command was ended") })
}

fn asked(args: &LockArgs, client: &Client) -> Lock {
    let owner = args.owner.clone().unwrap_or_else(under::default_owner);
    let mut lock = client.lock(&args.name).owner(owner);
    if args.shared {
        lock = lock.shared();
    }
    if let Some(permits) = args.permits {
        lock = lock.permits(permits);
    }
    if args.r#try {
        lock = lock.wait(Duration::ZERO);
    }
    if let Some(limit) = args.wait {
        lock = lock.wait(limit);
    }
    lock
}

fn print_held(guard: &LockGuard, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        let mut document = Map::new();
        json_bytes(&mut document, "name", guard.name());
        document.insert("token".to_owned(), guard.token().0.into());
        json_bytes(&mut document, "key", guard.key());
        document.insert("lease".to_owned(), guard.lease().to_string().into());
        return output.json_line(&document);
    }
    eprintln!("quorate: lock {} is held until Ctrl-C; its token:", printable(guard.name()));
    output.line(&guard.token().to_string())
}

/// Bytes as a variable: one that ends at a zero byte, as all do.
pub fn os(bytes: &[u8]) -> OsString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    OsStr::from_bytes(&bytes[..end]).to_owned()
}

fn who(info: &LockInfo, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        let all = |contenders: &[Contender]| contenders.iter().map(json_of).collect::<Vec<_>>();
        return output.json(&json!({
            "holders": all(&info.holders), "waiters": all(&info.waiters), "waiting": info.waiting,
        }));
    }
    let holders = info.holders.iter().map(|each| row(if each.delaying { "delays" } else { "holds" }, each));
    let rows: Vec<_> = holders.chain(info.waiters.iter().map(|each| row("waits", each))).collect();
    output.table(&["STATE", "TOKEN", "MODE", "OWNER", "SINCE", "LEASE", "KEY"], &rows)?;
    let left_out = info.waiting.saturating_sub(info.waiters.len() as u64);
    if left_out > 0 { output.line(&format!("and {left_out} more wait")) } else { Ok(()) }
}

fn row(state: &str, contender: &Contender) -> Vec<String> {
    vec![
        state.to_owned(),
        contender.token.map_or_else(|| "-".to_owned(), |token| token.to_string()),
        if contender.foreign { "foreign".to_owned() } else { mode_text(contender.mode) },
        printable(contender.owner.as_bytes()),
        render::time(contender.since_unix_ms),
        render::lease_text(contender.lease),
        printable(&contender.key),
    ]
}

fn mode_text(mode: LockMode) -> String {
    match mode {
        LockMode::Exclusive => "exclusive".to_owned(),
        LockMode::Shared => "shared".to_owned(),
        LockMode::Permit(permits) => format!("1 of {permits}"),
    }
}

fn json_of(contender: &Contender) -> Json {
    let (mode, permits) = match contender.mode {
        LockMode::Exclusive => ("exclusive", None),
        LockMode::Shared => ("shared", None),
        LockMode::Permit(permits) => ("permit", Some(permits)),
    };
    render::with_key(
        &contender.key,
        json!({
            "token": contender.token.map(|token| token.0), "mode": mode, "permits": permits,
            "owner": contender.owner, "metadata": contender.metadata, "lease": render::lease(contender.lease),
            "since_unix_ms": contender.since_unix_ms, "delaying": contender.delaying, "foreign": contender.foreign,
        }),
    )
}

async fn force_release(args: &LockArgs, token: Option<Token>, client: &Client, output: Output) -> Result<(), Failure> {
    let info = client.lock_info(&args.name).await?;
    let holder = match token {
        Some(token) => info.holders.iter().find(|holder| holder.token == Some(token)),
        None if info.holders.len() > 1 => {
            return Err(Failure::Usage("several hold it; say which: --force-release TOKEN".to_owned()));
        }
        None => info.holders.first(),
    };
    let nobody = || Failure::NotFound(format!("nobody holds the lock {} so", args.name));
    let holder = holder.ok_or_else(nobody)?;
    if !args.yes {
        confirm(args, holder)?;
    }
    let former = client.lock_force_release(&args.name).key(&holder.key).await?.ok_or_else(nobody)?;
    output.either(|| format!("taken from {}", said_of(&former)), || json!({"released": json_of(&former)}))
}

fn said_of(holder: &Contender) -> String {
    let token = holder.token.map_or_else(String::new, |token| format!(", token {token}"));
    let owner = if holder.owner.is_empty() { "somebody without a name" } else { &holder.owner };
    format!("{}{token}", printable(owner.as_bytes()))
}

fn confirm(args: &LockArgs, holder: &Contender) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::Usage("a forced release asks first; without a terminal, say --yes".to_owned()));
    }
    eprintln!("The lock {} is held by {}.", args.name, said_of(holder));
    eprint!("Whoever holds it may be at work, and another begins at once. Take it away? [y/N] ");
    std::io::stderr().flush().map_err(|error| Failure::io("cannot ask", &error))?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| Failure::io("cannot read the answer", &error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::Failed("nothing was done".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_what_the_system_can_pass() {
        assert_eq!(os(b"jobs/\xff"), OsStr::from_bytes(b"jobs/\xff"));
        assert_eq!(os(b"jobs\0more"), OsStr::new("jobs"));
    }
}

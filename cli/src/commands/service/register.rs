//! `quorate service register`: an instance for as long as this runs, or as a command of its own runs.
//!
//! Invariants:
//! - At Ctrl-C and SIGTERM the instance is removed first, so that nobody calls it any more; then the command is ended.

use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use quorate::{Client, HealthCheck, Instance, Registration, RegistrationState, RegistrationStatus};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::input;
use crate::output::Output;

/// Examples for the help.
pub const EXAMPLES: &str = "\
Without a command it stays registered until Ctrl-C or SIGTERM (exit code 130). With one it stays \
registered while the command runs, and ends with the command's exit code.
Either way the instance is removed at the end; if this is killed, it goes after its time to live.

Examples:
  quorate service register orders orders-1 --address 10.0.0.7 --port 8080
  quorate service register orders orders-1 --address 10.0.0.7 --port 8080 --tag v2 \\
      --zone eu-1 --check http://10.0.0.7:8080/health -- ./orders --port 8080
  quorate service register db db-1 --address 10.0.0.9 --port 5432 --permanent --check tcp:10.0.0.9:5432";

/// Flags of `service register`.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// Service
    pub service: String,
    /// Id of the instance, unique within the service
    pub id: String,
    /// IP address or host name at which it is called
    #[arg(long)]
    pub address: String,
    /// Port
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// A tag; may be given more than once
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// What its users may want to know; may be given more than once
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// Zone
    #[arg(long, default_value = "")]
    pub zone: String,
    /// Share of the load, compared with the others
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub weight: u32,
    /// How long it outlives this command when that is killed: 1s to a day
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = input::duration)]
    pub ttl: Duration,
    /// What checks it: an URL, tcp:host:port, grpc:host:port or ttl:30s; may be given more than once
    #[arg(long = "check", value_name = "CHECK", value_parser = check)]
    pub checks: Vec<HealthCheck>,
    /// How often it is checked
    #[arg(long, value_name = "DURATION", requires = "checks", value_parser = input::duration)]
    pub check_interval: Option<Duration>,
    /// Register and end at once; it stays until it is deregistered, or removed by its checks
    #[arg(long, conflicts_with = "command")]
    pub permanent: bool,
    /// Command to run while it is registered
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// Registers, and stays until the end.
pub async fn run(args: RegisterArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let instance = instance(&args);
    let mut register = client.register(instance).ttl(args.ttl);
    if args.permanent {
        register = register.permanent();
    }
    let registration = tokio::select! {
        registered = register => registered?,
        _ = stop.asked() => return Err(Failure::Interrupted),
    };
    said(&registration.status(), output)?;
    if args.permanent {
        return Ok(());
    }
    match args.command.split_first() {
        None => {
            tokio::select! {
                _ = stop.asked() => {}
                () = tell_changes(&registration) => {}
            }
            registration.deregister().await?;
            Err(Failure::Interrupted)
        }
        Some((program, arguments)) => {
            let started = Command::new(program).args(arguments).spawn();
            let shown = program.to_string_lossy();
            match started {
                Ok(child) => beside(child, registration, &mut stop).await,
                Err(error) => {
                    registration.deregister().await?;
                    Err(Failure::io(&format!("cannot run {shown}"), &error))
                }
            }
        }
    }
}

/// Stays registered while the command runs.
async fn beside(mut child: Child, registration: Registration, stop: &mut Stop) -> Result<(), Failure> {
    let ended = tokio::select! {
        ended = child.wait() => Some(ended),
        asked = stop.asked() => {
            tracing::debug!(?asked, "asked to stop");
            None
        }
        () = tell_changes(&registration) => None,
    };
    let removed = registration.deregister().await;
    let status = if let Some(status) = ended {
        status
    } else {
        terminate(&child);
        child.wait().await
    };
    let status = status.map_err(|error| Failure::io("cannot wait for the command", &error))?;
    removed?;
    outcome(status)
}

fn outcome(status: ExitStatus) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt as _;
    if status.success() {
        return Ok(());
    }
    // As shells do: 128 and the number of the signal.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Err(Failure::Command(u8::try_from(code).unwrap_or(crate::failure::FAILED)))
}

/// Says on stderr when others may not see the instance, and when they do again.
async fn tell_changes(registration: &Registration) {
    let mut status = registration.subscribe();
    let mut before = RegistrationState::Registered;
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        if std::mem::replace(&mut before, now.state) == now.state {
            continue;
        }
        let why = now.last_error.map(|error| format!(": {error}")).unwrap_or_default();
        match now.state {
            RegistrationState::Registered => eprintln!("quorate: registered again"),
            RegistrationState::Interrupted => eprintln!("quorate: not confirmed at the moment{why}"),
            RegistrationState::Lost => eprintln!("quorate: not confirmed in time, callers may not see it{why}"),
            _ => {}
        }
    }
}

fn said(status: &RegistrationStatus, output: Output) -> Result<(), Failure> {
    let instance = &status.instance;
    let lease = status.lease.map(|lease| lease.to_string());
    if output.is_json() {
        return output.json_line(&json!({
            "registered": {"service": instance.service, "id": instance.id, "lease": lease,
                           "address": instance.address, "port": instance.port},
        }));
    }
    let how = lease.map_or_else(|| "permanently".to_owned(), |lease| format!("under lease {lease}"));
    let (service, id, address) = (&instance.service, &instance.id, instance.authority());
    output.line(&format!("{service}/{id} is registered at {address} {how}"))
}

fn instance(args: &RegisterArgs) -> Instance {
    let mut instance = Instance::new(&args.service, &args.id)
        .address(&args.address)
        .port(args.port)
        .zone(&args.zone)
        .weight(args.weight);
    for tag in &args.tag {
        instance = instance.tag(tag);
    }
    for (key, value) in &args.metadata {
        instance = instance.metadata(key, value);
    }
    for check in &args.checks {
        let check = check.clone();
        instance = instance.check(match args.check_interval {
            Some(interval) => check.interval(interval),
            None => check,
        });
    }
    instance
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself meanwhile.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// `key=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `http://…`, `https://…`, `tcp:host:port`, `grpc:host:port` or `ttl:30s`.
fn check(text: &str) -> Result<HealthCheck, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(HealthCheck::http(text));
    }
    let target = |text: &str| text.trim_start_matches("//").to_owned();
    match text.split_once(':') {
        Some(("tcp", rest)) if rest.contains(':') => Ok(HealthCheck::tcp(target(rest))),
        Some(("grpc", rest)) if rest.contains(':') => Ok(HealthCheck::grpc(target(rest))),
        Some(("ttl", rest)) => Ok(HealthCheck::ttl(input::duration(rest)?)),
        _ => Err("a check is an URL, tcp:host:port, grpc:host:port or ttl:30s".to_owned()),
    }
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) -> Option<()> {
        tokio::select! {
            asked = self.interrupt.recv() => asked,
            asked = self.terminate.recv() => asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate::CheckKind;

    use super::*;

    #[test]
    fn checks_are_read_as_people_write_them() {
        for (text, kind) in [
            ("http://a:1/health", CheckKind::Http("http://a:1/health".to_owned())),
            ("tcp:a:1", CheckKind::Tcp("a:1".to_owned())),
            ("grpc://a:1/shop.Orders", CheckKind::Grpc("a:1/shop.Orders".to_owned())),
            ("ttl:30s", CheckKind::Ttl(Duration::from_secs(30))),
        ] {
            assert_eq!(check(text).unwrap().kind, kind, "{text}");
        }
        for wrong in ["", "tcp:a", "ftp://a:1", "ttl:30", "a:1"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn metadata_are_pairs() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err());
    }
}

//! `quorate serve`: runs a member until it is asked to stop.
//!
//! Invariants:
//! - The flags are made from the server's own table of settings, so that flag, variable, file and help cannot differ.
//! - A flag wins over a `QUORATE_*` variable, that over the file, that over the default.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use quorate_server::Server;
use quorate_server::config::{Config, SETTINGS, Setting, Settings, Source};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Examples for the help.
pub const EXAMPLES: &str = "\
Every setting can also be given as a variable (--peer-listen is QUORATE_PEER_LISTEN), or in the TOML file named by \
--config (peer-listen = \"127.0.0.1:2380\"). A flag wins over a variable, a variable over the file. Unknown and \
contradictory settings are refused. SIGTERM and Ctrl-C stop the member after it has handed over leadership (exit \
code 0).

Examples:
  quorate serve                                   a single durable member on 127.0.0.1:2379
  quorate serve --config /etc/quorate.toml
  quorate serve --name n1 --data-dir d1 --listen 127.0.0.1:12379 --peer-listen 127.0.0.1:12380 \\
      --cluster n1=127.0.0.1:12380,n2=127.0.0.1:22380,n3=127.0.0.1:32380
  quorate serve --name n4 --data-dir d4 --listen 127.0.0.1:42379 --peer-listen 127.0.0.1:42380 \\
      --join 127.0.0.1:12379
  quorate serve --name n1 --data-dir d1 --force-new-cluster   after losing a majority";

/// Flags of `serve`: those of the table of settings, and a few of its own.
#[derive(Debug, Clone)]
pub struct ServeArgs {
    given: Vec<(&'static str, String)>,
    own: OwnArgs,
}

/// Flags that are no settings of the member.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Starting")]
struct OwnArgs {
    /// File with settings, in TOML: one `name = value` a line, names as those of the flags
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, or a filter such as `warn,quorate_server=info`
    #[arg(
        long,
        value_name = "FILTER",
        env = "QUORATE_LOG",
        default_value = "info,openraft=warn",
        hide_env_values = true
    )]
    log: String,
    /// After the loss of a majority: go on as a cluster of one with what this member has. Asks first
    #[arg(long)]
    force_new_cluster: bool,
    /// Answer yes to the question of --force-new-cluster
    #[arg(long, requires = "force_new_cluster")]
    yes: bool,
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let value: Option<&String> = matches.get_one(setting.name);
            Some((setting.name, value?.clone()))
        });
        Ok(Self { given: given.collect(), own: OwnArgs::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ServeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = SETTINGS.iter().map(|setting| {
            Arg::new(setting.name)
                .long(setting.name)
                .value_name(setting.value)
                .action(ArgAction::Set)
                .help(help_of(setting))
                .help_heading("Settings")
        });
        OwnArgs::augment_args(command.args(flags))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What it is, its default, and its bounds.
fn help_of(setting: &Setting) -> String {
    let mut facts = Vec::new();
    if !setting.default.is_empty() {
        facts.push(format!("default: {} {}", setting.default, unit(setting)).trim_end().to_owned());
    }
    if let Some((least, most)) = setting.bounds {
        facts.push(format!("from {least} to {most}"));
    }
    if facts.is_empty() { setting.about.to_owned() } else { format!("{} [{}]", setting.about, facts.join("; ")) }
}

/// The unit in words, for numbers.
fn unit(setting: &Setting) -> &'static str {
    match setting.value {
        "MS" => "ms",
        "SECONDS" => "s",
        "BYTES" => "bytes",
        _ => "",
    }
}

/// Runs a member.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = configuration(args, std::env::vars_os())?;
    if args.own.force_new_cluster && !args.own.yes {
        confirm_new_cluster(&config)?;
    }
    log_to_stderr(&args.own.log)?;
    // The allocator asks for huge pages, of which each thread touches some that it does not fill: 60 MiB at the start.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::info!(%error, "huge pages stay on; the member takes more memory than it needs");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot start", &error))?;
    runtime.block_on(serve(config, args.own.force_new_cluster))
}

/// Flags, then the environment, then the file: a stronger source that has spoken is not overruled.
fn configuration(args: &ServeArgs, environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, Failure> {
    let refused = |error: quorate_server::config::ConfigError| Failure::Usage(error.to_string());
    let mut settings = Settings::default();
    for (name, value) in &args.given {
        settings.set(name, value.clone(), Source::Flag).map_err(refused)?;
    }
    let mut variables = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with("QUORATE_") || is_of_kubernetes(&name) || is_of_a_hold(&name) {
            continue;
        }
        let value = value.into_string().map_err(|_| Failure::Usage(format!("the value of {name} is not UTF-8")))?;
        variables.push((name, value));
    }
    settings.read_environment(variables).map_err(refused)?;
    if let Some(file) = &args.own.config {
        settings.read_file(file).map_err(refused)?;
    }
    settings.resolve().map_err(refused)
}

/// A member may be started by `quorate lock` or `quorate elect`, which say so in variables.
fn is_of_a_hold(name: &str) -> bool {
    name.starts_with("QUORATE_LOCK_") || name.starts_with("QUORATE_ELECTION_")
}

/// Kubernetes gives every container variables named after every service; one named `quorate` makes `QUORATE_PORT` and
/// its kin, which nobody meant as settings.
fn is_of_kubernetes(name: &str) -> bool {
    name.ends_with("_PORT")
        || name.contains("_PORT_")
        || name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
}

fn confirm_new_cluster(config: &Config) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let text = "--force-new-cluster asks first, and there is no terminal to ask; give --yes if you are sure";
        return Err(Failure::Usage(text.to_owned()));
    }
    eprintln!(
        "The data in {} becomes a new cluster of this one member.\n\
         What a lost majority acknowledged and this member never received stays lost, and no other member of the old \
         cluster may ever be started again.",
        config.data_dir.display()
    );
    eprint!("Type the name of this member ({}) to go on: ", config.name);
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).map_err(|error| Failure::io("cannot read the answer", &error))?;
    if answer.trim() == config.name { Ok(()) } else { Err(Failure::Failed("nothing was changed".to_owned())) }
}

fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| Failure::Usage(format!("--log {filter}: {error}")))?;
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    subscriber.try_init().map_err(|error| Failure::Failed(format!("cannot log: {error}")))
}

/// Runs until asked to stop, or until the member cannot go on.
async fn serve(config: Config, force_new_cluster: bool) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    if force_new_cluster {
        let begun = quorate_server::restore::force_new_cluster(&config);
        let begun = begun.map_err(|error| Failure::Failed(format!("cannot begin a new cluster: {error}")))?;
        tracing::warn!(member = %begun.member, revision = %begun.revision, "this member is a new cluster of one");
    }
    let server = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        started = Server::start(config) => started.map_err(|error| Failure::Failed(error.to_string()))?,
    };
    let failed = tokio::select! {
        biased;
        () = signals.next() => None,
        reason = server.failed() => Some(reason),
    };
    // Whoever asks twice does not want to wait.
    tokio::select! {
        () = server.stop() => {}
        () = signals.next() => return Err(Failure::Interrupted),
    }
    failed.map_or(Ok(()), |reason| Err(Failure::Failed(reason)))
}

/// SIGTERM and Ctrl-C.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        let cannot = |error| Failure::io("cannot listen for signals", &error);
        let terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt()).map_err(cannot)? })
    }

    /// Completes when one comes. Safe to cancel.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn configured(flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, Failure> {
        let cli = Cli::try_parse_from([&["quorate", "serve"], flags].concat()).unwrap();
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        configuration(&args, variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn flags_and_variables_reach_the_configuration() {
        let config = configured(&["--name", "n7"], &[("QUORATE_PEER_LISTEN", "127.0.0.1:9"), ("HOME", "/x")]).unwrap();
        assert_eq!((config.name.as_str(), config.peer_listen.as_str()), ("n7", "127.0.0.1:9"));
    }

    #[test]
    fn what_kubernetes_adds_is_passed_over() {
        let variables = [
            ("QUORATE_PORT", "tcp://10.0.0.1:2379"),
            ("QUORATE_PORT_2379_TCP_ADDR", "10.0.0.1"),
            ("QUORATE_SERVICE_HOST", "10.0.0.1"),
            ("QUORATE_HEADLESS_SERVICE_PORT_CLIENT", "2379"),
        ];
        assert!(configured(&[], &variables).is_ok());
        assert_eq!(configured(&[], &[("QUORATE_PROT", "1")]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn no_setting_looks_like_a_variable_of_kubernetes() {
        for setting in SETTINGS {
            let variable = format!("QUORATE_{}", setting.name.to_ascii_uppercase().replace('-', "_"));
            assert!(!is_of_kubernetes(&variable), "{variable}");
        }
    }
}

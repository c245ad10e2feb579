//! `quorate service`: register, find, watch, take out of service, settings.
//!
//! Invariants:
//! - What is registered by `register` is removed when that ends, in whatever way it can still do something about it.

use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt as _;
use quorate::{Client, Health, Instance, ServiceChange};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::output::{Output, Style, printable};

mod configure;
mod register;

pub use configure::ConfigureArgs;
pub use register::{RegisterArgs, run as register};

/// Examples for the help.
pub const EXAMPLES: &str = "\
Examples:
  quorate service register orders orders-1 --address 10.0.0.7 --port 8080 -- ./orders
  quorate service list
  quorate service resolve orders --zone eu-1
  quorate service watch orders
  quorate service maintenance on orders orders-1 --note 'new disk'
  quorate service configure orders --protect-share 0.7";

/// What to do with services.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Register an instance and keep it registered until Ctrl-C, or while a command runs
    #[command(after_help = register::EXAMPLES)]
    Register(Box<RegisterArgs>),
    /// List all services, or all instances of one
    #[command(after_help = "Examples:\n  quorate service list\n  quorate service list orders --output json")]
    List(ListArgs),
    /// Show the instances of a service that can be called (exit code 3 if there is none)
    #[command(after_help = "Examples:\n  quorate service resolve orders\n  \
                            quorate service resolve orders --tag v2 --zone eu-1\n  \
                            quorate service resolve orders --all")]
    Resolve(ResolveArgs),
    /// Print the instances of a service, then each change
    #[command(after_help = "Examples:\n  quorate service watch orders\n  quorate service watch orders --all --count 1")]
    Watch(WatchArgs),
    /// Remove an instance, whoever registered it
    #[command(after_help = "Examples:\n  quorate service deregister orders orders-1")]
    Deregister(OneInstance),
    /// Take an instance out of service, or back
    #[command(after_help = "Examples:\n  quorate service maintenance on orders orders-1 --note 'new disk'\n  \
                            quorate service maintenance off orders orders-1")]
    Maintenance(MaintenanceArgs),
    /// Say how an instance is: the answer to its TTL check
    #[command(after_help = "Examples:\n  quorate service report orders orders-1 warning --note 'queue is long'")]
    Report(ReportArgs),
    /// Show or change the settings of a service
    #[command(after_help = configure::EXAMPLES)]
    Configure(ConfigureArgs),
}

/// Flags of `service list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Service of which to list all instances
    pub service: Option<String>,
}

/// Flags of `service resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// Service
    pub service: String,
    /// Which instances
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Flags of `service watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Service
    pub service: String,
    /// Which instances
    #[command(flatten)]
    pub filter: FilterArgs,
    /// End after so many changes; the first are the instances as they are
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// Which instances.
#[derive(Debug, Clone, Args)]
pub struct FilterArgs {
    /// Only those with this tag; may be given more than once
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Only those of this zone
    #[arg(long)]
    pub zone: Option<String>,
    /// Also those that should not be called: critical, in maintenance, unreadable
    #[arg(long)]
    pub all: bool,
}

/// An instance.
#[derive(Debug, Args)]
pub struct OneInstance {
    /// Service
    pub service: String,
    /// Id of the instance
    pub id: String,
}

/// Flags of `service maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// Out of service, or back
    pub switch: Switch,
    /// Which
    #[command(flatten)]
    pub instance: OneInstance,
    /// Why, for people
    #[arg(long, default_value = "")]
    pub note: String,
}

/// Flags of `service report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Which
    #[command(flatten)]
    pub instance: OneInstance,
    /// How it is
    pub health: Reported,
    /// Why, for people
    #[arg(long, default_value = "")]
    pub note: String,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Out of service.
    On,
    /// Back.
    Off,
}

/// What an instance can say of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reported {
    /// Serves.
    Passing,
    /// Serves, but something wants attention.
    Warning,
    /// Should get no calls.
    Critical,
}

impl From<Reported> for Health {
    fn from(reported: Reported) -> Self {
        match reported {
            Reported::Passing => Self::Passing,
            Reported::Warning => Self::Warning,
            Reported::Critical => Self::Critical,
        }
    }
}

/// Runs it; `register` has a way of its own, because it cleans up at Ctrl-C.
pub async fn run(command: ServiceCommand, client: &Client, output: Output) -> Result<(), Failure> {
    match command {
        ServiceCommand::Register(args) => register(*args, client, output).await,
        ServiceCommand::List(args) => list(args, client, output).await,
        ServiceCommand::Resolve(args) => resolve(args, client, output).await,
        ServiceCommand::Watch(args) => watch(args, client, output).await,
        ServiceCommand::Deregister(args) => deregister(args, client, output).await,
        ServiceCommand::Maintenance(args) => maintenance(args, client, output).await,
        ServiceCommand::Report(args) => report(args, client, output).await,
        ServiceCommand::Configure(args) => configure::run(args, client, output).await,
    }
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Result<(), Failure> {
    if let Some(service) = args.service {
        let all = FilterArgs { tag: Vec::new(), zone: None, all: true };
        return show(&service, &all, client, output).await;
    }
    let services = client.services().await?;
    if output.is_json() {
        let services: Vec<Json> = services
            .iter()
            .map(|each| json!({"service": each.name, "instances": each.instances, "healthy": each.healthy}))
            .collect();
        return output.json(&json!({"services": services}));
    }
    let rows: Vec<Vec<String>> = services
        .into_iter()
        .map(|each| vec![each.name, each.instances.to_string(), each.healthy.to_string()])
        .collect();
    output.table(&["SERVICE", "INSTANCES", "HEALTHY"], &rows)
}

async fn resolve(args: ResolveArgs, client: &Client, output: Output) -> Result<(), Failure> {
    show(&args.service, &args.filter, client, output).await
}

async fn show(service: &str, filter: &FilterArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let resolved = filtered(service, filter, client).resolve().await?;
    if resolved.instances.is_empty() {
        return Err(Failure::NotFound(format!(
            "no instance of {service} matches; --all shows also those that are ill"
        )));
    }
    if resolved.protected {
        eprintln!("quorate: more instances of {service} vanished at once than is plausible; they are shown as expired");
    }
    if output.is_json() {
        let instances: Vec<Json> = resolved.instances.iter().map(json_of).collect();
        return output.json(&json!({"instances": instances, "protected": resolved.protected}));
    }
    let rows: Vec<Vec<String>> = resolved.instances.iter().map(row_of).collect();
    output.table(&["ID", "ADDRESS", "HEALTH", "WEIGHT", "ZONE", "TAGS", "NOTE"], &rows)
}

fn filtered(service: &str, filter: &FilterArgs, client: &Client) -> quorate::Service {
    let mut wanted = client.service(service);
    for tag in &filter.tag {
        wanted = wanted.tag(tag);
    }
    if let Some(zone) = &filter.zone {
        wanted = wanted.only_zone(zone);
    }
    if filter.all { wanted.worst(Health::Maintenance) } else { wanted }
}

async fn watch(args: WatchArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut left = args.count;
    let mut changes = filtered(&args.service, &args.filter, client).watch();
    while let Some(change) = changes.next().await {
        print(&change?, output)?;
        left = left.map(|left| left - 1);
        if left == Some(0) {
            return Ok(());
        }
    }
    Err(Failure::Failed("the watch ended by itself".to_owned()))
}

fn print(change: &ServiceChange, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json_line(&json!({
            "revision": change.revision.get(), "snapshot": change.snapshot, "protected": change.protected,
            "changed": change.changed.iter().map(json_of).collect::<Vec<_>>(), "removed": change.removed,
        }));
    }
    let revision = output.paint.paint(Style::Dim, &format!("{:>6}", change.revision.get()));
    for instance in &change.changed {
        let mark = output.paint.paint(Style::Green, if change.snapshot { "there  " } else { "changed" });
        output.line(&format!("{revision}  {mark}  {}", row_of(instance).join("  ").trim_end()))?;
    }
    for id in &change.removed {
        let mark = output.paint.paint(Style::Red, "removed");
        output.line(&format!("{revision}  {mark}  {}", printable(id.as_bytes())))?;
    }
    if change.snapshot && change.changed.is_empty() {
        return output.line(&format!("{revision}  no instance yet"));
    }
    Ok(())
}

async fn deregister(args: OneInstance, client: &Client, output: Output) -> Result<(), Failure> {
    let OneInstance { service, id } = args;
    if !client.deregister(&service, &id).await? {
        return Err(Failure::NotFound(format!("{service}/{id} is not registered")));
    }
    output.either(|| format!("{service}/{id} is removed"), || json!({"service": service, "id": id, "removed": true}))
}

async fn maintenance(args: MaintenanceArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let OneInstance { service, id } = args.instance;
    let health = client.set_maintenance(&service, &id, args.switch == Switch::On, args.note).await?;
    now(&service, &id, health, output)
}

async fn report(args: ReportArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let OneInstance { service, id } = args.instance;
    let health = client.report_health(&service, &id, args.health.into(), args.note).await?;
    now(&service, &id, health, output)
}

fn now(service: &str, id: &str, health: Health, output: Output) -> Result<(), Failure> {
    output.either(
        || format!("{service}/{id} is {health}"),
        || json!({"service": service, "id": id, "health": health.to_string()}),
    )
}

fn row_of(instance: &Instance) -> Vec<String> {
    let health = match (&instance.malformed, instance.expired) {
        (Some(_), _) => "unreadable".to_owned(),
        (None, true) => format!("{} (expired)", instance.health),
        (None, false) => instance.health.to_string(),
    };
    let note = instance.malformed.as_ref().unwrap_or(&instance.health_note);
    let address = if instance.malformed.is_some() { String::new() } else { instance.authority() };
    [&instance.id, &address, &health, &instance.weight.to_string(), &instance.zone, &instance.tags.join(","), note]
        .map(|text| printable(text.as_bytes()))
        .to_vec()
}

fn json_of(instance: &Instance) -> Json {
    json!({
        "service": instance.service, "id": instance.id, "address": instance.address, "port": instance.port,
        "tags": instance.tags, "metadata": instance.metadata, "weight": instance.weight, "zone": instance.zone,
        "health": instance.health.to_string(), "health_note": instance.health_note,
        "create_revision": instance.create_revision.get(), "mod_revision": instance.mod_revision.get(),
        "lease": instance.lease.map(|lease| lease.to_string()), "malformed": instance.malformed,
        "expired": instance.expired,
    })
}

//! `quorate status`: every member's own view, side by side.
//!
//! Invariants:
//! - A member that does not answer has a row all the same, which says so.

use std::collections::BTreeSet;

use clap::Args;
use futures::future::join_all;
use quorate::{Client, Member, Status};
use serde_json::{Value as Json, json};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::{Output, byte_count};

/// Examples for the help.
pub const EXAMPLES: &str = "\
Asks every member of the cluster, found through --endpoints. Needs no quorum. Exit code 5 when no member answers, \
or none knows a leader. The digest sums up all that was ever written: members with the same applied index have the \
same digest.

Examples:
  quorate status
  quorate status --output json
  quorate status --endpoints 10.0.0.1:2379,10.0.0.2:2379";

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Ask only the members named in --endpoints
    #[arg(long)]
    pub only_endpoints: bool,
}

/// One member's answer, or why there is none.
struct Row {
    endpoint: String,
    name: Option<String>,
    status: Result<Status, Failure>,
}

/// Asks all members at once.
pub async fn run(args: StatusArgs, connection: &Connection, output: Output) -> Result<(), Failure> {
    let client = connection.open_for_questions()?;
    let mut rows = ask(&client, connection.endpoints.iter().map(|endpoint| (None, endpoint.clone())).collect()).await;
    if !args.only_endpoints && rows.iter().any(|row| row.status.is_ok()) {
        let others = others(&client, &mut rows).await;
        rows.extend(ask(&client, others).await);
    }
    rows.sort_by_key(Row::order);
    let printed = if output.is_json() { print_json(&rows, output) } else { print_table(&rows, output) };
    printed?;
    verdict(&rows)
}

async fn ask(client: &Client, endpoints: Vec<(Option<String>, String)>) -> Vec<Row> {
    join_all(endpoints.into_iter().map(async |(name, endpoint)| {
        let status = client.status_of(&endpoint).await.map_err(Failure::from);
        Row { endpoint, name, status }
    }))
    .await
}

/// Members that have not been asked; those that were asked in vain get their names.
async fn others(client: &Client, asked: &mut [Row]) -> Vec<(Option<String>, String)> {
    let Ok(found) = client.members_serializable().await else { return Vec::new() };
    for row in asked.iter_mut().filter(|row| row.status.is_err()) {
        let member = found.members.iter().find(|member| member.client_address == row.endpoint);
        row.name = member.map(|member| member.name.clone());
    }
    let known: BTreeSet<_> = asked.iter().filter_map(|row| row.status.as_ref().ok()).map(|s| s.member.id).collect();
    let endpoints: BTreeSet<&String> = asked.iter().map(|row| &row.endpoint).collect();
    let unknown = |member: &Member| !known.contains(&member.id) && !endpoints.contains(&member.client_address);
    found.members.into_iter().filter(unknown).map(|member| (Some(member.name), member.client_address)).collect()
}

/// 5 when nobody answers, or nobody knows a leader.
fn verdict(rows: &[Row]) -> Result<(), Failure> {
    let mut answers = rows.iter().filter_map(|row| row.status.as_ref().ok()).peekable();
    if answers.peek().is_none() {
        let reasons = rows.iter().filter_map(|row| row.status.as_ref().err()).map(ToString::to_string);
        return Err(Failure::Unavailable(format!("no member answered: {}", reasons.collect::<Vec<_>>().join("; "))));
    }
    if answers.all(|status| status.leader.is_none()) {
        return Err(Failure::Unavailable("no member knows a leader: the cluster has no quorum".to_owned()));
    }
    Ok(())
}

impl Row {
    fn order(&self) -> (String, String) {
        let name = match &self.status {
            Ok(status) => status.member.name.clone(),
            Err(_) => self.name.clone().unwrap_or_default(),
        };
        (name, self.endpoint.clone())
    }

    fn role(status: &Status) -> &'static str {
        match (status.learner, status.leader.is_some() && status.leader == status.member.id) {
            (true, _) => "learner",
            (false, true) => "leader",
            (false, false) => "follower",
        }
    }

    fn cells(&self) -> Vec<String> {
        let Ok(status) = &self.status else {
            let name = self.name.clone().unwrap_or_else(|| "?".to_owned());
            return vec![name, "?".to_owned(), self.endpoint.clone(), "no answer".to_owned()];
        };
        vec![
            status.member.name.clone(),
            status.member.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            self.endpoint.clone(),
            Self::role(status).to_owned(),
            status.header.raft_term.to_string(),
            status.header.revision.to_string(),
            status.applied_index.to_string(),
            format!("{:016x}@{}", status.digest, status.digest_index),
            byte_count(status.store_bytes),
            if status.alarms.is_empty() { "-".to_owned() } else { status.alarms.join("; ") },
        ]
    }

    fn json(&self) -> Json {
        match &self.status {
            Ok(status) => self.answer(status),
            Err(failure) => json!({"name": self.name, "endpoint": self.endpoint, "error": failure.to_string()}),
        }
    }

    fn answer(&self, status: &Status) -> Json {
        json!({
            "name": status.member.name, "id": status.member.id.map(|id| id.to_string()), "endpoint": self.endpoint,
            "role": Self::role(status), "leader": status.leader.map(|id| id.to_string()),
            "term": status.header.raft_term, "revision": status.header.revision.get(),
            "compact_revision": status.compact_revision.get(), "applied_index": status.applied_index,
            "committed_index": status.committed_index, "last_log_index": status.last_log_index,
            "digest": format!("{:016x}", status.digest), "digest_index": status.digest_index,
            "store_bytes": status.store_bytes, "log_bytes": status.log_bytes,
            "disk_free_bytes": status.disk_free_bytes, "version": status.version,
            "state_version": status.state_version, "keys": status.keys, "leases": status.leases,
            "watches": status.watches, "alarms": status.alarms, "learner": status.learner,
        })
    }
}

fn print_table(rows: &[Row], output: Output) -> Result<(), Failure> {
    let headers = ["NAME", "ID", "ENDPOINT", "ROLE", "TERM", "REVISION", "APPLIED", "DIGEST@INDEX", "STORE", "ALARMS"];
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    output.table(&headers, &cells)
}

fn print_json(rows: &[Row], output: Output) -> Result<(), Failure> {
    let cluster = rows.iter().find_map(|row| row.status.as_ref().ok()).map(|s| format!("{:016x}", s.header.cluster_id));
    let members: Vec<Json> = rows.iter().map(Row::json).collect();
    output.json(&json!({"cluster_id": cluster, "members": members}))
}

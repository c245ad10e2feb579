//! `quorate member`: who belongs to the cluster.
//!
//! Invariants:
//! - A member is named by its name or its id; a name that two members share is refused.

use clap::{Args, Subcommand};
use quorate::{Client, Member, MemberId, Members};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::output::Output;

/// Examples for the help.
pub const EXAMPLES: &str = "\
A member is added by starting it: quorate serve --name n4 --data-dir d4 … --join 127.0.0.1:2379

Examples:
  quorate member list
  quorate member promote n4        a learner that has caught up gets a vote
  quorate member remove n1
  quorate member transfer n2       n2 leads from now on
  quorate member transfer          some other member leads from now on";

/// What to do with members.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members
    #[command(after_help = "Examples:\n  quorate member list --output json")]
    List,
    /// Give a learner that has caught up a vote
    #[command(after_help = "Examples:\n  quorate member promote n4")]
    Promote(OneMember),
    /// Remove a member; refused if what remains would have no reachable quorum
    #[command(after_help = "Examples:\n  quorate member remove n1")]
    Remove(OneMember),
    /// Hand leadership to another member
    #[command(after_help = "Examples:\n  quorate member transfer n2\n  quorate member transfer")]
    Transfer(TransferArgs),
}

/// A member.
#[derive(Debug, Args)]
pub struct OneMember {
    /// Name, or id in hexadecimal
    pub member: String,
}

/// Flags of `member transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// Name or id of the member that is to lead; without it the one that is most caught up
    pub to: Option<String>,
}

/// Runs it.
pub async fn run(command: MemberCommand, client: &Client, output: Output) -> Result<(), Failure> {
    match command {
        MemberCommand::List => print(&client.members().await?, output),
        MemberCommand::Promote(args) => {
            let id = resolve(&args.member, client).await?;
            print(&client.member_promote(id).await?, output)
        }
        MemberCommand::Remove(args) => {
            let id = resolve(&args.member, client).await?;
            print(&client.member_remove(id).await?, output)
        }
        MemberCommand::Transfer(args) => transfer(args, client, output).await,
    }
}

async fn transfer(args: TransferArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let to = match args.to {
        Some(name) => Some(resolve(&name, client).await?),
        None => None,
    };
    let leader = client.transfer_leader(to).await?;
    let members = client.members().await?.members;
    let name = members.iter().find(|member| member.id == leader).map_or("nobody", |member| member.name.as_str());
    output.either(
        || format!("{name} ({}) leads", id_text(leader)),
        || json!({"leader": leader.map(|id| id.to_string()), "name": name}),
    )
}

/// The id of the member that is meant.
async fn resolve(text: &str, client: &Client) -> Result<MemberId, Failure> {
    find(text, &client.members().await?.members)
}

fn find(text: &str, members: &[Member]) -> Result<MemberId, Failure> {
    let named: Vec<&Member> = members.iter().filter(|member| member.name == text).collect();
    if named.len() > 1 {
        return Err(Failure::Usage(format!("several members are named {text}; give the id instead")));
    }
    let id = u64::from_str_radix(text, 16).ok().and_then(MemberId::new);
    let by_id = members.iter().find(|member| member.id.is_some() && member.id == id);
    named.first().copied().or(by_id).and_then(|member| member.id).ok_or_else(|| {
        let there: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        Failure::NotFound(format!("no member {text}; there are {}", there.join(", ")))
    })
}

fn id_text(id: Option<MemberId>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

fn print(found: &Members, output: Output) -> Result<(), Failure> {
    let mut members: Vec<&Member> = found.members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    // After a change the answer does not say who leads.
    let leads = |member: &Member| member.id.is_some() && member.id == found.leader;
    let role = |member: &Member| match (member.learner, leads(member)) {
        (true, _) => "learner",
        (false, true) => "leader",
        (false, false) => "voter",
    };
    if output.is_json() {
        let members: Vec<Json> = members
            .iter()
            .map(|member| {
                json!({
                    "id": id_text(member.id), "name": member.name, "role": role(member),
                    "client_address": member.client_address, "peer_address": member.peer_address,
                })
            })
            .collect();
        return output.json(&json!({"members": members, "leader": found.leader.map(|id| id.to_string())}));
    }
    let row = |member: &&Member| {
        let (id, role) = (id_text(member.id), role(member).to_owned());
        vec![member.name.clone(), id, role, member.client_address.clone(), member.peer_address.clone()]
    };
    let rows: Vec<Vec<String>> = members.iter().map(row).collect();
    output.table(&["NAME", "ID", "ROLE", "CLIENT ADDRESS", "PEER ADDRESS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        let (peer_address, client_address) = (String::new(), String::new());
        Member { id: MemberId::new(id), name: name.to_owned(), peer_address, client_address, learner: false }
    }

    #[test]
    fn a_member_is_named_by_name_or_id() {
        let members = [member(0xa1, "n1"), member(0xa2, "n2"), member(0xa3, "twin"), member(0xa4, "twin")];
        assert_eq!(find("n2", &members).unwrap(), MemberId::new(0xa2).unwrap());
        assert_eq!(find("00000000000000a1", &members).unwrap(), MemberId::new(0xa1).unwrap());
        assert_eq!(find("twin", &members).unwrap_err().exit_code(), 2);
        let unknown = find("n9", &members).unwrap_err();
        assert_eq!(unknown.exit_code(), 3);
        assert!(unknown.to_string().contains("n1, n2"));
        assert_eq!(find("0", &members).unwrap_err().exit_code(), 3);
    }
}

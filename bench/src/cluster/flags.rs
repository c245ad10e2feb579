//! How each system is told to be a member of three: everything not named here is that system's default.
//!
//! Invariants:
//! - Both listen at the same ports of addresses of their own and fsync as they do by default.

use super::{Member, System};
use crate::plan::PEER_QUOTA_BYTES;

/// The arguments of member `i`.
pub fn of(system: System, members: &[Member], i: usize) -> Vec<String> {
    match system {
        System::Peer => peer(members, &members[i]),
        System::Quorate => quorate(members, &members[i]),
    }
}

fn peer(members: &[Member], member: &Member) -> Vec<String> {
    let client = format!("http://{}", member.client_address());
    let own = format!("http://{}", member.peer_address());
    let all: Vec<_> = members.iter().map(|one| format!("{}=http://{}", one.name, one.peer_address())).collect();
    let data = member.data.display().to_string();
    let (all, quota) = (all.join(","), PEER_QUOTA_BYTES.to_string());
    let flags: [(&str, &str); 9] = [
        ("--name", &member.name),
        ("--data-dir", &data),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &own),
        ("--initial-advertise-peer-urls", &own),
        ("--initial-cluster", &all),
        ("--initial-cluster-state", "new"),
        ("--quota-backend-bytes", &quota),
    ];
    flags.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
}

fn quorate(members: &[Member], member: &Member) -> Vec<String> {
    let (client, own) = (member.client_address().to_string(), member.peer_address().to_string());
    let all: Vec<_> = members.iter().map(|one| format!("{}={}", one.name, one.peer_address())).collect();
    let (data, all) = (member.data.display().to_string(), all.join(","));
    let flags: [(&str, &str); 5] = [
        ("--name", &member.name),
        ("--data-dir", &data),
        ("--listen", &client),
        ("--peer-listen", &own),
        ("--cluster", &all),
    ];
    let flags = flags.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]);
    std::iter::once("serve".to_owned()).chain(flags).collect()
}

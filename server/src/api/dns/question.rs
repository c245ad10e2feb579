//! What a name of our domain asks for.
//!
//! | name below the domain | asks for |
//! |---|---|
//! | `<service>.service` | the healthy instances of a service |
//! | `<tag>.<service>.service`, `_<service>._<tag>.service` | those with a tag |
//! | `_<service>._tcp.service`, `_<service>._tcp` | the instances, as RFC 2782 names them |
//! | `<instance>.<service>.instance` | one instance |
//! | `<address in hex>.addr` | an address: what service records point at |
//!
//! Names of services and instances may have dots; so a name may be read in several ways, of which the first that
//! exists counts.
//!
//! Invariants:
//! - Whatever labels come, they ask for something here, or for nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

use crate::recipes::discovery::ServiceName;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Not of our domain.
    Elsewhere,
    /// The domain itself.
    Apex,
    /// There is nothing here, but there are names below.
    Inner,
    /// Instances: the first of these that exists.
    Instances(Vec<Wanted>),
    /// An address.
    Address(IpAddr),
    /// No such name can be.
    Nothing,
}

/// Instances of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which service.
    pub service: ServiceName,
    /// Which of its instances.
    pub only: Only,
}

/// Which instances of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Only {
    /// All.
    All,
    /// Those with this tag, whatever its case.
    Tag(String),
    /// The one with this id, whatever its case.
    Id(String),
}

/// Reads a name.
pub fn read(name: &Name, domain: &Name) -> Asked {
    let (Some(labels), Some(domain)) = (labels(name), labels(domain)) else { return Asked::Elsewhere };
    let Some(below) = labels.strip_suffix(&domain[..]) else { return Asked::Elsewhere };
    let Some((kind, rest)) = below.split_last() else { return Asked::Apex };
    match (kind.as_str(), rest) {
        ("service" | "instance" | "addr" | "_tcp" | "_udp", []) => Asked::Inner,
        ("service", rest) => service(rest),
        ("instance", rest) => instances(splits(rest).map(|(id, service)| (service, Only::Id(id)))),
        ("addr", [address]) => address_of(address).map_or(Asked::Nothing, Asked::Address),
        ("_tcp" | "_udp", rest) => match underscored(rest) {
            Some(service) => instances([(service, Only::All)]),
            None => Asked::Nothing,
        },
        _ => Asked::Nothing,
    }
}

fn service(rest: &[String]) -> Asked {
    if let Some((last, before)) = rest.split_last()
        && let Some(tag) = last.strip_prefix('_')
        && let Some(service) = underscored(before)
    {
        let only = if matches!(tag, "tcp" | "udp") { Only::All } else { Only::Tag(tag.to_owned()) };
        return instances([(service, only)]);
    }
    let whole = [(rest.join("."), Only::All)];
    instances(whole.into_iter().chain(splits(rest).map(|(tag, service)| (service, Only::Tag(tag)))))
}

/// `_name` of a service, which may have dots.
fn underscored(labels: &[String]) -> Option<String> {
    labels.join(".").strip_prefix('_').map(str::to_owned)
}

/// All ways to cut the labels in two, the first part as short as possible.
fn splits(labels: &[String]) -> impl Iterator<Item = (String, String)> {
    (1..labels.len()).map(|at| (labels[..at].join("."), labels[at..].join(".")))
}

fn instances(ways: impl IntoIterator<Item = (String, Only)>) -> Asked {
    let wanted =
        ways.into_iter().filter_map(|(service, only)| Some(Wanted { service: ServiceName::new(service).ok()?, only }));
    let wanted: Vec<Wanted> = wanted.collect();
    if wanted.is_empty() { Asked::Nothing } else { Asked::Instances(wanted) }
}

fn address_of(label: &str) -> Option<IpAddr> {
    match label.len() {
        _ if !label.bytes().all(|byte| byte.is_ascii_hexdigit()) => None,
        8 => u32::from_str_radix(label, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => u128::from_str_radix(label, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

/// The first label of the name of an address.
pub fn label_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    }
}

/// In lower case; `None` for names that none of ours can be.
fn labels(name: &Name) -> Option<Vec<String>> {
    let text = |label: &[u8]| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase);
    name.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Asked {
        let labels = name.strip_suffix('.').unwrap().split('.').map(str::as_bytes);
        read(&Name::from_labels(labels).unwrap(), &Name::from_ascii("q.example.").unwrap())
    }

    fn ways(name: &str) -> Vec<(String, Only)> {
        match asked(name) {
            Asked::Instances(wanted) => {
                wanted.into_iter().map(|wanted| (wanted.service.as_str().to_owned(), wanted.only)).collect()
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    fn all(service: &str) -> (String, Only) {
        (service.to_owned(), Only::All)
    }

    fn tag(service: &str, tag: &str) -> (String, Only) {
        (service.to_owned(), Only::Tag(tag.to_owned()))
    }

    #[test]
    fn names_of_services_are_read_in_all_their_forms() {
        assert_eq!(ways("WEB.Service.q.EXAMPLE."), [all("web")]);
        assert_eq!(ways("v2.web.service.q.example."), [all("v2.web"), tag("web", "v2")]);
        assert_eq!(ways("_web._tcp.service.q.example."), [all("web")]);
        assert_eq!(ways("_web._canary.service.q.example."), [tag("web", "canary")]);
        assert_eq!(ways("_a.b._udp.q.example."), [all("a.b")]);
        let id = |service: &str, id: &str| (service.to_owned(), Only::Id(id.to_owned()));
        assert_eq!(ways("a.b.web.instance.q.example."), [id("b.web", "a"), id("web", "a.b")]);
    }

    #[test]
    fn other_names_ask_for_nothing() {
        assert_eq!(asked("example."), Asked::Elsewhere);
        assert_eq!(asked("xq.example."), Asked::Elsewhere);
        assert_eq!(asked("q.example."), Asked::Apex);
        assert_eq!(asked("service.q.example."), Asked::Inner);
        for nothing in ["web.q.example.", "w@b.service.q.example.", "web._tcp.q.example.", "a.instance.q.example."] {
            assert_eq!(asked(nothing), Asked::Nothing, "{nothing}");
        }
    }

    #[test]
    fn addresses_have_names() {
        for address in ["10.1.2.3", "fd00::7"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(asked(&format!("{}.addr.q.example.", label_of(address))), Asked::Address(address));
        }
        assert_eq!(asked("0a01020.addr.q.example."), Asked::Nothing);
        assert_eq!(asked("+a010203.addr.q.example."), Asked::Nothing);
    }
}

//! Answers: which records a question gets.
//!
//! Invariants:
//! - Only instances that can be used are given: passing, or with a warning; while their service is protected, also
//!   those that have expired.
//! - A name that exists has at least an empty answer, with the SOA that says for how long others may remember that.
//! - An answer never has both an alias and other records for a name.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use quorate_proto::v1;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::question::{Asked, Only, label_of};
use crate::recipes::discovery::{Looked, is_healthy};

/// How long others may remember what does not depend on a service.
const TTL_S: u32 = 5;
/// Longest text of one string in a text record.
const TEXT_BYTES_MAX: usize = 255;
/// Of all strings of one record. A record that no message has room for would hide all that follow it.
const RECORD_BYTES_MAX: usize = 8 << 10;

/// What is answered to a question.
#[derive(Debug)]
pub struct Answer {
    /// `NXDOMAIN`, or no error.
    pub code: ResponseCode,
    /// To the question.
    pub answers: Vec<Record>,
    /// What those who ask will want next; may be left out.
    pub additionals: Vec<Record>,
    /// For how long to remember that there is nothing.
    pub negative_ttl_s: u32,
}

/// A question of a name of ours.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// As it was asked, case and all.
    pub name: &'a Name,
    /// What kind of records.
    pub kind: RecordType,
    /// Of the member.
    pub domain: &'a Name,
}

impl Answer {
    /// The name exists.
    pub fn of(answers: Vec<Record>) -> Self {
        Self { code: ResponseCode::NoError, answers, additionals: Vec::new(), negative_ttl_s: TTL_S }
    }

    /// It does not.
    pub fn nothing() -> Self {
        Self { code: ResponseCode::NXDomain, ..Self::of(Vec::new()) }
    }
}

impl Question<'_> {
    /// What is answered without looking at instances. `None`: this is not for us to say.
    pub fn without_instances(self, asked: &Asked, serial: u32) -> Option<Answer> {
        match asked {
            Asked::Elsewhere => None,
            Asked::Apex => Some(self.apex(serial)),
            Asked::Inner => Some(Answer::of(Vec::new())),
            Asked::Nothing | Asked::Instances(_) => Some(Answer::nothing()),
            Asked::Address(address) => Some(self.address(*address)),
        }
    }

    /// The domain itself.
    fn apex(self, serial: u32) -> Answer {
        let asked = matches!(self.kind, RecordType::SOA | RecordType::ANY);
        Answer::of(if asked { self.soa(serial, TTL_S).into_iter().collect() } else { Vec::new() })
    }

    /// An address.
    fn address(self, address: IpAddr) -> Answer {
        Answer::of(self.address_record(address, TTL_S).into_iter().collect())
    }

    /// The instances of a service that is there; `None`: none of it is what is asked for.
    pub fn instances(self, looked: &Looked, only: &Only) -> Option<Answer> {
        let fits = |instance: &&v1::Instance| match only {
            Only::All => true,
            Only::Tag(tag) => instance.tags.iter().any(|other| other.eq_ignore_ascii_case(tag)),
            Only::Id(id) => instance.id.eq_ignore_ascii_case(id),
        };
        let found: Vec<&v1::Instance> = looked.instances.iter().filter(fits).collect();
        if found.is_empty() && *only != Only::All {
            return None;
        }
        let mut healthy: Vec<&v1::Instance> = found.into_iter().filter(|instance| is_healthy(instance)).collect();
        healthy.shuffle(&mut rand::rng());
        let ttl_s = looked.settings.dns_ttl_s;
        let mut answer = Answer { negative_ttl_s: ttl_s, ..Answer::of(Vec::new()) };
        match self.kind {
            RecordType::SRV => self.services(&healthy, ttl_s, &mut answer),
            RecordType::TXT => answer.answers = self.texts(&healthy, ttl_s),
            _ => answer.answers = self.addresses(&healthy, ttl_s),
        }
        Some(answer)
    }

    /// Addresses, or an alias if all there is are names of hosts.
    fn addresses(self, healthy: &[&v1::Instance], ttl_s: u32) -> Vec<Record> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let (mut names, mut seen) = (Vec::new(), std::collections::HashSet::new());
        for instance in healthy {
            match instance.address.parse::<IpAddr>() {
                Ok(address) if seen.insert(address) => addresses.push(address),
                Ok(_) => {}
                Err(_) => names.extend(host(&instance.address)),
            }
        }
        let wants = matches!(self.kind, RecordType::A | RecordType::AAAA | RecordType::CNAME | RecordType::ANY);
        if addresses.is_empty()
            && wants
            && let Some(name) = names.choose(&mut rand::rng())
        {
            return vec![Record::from_rdata(self.name.clone(), ttl_s, RData::CNAME(CNAME(name.clone())))];
        }
        addresses.into_iter().filter_map(|address| self.address_record(address, ttl_s)).collect()
    }

    fn address_record(self, address: IpAddr, ttl_s: u32) -> Option<Record> {
        let asked = match address {
            IpAddr::V4(_) => RecordType::A,
            IpAddr::V6(_) => RecordType::AAAA,
        };
        let wants = self.kind == asked || self.kind == RecordType::ANY;
        wants.then(|| Record::from_rdata(self.name.clone(), ttl_s, address_data(address)))
    }

    fn services(self, healthy: &[&v1::Instance], ttl_s: u32, answer: &mut Answer) {
        let mut named = std::collections::HashSet::new();
        for instance in healthy {
            let (Ok(port), Ok(weight)) = (u16::try_from(instance.port), u16::try_from(instance.weight)) else {
                continue;
            };
            let address = instance.address.parse::<IpAddr>().ok();
            let target = match address {
                Some(address) => self.name_of(address),
                None => host(&instance.address),
            };
            let Some(target) = target else { continue };
            let record = RData::SRV(SRV::new(1, weight, port, target.clone()));
            answer.answers.push(Record::from_rdata(self.name.clone(), ttl_s, record));
            if let Some(address) = address.filter(|address| named.insert(*address)) {
                answer.additionals.push(Record::from_rdata(target, ttl_s, address_data(address)));
            }
        }
    }

    /// One record for each instance with metadata: `name=value`, as RFC 1464 has it, in the order of their names, as many
    /// as there is room for.
    fn texts(self, healthy: &[&v1::Instance], ttl_s: u32) -> Vec<Record> {
        let with_metadata = healthy.iter().filter(|instance| !instance.metadata.is_empty());
        let record = |instance: &&v1::Instance| {
            let mut pairs: Vec<String> =
                instance.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.sort();
            let mut bytes = 0;
            pairs.retain(|pair| {
                let with = bytes + pair.len() + pair.len().div_ceil(TEXT_BYTES_MAX);
                let fits = with <= RECORD_BYTES_MAX;
                if fits {
                    bytes = with;
                }
                fits
            });
            let texts = pairs.iter().flat_map(|pair| pair.as_bytes().chunks(TEXT_BYTES_MAX)).collect();
            Record::from_rdata(self.name.clone(), ttl_s, RData::TXT(TXT::from_bytes(texts)))
        };
        with_metadata.map(record).collect()
    }

    fn name_of(self, address: IpAddr) -> Option<Name> {
        let below = Name::from_labels([label_of(address).as_bytes(), b"addr"]).ok()?;
        below.append_domain(self.domain).ok()
    }

    /// Who is responsible, and how long to remember that there is nothing.
    pub fn soa(self, serial: u32, negative_ttl_s: u32) -> Option<Record> {
        let server = Name::from_labels(["ns"]).ok()?.append_domain(self.domain).ok()?;
        let mailbox = Name::from_labels(["hostmaster"]).ok()?.append_domain(self.domain).ok()?;
        let soa = SOA::new(server, mailbox, serial, 3_600, 600, 86_400, negative_ttl_s);
        Some(Record::from_rdata(self.domain.clone(), negative_ttl_s, RData::SOA(soa)))
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// The name of a host, complete.
fn host(address: &str) -> Option<Name> {
    let mut name = Name::from_ascii(address).ok()?;
    name.set_fqdn(true);
    Some(name)
}

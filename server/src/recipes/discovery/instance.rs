//! Instances between the wire and the store.
//!
//! Invariants:
//! - A [`Registration`] is within all bounds.
//! - Whatever stands at the key of an instance has a form for the wire; what cannot be read says why.

use bytes::Bytes;
use quorate_proto::v1;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::outcome::{KeyValue, Meta};

use super::check::{Check, Kind};
use super::document::{Document, Health, Maintenance, Reported, check_note};
use super::error::DiscoveryError;
use super::names::{InstanceName, Place, check_id, place};

const TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
const TTL_DEFAULT_MS: u64 = 15_000;

/// What an instance asks for, checked.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Who.
    pub name: InstanceName,
    /// What is to stand there, as if it were new.
    pub document: Document,
    /// The health was named: it replaces what was reported before.
    pub reports: bool,
    /// Time to live; `None`: permanent.
    pub ttl_ms: Option<u64>,
    /// Of an earlier stream.
    pub lease: Option<LeaseId>,
}

/// What stands at the key of an instance.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it says, or why that cannot be read.
    pub document: Result<Document, String>,
    /// Its lease and revisions.
    pub meta: Meta,
}

impl Registration {
    /// As the wire has it.
    pub fn new(request: v1::RegisterInstance) -> Result<Self, DiscoveryError> {
        let v1::RegisterInstance { instance, ttl_ms, lease_id, permanent } = request;
        let instance = instance.ok_or_else(|| DiscoveryError::invalid("register.instance is missing"))?;
        let ttl_ms = match ttl_ms {
            _ if permanent => None,
            0 => Some(TTL_DEFAULT_MS),
            ttl_ms if TTL_MS.contains(&ttl_ms) => Some(ttl_ms),
            ttl_ms => {
                let (least, most) = (TTL_MS.start(), TTL_MS.end());
                return Err(DiscoveryError::invalid(format!("ttl_ms {ttl_ms} is not within {least} and {most}")));
            }
        };
        if permanent && lease_id != 0 {
            return Err(DiscoveryError::invalid("a permanent instance has no lease; leave lease_id out"));
        }
        let name = InstanceName::new(instance.service.clone(), instance.id.clone())?;
        let reports = instance.health() != v1::Health::Unspecified;
        let document = document(instance)?;
        document.write().map_err(DiscoveryError::TooLarge)?;
        Ok(Self { name, document, reports, ttl_ms, lease: LeaseId::new(lease_id) })
    }

    /// What is to stand there instead of `old`, an earlier document of the same registration: what was found out about
    /// it since then stays.
    pub fn over(&self, old: &Document) -> Document {
        let mut new = self.document.clone();
        new.maintenance.clone_from(&old.maintenance);
        if !self.reports {
            new.reported.clone_from(&old.reported);
        }
        for check in &mut new.checks {
            if let Some(before) = old.checks.iter().find(|before| before.is_same(check)) {
                check.clone_from(before);
            }
        }
        new.settle();
        new
    }
}

/// A report, checked.
pub fn reported(health: i32, note: String) -> Result<Reported, DiscoveryError> {
    let health = match v1::Health::try_from(health) {
        Ok(v1::Health::Passing) => Health::Passing,
        Ok(v1::Health::Warning) => Health::Warning,
        Ok(v1::Health::Critical) => Health::Critical,
        _ => return Err(DiscoveryError::invalid("health is PASSING, WARNING or CRITICAL in a report")),
    };
    check_note(&note).map_err(DiscoveryError::Invalid)?;
    Ok(Reported { health, note })
}

/// Maintenance, checked; `None`: it is over.
pub fn maintenance(on: bool, note: String) -> Result<Option<Maintenance>, DiscoveryError> {
    check_note(&note).map_err(DiscoveryError::Invalid)?;
    Ok(on.then_some(Maintenance { note }))
}

fn document(instance: v1::Instance) -> Result<Document, DiscoveryError> {
    let invalid = DiscoveryError::Invalid;
    let said = v1::Health::try_from(instance.health)
        .map_err(|_| invalid(format!("health {} is not known to this version", instance.health)))?;
    let health = match said {
        v1::Health::Unspecified | v1::Health::Passing => Health::Passing,
        v1::Health::Warning => Health::Warning,
        v1::Health::Critical => Health::Critical,
        v1::Health::Maintenance => return Err(invalid("maintenance is set by SetMaintenance".to_owned())),
    };
    check_note(&instance.health_note).map_err(invalid)?;
    let mut checks: Vec<Check> = instance.checks.into_iter().map(Check::from_wire).collect();
    // Who says that it passes is trusted until the first checks. That a report came in time is for reports alone to say.
    if matches!(said, v1::Health::Passing | v1::Health::Warning) {
        for check in checks.iter_mut().filter(|check| !matches!(check.kind(), Some(Kind::Ttl(_)))) {
            check.status = Health::Passing;
        }
    }
    let number = |what: &str, number: u32| {
        u16::try_from(number).map_err(|_| invalid(format!("the {what} {number} is above {}", u16::MAX)))
    };
    let mut document = Document {
        address: instance.address,
        port: number("port", instance.port)?,
        tags: instance.tags,
        metadata: instance.metadata.into_iter().collect(),
        weight: match number("weight", instance.weight)? {
            0 => 100,
            weight => weight,
        },
        zone: instance.zone,
        health: None,
        health_note: String::new(),
        reported: Reported { health, note: instance.health_note },
        maintenance: None,
        checks,
        unknown: serde_json::Map::new(),
    };
    document.settle();
    document.check().map_err(invalid)?;
    Ok(document)
}

impl Stored {
    /// What stands at a key.
    pub fn new(kv: &KeyValue) -> Self {
        Self::of(&kv.value, kv.meta)
    }

    /// What these bytes say.
    pub fn of(value: &Bytes, meta: Meta) -> Self {
        Self { document: Document::read(value), meta }
    }

    /// The document, where one is needed.
    pub fn readable(&self, name: &InstanceName) -> Result<&Document, DiscoveryError> {
        let malformed = |reason: &String| DiscoveryError::Malformed { name: name.to_string(), reason: reason.clone() };
        self.document.as_ref().map_err(malformed)
    }

    /// For the wire. The id may be any text.
    pub fn to_wire(&self, service: &str, id: &str) -> v1::Instance {
        let blank = v1::Instance { service: service.to_owned(), id: id.to_owned(), ..v1::Instance::default() };
        match (&check_id(id), &self.document) {
            (Err(reason), _) | (Ok(()), Err(reason)) => v1::Instance { malformed: reason.clone(), ..blank },
            (Ok(()), Ok(document)) => v1::Instance {
                create_revision: self.meta.create_revision.get(),
                mod_revision: self.meta.mod_revision.get(),
                lease_id: LeaseId::wire(self.meta.lease),
                ..from_document(document, blank)
            },
        }
    }
}

fn from_document(document: &Document, blank: v1::Instance) -> v1::Instance {
    v1::Instance {
        address: document.address.clone(),
        port: document.port.into(),
        tags: document.tags.clone(),
        metadata: document.metadata.clone().into_iter().collect(),
        weight: document.weight.into(),
        zone: document.zone.clone(),
        health: v1::Health::from(document.health()).into(),
        checks: document.checks.iter().map(Check::to_wire).collect(),
        health_note: document.health_note.clone(),
        ..blank
    }
}

/// The instance at a key, for the wire; `None` when the key is none of an instance.
pub fn at(key: &Key, value: &Bytes, meta: Meta) -> Option<v1::Instance> {
    match place(key)? {
        Place::Instance(service, id) => Some(Stored::of(value, meta).to_wire(service.as_str(), id)),
        Place::Settings(_) => None,
    }
}

/// The metadata of a document that was just written at `revision` over `old`.
pub fn written(old: Option<&Meta>, revision: Revision, lease: Option<LeaseId>) -> Meta {
    let at = old.copied().unwrap_or(Meta {
        create_revision: revision,
        mod_revision: revision,
        version: 0,
        lease,
        created_ms: 0,
        modified_ms: 0,
    });
    Meta { mod_revision: revision, version: at.version + 1, lease, ..at }
}

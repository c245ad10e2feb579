//! The instances of a service, and the services there are.
//!
//! Invariants:
//! - All of an answer comes from one view, except what is known of expired instances.
//! - An answer is whole or refused as too large: never silently cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::Revision;
use quorate_proto::v1;
use quorate_state::view::{ListQuery, ReadError};
use tokio::time::Instant;

use super::Discovery;
use super::error::DiscoveryError;
use super::known::Known;
use super::names::{ROOT, ServiceName};
use super::protection::Protection;
use super::settings::ServiceSettings;
use crate::api::{StoreView, Weight};
use crate::recipes::scan::scan;

/// Instances of one answer.
const INSTANCES_MAX: usize = 10_000;
/// Bytes of one answer: below what clients of gRPC take.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Instances that are looked at for one page of services.
const COUNTED_MAX: u64 = 50_000;
/// For this member to see that instances expired: it has them in its store already.
const EXPIRY_PATIENCE: Duration = Duration::from_secs(1);

/// Which instances are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of this service.
    pub service: ServiceName,
    tags: Vec<String>,
    zone: String,
    worst: v1::Health,
}

/// The instances of a service.
#[derive(Debug)]
pub struct Resolved {
    /// The store.
    pub revision: Revision,
    /// In order of their ids.
    pub instances: Vec<v1::Instance>,
    /// Expired ones are among them.
    pub protected: bool,
}

/// A service, as DNS answers for it.
#[derive(Debug)]
pub struct Looked {
    /// In order of their ids, whatever their health; expired ones too while it is protected.
    pub instances: Vec<v1::Instance>,
    /// Of the service.
    pub settings: ServiceSettings,
}

/// A page of services.
#[derive(Debug)]
pub struct Services {
    /// The store.
    pub revision: Revision,
    /// In order of their names.
    pub services: Vec<v1::services_response::Service>,
    /// There are more after the last one looked at, which is named.
    pub more_after: Option<Bytes>,
}

impl Filter {
    /// As the wire has it.
    pub fn new(service: String, tags: Vec<String>, zone: String, worst: i32) -> Result<Self, DiscoveryError> {
        let service = ServiceName::new(service)?;
        let worst = v1::Health::try_from(worst)
            .map_err(|_| DiscoveryError::invalid(format!("worst {worst} is not known to this version")))?;
        let worst = if worst == v1::Health::Unspecified { v1::Health::Warning } else { worst };
        Ok(Self { service, tags, zone, worst })
    }

    /// Those that can be used: passing or with a warning.
    pub fn healthy(service: ServiceName) -> Self {
        Self { service, tags: Vec::new(), zone: String::new(), worst: v1::Health::Warning }
    }

    /// Whether this one is wanted.
    pub fn wants(&self, instance: &v1::Instance) -> bool {
        if !instance.malformed.is_empty() {
            return self.worst == v1::Health::Maintenance && self.tags.is_empty() && self.zone.is_empty();
        }
        instance.health <= self.worst.into()
            && (self.zone.is_empty() || self.zone == instance.zone)
            && self.tags.iter().all(|tag| instance.tags.contains(tag))
    }
}

impl Resolved {
    /// Lists the expired ones too.
    pub(super) fn add(&mut self, protection: &Protection, filter: &Filter) {
        self.protected = true;
        let expired = protection.expired.values().filter(|instance| filter.wants(instance)).cloned();
        self.instances.extend(expired);
        // One that came back just now is listed as it is.
        self.instances.sort_by(|left, right| left.id.cmp(&right.id).then(left.expired.cmp(&right.expired)));
        self.instances.dedup_by(|later, earlier| later.id == earlier.id);
    }
}

/// Whether an instance can be used: it is passing, or with a warning.
pub fn is_healthy(instance: &v1::Instance) -> bool {
    instance.malformed.is_empty() && matches!(instance.health(), v1::Health::Passing | v1::Health::Warning)
}

impl Discovery {
    /// The instances that are wanted.
    pub async fn resolve(
        &self,
        filter: &Filter,
        options: Option<&v1::ReadOptions>,
        deadline: Instant,
    ) -> Result<Resolved, DiscoveryError> {
        self.rooms.fresh(options, deadline).await.map_err(DiscoveryError::Refused)?;
        let (mut resolved, changed) = self.standing(filter, None).await?;
        if let Some(protection) = self.protection(&filter.service, changed).await {
            resolved.add(&protection, filter);
        }
        Ok(resolved)
    }

    /// What stands in the store, and when an instance last came or went.
    pub(super) async fn standing(
        &self,
        filter: &Filter,
        at: Option<Revision>,
    ) -> Result<(Resolved, Revision), DiscoveryError> {
        let (wanted, known) = (filter.clone(), Arc::clone(&self.known));
        let read = self.rooms.read(Weight::Heavy, move |view| {
            let changed = children_revision(view, &wanted.service)?;
            let (mut instances, mut bytes) = (Vec::new(), 0);
            each(view, &known, &wanted.service, at, |instance| {
                if wanted.wants(&instance) {
                    bytes += instance.encoded_len();
                    instances.push(Arc::unwrap_or_clone(instance));
                }
                instances.len() <= INSTANCES_MAX && bytes <= ANSWER_BYTES_MAX
            })?;
            let fits = instances.len() <= INSTANCES_MAX && bytes <= ANSWER_BYTES_MAX;
            let revision = at.unwrap_or(view.revision());
            Ok((fits, Resolved { revision, instances, protected: false }, changed))
        });
        let (fits, resolved, changed) = read.await?;
        if !fits {
            return Err(DiscoveryError::TooLarge(format!(
                "service {} has more than {INSTANCES_MAX} instances, or {ANSWER_BYTES_MAX} bytes of them, that match; \
                 name tags or a zone",
                filter.service
            )));
        }
        Ok((resolved, changed))
    }

    /// Whether the service is protected, as far as that follows from what happened up to a revision.
    pub(super) async fn protection(&self, service: &ServiceName, upto: Revision) -> Option<Protection> {
        self.protections.reached(upto, EXPIRY_PATIENCE).await;
        self.protections.of(service)
    }

    /// A service as this member's own store has it; `None`: there is none of that name.
    pub async fn look(&self, service: &ServiceName) -> Result<Option<Looked>, DiscoveryError> {
        let filter = Filter { worst: v1::Health::Maintenance, ..Filter::healthy(service.clone()) };
        let (mut resolved, _) = self.standing(&filter, None).await?;
        if let Some(protection) = self.protections.of(service) {
            resolved.add(&protection, &filter);
        }
        let (reader, is_empty) = (service.clone(), resolved.instances.is_empty());
        let read = self.rooms.read(Weight::Light, move |view| {
            let is_known = !is_empty || view.get(&reader.key(), None)?.is_some();
            is_known.then(|| settings(view, &reader)).transpose()
        });
        Ok(read.await?.map(|settings| Looked { instances: resolved.instances, settings }))
    }

    /// A page of services, after one of them.
    pub async fn services(
        &self,
        after: Option<Bytes>,
        limit: usize,
        options: Option<&v1::ReadOptions>,
        deadline: Instant,
    ) -> Result<Services, DiscoveryError> {
        self.rooms.fresh(options, deadline).await.map_err(DiscoveryError::Refused)?;
        let known = Arc::clone(&self.known);
        Ok(self.rooms.read(Weight::Heavy, move |view| services(view, &known, after.clone(), limit)).await?)
    }
}

fn services(view: &StoreView<'_>, known: &Known, after: Option<Bytes>, limit: usize) -> Result<Services, ReadError> {
    let dir = Bytes::from_static(ROOT.as_bytes());
    let listed = view.list(&ListQuery { dir, after, limit, with_values: false, revision: None })?;
    let mut page = Services { revision: view.revision(), services: Vec::new(), more_after: None };
    let last = listed.children.last().map(|last| last.name.clone()).filter(|_| listed.more);
    let mut counted = 0;
    for child in listed.children {
        let name = std::str::from_utf8(&child.name).ok().and_then(|name| ServiceName::new(name).ok());
        let Some(name) = name else { continue };
        let mut service = v1::services_response::Service {
            name: name.as_str().to_owned(),
            ..v1::services_response::Service::default()
        };
        let filter = Filter::healthy(name.clone());
        each(view, known, &name, None, |instance| {
            service.instances += 1;
            service.healthy += u64::from(filter.wants(&instance));
            true
        })?;
        counted += service.instances;
        page.services.push(service);
        if counted > COUNTED_MAX {
            page.more_after = Some(child.name);
            return Ok(page);
        }
    }
    page.more_after = last;
    Ok(page)
}

/// Visits the instances of a service in order of their ids, until `visit` says false.
pub(super) fn each(
    view: &StoreView<'_>,
    known: &Known,
    service: &ServiceName,
    at: Option<Revision>,
    mut visit: impl FnMut(Arc<v1::Instance>) -> bool,
) -> Result<(), ReadError> {
    scan(view, service.span(), at, |kv| known.at(&kv.key, &kv.value, kv.meta).is_none_or(&mut visit))
}

fn children_revision(view: &StoreView<'_>, service: &ServiceName) -> Result<Revision, ReadError> {
    let directory = view.stat(service.directory().as_bytes())?.directory;
    Ok(directory.map_or(Revision::ZERO, |directory| directory.children_revision))
}

/// The settings of a service.
pub(super) fn settings(view: &StoreView<'_>, service: &ServiceName) -> Result<ServiceSettings, ReadError> {
    let found = view.get(&service.key(), None)?;
    Ok(found.map_or_else(ServiceSettings::default, |kv| ServiceSettings::read(&kv.value)))
}

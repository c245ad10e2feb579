//! Damaged requests of the native door, transactions aside: refused, or what the log takes and gives back, the machine
//! decides, and others understand. The first byte of an input says which request it is.

use prost::Message;
use quorate_proto::v1;
use quorate_proto::{Key, Revision};
use quorate_state::command::{Command, LeaseEnd, Put, RequestId};
use quorate_state::outcome::Meta;

use super::{contenders, election, lease, lock, watch};
use crate::api::cursor::Cursor;
use crate::api::errors::Refusal;
use crate::api::limits::PAGE_MAX;
use crate::api::validate;
use crate::config::Limits;
use crate::fuzzing::{Decided, fuzz_requests};
use crate::recipes::discovery::{Filter, InstanceName, Registration, instance_at, maintenance, reported};
use crate::recipes::{Document, Kind, Name};

#[test]
fn requests_of_the_native_door() {
    let corpus = include_str!("../../../../tests/corpus/requests.txt");
    let (decided, limits) = (Decided::new(), Limits::default());
    let target = |input: &[u8]| {
        let Some((which, message)) = input.split_first() else { return false };
        let passed = match which {
            0..=4 => write(&decided, &limits, *which, message),
            5..=7 => read(&decided, *which, message),
            8..=12 => contend(&decided, &limits, *which, message),
            _ => discover(*which, message),
        };
        passed.is_some()
    };
    fuzz_requests("requests of the native door", corpus, target);
}

/// A request, unless its bytes are none, or it is refused; a refusal says why.
fn passed<M: Message + Default, T>(message: &[u8], check: impl FnOnce(M) -> Result<T, Refusal>) -> Option<T> {
    match check(M::decode(message).ok()?) {
        Ok(passed) => Some(passed),
        Err(refusal) => {
            assert!(!refusal.message.is_empty());
            None
        }
    }
}

fn write(decided: &Decided, limits: &Limits, which: u8, message: &[u8]) -> Option<()> {
    let id = |id: Option<&v1::WriteId>| validate::request_id(id);
    let (id, command): (Option<RequestId>, Command) = match which {
        0 => passed(message, |request: v1::PutRequest| {
            Ok((id(request.id.as_ref())?, Command::Put(validate::put(request, limits)?)))
        })?,
        1 => passed(message, |request: v1::DeleteRequest| {
            Ok((id(request.id.as_ref())?, Command::Delete(validate::delete(request)?)))
        })?,
        2 => passed(message, |request: v1::CopyRequest| {
            let copied = validate::copy(request.from, request.to, request.keep_leases, request.keep_leases)?;
            Ok((id(request.id.as_ref())?, copied))
        })?,
        3 => passed(message, |request: v1::GrantRequest| Ok((id(request.id.as_ref())?, lease::granting(&request)?)))?,
        _ => passed(message, |request: v1::RevokeRequest| {
            let leases = vec![validate::lease(request.lease_id)?];
            Ok((id(request.id.as_ref())?, Command::LeaseRevoke { leases, cause: LeaseEnd::Asked }))
        })?,
    };
    decided.decide(id, &command);
    Some(())
}

fn read(decided: &Decided, which: u8, message: &[u8]) -> Option<()> {
    match which {
        5 => decided.read(&passed(message, |request: v1::RangeRequest| validate::range(request))?),
        6 => passed(message, |request: v1::ListRequest| {
            let directory = validate::directory(request.path)?;
            validate::at_revision(request.revision)?;
            assert!((1..=PAGE_MAX).contains(&validate::page(request.page_size)?));
            Cursor::given(&request.cursor, &directory)
        })
        .map(drop)?,
        _ => drop(passed(message, watch::spec)?),
    }
    Some(())
}

fn contend(decided: &Decided, limits: &Limits, which: u8, message: &[u8]) -> Option<()> {
    match which {
        8 => {
            let asked = passed(message, lock::Asked::new)?;
            // What others read of it is what was asked for; else they would take it for exclusive.
            let value = asked.document.encode();
            assert_eq!(Document::of(Kind::Lock, &value).as_ref(), Some(&asked.document));
            assert_eq!(asked.document.claim(), asked.claim);
            assert!(is_contender(&asked.name, &asked.key, &value));
            decided.decide(None, &Command::Put(Put::new(asked.key, value, asked.owner)));
        }
        9 => passed(message, |request: v1::ReleaseRequest| {
            contenders::name(&request.name)?;
            let acquire = contenders::id("acquire_id", request.acquire_id)?;
            assert!(contenders::token("token", request.token)? >= Revision::ZERO);
            Ok(contenders::lease(&request.name, acquire, request.lease_id))
        })
        .map(drop)?,
        10 => drop(passed(message, |request: v1::ForceReleaseRequest| lock::which(&request))?),
        11 => {
            let (name, (put, _)) = passed(message, |request: v1::CampaignRequest| {
                Ok((Name::new(&request.name), election::candidate(request, limits)?))
            })?;
            assert!(is_contender(&name, &put.key, put.value.as_ref()?));
            decided.decide(None, &Command::Put(put));
        }
        _ => {
            let request = |request: v1::ProclaimRequest| election::leadership(&request, limits);
            let (key, term) = passed(message, request)?;
            assert!(term > Revision::ZERO && !key.as_bytes().is_empty());
        }
    }
    Some(())
}

/// Whether others who look below the name find it.
fn is_contender(name: &Name, key: &Key, value: &[u8]) -> bool {
    name.contender(Kind::Lock, key, &meta(), value).is_some()
}

fn meta() -> Meta {
    let at = Revision(2);
    Meta { create_revision: at, mod_revision: at, version: 1, lease: None, created_ms: 0, modified_ms: 0 }
}

fn discover(which: u8, message: &[u8]) -> Option<()> {
    match which {
        13 => {
            let asked = passed(message, |request: v1::RegisterInstance| Ok(Registration::new(request)?))?;
            let written = asked.document.write().unwrap();
            let shown = instance_at(&asked.name.key(), &written.into(), meta()).unwrap();
            assert!(shown.malformed.is_empty(), "{}", shown.malformed);
            assert_eq!(
                (shown.service.as_str(), shown.id.as_str()),
                (asked.name.service.as_str(), asked.name.id.as_str())
            );
        }
        14 => {
            let filter = passed(message, |request: v1::ResolveRequest| {
                Ok(Filter::new(request.service, request.tags, request.zone, request.worst)?)
            })?;
            filter.wants(&v1::Instance::default());
        }
        15 => passed(message, |request: v1::ReportHealthRequest| {
            InstanceName::new(request.service, request.id)?;
            Ok(reported(request.health, request.note)?)
        })
        .map(drop)?,
        16 => passed(message, |request: v1::SetMaintenanceRequest| {
            InstanceName::new(request.service, request.id)?;
            Ok(maintenance(request.on, request.note)?)
        })
        .map(drop)?,
        _ => return None,
    }
    Some(())
}

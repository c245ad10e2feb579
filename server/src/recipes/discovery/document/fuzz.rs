//! Damaged documents of instances and services, and keys at which they stand: whatever bytes somebody puts there, an
//! instance is shown, or why it cannot be read.

use bytes::Bytes;
use quorate_proto::{Key, Revision};
use quorate_state::outcome::Meta;
use quorate_state::testing::fuzz::Room;

use super::*;
use crate::fuzzing::{fuzz, fuzz_in};
use crate::recipes::discovery::check::Kind;
use crate::recipes::discovery::instance;
use crate::recipes::discovery::names::{self, InstanceName, Place};
use crate::recipes::discovery::settings::ServiceSettings;

/// What is unknown is kept, with a map for each pair of braces.
const ROOM: Room = Room { base: 64 << 10, each: 1_024 };

fn meta() -> Meta {
    Meta {
        create_revision: Revision(2),
        mod_revision: Revision(3),
        version: 2,
        lease: None,
        created_ms: 0,
        modified_ms: 0,
    }
}

#[test]
fn documents_of_instances() {
    let corpus = include_str!("../../../../../tests/corpus/instances.txt");
    fuzz_in(ROOM, "documents of instances", corpus, |input| {
        let settings = ServiceSettings::read(input);
        assert!(settings.protect_share >= 0.0 && settings.protect_for_s <= 86_400 && settings.dns_ttl_s <= 3_600);
        let key = Key::new("/services/web/a").unwrap();
        let shown = instance::at(&key, &Bytes::copy_from_slice(input), meta()).unwrap();
        assert_eq!(shown.malformed.is_empty(), Document::read(input).is_ok());
        let Ok(document) = Document::read(input) else { return false };
        for check in &document.checks {
            assert!(check.kind().is_some());
            if let Some(Kind::Http(url)) = check.kind() {
                let uri: http::Uri = url.parse().unwrap();
                let authority = uri.authority().unwrap();
                let port = authority.as_str().strip_prefix(authority.host()).unwrap();
                assert_eq!(port.len() <= 1, authority.port_u16().is_none(), "{url}");
            }
        }
        let written = document.write().unwrap();
        assert_eq!(Document::read(&written).as_ref(), Ok(&document));
        let mut settled = document;
        settled.settle();
        let written = settled.write().unwrap();
        assert_eq!(Document::read(&written), Ok(settled));
        true
    });
}

#[test]
fn keys_of_services_and_instances() {
    let corpus = include_str!("../../../../../tests/corpus/services.txt");
    fuzz("keys of services and instances", corpus, |input| {
        let Ok(key) = Key::new(input.to_vec()) else { return false };
        if let Some((name, check)) = names::ttl_check_of(&key) {
            assert_eq!(names::ttl_check_of(&name.ttl_key(check)), Some((name, check)));
            return true;
        }
        if let Some(member) = names::checker_of(&key) {
            assert_eq!(names::checker_of(&names::checker(member)), Some(member));
            return true;
        }
        let Some(place) = names::place(&key) else { return false };
        match place {
            Place::Settings(service) => assert_eq!(service.key(), key),
            Place::Instance(service, id) => {
                let shown = instance::at(&key, &Bytes::from_static(b"{}"), meta()).unwrap();
                assert!(!shown.malformed.is_empty() && shown.id == id && shown.service == service.as_str());
                if let Ok(name) = InstanceName::new(service.as_str(), id) {
                    assert_eq!(name.key(), key);
                }
            }
        }
        true
    });
}

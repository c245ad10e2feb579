//! Keys as both clients give them, as histories have them.
//!
//! Invariants:
//! - Nothing is left out and nothing made up.

use quorate_checkers::history::{Change, Event, Kv};

pub(crate) fn kv(kv: &quorate::KeyValue) -> Kv {
    Kv {
        key: (&kv.key).into(),
        value: (&kv.value).into(),
        create_revision: kv.create_revision.get(),
        mod_revision: kv.mod_revision.get(),
        version: kv.version,
        lease: kv.lease.map_or(0, quorate::LeaseId::get),
    }
}

pub(crate) fn event(event: &quorate::Event) -> Event {
    let found = kv(&event.kv);
    let change = match event.kind {
        quorate::EventKind::Put => Change::Put(found),
        quorate::EventKind::Delete => Change::Delete { key: found.key, revision: found.mod_revision },
    };
    Event { change, previous: event.previous.as_ref().map(kv) }
}

pub(crate) fn etcd_kv(kv: &etcd_client::KeyValue) -> Kv {
    Kv {
        key: kv.key().into(),
        value: kv.value().into(),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

/// `None` for an event without a key, which no member may send.
pub(crate) fn etcd_event(event: &etcd_client::Event) -> Option<Event> {
    let found = etcd_kv(event.kv()?);
    let change = match event.event_type() {
        etcd_client::EventType::Put => Change::Put(found),
        etcd_client::EventType::Delete => Change::Delete { key: found.key, revision: found.mod_revision },
    };
    Some(Event { change, previous: event.prev_kv().map(etcd_kv) })
}

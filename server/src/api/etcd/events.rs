//! Events of watches, as the wire has them.
//!
//! Invariants:
//! - A deletion's event has key and revision of the deletion, and nothing else of the key.

use quorate_proto::etcd::mvccpb;
use quorate_proto::etcd::mvccpb::event::EventType;
use quorate_proto::{LeaseId, Revision};
use quorate_state::outcome::{Change, ChangeKind, KeyValue};

use super::answers;

/// One change; `previous` is what stood there before, if that was asked for.
pub fn event(change: &Change, revision: Revision, previous: Option<KeyValue>) -> mvccpb::Event {
    let key = change.key.to_bytes();
    let (kind, kv) = match &change.kind {
        ChangeKind::Put { meta, value } => {
            let kv = mvccpb::KeyValue {
                key,
                create_revision: meta.create_revision.get(),
                mod_revision: meta.mod_revision.get(),
                version: meta.version,
                value: value.clone(),
                lease: LeaseId::wire(meta.lease),
            };
            (EventType::Put, kv)
        }
        ChangeKind::Delete { .. } => {
            (EventType::Delete, mvccpb::KeyValue { key, mod_revision: revision.get(), ..mvccpb::KeyValue::default() })
        }
    };
    mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: previous.map(answers::key_value) }
}

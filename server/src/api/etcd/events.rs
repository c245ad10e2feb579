//! Events of watches, as the wire has them.
//!
//! Invariants:
//! - A deletion's event has key and revision of the deletion, and nothing else of the key.
//! - Without fragments all that was given at once is one message; with them each is under the bound, unless a single
//!   event is over it, and all but the last say that more follows.

use prost::Message as _;
use quorate_proto::etcd::mvccpb::event::EventType;
use quorate_proto::etcd::{etcdserverpb as pb, mvccpb};
use quorate_proto::{LeaseId, Revision};
use quorate_state::outcome::{Change, ChangeKind};

use super::answers;
use crate::api::limits::FRAGMENT_BYTES_MAX;
use crate::watch::Picked;

/// Packs what a watch was given into messages like `template`.
pub fn messages(template: &pb::WatchResponse, items: Vec<Picked>, fragments: bool) -> Vec<pb::WatchResponse> {
    let events: Vec<mvccpb::Event> = items.into_iter().flat_map(of).collect();
    if fragments { split(template, events, FRAGMENT_BYTES_MAX) } else { vec![message(template, events, false)] }
}

fn message(template: &pb::WatchResponse, events: Vec<mvccpb::Event>, fragment: bool) -> pb::WatchResponse {
    pb::WatchResponse { events, fragment, ..template.clone() }
}

fn split(template: &pb::WatchResponse, events: Vec<mvccpb::Event>, bytes_max: usize) -> Vec<pb::WatchResponse> {
    let (mut messages, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for event in events {
        let event_bytes = event.encoded_len();
        if bytes + event_bytes > bytes_max && !part.is_empty() {
            messages.push(message(template, std::mem::take(&mut part), true));
            bytes = 0;
        }
        bytes += event_bytes;
        part.push(event);
    }
    messages.push(message(template, part, false));
    messages
}

/// The events of one revision that a watch wants.
fn of(picked: Picked) -> impl Iterator<Item = mvccpb::Event> {
    let Picked { item, changes, previous } = picked;
    let mut previous = previous.into_iter();
    changes.into_iter().filter_map(move |at| {
        let prev_kv = previous.next().flatten().map(answers::key_value);
        item.changes.get(at as usize).map(|change| event(change, item.revision, prev_kv))
    })
}

fn event(change: &Change, revision: Revision, prev_kv: Option<mvccpb::KeyValue>) -> mvccpb::Event {
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
    mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::watch::{Published, tests::puts};

    fn picked(revision: i64, count: u32) -> Picked {
        let item = Arc::new(Published::new(puts(revision, count, &"v".repeat(100))));
        Picked { item, changes: (0..count).collect(), previous: Vec::new() }
    }

    #[test]
    fn fragments_say_that_more_follows_all_but_the_last() {
        let template = pb::WatchResponse { watch_id: 7, ..pb::WatchResponse::default() };
        let events: Vec<_> = [picked(5, 1), picked(6, 10)].into_iter().flat_map(of).collect();
        let parts = split(&template, events.clone(), 450);
        assert!(parts.len() > 2, "eleven events do not fit in two");
        let more: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
        assert_eq!(more.iter().filter(|more| !**more).count(), 1);
        assert!(!more[more.len() - 1] && parts.iter().all(|part| part.watch_id == 7));
        assert_eq!(parts.into_iter().flat_map(|part| part.events).collect::<Vec<_>>(), events);
    }

    #[test]
    fn without_fragments_all_comes_in_one_message() {
        let parts = messages(&pb::WatchResponse::default(), vec![picked(5, 3), picked(6, 2)], false);
        assert_eq!((parts.len(), parts[0].events.len(), parts[0].fragment), (1, 5, false));
    }
}

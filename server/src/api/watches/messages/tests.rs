//! Packing, for a stream whose messages are the native API's.
//!
//! Invariants:
//! - Messages are decoded again, so what is compared is what a client would see.

use std::sync::Arc;

use quorate_proto::v1;
use quorate_state::outcome::{Change, ChangeKind, KeyValue, Meta};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::*;
use crate::api::convert;
use crate::api::rooms::Rooms;
use crate::api::watches::Opened;
use crate::watch::{Published, Session, WatchNotice, Wire, tests::puts};

/// Counts the heads that were written.
#[derive(Default)]
struct Native {
    heads: std::cell::Cell<usize>,
}

impl Dialect for Native {
    type Request = v1::WatchRequest;
    type Response = v1::WatchResponse;
    type Event = v1::Event;
    const SERVICE: &'static str = "";
    const WIRE: Wire = Wire::Native;
    const EVENTS_FIELD: u8 = field_of_messages(6);

    fn open(_: &Arc<Rooms>, _: &MetadataMap) -> Result<Opened<Self>, Status> {
        unreachable!("only packing is tested")
    }

    fn request(&mut self, _: v1::WatchRequest, _: &mut Session, _: &mut Frames) {}

    fn notice(&mut self, _: WatchNotice, _: &Session, _: &mut Frames) -> Result<(), Status> {
        Ok(())
    }

    fn says(&mut self, _: u64, last: Revision) -> Revision {
        last
    }

    fn head(&self, tag: u64, revision: Revision, fragment: bool) -> v1::WatchResponse {
        self.heads.set(self.heads.get() + 1);
        let header = Some(v1::Header { revision: revision.get(), ..v1::Header::default() });
        v1::WatchResponse { watch_id: tag, header, fragment, ..v1::WatchResponse::default() }
    }

    fn event(change: &Change, revision: Revision, previous: Option<KeyValue>) -> v1::Event {
        convert::event(change, revision, previous)
    }
}

/// Puts of 100 bytes.
fn published(revision: i64, count: u32) -> Arc<Published> {
    Arc::new(Published::new(puts(revision, count, &"v".repeat(100))))
}

fn large(revision: i64, value_bytes: usize) -> Arc<Published> {
    Arc::new(Published::new(puts(revision, 1, &"v".repeat(value_bytes))))
}

fn whole(item: &Arc<Published>) -> Picked {
    let changes = (0..).zip(&item.changes).map(|(at, _)| at).collect();
    Picked { item: Arc::clone(item), changes, previous: Vec::new() }
}

fn packed(dialect: &mut Native, tag: u64, items: Vec<Picked>, fragments: bool) -> Vec<Bytes> {
    let mut frames = Frames::new();
    pack(dialect, tag, items, fragments, &mut frames);
    frames.into()
}

fn decoded(frame: &Bytes) -> v1::WatchResponse {
    let (prefix, message) = frame.split_at(PREFIX_BYTES);
    assert_eq!(prefix, super::prefix(message.len()));
    v1::WatchResponse::decode(message).unwrap()
}

fn revisions(response: &v1::WatchResponse) -> Vec<i64> {
    response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

#[test]
fn a_message_is_written_once_for_all_streams_with_the_same_head() {
    let (item, mut native) = (published(5, 3), Native::default());
    let first = packed(&mut native, 1, vec![whole(&item)], true);
    let second = packed(&mut native, 1, vec![whole(&item)], true);
    assert_eq!((first.len(), native.heads.get()), (1, 1));
    assert_eq!(first[0].as_ptr(), second[0].as_ptr(), "the same bytes, not equal ones");
    let other = packed(&mut native, 2, vec![whole(&item)], true);
    assert_eq!(native.heads.get(), 2);
    let (first, other) = (decoded(&first[0]), decoded(&other[0]));
    assert_eq!((first.watch_id, other.watch_id, first.header), (1, 2, other.header));
    assert_eq!((first.events, revisions(&other)), (other.events.clone(), vec![5, 5, 5]));
    let expected: Vec<v1::Event> = item.changes.iter().map(|change| Native::event(change, Revision(5), None)).collect();
    assert_eq!(other.events, expected);
}

#[test]
fn who_wants_some_of_the_changes_or_what_was_before_gets_its_own() {
    let (item, mut native) = (published(5, 3), Native::default());
    let all = decoded(&packed(&mut native, 1, vec![whole(&item)], true)[0]);
    let some = Picked { changes: vec![0, 2], ..whole(&item) };
    let some = decoded(&packed(&mut native, 1, vec![some], true)[0]);
    assert_eq!(some.events, [all.events[0].clone(), all.events[2].clone()]);
    let before = KeyValue { key: item.changes[1].key.clone(), value: "before".into(), meta: meta_of(&item) };
    let previous = vec![None, Some(before.clone()), None];
    let with = decoded(&packed(&mut native, 1, vec![Picked { previous, ..whole(&item) }], true)[0]);
    let told: Vec<_> = with.events.iter().map(|event| event.previous.clone()).collect();
    assert_eq!(told, [None, Some(convert::key_value(before)), None]);
    assert!(all.events.iter().all(|event| event.previous.is_none()));
}

fn meta_of(item: &Published) -> Meta {
    match &item.changes[0].kind {
        ChangeKind::Put { meta, .. } => *meta,
        ChangeKind::Delete { .. } => panic!("these are puts"),
    }
}

#[test]
fn revisions_gather_in_messages_up_to_their_bound_and_are_not_torn() {
    let items: Vec<_> = (1..=300).map(|revision| published(revision, 2)).collect();
    for fragments in [false, true] {
        let frames = packed(&mut Native::default(), 1, items.iter().map(whole).collect(), fragments);
        assert!(frames.len() > 2 && frames.iter().all(|frame| frame.len() < MESSAGE_BYTES_MAX + 1_000));
        let mut all = Vec::new();
        for message in frames.iter().map(decoded) {
            let revisions = revisions(&message);
            assert!(!message.fragment && revisions.len().is_multiple_of(2), "whole revisions");
            assert_eq!(message.header.unwrap().revision, *revisions.last().unwrap());
            all.extend(revisions);
        }
        let expected: Vec<i64> = (1..=300).flat_map(|revision| [revision, revision]).collect();
        assert_eq!(all, expected);
    }
}

#[test]
fn fragments_say_that_more_follow_all_but_the_last() {
    let big = Arc::new(Published::new(puts(6, 30, &"v".repeat(100_000))));
    let items = [published(5, 1), Arc::clone(&big), published(7, 1)];
    let frames = packed(&mut Native::default(), 1, items.iter().map(whole).collect(), true);
    let messages: Vec<_> = frames.iter().map(decoded).collect();
    let told: Vec<(i64, bool)> = messages.iter().map(|message| (revisions(message)[0], message.fragment)).collect();
    assert_eq!(told, [(5, false), (6, true), (6, false), (7, false)]);
    assert!(frames.iter().all(|frame| frame.len() < FRAGMENT_BYTES_MAX + 1_000));
    assert_eq!(messages[1].events.len() + messages[2].events.len(), 30);
    let unbroken = packed(&mut Native::default(), 1, vec![whole(&big)], false);
    assert_eq!((unbroken.len(), decoded(&unbroken[0]).events.len()), (1, 30));
}

#[test]
fn a_single_event_over_the_bound_of_fragments_is_one_message() {
    let item = large(5, FRAGMENT_BYTES_MAX + 10);
    let frames = packed(&mut Native::default(), 1, vec![whole(&item)], true);
    assert_eq!((frames.len(), decoded(&frames[0]).fragment), (1, false));
}

#[test]
fn a_large_value_is_shared_also_by_a_stream_that_is_behind() {
    let items = [published(5, 1), large(6, MESSAGE_BYTES_MAX), published(7, 1)];
    let live = packed(&mut Native::default(), 1, vec![whole(&items[1])], true);
    let behind = packed(&mut Native::default(), 1, items.iter().map(whole).collect(), true);
    assert_eq!(behind.len(), 3);
    assert_eq!(behind[1].as_ptr(), live[0].as_ptr());
}

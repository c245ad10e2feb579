//! `Watch`: one stream, many watches.
//!
//! Invariants:
//! - `created` comes before the first event of a watch; events of one revision stand in one message, unless the watch
//!   asked for fragments, and then nothing comes between the fragments.
//! - The header of a message says no later revision than what the watch was given up to, except as the wire has it: one
//!   that catches up hears the store's, and none hears an earlier one than before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcd::mvccpb;
use quorate_proto::{Key, Revision};
use quorate_state::outcome::{Change, KeyValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::{errors, events, has_leader, header, wants_leader};
use crate::api::limits::ETCD_WATCHES_MAX;
use crate::api::rooms::Rooms;
use crate::api::watches::{Dialect, Frames, Opened, field_of_messages, frame, pack};
use crate::sync::watch;
use crate::watch::{Interest, OnContactLoss, Scope, Session, WatchNotice, WatchOver, WatchSpec, Wire};

/// Stands for no watch, or for all of a stream.
const NO_WATCH: i64 = -1;

/// What the stream knows of an open watch beside what the session does.
struct Open {
    fragments: bool,
    /// The revision of the last header.
    said: Revision,
}

/// The watches of one stream. The session's tag of a watch is its id, taken as unsigned.
pub struct Watches {
    rooms: Arc<Rooms>,
    open: HashMap<i64, Open>,
    next_id: i64,
}

impl Dialect for Watches {
    type Request = pb::WatchRequest;
    type Response = pb::WatchResponse;
    type Event = mvccpb::Event;
    const SERVICE: &'static str = pb::watch_server::SERVICE_NAME;
    const WIRE: Wire = Wire::Etcd;
    const EVENTS_FIELD: u8 = field_of_messages(11);

    fn open(rooms: &Arc<Rooms>, metadata: &MetadataMap) -> Result<Opened<Self>, Status> {
        let needs_leader = wants_leader(metadata);
        if needs_leader && !has_leader(rooms) {
            return Err(errors::NO_LEADER.into());
        }
        let closing = rooms.until_closing();
        let mut contact_lost = needs_leader.then(|| rooms.hub.contact_lost());
        Ok(Opened {
            dialect: Self { rooms: Arc::clone(rooms), open: HashMap::new(), next_id: 0 },
            session: rooms.watches(OnContactLoss::Wait),
            over: Box::pin(async move {
                tokio::select! {
                    biased;
                    () = closing => errors::STOPPED.into(),
                    () = cut_off(contact_lost.as_mut()) => errors::NO_LEADER.into(),
                }
            }),
        })
    }

    fn request(&mut self, request: pb::WatchRequest, session: &mut Session, frames: &mut Frames) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                if let Err(reason) = self.create(create, session) {
                    let header = Some(header(&self.rooms, self.rooms.hub.revision()));
                    frames.push_back(frame(&pb::WatchResponse {
                        header,
                        watch_id: NO_WATCH,
                        created: true,
                        canceled: true,
                        cancel_reason: reason,
                        ..pb::WatchResponse::default()
                    }));
                }
            }
            // An id that is not known is passed over.
            Some(RequestUnion::CancelRequest(cancel)) => drop(session.cancel(tag(cancel.watch_id))),
            Some(RequestUnion::ProgressRequest(_)) => session.ask_session_mark(),
            None => {}
        }
    }

    /// An error ends the stream: its clients open another, which they do not do for a watch that was cancelled.
    fn notice(&mut self, notice: WatchNotice, session: &Session, frames: &mut Frames) -> Result<(), Status> {
        let response = match notice {
            WatchNotice::Created { tag, revision } => {
                pb::WatchResponse { created: true, ..self.response(tag, revision) }
            }
            WatchNotice::Mark { tag, revision } => self.response(tag, revision),
            WatchNotice::SessionMark { revision } => {
                let header = Some(header(&self.rooms, revision));
                pb::WatchResponse { header, watch_id: NO_WATCH, ..pb::WatchResponse::default() }
            }
            WatchNotice::Events { tag, items } => {
                let fragments = self.open.get(&id(tag)).is_some_and(|open| open.fragments);
                pack(self, tag, items, fragments, frames);
                return Ok(());
            }
            WatchNotice::Ended { tag, over } => {
                let response = self.response(tag, self.rooms.hub.revision());
                // Another watch may have its id by now.
                if !session.contains(tag) {
                    self.open.remove(&id(tag));
                }
                match over {
                    WatchOver::Cancelled => pb::WatchResponse { canceled: true, ..response },
                    WatchOver::Compacted { compacted } => pb::WatchResponse {
                        header: Some(header(&self.rooms, Revision::ZERO)),
                        canceled: true,
                        compact_revision: compacted.get(),
                        ..response
                    },
                    WatchOver::Unavailable(reason) => {
                        tracing::info!(reason, "a watch cannot go on here; its stream ends");
                        return Err(errors::BEHIND.into());
                    }
                }
            }
        };
        frames.push_back(frame(&response));
        Ok(())
    }

    /// Goes forward only.
    fn says(&mut self, tag: u64, last: Revision) -> Revision {
        self.open.get_mut(&id(tag)).map_or(last, |open| {
            open.said = open.said.max(last);
            open.said
        })
    }

    fn head(&self, tag: u64, revision: Revision, fragment: bool) -> pb::WatchResponse {
        let header = Some(header(&self.rooms, revision));
        pb::WatchResponse { header, watch_id: id(tag), fragment, ..pb::WatchResponse::default() }
    }

    fn event(change: &Change, revision: Revision, previous: Option<KeyValue>) -> mvccpb::Event {
        events::event(change, revision, previous)
    }
}

impl Watches {
    /// Opens a watch, or says why not.
    fn create(&mut self, create: pb::WatchCreateRequest, session: &mut Session) -> Result<(), String> {
        if create.start_revision < 0 {
            return Err(errors::COMPACTED.text.into_owned());
        }
        let (id, fragments) = (create.watch_id, create.fragment);
        let spec = spec(create, self.rooms.limits.watch_progress)?;
        let id = match id {
            0 => self.free_id(session),
            id if session.contains(tag(id)) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
            }
            id => id,
        };
        if session.len() >= ETCD_WATCHES_MAX {
            return Err(format!("quorate: a stream has at most {ETCD_WATCHES_MAX} watches; open another"));
        }
        self.open.insert(id, Open { fragments, said: Revision::ZERO });
        session.create(tag(id), spec);
        Ok(())
    }

    /// 0, 1, 2, …, without those that clients chose themselves.
    fn free_id(&mut self, session: &Session) -> i64 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(0);
            if !session.contains(tag(id)) {
                return id;
            }
        }
    }

    /// A message of a watch without events.
    fn response(&mut self, tag: u64, revision: Revision) -> pb::WatchResponse {
        let revision = self.says(tag, revision);
        self.head(tag, revision, false)
    }
}

fn tag(id: i64) -> u64 {
    id.cast_unsigned()
}

fn id(tag: u64) -> i64 {
    tag.cast_signed()
}

/// Completes when contact with the leader is lost, for those who asked.
async fn cut_off(contact_lost: Option<&mut watch::Receiver<bool>>) {
    match contact_lost {
        // Its sender lives as long as the hub; without it nothing can be said.
        Some(lost) => drop(lost.wait_for(|lost| *lost).await.is_ok()),
        None => std::future::pending().await,
    }
}

/// What a watch is to do, or why it is not one.
pub fn spec(create: pb::WatchCreateRequest, progress: Duration) -> Result<WatchSpec, String> {
    use pb::watch_create_request::FilterType;
    let start = if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key };
    let scope = match &create.range_end[..] {
        [] => Scope::Key(Key::new(start).map_err(|_| errors::TOO_LARGE.text)?),
        [0] => Scope::Range { start, end: None },
        _ if start >= create.range_end => return Err("mvcc: watcher range is empty".to_owned()),
        _ => Scope::Range { start, end: Some(create.range_end) },
    };
    let without = |filter: FilterType| create.filters.contains(&filter.into());
    Ok(WatchSpec {
        interest: Interest { scope, puts: !without(FilterType::Noput), deletes: !without(FilterType::Nodelete) },
        start: (create.start_revision > 0).then_some(Revision(create.start_revision)),
        previous_values: create.prev_kv,
        progress_interval: create.progress_notify.then_some(progress),
        min_revision: None,
    })
}

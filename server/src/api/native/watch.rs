//! `Watch`: what a stream is asked and told, in the words of the native API.
//!
//! Invariants:
//! - Each watch ends with a message that says why, unless the stream ends.
//! - Events of one transaction come in one message, or in fragments that say so.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::v1;
use quorate_proto::v1::watch_request::Request as Wire;
use quorate_proto::{Key, Path, Revision};
use quorate_state::command::Span;
use quorate_state::outcome::{Change, KeyValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::api::errors::Refusal;
use crate::api::limits::{DEADLINE_DEFAULT, PROGRESS_INTERVAL_MIN, WATCHES_MAX};
use crate::api::rooms::Rooms;
use crate::api::watches::{Dialect, Frames, Opened, field_of_messages, frame, pack};
use crate::api::{convert, deadline, validate};
use crate::watch::{self, Interest, OnContactLoss, Scope, Session, WatchNotice, WatchOver, WatchSpec};

/// The watches of one stream. The session's tag of a watch is its id.
pub struct Watches {
    rooms: Arc<Rooms>,
}

impl Dialect for Watches {
    type Request = v1::WatchRequest;
    type Response = v1::WatchResponse;
    type Event = v1::Event;
    const SERVICE: &'static str = v1::watch_server::SERVICE_NAME;
    const WIRE: watch::Wire = watch::Wire::Native;
    const EVENTS_FIELD: u8 = field_of_messages(6);

    fn open(rooms: &Arc<Rooms>, _: &MetadataMap) -> Result<Opened<Self>, Status> {
        let closing = rooms.until_closing();
        Ok(Opened {
            dialect: Self { rooms: Arc::clone(rooms) },
            session: rooms.watches(OnContactLoss::End),
            over: Box::pin(async move {
                closing.await;
                Refusal::shutting_down().into()
            }),
        })
    }

    fn request(&mut self, request: v1::WatchRequest, session: &mut Session, frames: &mut Frames) {
        match request.request {
            Some(Wire::Create(create)) => {
                let tag = create.watch_id;
                match checked(create, session) {
                    Ok(spec) => session.create(tag, spec),
                    Err(refusal) => {
                        let end = self.end(tag, v1::watch_end::Reason::Invalid, refusal.message, Revision::ZERO);
                        frames.push_back(frame(&end));
                    }
                }
            }
            Some(Wire::Cancel(cancel)) if !session.cancel(cancel.watch_id) => {
                let message = "there is no such watch in this stream (any more)".to_owned();
                let end = self.end(cancel.watch_id, v1::watch_end::Reason::Cancelled, message, Revision::ZERO);
                frames.push_back(frame(&end));
            }
            Some(Wire::Progress(_)) => session.ask_marks(),
            Some(Wire::Cancel(_)) | None => {}
        }
    }

    fn notice(&mut self, notice: WatchNotice, _: &Session, frames: &mut Frames) -> Result<(), Status> {
        let response = match notice {
            WatchNotice::Created { tag, revision } => {
                v1::WatchResponse { created: true, ..self.head(tag, revision, false) }
            }
            WatchNotice::Mark { tag, revision } => {
                v1::WatchResponse { progress_revision: revision.get(), ..self.head(tag, revision, false) }
            }
            // Not asked for through this door.
            WatchNotice::SessionMark { .. } => return Ok(()),
            WatchNotice::Events { tag, items } => {
                pack(self, tag, items, true, frames);
                return Ok(());
            }
            WatchNotice::Ended { tag, over } => match over {
                WatchOver::Cancelled => self.end(tag, v1::watch_end::Reason::Cancelled, String::new(), Revision::ZERO),
                WatchOver::Compacted { compacted } => {
                    let message = format!("the next revision wanted is compacted; history begins at {compacted}");
                    self.end(tag, v1::watch_end::Reason::Compacted, message, compacted)
                }
                WatchOver::Unavailable(message) => {
                    self.end(tag, v1::watch_end::Reason::Unavailable, message, Revision::ZERO)
                }
            },
        };
        frames.push_back(frame(&response));
        Ok(())
    }

    /// What the message reflects.
    fn says(&mut self, _: u64, last: Revision) -> Revision {
        last
    }

    fn head(&self, tag: u64, revision: Revision, fragment: bool) -> v1::WatchResponse {
        let header = Some(self.rooms.header(revision));
        v1::WatchResponse { watch_id: tag, header, fragment, ..v1::WatchResponse::default() }
    }

    fn event(change: &Change, revision: Revision, previous: Option<KeyValue>) -> v1::Event {
        convert::event(change, revision, previous)
    }
}

impl Watches {
    fn end(&self, tag: u64, reason: v1::watch_end::Reason, message: String, compacted: Revision) -> v1::WatchResponse {
        let end = v1::WatchEnd { reason: reason.into(), message, compact_revision: compacted.get() };
        v1::WatchResponse { end: Some(end), ..self.head(tag, self.rooms.hub.revision(), false) }
    }
}

/// What a watch is to do, if the stream may have another.
fn checked(create: v1::WatchCreate, session: &Session) -> Result<WatchSpec, Refusal> {
    if create.watch_id == 0 {
        return Err(Refusal::invalid("watch_id is 0; choose another"));
    }
    if session.contains(create.watch_id) {
        return Err(Refusal::invalid(format!("watch_id {} is in use in this stream", create.watch_id)));
    }
    if session.len() >= WATCHES_MAX {
        return Err(Refusal::invalid(format!("a stream has at most {WATCHES_MAX} watches; open another")));
    }
    spec(create)
}

/// What a watch is to do, checked.
pub fn spec(create: v1::WatchCreate) -> Result<WatchSpec, Refusal> {
    use v1::watch_create::Scope as WireScope;
    let wire = WireScope::try_from(create.scope).map_err(|_| validate::unknown("scope", create.scope))?;
    if wire != WireScope::Range && !create.end.is_empty() {
        return Err(Refusal::invalid("end is for the scope RANGE only"));
    }
    if create.no_puts && create.no_deletes {
        return Err(Refusal::invalid("no_puts and no_deletes together leave nothing to watch"));
    }
    let scope = match wire {
        WireScope::Key => Scope::Key(Key::new(create.key)?),
        WireScope::Children => Scope::Children(validate::directory(create.key)?),
        WireScope::Subtree if &create.key[..] == b"/" => Scope::Subtree(create.key),
        WireScope::Subtree => Scope::Subtree(Path::new(create.key)?.into_key().into_bytes()),
        WireScope::Range => match validate::bounds(create.key, create.end)? {
            Span::Range { start, end } => Scope::Range { start, end },
            _ => return Err(Refusal::internal("bounds give a range")),
        },
    };
    let start = validate::at_revision(create.start_revision)?;
    let min_revision = validate::at_revision(create.min_revision)?;
    let progress_interval = match Duration::from_millis(create.progress_interval_ms) {
        Duration::ZERO => None,
        interval if interval >= PROGRESS_INTERVAL_MIN => Some(interval),
        _ => return Err(Refusal::invalid("progress_interval_ms is at least 100, or 0 for none")),
    };
    Ok(WatchSpec {
        interest: Interest { scope, puts: !create.no_puts, deletes: !create.no_deletes },
        start,
        previous_values: create.previous_values,
        progress_interval,
        min_revision: min_revision.map(|revision| (revision, deadline::after(DEADLINE_DEFAULT))),
    })
}

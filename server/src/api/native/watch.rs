//! `Watch`: one stream, many watches.
//!
//! Invariants:
//! - A watch whose client has ended its own side goes on; the stream ends when its last watch does.
//! - Events of one transaction come in one message, or in fragments that say so; a fragment is under 2 MiB unless one
//!   single event is larger.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::Stream;
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::watch_request::Request as Wire;
use quorate_proto::v1::watch_server::Watch;
use quorate_proto::{Key, Path, Revision};
use quorate_state::command::Span;
use tonic::{Request, Response, Status, Streaming};

use crate::api::errors::Refusal;
use crate::api::limits::{DEADLINE_DEFAULT, FRAGMENT_BYTES_MAX, PROGRESS_INTERVAL_MIN, WATCHES_MAX};
use crate::api::rooms::Rooms;
use crate::api::streams::next_request;
use crate::api::{convert, deadline, validate};
use crate::watch::{Interest, OnContactLoss, Picked, Scope, Session, WatchNotice, WatchOver, WatchSpec};

/// The service.
pub struct WatchDoor(pub Arc<Rooms>);

#[tonic::async_trait]
impl Watch for WatchDoor {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watches = Watches {
            session: self.0.watches(OnContactLoss::End),
            closing: self.0.until_closing(),
            rooms: Arc::clone(&self.0),
            requests: Some(request.into_inner()),
            outbox: VecDeque::new(),
        };
        let answers = futures::stream::unfold(Some(watches), |watches| async move {
            let mut watches = watches?;
            let answer = watches.next().await?;
            let watches = answer.is_ok().then_some(watches);
            Some((answer, watches))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The watches of one stream.
struct Watches {
    session: Session,
    closing: BoxFuture<'static, ()>,
    rooms: Arc<Rooms>,
    requests: Option<Streaming<v1::WatchRequest>>,
    outbox: VecDeque<v1::WatchResponse>,
}

impl Watches {
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Status>> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Some(Ok(response));
            }
            if self.requests.is_none() && self.session.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                () = &mut self.closing => return Some(Err(Refusal::shutting_down().into())),
                message = next_request(&mut self.requests), if self.requests.is_some() => match message {
                    Ok(Some(request)) => self.request(request),
                    Ok(None) => self.requests = None,
                    Err(status) => return Some(Err(status)),
                },
                notice = self.session.next() => self.notice(notice),
            }
        }
    }

    fn request(&mut self, request: v1::WatchRequest) {
        match request.request {
            Some(Wire::Create(create)) => {
                let tag = create.watch_id;
                match self.spec(create) {
                    Ok(spec) => self.session.create(tag, spec),
                    Err(refusal) => self.end(tag, v1::watch_end::Reason::Invalid, refusal.message, Revision::ZERO),
                }
            }
            Some(Wire::Cancel(cancel)) if !self.session.cancel(cancel.watch_id) => {
                let message = "there is no such watch in this stream (any more)".to_owned();
                self.end(cancel.watch_id, v1::watch_end::Reason::Cancelled, message, Revision::ZERO);
            }
            Some(Wire::Progress(_)) => self.session.ask_marks(),
            Some(Wire::Cancel(_)) | None => {}
        }
    }

    fn spec(&self, create: v1::WatchCreate) -> Result<WatchSpec, Refusal> {
        if create.watch_id == 0 {
            return Err(Refusal::invalid("watch_id is 0; choose another"));
        }
        if self.session.contains(create.watch_id) {
            return Err(Refusal::invalid(format!("watch_id {} is in use in this stream", create.watch_id)));
        }
        if self.session.len() >= WATCHES_MAX {
            return Err(Refusal::invalid(format!("a stream has at most {WATCHES_MAX} watches; open another")));
        }
        spec(create)
    }

    fn notice(&mut self, notice: WatchNotice) {
        match notice {
            WatchNotice::Created { tag, revision } => {
                self.outbox.push_back(v1::WatchResponse { created: true, ..self.response(tag, revision) });
            }
            WatchNotice::Mark { tag, revision } => {
                let response = self.response(tag, revision);
                self.outbox.push_back(v1::WatchResponse { progress_revision: revision.get(), ..response });
            }
            // Not asked for through this door.
            WatchNotice::SessionMark { .. } => {}
            WatchNotice::Events { tag, items } => {
                // History may be ahead of what the hub has heard.
                let last = items.last().map_or(Revision::ZERO, |last| last.item.revision);
                let template = self.response(tag, self.rooms.hub.revision().max(last));
                self.outbox.extend(fragments(&template, items, FRAGMENT_BYTES_MAX));
            }
            WatchNotice::Ended { tag, over } => match over {
                WatchOver::Cancelled => self.end(tag, v1::watch_end::Reason::Cancelled, String::new(), Revision::ZERO),
                WatchOver::Compacted { compacted } => {
                    let message = format!("the next revision wanted is compacted; history begins at {compacted}");
                    self.end(tag, v1::watch_end::Reason::Compacted, message, compacted);
                }
                WatchOver::Unavailable(message) => {
                    self.end(tag, v1::watch_end::Reason::Unavailable, message, Revision::ZERO);
                }
            },
        }
    }

    fn end(&mut self, tag: u64, reason: v1::watch_end::Reason, message: String, compacted: Revision) {
        let end = v1::WatchEnd { reason: reason.into(), message, compact_revision: compacted.get() };
        let response = self.response(tag, self.rooms.hub.revision());
        self.outbox.push_back(v1::WatchResponse { end: Some(end), ..response });
    }

    fn response(&self, tag: u64, revision: Revision) -> v1::WatchResponse {
        v1::WatchResponse { watch_id: tag, header: Some(self.rooms.header(revision)), ..v1::WatchResponse::default() }
    }
}

/// What a watch is to do, checked.
fn spec(create: v1::WatchCreate) -> Result<WatchSpec, Refusal> {
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

/// Packs events into messages of at most about `bytes_max`.
fn fragments(template: &v1::WatchResponse, items: Vec<Picked>, bytes_max: usize) -> Vec<v1::WatchResponse> {
    let mut messages = Vec::new();
    let mut events: Vec<v1::Event> = Vec::new();
    let (mut bytes, mut last) = (0, Revision::ZERO);
    for picked in items {
        let revision = picked.item.revision;
        for event in convert::events(picked) {
            let event_bytes = event.encoded_len();
            if bytes + event_bytes > bytes_max && !events.is_empty() {
                let events = std::mem::take(&mut events);
                messages.push(v1::WatchResponse { events, fragment: last == revision, ..template.clone() });
                bytes = 0;
            }
            bytes += event_bytes;
            last = revision;
            events.push(event);
        }
    }
    if !events.is_empty() {
        messages.push(v1::WatchResponse { events, ..template.clone() });
    }
    messages
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::watch::{Published, tests::puts};

    #[test]
    fn a_transaction_is_split_into_fragments_that_say_so() {
        let picked = |revision: i64, count: u32| {
            let item = Arc::new(Published::new(puts(revision, count, &"v".repeat(100))));
            Picked { item, changes: (0..count).collect(), previous: Vec::new() }
        };
        let items = vec![picked(5, 1), picked(6, 10), picked(7, 1)];
        let messages = fragments(&v1::WatchResponse::default(), items, 450);
        let events: Vec<(i64, bool)> = messages
            .iter()
            .map(|message| (message.events.last().unwrap().kv.as_ref().unwrap().mod_revision, message.fragment))
            .collect();
        assert_eq!(messages.iter().map(|message| message.events.len()).sum::<usize>(), 12);
        assert!(events.iter().filter(|(_, fragment)| *fragment).count() >= 2, "ten events do not fit in one message");
        for (at, message) in messages.iter().enumerate() {
            let last = message.events.last().unwrap().kv.as_ref().unwrap().mod_revision;
            let goes_on = messages
                .get(at + 1)
                .is_some_and(|next| next.events.first().unwrap().kv.as_ref().unwrap().mod_revision == last);
            assert_eq!(message.fragment, goes_on, "message {at}");
        }
    }
}

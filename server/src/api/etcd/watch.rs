//! `Watch`: one stream, many watches.
//!
//! Invariants:
//! - A client that has ended its own side goes on hearing of its watches; the stream ends when the last of them does.
//! - `created` comes before the first event of a watch; events of one revision stand in one message, unless the watch
//!   asked for fragments, and then nothing comes between the fragments.
//! - The header of a message says no later revision than what the watch was given up to, except as the wire has it: one
//!   that catches up hears the store's, and none hears an earlier one than before.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::Stream;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcd::etcdserverpb::watch_server::Watch;
use quorate_proto::{Key, Revision};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::errors::{self, Refused};
use super::{events, has_leader, header, wants_leader};
use crate::api::limits::ETCD_WATCHES_MAX;
use crate::api::rooms::Rooms;
use crate::api::streams::next_request;
use crate::watch::{Interest, OnContactLoss, Scope, Session, WatchNotice, WatchOver, WatchSpec};

/// Stands for no watch, or for all of a stream.
const NO_WATCH: i64 = -1;

/// The service.
pub struct WatchDoor(pub Arc<Rooms>);

#[tonic::async_trait]
impl Watch for WatchDoor {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = wants_leader(request.metadata());
        if needs_leader && !has_leader(&self.0) {
            return Err(errors::NO_LEADER.into());
        }
        let watches = Watches {
            session: self.0.watches(OnContactLoss::Wait),
            closing: self.0.until_closing(),
            contact_lost: needs_leader.then(|| self.0.hub.contact_lost()),
            rooms: Arc::clone(&self.0),
            requests: Some(request.into_inner()),
            open: HashMap::new(),
            next_id: 0,
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

/// What the stream knows of an open watch beside what the session does.
struct Open {
    fragments: bool,
    /// The revision of the last header.
    said: Revision,
}

/// The watches of one stream. The session's tag of a watch is its id, taken as unsigned.
struct Watches {
    session: Session,
    closing: BoxFuture<'static, ()>,
    contact_lost: Option<watch::Receiver<bool>>,
    rooms: Arc<Rooms>,
    requests: Option<Streaming<pb::WatchRequest>>,
    open: HashMap<i64, Open>,
    next_id: i64,
    outbox: VecDeque<pb::WatchResponse>,
}

impl Watches {
    async fn next(&mut self) -> Option<Result<pb::WatchResponse, Status>> {
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Some(Ok(response));
            }
            if self.requests.is_none() && self.session.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                () = &mut self.closing => return Some(Err(errors::STOPPED.into())),
                () = cut_off(self.contact_lost.as_mut()) => return Some(Err(errors::NO_LEADER.into())),
                message = next_request(&mut self.requests), if self.requests.is_some() => match message {
                    Ok(Some(request)) => self.request(request),
                    Ok(None) => self.requests = None,
                    Err(status) => return Some(Err(status)),
                },
                notice = self.session.next() => if let Err(refused) = self.notice(notice) {
                    return Some(Err(refused.into()));
                },
            }
        }
    }

    fn request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                if let Err(reason) = self.create(create) {
                    let header = Some(header(&self.rooms, self.rooms.hub.revision()));
                    self.outbox.push_back(pb::WatchResponse {
                        header,
                        watch_id: NO_WATCH,
                        created: true,
                        canceled: true,
                        cancel_reason: reason,
                        ..pb::WatchResponse::default()
                    });
                }
            }
            // An id that is not known is passed over.
            Some(RequestUnion::CancelRequest(cancel)) => drop(self.session.cancel(tag(cancel.watch_id))),
            Some(RequestUnion::ProgressRequest(_)) => self.session.ask_session_mark(),
            None => {}
        }
    }

    /// Opens a watch, or says why not.
    fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), String> {
        if create.start_revision < 0 {
            return Err(errors::COMPACTED.text.into_owned());
        }
        let (id, fragments) = (create.watch_id, create.fragment);
        let spec = spec(create, &self.rooms)?;
        let id = match id {
            0 => self.free_id(),
            id if self.session.contains(tag(id)) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
            }
            id => id,
        };
        if self.session.len() >= ETCD_WATCHES_MAX {
            return Err(format!("quorate: a stream has at most {ETCD_WATCHES_MAX} watches; open another"));
        }
        self.open.insert(id, Open { fragments, said: Revision::ZERO });
        self.session.create(tag(id), spec);
        Ok(())
    }

    /// 0, 1, 2, …, without those that clients chose themselves.
    fn free_id(&mut self) -> i64 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(0);
            if !self.session.contains(tag(id)) {
                return id;
            }
        }
    }

    /// An error ends the stream: its clients open another, which they do not do for a watch that was cancelled.
    fn notice(&mut self, notice: WatchNotice) -> Result<(), Refused> {
        match notice {
            WatchNotice::Created { tag, revision } => {
                let response = self.response(id(tag), revision);
                self.outbox.push_back(pb::WatchResponse { created: true, ..response });
            }
            WatchNotice::Mark { tag, revision } => {
                let response = self.response(id(tag), revision);
                self.outbox.push_back(response);
            }
            WatchNotice::SessionMark { revision } => {
                let header = Some(header(&self.rooms, revision));
                self.outbox.push_back(pb::WatchResponse { header, watch_id: NO_WATCH, ..pb::WatchResponse::default() });
            }
            WatchNotice::Events { tag, items } => {
                let last = items.last().map_or(Revision::ZERO, |last| last.item.revision);
                let response = self.response(id(tag), last);
                let fragments = self.open.get(&id(tag)).is_some_and(|open| open.fragments);
                self.outbox.extend(events::messages(&response, items, fragments));
            }
            WatchNotice::Ended { tag, over } => {
                let response = self.response(id(tag), self.rooms.hub.revision());
                // Another watch may have its id by now.
                if !self.session.contains(tag) {
                    self.open.remove(&id(tag));
                }
                match over {
                    WatchOver::Cancelled => {
                        self.outbox.push_back(pb::WatchResponse { canceled: true, ..response });
                    }
                    WatchOver::Compacted { compacted } => self.outbox.push_back(pb::WatchResponse {
                        header: Some(header(&self.rooms, Revision::ZERO)),
                        canceled: true,
                        compact_revision: compacted.get(),
                        ..response
                    }),
                    WatchOver::Unavailable(reason) => {
                        tracing::info!(reason, "a watch cannot go on here; its stream ends");
                        return Err(errors::BEHIND);
                    }
                }
            }
        }
        Ok(())
    }

    /// A message of a watch, with a header that goes forward.
    fn response(&mut self, id: i64, revision: Revision) -> pb::WatchResponse {
        let revision = self.open.get_mut(&id).map_or(revision, |open| {
            open.said = open.said.max(revision);
            open.said
        });
        let header = Some(header(&self.rooms, revision));
        pb::WatchResponse { header, watch_id: id, ..pb::WatchResponse::default() }
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
fn spec(create: pb::WatchCreateRequest, rooms: &Rooms) -> Result<WatchSpec, String> {
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
        progress_interval: create.progress_notify.then_some(rooms.limits.watch_progress),
        min_revision: None,
    })
}

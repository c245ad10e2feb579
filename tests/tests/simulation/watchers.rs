//! Watchers of both wires: each watches all shared keys, and goes on elsewhere where its stream breaks.
//!
//! Invariants:
//! - A watcher goes on right after the last revision that it was told whole.
//! - At the end it waits until it was told everything.

use std::time::Duration;

use quorate_proto::etcd::etcdserverpb as pb;
use quorate_proto::v1;
use quorate_server::sync::watch;
use quorate_tests::checkers::history::{Change, Event, Span, Told, Watch};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::clients::{Client, DIRECTORY};
use crate::net::Origin;
use crate::recorder::{etcd_kv, kv};
use crate::world::Bug;

/// A stream that is silent for so long is left for another: marks come more often.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const MARK_INTERVAL: Duration = Duration::from_millis(500);

/// A watcher and what it was told.
pub struct Watcher {
    client: Client,
    watch: Watch,
    /// The next revision that it has not been told whole; 0: from now on.
    next: i64,
    /// Where to end: the last revision of the run, once that is known.
    goal: watch::Receiver<Option<i64>>,
}

enum End {
    /// Everything was told.
    Done,
    /// Go on elsewhere.
    Broken,
}

impl Watcher {
    pub fn new(client: Client, goal: watch::Receiver<Option<i64>>) -> Self {
        let previous = client.dice.happens(500);
        let span = Span::Range(format!("{DIRECTORY}/").into(), Some(format!("{DIRECTORY}0").into()));
        let watch = Watch { previous, ..Watch::new(format!("of client {}", client.id), span, 1) };
        Self { client, watch, next: 1, goal }
    }

    fn is_done(&self) -> bool {
        self.goal.borrow().is_some_and(|goal| self.next > goal)
    }

    /// Watches until everything was told.
    pub async fn live(mut self, etcd: bool) {
        loop {
            let end = if etcd { self.follow_etcd().await } else { self.follow().await };
            match end {
                Ok(End::Done) => break,
                Ok(End::Broken) | Err(_) => {
                    if let Err(status) = &end {
                        self.client.town.recorder.look_at(status);
                    }
                    self.client.move_on();
                    self.watch.told.push(Told::Resumed);
                    // Now and then it is away for long.
                    let (low, high) = if self.client.dice.happens(200) { (1_000, 6_000) } else { (10, 200) };
                    sleep(self.client.dice.between_ms(low, high)).await;
                }
            }
        }
        self.client.town.recorder.watch(self.watch);
    }

    /// The next message of a stream; none when it is silent for too long, or its process has ended.
    async fn message<T>(&self, from: Option<Origin>, stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
        if self.client.dice.happens(10) {
            return Ok(None);
        }
        let Ok(next) = timeout(SILENCE_MAX, stream.message()).await else { return Ok(None) };
        let next = next?;
        let town = &self.client.town;
        let arrives = from.is_some_and(|origin| town.net.runs(origin))
            && town.net.carry(self.client.way().member, self.client.id).await;
        Ok(next.filter(|_| arrives))
    }

    fn origin(&self) -> Option<Origin> {
        let id = self.client.way().member;
        self.client.town.net.end(id).map(|end| Origin { id, process: end.process })
    }

    async fn follow(&mut self) -> Result<End, Status> {
        let (sender, requests) = mpsc::channel(4);
        let create = v1::WatchCreate {
            watch_id: 1,
            scope: v1::watch_create::Scope::Range.into(),
            key: format!("{DIRECTORY}/").into(),
            end: format!("{DIRECTORY}0").into(),
            start_revision: self.next,
            previous_values: self.watch.previous,
            progress_interval_ms: u64::try_from(MARK_INTERVAL.as_millis()).unwrap(),
            ..Default::default()
        };
        let create = v1::WatchRequest { request: Some(v1::watch_request::Request::Create(create)) };
        sender.send(create).await.expect("there is room");
        let origin = self.origin();
        let mut client = v1::watch_client::WatchClient::new(self.client.way());
        let opened = timeout(SILENCE_MAX, client.watch(ReceiverStream::new(requests))).await;
        let Ok(opened) = opened else { return Ok(End::Broken) };
        let mut stream = opened?.into_inner();
        let mut torn = false;
        while let Some(message) = self.message(origin, &mut stream).await? {
            let revision = message.header.map_or(0, |header| header.revision);
            if message.created {
                self.watch.told.push(Told::Created(revision));
            }
            if !message.events.is_empty() {
                let last = message.events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
                let loses = self.client.has(Bug::LostEvent) && self.client.dice.happens(20);
                let events = message.events.into_iter().skip(usize::from(loses)).map(event).collect();
                self.watch.told.push(Told::Events { revision, events, fragment: message.fragment });
                torn = message.fragment;
                if !torn {
                    self.next = self.next.max(last + 1);
                }
            }
            if message.progress_revision > 0 {
                self.watch.told.push(Told::Progress(message.progress_revision));
                self.next = self.next.max(message.progress_revision + 1);
            }
            if let Some(end) = message.end {
                return Ok(self.ended(end.compact_revision));
            }
            if self.is_done() && !torn {
                return Ok(End::Done);
            }
        }
        Ok(End::Broken)
    }

    /// A watch whose next revision is compacted goes on after that.
    fn ended(&mut self, compacted: i64) -> End {
        if compacted > self.next {
            self.watch.told.push(Told::Compacted(compacted));
            // What follows is another watch, with a start of its own.
            let told = std::mem::take(&mut self.watch.told);
            let next = Watch { start: compacted, told: Vec::new(), ..self.watch.clone() };
            let before = std::mem::replace(&mut self.watch, next);
            self.client.town.recorder.watch(Watch { told, ..before });
            self.next = compacted;
        }
        End::Broken
    }

    async fn follow_etcd(&mut self) -> Result<End, Status> {
        let (sender, requests) = mpsc::channel(4);
        let create = pb::WatchCreateRequest {
            key: format!("{DIRECTORY}/").into(),
            range_end: format!("{DIRECTORY}0").into(),
            start_revision: self.next,
            prev_kv: self.watch.previous,
            ..Default::default()
        };
        let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        sender.send(create).await.expect("there is room");
        let origin = self.origin();
        let mut client = pb::watch_client::WatchClient::new(self.client.way());
        let opened = timeout(SILENCE_MAX, client.watch(ReceiverStream::new(requests))).await;
        let Ok(opened) = opened else { return Ok(End::Broken) };
        let mut stream = opened?.into_inner();
        tokio::spawn(ask_marks(sender));
        while let Some(message) = self.message(origin, &mut stream).await? {
            let revision = message.header.map_or(0, |header| header.revision);
            if message.created {
                self.watch.told.push(Told::Created(revision));
            }
            if message.canceled {
                return Ok(self.ended(message.compact_revision));
            }
            if !message.events.is_empty() {
                let last = message.events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
                let events = message.events.into_iter().map(etcd_event).collect();
                self.watch.told.push(Told::Events { revision, events, fragment: false });
                self.next = self.next.max(last + 1);
            } else if !message.created {
                self.watch.told.push(Told::Progress(revision));
                self.next = self.next.max(revision + 1);
            }
            if self.is_done() {
                return Ok(End::Done);
            }
        }
        Ok(End::Broken)
    }
}

/// Asks for marks of progress as long as the stream is open.
async fn ask_marks(sender: mpsc::Sender<pb::WatchRequest>) {
    while !sender.is_closed() {
        sleep(MARK_INTERVAL).await;
        let ask = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        // Full: what was asked for before is still to come.
        let _ = sender.try_send(pb::WatchRequest { request_union: Some(ask) });
    }
}

fn event(event: v1::Event) -> Event {
    let deleted = event.kind == i32::from(v1::event::Kind::Delete);
    let found = kv(event.kv.unwrap());
    let change =
        if deleted { Change::Delete { key: found.key, revision: found.mod_revision } } else { Change::Put(found) };
    Event { change, previous: event.previous.map(kv) }
}

fn etcd_event(event: quorate_proto::etcd::mvccpb::Event) -> Event {
    let deleted = event.r#type == i32::from(quorate_proto::etcd::mvccpb::event::EventType::Delete);
    let found = etcd_kv(event.kv.unwrap());
    let change =
        if deleted { Change::Delete { key: found.key, revision: found.mod_revision } } else { Change::Put(found) };
    Event { change, previous: event.prev_kv.map(etcd_kv) }
}

//! A server under comparison: takes steps, waits until their changes have arrived at every watch, and gives the answer.
//!
//! One more watch than the sequence asks for, the *witness*, follows all keys. It says which changes there are; so it is
//! known how many events each other watch is due, and nothing waits for time to pass.
//!
//! Invariants:
//! - A step ends when the witness has seen the revision of its answer and every watch has what it is due by what the
//!   witness saw; what is missing after [`PATIENCE`] is an answer that equals nothing.
//! - Each sequence begins with one key and everything older compacted, or on a server that nobody wrote to.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use quorate_proto::etcd::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcd::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcd::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcd::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use quorate_proto::etcd::mvccpb::{Event, event::EventType};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::answer::{Answer, Lens, Reply};
use super::step::{START, Step, shown};

/// How long an answer or an event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a stream is listened to before a question for progress is asked again, and how often it is asked.
const PROGRESS_PAUSE: Duration = Duration::from_millis(150);
const PROGRESS_ASKED_MAX: usize = 4;

/// The stream of the witness.
const WITNESS: usize = 99;

/// Clients of one member.
struct Member {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
}

/// A server or a cluster.
pub struct Target {
    pub name: &'static str,
    /// What this server is known to lose: the deletions at the very revision of a compaction.
    pub loses_compacted_tombstones: bool,
    members: Vec<Member>,
    taken: usize,
    lens: Lens,
    compacted: i64,
    streams: BTreeMap<usize, Stream>,
    /// All changes since the sequence began, in order.
    changes: Vec<Event>,
    revision: i64,
}

struct Stream {
    requests: Option<mpsc::Sender<WatchRequest>>,
    responses: Streaming<WatchResponse>,
    watchers: BTreeMap<i64, Watcher>,
    /// What came since it was last asked for.
    received: Vec<WatchResponse>,
    ended: Option<String>,
}

struct Watcher {
    create: WatchCreateRequest,
    /// The first revision that it delivers.
    start: i64,
    /// It was created for what had been already.
    from_past: bool,
    /// Deletions at this revision may be lost.
    lossy_at: i64,
    due: usize,
    seen: usize,
}

impl Watcher {
    fn is_due(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        if kv.mod_revision < self.start {
            return false;
        }
        let lost = event.r#type() == EventType::Delete && kv.mod_revision == self.lossy_at;
        !lost && !self.create.filters.contains(&event.r#type) && within(&kv.key, &self.create)
    }
}

fn within(key: &Bytes, create: &WatchCreateRequest) -> bool {
    let from: &[u8] = if create.key.is_empty() { b"\0" } else { &create.key };
    // An empty key stands for the first key; with no end it is that key alone.
    match create.range_end.as_ref() {
        b"" => key.as_ref() == from,
        b"\0" => key.as_ref() >= from,
        end => key.as_ref() >= from && key.as_ref() < end,
    }
}

impl Stream {
    async fn send(&self, request: RequestUnion) -> Result<(), Reply> {
        let Some(requests) = &self.requests else { return Err(Reply::Done) };
        let sent = requests.send(WatchRequest { request_union: Some(request) }).await;
        sent.map_err(|_| Reply::Lost("the watch stream takes no requests".to_owned()))
    }

    /// Takes one response in; false when the stream has ended.
    async fn receive(&mut self) -> bool {
        match self.responses.message().await {
            Ok(Some(response)) => {
                self.note(response);
                true
            }
            Ok(None) => {
                self.ended = Some("the watch stream has ended".to_owned());
                false
            }
            Err(status) => {
                self.ended = Some(format!("the watch stream has ended: {status}"));
                false
            }
        }
    }

    fn note(&mut self, response: WatchResponse) {
        if let Some(watcher) = self.watchers.get_mut(&response.watch_id) {
            watcher.seen += response.events.len();
        }
        if response.canceled {
            self.watchers.remove(&response.watch_id);
        }
        self.received.push(response);
    }

    /// Receives until `done`; what is missing, if it does not come.
    async fn until(&mut self, patience: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while !done(self) {
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            if tokio::time::timeout_at(deadline, self.receive()).await.is_err() {
                return Err("it did not come in time".to_owned());
            }
        }
        Ok(())
    }

    /// Takes in what is there already.
    fn drain(&mut self) {
        while self.ended.is_none() && self.receive().now_or_never() == Some(true) {}
    }
}

impl Target {
    /// A target of one or several members.
    pub async fn connect(name: &'static str, endpoints: &[String]) -> Self {
        let mut members = Vec::new();
        for endpoint in endpoints {
            let channel = quorate_tests::etcd::channel(endpoint).await.expect("connect to a server that serves");
            members.push(Member {
                kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
                lease: LeaseClient::new(channel.clone()),
                watch: WatchClient::new(channel).max_decoding_message_size(usize::MAX),
            });
        }
        Self {
            name,
            loses_compacted_tombstones: false,
            members,
            taken: 0,
            lens: Lens { base: 1 },
            compacted: 0,
            streams: BTreeMap::new(),
            changes: Vec::new(),
            revision: 0,
        }
    }

    /// The current revision, as the sequence counts.
    pub fn revision(&self) -> i64 {
        shown(self.revision, self.lens.base)
    }

    /// The compacted revision, as the sequence counts.
    pub fn compacted(&self) -> i64 {
        shown(self.compacted, self.lens.base)
    }

    /// All changes since the sequence began, revisions as the sequence counts.
    pub fn changes(&self) -> impl Iterator<Item = Event> {
        let base = self.lens.base;
        self.changes.iter().cloned().map(move |mut event| {
            for kv in event.kv.iter_mut().chain(&mut event.prev_kv) {
                kv.create_revision = shown(kv.create_revision, base);
                kv.mod_revision = shown(kv.mod_revision, base);
            }
            event
        })
    }

    /// Ids of the watches that live, with their streams.
    pub fn watches(&self) -> Vec<(usize, i64)> {
        let own = self.streams.iter().filter(|(stream, _)| **stream != WITNESS);
        own.flat_map(|(stream, state)| state.watchers.keys().map(|id| (*stream, *id))).collect()
    }

    /// Begins a sequence. On a fresh server nothing is written; else all is removed and compacted.
    pub async fn begin(&mut self, fresh: bool) -> Result<(), Status> {
        self.streams.clear();
        self.changes.clear();
        self.taken = 0;
        let member = &mut self.members[0];
        if fresh {
            (self.compacted, self.revision) = (0, 1);
        } else {
            for lease in member.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases {
                member.lease.lease_revoke(LeaseRevokeRequest { id: lease.id }).await?;
            }
            let all = DeleteRangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                prev_kv: false,
            };
            member.kv.delete_range(all).await?;
            let first =
                PutRequest { key: Bytes::from_static(b"m"), value: Bytes::from_static(b"m"), ..PutRequest::default() };
            let revision = member.kv.put(first).await?.into_inner().header.map_or(0, |header| header.revision);
            member.kv.compact(CompactionRequest { revision, physical: false }).await?;
            (self.compacted, self.revision) = (revision, revision - 1);
        }
        self.lens = Lens { base: self.revision.max(self.compacted) };
        self.open_witness(fresh).await
    }

    async fn open_witness(&mut self, fresh: bool) -> Result<(), Status> {
        let everything = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: self.lens.base,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let expected = usize::from(!fresh);
        let created = self.watch(WITNESS, everything).await;
        let witness = self.streams.get_mut(&WITNESS).expect("it was just made");
        let first = witness.until(PATIENCE, |stream| events(stream) >= expected).await;
        if let (Reply::Done, Ok(())) = (&created, &first) {
            self.hear_witness();
            self.take_watched(false);
            return Ok(());
        }
        Err(Status::internal(format!("the witness of {}: {created:?}, {first:?}", self.name)))
    }

    /// Takes one step.
    pub async fn take(&mut self, step: &Step) -> Answer {
        let step = step.at(self.lens.base);
        self.taken += 1;
        let chosen = !matches!(&step, Step::Grant(grant) | Step::GrantAndRevoke(grant) if grant.id == 0);
        let mut reply = self.lens.reply(self.send(&step).await, chosen);
        if let Err(missing) = self.settle(&reply).await {
            reply = Reply::Lost(missing);
        }
        let watched = self.take_watched(matches!(step, Step::Progress { .. }));
        let merge = matches!(step, Step::Burst(_));
        Answer { reply, watched: if merge { watched.into_iter().map(merged).collect() } else { watched } }
    }

    /// The member for this step. What a member answers from what it has itself is asked after a barrier there.
    async fn member(&mut self, local: bool) -> Result<&mut Member, Status> {
        let several = self.members.len() > 1;
        let at = self.taken % self.members.len();
        let member = &mut self.members[at];
        if several && local {
            let any = RangeRequest { key: Bytes::from_static(b"m"), count_only: true, ..RangeRequest::default() };
            member.kv.range(any).await?;
        }
        Ok(member)
    }

    async fn send(&mut self, step: &Step) -> Reply {
        let result = match step {
            Step::Watch { stream, create } => return self.watch(*stream, create.clone()).await,
            Step::Cancel { stream, id } => return self.cancel(*stream, *id).await,
            Step::Progress { stream } => return self.progress(*stream).await,
            Step::HalfClose { stream } => {
                if let Some(stream) = self.streams.get_mut(stream) {
                    stream.requests = None;
                }
                return Reply::Done;
            }
            Step::End => return self.end(|_| true).await,
            Step::Compact(_) => {
                // A server may look at such a watch only later, and then find it compacted or not: a matter of time.
                if let reply @ Reply::Lost(_) = self.end(|watcher| watcher.from_past && watcher.seen == 0).await {
                    return reply;
                }
                self.call(step).await
            }
            Step::Burst(puts) => {
                let mut replies = Vec::new();
                for put in puts {
                    replies.push(self.call(&Step::Put(put.clone())).await);
                }
                return Reply::Many(replies);
            }
            Step::GrantAndRevoke(grant) => {
                let granted = self.call(&Step::Grant(*grant)).await;
                if let Reply::Grant(response) = &granted {
                    // On a slow machine it may have ended by itself.
                    self.call(&Step::Revoke(LeaseRevokeRequest { id: response.id })).await;
                }
                return granted;
            }
            unary => self.call(unary).await,
        };
        if let (Step::Compact(compact), Reply::Compact(_)) = (step, &result) {
            self.compacted = compact.revision;
        }
        result
    }

    async fn call(&mut self, step: &Step) -> Reply {
        let local = matches!(step, Step::Leases | Step::TimeToLive(_) | Step::KeepAlive(_))
            || matches!(step, Step::Range(range) if range.serializable);
        let member = match self.member(local).await {
            Ok(member) => member,
            Err(status) => return Reply::Lost(format!("a barrier: {status}")),
        };
        let (kv, lease) = (&mut member.kv, &mut member.lease);
        match step {
            Step::Range(request) => unary(kv.range(request.clone()), Reply::Range).await,
            Step::Put(request) => unary(kv.put(request.clone()), Reply::Put).await,
            Step::Delete(request) => unary(kv.delete_range(request.clone()), Reply::Delete).await,
            Step::Txn(request) => unary(kv.txn(request.clone()), Reply::Txn).await,
            Step::Compact(request) => unary(kv.compact(*request), Reply::Compact).await,
            Step::Grant(request) => unary(lease.lease_grant(*request), Reply::Grant).await,
            Step::Revoke(request) => unary(lease.lease_revoke(*request), Reply::Revoke).await,
            Step::TimeToLive(request) => unary(lease.lease_time_to_live(*request), Reply::TimeToLive).await,
            Step::Leases => unary(lease.lease_leases(LeaseLeasesRequest {}), Reply::Leases).await,
            Step::KeepAlive(request) => keep_alive(lease, *request).await,
            other => Reply::Lost(format!("not a call: {other}")),
        }
    }

    /// Sends a request to create a watch on a stream, which is opened with it: a server may answer nothing before that.
    async fn send_create(&mut self, at: usize, create: WatchCreateRequest) -> Result<(), Reply> {
        let request = RequestUnion::CreateRequest(create);
        if let Some(stream) = self.streams.get(&at) {
            return stream.send(request).await;
        }
        let several = self.members.len();
        let member = &mut self.members[at % several];
        let (requests, sent) = mpsc::channel(16);
        let first = WatchRequest { request_union: Some(request) };
        requests.send(first).await.map_err(|error| Reply::Lost(error.to_string()))?;
        let opening = member.watch.watch(tokio_stream::wrappers::ReceiverStream::new(sent));
        let opened = tokio::time::timeout(PATIENCE, opening).await;
        let responses =
            opened.map_err(|_| Reply::Lost("no answer to a watch stream in time".to_owned()))??.into_inner();
        let requests = Some(requests);
        let made = Stream { requests, responses, watchers: BTreeMap::new(), received: Vec::new(), ended: None };
        self.streams.insert(at, made);
        Ok(())
    }

    async fn watch(&mut self, at: usize, create: WatchCreateRequest) -> Reply {
        // A watch from now on begins where its member stands.
        if let Err(reply) = self.barrier(at).await {
            return reply;
        }
        let (revision, compacted, lossy) = (self.revision, self.compacted, self.loses_compacted_tombstones);
        let mut create = create;
        if create.start_revision != 0 && create.start_revision < compacted {
            // etcd keeps the id of a watch that ended as compacted until the client cancels it, here it is free again; so
            // these never have an id that another asks for.
            create.watch_id = 0;
        }
        let before = self.streams.get(&at).map_or(0, |stream| stream.received.len());
        if let Err(reply) = self.send_create(at, create.clone()).await {
            return reply;
        }
        let Some(stream) = self.streams.get_mut(&at) else { return Reply::Done };
        let created = |stream: &Stream| stream.received[before..].iter().find(|one| one.created).cloned();
        if let Err(why) = stream.until(PATIENCE, |stream| created(stream).is_some()).await {
            return Reply::Lost(format!("the created response: {why}"));
        }
        let Some(response) = created(stream) else { return Reply::Done };
        if response.canceled {
            return Reply::Done;
        }
        let id = response.watch_id;
        if create.start_revision != 0 && create.start_revision < compacted {
            let gone = |stream: &Stream| stream.received[before..].iter().any(|one| one.watch_id == id && one.canceled);
            let end = stream.until(PATIENCE, gone).await;
            return end.map_or_else(|why| Reply::Lost(format!("a compacted watch's end: {why}")), |()| Reply::Done);
        }
        let start = if create.start_revision == 0 { revision + 1 } else { create.start_revision };
        let lossy_at = if lossy && create.start_revision == compacted { compacted } else { 0 };
        // Events may have come with the created response.
        let seen = stream.received[before..].iter().filter(|one| one.watch_id == id).map(|one| one.events.len()).sum();
        let from_past = start <= revision;
        let mut watcher = Watcher { create, start, from_past, lossy_at, due: 0, seen };
        watcher.due = self.changes.iter().filter(|event| watcher.is_due(event)).count();
        if let Some(stream) = self.streams.get_mut(&at) {
            stream.watchers.insert(id, watcher);
        }
        Reply::Done
    }

    /// Waits until the member of this stream stands where the cluster does: its watches answer with what it has.
    async fn barrier(&mut self, stream: usize) -> Result<(), Reply> {
        let several = self.members.len();
        if several > 1 {
            let any = RangeRequest { key: Bytes::from_static(b"m"), count_only: true, ..RangeRequest::default() };
            let read = self.members[stream % several].kv.range(any).await;
            read.map_err(|status| Reply::Lost(format!("a barrier: {status}")))?;
        }
        Ok(())
    }

    async fn cancel(&mut self, stream: usize, id: i64) -> Reply {
        if let Err(reply) = self.barrier(stream).await {
            return reply;
        }
        let Some(stream) = self.streams.get_mut(&stream) else { return Reply::Done };
        if let Err(reply) = stream.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id })).await {
            return reply;
        }
        if !stream.watchers.contains_key(&id) {
            return Reply::Done;
        }
        let gone = stream.until(PATIENCE, |stream| !stream.watchers.contains_key(&id)).await;
        gone.map_or_else(|why| Reply::Lost(format!("the cancelled response: {why}")), |()| Reply::Done)
    }

    /// A server answers only when all watches of the stream are in step, which it may not yet know; so it is asked again.
    async fn progress(&mut self, stream: usize) -> Reply {
        if let Err(reply) = self.barrier(stream).await {
            return reply;
        }
        let Some(stream) = self.streams.get_mut(&stream) else { return Reply::Done };
        for _ in 0..PROGRESS_ASKED_MAX {
            if let Err(reply) = stream.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await {
                return reply;
            }
            let came = stream.until(PROGRESS_PAUSE, |stream| stream.received.iter().any(is_mark)).await;
            if came.is_ok() {
                return Reply::Done;
            }
            if let Some(ended) = &stream.ended {
                return Reply::Lost(ended.clone());
            }
        }
        Reply::Silence("no progress")
    }

    /// Cancels the watches that `which` names.
    async fn end(&mut self, which: fn(&Watcher) -> bool) -> Reply {
        for (stream, id) in self.watches() {
            let named = |stream: &Stream| stream.watchers.get(&id).is_some_and(which);
            if !self.streams.get(&stream).is_some_and(named) {
                continue;
            }
            let open = self.streams.get(&stream).is_some_and(|stream| stream.requests.is_some());
            if open && let reply @ Reply::Lost(_) = self.cancel(stream, id).await {
                return reply;
            }
        }
        Reply::Done
    }

    /// Waits until the witness has seen what `reply` speaks of, and every watch what it is due.
    async fn settle(&mut self, reply: &Reply) -> Result<(), String> {
        if let Reply::Lost(missing) = reply {
            return Err(missing.clone());
        }
        let base = self.lens.base;
        let spoken = spoken_of(reply) - START + base;
        let known = self.revision;
        let witness = self.streams.get_mut(&WITNESS).ok_or("there is no witness")?;
        let arrived = |stream: &Stream| known.max(last_revision(stream)) >= spoken;
        let heard = witness.until(PATIENCE, arrived).await;
        heard.map_err(|why| format!("an event of revision {} at a watch of all keys: {why}", shown(spoken, base)))?;
        witness.drain();
        self.hear_witness();
        for (at, stream) in self.streams.iter_mut().filter(|(at, _)| **at != WITNESS) {
            let all = |stream: &Stream| stream.watchers.values().all(|watcher| watcher.seen >= watcher.due);
            let came = stream.until(PATIENCE, all).await;
            stream.drain();
            if let Err(why) = came {
                let short = stream.watchers.iter().filter(|(_, watcher)| watcher.seen < watcher.due);
                let short: Vec<_> = short.map(|(id, w)| format!("watch {id} has {} of {}", w.seen, w.due)).collect();
                return Err(format!("events of stream {at}: {why}: {}", short.join(", ")));
            }
        }
        Ok(())
    }

    /// Notes what the witness saw, and what the others are therefore due.
    fn hear_witness(&mut self) {
        let Some(witness) = self.streams.get(&WITNESS) else { return };
        let known = self.revision;
        let news = witness.received.iter().flat_map(|response| response.events.iter().cloned());
        let news: Vec<Event> =
            news.filter(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision > known)).collect();
        for event in news {
            self.revision = self.revision.max(event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
            for stream in self.streams.values_mut() {
                for watcher in stream.watchers.values_mut() {
                    watcher.due += usize::from(watcher.is_due(&event));
                }
            }
            self.changes.push(event);
        }
    }

    /// What was received. Marks of progress count only where they were asked for: who asks again may get two answers,
    /// of which the second comes at any time.
    fn take_watched(&mut self, marks: bool) -> BTreeMap<(usize, i64), Vec<WatchResponse>> {
        let lens = self.lens;
        let mut taken: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (at, stream) in &mut self.streams {
            for response in std::mem::take(&mut stream.received) {
                if is_mark(&response) && !marks {
                    continue;
                }
                taken.entry((*at, response.watch_id)).or_default().push(lens.watched(response));
            }
        }
        // However often it was asked, one mark of one revision says all.
        for ((_, id), responses) in &mut taken {
            if *id == -1 {
                responses.dedup();
            }
        }
        taken
    }
}

fn events(stream: &Stream) -> usize {
    stream.received.iter().map(|response| response.events.len()).sum()
}

fn is_mark(response: &WatchResponse) -> bool {
    response.watch_id == -1 && !response.created && !response.canceled
}

fn last_revision(stream: &Stream) -> i64 {
    let events = stream.received.iter().flat_map(|response| &response.events);
    events.filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max().unwrap_or(0)
}

/// All events of a watch in one response with the revision of the last: how many revisions share one, and how far the
/// server was when it sent it, is a matter of time when writes follow each other.
fn merged((at, responses): ((usize, i64), Vec<WatchResponse>)) -> ((usize, i64), Vec<WatchResponse>) {
    let mut all: Vec<WatchResponse> = Vec::new();
    for response in responses {
        match all.last_mut() {
            Some(last) if !last.created && !response.created && !response.canceled => {
                last.events.extend(response.events);
                last.header = response.header;
            }
            _ => all.push(response),
        }
    }
    for response in &mut all {
        let last = response.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        if let (Some(last), Some(header)) = (last, &mut response.header)
            && header.revision > last
        {
            header.revision = last;
        }
    }
    (at, all)
}

/// The revision that an answer speaks of, as the sequence counts.
fn spoken_of(reply: &Reply) -> i64 {
    let of = |header: &Option<ResponseHeader>| header.as_ref().map_or(0, |header| header.revision);
    match reply {
        Reply::Range(response) => of(&response.header),
        Reply::Put(response) => of(&response.header),
        Reply::Delete(response) => of(&response.header),
        Reply::Txn(response) => of(&response.header),
        Reply::Compact(response) => of(&response.header),
        Reply::Grant(response) => of(&response.header),
        Reply::Revoke(response) => of(&response.header),
        Reply::TimeToLive(response) => of(&response.header),
        Reply::Leases(response) => of(&response.header),
        Reply::KeepAlive(response) => of(&response.header),
        Reply::Many(replies) => replies.iter().map(spoken_of).max().unwrap_or(0),
        Reply::Done | Reply::Refused { .. } | Reply::Silence(_) | Reply::Lost(_) => 0,
    }
}

async fn unary<T>(call: impl Future<Output = Result<Response<T>, Status>>, reply: fn(T) -> Reply) -> Reply {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(response)) => reply(response.into_inner()),
        Ok(Err(status)) => status.into(),
        Err(_) => Reply::Lost("no answer in time".to_owned()),
    }
}

async fn keep_alive(lease: &mut LeaseClient<Channel>, request: LeaseKeepAliveRequest) -> Reply {
    let one = async {
        let mut answers = lease.lease_keep_alive(tokio_stream::once(request)).await?.into_inner();
        answers.message().await
    };
    match tokio::time::timeout(PATIENCE, one).await {
        Ok(Ok(Some(response))) => Reply::KeepAlive(response),
        Ok(Ok(None)) => Reply::Silence("a keep-alive without an answer"),
        Ok(Err(status)) => status.into(),
        Err(_) => Reply::Lost("no answer in time".to_owned()),
    }
}

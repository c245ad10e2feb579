//! The stream of appends against a peer that answers, is slow, is silent, refuses, or goes away.

use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::raft::StreamAppendError;
use parking_lot::Mutex;
use quorate_proto::peer::peer_server::{Peer, PeerServer};
use quorate_proto::peer::{
    DigestsRequest, DigestsResponse, ForwardRequest, ForwardResponse, HelloRequest, HelloResponse,
};
use quorate_proto::{ClusterId, MemberId};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::config::Timing;
use crate::consensus::Haste;
use crate::consensus::links::{LocalMember, removal};
use crate::consensus::types::{Entry, EntryPayload, log_id};

/// What the peer does with appends.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Answers each.
    Answers,
    /// Answers when so many have arrived.
    Collects(usize),
    /// Never.
    Silent,
    /// Says that something conflicts.
    Conflicts,
    /// Ends the stream after one answer.
    Leaves,
    /// Refuses the stream.
    Removed,
}

struct FakePeer {
    manner: Arc<Mutex<Manner>>,
    streams: Arc<AtomicUsize>,
}

struct Test {
    network: PeerNetwork,
    manner: Arc<Mutex<Manner>>,
    streams: Arc<AtomicUsize>,
    backlog: Backlog,
}

async fn test(manner: Manner) -> Test {
    let (manner, streams) = (Arc::new(Mutex::new(manner)), Arc::new(AtomicUsize::new(0)));
    let fake = FakePeer { manner: manner.clone(), streams: streams.clone() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(PeerServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let local = LocalMember::new(MemberId::new(1).unwrap(), "one".into(), String::new(), ClusterId::new(7));
    let links = Arc::new(Links::new(Arc::new(local), Timing::default()));
    let backlog = Backlog::default();
    let (purpose, rhythm) = (Purpose::Append, Rhythm::default());
    let network = PeerNetwork { links, target: 2, address, purpose, backlog: backlog.clone(), rhythm, kept: None };
    Test { network, manner, streams, backlog }
}

fn append(index: u64) -> AppendEntriesRequest<TypeConfig> {
    let vote = Vote::new(1, 1);
    AppendEntriesRequest { vote, prev_log_id: Some(log_id(1, index)), entries: vec![], leader_commit: None }
}

fn blank(index: u64) -> Entry {
    Entry { log_id: log_id(1, index), payload: EntryPayload::Blank }
}

fn option() -> RPCOption {
    RPCOption::new(Duration::from_millis(75))
}

impl Test {
    async fn call(&mut self, indexes: std::ops::Range<u64>) -> Vec<AppendResult> {
        let input = futures::stream::iter(indexes.map(append));
        match self.network.stream_append(input, option()).await {
            Ok(answers) => answers.collect().await,
            Err(error) => vec![Err(error)],
        }
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

fn indexes(answers: Vec<AppendResult>) -> Vec<u64> {
    answers.into_iter().map(|answer| answer.unwrap().unwrap().unwrap().index).collect()
}

#[tokio::test]
async fn calls_share_a_stream_and_answers_are_in_order() {
    let mut test = test(Manner::Answers).await;
    for round in 0..5 {
        assert_eq!(indexes(test.call(round..round + 3).await), (round..round + 3).collect::<Vec<_>>());
    }
    assert_eq!(test.streams(), 1);
    // As heartbeats do it: one request, one answer, then the end.
    let answer = test.network.append_entries(append(9), option()).await.unwrap();
    assert!(answer.is_success());
    test.call(0..1).await;
    assert_eq!(test.streams(), 1);
}

/// openraft waits after a failure where it is asked for the first request. The stream was opened before that, so an
/// address that refused was tried again thousands of times a second, until the member behind it was back or removed.
#[tokio::test]
async fn nothing_is_opened_before_there_is_a_request() {
    let mut test = test(Manner::Answers).await;
    let (streams, opened) = (test.streams.clone(), Arc::new(AtomicUsize::new(usize::MAX)));
    let seen = opened.clone();
    let asked = async move {
        seen.store(streams.load(Ordering::SeqCst), Ordering::SeqCst);
        append(4)
    };
    let input = futures::stream::once(asked).boxed();
    let answers = test.network.stream_append(input, option()).await.unwrap();
    assert_eq!(indexes(answers.collect().await), [4]);
    assert_eq!((opened.load(Ordering::SeqCst), test.streams()), (0, 1));
    test.network.kept = None;
    assert!(test.call(0..0).await.is_empty());
    assert_eq!(test.streams(), 1);
}

#[tokio::test]
async fn requests_go_out_while_earlier_ones_are_unanswered() {
    let mut test = test(Manner::Collects(IN_FLIGHT_MAX)).await;
    let all = 3 * IN_FLIGHT_MAX as u64;
    assert_eq!(indexes(test.call(0..all).await), (0..all).collect::<Vec<_>>());
}

/// Word of a commit is an append without entries.
#[tokio::test]
async fn word_of_a_commit_waits_for_the_next_append_only_while_commands_wait() {
    let mut test = test(Manner::Answers).await;
    let entries = |index| AppendEntriesRequest { entries: vec![blank(index + 1)], ..append(index) };
    let input = || futures::stream::iter([append(4), append(5), entries(6), entries(7)]);
    let answers = test.network.stream_append(input(), option()).await.unwrap();
    assert_eq!(indexes(answers.collect().await), [4, 5, 6, 7], "nothing waits: all go");
    test.backlog.add(1, Haste::WithOthers);
    let answers = test.network.stream_append(input(), option()).await.unwrap();
    assert_eq!(indexes(answers.collect().await), [4, 5, 6, 7], "what waits for others is not waited for");
    test.backlog.add(1, Haste::AtOnce);
    let answers = test.network.stream_append(input(), option()).await.unwrap();
    assert_eq!(indexes(answers.collect().await), [6, 7], "what is committed goes with the entries that follow");
    // Nothing follows, and nothing can; then nothing follows, but might.
    assert_eq!(indexes(test.call(8..10).await), [9]);
    let mut answers =
        test.network.stream_append(input().take(1).chain(futures::stream::pending()), option()).await.unwrap();
    assert_eq!(indexes(vec![answers.next().await.unwrap()]), [4]);
}

#[tokio::test]
async fn word_of_a_commit_waits_for_the_next_append_where_that_has_always_come_soon() {
    let mut test = test(Manner::Answers).await;
    let entries = |index| AppendEntriesRequest { entries: vec![blank(index + 1)], ..append(index) };
    // The first eight are the proof.
    let input = futures::stream::iter((0..20).map(move |n| if n % 2 == 0 { append(n) } else { entries(n) }));
    let answers = test.network.stream_append(input, option()).await.unwrap();
    assert_eq!(indexes(answers.collect().await), (0..16).chain([17, 19]).collect::<Vec<_>>());
    // None follows: it goes alone, and so does the next one.
    let input = futures::stream::iter([append(20)]).chain(futures::stream::pending());
    let mut answers = test.network.stream_append(input, option()).await.unwrap();
    assert_eq!(indexes(vec![answers.next().await.unwrap()]), [20]);
    drop(answers);
    assert_eq!(indexes(test.call(21..23).await), [21, 22]);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_answers_to_the_next() {
    let mut test = test(Manner::Silent).await;
    let gave_up = tokio::time::timeout(Duration::from_millis(50), test.call(0..1)).await;
    assert!(gave_up.is_err());
    *test.manner.lock() = Manner::Answers;
    assert_eq!(indexes(test.call(5..6).await), [5]);
    assert_eq!(test.streams(), 2);
}

#[tokio::test]
async fn a_lost_answer_does_not_wedge_the_follower() {
    let mut test = test(Manner::Silent).await;
    let began = Instant::now();
    let answers = test.call(0..2).await;
    assert!(matches!(answers[..], [Err(RPCError::Network(_))]), "{answers:?}");
    assert!(began.elapsed() >= ANSWER_TTL_MIN && began.elapsed() < ANSWER_TTL_MIN * 2, "{:?}", began.elapsed());
    *test.manner.lock() = Manner::Answers;
    assert_eq!(indexes(test.call(0..2).await), [0, 1]);
}

#[tokio::test]
async fn a_conflict_ends_the_call_and_the_stream() {
    let mut test = test(Manner::Conflicts).await;
    let answers = test.call(4..9).await;
    assert!(matches!(&answers[..], [Ok(Err(StreamAppendError::Conflict(at)))] if at.index == 4), "{answers:?}");
    *test.manner.lock() = Manner::Answers;
    assert_eq!(indexes(test.call(2..4).await), [2, 3]);
    assert_eq!(test.streams(), 2);
}

#[tokio::test]
async fn a_stream_that_ends_is_an_error_that_is_tried_again_at_once() {
    let mut test = test(Manner::Leaves).await;
    let answers = test.call(0..3).await;
    assert!(matches!(answers[..], [Ok(Ok(_)), Err(RPCError::Network(_))]), "{answers:?}");
}

/// A heartbeat was lost to a stream that had broken since the one before, so a leader whose connections were reset was
/// silent for twice as long as it had to be.
#[tokio::test]
async fn a_kept_stream_that_has_ended_since_is_replaced_before_a_request_is_lost_to_it() {
    let mut test = test(Manner::Leaves).await;
    assert_eq!(indexes(test.call(0..1).await), [0]);
    let kept = test.network.kept.as_mut().unwrap();
    assert!(kept.answers.message().await.unwrap().is_none(), "the other side has left");
    *test.manner.lock() = Manner::Answers;
    assert_eq!(indexes(test.call(1..2).await), [1]);
    assert_eq!(test.streams(), 2);
}

#[tokio::test]
async fn nobody_there_is_an_error_with_a_pause_and_never_a_vote() {
    let mut test = test(Manner::Answers).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    test.network.address = listener.local_addr().unwrap().to_string();
    drop(listener);
    assert!(matches!(test.call(0..1).await[..], [Err(RPCError::Unreachable(_))]));
    let vote = VoteRequest::new(Vote::new(2, 1), None);
    assert!(matches!(test.network.pre_vote(vote.clone(), option()).await, Err(RPCError::Unreachable(_))));
    assert!(matches!(test.network.vote(vote, option()).await, Err(RPCError::Unreachable(_))));
}

#[tokio::test]
async fn a_removed_member_is_told_by_any_refusal() {
    let mut test = test(Manner::Removed).await;
    let removed = test.network.links.local().removed();
    assert!(matches!(test.call(0..1).await[..], [Err(RPCError::Unreachable(_))]));
    assert!(*removed.borrow());
}

#[tonic::async_trait]
impl Peer for FakePeer {
    type AppendStream = BoxStream<'static, Result<Frame, Status>>;
    type ForwardStream = BoxStream<'static, Result<ForwardResponse, Status>>;

    async fn append(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::AppendStream>, Status> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let manner = *self.manner.lock();
        if let Manner::Removed = manner {
            return Err(removal(MemberId::new(1).unwrap()));
        }
        let frames = request.into_inner();
        let answers =
            futures::stream::unfold((frames, VecDeque::new(), false), move |(mut frames, mut due, ended)| async move {
                let wanted = if let Manner::Collects(wanted) = manner { wanted } else { 1 };
                if ended {
                    return None;
                }
                if due.is_empty() {
                    while due.len() < wanted {
                        let request = codec::decode_append(frames.message().await.ok()??.body).unwrap();
                        due.push_back(request.prev_log_id);
                    }
                }
                let at: Option<crate::consensus::types::LogId> = due.pop_front()?;
                let answer = match manner {
                    Manner::Silent => std::future::pending().await,
                    Manner::Conflicts => Err(StreamAppendError::Conflict(at.unwrap())),
                    _ => Ok(at),
                };
                let ended = matches!(manner, Manner::Conflicts | Manner::Leaves);
                Some((Ok(Frame { body: codec::encode_appended(&answer) }), (frames, due, ended)))
            });
        Ok(Response::new(answers.boxed()))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn vote(&self, _: Request<Frame>) -> Result<Response<Frame>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn pre_vote(&self, _: Request<Frame>) -> Result<Response<Frame>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn transfer_leader(&self, _: Request<Frame>) -> Result<Response<Frame>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn snapshot_offer(&self, _: Request<Frame>) -> Result<Response<Frame>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn snapshot_send(&self, _: Request<Streaming<Frame>>) -> Result<Response<Frame>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn digests(&self, _: Request<DigestsRequest>) -> Result<Response<DigestsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn forward(&self, _: Request<Streaming<ForwardRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

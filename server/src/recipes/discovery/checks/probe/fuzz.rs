//! Damaged answers to health checks over HTTP and over gRPC: whatever comes, a check comes to an end.

use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use quorate_state::testing::fuzz::Room;
use tokio::io::ReadBuf;

use super::*;
use crate::fuzzing::fuzz_in;

/// The buffers of one connection.
const ROOM: Room = Room { base: 256 << 10, ..Room::DECODER };

#[test]
fn answers_to_checks() {
    let corpus = include_str!("../../../../../../tests/corpus/answers.txt");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    fuzz_in(ROOM, "answers to checks", corpus, |input| {
        let request = Request::get("/").header(http::header::HOST, "a").body(Empty::new()).unwrap();
        match runtime.block_on(get(Server::new(input, |asked| !asked.is_empty()), request)) {
            Ok(status) => {
                judge(status);
                true
            }
            Err(why) => {
                assert!(!why.is_empty());
                false
            }
        }
    });
}

#[test]
fn answers_to_checks_over_grpc() {
    let corpus = include_str!("../../../../../../tests/corpus/answers-grpc.txt");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    fuzz_in(ROOM, "answers to checks over gRPC", corpus, |input| {
        let server = Server::new(input, has_headers);
        let asked = async { timeout(Duration::from_mins(1), ask_health(server, "a:1", "web")).await };
        match runtime.block_on(asked).expect("a check comes to an end") {
            Ok(outcome) => {
                assert_eq!(outcome, Outcome::Pass);
                true
            }
            Err(why) => {
                assert!(!why.is_empty());
                why.starts_with(NOT_SERVING)
            }
        }
    });
}

/// Whether a client of HTTP/2 sent a frame of headers, which begins a request.
fn has_headers(asked: &[u8]) -> bool {
    const PREFACE: usize = 24;
    const HEAD: usize = 9;
    const HEADERS: u8 = 1;
    let mut rest = asked.get(PREFACE..).unwrap_or_default();
    while let Some(head) = rest.first_chunk::<HEAD>() {
        if head[3] == HEADERS {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = rest.get(HEAD + length..).unwrap_or_default();
    }
    false
}

/// Answers with what it was given once it is asked something: an answer that comes before is refused whatever it is.
struct Server {
    answer: Cursor<Vec<u8>>,
    asked: Vec<u8>,
    is_asked: fn(&[u8]) -> bool,
    waiting: Option<Waker>,
}

impl Server {
    fn new(answer: &[u8], is_asked: fn(&[u8]) -> bool) -> Self {
        Self { answer: Cursor::new(answer.to_vec()), asked: Vec::new(), is_asked, waiting: None }
    }
}

impl AsyncRead for Server {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if !(self.is_asked)(&self.asked) {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.answer).poll_read(cx, buf)
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.asked).poll_write(cx, bytes))?;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

//! The queue of requests between this member's callers and the stream to the leader.
//!
//! Invariants:
//! - Bounded by count and by bytes: a leader that does not read costs a follower no more memory than that.
//! - Bytes are counted from the moment a request is queued until the stream takes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, StreamExt as _};
use quorate_proto::peer::ForwardRequest;
use quorate_proto::peer::forward_request::Request as Asked;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes waiting.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Where requests are put. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ForwardQueue {
    requests: mpsc::Sender<ForwardRequest>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too much waits.
    Full,
    /// The stream has ended.
    Closed,
}

impl ForwardQueue {
    /// The queue, and what comes out of it.
    pub fn new(requests_max: usize) -> (Self, impl Stream<Item = ForwardRequest> + Send + 'static) {
        let (requests, queued) = mpsc::channel(requests_max);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = waiting_bytes.clone();
        let taken = ReceiverStream::new(queued).inspect(move |request| {
            waiting.fetch_sub(bytes(request), Ordering::Relaxed);
        });
        (Self { requests, waiting_bytes }, taken)
    }

    /// Never waits. One request more than fits is taken while none but it is over the bound.
    pub fn try_send(&self, request: ForwardRequest) -> Result<(), Refused> {
        let bytes = bytes(&request);
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = if before > QUEUE_BYTES_MAX {
            Err(Refused::Full)
        } else {
            self.requests.try_send(request).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Refused::Full,
                mpsc::error::TrySendError::Closed(_) => Refused::Closed,
            })
        };
        if sent.is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }
}

/// All else is small.
fn bytes(request: &ForwardRequest) -> usize {
    match &request.request {
        Some(Asked::Command(envelope)) => envelope.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn command(bytes: usize) -> ForwardRequest {
        let request = Some(Asked::Command(Bytes::from(vec![0; bytes])));
        ForwardRequest { tag: 1, timeout_ms: 1, request, with_others: false }
    }

    #[tokio::test]
    async fn a_leader_that_does_not_read_fills_the_queue_by_bytes() {
        let (queue, taken) = ForwardQueue::new(1000);
        let mut taken = std::pin::pin!(taken);
        let accepted = (0..1000).take_while(|_| queue.try_send(command(1 << 20)).is_ok()).count();
        assert_eq!(accepted, 65, "64 MiB, and the one that goes over");
        assert_eq!(queue.try_send(command(0)), Err(Refused::Full));
        for _ in 0..2 {
            taken.next().await.unwrap();
        }
        assert_eq!(queue.try_send(command(1 << 20)), Ok(()), "what the stream took counts no more");
        assert_eq!(queue.try_send(command(1 << 20)), Ok(()));
        assert_eq!(queue.try_send(command(1 << 20)), Err(Refused::Full));
    }

    #[tokio::test]
    async fn a_stream_that_has_ended_takes_nothing() {
        let (queue, taken) = ForwardQueue::new(2);
        assert_eq!(queue.try_send(command(1)), Ok(()));
        assert_eq!(queue.try_send(command(1)), Ok(()));
        assert_eq!(queue.try_send(command(1)), Err(Refused::Full), "by count");
        drop(taken);
        assert_eq!(queue.try_send(command(1)), Err(Refused::Closed));
    }
}

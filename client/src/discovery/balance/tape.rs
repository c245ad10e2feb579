//! A request's body, kept while it is sent, so that it can be sent again.
//!
//! Invariants:
//! - What was read from the caller's stream is kept up to a bound; past that the request cannot be sent again, and
//!   nothing is kept any longer.
//! - Only the newest attempt reads on; an older one fails instead of ending as if it were whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;

/// The body and what was read of it.
#[derive(Clone)]
pub(super) struct Tape(Arc<Mutex<Reel>>);

struct Reel {
    source: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// Something was read that is not kept.
    lost: bool,
    ended: bool,
    readers: u64,
}

impl Tape {
    pub(super) fn new(source: Body, kept_bytes_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Reel {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            kept_bytes_max,
            lost: false,
            ended: false,
            readers: 0,
        })))
    }

    /// Whether it can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        !self.0.lock().lost
    }

    /// The whole body from its beginning; `None` when that is not there any more.
    pub(super) fn play(&self) -> Option<Body> {
        let number = {
            let mut reel = self.0.lock();
            if reel.lost {
                return None;
            }
            reel.readers += 1;
            reel.readers
        };
        // It looks at the reader, which locks.
        Some(Body::new(Reader { reel: self.0.clone(), number, next: 0 }))
    }
}

impl Reel {
    fn keep(&mut self, data: &Bytes) {
        self.kept_bytes += data.len();
        if self.kept_bytes > self.kept_bytes_max {
            self.lose();
        } else if !self.lost {
            self.kept.push(data.clone());
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.kept = Vec::new();
    }
}

struct Reader {
    reel: Arc<Mutex<Reel>>,
    number: u64,
    next: usize,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut reel = this.reel.lock();
        if reel.readers != this.number {
            return Poll::Ready(Some(Err(Status::cancelled("the request is sent again elsewhere"))));
        }
        if let Some(data) = reel.kept.get(this.next).cloned() {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if reel.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut reel.source).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => {
                    reel.keep(data);
                    this.next = reel.kept.len();
                }
                None => reel.lose(),
            },
            Poll::Ready(Some(Err(_))) => reel.lose(),
            Poll::Ready(None) => reel.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let reel = self.reel.lock();
        self.next >= reel.kept.len() && (reel.ended || reel.source.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(parts: &[&'static str]) -> Body {
        let frames: Vec<Result<Frame<Bytes>, Status>> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    }

    async fn read(body: Body) -> Result<Bytes, Status> {
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_body_that_was_sent_in_part_is_sent_again_whole() {
        let tape = Tape::new(body(&["ab", "cd", "ef"]), 100);
        let mut first = tape.play().unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert_eq!(read(tape.play().unwrap()).await.unwrap(), "abcdef");
        assert_eq!(read(tape.play().unwrap()).await.unwrap(), "abcdef");
        assert!(first.frame().await.unwrap().is_err(), "the old attempt does not end as if it were whole");
    }

    #[tokio::test]
    async fn past_the_bound_it_is_sent_once() {
        let tape = Tape::new(body(&["ab", "cd", "ef"]), 3);
        assert_eq!(read(tape.play().unwrap()).await.unwrap(), "abcdef");
        assert!(tape.play().is_none());
    }

    #[tokio::test]
    async fn an_empty_body_stays_empty() {
        let tape = Tape::new(Body::empty(), 3);
        assert!(tape.play().unwrap().is_end_stream());
        assert_eq!(read(tape.play().unwrap()).await.unwrap(), "");
    }
}

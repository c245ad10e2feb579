//! `Batch`: one stream that carries many requests a message.
//!
//! Invariants:
//! - At most [`BATCH_ITEMS_MAX`] items are under way; beyond that the stream is not read, so the client waits.
//! - Every item taken has exactly one answer. When the client ends its side, the rest is answered before the stream ends.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::batch_answer::Answer;
use quorate_proto::v1::batch_server::Batch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{kv, reads};
use crate::api::deadline;
use crate::api::errors::Refusal;
use crate::api::limits::{BATCH_ANSWER_BYTES_MAX, BATCH_ITEMS_MAX, DEADLINE_DEFAULT};
use crate::api::rooms::Rooms;
use crate::api::streams::next_request;

/// The service.
pub struct BatchDoor(pub Arc<Rooms>);

#[tonic::async_trait]
impl Batch for BatchDoor {
    type ExecuteStream = Pin<Box<dyn Stream<Item = Result<v1::BatchResponse, Status>> + Send>>;

    async fn execute(
        &self,
        request: Request<Streaming<v1::BatchRequest>>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let pipeline = Pipeline {
            closing: self.0.until_closing(),
            rooms: Arc::clone(&self.0),
            requests: Some(request.into_inner()),
            under_way: FuturesUnordered::new(),
        };
        let answers = futures::stream::unfold(pipeline, |mut pipeline| async move {
            let answer = pipeline.next().await?;
            Some((answer, pipeline))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Pipeline {
    closing: BoxFuture<'static, ()>,
    rooms: Arc<Rooms>,
    /// `None` once the client has ended its side.
    requests: Option<Streaming<v1::BatchRequest>>,
    under_way: FuturesUnordered<BoxFuture<'static, v1::BatchAnswer>>,
}

impl Pipeline {
    /// The answers that are ready; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Result<v1::BatchResponse, Status>> {
        loop {
            let room = self.under_way.len() < BATCH_ITEMS_MAX;
            tokio::select! {
                biased;
                Some(first) = self.under_way.next(), if !self.under_way.is_empty() => {
                    return Some(Ok(self.gather(first)));
                }
                // What is under way is answered first; what was not read yet is not begun.
                () = &mut self.closing, if self.requests.is_some() => self.requests = None,
                message = next_request(&mut self.requests), if room && self.requests.is_some() => match message {
                    Ok(Some(message)) => self.begin(message),
                    Ok(None) => self.requests = None,
                    Err(status) => return Some(Err(status)),
                },
                else => return None,
            }
        }
    }

    fn begin(&mut self, message: v1::BatchRequest) {
        for item in message.items {
            self.under_way.push(answer(Arc::clone(&self.rooms), item).boxed());
        }
    }

    /// The first answer and all others that are ready now, up to a bound.
    fn gather(&mut self, first: v1::BatchAnswer) -> v1::BatchResponse {
        let mut bytes = first.encoded_len();
        let mut answers = vec![first];
        while bytes < BATCH_ANSWER_BYTES_MAX {
            let Some(Some(answer)) = self.under_way.next().now_or_never() else { break };
            bytes += answer.encoded_len();
            answers.push(answer);
        }
        v1::BatchResponse { answers }
    }
}

async fn answer(rooms: Arc<Rooms>, item: v1::BatchItem) -> v1::BatchAnswer {
    let timeout = if item.timeout_ms == 0 { DEADLINE_DEFAULT } else { Duration::from_millis(item.timeout_ms) };
    let answer = execute(&rooms, item.request, deadline::after(timeout)).await;
    v1::BatchAnswer {
        tag: item.tag,
        answer: Some(answer.unwrap_or_else(|refusal| Answer::Error(refusal.into_batch_error()))),
    }
}

async fn execute(
    rooms: &Rooms,
    request: Option<v1::batch_item::Request>,
    deadline: Instant,
) -> Result<Answer, Refusal> {
    use v1::batch_item::Request;
    Ok(match request {
        None => return Err(Refusal::invalid("an item of the batch is empty")),
        Some(Request::Get(request)) => Answer::Get(reads::get(rooms, request, deadline).await?),
        Some(Request::Put(request)) => Answer::Put(kv::put(rooms, request, deadline).await?),
        Some(Request::Delete(request)) => Answer::Delete(kv::delete(rooms, request, deadline).await?),
        Some(Request::Range(request)) => Answer::Range(reads::range(rooms, request, deadline).await?),
        Some(Request::Txn(request)) => Answer::Txn(kv::txn(rooms, request, deadline).await?),
    })
}

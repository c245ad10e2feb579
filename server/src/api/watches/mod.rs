//! `Watch`, for every door: one service, one stream, one way of packing events into messages. What differs between the
//! doors is a [`Dialect`].
//!
//! The service is not the generated one: that encodes each message for each stream and copies it on its way. Here a
//! stream's body hands out messages that are ready, most of them shared by all streams.
//!
//! Invariants:
//! - A client that has ended its own side goes on hearing of its watches; the stream ends when the last of them does.
//! - An answer has the form that the generated service would give it: refusals before the first message have no body,
//!   later ones stand in the trailers.

mod messages;
mod stream;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::HeaderValue;
use prost::Message;
use quorate_proto::Revision;
use quorate_state::outcome::{Change, KeyValue};
use tonic::body::Body;
use tonic::codec::{Codec as _, Streaming};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::rooms::Rooms;
use crate::watch::{Session, WatchNotice, Wire};
pub use messages::{Frames, field_of_messages, frame, pack};
use stream::WatchStream;

/// What a door's wire calls what watches are asked and told. One for each stream.
pub trait Dialect: Send + Sized + Unpin + 'static {
    /// What clients send.
    type Request: Message + Default + 'static;
    /// What they are sent.
    type Response: Message;
    /// One change in it.
    type Event: Message;
    /// The full name of the service.
    const SERVICE: &'static str;
    /// Whose encoding its streams share.
    const WIRE: Wire;
    /// What stands before each event in a message: see [`field_of_messages`].
    const EVENTS_FIELD: u8;

    /// Begins a stream, or says why not.
    fn open(rooms: &Arc<Rooms>, metadata: &MetadataMap) -> Result<Opened<Self>, Status>;
    /// Does what the client asks. Answers go into `frames`.
    fn request(&mut self, request: Self::Request, session: &mut Session, frames: &mut Frames);
    /// Writes what the session gave out. An error ends the stream.
    fn notice(&mut self, notice: WatchNotice, session: &Session, frames: &mut Frames) -> Result<(), Status>;

    /// The revision in the head of the watch's next message, whose last event is of `last`.
    fn says(&mut self, tag: u64, last: Revision) -> Revision;
    /// A message without its events. `fragment`: more of its last revision follow in the next one.
    fn head(&self, tag: u64, revision: Revision, fragment: bool) -> Self::Response;
    /// An event.
    fn event(change: &Change, revision: Revision, previous: Option<KeyValue>) -> Self::Event;
}

/// A stream that begins.
pub struct Opened<D> {
    /// The door's part.
    pub dialect: D,
    /// Its watches.
    pub session: Session,
    /// Ends the stream from outside.
    pub over: BoxFuture<'static, Status>,
}

/// The service.
pub struct WatchService<D> {
    rooms: Arc<Rooms>,
    dialect: PhantomData<fn() -> D>,
}

impl<D> WatchService<D> {
    /// Of one member.
    pub fn new(rooms: Arc<Rooms>) -> Self {
        Self { rooms, dialect: PhantomData }
    }
}

impl<D> Clone for WatchService<D> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.rooms))
    }
}

impl<D: Dialect> NamedService for WatchService<D> {
    const NAME: &'static str = D::SERVICE;
}

impl<D: Dialect> Service<http::Request<Body>> for WatchService<D> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        ready(Ok(answer::<D>(&self.rooms, request).unwrap_or_else(Status::into_http)))
    }
}

fn answer<D: Dialect>(rooms: &Arc<Rooms>, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(D::SERVICE));
    if method != Some("/Watch") {
        return Err(Status::unimplemented("the service has one method, Watch"));
    }
    let request = Request::from_http(request);
    if let Some(encoding) = request.metadata().get("grpc-encoding").filter(|encoding| *encoding != "identity") {
        let mut status =
            Status::unimplemented(format!("messages cannot be compressed as {encoding:?}; send them as they are"));
        status
            .metadata_mut()
            .insert("grpc-accept-encoding", "identity".parse().map_err(|_| Status::internal("metadata"))?);
        return Err(status);
    }
    let opened = D::open(rooms, request.metadata())?;
    let decoder = ProstCodec::<(), D::Request>::default().decoder();
    let requests = Streaming::new_request(decoder, request.into_inner(), None, None);
    let mut response = http::Response::new(Body::new(WatchStream::new(opened, requests)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

//! One stream of a registration: an instance that says so stays registered.
//!
//! It runs as a task of its own: what a client asked for by ending its side is done though the client has gone.
//!
//! Invariants:
//! - The lease is kept alive only when a heartbeat came: the host that vanishes is gone after its time to live.
//! - A client that ends its side in good order deregisters; a stream that breaks, or a member that stops, leaves the
//!   instance until its time to live is over, so that it goes on elsewhere (see [`super::broken`]).

use std::sync::Arc;

use futures::stream::Stream;
use quorate_proto::LeaseId;
use quorate_proto::v1;
use quorate_proto::v1::register_request::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::api::deadline;
use crate::api::errors::Refusal;
use crate::api::limits::DEADLINE_DEFAULT;
use crate::api::rooms::Rooms;
use crate::recipes::discovery::{Discovery, Registered, Registration};
use crate::tasks::Task;

/// Answers on their way to the client.
const ANSWERS_MAX: usize = 4;

/// Answers a stream.
pub fn serve(
    rooms: &Arc<Rooms>,
    discovery: &Arc<Discovery>,
    requests: Streaming<v1::RegisterRequest>,
) -> impl Stream<Item = Result<v1::RegisterResponse, Status>> + Send + use<> {
    let (answers, received) = mpsc::channel(ANSWERS_MAX);
    let stream =
        RegisterStream { rooms: Arc::clone(rooms), discovery: Arc::clone(discovery), registration: None, lease: None };
    rooms.tasks.spawn(Task::Stream, &Handle::current(), stream.run(requests, answers));
    ReceiverStream::new(received)
}

struct RegisterStream {
    rooms: Arc<Rooms>,
    discovery: Arc<Discovery>,
    registration: Option<Registration>,
    lease: Option<LeaseId>,
}

impl RegisterStream {
    /// Until the client has ended its side, or either side is gone.
    async fn run(
        mut self,
        mut requests: Streaming<v1::RegisterRequest>,
        answers: mpsc::Sender<Result<v1::RegisterResponse, Status>>,
    ) -> Result<(), Status> {
        let mut closing = self.rooms.until_closing();
        loop {
            let message = tokio::select! {
                biased;
                // First, so that a client which ends its side and goes at once has still ended it.
                message = requests.message() => message?,
                () = &mut closing => {
                    let refusal = Refusal::shutting_down();
                    // An error says that the client has gone.
                    let _ = answers.send(Err(refusal.into())).await;
                    return Ok(());
                }
                () = answers.closed() => return Ok(()),
            };
            let Some(message) = message else { return self.leave().await };
            let answer = self.answer(message).await;
            let is_over = answer.is_err();
            if answers.send(answer.map_err(Status::from)).await.is_err() || is_over {
                return Ok(());
            }
        }
    }

    async fn answer(&mut self, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, Refusal> {
        let deadline = deadline::after(DEADLINE_DEFAULT);
        let registered = match (request.message, &self.registration) {
            (Some(Message::Register(register)), before) => {
                let asked = Registration::new(register)?;
                if before.as_ref().is_some_and(|before| before.name != asked.name) {
                    return Err(Refusal::invalid(
                        "this stream registers another instance: service and id stay; open another stream",
                    ));
                }
                let held = asked.lease.or(self.lease).filter(|_| asked.ttl_ms.is_some());
                let registered = self.discovery.register(&asked, held, deadline).await?;
                self.registration = Some(asked);
                registered
            }
            (Some(Message::Heartbeat(_)), Some(asked)) => self.discovery.heartbeat(asked, self.lease, deadline).await?,
            (Some(Message::Heartbeat(_)), None) => {
                return Err(Refusal::invalid("nothing is registered in this stream yet; send register first"));
            }
            (None, _) => return Err(Refusal::invalid("the message is empty; send register or heartbeat")),
        };
        self.lease = registered.lease;
        Ok(self.response(registered))
    }

    fn response(&self, registered: Registered) -> v1::RegisterResponse {
        v1::RegisterResponse {
            header: Some(self.rooms.header(registered.revision)),
            lease_id: LeaseId::wire(registered.lease),
            ttl_ms: registered.ttl_ms,
            instance: Some(registered.instance),
            renewed: registered.renewed,
        }
    }

    /// The client has ended its side in good order. What is permanent stays.
    async fn leave(self) -> Result<(), Status> {
        if let (Some(registration), Some(lease)) = (self.registration, self.lease) {
            let left = self.discovery.leave(&registration.name, lease, deadline::after(DEADLINE_DEFAULT)).await;
            // Where it could not be done, its time to live does it.
            left.map_err(Refusal::from)?;
        }
        Ok(())
    }
}

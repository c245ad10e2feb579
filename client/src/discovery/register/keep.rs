//! The task behind a registration: one stream, to whatever member answers.
//!
//! Invariants:
//! - A heartbeat is sent after a third of the time to live; one that is not answered in time sends the stream elsewhere.
//! - A stream begins with the whole instance and the lease of the stream before.
//! - The lease is chosen here, once: a first message that is sent again, because its answer was lost, finds its own.
//! - A stream is cut, never ended in good order: that would tell the member to remove the instance.
//! - A refusal goes to whoever asked for what was refused; the registration goes on as it was before.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::{LeaseId, v1};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::cut::{self, Cut};
use super::{RegistrationState, RegistrationStatus};
use crate::call::backoff;
use crate::client::Client;
use crate::discovery::instance::{Health, Instance, milliseconds};
use crate::discovery::watch::is_passing;
use crate::endpoints::Endpoint;
use crate::error::{Error, Happened, Reason, Result};

/// Longest time that an answer, or a new stream, may take before another member is asked.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Pause after a refusal that does not pass by itself and that nobody waits for.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// Messages that may wait to be written to the stream.
const QUEUE: usize = 8;

pub(super) enum Command {
    Update(Box<Instance>, oneshot::Sender<Result<()>>),
    Reported(Health, String),
    Stop(oneshot::Sender<()>),
}

/// What woke the task.
enum Woken {
    Command(Option<Command>),
    Answer(Box<Result<Option<v1::RegisterResponse>, tonic::Status>>),
    Due,
}

pub(super) struct Keep {
    client: Client,
    instance: Instance,
    /// What stands if the present one is refused.
    before: Option<Instance>,
    ttl: Duration,
    permanent: bool,
    lease_id: i64,
    queue: mpsc::Receiver<Command>,
    status: watch::Sender<RegistrationStatus>,
    /// Who waits for the outcome of the present instance.
    waiting: Option<oneshot::Sender<Result<()>>>,
    connection: Option<Connection>,
    failures: u32,
    /// When the stream is opened again; `None` while there is no need.
    open_at: Option<Instant>,
    /// When what the cluster confirmed last was sent.
    confirmed: Option<Instant>,
}

struct Connection {
    /// First, so that it is dropped before `requests`.
    _cut: Cut,
    endpoint: Arc<Endpoint>,
    requests: mpsc::Sender<v1::RegisterRequest>,
    answers: tonic::Streaming<v1::RegisterResponse>,
    /// When each message was sent that is not answered yet.
    owed: std::collections::VecDeque<Instant>,
    sent: Instant,
}

impl Keep {
    pub(super) fn new(
        client: Client,
        instance: Instance,
        ttl: Duration,
        permanent: bool,
        queue: mpsc::Receiver<Command>,
        status: watch::Sender<RegistrationStatus>,
        first: oneshot::Sender<Result<()>>,
    ) -> Self {
        Self {
            client,
            instance,
            before: None,
            ttl,
            permanent,
            lease_id: if permanent { 0 } else { rand::random_range(1..=i64::MAX) },
            queue,
            status,
            waiting: Some(first),
            connection: None,
            failures: 0,
            open_at: Some(Instant::now()),
            confirmed: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.woken().await {
                Woken::Command(Some(Command::Stop(done))) => {
                    self.close().await;
                    self.status.send_modify(|status| status.state = RegistrationState::Ended);
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                    return;
                }
                Woken::Command(Some(Command::Update(instance, done))) => self.update(*instance, done),
                Woken::Command(Some(Command::Reported(health, note))) => {
                    (self.instance.health, self.instance.health_note) = (health, note);
                }
                Woken::Command(None) => return,
                Woken::Answer(answer) => self.heard(*answer),
                Woken::Due => self.due().await,
            }
        }
    }

    async fn woken(&mut self) -> Woken {
        let at = self.next_due();
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match &mut self.connection {
                Some(connection) => connection.answers.message().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.queue.recv() => Woken::Command(command),
            answer = answer => Woken::Answer(Box::new(answer)),
            () = due => Woken::Due,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let Some(connection) = &self.connection else { return self.open_at };
        Some(match connection.owed.front() {
            Some(sent) => *sent + self.patience(),
            None => connection.sent + self.ttl / 3,
        })
    }

    fn patience(&self) -> Duration {
        (self.ttl / 4).min(PATIENCE_MAX)
    }

    /// A time has come: to open the stream, to send a heartbeat, or to give the stream up.
    async fn due(&mut self) {
        let Some(connection) = &self.connection else { return self.open().await };
        if connection.owed.is_empty() {
            self.send(v1::register_request::Message::Heartbeat(v1::Heartbeat {}));
        } else {
            let address = &connection.endpoint.address;
            // The member may only lack a leader, so it is not passed over for long.
            let error = Error::refused(Reason::Deadline, Happened::No, "nothing was answered in time", address);
            self.broke(error);
        }
    }

    async fn open(&mut self) {
        self.open_at = None;
        let endpoint = self.client.shared().endpoints.pick();
        let (requests, queue) = mpsc::channel(QUEUE);
        let now = Instant::now();
        let first = v1::RegisterRequest { message: Some(self.register_message()) };
        // There is room for it: the queue is new.
        let _ = requests.try_send(first);
        let (mut discovery, cut) = endpoint.discovery_with(cut::with_cut);
        let opened = tokio::time::timeout(self.patience(), discovery.register(ReceiverStream::new(queue))).await;
        let error = match opened {
            Ok(Ok(answers)) => {
                let (answers, owed) = (answers.into_inner(), [now].into());
                self.connection = Some(Connection { _cut: cut, endpoint, requests, answers, owed, sent: now });
                return;
            }
            Ok(Err(status)) => Error::from_status(&status, &endpoint.address),
            Err(_) => {
                let message = "the registration was not taken up in time";
                Error::refused(Reason::Deadline, Happened::Unknown, message, &endpoint.address)
            }
        };
        self.client.shared().endpoints.failed(&endpoint, &error);
        self.failed(error);
    }

    fn register_message(&self) -> v1::register_request::Message {
        v1::register_request::Message::Register(v1::RegisterInstance {
            instance: Some(self.instance.wire()),
            ttl_ms: if self.permanent { 0 } else { milliseconds(self.ttl) },
            lease_id: self.lease_id,
            permanent: self.permanent,
        })
    }

    fn send(&mut self, message: v1::register_request::Message) {
        let Some(connection) = &mut self.connection else { return };
        let now = Instant::now();
        connection.sent = now;
        // Full or closed: nothing is answered, which is noticed in time.
        let _ = connection.requests.try_send(v1::RegisterRequest { message: Some(message) });
        connection.owed.push_back(now);
    }

    fn update(&mut self, instance: Instance, done: oneshot::Sender<Result<()>>) {
        let before = std::mem::replace(&mut self.instance, instance);
        // An update that overtakes another takes its place.
        self.before.get_or_insert(before);
        if let Some(overtaken) = self.waiting.replace(done) {
            let _ = overtaken.send(Err(Error::invalid("another update came before this one was confirmed")));
        }
        if self.connection.is_some() {
            let message = self.register_message();
            self.send(message);
        } else {
            self.open_at.get_or_insert_with(Instant::now);
        }
    }

    fn heard(&mut self, answer: Result<Option<v1::RegisterResponse>, tonic::Status>) {
        let Some(connection) = &mut self.connection else { return };
        let address = connection.endpoint.address.clone();
        match answer {
            Ok(Some(answer)) => {
                self.client.shared().endpoints.succeeded(&connection.endpoint);
                let sent = connection.owed.pop_front();
                // While more is owed, what was heard is about an older message.
                let current = connection.owed.is_empty();
                self.confirmed(answer, sent, current);
            }
            Ok(None) => {
                let message = "the registration's stream ended";
                self.broke(Error::refused(Reason::ShuttingDown, Happened::No, message, &address));
            }
            Err(status) => self.broke(Error::from_status(&status, &address)),
        }
    }

    fn confirmed(&mut self, answer: v1::RegisterResponse, sent: Option<Instant>, current: bool) {
        self.failures = 0;
        self.confirmed = sent.or(self.confirmed);
        self.lease_id = answer.lease_id;
        if answer.ttl_ms > 0 {
            self.ttl = Duration::from_millis(answer.ttl_ms);
        }
        self.status.send_modify(|status| {
            // The first time, the lease is always new to the cluster.
            status.renewals += u64::from(answer.renewed && status.state != RegistrationState::Registering);
            status.state = RegistrationState::Registered;
            status.lease = LeaseId::new(answer.lease_id);
            status.last_error = None;
            if let Some(instance) = answer.instance {
                status.instance = instance.into();
            }
        });
        if current {
            self.before = None;
            if let Some(waiting) = self.waiting.take() {
                // Whoever asked may have given up waiting.
                let _ = waiting.send(Ok(()));
            }
            if self.permanent {
                self.connection = None;
            }
        }
    }

    /// The stream is of no more use.
    fn broke(&mut self, error: Error) {
        if let Some(connection) = self.connection.take() {
            self.client.shared().endpoints.failed(&connection.endpoint, &error);
        }
        self.failed(error);
    }

    fn failed(&mut self, error: Error) {
        tracing::debug!(%error, service = %self.instance.service, id = %self.instance.id, "registration goes on elsewhere");
        let mut pause = backoff(self.failures, PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let first = self.confirmed.is_none();
        if first && error.reason() == Some(Reason::InstanceExists) {
            // Most likely an earlier life of the same program, which ends by itself.
            tracing::info!(%error, "waiting for the instance's id");
        } else if error.reason() == Some(Reason::LeaseNotFound) {
            self.lease_id = rand::random_range(1..=i64::MAX);
        } else if !is_passing(&error) {
            self.refused(&error);
            pause = pause.max(if self.before.is_none() { PAUSE_AFTER_REFUSAL } else { Duration::ZERO });
            if let Some(before) = self.before.take() {
                self.instance = before;
                pause = Duration::ZERO;
            }
        }
        let lost = self.confirmed.is_some_and(|confirmed| confirmed.elapsed() >= self.ttl) && !self.permanent;
        self.status.send_modify(|status| {
            status.last_error = Some(error);
            status.state = match status.state {
                RegistrationState::Registering => RegistrationState::Registering,
                _ if lost => RegistrationState::Lost,
                _ => RegistrationState::Interrupted,
            };
        });
        self.open_at = Some(Instant::now() + pause);
    }

    /// Tells whoever asked for what was refused.
    fn refused(&mut self, error: &Error) {
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.send(Err(error.clone()));
        } else {
            tracing::warn!(%error, id = %self.instance.id, "the instance cannot be registered; trying again");
        }
    }

    /// Waits for what is owed, then cuts the stream: afterwards nothing that it carried is done any more.
    async fn close(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let patience = self.patience();
        let ended = async {
            while !connection.owed.is_empty() {
                match connection.answers.message().await {
                    Ok(Some(_)) => drop(connection.owed.pop_front()),
                    Ok(None) | Err(_) => return,
                }
            }
        };
        // Late: the stream is cut instead.
        let _ = tokio::time::timeout(patience, ended).await;
    }
}

//! One call on its way: an attempt at one instance, and at another where that is safe.
//!
//! Invariants:
//! - A request that an instance may have worked on is sent again only if its caller said that this is harmless, within
//!   the budget, and before the first message of the answer was handed on.
//! - A request that was never sent goes to each other instance in turn, whatever it does: nothing has happened yet.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, request};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::Transport;
use super::answer::Answer;
use super::backend::{Backend, Ticket};
use super::breaker::Failure;
use super::pool::Pool;
use super::tape::Tape;
use super::verdict::{self, Verdict};

pub(super) struct Attempts<S> {
    pool: Arc<Pool<S>>,
    parts: request::Parts,
    tape: Tape,
    idempotent: bool,
    deadline: Option<Instant>,
    /// Those that failed, for this call.
    tried: Vec<Arc<Backend<S>>>,
    /// Attempts that an instance may have worked on.
    sent: u32,
}

impl<S: Transport> Attempts<S> {
    pub(super) fn new(pool: Arc<Pool<S>>, request: Request<Body>, idempotent: bool) -> Self {
        let (parts, body) = request.into_parts();
        let deadline = verdict::timeout_in(&parts.headers).map(|timeout| Instant::now() + timeout);
        let tape = Tape::new(body, pool.policy.replay_bytes_max);
        Self { pool, parts, tape, idempotent, deadline, tried: Vec::new(), sent: 0 }
    }

    /// When the caller stops waiting.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Attempts until one is answered, or no other is allowed.
    pub(super) async fn run(mut self) -> Result<Response<Body>, Status> {
        let mut last = None;
        loop {
            let Some(body) = self.tape.play() else {
                return Err(Status::unavailable("the request is too long to be sent a second time"));
            };
            let Some(ticket) = self.pool.pick(&self.tried, Instant::now()) else {
                return Err(last.unwrap_or_else(|| self.nobody()));
            };
            let request = self.request(body);
            let answered = match ticket.backend.transport.clone().ready().await {
                Ok(transport) => transport.call(request).await,
                Err(error) => Err(error),
            };
            let now = Instant::now();
            match answered {
                Ok(response) => {
                    ticket.answered(now);
                    let code = verdict::code_in(response.headers());
                    if code.is_none()
                        && let Some(code) = verdict::code_of_http(response.status())
                    {
                        let text = format!("the answer is not gRPC, its status is {}", response.status());
                        let error = Status::new(code, text);
                        if !self.again(ticket, verdict::of_code(code)).await {
                            return Err(error);
                        }
                        last = Some(error);
                        continue;
                    }
                    let verdict = code.map_or(Verdict::Served, verdict::of_code);
                    if code.is_none() {
                        return Ok(response.map(|body| Body::new(Answer::new(body, ticket, self))));
                    }
                    if !self.again(ticket, verdict).await {
                        return Ok(response);
                    }
                }
                Err(error) => {
                    let error: Box<dyn std::error::Error + Send + Sync> = error.into();
                    let verdict = verdict::of_error(&*error);
                    let error = Status::from_error(error);
                    if !self.again(ticket, verdict).await {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
    }

    /// Notes an outcome, decides whether to try again, and waits for the moment.
    pub(super) async fn again(&mut self, mut ticket: Ticket<S>, verdict: Verdict) -> bool {
        let now = Instant::now();
        let backend = ticket.backend.clone();
        match verdict {
            Verdict::Served => {
                ticket.succeeded(now);
                self.pool.deposit();
                return false;
            }
            Verdict::NeverSent(how) => ticket.failed(how, now),
            Verdict::Failed | Verdict::FailedForGood => {
                ticket.failed(Failure::Failed, now);
                self.sent += 1;
            }
        }
        drop(ticket);
        self.tried.push(backend);
        let allowed = match verdict {
            Verdict::NeverSent(_) => self.tried.len() < self.pool.members().all.len().max(2),
            Verdict::Failed => self.idempotent && self.sent < self.pool.policy.attempts && self.pool.withdraw(),
            Verdict::Served | Verdict::FailedForGood => false,
        };
        if !allowed || !self.tape.is_whole() {
            return false;
        }
        let pause = self.pause();
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return false;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        true
    }

    pub(super) fn served(&self) {
        self.pool.deposit();
    }

    /// Whether a failure before the first message may be hidden by another attempt.
    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// The first other instance is asked at once: it has done nothing wrong.
    fn pause(&self) -> Duration {
        let policy = &self.pool.policy;
        match self.sent {
            0 | 1 => Duration::ZERO,
            sent => policy
                .backoff_min
                .saturating_mul(1 << (sent - 1).min(16))
                .min(policy.backoff_max)
                .mul_f64(rand::random_range(0.0..1.0)),
        }
    }

    fn request(&self, body: Body) -> Request<Body> {
        let mut parts = self.parts.clone();
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Ok(text) = HeaderValue::from_str(&verdict::timeout_text(left)) {
                parts.headers.insert("grpc-timeout", text);
            }
        }
        Request::from_parts(parts, body)
    }

    fn nobody(&self) -> Status {
        let service = &self.pool.service;
        if service.is_empty() {
            return Status::unavailable("its breaker is open: it has failed again and again; later");
        }
        Status::unavailable(format!("no instance of {service} is known; is one registered, and healthy enough?"))
    }
}

//! Answers what other members forward to this one while it leads.
//!
//! Invariants:
//! - Requests of a stream are worked on beside each other and answered as they are decided; none waits for an earlier
//!   one. At most `WORKING_MAX` of a stream are worked on: then it is not read further.
//! - Nothing is forwarded again: a member that does not lead says so.
//! - A stream of a member that was removed, or that is not known, is ended and told why.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use quorate_proto::peer::forward_request::Request as Asked;
use quorate_proto::peer::{ForwardRequest, ForwardResponse};
use quorate_proto::{LeaseId, MemberId};
use tokio::time::{Instant, Interval};
use tonic::{Status, Streaming};

use crate::consensus::forward::Forwarder;
use crate::consensus::forward_lane::OUTSTANDING_MAX;
use crate::consensus::forward_wire::{Answer, decode_change, encode_response};
use crate::consensus::links::{LocalMember, index, removal};
use crate::consensus::{Consensus, Haste};
use crate::error::{ConsensusError, Happened};
use crate::tasks::Tasks;

/// Requests of one stream that are worked on.
const WORKING_MAX: usize = OUTSTANDING_MAX;
/// Longest time that a request is worked on, whatever the sender says.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);
/// How often it is checked that the sender still is a member.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the streams of all members share.
#[derive(Clone)]
pub struct ForwardServer {
    /// Does the work.
    pub consensus: Consensus,
    /// Takes note of free disk space.
    pub forwarder: Forwarder,
    /// This member.
    pub local: Arc<LocalMember>,
    /// Says when to stop.
    pub tasks: Tasks,
}

/// One stream.
struct Served {
    server: ForwardServer,
    from: MemberId,
    membership_index: u64,
    requests: Streaming<ForwardRequest>,
    working: FuturesUnordered<BoxFuture<'static, ForwardResponse>>,
    check: Interval,
    ended: bool,
}

impl ForwardServer {
    /// The answers to the requests of a member.
    pub fn serve(
        self,
        from: MemberId,
        requests: Streaming<ForwardRequest>,
    ) -> impl Stream<Item = Result<ForwardResponse, Status>> + Send + 'static {
        let served = Served {
            server: self,
            from,
            membership_index: 0,
            requests,
            working: FuturesUnordered::new(),
            check: tokio::time::interval(CHECK_INTERVAL),
            ended: false,
        };
        futures::stream::unfold(Some(served), async |served| {
            let mut served = served?;
            match served.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(served))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    fn work(&self, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        let (tag, server) = (request.tag, self.clone());
        let deadline = Instant::now() + Duration::from_millis(request.timeout_ms).min(TIMEOUT_MAX);
        // One that is not told otherwise is in a hurry: a member that runs an older program says nothing.
        let haste = if request.with_others { Haste::WithOthers } else { Haste::AtOnce };
        Box::pin(async move {
            let answer = server.answer(request.request, haste, deadline).await;
            encode_response(tag, answer.unwrap_or_else(Answer::Failed))
        })
    }

    async fn answer(&self, asked: Option<Asked>, haste: Haste, deadline: Instant) -> Result<Answer, ConsensusError> {
        let consensus = &self.consensus;
        Ok(match asked {
            Some(Asked::Command(envelope)) => Answer::Command(consensus.propose_here(envelope, haste, deadline).await?),
            Some(Asked::Barrier(_)) => Answer::Barrier(consensus.barrier_here(deadline).await?),
            Some(Asked::KeepAlive(asked)) => match LeaseId::new(asked.lease_id) {
                Some(lease) => Answer::KeepAlive(consensus.keep_alive_here(lease, deadline).await?),
                None => Answer::KeepAlive(0),
            },
            Some(Asked::TimeToLive(asked)) => match LeaseId::new(asked.lease_id) {
                Some(lease) => {
                    let (granted_ms, remaining_ms) = consensus.time_to_live_here(lease, deadline).await?;
                    Answer::TimeToLive(granted_ms, remaining_ms)
                }
                None => Answer::TimeToLive(0, 0),
            },
            Some(Asked::Membership(change)) => match decode_change(change) {
                Some(change) => Answer::Changed(consensus.change_here(change, deadline).await?),
                None => return Err(unknown()),
            },
            Some(Asked::FreeBytes(_)) | None => return Err(unknown()),
        })
    }
}

fn unknown() -> ConsensusError {
    ConsensusError::NoQuorum {
        reason: "the leader does not know this kind of request; it runs an older program".to_owned(),
        happened: Happened::No,
    }
}

impl Served {
    /// The next answer; `None` when the stream is over.
    async fn next(&mut self) -> Result<Option<ForwardResponse>, Status> {
        loop {
            if self.ended && self.working.is_empty() {
                return Ok(None);
            }
            let may_read = !self.ended && self.working.len() < WORKING_MAX;
            tokio::select! {
                biased;
                Some(response) = self.working.next() => return Ok(Some(response)),
                request = self.requests.message(), if may_read => match request {
                    Ok(Some(ForwardRequest { request: Some(Asked::FreeBytes(free_bytes)), .. })) => {
                        self.server.forwarder.note_free_bytes(self.from, free_bytes);
                    }
                    Ok(Some(request)) => self.working.push(self.server.work(request)),
                    Ok(None) => self.ended = true,
                    // The sender is gone: nobody waits for these answers. What was packed is decided all the same.
                    Err(_) => return Ok(None),
                },
                _ = self.check.tick() => self.check_member()?,
                () = self.server.tasks.stopped(), if !self.ended => self.ended = true,
            }
        }
    }

    fn check_member(&mut self) -> Result<(), Status> {
        let Some(metrics) = self.server.local.metrics() else { return Ok(()) };
        let (from, effective) = (self.from.get(), &metrics.membership_config);
        if effective.membership().get_node(&from).is_some() {
            self.membership_index = index(effective);
            return Ok(());
        }
        if self.server.local.was_removed(from, self.membership_index) {
            return Err(removal(self.from));
        }
        Err(Status::permission_denied(format!("{} is not a member of this cluster", self.from)))
    }
}

//! Who leads, as it changes.
//!
//! Invariants:
//! - Terms never go back: a member that is behind is asked to catch up first.
//! - What was delivered last is not delivered again after a resume.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use quorate_proto::v1;

use super::Leader;
use crate::call::backoff;
use crate::client::Client;
use crate::error::{Error, Happened, Reason, Result};

/// How long a member may take to begin.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// Longest pause between attempts to resume.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who leads, as it changes: `None` while nobody does. Made by [`Election::observe`](crate::Election::observe).
///
/// It works only while polled, is safe to drop and to poll again at any time, and tries for ever when members fail; an error
/// that will not pass ends it.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use futures::StreamExt as _;
/// let mut leaders: quorate::Leaders = client.election("services/billing").observe();
/// let now = leaders.next().await;
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until polled"]
pub struct Leaders(BoxStream<'static, Result<Option<Leader>>>);

impl Leaders {
    pub(super) fn new(client: Client, name: Bytes) -> Self {
        let observer =
            Observer { client, name, answers: None, seen: 0, last: None, failures: 0, address: String::new() };
        let stream = futures::stream::unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Self(stream.boxed())
    }
}

impl Stream for Leaders {
    type Item = Result<Option<Leader>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for Leaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaders")
    }
}

struct Observer {
    client: Client,
    name: Bytes,
    answers: Option<tonic::Streaming<v1::LeaderResponse>>,
    address: String,
    /// Highest revision that any answer showed.
    seen: i64,
    /// What was delivered last.
    #[expect(clippy::option_option, reason = "nothing was delivered yet, or that nobody leads, or who does")]
    last: Option<Option<Leader>>,
    failures: u32,
}

impl Observer {
    async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            match self.step().await {
                Ok(Some(leader)) => return Ok(leader),
                Ok(None) => {}
                Err(error) => {
                    self.answers = None;
                    let endpoints = &self.client.shared().endpoints;
                    if let Some(endpoint) = endpoints.all().iter().find(|each| each.address == self.address) {
                        endpoints.failed(endpoint, &error);
                    }
                    if !error.is_passing() {
                        return Err(error.of_call(Happened::No, None));
                    }
                    tracing::debug!(%error, "an election is observed elsewhere");
                    let pause = if self.failures == 0 { Duration::ZERO } else { backoff(self.failures, PAUSE_MAX) };
                    self.failures = self.failures.saturating_add(1);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Connects, or takes one answer; `None` when it brings nothing new.
    async fn step(&mut self) -> Result<Option<Option<Leader>>> {
        let Some(answers) = &mut self.answers else {
            self.answers = Some(self.open().await?);
            return Ok(None);
        };
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let message = "the stream of leaders ended";
                return Err(Error::refused(Reason::ShuttingDown, Happened::No, message, &self.address));
            }
            Err(status) => return Err(Error::from_status(&status, &self.address)),
        };
        self.failures = 0;
        self.seen = self.seen.max(answer.header.map_or(0, |header| header.revision));
        let leader = answer.leader.map(Leader::from);
        if self.last.as_ref() == Some(&leader) {
            return Ok(None);
        }
        self.last = Some(leader.clone());
        Ok(Some(leader))
    }

    async fn open(&mut self) -> Result<tonic::Streaming<v1::LeaderResponse>> {
        let endpoint = self.client.shared().endpoints.pick();
        self.address.clone_from(&endpoint.address);
        let request = v1::ObserveRequest { name: self.name.clone(), min_revision: self.seen };
        let mut election = endpoint.election();
        match tokio::time::timeout(OPEN_WITHIN, election.observe(request)).await {
            Ok(Ok(answers)) => {
                self.client.shared().endpoints.succeeded(&endpoint);
                Ok(answers.into_inner())
            }
            Ok(Err(status)) => Err(Error::from_status(&status, &endpoint.address)),
            Err(_) => Err(Error::Unreachable {
                endpoint: endpoint.address.clone(),
                message: "the election was not taken up in time".to_owned(),
                happened: Happened::No,
                write_id: None,
            }),
        }
    }
}

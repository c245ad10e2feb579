//! Locks and elections of a fake: each attempt is answered by script.
//!
//! Invariants:
//! - An attempt whose caller went away is counted as cancelled.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// What happens to an attempt.
pub(crate) enum Turn {
    /// It is granted with this token.
    Grant(i64),
    /// The same, with this lease for its delay.
    GrantDelayed(i64, i64),
    Refuse(Status),
    Hang,
}

type OnAttempt = dyn Fn(usize) -> Turn + Send + Sync;
type Leaders = Vec<Option<(i64, &'static str)>>;

/// One lock, or one election, on all fakes that share it.
#[derive(Clone)]
pub(crate) struct Locks {
    attempt: Arc<OnAttempt>,
    /// What each observer is sent before its stream ends; the last one's does not.
    observed: Arc<Vec<Leaders>>,
    pub(crate) seen: Arc<Mutex<Attempts>>,
}

#[derive(Default)]
pub(crate) struct Attempts {
    pub(crate) acquires: Vec<v1::AcquireRequest>,
    pub(crate) campaigns: Vec<v1::CampaignRequest>,
    pub(crate) cancelled: usize,
    pub(crate) releases: Vec<v1::ReleaseRequest>,
    pub(crate) observes: Vec<v1::ObserveRequest>,
    count: usize,
}

impl Default for Locks {
    fn default() -> Self {
        Self::on_attempt(|nth| Turn::Grant(10 + i64::try_from(nth).unwrap()))
    }
}

impl Locks {
    /// Answers attempts; counted from 0.
    pub(crate) fn on_attempt(attempt: impl Fn(usize) -> Turn + Send + Sync + 'static) -> Self {
        Self { attempt: Arc::new(attempt), observed: Arc::default(), seen: Arc::default() }
    }

    pub(crate) fn observed(leaders: Vec<Leaders>) -> Self {
        Self { observed: Arc::new(leaders), ..Self::default() }
    }

    async fn turn(&self) -> Result<(i64, i64), Status> {
        let nth = {
            let mut seen = self.seen.lock();
            seen.count += 1;
            seen.count - 1
        };
        match (self.attempt)(nth) {
            Turn::Grant(token) => Ok((token, 0)),
            Turn::GrantDelayed(token, lease) => Ok((token, lease)),
            Turn::Refuse(status) => Err(status),
            Turn::Hang => {
                let _gone = Cancelled(self.seen.clone());
                futures::future::pending().await
            }
        }
    }
}

struct Cancelled(Arc<Mutex<Attempts>>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.lock().cancelled += 1;
    }
}

fn header(revision: i64) -> v1::Header {
    v1::Header { revision, ..v1::Header::default() }
}

#[tonic::async_trait]
impl v1::lock_server::Lock for Locks {
    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Result<Response<v1::AcquireResponse>, Status> {
        let request = request.into_inner();
        let lease_id = request.lease_id;
        self.seen.lock().acquires.push(request);
        let (token, delay_lease_id) = self.turn().await?;
        let key = "lock/key".into();
        Ok(Response::new(v1::AcquireResponse { header: Some(header(token)), key, token, lease_id, delay_lease_id }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        self.seen.lock().releases.push(request.into_inner());
        Ok(Response::new(v1::ReleaseResponse { header: Some(header(99)), released: true }))
    }

    async fn downgrade(&self, _: Request<v1::DowngradeRequest>) -> Result<Response<v1::DowngradeResponse>, Status> {
        Ok(Response::new(v1::DowngradeResponse { header: Some(header(99)) }))
    }

    async fn describe(
        &self,
        _: Request<v1::DescribeLockRequest>,
    ) -> Result<Response<v1::DescribeLockResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn force_release(
        &self,
        _: Request<v1::ForceReleaseRequest>,
    ) -> Result<Response<v1::ForceReleaseResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}

#[tonic::async_trait]
impl v1::election_server::Election for Locks {
    type ObserveStream = ReceiverStream<Result<v1::LeaderResponse, Status>>;

    async fn campaign(&self, request: Request<v1::CampaignRequest>) -> Result<Response<v1::CampaignResponse>, Status> {
        let request = request.into_inner();
        let lease_id = request.lease_id;
        self.seen.lock().campaigns.push(request);
        let (term, _) = self.turn().await?;
        Ok(Response::new(v1::CampaignResponse {
            header: Some(header(term)),
            key: "election/key".into(),
            term,
            lease_id,
        }))
    }

    async fn proclaim(&self, _: Request<v1::ProclaimRequest>) -> Result<Response<v1::ProclaimResponse>, Status> {
        Ok(Response::new(v1::ProclaimResponse { header: Some(header(99)) }))
    }

    async fn resign(&self, _: Request<v1::ResignRequest>) -> Result<Response<v1::ResignResponse>, Status> {
        Ok(Response::new(v1::ResignResponse { header: Some(header(99)), resigned: true }))
    }

    async fn leader(&self, _: Request<v1::LeaderRequest>) -> Result<Response<v1::LeaderResponse>, Status> {
        Ok(Response::new(v1::LeaderResponse { header: Some(header(99)), leader: None }))
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let nth = {
            let mut seen = self.seen.lock();
            seen.observes.push(request.into_inner());
            seen.observes.len() - 1
        };
        let (answers, outgoing) = mpsc::channel(16);
        for leader in self.observed.get(nth).into_iter().flatten() {
            let leader = leader.map(|(term, value)| v1::Leader { term, value: value.into(), ..Default::default() });
            let revision = leader.as_ref().map_or(50, |leader| leader.term);
            answers.try_send(Ok(v1::LeaderResponse { header: Some(header(revision)), leader })).unwrap();
        }
        if nth + 1 >= self.observed.len() {
            tokio::spawn(async move { answers.closed().await });
        }
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

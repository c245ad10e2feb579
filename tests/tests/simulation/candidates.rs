//! Clients of both wires that want to lead: each has a session, campaigns until it leads or has had enough, says things of
//! itself while it leads, and stops. All are candidates of one election, whatever wire they speak.
//!
//! Invariants:
//! - A leadership is claimed up to the last moment that was taken before the session was known to be alive.
//! - No two things that are said are the same.

use std::time::Duration;

use quorate_proto::etcd::v3electionpb as pb;
use quorate_proto::v1;
use quorate_tests::checkers::history::{Elected, Said};
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::clients::Client;
use crate::lockers::{Grant, Wire, hold_of};
use crate::recorder::{detail, is_refusal};
use crate::sessions::{Session, Timed};
use crate::way::{Way, ask};

/// Directory of the election.
pub const DIRECTORY: &str = "/elections";
/// For one request that is not to wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// The name of the election.
pub fn election() -> String {
    format!("{DIRECTORY}/0")
}

/// Wants to lead, again and again, until it is over.
pub struct Candidate {
    client: Client,
    wire: Wire,
    count: u64,
    said: u64,
}

/// A leadership, as its client has it.
struct Leadership {
    session: Session,
    campaign_id: u64,
    grant: Grant,
}

impl Candidate {
    pub fn new(client: Client, wire: Wire) -> Self {
        Self { client, wire, count: 0, said: 0 }
    }

    pub async fn live(mut self) {
        while !self.client.town.is_over() {
            self.client.think().await;
            self.count += 1;
            if let Some(session) = Session::begin(&mut self.client, self.count).await {
                self.campaign(session).await;
            }
        }
    }

    fn value(&mut self) -> String {
        self.said += 1;
        format!("{}.{}", self.client.id, self.said)
    }

    async fn campaign(&mut self, session: Session) {
        let recorder = self.client.town.recorder.clone();
        let (name, value, campaign_id) = (election(), self.value(), self.client.id * 1_000 + self.count);
        let (wire, lease) = (self.wire, session.lease);
        let invoked = recorder.trace.moment();
        let attempt = |way, timed| ask_for(wire, way, timed, lease, campaign_id, value.clone());
        let won = session.attempts(&mut self.client, &name, attempt).await;
        session.live_on();
        let campaigned = |leads| Elected::Campaigned { value: value.as_str().into(), leads };
        if won.as_ref().is_none_or(|(_, attempt)| *attempt > 0) {
            // An attempt that was not answered may have led in a term of its own.
            recorder.election(self.client.id, invoked, campaigned(None));
        }
        if let Some((grant, _)) = &won {
            let leads = Some((grant.key.clone().into(), grant.token));
            recorder.election(self.client.id, invoked, campaigned(leads));
        }
        let completed = recorder.trace.moment();
        let mut hold = hold_of(&name, self.client.id, won.as_ref().map(|(grant, _)| grant), invoked, completed);
        let Some((grant, attempt)) = won else { return recorder.hold(hold) };
        hold.ended = Some(invoked);
        // On etcd's wire an attempt that comes late says once more what it came with: as there, nobody else can know.
        let mut may_proclaim = wire == Wire::Native || attempt == 0;
        let leadership = Leadership { session, campaign_id, grant };
        let until = Instant::now() + self.client.dice.between_ms(20, 1_500);
        loop {
            let sure = recorder.trace.moment();
            if !leadership.session.is_alive(&self.client) {
                break;
            }
            hold.ended = Some(sure);
            if Instant::now() >= until || self.client.town.is_over() {
                break;
            }
            sleep(self.client.dice.between_ms(1, 200)).await;
            if may_proclaim && self.client.dice.happens(300) {
                // One that is not known to be over may come after the next; the library sees to that by its write ids.
                may_proclaim = self.proclaim(&leadership).await != Said::Unknown;
            }
        }
        recorder.hold(hold);
        self.client.town.released.notify_waiters();
        self.resign(&leadership).await;
        if may_proclaim && self.client.dice.happens(200) {
            // As one does that does not know yet that it leads no more.
            self.proclaim(&leadership).await;
        }
    }

    async fn proclaim(&mut self, leadership: &Leadership) -> Said {
        let recorder = self.client.town.recorder.clone();
        let (value, term) = (self.value(), leadership.grant.token);
        let invoked = recorder.trace.moment();
        let answer = match self.wire {
            Wire::Native => {
                let request = v1::ProclaimRequest {
                    name: election().into(),
                    lease_id: leadership.session.lease,
                    campaign_id: leadership.campaign_id,
                    term,
                    value: value.clone().into(),
                };
                let mut elections = v1::election_client::ElectionClient::new(self.client.way());
                ask(PATIENCE, request, |request| async move { elections.proclaim(request).await }).await.map(drop)
            }
            Wire::Etcd => {
                let request = pb::ProclaimRequest { leader: Some(leadership.key()), value: value.clone().into() };
                let mut elections = pb::election_client::ElectionClient::new(self.client.way());
                ask(PATIENCE, request, |request| async move { elections.proclaim(request).await }).await.map(drop)
            }
        };
        let said = self.said(answer, true);
        recorder.election(self.client.id, invoked, Elected::Proclaimed { term, value: value.into(), said });
        said
    }

    async fn resign(&mut self, leadership: &Leadership) {
        let recorder = self.client.town.recorder.clone();
        let term = leadership.grant.token;
        let invoked = recorder.trace.moment();
        let (answer, led) = match self.wire {
            Wire::Native => {
                let request = v1::ResignRequest {
                    name: election().into(),
                    lease_id: leadership.session.lease,
                    campaign_id: leadership.campaign_id,
                    term,
                };
                let mut elections = v1::election_client::ElectionClient::new(self.client.way());
                let answer = ask(PATIENCE, request, |request| async move { elections.resign(request).await }).await;
                let led = answer.as_ref().is_ok_and(|answer| answer.resigned);
                (answer.map(drop), led)
            }
            Wire::Etcd => {
                let request = pb::ResignRequest { leader: Some(leadership.key()) };
                let mut elections = pb::election_client::ElectionClient::new(self.client.way());
                let answer = ask(PATIENCE, request, |request| async move { elections.resign(request).await }).await;
                // It does not say whether it led. Now it does not.
                (answer.map(drop), true)
            }
        };
        let said = self.said(answer, led);
        recorder.election(self.client.id, invoked, Elected::Resigned { term, said });
    }

    /// What came of it; `led` counts where it was done.
    fn said(&mut self, answer: Result<(), Status>, led: bool) -> Said {
        let Err(status) = answer else { return if led { Said::Done } else { Said::Lost } };
        let recorder = &self.client.town.recorder;
        recorder.look_at(&status);
        if is_deposed(&status) || is_refusal(&status) {
            return Said::Lost;
        }
        self.client.move_on();
        Said::Unknown
    }
}

impl Leadership {
    /// As etcd's wire has it.
    fn key(&self) -> pb::LeaderKey {
        let (key, rev) = (self.grant.key.clone().into(), self.grant.token);
        pb::LeaderKey { name: election().into(), key, rev, lease: self.session.lease }
    }
}

/// Whether it is said that somebody leads no more.
fn is_deposed(status: &Status) -> bool {
    let kind = detail(status).map(|detail| detail.kind());
    kind == Some(v1::error_detail::Kind::LockLost) || status.message() == "election: not leader"
}

async fn ask_for(
    wire: Wire,
    way: Way,
    timed: Timed,
    lease: i64,
    campaign_id: u64,
    value: String,
) -> Result<Grant, Status> {
    let (name, value) = (election().into(), value.into());
    match wire {
        Wire::Native => {
            let message = v1::CampaignRequest { name, lease_id: lease, campaign_id, value, ..Default::default() };
            let mut elections = v1::election_client::ElectionClient::new(way);
            let won = elections.campaign(timed.request(message)).await?.into_inner();
            let revision = won.header.map_or(0, |header| header.revision);
            Ok(Grant { key: won.key.into(), token: won.term, revision })
        }
        Wire::Etcd => {
            let message = pb::CampaignRequest { name, lease, value };
            let mut elections = pb::election_client::ElectionClient::new(way);
            let won = elections.campaign(timed.request(message)).await?.into_inner();
            let revision = won.header.map_or(0, |header| header.revision);
            let leader = won.leader.ok_or_else(|| Status::internal("a campaign was won without a leader"))?;
            Ok(Grant { key: leader.key.into(), token: leader.rev, revision })
        }
    }
}

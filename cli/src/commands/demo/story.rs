//! The demo's story, chapter by chapter.
//!
//! Invariants:
//! - Each chapter ends in claims that were checked, or in an error.

use std::time::{Duration, Instant};

use quorate::{Client, EventKind, Status};

use super::DemoArgs;
use super::members::Members;
use super::narrator::{Narrator, spoken};
use super::observer::{LiveWatch, PATIENCE, all_statuses, common_leader, status_of, until};
use super::writer::{Account, DIRECTORY, Writer};
use crate::failure::Failure;
use crate::pages::{Pages, Span};
use crate::picture::{Node, Shown};

const LEASE_TTL: Duration = Duration::from_millis(1500);

const CONFIGURATION: [(&str, &str); 5] = [
    ("/config/db/pool", "20"),
    ("/config/db/url", "postgres://db:5432/orders"),
    ("/config/features/dark-mode", "on"),
    ("/config/name", "orders"),
    ("/config/db/pool", "40"),
];

/// Everything the chapters share.
pub struct Story<'a> {
    members: &'a mut Members,
    narrator: Narrator,
    args: DemoArgs,
}

impl<'a> Story<'a> {
    /// Nothing happens yet.
    pub fn new(members: &'a mut Members, narrator: Narrator, args: DemoArgs) -> Self {
        Self { members, narrator, args }
    }

    /// Tells it.
    pub async fn tell(mut self) -> Result<(), Failure> {
        self.members_start().await?;
        let client = Client::builder().endpoints(self.members.endpoints()).deadline(PATIENCE).build()?;
        self.keys_and_a_watch(&client).await?;
        self.a_lease_ends(&client).await?;
        let killed = self.the_leader_is_killed(&client).await?;
        self.the_member_returns(killed).await?;
        self.digests_are_equal().await?;
        self.narrator.chapter("every claim was checked and holds")
    }

    async fn members_start(&mut self) -> Result<(), Failure> {
        self.narrator.chapter("three members start, as processes of their own")?;
        for index in 0..self.members.all.len() {
            self.members.start(index)?;
            let member = &self.members.all[index];
            let process_id = member.process_id().unwrap_or_default();
            let (name, address) = (&member.name, &member.client_address);
            self.narrator.say(&format!("{name} is process {process_id}, clients reach it at {address}"))?;
        }
        let leader = self.common_leader(None).await?;
        let (name, term) = (&leader.member.name, leader.header.raft_term);
        self.narrator.proved(&format!("all three answer and agree: {name} leads, in term {term}"))
    }

    /// Waits until all members (but the one that is down) know the same leader.
    async fn common_leader(&mut self, down: Option<usize>) -> Result<Status, Failure> {
        let all = self.members.all.iter().enumerate();
        let endpoints: Vec<String> =
            all.filter(|(index, _)| Some(*index) != down).map(|(_, member)| member.client_address.clone()).collect();
        common_leader(self.members, &endpoints).await
    }

    async fn keys_and_a_watch(&self, client: &Client) -> Result<(), Failure> {
        self.narrator.chapter("keys under /config, and a watch that sees them come")?;
        let mut watch = LiveWatch::start(client, "/config", self.narrator).await?;
        let mut previous_revision = 0;
        for (key, value) in CONFIGURATION {
            let written = client.put(key, value).await?;
            let event = watch.next().await?;
            let revision = event.kv.mod_revision.get();
            if event.kv.key != key || event.kv.value != value || revision != written.header.revision.get() {
                return Err(Failure::Failed(format!("the watch saw {event:?} where {key} = {value} was put")));
            }
            if revision <= previous_revision {
                return Err(Failure::Failed("the watch went back in revisions".to_owned()));
            }
            previous_revision = revision;
        }
        let count = CONFIGURATION.len();
        self.narrator.proved(&format!("{count} puts, {count} events, each once and in order of revisions"))?;
        self.draw(client).await
    }

    async fn draw(&self, client: &Client) -> Result<(), Failure> {
        let span = Span::below("/config");
        let skipped = span.start.len();
        let mut pages = Pages::new(span, None, None);
        let mut root = Node::default();
        while let Some(page) = pages.next(client).await? {
            for kv in page {
                root.insert(&kv.key[skipped..], kv.value);
            }
        }
        let shown = Shown { depth: usize::MAX, values: true, paint: self.narrator.output().paint };
        self.narrator.picture(&format!("/config\n{}", root.lines(shown).join("\n")))
    }

    async fn a_lease_ends(&self, client: &Client) -> Result<(), Failure> {
        let ttl = spoken(LEASE_TTL);
        self.narrator.chapter(&format!("a key that a lease owns; nobody keeps the lease alive ({ttl})"))?;
        let mut watch = LiveWatch::start(client, "/workers", self.narrator).await?;
        let asked = Instant::now();
        let lease = client.lease(LEASE_TTL).grant_unattended().await?;
        client.put("/workers/7", "10.0.0.7:80").lease(lease.id).await?;
        watch.next().await?;
        let event = watch.next().await?;
        let lived = asked.elapsed();
        if event.kind != EventKind::Delete || !event.lease_ended || event.kv.key != "/workers/7" {
            return Err(Failure::Failed(format!("the watch saw {event:?} where a lease should have ended")));
        }
        if lived < LEASE_TTL {
            return Err(Failure::Failed(format!("the lease ended early, after {}", spoken(lived))));
        }
        if client.get("/workers/7").await?.kv.is_some() {
            return Err(Failure::Failed("the key is still there after its lease ended".to_owned()));
        }
        self.narrator.proved(&format!("the key is gone {} after the lease was asked for: not early", spoken(lived)))
    }

    /// Gives back which member was killed.
    async fn the_leader_is_killed(&mut self, client: &Client) -> Result<usize, Failure> {
        self.narrator.chapter("a writer writes one key after the other, and the leader is killed with kill -9")?;
        let mut writer = Writer::start(client.clone());
        writer.reached(self.args.writes, PATIENCE).await?;
        let leader = self.common_leader(None).await?;
        let leads = |member: &super::members::MemberProcess| member.name == leader.member.name;
        let Some(killed) = self.members.all.iter().position(leads) else {
            return Err(Failure::Failed(format!("nobody knows the leader {}", leader.member.name)));
        };
        let before = writer.acknowledged();
        self.members.kill(killed).await?;
        let name = &self.members.all[killed].name;
        self.narrator.say(&format!("killed {name}, which led, after {before} acknowledged writes"))?;
        writer.reached(before + self.args.writes, PATIENCE).await?;
        let account = writer.finish().await?;
        let successor = self.common_leader(Some(killed)).await?;
        let (name, term) = (&successor.member.name, successor.header.raft_term);
        let gap = account.longest_gap().as_millis();
        self.narrator.say(&format!("{name} leads now, in term {term}"))?;
        self.narrator.say(&format!("longest time between two acknowledged writes: {gap} ms"))?;
        self.read_back(client, &account).await?;
        Ok(killed)
    }

    async fn read_back(&self, client: &Client, account: &Account) -> Result<(), Failure> {
        let mut pages = Pages::new(Span::below(DIRECTORY), None, None);
        let mut held = Vec::new();
        while let Some(page) = pages.next(client).await? {
            held.extend(page);
        }
        let (comparison, acknowledged) = (account.compare(&held), account.acknowledged.len());
        if !comparison.lost.is_empty() || !comparison.wrong.is_empty() {
            return Err(Failure::Failed(format!(
                "of {acknowledged} acknowledged writes {} are lost {:?} and {} are wrong {:?}",
                comparison.lost.len(),
                comparison.lost,
                comparison.wrong.len(),
                comparison.wrong
            )));
        }
        for (number, error) in &account.failed {
            self.narrator.say(&format!("write {number} was not acknowledged: {error}"))?;
        }
        let found = comparison.found;
        self.narrator.proved(&format!("{acknowledged} writes acknowledged, {found} read back and equal, 0 lost"))
    }

    async fn the_member_returns(&mut self, killed: usize) -> Result<(), Failure> {
        let name = self.members.all[killed].name.clone();
        self.narrator.chapter(&format!("{name} is started again"))?;
        let (began, endpoints) = (Instant::now(), self.members.endpoints());
        let others = self.common_leader(Some(killed)).await?;
        let target = others.committed_index;
        self.members.start(killed)?;
        let members = &mut *self.members;
        let reached = until("the restarted member to catch up", async || {
            members.check_alive()?;
            let status = status_of(&endpoints[killed]).await;
            Ok(status.map(|status| status.applied_index).filter(|applied| *applied >= target))
        })
        .await?;
        let took = spoken(began.elapsed());
        self.narrator.proved(&format!("{name} has applied index {reached} (the leader was at {target}) after {took}"))
    }

    async fn digests_are_equal(&mut self) -> Result<(), Failure> {
        self.narrator.chapter("the digests of all three, over everything ever written")?;
        let endpoints = self.members.endpoints();
        let members = &mut *self.members;
        let statuses = until("all members to stand at one applied index", async || {
            members.check_alive()?;
            let statuses = all_statuses(&endpoints).await;
            Ok(statuses.filter(|all| all.iter().all(|one| one.digest_index == all[0].digest_index)))
        })
        .await?;
        for status in &statuses {
            let (name, index, digest) = (&status.member.name, status.digest_index, status.digest);
            self.narrator.say(&format!("{name}: {digest:016x} at applied index {index}"))?;
        }
        if statuses.iter().any(|status| status.digest != statuses[0].digest) {
            return Err(Failure::Failed("the digests differ at the same applied index".to_owned()));
        }
        self.narrator.proved("equal on all three, at the same applied index")
    }
}

//! The instances of a balancer, kept up to date from the live set, and the choice among them.
//!
//! Invariants:
//! - An instance whose address did not change keeps its transport, breaker and load over all changes of the set.
//! - While there is an instance, one is chosen: first those of the own zone that are well, then any that is well, then
//!   one that is not (all breakers open must not mean that everything fails).

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::retry::budget::{Budget as _, TpsBudget};

use super::backend::{Backend, Ticket};
use super::ejection::{self, Record};
use super::picker::Weights;
use super::policy::BalancePolicy;
use crate::discovery::instance::Instance;
use crate::discovery::live::{Instances, LiveSet};

/// Tries at an instance that another call took the last place of.
const RACES: usize = 4;
/// For how long a call counts for the budget of retries.
const BUDGET_WINDOW: std::time::Duration = std::time::Duration::from_secs(10);

/// Makes the transport of an instance, or says why it cannot.
pub(in crate::discovery) type Make<S> = dyn Fn(&Instance) -> Result<S, String> + Send + Sync;

pub(in crate::discovery) struct Pool<S> {
    pub(super) service: String,
    pub(super) policy: Arc<BalancePolicy>,
    zone: String,
    make: Box<Make<S>>,
    source: Option<Instances>,
    state: Mutex<State<S>>,
    budget: TpsBudget,
    next_sweep: Mutex<Instant>,
    /// Whether an instance is used although none is well.
    anyway: bool,
}

struct State<S> {
    live: Option<watch::Receiver<Arc<LiveSet>>>,
    members: Arc<Members<S>>,
}

pub(super) struct Members<S> {
    pub(super) all: Vec<Member<S>>,
    everyone: Weights,
    local: Weights,
}

pub(super) struct Member<S> {
    pub(super) instance: Arc<Instance>,
    pub(super) backend: Arc<Backend<S>>,
}

impl<S> Pool<S> {
    /// Follows a live set.
    pub(in crate::discovery) fn live(
        source: Instances,
        zone: String,
        policy: BalancePolicy,
        make: Box<Make<S>>,
    ) -> Self {
        let mut live = source.subscribe();
        // So that the first look sees it.
        live.mark_changed();
        let service = source.service().to_owned();
        Self::new(service, Some(source), Some(live), Members::none(), zone, policy, make, true)
    }

    /// Has one transport for ever, which is not used while its breaker is open.
    pub(super) fn fixed(transport: S, policy: BalancePolicy) -> Self {
        let now = Instant::now();
        let instance = Arc::new(Instance::new("", ""));
        let backend = Arc::new(Backend::new(transport, Arc::new(policy.clone()), now));
        let members = Members::new(vec![Member { instance, backend }], "");
        let never = Box::new(|_: &Instance| Err("it is fixed".to_owned()));
        Self::new(String::new(), None, None, members, String::new(), policy, never, false)
    }

    #[expect(clippy::too_many_arguments, reason = "the two constructors above give them names")]
    fn new(
        service: String,
        source: Option<Instances>,
        live: Option<watch::Receiver<Arc<LiveSet>>>,
        members: Members<S>,
        zone: String,
        policy: BalancePolicy,
        make: Box<Make<S>>,
        anyway: bool,
    ) -> Self {
        let share = if policy.retry_share.is_finite() { policy.retry_share.clamp(0.0, 1000.0) } else { 0.0 };
        let budget = TpsBudget::new(BUDGET_WINDOW, policy.retries_per_second.min(1_000_000), share);
        Self {
            service,
            policy: Arc::new(policy),
            zone,
            make,
            source,
            state: Mutex::new(State { live, members: Arc::new(members) }),
            budget,
            next_sweep: Mutex::new(Instant::now() + ejection::INTERVAL),
            anyway,
        }
    }

    pub(super) fn source(&self) -> Option<&Instances> {
        self.source.as_ref()
    }

    /// The instances as of now.
    pub(super) fn members(&self) -> Arc<Members<S>> {
        let mut state = self.state.lock();
        let State { live, members } = &mut *state;
        if let Some(live) = live
            && live.has_changed().unwrap_or(false)
        {
            let set = live.borrow_and_update().clone();
            *members = Arc::new(self.renewed(members, &set));
        }
        members.clone()
    }

    /// Chooses an instance that is not in `tried`, as long as there is one.
    pub(super) fn pick(&self, tried: &[Arc<Backend<S>>], now: Instant) -> Option<Ticket<S>> {
        let members = self.members();
        self.sweep_if_due(&members, now);
        let chance = &mut rand::rng();
        let backend = |at: usize| &members.all[at].backend;
        let is_new = |at: usize| !tried.iter().any(|each| Arc::ptr_eq(each, backend(at)));
        let cost = |at: usize| backend(at).cost(now, members.all[at].instance.weight);
        for _ in 0..RACES {
            let usable = |at: usize| is_new(at) && backend(at).is_usable(now);
            let local = members.local.choose(chance, usable, cost);
            let Some(at) = local.or_else(|| members.everyone.choose(chance, usable, cost)) else { break };
            if let Some(ticket) = backend(at).begin(now) {
                return Some(ticket);
            }
        }
        let untried = members.everyone.choose(chance, is_new, cost).filter(|_| self.anyway);
        if let Some(at) = untried {
            return Some(backend(at).begin_anyway(now));
        }
        // All were tried: one that is well once more, else any.
        let well = members.everyone.choose(chance, |at| backend(at).is_usable(now), cost);
        if let Some(ticket) = well.and_then(|at| backend(at).begin(now)) {
            return Some(ticket);
        }
        let any = members.everyone.choose(chance, |_| true, cost).filter(|_| self.anyway);
        any.map(|at| backend(at).begin_anyway(now))
    }

    /// A call was served: retries of others may cost something again.
    pub(super) fn deposit(&self) {
        self.budget.deposit();
    }

    /// Whether one more retry is within the budget.
    pub(super) fn withdraw(&self) -> bool {
        self.budget.withdraw()
    }

    fn renewed(&self, old: &Members<S>, set: &LiveSet) -> Members<S> {
        let mut all = Vec::with_capacity(set.instances.len());
        for instance in &set.instances {
            if instance.malformed.is_some() {
                continue;
            }
            let known = old.all.iter().find(|member| reaches_the_same(&member.instance, instance));
            let backend = match known {
                Some(member) => member.backend.clone(),
                None => match (self.make)(instance) {
                    Ok(transport) => Arc::new(Backend::new(transport, self.policy.clone(), Instant::now())),
                    Err(why) => {
                        tracing::warn!(service = %self.service, id = %instance.id, why, "instance cannot be used");
                        continue;
                    }
                },
            };
            all.push(Member { instance: Arc::new(instance.clone()), backend });
        }
        Members::new(all, &self.zone)
    }

    fn sweep_if_due(&self, members: &Members<S>, now: Instant) {
        let Some(mut next) = self.next_sweep.try_lock() else { return };
        if now < *next {
            return;
        }
        *next = now + ejection::INTERVAL;
        let mut vitals: Vec<_> = members.all.iter().map(|member| member.backend.vitals.lock()).collect();
        let mut records: Vec<&mut Record> = vitals.iter_mut().map(|vitals| &mut vitals.record).collect();
        for at in ejection::sweep(&mut records, now, &self.policy) {
            let id = &members.all[at].instance.id;
            tracing::info!(service = %self.service, id, "instance fails far more than the others: it is left alone");
        }
    }
}

impl<S> Members<S> {
    fn none() -> Self {
        Self { all: Vec::new(), everyone: Weights::default(), local: Weights::default() }
    }

    fn new(all: Vec<Member<S>>, zone: &str) -> Self {
        let weight = |(at, member): (usize, &Member<S>)| (at, member.instance.weight);
        let everyone = Weights::new(all.iter().enumerate().map(weight));
        let near = |(_, member): &(usize, &Member<S>)| !zone.is_empty() && member.instance.zone == zone;
        let local = Weights::new(all.iter().enumerate().filter(near).map(weight));
        Self { all, everyone, local }
    }
}

/// Whether the transport to one leads to the other.
fn reaches_the_same(one: &Instance, other: &Instance) -> bool {
    one.id == other.id && one.address == other.address && one.port == other.port && one.metadata == other.metadata
}

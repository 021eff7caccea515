//! The plan: from an observation and the time to ordered actions. Total, without a clock, without effects.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use chrono::TimeDelta;

use crate::api::Time;
use crate::api::names;
use crate::api::proxy_pool::{Evicted, InFlight, Op, Step};
use crate::cloud::Marks;
use crate::rollout::model::count;

use super::budget::{Budget, MOST_IN_FLIGHT};
use super::census::{Census, Proxy, Standing, called, to_delta};
use super::model::{Action, Deed, Deferral, Memory, Needs, Note, Observation, Obstacle, Plan, Reply, listens_at, nonce};
use super::wish::Wish;
use super::{leaving, renewal, sizing, slots, status};

/// A complete list older than this shows too little of what is.
const FRESH: Duration = Duration::from_mins(1);
/// Creates in a row of one slot that never appear before the brake goes on.
const PATIENCE: u32 = 3;
/// How long the brake stays on before one more try.
const BRAKE: Duration = Duration::from_mins(10);
/// Reason of the Event about a list that failed.
const UNLISTED: &str = "ListFailed";
/// Time between two looks while something is under way.
pub(super) const BUSY: Duration = Duration::from_secs(10);
/// Time between two looks while nothing is.
const IDLE: Duration = Duration::from_mins(2);

/// Decides what to do about one pool now.
pub fn plan(obs: &Observation, memory: &Memory, now: Time) -> Plan {
    let mut memory = memory.clone();
    memory.last_mutation.get_or_insert(now);
    let wish = match &obs.wish {
        Ok(wish) => wish,
        Err(error) => {
            let mut plan = status::invalid(obs, memory, error, now);
            leaving::let_go(obs, &mut plan);
            return plan;
        }
    };
    let mut turn = Turn::new(obs, wish, memory, now);
    if obs.meta.deleting {
        leaving::go_on(&mut turn);
    } else if !turn.is_held() {
        turn.act("proxies must go before the pool does", Deed::Hold, Needs::Unchanged(obs.meta.resource_version.clone()));
    } else if turn.can_act {
        turn.go_on();
    }
    turn.finish()
}

/// A plan in the making.
pub(super) struct Turn<'a> {
    pub obs: &'a Observation,
    pub wish: &'a Wish,
    pub now: Time,
    pub budget: Budget,
    pub census: Census<'a>,
    /// The list is complete, new enough and settled, and the cloud may be asked (rule I4).
    pub can_act: bool,
    /// How many proxies the list shows none of, though nobody here has deleted them.
    pub missing: Option<i32>,
    /// What will be on record as in flight.
    pub flights: Vec<InFlight>,
    pub evicted: Vec<Evicted>,
    pub duplicates: u32,
    pub plan: Plan,
    /// VMs whose deletion is decided: none of them counts as available.
    gone: BTreeSet<String>,
    /// Those of them whose deletion is among the actions.
    ordered: BTreeSet<String>,
    /// Proxies that serve and are not gone.
    available: u32,
    /// VMs above maxScaling that are there to stay and not dead.
    surplus: usize,
    /// The probes can be believed.
    trusts_probes: bool,
    epoch: u32,
    /// VMs listed or asked for.
    total: usize,
}

impl<'a> Turn<'a> {
    fn new(obs: &'a Observation, wish: &'a Wish, memory: Memory, now: Time) -> Self {
        let census = Census::take(obs, wish, now);
        let flights = obs.status.in_flight.clone();
        let highest = census.proxies.iter().map(|p| p.vm.marks.epoch).chain(flights.iter().map(|f| f.epoch)).max().unwrap_or(0);
        let missing = missing(obs, wish, &census);
        let budget = Budget::of(wish);
        let gone: BTreeSet<String> = flights.iter().filter(|f| f.phase == Step::Deleting).filter_map(|f| f.replaces.clone()).collect();
        let serving = census.proxies.iter().filter(|p| p.serves() && !gone.contains(&p.vm.id)).count();
        let live = census.all().filter(|p| p.stays() && !p.is_dead()).count();
        let unlisted = flights.iter().filter(|f| f.epoch > 0 && census.holder(f.slot, f.epoch).is_none()).count();
        Self {
            can_act: missing.is_none() && can_act(obs, &memory, now),
            missing,
            budget,
            available: u32::try_from(serving).unwrap_or(u32::MAX),
            surplus: live.saturating_sub(usize::try_from(budget.cap).unwrap_or(usize::MAX)),
            trusts_probes: obs.direct != Some(false) && census.doubts(wish).is_none(),
            gone,
            ordered: BTreeSet::new(),
            epoch: highest.max(u32::try_from(obs.status.epoch).unwrap_or(0)),
            total: census.all().count() + unlisted,
            evicted: obs.status.evicted.clone(),
            duplicates: 0,
            plan: Plan { memory, ..Plan::default() },
            obs,
            wish,
            now,
            census,
            flights,
        }
    }

    /// The order in which a pool is put right.
    fn go_on(&mut self) {
        self.tell_unreadable();
        slots::evict(self);
        slots::advance(self);
        slots::adopt(self);
        sizing::bury_the_dead(self);
        if self.wish.paused {
            return;
        }
        sizing::fill(self);
        renewal::recycle(self);
        sizing::shrink(self);
    }

    fn tell_unreadable(&mut self) {
        let ids: Vec<&str> = self.census.unreadable.iter().map(|p| p.vm.id.as_str()).collect();
        let message = format!(
            "{} of {} cannot be told by their marks and are left alone, though they count; restore the marks or delete them: {:.300}",
            ids.len(),
            self.wish.title(),
            ids.join(", ")
        );
        self.warn_once("Unreadable", Some(message).filter(|_| !ids.is_empty()));
    }

    /// Each change of the reason why there is no new list, and that there is one again.
    fn tell_unlisted(&mut self) {
        let title = self.wish.title();
        let failed = self.obs.list_error.as_ref().map(|error| format!("the proxies of {title} cannot be listed: {error:.300}"));
        if failed.is_none() && self.plan.memory.told.contains_key(UNLISTED) {
            self.note(false, "Listed", format!("the proxies of {title} are listed again"));
        }
        self.warn_once(UNLISTED, failed);
    }

    /// The finalizer is on the pool.
    pub fn is_held(&self) -> bool {
        self.obs.meta.finalizers.iter().any(|f| f == names::POOL_FINALIZER)
    }

    /// Proxies that serve and are not on their way out (rule I1).
    pub fn available(&self) -> u32 {
        self.available
    }

    /// Where the proxies are that serve and stay; nothing while that is not known of all, as after a start. While probes are not trusted, failing one is no reason not to be named.
    fn serving(&self) -> Option<BTreeSet<SocketAddr>> {
        let is_unasked = self.census.proxies.iter().any(|p| p.standing == Standing::Unknown);
        if self.obs.list.is_none() || self.missing.is_some() || (is_unasked && !self.obs.meta.deleting) {
            return None;
        }
        let doubted = !self.trusts_probes();
        let serves =
            |p: &&Proxy<'_>| p.serves() || (doubted && !p.never_healthy && matches!(p.standing, Standing::Ailing | Standing::Dead));
        let staying = self.census.proxies.iter().filter(serves).filter(|p| !self.is_leaving(&p.vm.id));
        Some(staying.filter_map(|p| listens_at(p.vm, self.wish.proxy.port)).filter(|_| !self.obs.meta.deleting).collect())
    }

    /// How many would be available without that one.
    pub fn available_without(&self, proxy: &Proxy<'_>) -> u32 {
        self.available() - u32::from(proxy.serves() && !self.is_leaving(&proxy.vm.id))
    }

    /// The floor lets that one go.
    pub fn is_spare(&self, proxy: &Proxy<'_>) -> bool {
        self.available_without(proxy) >= self.budget.floor
    }

    /// Its deletion is decided.
    pub fn is_leaving(&self, id: &str) -> bool {
        self.gone.contains(id)
    }

    /// Slots in flight, in the sense of the batch (rule I2): a place that is filled for the first time is none.
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.flights.iter().filter(|f| f.op != Op::Fill).count()).unwrap_or(u32::MAX)
    }

    /// No more can be on record as in flight: each is written down before it begins, and a status must stay small.
    pub fn is_full(&self) -> bool {
        self.flights.len() >= MOST_IN_FLIGHT as usize
    }

    /// What is in flight about that slot.
    pub fn flight(&mut self, slot: u32) -> Option<&mut InFlight> {
        self.flights.iter_mut().find(|f| f.slot == slot)
    }

    /// The probes can be believed (rule I9).
    pub fn trusts_probes(&self) -> bool {
        self.trusts_probes
    }

    /// A replacement has missed its startupTimeout.
    pub fn is_degraded(&self) -> bool {
        self.flights.iter().any(|f| is_late(f, &self.census, self.wish, self.now))
    }

    /// What keeps the cloud from making VMs now.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let setbacks = &self.plan.memory.setbacks;
        setbacks.iter().find(|(_, s)| s.until > self.now).map(|(o, _)| *o)
    }

    /// The brake is on (rule I3).
    pub fn brakes(&self) -> bool {
        self.plan.memory.brake_until.is_some_and(|t| t > self.now) || self.surplus() > 0
    }

    /// VMs above maxScaling that are there to stay and not dead.
    pub fn surplus(&self) -> usize {
        self.surplus
    }

    /// A VM may be asked for, as far as the cloud and the brake are concerned.
    pub fn may_ask(&self) -> bool {
        self.can_act && !self.wish.paused && self.obstacle().is_none() && !self.brakes()
    }

    /// There is room for one more VM (rule I3).
    pub fn has_room(&self) -> bool {
        self.total < usize::try_from(self.budget.cap).unwrap_or(usize::MAX)
    }

    /// Gives the slot the next epoch and asks for its VM, if that may be.
    pub fn give_birth(&mut self, flight: &mut InFlight) {
        if flight.epoch > 0 {
            // It takes the place of one that is known not to be.
            self.total = self.total.saturating_sub(usize::from(self.census.holder(flight.slot, flight.epoch).is_none()));
        }
        // The last epoch is never given out: marks that say it are not believed.
        let next = self.epoch.checked_add(1).filter(|e| *e < u32::MAX && self.may_ask() && self.has_room());
        let Some(next) = next else {
            flight.epoch = 0;
            flight.nonce.clear();
            flight.vm_id = None;
            return;
        };
        self.epoch = next;
        self.total += 1;
        flight.epoch = self.epoch;
        flight.nonce = nonce(&self.obs.meta.uid, flight.slot, flight.epoch);
        flight.template.clone_from(&self.obs.template);
        flight.born = Some(self.now);
        flight.vm_id = None;
        self.create(flight);
    }

    fn create(&mut self, flight: &InFlight) {
        self.plan.memory.creates.remove(&flight.nonce);
        self.act("the slot needs a proxy", Deed::Create(self.marks(flight)), Needs::Recorded(flight.nonce.clone()));
    }

    /// Goes after a create that the list does not show: looks for it before anything is asked for again (rule I7).
    pub fn chase(&mut self, flight: &mut InFlight) {
        let answer = self.plan.memory.creates.get(&flight.nonce).map(|c| c.answer);
        match answer {
            None | Some(Reply::MayExist | Reply::Found) => {
                self.act("no list shows it yet", Deed::Look(self.marks(flight)), Needs::Nothing);
            }
            Some(_) if !self.may_ask() => {}
            // It is born when it is asked for: its startupTimeout must not run while the cloud refuses.
            Some(Reply::NotDone) => self.give_birth(flight),
            Some(Reply::Missing) => {
                flight.attempts += 1;
                if flight.attempts.is_multiple_of(PATIENCE) {
                    self.plan.memory.brake_until = Some(self.now + BRAKE);
                } else if flight.attempts == 1 && flight.template == self.obs.template && self.is_young(flight) {
                    self.create(flight);
                } else {
                    // A cloud that remembers the order would answer with the same lost VM for ever.
                    self.give_birth(flight);
                }
            }
        }
    }

    /// Its startupTimeout has hardly begun.
    fn is_young(&self, flight: &InFlight) -> bool {
        flight.born.is_some_and(|born| self.now - born < to_delta(self.wish.health.startup_timeout / 4))
    }

    /// Deletes a VM by its id. It must have been listed with the pool's UID, as all of the census has (rule I10).
    pub fn delete(&mut self, why: &'static str, proxy: &Proxy<'_>) {
        let Some(at) = self.obs.list.as_ref().map(|l| l.at) else { return };
        if self.gone.insert(proxy.vm.id.clone()) {
            // One that cannot be told by its marks was never counted.
            let counted = self.census.by_id(&proxy.vm.id).is_some_and(|p| p.serves());
            self.available -= u32::from(counted);
        }
        if proxy.stays() && self.ordered.insert(proxy.vm.id.clone()) {
            let deed = Deed::Delete { id: proxy.vm.id.clone(), pool: proxy.vm.marks.pool.clone() };
            self.act(why, deed, Needs::Listed(at));
        }
    }

    /// Whether a VM that fails its probes, or does not run, may be deleted for that.
    pub fn believes_dead(&self, proxy: &Proxy<'_>) -> bool {
        match proxy.standing {
            Standing::Stopped => true,
            Standing::Dead => self.trusts_probes(),
            _ => false,
        }
    }

    /// What the VM of that flight is marked with.
    pub fn marks(&self, flight: &InFlight) -> Marks {
        Marks {
            pool: self.obs.meta.uid.clone(),
            slot: flight.slot,
            epoch: flight.epoch,
            nonce: flight.nonce.clone(),
            template: flight.template.clone(),
            born: flight.born.unwrap_or(flight.since),
        }
    }

    /// A new flight, with nothing done yet.
    pub fn mark(&self, slot: u32, op: Op, old: Option<&Proxy<'_>>) -> InFlight {
        InFlight {
            slot,
            op,
            phase: if old.is_some() { Step::Marked } else { Step::Creating },
            since: self.now,
            epoch: 0,
            nonce: String::new(),
            template: String::new(),
            born: None,
            attempts: 0,
            missed: 0,
            vm_id: None,
            replaces: old.map(|o| o.vm.id.clone()),
            address: old.map(|o| called(o.vm)),
        }
    }

    /// Adds an action.
    pub fn act(&mut self, why: &'static str, deed: Deed, needs: Needs) {
        self.plan.actions.push(Action { why, deed, needs });
    }

    /// Adds a log line.
    pub fn note(&mut self, warning: bool, reason: &'static str, message: String) {
        self.plan.notes.push(Note { warning, reason, message });
    }

    /// Adds a warning unless it was the last one of its reason. Nothing to say: the next one is news again.
    pub fn warn_once(&mut self, reason: &'static str, message: Option<String>) {
        let last = self.plan.memory.told.remove(reason);
        let Some(message) = message else { return };
        if last.as_ref() != Some(&message) {
            self.note(true, reason, message.clone());
        }
        self.plan.memory.told.insert(reason, message);
    }

    /// Why something that should be recycled is not, as far as it is said already.
    pub fn is_news(&mut self, id: &str, why: Deferral) -> bool {
        self.plan.memory.deferred.insert(id.to_owned(), why) != Some(why)
    }

    fn finish(mut self) -> Plan {
        self.tell_unlisted();
        let memory = &mut self.plan.memory;
        memory.creates.retain(|nonce, _| self.flights.iter().any(|f| f.nonce == *nonce));
        memory.deferred.retain(|id, _| self.census.by_id(id).is_some());
        if self.obs.list_error.is_none() && self.obs.list.is_some() {
            // Each is tried again, and waits longer then; nobody waits for one that nothing is asked of any more.
            let longer = if self.flights.is_empty() { TimeDelta::zero() } else { to_delta(BRAKE) };
            memory.setbacks.retain(|_, s| s.until + longer > self.now);
        }
        self.flights.sort_by_key(|f| f.slot);
        self.plan.requeue = self.requeue();
        self.plan.serving = self.serving();
        let said = status::say(&self);
        status::settle(self, said)
    }

    fn requeue(&self) -> Duration {
        let memory = &self.plan.memory;
        let until = |t: Time| (t - self.now).to_std().unwrap_or_default();
        if let Some(pause) = backoff(self.obs, memory, self.now) {
            return until(pause).max(Duration::from_secs(1));
        }
        let mutates = self.plan.actions.iter().any(|a| matches!(a.deed, Deed::Create(_) | Deed::Delete { .. }));
        if mutates {
            return self.obs.settle().max(BUSY);
        }
        if self.plan.actions.iter().any(|a| matches!(a.deed, Deed::Hold | Deed::Look(_))) {
            return Duration::from_secs(1);
        }
        // One without an address is shown by a list that is behind: nobody can be told of it yet.
        let pending = self.census.proxies.iter().any(|p| !p.serves() || p.vm.address.is_none());
        if !self.flights.is_empty() || pending || self.obs.meta.deleting || !self.can_act || self.obs.list_error.is_some() {
            let settled = memory.last_mutation.map(|t| until(t + to_delta(self.obs.settle()))).unwrap_or_default();
            return if settled.is_zero() { BUSY } else { settled.min(BUSY).max(Duration::from_secs(1)) };
        }
        let next = self.census.proxies.iter().filter(|p| !p.aged).filter_map(|p| p.expires).min();
        next.map_or(IDLE, |t| until(t).clamp(Duration::from_secs(1), IDLE))
    }

    /// Proxies that are there to stay. A list that has not settled may still show what was just deleted: it counts no more
    /// than were known.
    pub fn known(&self) -> i32 {
        let known = self.obs.status.known;
        let there = count(self.census.proxies.iter().filter(|p| p.stays() && !self.is_leaving(&p.vm.id)));
        match self.obs.list {
            None => known,
            Some(_) if self.missing.is_some() => known,
            Some(_) if self.can_act => there,
            Some(_) => there.min(known),
        }
    }

    /// The highest epoch given out, for the record.
    pub fn epoch(&self) -> i64 {
        self.epoch.into()
    }
}

/// A flight whose replacement is not healthy though its startupTimeout is over, or that had one which never was.
pub fn is_late(flight: &InFlight, census: &Census<'_>, wish: &Wish, now: Time) -> bool {
    let replaces = matches!(flight.op, Op::Recycle | Op::Evict);
    let over = flight.born.is_some_and(|born| flight.epoch > 0 && now - born >= to_delta(wish.health.startup_timeout));
    replaces && (flight.missed > 0 || over) && !census.holder(flight.slot, flight.epoch).is_some_and(|p| p.serves())
}

/// A list that shows nothing of a pool of several that was there is another account's, more likely than that all have
/// vanished at once: neither are they made a second time, nor is the pool let go of, until a person says that they are gone.
fn missing(obs: &Observation, wish: &Wish, census: &Census<'_>) -> Option<i32> {
    let is_empty = obs.list.is_some() && census.all().next().is_none();
    let is_told = obs.meta.annotations.get(names::GONE).is_some_and(|epoch| *epoch == obs.status.epoch.to_string());
    let is_odd = is_empty && obs.status.known > 1 && wish.provider.account_is_in_the_secret();
    (is_odd && !is_told).then_some(obs.status.known)
}

/// Until when the cloud is left alone altogether.
fn backoff(obs: &Observation, memory: &Memory, now: Time) -> Option<Time> {
    let throttled = memory.setbacks.get(&Obstacle::Throttled).map(|s| s.until);
    throttled.max(obs.rate.backoff_until).filter(|t| *t > now)
}

/// Rule I4: whether the list says enough to act on it.
fn can_act(obs: &Observation, memory: &Memory, now: Time) -> bool {
    let Some(list) = &obs.list else { return false };
    let settled = memory.last_mutation.is_some_and(|t| list.at >= t + to_delta(obs.settle()));
    obs.list_error.is_none() && settled && now - list.at <= to_delta(FRESH) && backoff(obs, memory, now).is_none()
}

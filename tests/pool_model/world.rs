//! One pool, its cloud and its operator, second by second.

use std::collections::{BTreeMap, BTreeSet};

use aether_operator::api::conditions::Condition;
use aether_operator::api::proxy_pool::{DeletionPolicy, ProxyPoolSpec};
use aether_operator::api::{ProxyPoolStatus, Time, names};
use aether_operator::cloud::{Capabilities, Marks, Phase, Rate, Vm};
use aether_operator::cluster::facts::Meta;
use aether_operator::pool::census::expiry;
use aether_operator::pool::model::Observation;
use aether_operator::pool::wish::{Defaults, Wish};

use super::bugs::Bug;
use super::cloud::{Cloud, secs};
use super::operator::Process;
use super::rng::Rng;
use super::scenario::{Act, Scenario};
use super::truth::Violation;

/// The least time between two looks at the clock, in seconds.
const TICK: u64 = 5;
/// After the goal is reached nothing is written for that many seconds.
const REST: u64 = 300;

pub struct World {
    pub scenario: Scenario,
    pub bug: Option<Bug>,
    pub rng: Rng,
    pub now: Time,
    pub start: Time,
    pub cloud: Cloud,
    pub process: Process,
    pub meta: Meta,
    pub spec: ProxyPoolSpec,
    pub raw: serde_json::Value,
    pub defaults: Defaults,
    pub status: ProxyPoolStatus,
    pub template: String,
    pub exists: bool,
    pub outage: bool,
    pub direct: Option<bool>,
    pub writes: u64,
    pub notes: Vec<String>,
    /// What the list that was answered last really said, and whether the newest attempt failed.
    pub honest_list: Option<(Time, Vec<Vm>)>,
    pub list_failed: bool,
    /// Nonces whose create came to nobody knows what, and those that were looked for since.
    pub unknown: BTreeSet<String>,
    pub looked: BTreeSet<String>,
    /// Who went for each entry of the annotation.
    pub evicted: BTreeMap<String, String>,
    /// What the operator has asked to delete.
    pub deleted: BTreeSet<String>,
    /// Slots whose VM was deleted by choice, with its epoch.
    pub open: BTreeMap<u32, u32>,
    pub shrunk: BTreeSet<u32>,
    /// The fewest that served at any time since the pool was whole first.
    pub fewest: Option<usize>,
    story: Vec<String>,
}

/// A run that broke a rule.
pub struct Failure {
    pub scenario: &'static str,
    pub violation: Violation,
    pub story: String,
}

pub fn run(scenario: &Scenario, bug: Option<Bug>, seed: u64) -> Result<World, Box<Failure>> {
    let mut world = World::new(scenario.clone(), bug, seed);
    match world.live() {
        Ok(()) => Ok(world),
        Err(violation) => {
            let from = world.story.len().saturating_sub(120);
            let story = format!("{}: {}\n{:?}\n{}", violation.0, violation.1, world.scenario, world.story[from..].join("\n"));
            Err(Box::new(Failure { scenario: scenario.name, violation, story }))
        }
    }
}

impl World {
    fn new(scenario: Scenario, bug: Option<Bug>, seed: u64) -> Self {
        let start: Time = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut cloud = Cloud::new(scenario.ways.clone());
        let foreign = Marks { pool: "another".into(), slot: 0, epoch: 1, nonce: "n".into(), template: "t".into(), born: start };
        cloud.put("another", &foreign, start, false);
        Self {
            raw: scenario.spec.clone(),
            spec: serde_json::from_value(scenario.spec.clone()).unwrap(),
            rng: Rng::new(seed),
            now: start,
            start,
            cloud,
            process: Process::default(),
            meta: Meta { namespace: "apps".into(), name: "pool".into(), uid: "uid".into(), generation: 1, ..Meta::default() },
            defaults: Defaults::default(),
            status: ProxyPoolStatus::default(),
            template: "t1".into(),
            exists: true,
            outage: false,
            direct: None,
            writes: 0,
            notes: Vec::new(),
            honest_list: None,
            list_failed: false,
            unknown: BTreeSet::new(),
            looked: BTreeSet::new(),
            evicted: BTreeMap::new(),
            deleted: BTreeSet::new(),
            open: BTreeMap::new(),
            shrunk: BTreeSet::new(),
            fewest: None,
            story: Vec::new(),
            scenario,
            bug,
        }
    }

    pub fn tell(&mut self, line: &str) {
        self.story.push(format!("{:>6} {line}", (self.now - self.start).num_seconds()));
    }

    fn age(&self) -> u64 {
        u64::try_from((self.now - self.start).num_seconds()).unwrap()
    }

    pub fn is_faulty(&self) -> bool {
        self.age() < self.scenario.calm
    }

    /// Until the goal is reached, and a while longer, in which nothing may be written.
    fn live(&mut self) -> Result<(), Violation> {
        let mut script = std::mem::take(&mut self.scenario.script);
        script.reverse();
        let end = self.scenario.calm + self.scenario.patience;
        loop {
            while script.last().is_some_and(|(at, _)| *at <= self.age()) {
                let (_, act) = script.pop().unwrap();
                self.happen(&act);
            }
            self.step()?;
            self.follow_advice();
            if self.age() >= self.scenario.calm && script.is_empty() && self.is_at_goal() {
                break;
            }
            if self.age() > end {
                return Err(("progress", format!("the goal is not reached: {:#?}", self.status)));
            }
        }
        self.rest()
    }

    /// Nothing reaches its age any more: then nothing is written, and nothing called but lists.
    fn rest(&mut self) -> Result<(), Violation> {
        if !self.exists {
            return Ok(());
        }
        self.tell("rests");
        self.happen(&Act::Spec(serde_json::json!({"ageLimit": "0s"})));
        for _ in 0..(self.scenario.patience / TICK) {
            self.step()?;
            if self.status.observed_generation == Some(self.meta.generation) && self.is_at_goal() {
                break;
            }
        }
        for _ in 0..60 / TICK {
            self.step()?;
        }
        let (writes, mutations) = (self.writes, self.cloud.mutations);
        for _ in 0..REST / TICK {
            self.step()?;
        }
        if (writes, mutations) != (self.writes, self.cloud.mutations) {
            let (more, calls) = (self.writes - writes, self.cloud.mutations - mutations);
            return Err(("rest", format!("{more} writes and {calls} calls with nothing to do")));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.now += secs(TICK);
        self.cloud.advance(self.now);
        self.judge_places()?;
        let changed = self.probe();
        self.close_flights();
        let serving = self.cloud.of(&self.meta.uid).filter(|r| self.cloud.answers(&r.vm.id, self.now)).count();
        if let Some(fewest) = self.fewest.as_mut() {
            *fewest = (*fewest).min(serving);
        } else if serving >= usize::try_from(self.wish().min_scaling).unwrap() {
            self.fewest = Some(serving);
        }
        let is_due = self.process.wakes.is_none_or(|t| t <= self.now);
        let sleeps = self.process.wakes.is_some() && self.process.list.is_none() && !is_due;
        if self.exists && (is_due || (changed && !sleeps)) {
            self.turn()?;
        }
        Ok(())
    }

    fn is_at_goal(&self) -> bool {
        if self.meta.deleting {
            return !self.exists;
        }
        let wish = self.wish();
        let live: Vec<_> = self.cloud.of(&self.meta.uid).collect();
        let is_good = |vm: &Vm| {
            self.cloud.answers(&vm.id, self.now)
                && vm.marks.template == self.template
                && expiry(&wish, &vm.marks).is_none_or(|t| t > self.now)
        };
        let mut asked = self.meta.annotations.get(names::EVICT).map_or("", String::as_str).split(',').filter(|e| !e.is_empty());
        let is_answered = |entry: &str| self.status.evicted.iter().any(|e| e.entry == entry);
        live.len() == usize::try_from(wish.min_scaling).unwrap()
            && asked.all(is_answered)
            && live.iter().all(|r| is_good(&r.vm))
            && self.status.in_flight.is_empty()
            && self.status.healthy == i32::try_from(live.len()).unwrap()
    }

    fn oldest(&self) -> Option<&Vm> {
        self.cloud.of(&self.meta.uid).map(|r| &r.vm).find(|vm| vm.phase == Phase::Running && vm.address.is_some())
    }

    fn victim(&self, pick: u64) -> Option<String> {
        let ids: Vec<String> = self.cloud.of(&self.meta.uid).filter(|r| r.gone_at.is_none()).map(|r| r.vm.id.clone()).collect();
        (!ids.is_empty()).then(|| ids[usize::try_from(pick % ids.len() as u64).unwrap()].clone())
    }

    fn happen(&mut self, act: &Act) {
        self.tell(&format!("{act:?}"));
        match act {
            Act::Spec(change) => {
                json_patch::merge(&mut self.raw, change);
                self.spec = serde_json::from_value(self.raw.clone()).unwrap();
                self.meta.generation += 1;
                self.process.wakes = self.process.wakes.map(|t| t.min(self.now));
            }
            Act::Drift => self.template = format!("t{}", self.rng.below(1_000_000)),
            Act::Broken(yes) => {
                self.cloud.broken = *yes;
                if !yes {
                    // Nobody has to wait for what cannot come: the machines that were made meanwhile are mended.
                    for real in &mut self.cloud.vms {
                        real.works = true;
                    }
                }
            }
            Act::Evict(known) => self.evict(*known),
            Act::Delete => {
                self.meta.deleting = true;
                self.exists = !self.meta.finalizers.is_empty();
            }
            Act::Vanish(pick) => {
                if let Some(id) = self.victim(*pick) {
                    let now = self.now;
                    self.cloud.vms.iter_mut().filter(|r| r.vm.id == id).for_each(|r| r.gone_at = Some(now));
                }
            }
            Act::Stop(pick) => {
                if let Some(id) = self.victim(*pick) {
                    self.cloud.vms.iter_mut().filter(|r| r.vm.id == id).for_each(|r| r.stopped = true);
                }
            }
            Act::Hang(pick) => {
                if let Some(id) = self.victim(*pick) {
                    self.cloud.vms.iter_mut().filter(|r| r.vm.id == id).for_each(|r| r.works = false);
                }
            }
            Act::Duplicate(pick) => {
                if let Some(id) = self.victim(*pick)
                    && let Some(marks) = self.cloud.real(&id).map(|r| r.vm.marks.clone())
                {
                    let now = self.now;
                    self.cloud.vms.iter_mut().filter(|r| r.vm.id == id).for_each(|r| r.planted = true);
                    self.cloud.put("second", &marks, now, true);
                }
            }
            Act::Outage(yes, direct) => {
                self.outage = *yes;
                self.direct = *direct;
            }
            Act::NoCapacity(yes) => self.cloud.no_capacity = *yes,
            Act::Throttled(yes) => self.cloud.throttled = *yes,
            // The other pool's VM is one of the account's, too.
            Act::Quota(most) => self.cloud.ways.quota = *most,
            Act::Switched(yes) => self.cloud.switched = *yes,
            Act::AllVanish => {
                let now = self.now;
                self.cloud.vms.iter_mut().for_each(|r| r.gone_at = Some(now));
            }
        }
    }

    /// A person does what the condition says: where too many fail at once to be believed, those that hang are evicted.
    fn follow_advice(&mut self) {
        let asks = |c: &Condition| c.type_ == "ProbeTrusted" && c.reason == "TooManyAtOnce" && c.message.contains(names::EVICT);
        if self.is_faulty() || self.outage {
            return;
        }
        let gone = format!("{}=", names::GONE);
        let advice = self.status.conditions.iter().find_map(|c| c.message.split_once(&gone));
        if let Some(epoch) = advice.and_then(|(_, epoch)| epoch.split(' ').next()) {
            self.meta.annotations.insert(names::GONE.into(), epoch.into());
        }
        if !self.status.conditions.iter().any(asks) {
            return;
        }
        let hang: Vec<String> =
            self.cloud.of(&self.meta.uid).filter(|r| !r.works && r.gone_at.is_none()).map(|r| r.vm.id.clone()).collect();
        for id in hang {
            self.annotate(&id);
        }
    }

    fn evict(&mut self, known: bool) {
        let owner = self.oldest().filter(|_| known).and_then(|vm| vm.address);
        self.annotate(&owner.map_or("198.51.100.7".to_owned(), |a| a.to_string()));
    }

    fn annotate(&mut self, entry: &str) {
        let entries = self.meta.annotations.entry(names::EVICT.into()).or_default();
        if entries.split(',').any(|e| e == entry) {
            return;
        }
        if !entries.is_empty() {
            entries.push(',');
        }
        entries.push_str(entry);
    }

    /// What the operator looks at.
    pub fn observe(&mut self) -> Observation {
        self.list_failed = self.process.list_error.is_some();
        if let Some(list) = &self.process.list {
            self.honest_list = Some((list.at, list.vms.clone()));
        }
        let mut obs = Observation {
            meta: self.meta.clone(),
            wish: Wish::parse("pool", &self.spec, &self.defaults),
            orphan: self.spec.deletion_policy == Some(DeletionPolicy::Orphan),
            status: self.status.clone(),
            template: self.template.clone(),
            list: self.process.list.clone(),
            list_error: self.process.list_error.clone(),
            health: self.process.probes.iter().map(|(id, p)| (id.clone(), p.health())).collect(),
            direct: self.direct,
            capabilities: Capabilities {
                idempotent_create: self.cloud.ways.idempotent,
                unique_names: self.cloud.ways.unique,
                settle_seconds: self.cloud.ways.settle,
            },
            rate: Rate::default(),
            requests: None,
        };
        if let Some(bug) = self.bug {
            bug.blind(&mut obs, self);
        }
        obs
    }
}

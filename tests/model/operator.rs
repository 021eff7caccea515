//! The operator in the model: the real index, observe and decide; the drive loop as in `cluster::drive`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::{State, Time};
use aether_operator::cluster::drive;
use aether_operator::cluster::facts::{Fact, Key, Kind};
use aether_operator::cluster::index::Index;
use aether_operator::rollout::decide::decide;
use aether_operator::rollout::model::Memory;
use aether_operator::rollout::observe::observe;
use kube::core::DynamicObject;
use serde_json::Value;

use super::health;
use super::invariants::{Violation, ensure};
use super::requests::End;
use super::sim::Sim;
use super::world::{World, millis};

const TURNS: usize = 32;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

#[derive(Clone, Default)]
struct Kept {
    memory: Memory,
    failures: u32,
}

#[derive(Default)]
pub struct Operator {
    pub index: Index,
    /// How late the news of each kind are, in milliseconds.
    pub delay: BTreeMap<Kind, u64>,
    /// Of several pieces of news about an object only the last is heard.
    pub folds: bool,
    /// Mutating requests so far.
    pub writes: usize,
    pub down_until: Option<Time>,
    /// Until then a new process knows only what it was told first.
    deaf_until: Option<Time>,
    /// When this process began to measure.
    began: Time,
    cursor: BTreeMap<Kind, usize>,
    kept: BTreeMap<Key, Kept>,
    queue: BTreeSet<Key>,
    wake: BTreeMap<Key, Time>,
}

pub fn fact(kind: Kind, object: &Arc<Value>) -> Fact {
    let object: DynamicObject = serde_json::from_value((**object).clone()).unwrap();
    Fact::read(kind, object)
}

impl Operator {
    /// A new process: nothing is remembered, and everything is known as it was `age` milliseconds ago.
    pub fn start(&mut self, world: &World, age: u64) {
        self.index = Index::default();
        for (kind, events) in &world.log {
            let known = events.partition_point(|e| e.at + millis(age) <= world.now);
            let mut objects = BTreeMap::new();
            for event in &events[..known] {
                objects.insert(&event.key, event.object.as_ref());
            }
            for object in objects.into_values().flatten() {
                self.index.apply(*kind, fact(*kind, object));
            }
            self.cursor.insert(*kind, known);
        }
        self.began = world.now;
        self.kept.clear();
        self.wake.clear();
        self.queue = self.index.updates().map(|u| u.meta.key()).collect();
        self.down_until = None;
        self.deaf_until = Some(world.now + millis(age / 2));
    }

    /// Hears what is old enough to be heard.
    pub fn hear(&mut self, world: &World) {
        if self.deaf_until.is_some_and(|until| world.now < until) {
            return;
        }
        for (kind, events) in &world.log {
            let from = self.cursor.get(kind).copied().unwrap_or_default();
            let delay = millis(self.delay.get(kind).copied().unwrap_or_default());
            let count = events[from..].iter().take_while(|e| e.at + delay <= world.now).count();
            let batch = &events[from..from + count];
            self.cursor.insert(*kind, from + count);
            for (at, event) in batch.iter().enumerate() {
                if self.folds && batch[at + 1..].iter().any(|later| later.key == event.key && later.uid == event.uid) {
                    continue;
                }
                let news = match &event.object {
                    Some(object) => self.index.apply(*kind, fact(*kind, object)),
                    None => self.index.delete(*kind, &event.key, &event.uid),
                };
                if news {
                    self.concern(*kind, &event.key);
                }
            }
        }
    }

    /// A round of measuring is over every five seconds.
    pub fn measure(&mut self, now: Time) {
        if now.timestamp_millis() % 5000 == 0 {
            let shifting = self.index.updates().filter(|u| matches!(u.state(), Some(State::Deployed | State::Routing)));
            let measured = shifting.filter(|u| u.object.as_ref().is_ok_and(|o| o.spec.metrics.is_none()));
            self.queue.extend(measured.map(|u| u.meta.key()));
        }
    }

    fn concern(&mut self, kind: Kind, key: &Key) {
        let concerned = drive::concerned(&self.index, kind, key);
        self.queue.extend(concerned);
    }

    /// What is to be looked at now.
    pub fn due(&mut self, now: Time) -> Option<Key> {
        let timer = self.wake.iter().find(|(_, at)| **at <= now).map(|(k, _)| k.clone());
        let key = self.queue.pop_first().or(timer)?;
        self.wake.remove(&key);
        Some(key)
    }
}

impl Sim {
    /// As `drive::work`: decides and writes until there is nothing more to do now.
    pub fn work(&mut self, key: &Key) -> Result<(), Violation> {
        let mut kept = self.operator.kept.remove(key).unwrap_or_default();
        let mut again = Some(BACKOFF.0);
        for turn in 0..TURNS {
            let Some(mut obs) = observe(&self.operator.index, key) else { return Ok(()) };
            obs.measured = health::measured(&obs, self.operator.began, self.cluster.world.now, self.scenario.errs_from);
            if let Some(bug) = self.bug {
                bug.before(&mut obs, &mut kept.memory);
            }
            let mut plan = decide(&obs, &kept.memory, self.cluster.world.now);
            kept.memory = plan.memory.clone();
            if let Some(bug) = self.bug {
                bug.after(&obs, &mut plan, self.cluster.world.now);
            }
            let quiet = plan.actions.is_empty() && plan.status.is_none();
            match self.carry_out(&plan, &obs.meta) {
                Ok(()) if quiet => {
                    kept.failures = 0;
                    again = plan.requeue;
                    break;
                }
                Ok(()) => kept.failures = 0,
                Err(End::Broken(violation)) => return Err(violation),
                Err(End::Crashed) => {
                    self.crash();
                    return Ok(());
                }
                Err(End::Stale) if kept.failures < 3 => kept.failures += 1,
                Err(End::Refused(object, message)) => {
                    kept.memory.refused.insert(object, message);
                }
                Err(End::Stale | End::Later) => {
                    kept.failures += 1;
                    again = Some(BACKOFF.0.saturating_mul(1 << kept.failures.min(10)).min(BACKOFF.1));
                    break;
                }
            }
            ensure(turn + 1 < TURNS, "rest", || {
                format!("{TURNS} turns in a row, and the last still wrote: {:?}", plan.actions.iter().map(|a| a.why).collect::<Vec<_>>())
            })?;
        }
        self.operator.kept.insert(key.clone(), kept);
        if let Some(wait) = again {
            self.operator.wake.insert(key.clone(), self.cluster.world.now + wait + millis(5));
        }
        Ok(())
    }
}

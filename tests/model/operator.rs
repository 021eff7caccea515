//! The operator in the model: the real index, observe and decide; writes and the drive loop as in `cluster::{write, drive}`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::{RollingUpdateStatus, Time, names};
use aether_operator::cluster::facts::{Fact, Key, Kind};
use aether_operator::cluster::index::Index;
use aether_operator::cluster::{drive, patch};
use aether_operator::rollout::decide::decide;
use aether_operator::rollout::model::{Action, LiveCheck, Memory, Target, Write, is_service_of};
use aether_operator::rollout::observe::observe;
use aether_operator::traffic::gateway::names_service;
use json_patch::PatchOperation;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::invariants::{Violation, ensure};
use super::sim::Sim;
use super::world::{Objects, Refusal, World, key_of, millis, text};
use super::writes::Written;

const TURNS: usize = 32;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What goes wrong at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CrashBefore,
    CrashAfter,
    /// It happened, and nobody heard.
    ReplyLost,
    /// It never arrived.
    RequestLost,
    /// Somebody writes the object just before.
    Conflict,
}

pub const FAULTS: [Fault; 5] = [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost, Fault::RequestLost, Fault::Conflict];

#[derive(Clone, Default)]
struct Kept {
    memory: Memory,
    failures: u32,
}

/// How a write, or a whole plan, ended.
enum End {
    Broken(Violation),
    Crashed,
    Stale,
    Later,
    Refused(String, String),
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
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
    cursor: BTreeMap<Kind, usize>,
    kept: BTreeMap<Key, Kept>,
    queue: BTreeSet<Key>,
    wake: BTreeMap<Key, Time>,
}

fn fact(kind: Kind, object: &Arc<Value>) -> Fact {
    let object: DynamicObject = serde_json::from_value((**object).clone()).unwrap();
    Fact::read(kind, object)
}

impl Operator {
    /// A new process: everything is listed, nothing is remembered.
    pub fn start(&mut self, world: &World) {
        self.index = Index::default();
        for ((kind, _), object) in &world.objects {
            self.index.apply(*kind, fact(*kind, object));
        }
        self.cursor = world.log.iter().map(|(kind, events)| (*kind, events.len())).collect();
        self.kept.clear();
        self.wake.clear();
        self.queue = self.index.updates().map(|u| u.meta.key()).collect();
        self.down_until = None;
    }

    /// Hears what is old enough to be heard.
    pub fn hear(&mut self, world: &World) {
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
            if let Some(bug) = self.bug {
                bug.before(&mut obs, &mut kept.memory);
            }
            let mut plan = decide(&obs, &kept.memory, self.cluster.world.now);
            kept.memory = plan.memory.clone();
            if let Some(bug) = self.bug {
                bug.after(&obs, &mut plan, self.cluster.world.now);
            }
            let quiet = plan.actions.is_empty() && plan.status.is_none();
            match self.carry_out(&plan.actions, &obs.meta, plan.status.as_ref()) {
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

    fn carry_out(
        &mut self,
        actions: &[Action],
        meta: &aether_operator::cluster::facts::Meta,
        status: Option<&RollingUpdateStatus>,
    ) -> Result<(), End> {
        let mut broken = None;
        for action in actions {
            if broken.is_some() && !action.regardless {
                continue;
            }
            match self.act(action) {
                Err(end @ (End::Stale | End::Later | End::Refused(..))) => drop(broken.get_or_insert(end)),
                other => other?,
            }
        }
        if let Some(end) = broken {
            return Err(end);
        }
        if let Some(status) = status {
            let target = Target { kind: Kind::RollingUpdate, key: meta.key() };
            let ops = [patch::only_at(meta), patch::add("/status", serde_json::to_value(status).unwrap())];
            self.patch(&target, &ops, true)?;
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), End> {
        for check in &action.live {
            self.check(check)?;
        }
        self.cluster.world.note(format!("-- {}", action.why));
        match &action.write {
            Write::Patch(target, ops) => self.patch(target, ops, false),
            Write::Create(target, object) => self.create(target, object),
            Write::Delete(target, uid) => self.delete(target, uid),
            Write::DeleteServices { namespace, update_uid, services } => self.delete_services(namespace, update_uid, services),
        }
    }

    /// One request: the faults that hit it, the invariants it may break.
    fn send<T>(
        &mut self,
        target: &Target,
        status: bool,
        call: impl FnOnce(&mut World) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, End> {
        let fault = self.strike();
        self.operator.writes += 1;
        if let Some(fault) = fault {
            let number = self.operator.writes - 1;
            self.cluster.world.note(format!("** {fault:?} at write {number}, {target}"));
        }
        match fault {
            Some(Fault::CrashBefore) => return Err(End::Crashed),
            Some(Fault::RequestLost) => return Err(End::Later),
            Some(Fault::Conflict) => {
                let count = self.operator.writes;
                self.cluster.world.edit(target.kind, &target.key, "somebody", |o| {
                    o["metadata"]["annotations"]["example.org/touched"] = json!(count.to_string());
                });
            }
            _ => {}
        }
        let before: Objects = self.cluster.world.objects.clone();
        let answer = call(&mut self.cluster.world);
        let world = &self.cluster.world;
        let gone = before.keys().filter(|id| !world.objects.contains_key(id)).collect::<Vec<_>>();
        let touched: BTreeSet<(Kind, String)> =
            gone.into_iter().map(|(kind, key)| (*kind, key.name.clone())).chain([(target.kind, target.key.name.clone())]).collect();
        for (kind, name) in touched.iter().filter(|(_, name)| name != "*") {
            let written =
                Written { kind: *kind, name, before: &before, after: &world.objects, plane: &self.cluster.plane, now: world.now, status };
            self.checker.judge(&written)?;
        }
        self.checker.look(world, &self.cluster.plane)?;
        match fault {
            Some(Fault::CrashAfter) => Err(End::Crashed),
            Some(Fault::ReplyLost) => Err(End::Later),
            _ => Ok(answer),
        }
    }

    fn patch(&mut self, target: &Target, ops: &[PatchOperation], status: bool) -> Result<(), End> {
        match self.send(target, status, |world| world.patch(target.kind, &target.key, ops, status, "OPERATOR"))? {
            Ok((object, changed)) => {
                ensure(changed, "no-op", || format!("a patch of {target} changed nothing: {}", serde_json::to_string(ops).unwrap()))?;
                self.learn(target.kind, &object);
                Ok(())
            }
            Err(refusal) => {
                self.cluster.world.note(format!(".. {target}: {refusal:?}"));
                self.look_again(target);
                Err(End::Stale)
            }
        }
    }

    fn create(&mut self, target: &Target, object: &Value) -> Result<(), End> {
        match self.send(target, false, |world| world.create(target.kind, object.clone(), "OPERATOR"))? {
            Ok(object) => {
                self.learn(target.kind, &object);
                Ok(())
            }
            Err(Refusal::Forbidden(message)) => Err(End::Refused(target.key.name.clone(), message)),
            Err(_) => {
                self.look_again(target);
                Err(End::Stale)
            }
        }
    }

    fn delete(&mut self, target: &Target, uid: &str) -> Result<(), End> {
        // Gone already, or another object by now: the next look tells.
        let _ = self.send(target, false, |world| match target.kind {
            // As `Writer::delete`: the Deployment stays until its last pod is gone.
            Kind::Deployment => world.delete_foreground(target.kind, &target.key, Some(uid), "OPERATOR"),
            _ => world.delete(target.kind, &target.key, Some(uid), "OPERATOR"),
        })?;
        self.look_again(target);
        Ok(())
    }

    fn delete_services(&mut self, namespace: &str, update_uid: &str, services: &[(String, String)]) -> Result<(), End> {
        let target = |name: &str| Target { kind: Kind::Service, key: Key::new(namespace, name) };
        let labelled = format!("/metadata/labels/{}", patch::token(names::UPDATE_UID));
        let found: Vec<Arc<Value>> = self.cluster.world.list(Kind::Service).into_iter().map(|(_, o)| o).collect();
        let found: Vec<_> =
            found.into_iter().filter(|o| text(o, "/metadata/namespace") == namespace && text(o, &labelled) == update_uid).collect();
        let ours = |o: &Arc<Value>| matches!(fact(Kind::Service, o), Fact::Service(s) if is_service_of(&s, update_uid));
        if found.len() < 2 || !found.iter().all(ours) {
            for object in found.iter().filter(|o| ours(o)) {
                self.delete(&target(text(object, "/metadata/name")), text(object, "/metadata/uid"))?;
            }
        } else {
            let keys: Vec<Key> = found.iter().map(|o| key_of(o)).collect();
            let _ = self.send(&target("*"), false, |world| {
                for key in &keys {
                    world.delete(Kind::Service, key, None, "OPERATOR").ok();
                }
                Ok(())
            })?;
        }
        for (name, uid) in services {
            self.operator.index.delete(Kind::Service, &target(name).key, uid);
        }
        Ok(())
    }

    fn check(&mut self, check: &LiveCheck) -> Result<(), End> {
        let (kind, key) = match check {
            LiveCheck::Selector(key, _) => (Kind::Service, key),
            LiveCheck::RouteWithout(key, _) => (Kind::HttpRoute, key),
        };
        let Some(object) = self.cluster.world.at(kind, key).cloned() else { return Err(End::Stale) };
        self.learn(kind, &object);
        let holds = match (check, fact(kind, &object)) {
            (LiveCheck::Selector(_, selector), Fact::Service(service)) => service.selector == *selector,
            (LiveCheck::RouteWithout(_, services), Fact::HttpRoute(route)) => !services.iter().any(|s| names_service(&route, s)),
            _ => false,
        };
        if holds { Ok(()) } else { Err(End::Stale) }
    }

    fn learn(&mut self, kind: Kind, object: &Arc<Value>) {
        self.operator.index.apply(kind, fact(kind, object));
    }

    fn look_again(&mut self, target: &Target) {
        if let Some(object) = self.cluster.world.at(target.kind, &target.key).cloned() {
            self.learn(target.kind, &object);
        } else if let Some(uid) = self.operator.index.uid(target.kind, &target.key) {
            self.operator.index.delete(target.kind, &target.key, &uid);
        }
    }
}

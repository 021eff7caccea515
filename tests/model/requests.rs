//! Requests of the operator: what a plan comes to, as in `rollout::apply` and `cluster::write`, and what goes wrong with them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::{Time, names};
use aether_operator::cluster::facts::{Fact, Key, Kind, Meta};
use aether_operator::cluster::patch;
use aether_operator::rollout::build::Owner;
use aether_operator::rollout::model::{Action, LateCreate, LiveCheck, Plan, Target, Write, is_service_of, late_create};
use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::invariants::{Checker, Violation, ensure};
use super::operator::fact;
use super::sim::Sim;
use super::world::{NS, Objects, Refusal, World, text};
use super::writes::Written;

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
    /// The process stands still right before, another one takes over, and when the first one runs again the write goes out.
    Frozen,
}

pub const FAULTS: [Fault; 6] =
    [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost, Fault::RequestLost, Fault::Conflict, Fault::Frozen];

/// So long an operator has to put right what a write that was held up has done.
const PUT_RIGHT: Duration = Duration::from_secs(30);

/// How a write, or a whole plan, ended.
pub enum End {
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

/// A request of a process that stands still.
pub struct InFlight {
    at: Time,
    /// The update it is for, by key and UID.
    update: (Key, String),
    target: Target,
    status: bool,
    /// What was ordered when it was decided, as each checker remembers it.
    orders: Vec<VecDeque<(Time, Value)>>,
    call: Box<dyn FnOnce(&mut World) -> bool>,
}

/// What such a request has created.
pub struct Late {
    update: (Key, String),
    target: Target,
    made: String,
    looks_at: Time,
}

impl Sim {
    pub fn carry_out(&mut self, plan: &Plan, meta: &Meta) -> Result<(), End> {
        self.at_work = (meta.key(), meta.uid.clone());
        let mut broken = None;
        for action in &plan.actions {
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
        if let Some(status) = &plan.status {
            for check in &plan.live {
                self.check(check)?;
            }
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
            Write::DeleteServices { owner, services } => self.delete_services(owner, services),
        }
    }

    /// One request, and the fault that hits it.
    fn send<T>(
        &mut self,
        target: &Target,
        status: bool,
        call: impl FnOnce(&mut World) -> Result<T, Refusal> + 'static,
    ) -> Result<Result<T, Refusal>, End> {
        let fault = self.strike();
        self.operator.writes += 1;
        if let Some(fault) = fault {
            let number = self.operator.writes - 1;
            // Nor is what was put back before the process could say so.
            let ends = matches!(fault, Fault::CrashAfter | Fault::ReplyLost | Fault::Frozen);
            self.lost += usize::from(status || ends && target.key.name == "web");
            self.cluster.world.note(format!("** {fault:?} at write {number}, {target}"));
        }
        match fault {
            Some(Fault::CrashBefore) => return Err(End::Crashed),
            Some(Fault::RequestLost) => return Err(End::Later),
            Some(Fault::Frozen) => {
                let at = self.thaws_at();
                let call = Box::new(move |world: &mut World| call(world).is_ok());
                let orders = self.checkers.iter().map(|c| c.orders.clone()).collect();
                self.in_flight.push(InFlight { at, update: self.at_work.clone(), target: target.clone(), status, orders, call });
                return Err(End::Crashed);
            }
            Some(Fault::Conflict) => {
                let count = self.operator.writes;
                self.cluster.world.edit(target.kind, &target.key, "somebody", |o| {
                    o["metadata"]["annotations"]["example.org/touched"] = json!(count.to_string());
                });
            }
            _ => {}
        }
        let answer = self.deliver(target, status, call)?;
        match fault {
            Some(Fault::CrashAfter) => Err(End::Crashed),
            Some(Fault::ReplyLost) => Err(End::Later),
            _ => Ok(answer),
        }
    }

    /// A request arrives at the API server: what it does there is judged.
    fn deliver<T>(&mut self, target: &Target, status: bool, call: impl FnOnce(&mut World) -> T) -> Result<T, Violation> {
        ensure(target.key.namespace == NS, "R6", || format!("{target} in namespace {} was written to", target.key.namespace))?;
        let before: Objects = self.cluster.world.objects.clone();
        let answer = call(&mut self.cluster.world);
        let world = &self.cluster.world;
        let gone = before.keys().filter(|id| !world.objects.contains_key(id)).collect::<Vec<_>>();
        let touched: BTreeSet<(Kind, String)> =
            gone.into_iter().map(|(kind, key)| (*kind, key.name.clone())).chain([(target.kind, target.key.name.clone())]).collect();
        for (kind, name) in touched.iter().filter(|(_, name)| name != "*") {
            let written =
                Written { kind: *kind, name, before: &before, after: &world.objects, plane: &self.cluster.plane, now: world.now, status };
            self.checkers.iter_mut().try_for_each(|c| c.judge(&written))?;
        }
        self.checkers.iter_mut().try_for_each(|c| c.look(world, &self.cluster.plane))?;
        Ok(answer)
    }

    /// What a process that stood still sends when it runs again.
    pub fn thaw(&mut self) -> Result<(), Violation> {
        let now = self.cluster.world.now;
        while let Some(at) = self.in_flight.iter().position(|f| f.at <= now) {
            let InFlight { update: (update, of), target, status, orders, call, .. } = self.in_flight.remove(at);
            for (checker, orders) in self.checkers.iter_mut().zip(orders) {
                // It was right when it was sent. That an order is taken back changes no object it could be bound to, so it
                // comes late, and is put right then.
                checker.late = Some((now + PUT_RIGHT, orders));
            }
            self.cluster.world.note(format!("** the write of {target} that was held up goes out"));
            let uid = |world: &World, kind, key| world.at(kind, key).map(|o| text(o, "/metadata/uid").to_owned());
            let before = uid(&self.cluster.world, target.kind, &target.key);
            let excused: &[&'static str] = match target.kind {
                // A step that was decided before somebody ordered otherwise: it is taken back at once.
                Kind::HttpRoute => &["R4"],
                // A version Service that is made too late is taken back before the workload can replace a pod.
                Kind::Service if before.is_none() => &["T3"],
                // A pod that goes out of service is bound to itself alone; who is in service beside it may be others by now.
                Kind::Pod => &["size"],
                _ => &[],
            };
            self.checkers.iter_mut().for_each(|c| c.excuse_until(excused, now + Duration::from_millis(1)));
            // By pods the selector is the weight: a step that was decided before somebody ordered otherwise, as above.
            let is_weight = |c: &&mut Checker| target.kind == Kind::Service && c.by_pods && c.apex == target.key.name;
            let weighed = self.checkers.iter_mut().filter(is_weight);
            weighed.for_each(|c| c.excuse_until(&["R4", "R11", "share"], now + Duration::from_millis(1)));
            let taken = self.deliver(&target, status, call)?;
            let weighed = self.checkers.iter_mut().filter(is_weight);
            weighed.filter(|_| taken).for_each(|c| c.excuse_until(&["R11", "share"], now + PUT_RIGHT));
            self.cluster.world.note(if taken { ".. and is taken" } else { ".. and is refused" });
            if taken && target.kind == Kind::Pod {
                // Another one comes into service instead.
                self.checkers.iter_mut().for_each(|c| c.service.is_hurt(now));
            }
            if taken && target.kind == Kind::Pod && uid(&self.cluster.world, Kind::RollingUpdate, &update).is_none_or(|u| u != of) {
                // A label that nothing selects, and nobody is there to take it away; it goes with its pod.
                for checker in &mut self.checkers {
                    checker.strays.insert(target.key.name.clone());
                }
            }
            if let Some(made) = uid(&self.cluster.world, target.kind, &target.key).filter(|_| before.is_none()) {
                self.late.push(Late { update: (update, of), target, made, looks_at: now });
            }
        }
        self.take_back()
    }

    /// As `Writer::take_back`: what was created too late stays, waits or goes.
    fn take_back(&mut self) -> Result<(), Violation> {
        let now = self.cluster.world.now;
        for late in std::mem::take(&mut self.late) {
            let Late { update: (key, uid), target, made, looks_at } = &late;
            let update = self.cluster.world.at(Kind::RollingUpdate, key).filter(|u| text(u, "/metadata/uid") == uid);
            let status = update.map(|u| serde_json::from_value(u["status"].clone()).unwrap_or_default());
            match late_create(status.as_ref(), target) {
                _ if *looks_at > now => self.late.push(late),
                LateCreate::Stays => {}
                LateCreate::Waits => {
                    let again = Duration::from_secs(2);
                    self.checkers.iter_mut().for_each(|c| c.excuse_until(&["T3"], now + again + Duration::from_millis(1)));
                    self.late.push(Late { looks_at: now + again, ..late });
                }
                LateCreate::Goes => {
                    let (kind, key, made) = (target.kind, target.key.clone(), made.clone());
                    self.cluster.world.note(format!("** {target} came too late and is taken back"));
                    let _ = self.deliver(target, false, move |world| delete(world, kind, &key, &made))?;
                }
            }
        }
        Ok(())
    }

    fn patch(&mut self, target: &Target, ops: &[PatchOperation], status: bool) -> Result<(), End> {
        let (at, what) = (target.clone(), ops.to_vec());
        match self.send(target, status, move |world| world.patch(at.kind, &at.key, &what, status, "OPERATOR"))? {
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
        let (kind, what) = (target.kind, object.clone());
        match self.send(target, false, move |world| world.create(kind, what, "OPERATOR"))? {
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
        let (at, uid) = (target.clone(), uid.to_owned());
        let _ = self.send(target, false, move |world| delete(world, at.kind, &at.key, &uid))?;
        self.look_again(target);
        Ok(())
    }

    fn delete_services(&mut self, owner: &Owner, services: &[(String, String)]) -> Result<(), End> {
        let target = |name: &str| Target { kind: Kind::Service, key: Key::new(&owner.namespace, name) };
        let Owner { namespace, uid, release, .. } = owner.clone();
        let labelled = format!("/metadata/labels/{}", patch::token(names::RELEASE));
        let is_found = move |key: &Key, o: &Value| key.namespace == namespace && text(o, &labelled) == release;
        let found: Vec<_> = self.cluster.world.list(Kind::Service).into_iter().filter(|(key, o)| is_found(key, o)).collect();
        let ours = |o: &Arc<Value>| matches!(fact(Kind::Service, o), Fact::Service(s) if is_service_of(&s, &uid));
        if found.len() < 2 || !found.iter().all(|(_, o)| ours(o)) {
            for (key, object) in found.iter().filter(|(_, o)| ours(o)) {
                self.delete(&target(&key.name), text(object, "/metadata/uid"))?;
            }
        } else {
            // A collection is deleted by what its label finds when the request arrives.
            let _ = self.send(&target("*"), false, move |world| {
                for (key, _) in world.list(Kind::Service).into_iter().filter(|(key, o)| is_found(key, o)) {
                    world.delete(Kind::Service, &key, None, "OPERATOR").ok();
                }
                Ok(())
            })?;
        }
        for (name, uid) in services {
            if found.iter().any(|(key, _)| key.name == *name) {
                self.operator.index.delete(Kind::Service, &target(name).key, uid);
            } else {
                self.delete(&target(name), uid)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, check: &LiveCheck) -> Result<(), End> {
        let Target { kind, key } = check.target();
        let found = self.cluster.world.at(kind, &key).cloned();
        if let Some(object) = &found {
            self.learn(kind, object);
        }
        if check.holds(found.map(|object| fact(kind, &object)).as_ref()) { Ok(()) } else { Err(End::Stale) }
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

/// As `Writer::delete`: a Deployment stays until its last pod is gone.
fn delete(world: &mut World, kind: Kind, key: &Key, uid: &str) -> Result<(), Refusal> {
    match kind {
        Kind::Deployment => world.delete_foreground(kind, key, Some(uid), "OPERATOR"),
        _ => world.delete(kind, key, Some(uid), "OPERATOR"),
    }
}

//! Somebody who undoes what an update stands on, again and again.

use std::time::Duration;

use aether_operator::api::{State, Time, conditions};
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::{Value, json};

use super::invariants::{Checked, Checker, ensure};
use super::sim::{Sim, UPDATE, reason_of};
use super::truth;
use super::world::{NS, Objects, World, is_deleting, items, millis, stamp, text};

/// What is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undoes {
    /// The routes say again what their author wrote.
    Weights,
    /// The Service selects again what its author wrote.
    Pin,
    /// The workload is not paused.
    Pause,
}

/// A tool that does not know of the update.
#[derive(Clone, Copy, Debug)]
pub struct Meddler {
    pub undoes: Undoes,
    /// Milliseconds between two looks.
    pub every: u64,
    /// So often at most.
    pub times: usize,
}

/// So long the operator has to put it back; what it gives in to stays undone until the rollback is over.
const PUT_BACK: u64 = 3000;
const GIVES_IN: u64 = 30_000;

/// How often it was put back so far.
fn told(world: &World) -> usize {
    truth::find(&world.objects, Kind::RollingUpdate, UPDATE).map_or(0, |u| items(u, "/status/interference").count())
}

/// It was given in.
fn has_given_in(world: &World) -> bool {
    let update = truth::find(&world.objects, Kind::RollingUpdate, UPDATE).map(AsRef::as_ref);
    reason_of(update) == conditions::CONFLICTING_MANAGER
}

/// So often, and within this time, is a fight.
const GIVES_IN_AT: usize = 3;
const FIGHT: Duration = Duration::from_mins(5);

/// Whether a route names a version of the update.
fn names_a_version(objects: &Objects, route: &Value) -> bool {
    let is_version = |name: &str| truth::find(objects, Kind::Service, name).is_some_and(|s| truth::is_version_service_of(s, UPDATE));
    items(route, "/spec/rules").flat_map(|rule| items(rule, "/backendRefs")).any(|b| is_version(text(b, "/name")))
}

impl Sim {
    /// Undoes what there is to undo, when its time has come and an update is on.
    pub fn meddle(&mut self) -> Checked {
        let now = self.cluster.world.now;
        let Some(meddler) = &mut self.scenario.meddler else { return Ok(()) };
        let active = self.checkers[0].state(&self.cluster.world.objects).is_active();
        if self.checkers[0].state(&self.cluster.world.objects) == State::RollingBack && has_given_in(&self.cluster.world) {
            // In the next attempt one more is enough.
            self.meddled.drain(..self.meddled.len().saturating_sub(GIVES_IN_AT - 1));
        }
        let there = truth::find(&self.cluster.world.objects, Kind::RollingUpdate, UPDATE).is_some_and(|u| !is_deleting(u));
        if meddler.times == 0 || !active || !there || now < self.meddles_at {
            return Ok(());
        }
        self.meddles_at = now + millis(meddler.every);
        let world = &mut self.cluster.world;
        let key = Key::new(NS, "web");
        let fields = json!([{"manager": "gitops", "operation": "Apply", "time": stamp(now)}]);
        let (kind, path, wanted, harm): (_, _, _, &[&'static str]) = match meddler.undoes {
            Undoes::Weights => (Kind::HttpRoute, "rules", self.checkers[0].users_rules.get("web").cloned().unwrap_or_default(), &[]),
            Undoes::Pin => (Kind::Service, "selector", json!(self.checkers[0].users_selector), &["R11", "share", "pin"]),
            Undoes::Pause => (Kind::Deployment, "paused", json!(false), &["T3"]),
        };
        let is_so = world.at(kind, &key).is_none_or(|o| o["spec"].get(path).unwrap_or(&json!(false)) == &wanted);
        if is_so {
            return Ok(());
        }
        // Before that nobody can tell that it was there already.
        let state = self.checkers[0].state(&world.objects);
        let made = truth::find(&world.objects, Kind::Deployment, "web-2-0-0").is_some();
        // A route may be shared: what another update has there is no affair of this one.
        let stood_on = match meddler.undoes {
            Undoes::Weights => world.at(kind, &key).is_some_and(|route| names_a_version(&world.objects, route)),
            Undoes::Pin | Undoes::Pause => true,
        };
        let lately = |meddled: &[Time]| meddled.iter().filter(|at| **at + FIGHT > now).count();
        // When the old version has gone there is nothing to give in to: it is put back, and two such times are kept in mind.
        let retired = state == State::Completing && Checker::wanted(&world.objects, &self.checkers[0].live) == 0;
        let is_kept = stood_on && (!retired || lately(&self.meddled) < GIVES_IN_AT - 1);
        // On the way back it is put back for as long as it takes.
        if made && is_kept && state != State::RollingBack && (state != State::Deploying || meddler.undoes != Undoes::Weights) {
            self.meddled.push(now);
        }
        let lately = lately(&self.meddled);
        // What could not be recorded is not known to the next process.
        ensure(lately <= GIVES_IN_AT + self.lost || state == State::RollingBack, "fight", || {
            format!("{:?} was put back {GIVES_IN_AT} times within {FIGHT:?}, and it goes on in {state}", meddler.undoes)
        })?;
        world.edit(kind, &key, "gitops", |o| {
            if wanted == json!(false) {
                o["spec"].as_object_mut().unwrap().remove(path);
            } else {
                o["spec"][path] = wanted.clone();
            }
            o["metadata"]["managedFields"] = fields.clone();
        });
        meddler.times -= 1;
        let fights = self.checkers[0].state(&world.objects) == State::RollingBack || told(world) >= 2;
        let rolls = meddler.undoes == Undoes::Pause;
        self.checkers[0].excuse(harm, now + millis(if fights || rolls { GIVES_IN } else { PUT_BACK }));
        self.checkers[0].excuse(if fights { &["drain"] } else { &[] }, now + millis(GIVES_IN));
        self.unheard = Some((kind, harm));
        Ok(())
    }

    /// Until an operator runs that has heard of it, what was undone cannot be put back.
    pub fn wait_for_news(&mut self) {
        let Some((kind, harm)) = self.unheard else { return };
        let (key, world) = (Key::new(NS, "web"), &self.cluster.world);
        let now = world.at(kind, &key).map(|o| text(o, "/metadata/resourceVersion"));
        let heard = self.operator.index.version(kind, &key).map(|(_, version)| version);
        if self.operator.down_until.is_none() && heard.as_deref() == now {
            self.unheard = None;
        } else {
            let until = world.now + millis(PUT_BACK);
            self.checkers[0].excuse_until(harm, until);
        }
    }
}

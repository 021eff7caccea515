//! What people do in the middle of a run.

use std::time::Duration;

use aether_operator::api::Time;
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::{Value, json};

use super::invariants::ALL;
use super::scenario::{Act, When};
use super::sim::{Sim, UPDATE, reason_of};
use super::truth::{self, version_of};
use super::world::{NS, is_ready, millis, stamp, text};

impl Sim {
    /// What people do when its time has come.
    pub fn people(&mut self) {
        while let Some((when, act)) = self.scenario.script.get(self.script).cloned() {
            let now = self.cluster.world.now;
            let update = truth::find(&self.cluster.world.objects, Kind::RollingUpdate, UPDATE).map(AsRef::as_ref);
            let says = |path: &str, wanted: &str| update.is_some_and(|u| text(u, path) == wanted);
            let (reached, after) = match when {
                When::State(state, after) => (says("/status/state", state.as_str()), after),
                When::Routing(ratio, after) => (says("/status/routing", ratio), after),
                When::Reason(reason, after) => (reason_of(update) == reason, after),
                When::After(after) => (true, after),
            };
            if !reached {
                self.since = now;
                return;
            }
            if now < self.since + millis(after) {
                return;
            }
            self.since = now;
            self.script += 1;
            self.act_of_people(act);
        }
    }

    fn act_of_people(&mut self, act: Act) {
        let gone = truth::find(&self.cluster.world.objects, Kind::RollingUpdate, UPDATE).is_none();
        self.checkers[0].unattended |= gone && matches!(act, Act::Edit(..) | Act::Restore(..));
        let (world, update) = (&mut self.cluster.world, Key::new(NS, UPDATE));
        match act {
            Act::Spec(changes) => {
                world.edit(Kind::RollingUpdate, &update, "user", |u| merge(&mut u["spec"], &changes));
            }
            Act::Edit(kind, name, changes) => {
                let now = stamp(world.now);
                world.edit(kind, &Key::new(NS, name), "user", |o| {
                    merge(o, &changes);
                    o["metadata"]["managedFields"] = json!([{"manager": "user", "operation": "Update", "time": now}]);
                });
            }
            Act::Change(kind, name, change) => self.change(kind, name, change),
            Act::Remove(kind, name) => {
                if world.delete(kind, &Key::new(NS, name), None, "user").is_ok() && kind == Kind::Deployment {
                    self.checkers.iter_mut().for_each(|c| c.deleted.extend([name.to_owned()]));
                }
            }
            Act::Restore(kind, name) => drop(world.create(kind, self.scenario.object(kind, name).unwrap(), "user")),
            Act::Doom => {
                self.checkers.iter_mut().for_each(|c| c.excuse(&[ALL], Time::MAX_UTC));
                world.doom();
            }
            Act::Gateway(manner) => self.cluster.turn_gateway(manner),
            Act::Delete => drop(world.delete(Kind::RollingUpdate, &update, None, "user")),
            Act::Kill(version, count) => {
                let pods =
                    world.list(Kind::Pod).into_iter().filter(|(key, p)| key.namespace == NS && version_of(p) == version && is_ready(p));
                for (key, _) in pods.take(count).collect::<Vec<_>>() {
                    world.delete(Kind::Pod, &key, None, "user").ok();
                }
            }
            Act::Excuse(names, ms) => {
                let until = world.now + Duration::from_millis(ms);
                self.checkers.iter_mut().for_each(|c| c.excuse(names, until));
            }
            Act::Allow => world.refused.clear(),
            Act::Look => {}
        }
    }
}

impl Sim {
    fn change(&mut self, kind: Kind, name: &str, change: fn(&mut Value)) {
        self.cluster.world.edit(kind, &Key::new(NS, name), "user", change);
        for checker in self.checkers.iter_mut().filter(|_| kind == Kind::HttpRoute) {
            if let Some(rules) = checker.users_rules.get_mut(name) {
                let mut route = json!({"spec": {"rules": rules.take()}});
                change(&mut route);
                *rules = route["spec"]["rules"].take();
            }
        }
    }
}

/// JSON merge patch.
pub fn merge(into: &mut Value, changes: &Value) {
    let Some(changes) = changes.as_object() else {
        *into = changes.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let map = into.as_object_mut().unwrap();
    for (key, value) in changes {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

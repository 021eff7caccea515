//! What a write of the operator may do, judged from the world around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::{State, Time, names};
use aether_operator::cluster::facts::Kind;
use serde_json::{Value, json};

use super::gateway::Plane;
use super::invariants::{Checked, Checker, ensure};
use super::truth::{self, Shares, find, picked, revision_of, revisions_picked};
use super::world::{Objects, int, is_deleting, is_ready, items, strings, text};

/// One write of the operator, and the world around it.
pub struct Written<'a> {
    pub kind: Kind,
    pub name: &'a str,
    pub before: &'a Objects,
    pub after: &'a Objects,
    pub plane: &'a Plane,
    pub now: Time,
    pub status: bool,
}

impl Checker {
    /// Judges a write of the operator.
    pub fn judge(&mut self, w: &Written<'_>) -> Checked {
        let (old, new) = (find(w.before, w.kind, w.name), find(w.after, w.kind, w.name));
        if let (None, Some(new)) = (old, new) {
            self.made.insert(text(new, "/metadata/uid").to_owned());
            let app = self.apps.iter().find(|app| w.kind == Kind::Service && truth::is_version_service_of(new, app));
            self.version_services.extend(app.map(|app| (w.name.to_owned(), app.clone())));
        }
        self.unless_excused(self.only_ours(w, old, new), w.now)?;
        let checked = match w.kind {
            Kind::RollingUpdate => self.states(w, old, new),
            Kind::Deployment if old.is_none() => new.map_or(Ok(()), |new| self.birth(w, new)),
            Kind::Deployment => self.capacity(w, old, new),
            Kind::Service if w.name == self.apex && self.by_pods => self.selector(w).and_then(|()| self.enlisting(w)),
            Kind::Service if w.name == self.apex => self.selector(w),
            Kind::Pod if self.by_pods => self.enlisting(w),
            Kind::HttpRoute => self.weights(w),
            _ => Ok(()),
        };
        self.unless_excused(checked, w.now)
    }

    /// R6, R8: what is written to, and which fields of it.
    fn only_ours(&self, w: &Written<'_>, old: Option<&Arc<Value>>, new: Option<&Arc<Value>>) -> Checked {
        let (what, ours) = (format!("{} {}", w.kind.gvk().2, w.name), |o: &Value| self.made.contains(text(o, "/metadata/uid")));
        match (old, new) {
            (Some(old), new) if new.is_none_or(|n| is_deleting(n) && !is_deleting(old)) => {
                let done = w.kind == Kind::RollingUpdate && new.is_none();
                ensure(done || ours(old), "R6", || format!("{what} was deleted, and was not made by the operator"))
            }
            (Some(old), Some(_)) if ours(old) => Ok(()),
            (Some(old), Some(new)) => {
                let mut stripped = [(**old).clone(), (**new).clone()];
                for object in &mut stripped {
                    let meta = object["metadata"].as_object_mut().unwrap();
                    meta.retain(|k, _| k != "resourceVersion" && k != "generation");
                    meta.retain(|k, _| !(k == "finalizers" && w.kind == Kind::RollingUpdate));
                    if let Some(notes) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
                        notes.retain(|k, _| !k.starts_with("aether.dev/"));
                    }
                    meta.retain(|k, v| k != "annotations" || v.as_object().is_some_and(|a| !a.is_empty()));
                    match w.kind {
                        Kind::RollingUpdate if w.status => object["status"] = Value::Null,
                        Kind::Pod if self.is_ours(old) => forget_label(object, "/metadata/labels"),
                        Kind::ReplicaSet if self.is_ours(old) => forget_label(object, "/spec/template/metadata/labels"),
                        Kind::Deployment if self.apps.contains(w.name) => {
                            let spec = object["spec"].as_object_mut().unwrap();
                            spec.retain(|k, _| k != "paused" && k != "replicas");
                        }
                        Kind::Service if self.apps.contains(w.name) => object["spec"]["selector"] = Value::Null,
                        Kind::HttpRoute if self.users_rules.contains_key(w.name) => {
                            for rule in object["spec"]["rules"].as_array_mut().unwrap() {
                                rule["backendRefs"] = self.without_versions(w, &rule["backendRefs"]);
                            }
                        }
                        _ => {}
                    }
                }
                let [old, new] = stripped;
                let name = if w.kind == Kind::RollingUpdate { "R8" } else { "R6" };
                ensure(old == new, name, || format!("{what} was changed where it is not the operator's: {old} -> {new}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a pod or a ReplicaSet belongs to a workload with updates in Pods mode.
    fn is_ours(&self, object: &Value) -> bool {
        // Those of another workload are its own checker's.
        self.apps.iter().any(|app| truth::is_part_of(object, app) && (self.by_pods || *app != self.workload))
    }

    /// Backends with the version Services folded into the apex and without weights: what is the user's.
    fn without_versions(&self, w: &Written<'_>, backends: &Value) -> Value {
        let mut folded: Vec<Value> = Vec::new();
        for backend in items(backends, "") {
            let mut backend = backend.clone();
            // Also of one that somebody has just deleted.
            if let Some(app) = self.version_services.get(text(&backend, "/name")).filter(|_| Self::is_known(w, &backend)) {
                backend["name"] = json!(app);
            }
            backend["weight"] = Value::Null;
            if folded.last() != Some(&backend) {
                folded.push(backend);
            }
        }
        json!(folded)
    }

    /// People may have a Service of such a name too; then it is no version's.
    fn is_known(w: &Written<'_>, backend: &Value) -> bool {
        let service = find(w.before, Kind::Service, text(backend, "/name"));
        service.is_none_or(|s| truth::is_operators_service(s))
    }

    /// R5, and that what an end state says is true.
    fn states(&mut self, w: &Written<'_>, old: Option<&Arc<Value>>, new: Option<&Arc<Value>>) -> Checked {
        let (Some(old), Some(new)) = (old, new) else { return Ok(()) };
        let state = |u: &Value| serde_json::from_value::<State>(u["status"]["state"].clone()).unwrap_or_default();
        let (from, to) = (state(old), state(new));
        ensure(aether_operator::rollout::transitions::is_legal(from, to), "R5", || format!("{} went from {from} to {to}", w.name))?;
        if from == to || w.name != self.update {
            return Ok(());
        }
        if to == State::Deploying {
            // A release that starts while there is no route, because somebody has deleted it, goes by pods to its end.
            let unrouted = self.unrouted.is_some_and(|at| w.now <= at + self.slack);
            self.by_pods = text(new, "/status/objects/mode") == "Pods" && (unrouted || self.by_pods);
        }
        let kept = text(new, "/spec/cleanupPolicy") == "MANUAL";
        let there =
            |version: &str| truth::all(w.after, Kind::Pod).any(|(_, p)| revision_of(p) == version && truth::is_part_of(p, &self.workload));
        let brought_out = self.brought_out(new);
        if to == State::Completed && brought_out != self.live {
            let winner = brought_out.clone();
            let loser = std::mem::replace(&mut self.live, winner.clone());
            ensure(kept || !there(&loser), "end", || format!("COMPLETED, and pods of {loser} are there"))?;
            let gone = find(w.after, Kind::Service, &self.apex).is_none() || self.deleted.contains(&winner);
            ensure(gone || revisions_picked(w.after, &self.apex).contains(&winner), "end", || {
                format!("COMPLETED, and callers do not reach {winner}")
            })?;
        }
        if matches!(to, State::RolledBack | State::Failed) {
            let loser = &brought_out;
            ensure(*loser == self.live || !there(loser), "end", || format!("{to}, and pods of {loser} are there"))?;
        }
        Ok(())
    }

    /// The revision that an update brings out, by its record.
    pub fn brought_out(&self, update: &Value) -> String {
        let name = text(update, "/status/objects/newRevision");
        if name == self.workload { self.first.clone() } else { name.to_owned() }
    }

    /// R2 and "down: weight, confirmed, drain, then capacity", for either version.
    fn capacity(&self, w: &Written<'_>, old: Option<&Arc<Value>>, new: Option<&Arc<Value>>) -> Checked {
        let Some(old) = old.filter(|d| text(d, "/spec/template/metadata/labels/app") == self.workload) else { return Ok(()) };
        let size = |d: Option<&Arc<Value>>| d.filter(|d| !is_deleting(d)).map_or(0, |d| int(d, "/spec/replicas"));
        if size(new) >= size(Some(old)) {
            return Ok(());
        }
        let (version, state) = (truth::revision_run(w.before, old), self.state(w.before));
        if version == self.live && state.is_terminal() && self.is_asked_for(w, size(new)) {
            return Ok(());
        }
        if version == self.live {
            ensure(state == State::Completing, "R2", || format!("{} of live version {version} was shrunk in {state}", w.name))?;
        }
        for (rule, shares) in truth::shares(w.before, &self.apex) {
            ensure(shares.of(version) == 0, "R2", || format!("{} was shrunk while rule {rule:?} sends it {shares:?}", w.name))?;
        }
        ensure(!revisions_picked(w.before, &self.apex).contains(version), "R2", || format!("{} was shrunk behind the apex", w.name))?;
        if let Some(reached) = self.reached.get(version) {
            let quiet = (w.now - *reached).to_std().unwrap_or_default();
            let drain = self.drain_of(version, truth::shares(w.before, &self.apex).is_empty());
            ensure(quiet >= drain, "drain", || {
                format!("{} was shrunk {quiet:?} after traffic could last reach {version}; drain is {drain:?}", w.name)
            })?;
        }
        Ok(())
    }

    /// At rest the live version has the size that is asked for, once an autoscaler has had the time to see all of its traffic.
    fn is_asked_for(&self, w: &Written<'_>, size: i64) -> bool {
        let Some(update) = find(w.before, Kind::RollingUpdate, &self.update) else { return false };
        let rested = text(update, "/status/stateSince").parse::<Time>().is_ok_and(|since| since + Duration::from_mins(1) <= w.now);
        let asked = self.orders.iter().any(|(_, spec)| int(spec, "/instances") == size);
        size > 0 && asked && rested
    }

    /// In Pods mode kept-alive callers leave only when the pods do, so a version that goes back does not wait for them.
    /// And the time that kube-proxy takes is part of it.
    /// So it is where nobody has a route any more.
    fn drain_of(&self, version: &str, unrouted: bool) -> Duration {
        let drain = if self.by_pods && version != self.live { self.settle } else { self.drain };
        if self.by_pods || unrouted { drain.saturating_sub(self.proxy) } else { drain }
    }

    /// The pin changes nothing, the flip comes after x:0 is in force, and nobody is left without endpoints.
    fn selector(&self, w: &Written<'_>) -> Checked {
        let names = |objects| -> BTreeSet<String> {
            picked(objects, &self.apex).into_iter().filter(|p| is_ready(p)).map(|p| text(p, "/metadata/name").to_owned()).collect()
        };
        let (before, after) = (names(w.before), names(w.after));
        let selector = |objects| find(objects, Kind::Service, &self.apex).map(|s| strings(s, "/spec/selector")).unwrap_or_default();
        let (old, new) = (selector(w.before), selector(w.after));
        if old == new {
            return Ok(());
        }
        let whole = |s: &BTreeMap<String, String>| *s == self.users_selector;
        if whole(&old) || whole(&new) {
            return ensure(before.is_empty() || before == after, "pin", || {
                format!("{old:?} -> {new:?} changed the endpoints from {before:?} to {after:?}")
            });
        }
        let to = truth::revision_behind(w.after, &self.apex).unwrap_or_default();
        if to != self.live && !self.by_pods {
            for (rule, shares) in truth::shares(w.before, &self.apex) {
                let forced = self.in_force(w, &rule);
                // What nobody has split yet, such as a rule that was just added, goes along when x:0 is on record.
                let unsplit = truth::names_apex_only(w.before, &rule, &self.apex) && self.on_record().is_all_new();
                let done = |s: &Shares| s.total() == 0 || s.of(&self.live) == 0 || unsplit;
                ensure(done(&shares) && forced.as_ref().is_none_or(done), "flip", || {
                    format!("the apex went to {to} while rule {rule:?} says {shares:?}, in force is {forced:?}")
                })?;
            }
        }
        Ok(())
    }

    fn in_force(&self, w: &Written<'_>, (route, rule): &(String, usize)) -> Option<Shares> {
        let backends = w.plane.routing.get(route)?.get(*rule)?;
        truth::of_backends(w.before, &self.apex, backends.iter().map(|b| (b.service.as_str(), b.weight)))
    }

    /// R1, R3, R4 and "confirmed and settled first", for every rise of a version that is not live.
    fn weights(&self, w: &Written<'_>) -> Checked {
        let before = truth::shares(w.before, &self.apex);
        for (rule, now) in truth::shares(w.after, &self.apex) {
            let Some(was) = before.get(&rule) else { continue };
            if !now.rises_from(was, &self.live) {
                continue;
            }
            self.rise(w, &rule, was, &now)?;
        }
        Ok(())
    }

    fn rise(&self, w: &Written<'_>, rule: &(String, usize), was: &Shares, now: &Shares) -> Checked {
        let state = self.state(w.before);
        let back = matches!(state, State::RollingBack | State::RolledBack | State::Failed);
        ensure(!back, "R3", || format!("{rule:?} rose to {now:?} in {state}"))?;
        ensure(matches!(state, State::Deployed | State::Routing), "R4", || format!("{rule:?} rose to {now:?} in {state}"))?;
        let forced = self.in_force(w, rule);
        if forced.as_ref().is_some_and(|f| f.is_as(now)) {
            // What is in force is only written down again.
            return Ok(());
        }
        // A rule that nobody knows yet, or that somebody has just written, is born with what is on record.
        let is_new = forced.is_none() || truth::names_apex_only(w.before, rule, &self.apex);
        // A step that one route carries already was decided; the others follow without another verdict.
        let begun =
            truth::shares(w.before, &self.apex).iter().any(|((route, _), s)| *route != rule.0 && s.not_of(&self.live) > 0 && s.is_as(now));
        if is_new && (now.is_at_most(&self.live, self.on_record()) || (forced.is_none() && begun)) {
            return Ok(());
        }
        ensure(forced.as_ref().is_some_and(|f| f.is_as(was)), "settle", || {
            format!("{rule:?} rose to {now:?} while {forced:?} was in force, not yet {was:?}")
        })?;
        let new = now.revisions.keys().find(|v| **v != self.live).cloned().unwrap_or_default();
        let all = usize::try_from(find_version(w.after, &new).map_or(1, |d| int(d, "/spec/replicas"))).unwrap();
        let needed = (usize::try_from(now.not_of(&self.live)).unwrap() * all).div_ceil(usize::try_from(now.total()).unwrap());
        let ready = self.ready_lately(&new);
        ensure(ready >= needed.max(1), "R1", || {
            format!("{rule:?} rose to {now:?} with {ready} of {all} endpoints ready, {needed} needed")
        })?;
        ensure(begun || self.is_decided(ready >= all, |ratio| now.is_at_most(&self.live, ratio)), "R4", || {
            format!("{rule:?} rose to {now:?} with {ready} of {all} ready, and nobody has ordered it")
        })
    }

    /// A version starts with as many pods as are asked for, or as many as the old one has.
    fn birth(&self, w: &Written<'_>, new: &Value) -> Checked {
        if text(new, "/spec/template/metadata/labels/app") != self.workload {
            return Ok(());
        }
        let lately = self.orders.iter().map(|(_, spec)| spec["instances"].as_i64());
        let whole = Self::wanted(w.before, &self.live).min(self.service.size);
        let asked = lately.map(|n| n.unwrap_or(i64::try_from(whole).unwrap())).min().unwrap_or_default();
        let size = int(new, "/spec/replicas");
        ensure(size >= asked, "birth", || format!("{} is made with {size} pods, {asked} are needed", w.name))
    }
}

fn forget_label(object: &mut Value, path: &str) {
    if let Some(labels) = object.pointer_mut(path).and_then(Value::as_object_mut) {
        labels.remove(names::SERVING);
    }
}

pub fn find_version<'a>(objects: &'a Objects, version: &str) -> Option<&'a Value> {
    truth::all(objects, Kind::Deployment)
        .map(|(_, d)| d)
        .find(|d| truth::revision_run(objects, d) == version && int(d, "/spec/replicas") > 0)
}

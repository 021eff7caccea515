//! How it must be when all is over and quiet.

use aether_operator::api::names;
use aether_operator::cluster::facts::Kind;
use serde_json::Value;

use super::invariants::{Checked, Checker, ensure};
use super::truth::{self, find, revision_of, revisions_picked};
use super::world::{Objects, int, strings, text};

impl Checker {
    /// How it must be when all is over and quiet.
    pub fn at_rest(&self, objects: &Objects, keeps_pin: bool, keeps_pause: bool) -> Checked {
        self.no_labels(objects)?;
        for (name, rules) in &self.users_rules {
            let now = find(objects, Kind::HttpRoute, name).map(|r| r["spec"]["rules"].clone());
            ensure(now.as_ref() == Some(rules), "leftovers", || format!("route {name} was {rules}, is {now:?}"))?;
        }
        let selector = find(objects, Kind::Service, &self.apex).map(|s| strings(s, "/spec/selector")).unwrap_or_default();
        ensure(keeps_pin || selector == self.users_selector, "leftovers", || format!("the apex selects {selector:?}"))?;
        for (name, service) in truth::all(objects, Kind::Service) {
            let ours = truth::is_operators_service(service) && self.made.contains(text(service, "/metadata/uid"));
            ensure(!ours, "leftovers", || format!("Service {name} is left"))?;
        }
        for ((kind, key), object) in objects {
            let notes = strings(object, "/metadata/annotations");
            let fenced = notes.contains_key(names::FENCE) && !keeps_pause && !is_adopted(objects, object);
            ensure(!fenced || keeps_pin, "leftovers", || format!("{} {key} is still marked", kind.gvk().2))?;
            // Where another one is live it only says what scaling up would bring back, or has brought back.
            let elsewhere = notes.get(names::LIVE_REVISION).is_some_and(|live| *live != key.name);
            let held = object.pointer("/spec/paused").is_some() || !elsewhere;
            let kept = notes.contains_key(names::PAUSED_TEMPLATE)
                && !keeps_pause
                && held
                && int(object, "/spec/replicas") > 0
                && !is_adopted(objects, object);
            ensure(!kept, "leftovers", || format!("{} {key} still carries {:?}", kind.gvk().2, notes.keys()))?;
        }
        for (name, deployment) in truth::all(objects, Kind::Deployment) {
            let here = text(deployment, "/spec/template/metadata/labels/app") == self.workload;
            let lost = here && self.made.contains(text(deployment, "/metadata/uid")) && revision_of(deployment) != self.live;
            ensure(!lost || keeps_pin, "leftovers", || format!("Deployment {name} is left; {} is live", self.live))?;
        }
        let workload = find(objects, Kind::Deployment, &self.workload);
        let may_pause = |w: &Value| w.pointer("/spec/paused").is_none() || is_adopted(objects, w);
        ensure(keeps_pause || workload.is_none_or(|w| may_pause(w)), "leftovers", || "the workload is left paused".into())?;
        let behind = revisions_picked(objects, &self.apex);
        if self.deleted.contains(&self.live) && find(objects, Kind::Deployment, &self.live).is_none() {
            // A person is needed, and no pin keeps out whatever serves instead.
            let update = find(objects, Kind::RollingUpdate, &self.update).map(AsRef::as_ref);
            let said = ["LiveVersionGone", "NewVersionGone", "WorkloadNotStable"].contains(&super::sim::reason_of(update));
            let pinned = selector != self.users_selector;
            ensure(update.is_none() || (said && !pinned), "leftovers", || {
                format!("{} was deleted, and it is not said: {}, {selector:?}", self.live, super::sim::reason_of(update))
            })?;
            return Ok(());
        }
        // What people did when nobody was there to see it is theirs.
        let own = |v: &String| *v == self.live || (self.unattended && *v == self.first);
        ensure(behind.contains(&self.live) && behind.iter().all(own), "leftovers", || {
            format!("behind the apex is {behind:?}, live is {}", self.live)
        })
    }

    /// Pods mode leaves no label behind, and no Deployment of ours held.
    fn no_labels(&self, objects: &Objects) -> Checked {
        for (name, pod) in truth::all(objects, Kind::Pod) {
            ensure(!truth::serves(pod) || self.strays.contains(name), "leftovers", || {
                format!("pod {name} still carries the serving label")
            })?;
        }
        // One without pods is history, and no Deployment goes back to it: its template is nobody's.
        for (name, set) in truth::all(objects, Kind::ReplicaSet).filter(|(_, s)| int(s, "/spec/replicas") > 0) {
            ensure(!truth::is_born_serving(set), "leftovers", || format!("pods of ReplicaSet {name} are still born in service"))?;
        }
        for (name, deployment) in truth::all(objects, Kind::Deployment) {
            let held = self.made.contains(text(deployment, "/metadata/uid")) && deployment.pointer("/spec/paused").is_some();
            ensure(!held, "leftovers", || format!("Deployment {name} is left paused"))?;
        }
        Ok(())
    }
}

/// The workload is in the care of an update that is there.
fn is_adopted(objects: &Objects, workload: &Value) -> bool {
    strings(workload, "/metadata/annotations").get(names::ADOPTED).is_some_and(|by| find(objects, Kind::RollingUpdate, by).is_some())
}

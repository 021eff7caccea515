//! What is so, read from the world and from nothing the operator says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aether_operator::api::{Ratio, names};
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::Value;

use super::controllers::tag;
use super::world::{NS, Objects, at, int, items, owner_uids, selects, strings, text};

pub fn find<'a>(objects: &'a Objects, kind: Kind, name: &str) -> Option<&'a Arc<Value>> {
    objects.get(&(kind, Key::new(NS, name)))
}

pub fn all(objects: &Objects, kind: Kind) -> impl Iterator<Item = (&str, &Value)> {
    let from = objects.range((kind, Key::new(NS, ""))..);
    from.take_while(move |((k, key), _)| *k == kind && key.namespace == NS).map(|((_, key), o)| (key.name.as_str(), &**o))
}

/// The version a pod or a Deployment's template runs.
pub fn version_of(object: &Value) -> &str {
    tag(at(object, "/spec/template/spec").unwrap_or(&object["spec"]))
}

/// What tells it from every other that comes out under the same workload, the same version again too: the label that the
/// operator's Deployments give their pods; of the user's own, the version.
pub fn revision_of(object: &Value) -> &str {
    let labels = at(object, "/spec/template/metadata/labels").or_else(|| at(object, "/metadata/labels"));
    let revision = labels.and_then(|l| l.get(names::REVISION)).and_then(Value::as_str);
    revision.unwrap_or_else(|| version_of(object))
}

/// What the Deployment's pods run; its template may have been edited since.
pub fn revision_run<'a>(objects: &'a Objects, deployment: &'a Value) -> &'a str {
    let uid = text(deployment, "/metadata/uid");
    let mut filled =
        all(objects, Kind::ReplicaSet).map(|(_, s)| s).filter(|s| owner_uids(s).any(|u| u == uid) && int(s, "/spec/replicas") > 0);
    filled.next().map_or_else(|| revision_of(deployment), revision_of)
}

pub fn is_operators_service(service: &Value) -> bool {
    strings(service, "/metadata/labels").contains_key(names::UPDATE_UID)
}

/// Whether a version Service belongs to that application.
pub fn is_version_service_of(service: &Value, apex: &str) -> bool {
    is_operators_service(service)
        && strings(service, "/metadata/labels").get(names::ARTIFACT).is_some_and(|a| a.ends_with(&format!(".{apex}")))
}

/// Whether a pod or a ReplicaSet is of that application, whichever version it runs.
pub fn is_part_of(object: &Value, app: &str) -> bool {
    text(object, "/metadata/labels/app") == app
}

/// Pods mode: the label of pods in service.
pub fn serves(pod: &Value) -> bool {
    strings(pod, "/metadata/labels").contains_key(names::SERVING)
}

/// Pods mode: the pods that a ReplicaSet makes are in service from birth.
pub fn is_born_serving(set: &Value) -> bool {
    strings(set, "/spec/template/metadata/labels").contains_key(names::SERVING)
}

/// Pods a Service's selector picks, in any phase.
pub fn picked<'a>(objects: &'a Objects, service: &str) -> Vec<&'a Value> {
    let Some(service) = find(objects, Kind::Service, service) else { return Vec::new() };
    let selector = strings(service, "/spec/selector");
    all(objects, Kind::Pod).map(|(_, p)| p).filter(|p| selects(&selector, &strings(p, "/metadata/labels"))).collect()
}

pub fn revisions_picked(objects: &Objects, service: &str) -> BTreeSet<String> {
    picked(objects, service).into_iter().map(|p| revision_of(p).to_owned()).collect()
}

/// The one version that a Service is for: by its pin, else by its pods.
pub fn revision_behind(objects: &Objects, service: &str) -> Option<String> {
    let selector = strings(find(objects, Kind::Service, service)?, "/spec/selector");
    if let Some(revision) = selector.get(names::REVISION)
        && let Some(deployment) = find(objects, Kind::Deployment, revision)
    {
        return Some(revision_of(deployment).to_owned());
    }
    if let Some(hash) = selector.get(names::POD_TEMPLATE_HASH) {
        let set = all(objects, Kind::ReplicaSet).find(|(_, s)| strings(s, "/metadata/labels").get(names::POD_TEMPLATE_HASH) == Some(hash));
        return set.map(|(_, s)| revision_of(s).to_owned());
    }
    let mut versions = revisions_picked(objects, service).into_iter();
    versions.next().filter(|_| versions.next().is_none())
}

/// Ready endpoints of a Service by its slices.
pub fn ready_endpoints(objects: &Objects, service: &str) -> BTreeSet<String> {
    let there = find(objects, Kind::Service, service).is_some();
    all(objects, Kind::EndpointSlice)
        .filter(|(_, s)| there && text(s, "/metadata/labels/kubernetes.io~1service-name") == service)
        .flat_map(|(_, s)| items(s, "/endpoints"))
        .filter(|e| e["conditions"]["ready"] == true)
        .map(|e| text(e, "/targetRef/name").to_owned())
        .collect()
}

/// One rule's traffic: what goes to Services of the update, by version, and what goes elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    pub revisions: BTreeMap<String, i64>,
    pub foreign: i64,
}

impl Shares {
    pub fn total(&self) -> i64 {
        self.revisions.values().sum()
    }

    /// Weight of every version but that one.
    pub fn not_of(&self, version: &str) -> i64 {
        self.revisions.iter().filter(|(v, _)| *v != version).map(|(_, w)| w).sum()
    }

    pub fn of(&self, version: &str) -> i64 {
        self.revisions.get(version).copied().unwrap_or_default()
    }

    /// Whether versions other than `live` get no larger share than that.
    pub fn is_at_most(&self, live: &str, ratio: Ratio) -> bool {
        let (new, old) = ratio.reduced();
        self.not_of(live) * i64::from(new + old) <= i64::from(new) * self.total()
    }

    /// Whether versions other than `live` get a larger share here than there.
    pub fn rises_from(&self, before: &Self, live: &str) -> bool {
        before.total() > 0 && self.not_of(live) * before.total() > before.not_of(live) * self.total()
    }

    pub fn is_as(&self, other: &Self) -> bool {
        self.revisions.keys().chain(other.revisions.keys()).all(|v| self.of(v) * other.total() == other.of(v) * self.total())
    }
}

/// What each (route, rule) of the API says, for rules that concern the update.
pub fn shares(objects: &Objects, apex: &str) -> BTreeMap<(String, usize), Shares> {
    let mut found = BTreeMap::new();
    for (name, route) in all(objects, Kind::HttpRoute) {
        for (index, rule) in items(route, "/spec/rules").enumerate() {
            let backends = items(rule, "/backendRefs").map(|b| (text(b, "/name"), int(b, "/weight")));
            if let Some(shares) = of_backends(objects, apex, backends) {
                found.insert((name.to_owned(), index), shares);
            }
        }
    }
    found
}

/// Whether a rule names the Service itself, and no version of it.
pub fn names_apex_only(objects: &Objects, (route, rule): &(String, usize), apex: &str) -> bool {
    let Some(rule) = find(objects, Kind::HttpRoute, route).and_then(|r| r.pointer(&format!("/spec/rules/{rule}"))) else { return false };
    let is_version = |name: &str| find(objects, Kind::Service, name).is_some_and(|s| is_version_service_of(s, apex));
    items(rule, "/backendRefs").any(|b| text(b, "/name") == apex) && !items(rule, "/backendRefs").any(|b| is_version(text(b, "/name")))
}

/// `None`: nothing of the update is among these backends.
pub fn of_backends<'a>(objects: &Objects, apex: &str, backends: impl Iterator<Item = (&'a str, i64)>) -> Option<Shares> {
    let mut shares = Shares::default();
    let mut concerned = false;
    for (service, weight) in backends {
        let object = find(objects, Kind::Service, service);
        if service == apex || object.is_some_and(|s| is_version_service_of(s, apex)) {
            concerned = true;
            let version = revision_behind(objects, service).unwrap_or_else(|| format!("nothing behind {service}"));
            *shares.revisions.entry(version).or_default() += weight;
        } else {
            shares.foreign += weight;
        }
    }
    concerned.then_some(shares)
}

//! What the operator knows of the cluster: the newest facts of every watched object, held in memory.
//!
//! Fed by the watches and by the answers to our own writes, so that a decision never acts on a
//! world older than what it wrote itself. Older news about an object never replaces newer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::metrics_source::measure::Measured;

use super::facts::{Deployment, EndpointSlice, Fact, HttpRoute, Key, Kind, Pod, ReplicaSet, Service, Update};

/// Deleted UIDs remembered, against late news of the dead.
const GRAVES: usize = 4096;

/// The newest facts of every watched object.
#[derive(Debug, Default)]
pub struct Index {
    facts: HashMap<Kind, BTreeMap<Key, Fact>>,
    /// (kind of the dependent, UID of its controller) -> keys.
    controlled: HashMap<(Kind, String), BTreeSet<Key>>,
    /// Service -> keys of its EndpointSlices.
    slices: HashMap<Key, BTreeSet<Key>>,
    /// RollingUpdate -> what was measured last.
    measured: HashMap<Key, Arc<Measured>>,
    graves: HashSet<String>,
    grave_order: std::collections::VecDeque<String>,
}

impl Index {
    /// Takes in an object's newest facts. False when nothing new was said.
    pub fn apply(&mut self, kind: Kind, fact: Fact) -> bool {
        let meta = fact.meta();
        if self.graves.contains(&meta.uid) {
            return false;
        }
        let key = meta.key();
        if let Some(known) = self.facts.get(&kind).and_then(|m| m.get(&key)) {
            let old = known.meta();
            if old.uid == meta.uid && !is_newer(&meta.resource_version, &old.resource_version) {
                return false;
            }
            let changed = !same(known, &fact);
            self.unlink(kind, &key);
            self.link(kind, key, fact);
            return changed;
        }
        self.link(kind, key, fact);
        true
    }

    /// Takes an object out. False when that UID was not known under that key.
    pub fn delete(&mut self, kind: Kind, key: &Key, uid: &str) -> bool {
        if self.graves.insert(uid.to_owned()) {
            self.grave_order.push_back(uid.to_owned());
            if self.grave_order.len() > GRAVES
                && let Some(oldest) = self.grave_order.pop_front()
            {
                self.graves.remove(&oldest);
            }
        }
        let known = self.facts.get(&kind).and_then(|m| m.get(key)).is_some_and(|f| f.meta().uid == uid);
        if known {
            self.unlink(kind, key);
        }
        known
    }

    /// After a fresh list: whatever of that kind it did not name is gone. Returns what went. Nothing is buried: an
    /// object that was made after the list was read is not in it either, and the watch brings it back.
    pub fn retain(&mut self, kind: Kind, listed: &HashSet<String>) -> Vec<Fact> {
        let known = self.facts.get(&kind).into_iter().flat_map(BTreeMap::values);
        let gone: Vec<Fact> = known.filter(|f| !listed.contains(&f.meta().uid)).cloned().collect();
        for fact in &gone {
            self.unlink(kind, &fact.meta().key());
        }
        gone
    }

    fn link(&mut self, kind: Kind, key: Key, fact: Fact) {
        if let Some(owner) = &fact.meta().controller {
            self.controlled.entry((kind, owner.clone())).or_default().insert(key.clone());
        }
        if let Fact::EndpointSlice(slice) = &fact {
            self.slices.entry(Key::new(&key.namespace, &slice.service)).or_default().insert(key.clone());
        }
        self.facts.entry(kind).or_default().insert(key, fact);
    }

    fn unlink(&mut self, kind: Kind, key: &Key) {
        let Some(fact) = self.facts.get_mut(&kind).and_then(|m| m.remove(key)) else { return };
        if let Some(owner) = &fact.meta().controller {
            remove_from(&mut self.controlled, &(kind, owner.clone()), key);
        }
        if let Fact::EndpointSlice(slice) = &fact {
            remove_from(&mut self.slices, &Key::new(&key.namespace, &slice.service), key);
        }
    }

    fn get(&self, kind: Kind, key: &Key) -> Option<&Fact> {
        self.facts.get(&kind)?.get(key)
    }

    fn all(&self, kind: Kind) -> impl Iterator<Item = &Fact> {
        self.facts.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// The UID under that key.
    pub fn uid(&self, kind: Kind, key: &Key) -> Option<String> {
        self.get(kind, key).map(|f| f.meta().uid.clone())
    }

    /// UID and resource version of the object under that key.
    pub fn version(&self, kind: Kind, key: &Key) -> Option<(String, String)> {
        self.get(kind, key).map(|f| (f.meta().uid.clone(), f.meta().resource_version.clone()))
    }

    /// The RollingUpdates of a namespace.
    pub fn updates_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Update>> {
        self.in_namespace(Kind::RollingUpdate, namespace).filter_map(|f| if let Fact::Update(o) = f { Some(o) } else { None })
    }

    /// One RollingUpdate.
    pub fn update(&self, key: &Key) -> Option<Arc<Update>> {
        match self.get(Kind::RollingUpdate, key) {
            Some(Fact::Update(o)) => Some(o.clone()),
            _ => None,
        }
    }

    /// Every RollingUpdate.
    pub fn updates(&self) -> impl Iterator<Item = &Arc<Update>> {
        self.all(Kind::RollingUpdate).filter_map(|f| if let Fact::Update(o) = f { Some(o) } else { None })
    }

    /// One Deployment.
    pub fn deployment(&self, key: &Key) -> Option<Arc<Deployment>> {
        match self.get(Kind::Deployment, key) {
            Some(Fact::Deployment(o)) => Some(o.clone()),
            _ => None,
        }
    }

    /// The Deployment with that UID.
    pub fn deployment_by_uid(&self, namespace: &str, uid: &str) -> Option<Arc<Deployment>> {
        self.in_namespace(Kind::Deployment, namespace)
            .filter_map(|f| if let Fact::Deployment(o) = f { Some(o) } else { None })
            .find(|d| d.meta.uid == uid)
            .cloned()
    }

    /// One Service.
    pub fn service(&self, key: &Key) -> Option<Arc<Service>> {
        match self.get(Kind::Service, key) {
            Some(Fact::Service(o)) => Some(o.clone()),
            _ => None,
        }
    }

    /// The HTTPRoutes of a namespace.
    pub fn routes<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<HttpRoute>> {
        self.in_namespace(Kind::HttpRoute, namespace).filter_map(|f| if let Fact::HttpRoute(o) = f { Some(o) } else { None })
    }

    /// The name of an autoscaler that sizes that object.
    pub fn autoscaler_of(&self, kind: Kind, object: &Key) -> Option<String> {
        self.in_namespace(Kind::Autoscaler, &object.namespace)
            .filter_map(|f| if let Fact::Autoscaler(o) = f { Some(o) } else { None })
            .find(|a| a.target.0 == kind.gvk().2 && a.target.1 == object.name)
            .map(|a| a.meta.name.clone())
    }

    /// What was measured last of a RollingUpdate.
    pub fn measured(&self, key: &Key) -> Option<Arc<Measured>> {
        self.measured.get(key).cloned()
    }

    /// Takes in what was measured of a RollingUpdate.
    pub fn measure(&mut self, key: Key, measured: Arc<Measured>) {
        self.measured.insert(key, measured);
    }

    /// Nothing is measured of that RollingUpdate any more.
    pub fn forget_measured_of(&mut self, key: &Key) {
        self.measured.remove(key);
    }

    /// Nothing is measured any more.
    pub fn forget_measured(&mut self) {
        self.measured.clear();
    }

    /// The ReplicaSets a Deployment owns, by UID and never by label.
    pub fn replica_sets(&self, deployment_uid: &str) -> Vec<Arc<ReplicaSet>> {
        self.controlled(Kind::ReplicaSet, deployment_uid)
            .filter_map(|f| if let Fact::ReplicaSet(o) = f { Some(o.clone()) } else { None })
            .collect()
    }

    /// The pods of a Deployment, terminating ones too.
    pub fn pods(&self, deployment_uid: &str) -> Vec<Arc<Pod>> {
        self.replica_sets(deployment_uid)
            .iter()
            .flat_map(|set| self.controlled(Kind::Pod, &set.meta.uid))
            .filter_map(|f| if let Fact::Pod(o) = f { Some(o.clone()) } else { None })
            .collect()
    }

    /// The EndpointSlices of a Service.
    pub fn slices(&self, service: &Key) -> Vec<Arc<EndpointSlice>> {
        self.slices
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|key| match self.get(Kind::EndpointSlice, key) {
                Some(Fact::EndpointSlice(o)) => Some(o.clone()),
                _ => None,
            })
            .collect()
    }

    /// The pod of that name.
    pub fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
        match self.get(Kind::Pod, key)? {
            Fact::Pod(o) => Some(o.clone()),
            _ => None,
        }
    }

    /// The pods that carry that label value, whoever owns them now (an owner may be gone already).
    pub fn pods_labelled<'a>(&'a self, namespace: &'a str, key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.in_namespace(Kind::Pod, namespace)
            .filter_map(|f| if let Fact::Pod(o) = f { Some(o) } else { None })
            .filter(move |p| p.meta.labels.get(key).is_some_and(|v| v == value))
    }

    fn controlled(&self, kind: Kind, uid: &str) -> impl Iterator<Item = &Fact> {
        self.controlled.get(&(kind, uid.to_owned())).into_iter().flatten().filter_map(move |key| self.get(kind, key))
    }

    fn in_namespace<'a>(&'a self, kind: Kind, namespace: &'a str) -> impl Iterator<Item = &'a Fact> {
        self.facts
            .get(&kind)
            .into_iter()
            .flat_map(move |m| m.range(Key::new(namespace, "")..))
            .take_while(move |(k, _)| k.namespace == namespace)
            .map(|(_, f)| f)
    }
}

/// Resource versions are numbers that grow (stable API since 1.35); anything else counts as news.
fn is_newer(new: &str, old: &str) -> bool {
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old,
    }
}

/// Equal in all that decisions read: the resource version alone is no news.
fn same(a: &Fact, b: &Fact) -> bool {
    let mut b = b.clone();
    let version = a.meta().resource_version.clone();
    match &mut b {
        Fact::Update(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::Deployment(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::ReplicaSet(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::Pod(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::Service(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::EndpointSlice(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::HttpRoute(o) => Arc::make_mut(o).meta.resource_version = version,
        Fact::Autoscaler(o) => Arc::make_mut(o).meta.resource_version = version,
    }
    *a == b
}

fn remove_from<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(set) = map.get_mut(at) {
        set.remove(key);
        if set.is_empty() {
            map.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::DynamicObject;
    use serde_json::json;

    fn service(uid: &str, version: u32, app: &str) -> Fact {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "uid": uid, "resourceVersion": version.to_string()},
            "spec": {"selector": {"app": app}},
        });
        Fact::read(Kind::Service, serde_json::from_value::<DynamicObject>(object).unwrap())
    }

    fn selected(index: &Index) -> Option<String> {
        index.service(&Key::new("shop", "web"))?.selector.get("app").cloned()
    }

    #[test]
    fn older_news_never_replace_newer() {
        let mut index = Index::default();
        assert!(index.apply(Kind::Service, service("a", 10, "new")));
        assert!(!index.apply(Kind::Service, service("a", 9, "old")));
        assert!(!index.apply(Kind::Service, service("a", 11, "new")), "a new version alone is no news");
        assert_eq!(selected(&index).unwrap(), "new");
    }

    #[test]
    fn late_news_of_the_dead_are_not_believed_but_a_successor_is() {
        let mut index = Index::default();
        index.apply(Kind::Service, service("a", 10, "x"));
        assert!(index.delete(Kind::Service, &Key::new("shop", "web"), "a"));
        assert!(!index.apply(Kind::Service, service("a", 11, "x")));
        assert!(index.apply(Kind::Service, service("b", 12, "y")));
        assert!(!index.delete(Kind::Service, &Key::new("shop", "web"), "a"), "a late delete does not hit the successor");
        assert_eq!(selected(&index).unwrap(), "y");
    }

    #[test]
    fn what_a_list_missed_because_it_was_older_comes_back() {
        let mut index = Index::default();
        index.apply(Kind::Service, service("a", 10, "x"));
        assert_eq!(index.retain(Kind::Service, &HashSet::new()).len(), 1);
        assert!(index.apply(Kind::Service, service("a", 10, "x")));
    }
}

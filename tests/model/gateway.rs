//! The gateway: it acknowledges routes in their status, and its data plane follows later still.
//! What the data plane has in force is what traffic meets, and what the invariants go by.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aether_operator::api::Time;
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::{Value, json};

use super::controllers::{Cluster, Timing, forget, is_due};
use super::world::{NS, World, int, items, millis, text};

/// A backend as the data plane has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub service: String,
    pub weight: i64,
    pub pods: BTreeSet<String>,
}

/// Route -> rules -> backends.
pub type Routing = BTreeMap<String, Vec<Vec<Backend>>>;
/// Service -> pods that get new connections.
pub type Reach = BTreeMap<String, BTreeSet<String>>;

/// What traffic follows.
#[derive(Default)]
pub struct Plane {
    /// Dials the addresses that go with the weights in force (Traefik); else whatever kube-proxy has behind the name.
    pub dials_pods: bool,
    pub routing: Routing,
    pub proxy: Reach,
    coming: VecDeque<(Time, Routing)>,
    coming_proxy: VecDeque<(Time, Reach)>,
}

impl Plane {
    /// Takes in the world as it is, and puts in force what is old enough.
    pub fn follow(&mut self, world: &World, timing: &Timing) {
        let reach = reach(world);
        let routing = routing(world, &reach);
        if self.coming.back().is_none_or(|(_, r)| *r != routing) {
            self.coming.push_back((world.now, routing));
        }
        if self.coming_proxy.back().is_none_or(|(_, r)| *r != reach) {
            self.coming_proxy.push_back((world.now, reach));
        }
        take_due(&mut self.coming, &mut self.routing, world.now, timing.plane);
        take_due(&mut self.coming_proxy, &mut self.proxy, world.now, timing.proxy);
    }

    /// Something is still on its way.
    pub fn lags(&self) -> bool {
        self.coming.len() > 1 || self.coming_proxy.len() > 1
    }

    /// The pods a backend leads to now.
    pub fn pods<'a>(&'a self, backend: &'a Backend) -> Option<&'a BTreeSet<String>> {
        if self.dials_pods { Some(&backend.pods) } else { self.proxy.get(&backend.service) }
    }
}

fn take_due<T: Clone>(coming: &mut VecDeque<(Time, T)>, force: &mut T, now: Time, lag: u64) {
    let due = coming.iter().take_while(|(at, _)| *at + millis(lag) <= now).count();
    if due > 0 {
        coming.drain(..due - 1);
        force.clone_from(&coming[0].1);
    }
}

/// What the slices of endpoints say.
pub fn reach(world: &World) -> Reach {
    let mut reach = Reach::new();
    for (key, slice) in world.of(Kind::EndpointSlice) {
        let service = text(slice, "/metadata/labels/kubernetes.io~1service-name");
        if key.namespace == NS && world.get(Kind::Service, service).is_some() {
            let ready = items(slice, "/endpoints").filter(|e| e["conditions"]["ready"] == true);
            reach.entry(service.to_owned()).or_default().extend(ready.map(|e| text(e, "/targetRef/name").to_owned()));
        }
    }
    reach
}

/// What the routes say.
pub fn routing(world: &World, reach: &Reach) -> Routing {
    let backend = |b: &Value| {
        let service = text(b, "/name").to_owned();
        Backend { weight: int(b, "/weight"), pods: reach.get(&service).cloned().unwrap_or_default(), service }
    };
    let routes = world.of(Kind::HttpRoute).filter(|(k, _)| k.namespace == NS);
    routes
        .map(|(k, r)| (k.name.clone(), items(r, "/spec/rules").map(|r| items(r, "/backendRefs").map(backend).collect()).collect()))
        .collect()
}

/// What a gateway says of routes. What it does with their weights is another matter: it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// It never writes a status.
    Mute,
    /// It speaks of the generation before.
    Behind,
    /// It does not accept the route.
    Rejects,
}

/// Writes the status of each route under each parent, some time after the route or its Services changed.
pub fn acknowledge(c: &mut Cluster) {
    if c.gateway == Manner::Mute {
        return;
    }
    for (key, route) in c.world.list(Kind::HttpRoute) {
        let generation = int(&route, "/metadata/generation");
        let known = |b: &Value| c.world.at(Kind::Service, &Key::new(&key.namespace, text(b, "/name"))).is_some();
        let resolved = items(&route, "/spec/rules").flat_map(|r| items(r, "/backendRefs")).all(known);
        let accepted = if c.gateway == Manner::Rejects { "False" } else { "True" };
        let generation = generation - i64::from(c.gateway == Manner::Behind);
        let (answer, reason) = if resolved { ("True", "ResolvedRefs") } else { ("False", "BackendNotFound") };
        let parents: Vec<Value> = items(&route, "/spec/parentRefs")
            .map(|parent| {
                json!({"parentRef": parent, "controllerName": "example.org/gateway", "conditions": [
                    {"type": "Accepted", "status": accepted, "reason": "Accepted", "message": "", "observedGeneration": generation},
                    {"type": "ResolvedRefs", "status": answer, "reason": reason, "message": "", "observedGeneration": generation},
                ]})
            })
            .collect();
        let matter = format!("ack {key} {generation} {answer} {accepted}");
        if route.pointer("/status/parents") == Some(&json!(parents)) {
            forget(c, &matter);
        } else if is_due(c, &matter, c.timing.ack) {
            c.world.edit(Kind::HttpRoute, &key, "gateway", |r| r["status"] = json!({"parents": parents}));
        }
    }
}

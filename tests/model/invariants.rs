//! What must never happen, judged from the world and the data plane.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use aether_operator::api::{State, Time, names};
use aether_operator::cluster::facts::Kind;
use serde_json::Value;

use super::gateway::Plane;
use super::truth::{self, find, picked, ready_endpoints, version_of, versions_picked};
use super::world::{Objects, World, int, is_ready, items, selects, strings, text};

/// A broken invariant: its name, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str, pub String);

pub type Checked = Result<(), Violation>;

pub fn ensure(holds: bool, name: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation(name, what())) }
}

/// What the checks compare with: how it was at the start, and what happened since.
pub struct Checker {
    pub update: String,
    pub apex: String,
    pub workload: String,
    /// The version that carries the traffic when nothing is under way.
    pub live: String,
    pub drain: Duration,
    /// How old the operator's knowledge may be.
    pub slack: Duration,
    /// UIDs of what the operator made.
    pub made: BTreeSet<String>,
    /// Rules of each route as their author wrote them.
    pub users_rules: BTreeMap<String, Value>,
    pub users_selector: BTreeMap<String, String>,
    /// When traffic last could reach a version.
    pub reached: BTreeMap<String, Time>,
    /// Versions that traffic can reach now.
    reaches: BTreeSet<String>,
    /// Ready endpoints of versions over time.
    ready: VecDeque<(Time, BTreeMap<String, usize>)>,
    /// Orders over time.
    pub orders: VecDeque<(Time, Value)>,
}

impl Checker {
    pub fn new(world: &World, update: &str, name: &str, live: &str, drain: Duration) -> Self {
        let rules = truth::all(&world.objects, Kind::HttpRoute).map(|(n, r)| (n.to_owned(), r["spec"]["rules"].clone()));
        Self {
            update: update.into(),
            apex: name.into(),
            workload: name.into(),
            live: live.into(),
            drain,
            slack: Duration::from_secs(2),
            made: BTreeSet::new(),
            users_rules: rules.collect(),
            users_selector: find(&world.objects, Kind::Service, name).map(|s| strings(s, "/spec/selector")).unwrap_or_default(),
            reached: BTreeMap::new(),
            reaches: BTreeSet::new(),
            ready: VecDeque::new(),
            orders: VecDeque::new(),
        }
    }

    pub fn state(&self, objects: &Objects) -> State {
        let state = find(objects, Kind::RollingUpdate, &self.update).map(|u| u["status"]["state"].clone());
        state.and_then(|s| serde_json::from_value(s).ok()).unwrap_or_default()
    }

    /// Looks at the world as it is now.
    pub fn look(&mut self, world: &World, plane: &Plane) -> Checked {
        self.remember(world, plane);
        let objects = &world.objects;
        self.traffic_in_the_api(objects)?;
        self.traffic_in_force(objects, plane)?;
        self.callers_of_the_service(objects)?;
        self.pause_outlives_pins(objects)?;
        one_at_a_time(objects)
    }

    /// Nothing has changed since the last look.
    pub fn still(&mut self, now: Time) {
        self.reached.extend(self.reaches.iter().map(|v| (v.clone(), now)));
    }

    fn remember(&mut self, world: &World, plane: &Plane) {
        let (objects, now) = (&world.objects, world.now);
        let version = |pod: &String| find(objects, Kind::Pod, pod).map(|p| version_of(p).to_owned());
        let mut reached = BTreeSet::new();
        for backend in plane.routing.values().flatten().flatten().filter(|b| b.weight > 0) {
            reached.extend(plane.pods(backend).into_iter().flatten().filter_map(version));
        }
        reached.extend(plane.proxy.get(&self.apex).into_iter().flatten().filter_map(version));
        self.reaches = reached;
        self.still(now);

        let mut ready: BTreeMap<String, usize> = BTreeMap::new();
        for (name, service) in truth::all(objects, Kind::Service) {
            if truth::is_operators_service(service) {
                for (v, n) in count(ready_endpoints(objects, name).iter().filter_map(version)) {
                    let known = ready.entry(v).or_default();
                    *known = n.max(*known);
                }
            }
        }
        push(&mut self.ready, now, ready, self.slack);
        let spec = find(objects, Kind::RollingUpdate, &self.update).map(|u| u["spec"].clone()).unwrap_or_default();
        push(&mut self.orders, now, spec, self.slack);
    }

    pub fn ready_lately(&self, version: &str) -> usize {
        self.ready.iter().filter_map(|(_, r)| r.get(version)).copied().max().unwrap_or_default()
    }

    /// R1, R10: every backend that gets traffic has ready endpoints; foreign backends keep their share.
    fn traffic_in_the_api(&self, objects: &Objects) -> Checked {
        for (route, object) in truth::all(objects, Kind::HttpRoute) {
            for (index, rule) in items(object, "/spec/rules").enumerate() {
                let backends = || items(rule, "/backendRefs").filter(|b| int(b, "/weight") > 0);
                for backend in backends() {
                    let service = text(backend, "/name");
                    ensure(!ready_endpoints(objects, service).is_empty(), "R1", || {
                        format!("rule {index} of route {route} sends traffic to {service}, which has no ready endpoint")
                    })?;
                }
                ensure(backends().next().is_some(), "R10", || format!("rule {index} of route {route} sends traffic nowhere"))?;
            }
        }
        for ((route, index), now) in truth::shares(objects, &self.apex) {
            let Some(rules) = self.users_rules.get(&route) else { continue };
            let users = items(&rules[index], "/backendRefs").map(|b| (text(b, "/name"), int(b, "/weight")));
            let (mut apex, mut foreign) = (0, 0);
            users.for_each(|(name, weight)| *if name == self.apex { &mut apex } else { &mut foreign } += weight);
            ensure(now.foreign * (apex + foreign) == foreign * (now.total() + now.foreign), "foreign share", || {
                format!("rule {index} of route {route}: other backends had {foreign} of {}, now {now:?}", apex + foreign)
            })?;
        }
        Ok(())
    }

    /// R10 where it counts: the data plane sends no request to nobody or to a pod that is gone.
    fn traffic_in_force(&self, objects: &Objects, plane: &Plane) -> Checked {
        for (route, rules) in &plane.routing {
            for backend in rules.iter().flatten().filter(|b| b.weight > 0) {
                let pods = plane.pods(backend);
                ensure(pods.is_some_and(|p| !p.is_empty()), "R10", || {
                    format!("the data plane sends requests of route {route} to {}, behind which it knows nobody", backend.service)
                })?;
                for pod in pods.into_iter().flatten() {
                    ensure(find(objects, Kind::Pod, pod).is_some(), "R10", || {
                        format!("the data plane sends requests of route {route} to pod {pod}, which is gone")
                    })?;
                }
            }
        }
        for pod in plane.proxy.get(&self.apex).into_iter().flatten() {
            ensure(find(objects, Kind::Pod, pod).is_some(), "R10", || format!("callers of {} reach pod {pod}, which is gone", self.apex))?;
        }
        Ok(())
    }

    /// R11: behind the apex is one version, and which one changes only by the flip.
    fn callers_of_the_service(&self, objects: &Objects) -> Checked {
        let versions = versions_picked(objects, &self.apex);
        let state = self.state(objects);
        ensure(versions.len() <= 1 || state == State::Completed, "R11", || format!("Service {} selects pods of {versions:?}", self.apex))?;
        if !matches!(state, State::Completing | State::Completed | State::Pending) {
            ensure(versions.iter().all(|v| *v == self.live), "R11", || {
                format!("Service {} selects pods of {versions:?} in {state}; {} is live", self.apex, self.live)
            })?;
        }
        ensure(picked(objects, &self.apex).iter().any(|p| is_ready(p)), "R10", || format!("Service {} selects no ready pod", self.apex))
    }

    /// T3: a Deployment is never unpaused while a selector names the hash of its pods.
    fn pause_outlives_pins(&self, objects: &Objects) -> Checked {
        let Some(workload) = find(objects, Kind::Deployment, &self.workload) else { return Ok(()) };
        if workload.pointer("/spec/paused").is_some() {
            return Ok(());
        }
        let pods: Vec<_> = truth::all(objects, Kind::Pod).map(|(_, p)| p).collect();
        for (name, service) in truth::all(objects, Kind::Service) {
            let selector = strings(service, "/spec/selector");
            let named =
                selector.contains_key(names::POD_TEMPLATE_HASH) && pods.iter().any(|p| selects(&selector, &strings(p, "/metadata/labels")));
            ensure(!named, "T3", || format!("{} is not paused, and Service {name} names the hash of its pods", self.workload))?;
        }
        Ok(())
    }

    /// How it must be when all is over and quiet.
    pub fn at_rest(&self, objects: &Objects, keeps_pin: bool, keeps_pause: bool) -> Checked {
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
            // At 0 it only says what scaling up would bring back.
            let kept = notes.contains_key(names::PAUSED_TEMPLATE)
                && !keeps_pause
                && int(object, "/spec/replicas") > 0
                && !is_adopted(objects, object);
            ensure(!kept, "leftovers", || format!("{} {key} still carries {:?}", kind.gvk().2, notes.keys()))?;
        }
        for (name, deployment) in truth::all(objects, Kind::Deployment) {
            let lost = self.made.contains(text(deployment, "/metadata/uid")) && version_of(deployment) != self.live;
            ensure(!lost || keeps_pin, "leftovers", || format!("Deployment {name} is left; {} is live", self.live))?;
        }
        let workload = find(objects, Kind::Deployment, &self.workload);
        let may_pause = |w: &Value| w.pointer("/spec/paused").is_none() || is_adopted(objects, w);
        ensure(keeps_pause || workload.is_none_or(|w| may_pause(w)), "leftovers", || "the workload is left paused".into())?;
        let behind = versions_picked(objects, &self.apex);
        ensure(behind == BTreeSet::from([self.live.clone()]), "leftovers", || {
            format!("behind the apex is {behind:?}, live is {}", self.live)
        })
    }
}

/// R7: of the updates of one workload one is under way.
/// The workload is in the care of an update that is there.
fn is_adopted(objects: &Objects, workload: &Value) -> bool {
    strings(workload, "/metadata/annotations").get(names::ADOPTED).is_some_and(|by| find(objects, Kind::RollingUpdate, by).is_some())
}

fn one_at_a_time(objects: &Objects) -> Checked {
    let active = |u: &Value| serde_json::from_value::<State>(u["status"]["state"].clone()).is_ok_and(State::is_active);
    let busy: Vec<_> = truth::all(objects, Kind::RollingUpdate).filter(|(_, u)| active(u)).map(|(n, _)| n).collect();
    ensure(busy.len() <= 1, "R7", || format!("{busy:?} are under way at once"))
}

fn count(versions: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    versions.for_each(|v| *counts.entry(v).or_default() += 1);
    counts
}

/// Keeps what was so within `slack`, and the last that was so before.
fn push<T: PartialEq>(samples: &mut VecDeque<(Time, T)>, now: Time, sample: T, slack: Duration) {
    if samples.back().is_none_or(|(_, last)| *last != sample) {
        samples.push_back((now, sample));
    }
    while samples.len() > 1 && samples[1].0 + slack < now {
        samples.pop_front();
    }
}

//! What must never happen, judged from the world and the data plane.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use aether_operator::api::{State, Time, names};
use aether_operator::cluster::facts::Kind;
use serde_json::Value;

use super::endpoints::{HEALS, Service};
use super::gateway::Plane;
use super::truth::{self, find, picked, ready_endpoints, revision_of, revisions_picked};
use super::world::{Objects, World, int, is_deleting, is_ready, items, owner_uids, selects, strings, text};
use super::writes::find_version;

/// A broken invariant: its name, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str, pub String);

pub type Checked = Result<(), Violation>;

pub fn ensure(holds: bool, name: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation(name, what())) }
}

/// What the checks compare with: how it was at the start, and what happened since. One for each workload with updates.
pub struct Checker {
    pub update: String,
    pub apex: String,
    pub workload: String,
    /// Workloads with updates, this one too; each has a Service of its name.
    pub apps: BTreeSet<String>,
    /// The version that the user's own Deployment ran at the start.
    pub first: String,
    /// The version that carries the traffic when nothing is under way.
    pub live: String,
    pub drain: Duration,
    pub settle: Duration,
    /// How late kube-proxy is.
    pub proxy: Duration,
    /// Traffic is shifted by the Service's endpoints.
    pub by_pods: bool,
    /// When there was no route last.
    pub unrouted: Option<Time>,
    /// The share from which on the new version errs, and is judged by that.
    pub errs_from: Option<f64>,
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
    /// Orders that a write which was held up was sent by, and until when they excuse what it does.
    pub late: Option<(Time, VecDeque<(Time, Value)>)>,
    /// Pods that such a write has labelled when its update was gone.
    pub strays: BTreeSet<String>,
    /// The ratio on record, and since when.
    pub recorded: (String, Time),
    /// Who is behind the apex.
    pub service: Service,
    /// Since when all pods of the live version are there and ready.
    pub whole_since: Option<Time>,
    /// When no operator ran last.
    pub alone: Option<Time>,
    /// What people have broken, and until when it may stay broken.
    pub excused: BTreeMap<&'static str, Time>,
    /// Deployments that people have deleted.
    pub deleted: BTreeSet<String>,
    /// People have scaled the workload, or made the Service again, when no update was there any more.
    pub unattended: bool,
    /// Version Services that there ever were, and whose they are.
    pub version_services: BTreeMap<String, String>,
}

/// Excuses everything.
pub const ALL: &str = "all";

impl Checker {
    pub fn new(world: &World, update: &str, app: &str, apps: &BTreeSet<String>, [settle, drain, proxy]: [Duration; 3]) -> Self {
        let objects = &world.objects;
        let rules = truth::all(objects, Kind::HttpRoute).map(|(n, r)| (n.to_owned(), r["spec"]["rules"].clone()));
        let workload = find(objects, Kind::Deployment, app);
        let mut checker = Self {
            update: update.into(),
            apex: app.into(),
            workload: app.into(),
            apps: apps.clone(),
            first: workload.map(|w| revision_of(w).to_owned()).unwrap_or_default(),
            live: workload.map(|w| revision_of(w).to_owned()).unwrap_or_default(),
            settle,
            drain,
            proxy,
            by_pods: truth::shares(objects, app).is_empty(),
            unrouted: None,
            errs_from: None,
            slack: Duration::from_secs(2),
            made: BTreeSet::new(),
            users_rules: rules.collect(),
            users_selector: find(objects, Kind::Service, app).map(|s| strings(s, "/spec/selector")).unwrap_or_default(),
            reached: BTreeMap::new(),
            reaches: BTreeSet::new(),
            ready: VecDeque::new(),
            orders: VecDeque::new(),
            late: None,
            strays: BTreeSet::new(),
            recorded: (String::new(), world.now),
            service: Service::new(workload.map_or(0, |w| int(w, "/spec/replicas")), world.now),
            whole_since: None,
            alone: None,
            excused: BTreeMap::new(),
            deleted: BTreeSet::new(),
            unattended: false,
            version_services: BTreeMap::new(),
        };
        checker.service.remember(checker.see(objects), Duration::ZERO, world.now);
        checker
    }

    /// People have broken something: these invariants may not hold until then.
    pub fn excuse(&mut self, names: &[&'static str], until: Time) {
        self.excused.extend(names.iter().map(|name| (*name, until)));
    }

    /// At least until then.
    pub fn excuse_until(&mut self, names: &[&'static str], until: Time) {
        for name in names {
            let known = self.excused.entry(name).or_insert(until);
            *known = until.max(*known);
        }
    }

    pub fn unless_excused(&self, checked: Checked, now: Time) -> Checked {
        let excused = |name| self.excused.get(name).is_some_and(|until| now < *until);
        checked.or_else(|violation| if excused(violation.0) || excused(ALL) { Ok(()) } else { Err(violation) })
    }

    pub fn state(&self, objects: &Objects) -> State {
        let state = find(objects, Kind::RollingUpdate, &self.update).map(|u| u["status"]["state"].clone());
        state.and_then(|s| serde_json::from_value(s).ok()).unwrap_or_default()
    }

    /// Looks at the world as it is now.
    pub fn look(&mut self, world: &World, plane: &Plane) -> Checked {
        self.remember(world, plane);
        let objects = &world.objects;
        let serves = |app: &String| truth::all(objects, Kind::Pod).any(|(_, p)| truth::is_part_of(p, app) && is_ready(p));
        let is_there = |kind, name: &str| find(objects, kind, name).is_some();
        let is_left = self.deleted.contains(&self.live) && !is_there(Kind::Deployment, &self.live);
        if is_left && !is_there(Kind::RollingUpdate, &self.update) || !self.deleted.is_empty() && !self.apps.iter().all(serves) {
            // They have deleted what served; until it is made again, and everybody knows, nobody does. Where there is no
            // update any more nobody takes the Service away from it.
            self.excuse_until(&["R1", "R10", "R11"], world.now + self.slack + Duration::from_secs(9));
        }
        let checks = [
            self.traffic_in_the_api(objects),
            self.traffic_in_force(objects, plane),
            self.callers_of_the_service(objects, world.now),
            self.pause_outlives_pins(objects),
            self.one_at_a_time(objects),
            self.nothing_past_us(objects),
        ];
        checks.into_iter().try_for_each(|checked| self.unless_excused(checked, world.now))
    }

    /// Nothing has changed since the last look.
    pub fn still(&mut self, now: Time) {
        self.reached.extend(self.reaches.iter().map(|v| (v.clone(), now)));
    }

    fn remember(&mut self, world: &World, plane: &Plane) {
        let (objects, now) = (&world.objects, world.now);
        let version = |pod: &String| find(objects, Kind::Pod, pod).map(|p| revision_of(p).to_owned());
        let mut reached = BTreeSet::new();
        for backend in plane.routing.values().flatten().flatten().filter(|b| b.weight > 0) {
            reached.extend(plane.pods(backend).into_iter().flatten().filter_map(version));
        }
        reached.extend(plane.proxy.get(&self.apex).into_iter().flatten().filter_map(version));
        self.reaches = reached;
        self.still(now);

        let mut ready: BTreeMap<String, usize> = BTreeMap::new();
        for (name, service) in truth::all(objects, Kind::Service) {
            if truth::is_operators_service(service) && !self.by_pods {
                for (v, n) in count(ready_endpoints(objects, name).iter().filter_map(version)) {
                    let known = ready.entry(v).or_default();
                    *known = n.max(*known);
                }
            }
        }
        if self.by_pods {
            ready = count(truth::all(objects, Kind::Pod).filter(|(_, p)| is_ready(p)).map(|(_, p)| revision_of(p).to_owned()));
        }
        push(&mut self.ready, now, ready, self.slack);
        let update = find(objects, Kind::RollingUpdate, &self.update);
        self.follow_owner(objects);
        self.late.take_if(|(until, _)| *until < now);
        self.unrouted = if truth::shares(objects, &self.apex).is_empty() { Some(now) } else { self.unrouted };
        push(&mut self.orders, now, update.map(|u| u["spec"].clone()).unwrap_or_default(), self.slack);
        let routing = update.map_or("", |u| text(u, "/status/routing"));
        if self.recorded.0 != routing {
            self.recorded = (routing.to_owned(), now);
        }
        let live = || truth::all(objects, Kind::Pod).map(|(_, p)| p).filter(|p| revision_of(p) == self.live && !is_deleting(p));
        let ready = live().filter(|p| is_ready(p)).count();
        // No selector names all pods of more than one ReplicaSet, and none of another version's.
        let sets: BTreeSet<&str> = live().flat_map(owner_uids).collect();
        // Its controller says so, too: pods that are about to go look ready still.
        let said = find_version(objects, &self.live).is_some_and(|d| {
            let available = int(d, "/status/availableReplicas") >= i64::try_from(self.service.size).unwrap();
            available && int(d, "/status/observedGeneration") == int(d, "/metadata/generation")
        });
        self.whole_since = (said && ready >= self.service.size && sets.len() == 1).then(|| self.whole_since.unwrap_or(now));
        let wanted = Self::wanted(objects, &self.live);
        if wanted > 0 && self.state(objects).is_terminal() {
            // Its owner may have asked for fewer.
            self.service.size = self.service.size.min(wanted);
        }
        let seen = self.see(objects);
        self.service.allow(self.most(objects, self.state(objects), now), &seen, now);
        self.service.remember(seen, self.slack, now);
    }

    /// The workload's own rollout is over: from now on that is the version it runs.
    fn follow_owner(&mut self, objects: &Objects) {
        let Some(workload) = find(objects, Kind::Deployment, &self.workload).filter(|_| self.is_let_go(objects)) else { return };
        let uid = text(workload, "/metadata/uid");
        let mut filled = truth::all(objects, Kind::ReplicaSet)
            .map(|(_, s)| s)
            .filter(|s| owner_uids(s).any(|u| u == uid) && int(s, "/spec/replicas") > 0);
        if let (Some(one), None) = (filled.next(), filled.next()) {
            let runs = revision_of(one).to_owned();
            if self.live == self.first {
                self.live.clone_from(&runs);
            }
            self.first = runs;
        }
    }

    /// The live version cannot take everything, or could not a moment ago; as long as no operator runs nobody moves a
    /// Service to it. By pods going back takes writes of many pods, and one may be lost; a Service goes back in one.
    pub fn comes_back(&self, now: Time) -> bool {
        let lost = if self.by_pods { HEALS } else { Duration::ZERO };
        self.whole_since.is_none_or(|since| now <= self.alone.map_or(since, |alone| alone.max(since)) + self.slack + lost)
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
    fn callers_of_the_service(&self, objects: &Objects, now: Time) -> Checked {
        let mut versions = revisions_picked(objects, &self.apex);
        let state = self.state(objects);
        if state == State::Deploying {
            // Those that its own rollout has replaced may be ending still.
            let ending = |p: &&Value| is_deleting(p) && p.pointer("/metadata/labels").is_some_and(|l| l.get(names::REVISION).is_none());
            versions = picked(objects, &self.apex).into_iter().filter(|p| !ending(p)).map(|p| revision_of(p).to_owned()).collect();
        }
        ensure(picked(objects, &self.apex).iter().any(|p| is_ready(p)), "R10", || format!("Service {} selects no ready pod", self.apex))?;
        if self.by_pods {
            return self.endpoints(objects, now);
        }
        if self.is_let_go(objects) {
            // What its own rollout goes through is its owner's affair.
            let own = |p: &&Value| p.pointer("/metadata/labels").is_some_and(|l| l.get(names::REVISION).is_none());
            let others = picked(objects, &self.apex).into_iter().filter(|p| !own(p)).map(|p| revision_of(p).to_owned()).collect();
            let rolls = versions.len() > versions.intersection(&others).count();
            versions = others;
            versions.extend(rolls.then(|| self.first.clone()));
        }
        ensure(versions.len() <= 1 || state == State::Completed, "R11", || format!("Service {} selects pods of {versions:?}", self.apex))?;
        let update = find(objects, Kind::RollingUpdate, &self.update).map(AsRef::as_ref);
        // An old version that was just scaled down, or looks whole still, is looked at again before it gets the traffic.
        let since = update.and_then(|u| text(u, "/status/stateSince").parse::<Time>().ok());
        let lately = since.is_some_and(|since| now <= since + self.slack + Duration::from_secs(1));
        let brought_back = lately && super::sim::reason_of(update) == "RollbackAfterScaleDown" && versions.len() == 1;
        let may_be_new = matches!(state, State::Completing | State::Completed | State::Pending) || brought_back;
        if !may_be_new && (state != State::RollingBack || !self.comes_back(now)) {
            ensure(versions.iter().all(|v| *v == self.live), "R11", || {
                format!("Service {} selects pods of {versions:?} in {state}; {} is live", self.apex, self.live)
            })?;
        }
        Ok(())
    }

    /// No update is under way or takes care of the workload, and it is not held: an edit of it rolls out by itself.
    pub fn is_let_go(&self, objects: &Objects) -> bool {
        let workload = find(objects, Kind::Deployment, &self.workload);
        let held = |w: &Value| w.pointer("/spec/paused").is_some() || strings(w, "/metadata/annotations").contains_key(names::ADOPTED);
        !self.state(objects).is_active() && !workload.is_some_and(|w| held(w))
    }

    /// T3: a Deployment is never unpaused while a selector names the hash of its pods, or its ReplicaSet was edited.
    fn pause_outlives_pins(&self, objects: &Objects) -> Checked {
        let paused = |uid: &str| {
            let owner = truth::all(objects, Kind::Deployment).find(|(_, d)| text(d, "/metadata/uid") == uid);
            owner.is_none_or(|(_, d)| d.pointer("/spec/paused").is_some() || is_deleting(d))
        };
        for (name, set) in truth::all(objects, Kind::ReplicaSet).filter(|(_, s)| truth::is_born_serving(s)) {
            let alone = int(set, "/spec/replicas") > 0 && !owner_uids(set).all(paused);
            ensure(!alone, "T3", || format!("ReplicaSet {name} was edited, and its Deployment is not paused"))?;
        }
        let Some(workload) = find(objects, Kind::Deployment, &self.workload) else { return Ok(()) };
        if workload.pointer("/spec/paused").is_some() {
            return Ok(());
        }
        let pods: Vec<_> = truth::all(objects, Kind::Pod).map(|(_, p)| p).filter(|p| truth::is_part_of(p, &self.workload)).collect();
        for (name, service) in truth::all(objects, Kind::Service) {
            let selector = strings(service, "/spec/selector");
            let named =
                selector.contains_key(names::POD_TEMPLATE_HASH) && pods.iter().any(|p| selects(&selector, &strings(p, "/metadata/labels")));
            ensure(!named, "T3", || format!("{} is not paused, and Service {name} names the hash of its pods", self.workload))?;
        }
        Ok(())
    }

    /// While an update is on, or takes care of the workload, the user's own Deployment brings out nothing else.
    fn nothing_past_us(&self, objects: &Objects) -> Checked {
        let Some(workload) = find(objects, Kind::Deployment, &self.workload) else { return Ok(()) };
        let cared_for = strings(workload, "/metadata/annotations").contains_key(names::ADOPTED);
        if !cared_for && !self.state(objects).is_active() {
            return Ok(());
        }
        let uid = text(workload, "/metadata/uid");
        let filled = truth::all(objects, Kind::ReplicaSet).filter(|(_, s)| owner_uids(s).any(|u| u == uid) && int(s, "/spec/replicas") > 0);
        let stranger = filled.map(|(_, s)| revision_of(s)).find(|v| *v != self.first);
        ensure(stranger.is_none(), "native", || format!("{} rolls out {stranger:?} by itself", self.workload))
    }

    /// R7: of the updates of one workload one is under way.
    fn one_at_a_time(&self, objects: &Objects) -> Checked {
        let active = |u: &Value| serde_json::from_value::<State>(u["status"]["state"].clone()).is_ok_and(State::is_active);
        let here = |u: &Value| text(u, "/spec/artifactBase").ends_with(&format!(":{}", self.workload));
        let busy: Vec<_> = truth::all(objects, Kind::RollingUpdate).filter(|(_, u)| here(u) && active(u)).map(|(n, _)| n).collect();
        ensure(busy.len() <= 1, "R7", || format!("{busy:?} are under way at once"))
    }
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

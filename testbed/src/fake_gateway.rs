//! A Gateway API controller without a data plane: all it does is write `status.parents` of routes, well or badly.
//!
//! It serves the routes of one namespace whose parent is a Gateway of its class, or a Service (as a mesh does). How it
//! behaves under a parent is an annotation of that parent, and may change at any time:
//!
//! | `testbed.aether.dev/route-status` | what it says of a route |
//! |---|---|
//! | `prompt` (also without annotation) | accepted, at once |
//! | `lag=N` | accepted, N seconds after each change |
//! | `until=N` | accepted, and not a word of generations after N |
//! | `never` | nothing any more; what it said stays |
//! | `dead` | the same, and it uses nothing any more |
//! | `gone` | it takes back what it said, and uses nothing any more |
//! | `old-generation` | accepted, but of the generation before |
//! | `partially-invalid` | accepted, and that it uses only a part |
//! | `reject` | not accepted |
//! | `unresolved` | a backend cannot be found |
//!
//! What it accepted last is what a data plane of its would use. Whenever that changes, and when asked, it looks whether
//! all of that still leads to ready pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use futures::StreamExt;
use futures::stream::select_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{GroupVersionKind, ResourceExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::bed::Bed;

/// The annotation that steers it.
pub const STEERED_BY: &str = "testbed.aether.dev/route-status";
/// Its `controllerName`.
pub const CONTROLLER: &str = "testbed.aether.dev/fake-gateway";
const CLASS: &str = "fake";
/// Nothing is due before something happens.
const NEVER: Duration = Duration::from_hours(24);

/// How it behaves under a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Accepts { after: Duration, until: i64 },
    Never,
    Dead,
    Gone,
    OldGeneration,
    Refuses(&'static Refusal),
}

/// A condition that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const REJECT: Refusal =
    Refusal { type_: "Accepted", status: "False", reason: "NotAllowedByListeners", message: "no listener allows this route" };
const UNRESOLVED: Refusal =
    Refusal { type_: "ResolvedRefs", status: "False", reason: "BackendNotFound", message: "a backend does not exist" };
const PARTIAL: Refusal = Refusal { type_: "PartiallyInvalid", status: "True", reason: "UnsupportedValue", message: "a rule was left out" };

impl Behaviour {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.parse::<u32>().with_context(|| format!("{STEERED_BY}: {text} is no number"));
        Ok(match text.split_once('=').unwrap_or((text, "")) {
            ("prompt", "") => Self::Accepts { after: Duration::ZERO, until: i64::MAX },
            ("lag", seconds) => Self::Accepts { after: Duration::from_secs(number(seconds)?.into()), until: i64::MAX },
            ("until", generation) => Self::Accepts { after: Duration::ZERO, until: number(generation)?.into() },
            ("never", "") => Self::Never,
            ("dead", "") => Self::Dead,
            ("gone", "") => Self::Gone,
            ("old-generation", "") => Self::OldGeneration,
            ("partially-invalid", "") => Self::Refuses(&PARTIAL),
            ("reject", "") => Self::Refuses(&REJECT),
            ("unresolved", "") => Self::Refuses(&UNRESOLVED),
            _ => anyhow::bail!("{STEERED_BY}: {text} is no behaviour"),
        })
    }
}

/// A running controller. Dropping it ends it.
pub struct FakeGateway {
    plane: Plane,
    _task: AbortOnDropHandle<()>,
}

impl FakeGateway {
    /// Starts to serve the routes of a namespace.
    pub async fn start(bed: &Bed, namespace: &str) -> anyhow::Result<Self> {
        bed.apply(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER},
        }))
        .await?;
        let plane = Plane { client: bed.client(), namespace: namespace.to_owned(), shared: Arc::default() };
        let controller = Controller { plane: plane.clone(), gateways: HashMap::new(), services: HashMap::new(), routes: HashMap::new() };
        Ok(Self { plane, _task: AbortOnDropHandle::new(tokio::spawn(controller.run())) })
    }

    /// Manifest of a Gateway of its class that behaves in that way.
    pub fn manifest(name: &str, behaviour: &str) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name, "annotations": {STEERED_BY: behaviour}},
            "spec": {"gatewayClassName": CLASS, "listeners": [{"name": "web", "protocol": "HTTP", "port": 80}]},
        })
    }

    /// What went wrong so far: Services that a data plane would have used and that led nowhere.
    pub async fn faults(&self) -> Vec<String> {
        let used = self.plane.shared().used.clone();
        for rules in used.into_values() {
            self.plane.look_at(&rules).await;
        }
        self.plane.shared().faults.clone()
    }
}

/// What a data plane would have.
#[derive(Clone)]
struct Plane {
    client: Client,
    namespace: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Rules in use, by route and parent.
    used: HashMap<(String, String), Value>,
    faults: Vec<String>,
}

impl Plane {
    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, what: String) {
        let faults = &mut self.shared().faults;
        if !faults.contains(&what) {
            faults.push(what);
        }
    }

    /// Every Service with a weight must have a ready endpoint: what was in use until now, was alive until now.
    async fn look_at(&self, rules: &Value) {
        let backends = items(rules, "").flat_map(|rule| items(rule, "/backendRefs")).filter(|b| b.get("weight") != Some(&json!(0)));
        for service in backends.map(|b| text(b, "/name")) {
            match self.is_alive(service).await {
                Ok(true) => {}
                Ok(false) => self.fault(format!("Service {service} led nowhere while these rules were in use: {rules}")),
                Err(error) => self.fault(format!("cannot look at Service {service}: {error}")),
            }
        }
    }

    async fn is_alive(&self, service: &str) -> Result<bool, Error> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        // The slices of a deleted Service are there for a moment more.
        if services.get_opt(service).await?.is_none() {
            return Ok(false);
        }
        let of_it = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let found = slices.list(&of_it).await?;
        let mut endpoints = found.items.iter().flat_map(|slice| slice.endpoints.iter());
        Ok(endpoints.any(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)))
    }

    /// Puts rules in use, after a look at those that were.
    async fn put(&self, route: &str, parent: &Value, rules: Option<&Value>) {
        let place = (route.to_owned(), parent.to_string());
        let before = self.shared().used.get(&place).cloned();
        if before.as_ref() == rules {
            return;
        }
        if let Some(before) = before {
            self.look_at(&before).await;
        }
        match rules {
            Some(rules) => self.shared().used.insert(place, rules.clone()),
            None => self.shared().used.remove(&place),
        };
    }
}

/// The kinds it watches.
#[derive(Clone, Copy)]
enum Kind {
    Route,
    Gateway,
    Service,
}

/// A route, and when each generation of it was first seen, with its rules.
struct Route {
    object: DynamicObject,
    generations: BTreeMap<i64, (Instant, Value)>,
}

struct Controller {
    plane: Plane,
    /// Gateways of its class.
    gateways: HashMap<String, Behaviour>,
    services: HashMap<String, Behaviour>,
    routes: HashMap<String, Route>,
}

impl Controller {
    async fn run(mut self) {
        let kinds = [
            (Kind::Route, "gateway.networking.k8s.io", "HTTPRoute", "httproutes"),
            (Kind::Gateway, "gateway.networking.k8s.io", "Gateway", "gateways"),
            (Kind::Service, "", "Service", "services"),
        ];
        let mut news = select_all(kinds.map(|(kind, group, name, plural)| {
            let api = api(&self.plane, group, name, plural);
            watcher(api, watcher::Config::default()).default_backoff().applied_objects().map(move |o| (kind, o)).boxed()
        }));
        let mut due = Instant::now() + NEVER;
        loop {
            tokio::select! {
                Some((kind, object)) = news.next() => {
                    let Ok(object) = object else { continue };
                    if let Err(error) = self.learn(kind, object) {
                        self.plane.fault(format!("{error:#}"));
                    }
                }
                () = sleep_until(due) => {}
            }
            due = self.speak().await;
        }
    }

    fn learn(&mut self, kind: Kind, object: DynamicObject) -> anyhow::Result<()> {
        let name = object.name_any();
        let behaviour = || Behaviour::parse(object.annotations().get(STEERED_BY).map_or("prompt", String::as_str));
        match kind {
            Kind::Gateway if text(&object.data, "/spec/gatewayClassName") == CLASS => {
                self.gateways.insert(name, behaviour()?);
            }
            Kind::Gateway => {}
            Kind::Service => {
                self.services.insert(name, behaviour()?);
            }
            Kind::Route => {
                let generation = object.metadata.generation.unwrap_or_default();
                let rules = object.data.pointer("/spec/rules").cloned().unwrap_or_default();
                let route = self.routes.entry(name).or_insert_with(|| Route { object: object.clone(), generations: BTreeMap::new() });
                route.generations.entry(generation).or_insert_with(|| (Instant::now(), rules));
                route.object = object;
            }
        }
        Ok(())
    }

    /// Says what is to be said now. Returns when there is more to say.
    async fn speak(&self) -> Instant {
        let mut due = Instant::now() + NEVER;
        for (name, route) in &self.routes {
            let said: Vec<Value> = items(&route.object.data, "/status/parents").cloned().collect();
            let is_ours = |entry: &&Value| text(entry, "/controllerName") == CONTROLLER;
            let mut saying: Vec<Value> = said.iter().filter(|e| !is_ours(e)).cloned().collect();
            let parents: Vec<&Value> = items(&route.object.data, "/spec/parentRefs").collect();
            for (left, parent) in said.iter().filter(is_ours).filter_map(|e| Some((e, e.get("parentRef")?))) {
                match self.behaviour(parent) {
                    _ if parents.contains(&parent) => {}
                    Some(Behaviour::Never | Behaviour::Dead) => saying.push(left.clone()),
                    _ => self.plane.put(name, parent, None).await,
                }
            }
            for parent in parents {
                let Some(behaviour) = self.behaviour(parent) else { continue };
                let before = said.iter().filter(is_ours).find(|e| e.get("parentRef") == Some(parent));
                let entry = self.entry(name, route, parent, behaviour, &mut due).await;
                saying.extend(match entry {
                    Saying::Nothing => None,
                    Saying::AsBefore => before.cloned(),
                    Saying::Entry(entry) if before.is_some_and(|b| is_same(b, &entry)) => before.cloned(),
                    Saying::Entry(entry) => Some(entry),
                });
            }
            if said != saying {
                self.write(&route.object, saying).await;
            }
        }
        due
    }

    fn behaviour(&self, parent: &Value) -> Option<Behaviour> {
        let there = if text(parent, "/kind") == "Service" { &self.services } else { &self.gateways };
        there.get(text(parent, "/name")).copied()
    }

    async fn entry(&self, name: &str, route: &Route, parent: &Value, behaviour: Behaviour, due: &mut Instant) -> Saying {
        let present = route.object.metadata.generation.unwrap_or_default();
        match behaviour {
            Behaviour::Never => Saying::AsBefore,
            Behaviour::Dead => {
                self.plane.put(name, parent, None).await;
                Saying::AsBefore
            }
            Behaviour::Gone => {
                self.plane.put(name, parent, None).await;
                Saying::Nothing
            }
            Behaviour::OldGeneration => {
                if let Some((_, rules)) = route.generations.get(&(present - 1)) {
                    self.plane.put(name, parent, Some(rules)).await;
                }
                Saying::Entry(entry(parent, present - 1, None))
            }
            Behaviour::Refuses(refusal) => Saying::Entry(entry(parent, present, Some(refusal))),
            Behaviour::Accepts { after, until } => {
                let now = Instant::now();
                let (ready, coming): (Vec<_>, Vec<_>) = route.generations.range(..=until).partition(|(_, (seen, _))| *seen + after <= now);
                *due = coming.iter().map(|(_, (seen, _))| *seen + after).fold(*due, Instant::min);
                let Some((generation, (_, rules))) = ready.last() else { return Saying::AsBefore };
                self.plane.put(name, parent, Some(rules)).await;
                Saying::Entry(entry(parent, **generation, None))
            }
        }
    }

    async fn write(&self, route: &DynamicObject, parents: Vec<Value>) {
        let api = api(&self.plane, "gateway.networking.k8s.io", "HTTPRoute", "httproutes");
        let patch = json!({"metadata": {"resourceVersion": route.metadata.resource_version}, "status": {"parents": parents}});
        match api.patch_status(&route.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            // Somebody was faster, and the watch will tell; or it was deleted.
            Ok(_) => {}
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => self.plane.fault(format!("cannot write the status of {}: {error}", route.name_any())),
        }
    }
}

/// What becomes of an entry of `status.parents`.
enum Saying {
    Nothing,
    AsBefore,
    Entry(Value),
}

fn entry(parent: &Value, generation: i64, refusal: Option<&Refusal>) -> Value {
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let condition = |type_: &str, status: &str, reason: &str, message: &str| json!({"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": generation, "lastTransitionTime": at});
    let well = ["Accepted", "ResolvedRefs"].into_iter().filter(|type_| refusal.is_none_or(|r| r.type_ != *type_));
    let mut conditions: Vec<Value> = well.map(|type_| condition(type_, "True", type_, "")).collect();
    conditions.extend(refusal.map(|r| condition(r.type_, r.status, r.reason, r.message)));
    json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})
}

/// Whether two entries say the same, whenever they were written.
fn is_same(one: &Value, other: &Value) -> bool {
    let timeless = |entry: &Value| {
        let mut conditions: Vec<Value> = items(entry, "/conditions").cloned().collect();
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("lastTransitionTime");
        }
        conditions
    };
    timeless(one) == timeless(other)
}

fn items<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn api(plane: &Plane, group: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(group, "v1", kind);
    Api::namespaced_with(plane.client.clone(), &plane.namespace, &ApiResource::from_gvk_with_plural(&kind, plural))
}

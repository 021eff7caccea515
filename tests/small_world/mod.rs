//! A small world in the middle of an update, for tests of one decision: what is seen goes in, what follows comes out.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::Time;
use aether_operator::api::evidence::{Counts, Evidence, StepCounts};
use aether_operator::cluster::facts::{Fact, Key, Kind};
use aether_operator::cluster::index::Index;
use aether_operator::metrics_source::measure::{Measured, Release, Unread};
use aether_operator::rollout::decide::decide;
use aether_operator::rollout::model::{Memory, Plan, Write};
use aether_operator::rollout::observe::observe;
use serde_json::{Value, json};

/// Pods of each version.
pub const PODS: usize = 2;

/// A small world in the middle of an update from 1.0.0 to 2.0.0; each field is one fact a case may change.
#[derive(Clone)]
pub struct Seen {
    pub state: &'static str,
    /// Seconds in that state, and since the step was recorded.
    pub since: i64,
    /// `status.routing`, and the reason of the rollback if there is one.
    pub routing: &'static str,
    pub rollback: &'static str,
    /// What is merged into `spec`.
    pub spec: Value,
    /// Who changed it last, where that is known.
    pub ordered_by: String,
    pub deleting: bool,
    pub finalizer: bool,
    pub paused: bool,
    /// The template was edited after the pause.
    pub edited: bool,
    /// Replicas of the user's Deployment.
    pub old: usize,
    /// What the apex selects: "user", "old", "new".
    pub apex: &'static str,
    /// The new Deployment is there, with so many ready pods.
    pub new: Option<usize>,
    pub services: bool,
    /// The weights on the route; `None`: it names the apex.
    pub weights: Option<(u32, u32)>,
    /// Generation the gateway has acknowledged, of 5; 0: it refuses; -1: it has never spoken.
    pub acknowledged: i64,
    /// Facts remembered to hold for so many seconds.
    pub held: &'static [(&'static str, i64)],
    pub refused: bool,
    /// The API server denied the last write.
    pub denied: bool,
    pub route: bool,
    pub workload: bool,
    /// The apex Service is there.
    pub service: bool,
    /// The old version's pods are ready.
    pub old_ready: bool,
    /// Pods of the old version are ending.
    pub ending: bool,
    /// The old version was retired: its Deployment says which version is live.
    pub retired: bool,
    /// Another update is at work on the workload.
    pub rival: bool,
    /// An autoscaler sizes the workload.
    pub autoscaler: bool,
    /// An autoscaler sizes the RollingUpdate.
    pub autoscaled: bool,
    /// This process has taken over in the middle.
    pub took_over: bool,
    /// What was measured at the present step.
    pub measured: Option<Figures>,
    /// The decision on record, made after the step began; or an object with more of the status.
    pub said: Value,
    /// The status as it was recorded last, instead of one made up from the fields above.
    pub status: Option<Value>,
}

pub fn seen(state: &'static str) -> Seen {
    let made = !matches!(state, "PENDING");
    Seen {
        state,
        since: 100,
        routing: "0:1",
        rollback: "",
        spec: json!({}),
        ordered_by: String::new(),
        deleting: false,
        finalizer: true,
        paused: made,
        edited: false,
        old: PODS,
        apex: if made { "old" } else { "user" },
        new: made.then_some(PODS),
        services: made,
        weights: made.then_some((0, 1)),
        acknowledged: 5,
        held: &[],
        refused: false,
        denied: false,
        route: true,
        workload: true,
        service: true,
        old_ready: true,
        ending: false,
        retired: false,
        rival: false,
        autoscaler: false,
        autoscaled: false,
        took_over: false,
        measured: None,
        said: Value::Null,
        status: None,
    }
}

/// Failed and all requests of the running step, and what else matters.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub new: (u64, u64),
    pub old: (u64, u64),
    /// Surely and possibly slow ones of the new version, where it has a histogram.
    pub slow: Option<(u64, u64)>,
    /// Seconds since all of it was read; `None`: it never was.
    pub age: Option<i64>,
    /// What keeps the new version from being read.
    pub problem: &'static str,
    /// The step that was counted is the one in force, and counting has begun.
    pub counting: bool,
}

/// Good figures with that many failed ones among that many requests of the new version.
pub fn figures(failed: u64, all: u64) -> Figures {
    Figures { new: (failed, all), old: (12, 4000), slow: None, age: Some(1), problem: "", counting: true }
}

impl Figures {
    fn measured(self, step: Option<Time>) -> Measured {
        let counts = |(errors, requests): (u64, u64), slow: Option<(u64, u64)>| {
            let timed = if slow.is_some() { requests } else { 0 };
            let (slow_low, slow_high) = slow.unwrap_or_default();
            Counts { requests, errors, timed, slow_low, slow_high }
        };
        let window = StepCounts { new: counts(self.new, self.slow), old: counts(self.old, None), continues: false };
        let steps = if self.new.1 + self.old.1 > 0 { vec![window] } else { Vec::new() };
        Measured {
            release: Release { uid: "RollingUpdate-web".into(), revision: "web-2-0-0".into(), attempt: 1 },
            step,
            is_counting: self.counting,
            evidence: Evidence { since: step, limit_ms: None, earlier: None, steps },
            newest: self.age.map(|age| now() - Duration::from_secs(age.unsigned_abs())),
            interval: Duration::from_secs(5),
            problem: (!self.problem.is_empty()).then(|| Unread::Failed(self.problem.into())),
            means: (Some(50.0), Some(45.0)),
            at: now(),
            ..Measured::default()
        }
    }
}

pub fn now() -> Time {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Value {
    json!(now() - Duration::from_secs(seconds.unsigned_abs()))
}

fn merge(into: &mut Value, from: &Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(fields), Some(from)) => from.iter().for_each(|(k, v)| merge(fields.entry(k).or_insert(Value::Null), v)),
        _ => *into = from.clone(),
    }
}

impl Seen {
    fn index(&self) -> Index {
        let mut index = Index::default();
        let mut add = |kind: Kind, name: &str, more: Value| {
            let (group, version, kind_name, _) = kind.gvk();
            let api = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let mut object = json!({
                "apiVersion": api, "kind": kind_name,
                "metadata": {"name": name, "namespace": "shop", "uid": format!("{kind_name}-{name}"), "resourceVersion": "9", "generation": 5, "annotations": {}},
            });
            merge(&mut object, &more);
            index.apply(kind, Fact::read(kind, serde_json::from_value(object).unwrap()));
        };
        add(Kind::RollingUpdate, "web", self.update());
        if self.workload {
            add(Kind::Deployment, "web", self.deployment());
        }
        add(
            Kind::ReplicaSet,
            "web-h1",
            json!({"metadata": {"labels": {"pod-template-hash": "h1"}, "ownerReferences": [owner("Deployment-web")]}, "spec": {"replicas": self.old}}),
        );
        let mut old_pods = Vec::new();
        for n in 0..self.old {
            let name = format!("old-{n}");
            add(Kind::Pod, &name, pod(&json!({"app": "web", "pod-template-hash": "h1"}), "ReplicaSet-web-h1", self.old_ready));
            if self.old_ready {
                old_pods.push(name);
            }
        }
        if self.ending {
            let mut ending = pod(&json!({"app": "web", "pod-template-hash": "h1"}), "ReplicaSet-web-h1", false);
            merge(&mut ending, &json!({"metadata": {"deletionTimestamp": ago(1)}}));
            add(Kind::Pod, "ending", ending);
        }
        let mut new_pods = Vec::new();
        if let Some(ready) = self.new {
            let labels = json!({"aether.dev/revision": "web-2-0-0"});
            let status = json!({"observedGeneration": 5, "replicas": PODS, "updatedReplicas": PODS, "availableReplicas": ready});
            add(Kind::Deployment, "web-2-0-0", json!({"metadata": {"labels": labels}, "spec": {"replicas": PODS}, "status": status}));
            for n in 0..ready {
                let name = format!("new-{n}");
                add(Kind::Pod, &name, pod(&labels, "ReplicaSet-web-2-0-0-h2", true));
                new_pods.push(name);
            }
        }
        let old_pin = json!({"app": "web", "pod-template-hash": "h1"});
        let new_pin = json!({"app": "web", "aether.dev/revision": "web-2-0-0"});
        let (selector, behind) = match self.apex {
            "old" => (old_pin.clone(), old_pods.clone()),
            "new" => (new_pin.clone(), new_pods.clone()),
            _ => (json!({"app": "web"}), [old_pods.clone(), new_pods.clone()].concat()),
        };
        if self.service {
            add(Kind::Service, "web", json!({"spec": {"selector": selector}}));
            add(Kind::EndpointSlice, "web-s", slice("web", &behind));
        }
        if self.autoscaler {
            let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
            add(Kind::Autoscaler, "web-hpa", json!({"spec": {"scaleTargetRef": target}}));
        }
        if self.autoscaled {
            let target = json!({"apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "name": "web"});
            add(Kind::Autoscaler, "update-hpa", json!({"spec": {"scaleTargetRef": target}}));
        }
        if self.rival {
            let objects = json!({"workload": "web", "service": "web", "oldRevision": "web", "oldService": "x", "newRevision": "y"});
            let spec = json!({"artifactBase": "shop.example:web", "version": "5.0.0"});
            add(Kind::RollingUpdate, "rival", json!({"spec": spec, "status": {"state": "ROUTING", "objects": objects}}));
        }
        if self.services {
            let ours = json!({"labels": {"aether.dev/update-uid": "RollingUpdate-web"}, "ownerReferences": [owner("RollingUpdate-web")]});
            add(Kind::Service, "web-1-0-0", json!({"metadata": ours, "spec": {"selector": old_pin}}));
            add(Kind::Service, "web-2-0-0", json!({"metadata": ours, "spec": {"selector": new_pin}}));
            add(Kind::EndpointSlice, "web-1-0-0-s", slice("web-1-0-0", &old_pods));
            add(Kind::EndpointSlice, "web-2-0-0-s", slice("web-2-0-0", &new_pods));
        }
        if self.route {
            add(Kind::HttpRoute, "web", self.http_route());
        }
        index
    }

    pub fn update(&self) -> Value {
        let mut spec = json!({
            "artifactBase": "shop.example:web", "version": "2.0.0", "metrics": {"none": {}}, "cleanupPolicy": "IMMEDIATE",
            "traffic": {"settle": "10s", "drain": "30s"}, "progression": {"interval": "60s"},
        });
        merge(&mut spec, &self.spec);
        let mut meta = json!({"finalizers": if self.finalizer { json!(["aether.dev/traffic"]) } else { json!([]) }});
        if !self.ordered_by.is_empty() {
            meta["annotations"] = json!({"aether.dev/ordered-by": self.ordered_by});
        }
        if self.deleting {
            meta["deletionTimestamp"] = ago(1);
        }
        let mut status = json!({"state": self.state});
        if self.state != "PENDING" {
            let from = if self.rollback == "RollbackBeforeTraffic" { "DEPLOYING" } else { "ROUTING" };
            status = json!({
                "state": self.state, "stateSince": ago(self.since), "routing": self.routing, "oldVersion": "1.0.0", "newVersion": "2.0.0",
                "attempt": 1, "newInstances": PODS, "oldInstances": PODS, "updatedAt": ago(1),
                "objects": {"workload": "web", "service": "web", "oldRevision": "web", "oldService": "web-1-0-0", "newRevision": "web-2-0-0"},
                "step": {"index": 1, "of": 5, "since": ago(self.since), "nextNotBefore": ago(self.since - 60)},
                "history": [{"at": ago(self.since), "from": from, "to": self.state, "reason": self.rollback, "by": "x"}],
            });
            if self.since < 60 {
                status["step"]["nextNotBefore"] = json!(now() + Duration::from_secs(60 - self.since.unsigned_abs()));
            }
        }
        if let Some(mut recorded) = self.status.clone() {
            // Time has passed since.
            for path in ["/stateSince", "/step", "/updatedAt"] {
                if let (Some(was), Some(is)) = (recorded.pointer_mut(path), status.pointer(path)) {
                    *was = is.clone();
                }
            }
            status = recorded;
        }
        if self.said.get("decision").is_some() {
            merge(&mut status, &json!({"decision": {"message": "as it was", "at": ago(self.since.min(2))}}));
        }
        if !self.said.is_null() {
            merge(&mut status, &self.said);
        }
        json!({"metadata": meta, "spec": spec, "status": status})
    }

    fn deployment(&self) -> Value {
        let image = |tag: &str| json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": format!("x/web:{tag}")}]}});
        let template = image("1.0.0");
        let mut annotations = json!({});
        if self.paused {
            let hash = aether_operator::rollout::build::short_hash(&template.to_string());
            annotations = json!({"aether.dev/paused-template": hash, "aether.dev/live": "1.0.0", "aether.dev/live-revision": "web"});
        }
        if self.retired {
            annotations = json!({"aether.dev/live": "2.0.0", "aether.dev/live-revision": "web-2-0-0"});
        }
        let template = if self.edited { image("9.9.9") } else { template };
        json!({
            "metadata": {"annotations": annotations},
            "spec": {"replicas": self.old, "paused": self.paused, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"observedGeneration": 5, "replicas": self.old, "updatedReplicas": self.old, "availableReplicas": if self.old_ready { self.old } else { 0 }},
        })
    }

    fn http_route(&self) -> Value {
        let refs = match self.weights {
            None => json!([{"name": "web", "port": 80, "weight": 1}]),
            Some((new, old)) => json!([{"name": "web-1-0-0", "port": 80, "weight": old}, {"name": "web-2-0-0", "port": 80, "weight": new}]),
        };
        let answer = if self.acknowledged == 0 { "False" } else { "True" };
        let condition = |name: &str| json!({"type": name, "status": answer, "reason": "x", "observedGeneration": if self.acknowledged == 0 { 5 } else { self.acknowledged }});
        let spoken =
            json!({"parentRef": {"name": "edge"}, "controllerName": "x", "conditions": [condition("Accepted"), condition("ResolvedRefs")]});
        json!({
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": refs}]},
            "status": {"parents": if self.acknowledged < 0 { json!([]) } else { json!([spoken]) }},
        })
    }

    pub fn plan(&self) -> Plan {
        self.plan_with(Memory::default())
    }

    /// What is decided by a process that remembers more than for how long things have held.
    pub fn plan_with(&self, memory: Memory) -> Plan {
        let mut index = self.index();
        let key = Key::new("shop", "web");
        if let Some(figures) = self.measured {
            let status = index.update(&key).and_then(|u| u.object.as_ref().ok()?.status.clone());
            let step = status.and_then(|s| s.step).map(|s| s.since);
            index.measure(key.clone(), Arc::new(figures.measured(step)));
        }
        let obs = observe(&index, &key).unwrap();
        let started = now() - Duration::from_secs(self.since.unsigned_abs());
        let mut memory = Memory { from_start: if self.took_over { memory.from_start } else { Some(started) }, ..memory };
        for (fact, seconds) in self.held {
            memory.since.insert(fact, now() - Duration::from_secs(seconds.unsigned_abs()));
        }
        if self.refused {
            memory.refused.insert("web-2-0-0".into(), "no".into());
        }
        memory.denied = self.denied.then(|| "not today".to_owned());
        decide(&obs, &memory, now())
    }
}

fn owner(uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "x", "name": "x", "uid": uid, "controller": true})
}

fn pod(labels: &Value, set: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({"metadata": {"labels": labels, "ownerReferences": [owner(set)]}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn slice(service: &str, pods: &[String]) -> Value {
    let endpoints: Vec<Value> =
        pods.iter().map(|p| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"name": p}})).collect();
    json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "endpoints": endpoints})
}

/// The plan in one line: the writes in order, then the state and reason it records.
pub fn line(plan: &Plan) -> String {
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|a| match &a.write {
            Write::Patch(target, ops) => {
                let ops = serde_json::to_value(ops).unwrap();
                let edits: Vec<(&str, &str, String)> = ops
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|op| (op["op"].as_str().unwrap(), op["path"].as_str().unwrap(), op["value"].to_string()))
                    .filter(|(op, ..)| *op != "test")
                    .collect();
                let edit = |path: &str| edits.iter().find(|(_, p, _)| p.starts_with(path));
                let what = match (edit("/spec/selector"), edit("/spec/paused")) {
                    (Some((_, _, to)), _) if to.contains("web-2-0-0") => "flip",
                    (Some((_, _, to)), _) if to.contains("h1") => "pin",
                    (Some(_), _) => "unpin",
                    _ if edit("/spec/replicas").is_some() => "scale",
                    (None, Some(("remove", ..))) => "unpause",
                    (None, Some(_)) => "pause",
                    _ if edit("/metadata/finalizers").is_some() => "finalizer",
                    _ if edits.iter().any(|(op, path, _)| *op == "remove" && path.starts_with("/spec/rules")) => "restore",
                    _ if edit("/metadata/annotations/aether.dev~1fence").is_some() => "mark",
                    _ if edit("/metadata/annotations/aether.dev~1live").is_some() => "note",
                    _ => "weigh",
                };
                format!("{what} {}", target.key.name)
            }
            Write::Create(target, _) => format!("create {target}"),
            Write::Delete(target, _) => format!("delete {target}"),
            Write::DeleteServices { services, .. } => format!("delete {} Services", services.len()),
        })
        .collect();
    if let Some(status) = &plan.status {
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.clone()).unwrap_or_default();
        let routing =
            if status.state.as_str() == "ROUTING" { format!(" {}", status.routing.clone().unwrap_or_default()) } else { String::new() };
        words.push(format!("{}{routing} ({ready})", status.state));
    }
    words.join(", ")
}

//! Decisions as data: one line for what is seen, one for what follows. No cluster, no clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use aether_operator::api::Time;
use aether_operator::cluster::facts::{Fact, Key, Kind};
use aether_operator::cluster::index::Index;
use aether_operator::rollout::decide::decide;
use aether_operator::rollout::model::{Memory, Plan, Write};
use aether_operator::rollout::observe::observe;
use rstest::rstest;
use serde_json::{Value, json};

const PODS: usize = 2;

/// A small world in the middle of an update from 1.0.0 to 2.0.0; each field is one fact a case may change.
#[derive(Clone)]
struct Seen {
    state: &'static str,
    /// Seconds in that state, and since the step was recorded.
    since: i64,
    /// `status.routing`, and the reason of the rollback if there is one.
    routing: &'static str,
    rollback: &'static str,
    /// What is merged into `spec`.
    spec: Value,
    deleting: bool,
    finalizer: bool,
    paused: bool,
    /// The template was edited after the pause.
    edited: bool,
    /// Replicas of the user's Deployment.
    old: usize,
    /// What the apex selects: "user", "old", "new".
    apex: &'static str,
    /// The new Deployment is there, with so many ready pods.
    new: Option<usize>,
    services: bool,
    /// The weights on the route; `None`: it names the apex.
    weights: Option<(u32, u32)>,
    /// Generation the gateway has acknowledged, of 5; 0: it refuses.
    acknowledged: i64,
    /// Facts remembered to hold for so many seconds.
    held: &'static [(&'static str, i64)],
    refused: bool,
    /// The API server denied the last write.
    denied: bool,
    route: bool,
    workload: bool,
}

fn seen(state: &'static str) -> Seen {
    let made = !matches!(state, "PENDING");
    Seen {
        state,
        since: 100,
        routing: "0:1",
        rollback: "",
        spec: json!({}),
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
    }
}

fn now() -> Time {
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
            add(Kind::Pod, &name, pod(&json!({"app": "web", "pod-template-hash": "h1"}), "ReplicaSet-web-h1"));
            old_pods.push(name);
        }
        let mut new_pods = Vec::new();
        if let Some(ready) = self.new {
            let labels = json!({"aether.dev/revision": "web-2-0-0"});
            let status = json!({"observedGeneration": 5, "replicas": PODS, "updatedReplicas": PODS, "availableReplicas": ready});
            add(Kind::Deployment, "web-2-0-0", json!({"metadata": {"labels": labels}, "spec": {"replicas": PODS}, "status": status}));
            for n in 0..ready {
                let name = format!("new-{n}");
                add(Kind::Pod, &name, pod(&labels, "ReplicaSet-web-2-0-0-h2"));
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
        add(Kind::Service, "web", json!({"spec": {"selector": selector}}));
        add(Kind::EndpointSlice, "web-s", slice("web", &behind));
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

    fn update(&self) -> Value {
        let mut spec = json!({
            "artifactBase": "shop.example:web", "version": "2.0.0", "metrics": {"none": {}}, "cleanupPolicy": "IMMEDIATE",
            "traffic": {"settle": "10s", "drain": "30s"}, "progression": {"interval": "60s"},
        });
        merge(&mut spec, &self.spec);
        let mut meta = json!({"finalizers": if self.finalizer { json!(["aether.dev/traffic"]) } else { json!([]) }});
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
        let template = if self.edited { image("9.9.9") } else { template };
        json!({
            "metadata": {"annotations": annotations},
            "spec": {"replicas": self.old, "paused": self.paused, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"observedGeneration": 5, "replicas": self.old, "updatedReplicas": self.old, "availableReplicas": self.old},
        })
    }

    fn http_route(&self) -> Value {
        let refs = match self.weights {
            None => json!([{"name": "web", "port": 80, "weight": 1}]),
            Some((new, old)) => json!([{"name": "web-1-0-0", "port": 80, "weight": old}, {"name": "web-2-0-0", "port": 80, "weight": new}]),
        };
        let note = if self.weights.is_some() { json!({"aether.dev/split": "{\"rules\":{\"0\":[1]}}"}) } else { json!({}) };
        let answer = if self.acknowledged == 0 { "False" } else { "True" };
        let condition = |name: &str| json!({"type": name, "status": answer, "reason": "x", "observedGeneration": if self.acknowledged == 0 { 5 } else { self.acknowledged }});
        json!({
            "metadata": {"annotations": note},
            "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": refs}]},
            "status": {"parents": [{"parentRef": {"name": "edge"}, "controllerName": "x", "conditions": [condition("Accepted"), condition("ResolvedRefs")]}]},
        })
    }

    fn plan(&self) -> Plan {
        let index = self.index();
        let obs = observe(&index, &Key::new("shop", "web")).unwrap();
        let mut memory = Memory::default();
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

fn pod(labels: &Value, set: &str) -> Value {
    json!({"metadata": {"labels": labels, "ownerReferences": [owner(set)]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn slice(service: &str, pods: &[String]) -> Value {
    let endpoints: Vec<Value> =
        pods.iter().map(|p| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"name": p}})).collect();
    json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "endpoints": endpoints})
}

/// The plan in one line: the writes in order, then the state and reason it records.
fn line(plan: &Plan) -> String {
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

#[rstest]
// PENDING
#[case::starts(seen("PENDING"), "DEPLOYING (Deploying)")]
#[case::finalizer_first(Seen { finalizer: false, ..seen("PENDING") }, "finalizer web")]
#[case::no_workload(Seen { workload: false, ..seen("PENDING") }, "PENDING (WorkloadNotFound)")]
#[case::no_route(Seen { route: false, ..seen("PENDING") }, "DEPLOYING (Deploying)")]
#[case::no_route_but_gateway_wanted(Seen { route: false, spec: json!({"traffic": {"mode": "Gateway"}}), ..seen("PENDING") }, "PENDING (RouteNotFound)")]
#[case::no_pods(Seen { old: 0, ..seen("PENDING") }, "PENDING (WorkloadNotStable)")]
#[case::route_refused_by_its_gateway(Seen { acknowledged: 0, ..seen("PENDING") }, "PENDING (RouteNotAccepted)")]
#[case::already_live(Seen { spec: json!({"version": "1.0.0"}), ..seen("PENDING") }, "pause web, COMPLETED (AlreadyLive)")]
#[case::the_same_again_on_purpose(Seen { spec: json!({"version": "1.0.0", "attempt": 2}), ..seen("PENDING") }, "DEPLOYING (Deploying)")]
#[case::rollback_of_nothing(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), ..seen("PENDING") }, "ROLLING_BACK (RollbackOrdered)")]
#[case::deleted_before_it_began(Seen { deleting: true, ..seen("PENDING") }, "finalizer web")]
// DEPLOYING
#[case::pause_first(Seen { paused: false, apex: "user", new: None, services: false, weights: None, ..seen("DEPLOYING") }, "pause web, DEPLOYING (Deploying)")]
#[case::then_pin_and_create(Seen { apex: "user", new: None, services: false, weights: None, ..seen("DEPLOYING") }, "pin web, create Deployment web-2-0-0, create Service web-1-0-0, create Service web-2-0-0, DEPLOYING (Deploying)")]
#[case::only_what_is_missing(Seen { new: None, weights: None, ..seen("DEPLOYING") }, "create Deployment web-2-0-0, DEPLOYING (Deploying)")]
#[case::ready_but_not_settled(Seen { weights: None, held: &[("ready", 9)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::split_when_settled(Seen { weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "weigh web, DEPLOYING (Deploying)")]
#[case::no_split_while_a_pod_is_missing(Seen { new: Some(1), weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::deployed_when_acknowledged(Seen { held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYED (Deployed)")]
#[case::not_deployed_while_the_gateway_lags(Seen { acknowledged: 4, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::deadline(Seen { new: Some(1), since: 601, ..seen("DEPLOYING") }, "ROLLING_BACK (DeployDeadlineExceeded)")]
#[case::refused_by_the_api_server(Seen { new: None, refused: true, ..seen("DEPLOYING") }, "ROLLING_BACK (RefusedByApiServer)")]
#[case::a_denied_write_is_told_before_it_is_tried_again(Seen { denied: true, weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (WriteDenied)")]
#[case::a_denied_write_does_not_stop_the_deadline(Seen { denied: true, since: 601, weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "ROLLING_BACK (DeployDeadlineExceeded)")]
#[case::a_deadline_that_passed_while_nobody_looked(Seen { since: 601, weights: None, held: &[("ready", 1)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::routes_gone(Seen { route: false, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (RouteNotFound)")]
// DEPLOYED and ROUTING
#[case::routes_gone_under_way(Seen { route: false, routing: "1:1", ..seen("ROUTING") }, "ROUTING 1:1 (RouteNotFound)")]
#[case::a_pin_taken_away_is_put_back(Seen { apex: "user", routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "pin web, ROUTING 1:1 ()")]
#[case::a_pause_taken_away_is_put_back(Seen { paused: false, routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "pause web, ROUTING 1:1 ()")]
#[case::services_taken_away_are_made_again(Seen { services: false, routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "create Service web-1-0-0, create Service web-2-0-0")]
#[case::pods_of_the_new_version_are_missing(Seen { new: Some(1), routing: "1:1", weights: Some((1, 1)), since: 30, ..seen("ROUTING") }, "ROUTING 1:1 (NewVersionNotReady)")]
#[case::first_step(Seen { held: &[("in force", 10)], ..seen("DEPLOYED") }, "weigh web")]
#[case::not_before_it_settled(Seen { held: &[("in force", 9)], ..seen("DEPLOYED") }, "DEPLOYED (Deployed)")]
#[case::recorded_when_acknowledged(Seen { weights: Some((1, 9)), ..seen("DEPLOYED") }, "ROUTING 1:9 (Routing)")]
#[case::not_recorded_before(Seen { weights: Some((1, 9)), acknowledged: 4, ..seen("DEPLOYED") }, "")]
#[case::interval(Seen { routing: "1:9", weights: Some((1, 9)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "ROUTING 1:9 (Routing)")]
#[case::next_step(Seen { routing: "1:9", weights: Some((1, 9)), since: 61, held: &[("in force", 61)], ..seen("ROUTING") }, "weigh web")]
#[case::no_pod_left_of_the_new_version(Seen { new: Some(0), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "weigh web")]
#[case::not_enough_pods_for_it(Seen { new: Some(1), routing: "1:3", weights: Some((1, 3)), spec: json!({"control": {"version": "2.0.0", "routing": "3:1"}}), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:3 (NotEnoughEndpoints)")]
#[case::metrics_cannot_be_judged(Seen { spec: json!({"metrics": null}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::approval(Seen { spec: json!({"requireManualApproval": true}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:9 (AwaitingApproval)")]
#[case::approved(Seen { spec: json!({"requireManualApproval": true, "control": {"version": "2.0.0", "approved": "1:3"}}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "weigh web")]
#[case::paused(Seen { spec: json!({"control": {"version": "2.0.0", "paused": true}}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:9 (Paused)")]
#[case::a_persons_ratio_down_at_once(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "0:1"}}), routing: "1:1", weights: Some((1, 1)), acknowledged: 4, ..seen("ROUTING") }, "weigh web")]
#[case::a_persons_ratio_up_when_settled(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "3:1"}}), routing: "1:1", weights: Some((1, 1)), held: &[("in force", 3)], ..seen("ROUTING") }, "ROUTING 1:1 (Routing)")]
#[case::orders_for_another_version(Seen { spec: json!({"control": {"version": "1.5.0", "outcome": "Rollback"}}), routing: "1:9", weights: Some((1, 9)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "ROUTING 1:9 (Routing)")]
#[case::weights_of_somebody_else_are_corrected(Seen { routing: "1:9", weights: Some((1, 1)), since: 30, ..seen("ROUTING") }, "weigh web, ROUTING 1:9 ()")]
#[case::completing(Seen { routing: "1:0", weights: Some((1, 0)), since: 61, held: &[("in force", 61)], ..seen("ROUTING") }, "COMPLETING (Completing)")]
#[case::complete_needs_x_0(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Complete"}}), routing: "1:1", weights: Some((1, 1)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "ROUTING 1:1 (Routing)")]
#[case::complete_ordered(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "1:0", "outcome": "Complete"}}), routing: "1:0", weights: Some((1, 0)), since: 11, held: &[("in force", 11)], ..seen("ROUTING") }, "COMPLETING (Completing)")]
// COMPLETING
#[case::flip(Seen { routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "flip web, COMPLETING (Completing)")]
#[case::no_flip_onto_missing_pods(Seen { new: Some(1), routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "COMPLETING (NotEnoughEndpoints)")]
#[case::restore_after_the_flip(Seen { apex: "new", routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "restore web, COMPLETING (Completing)")]
#[case::drain(Seen { apex: "new", routing: "1:0", weights: None, held: &[("flipped", 29), ("restored", 29)], ..seen("COMPLETING") }, "COMPLETING (Completing)")]
#[case::retire(Seen { apex: "new", routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "delete 2 Services, scale web, COMPLETING (Completing)")]
#[case::grace_period(Seen { spec: json!({"cleanupPolicy": "GRACE_PERIOD"}), apex: "new", routing: "1:0", weights: None, held: &[("flipped", 299), ("restored", 299)], ..seen("COMPLETING") }, "COMPLETING (Completing)")]
#[case::keep(Seen { spec: json!({"cleanupPolicy": "MANUAL"}), apex: "new", services: false, routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "COMPLETED (OldVersionKept)")]
#[case::unpin_last(Seen { old: 0, paused: false, services: false, apex: "new", routing: "1:0", weights: None, ..seen("COMPLETING") }, "unpin web, COMPLETING (Completing)")]
#[case::completed(Seen { old: 0, paused: false, services: false, apex: "user", routing: "1:0", weights: None, ..seen("COMPLETING") }, "COMPLETED (Completed)")]
#[case::too_late_to_go_back(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), old: 0, paused: false, services: false, apex: "user", routing: "1:0", weights: None, ..seen("COMPLETING") }, "COMPLETED (Completed)")]
// Going back
#[case::weights_before_the_record(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, ROLLING_BACK (RollbackOrdered)")]
#[case::one_patch_of_the_apex_after_the_flip(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), apex: "new", routing: "1:0", weights: None, ..seen("COMPLETING") }, "pin web, ROLLING_BACK (RollbackOrdered)")]
#[case::superseded(Seen { spec: json!({"version": "3.0.0"}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, ROLLING_BACK (Superseded)")]
#[case::deleted(Seen { deleting: true, routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, ROLLING_BACK (Deleted)")]
#[case::the_new_version_drains(Seen { rollback: "RollbackOrdered", held: &[("drained", 39)], ..seen("ROLLING_BACK") }, "ROLLING_BACK (RollbackOrdered)")]
#[case::then_the_route_is_given_back(Seen { rollback: "RollbackOrdered", held: &[("drained", 40)], ..seen("ROLLING_BACK") }, "restore web, ROLLING_BACK (RollbackOrdered)")]
#[case::then_the_new_version_goes(Seen { rollback: "RollbackOrdered", weights: None, held: &[("drained", 40), ("restored", 10)], ..seen("ROLLING_BACK") }, "delete Deployment web-2-0-0, ROLLING_BACK (RollbackOrdered)")]
#[case::without_drain_where_there_was_no_traffic(Seen { rollback: "RollbackBeforeTraffic", weights: None, ..seen("ROLLING_BACK") }, "delete Deployment web-2-0-0, ROLLING_BACK (RollbackBeforeTraffic)")]
#[case::then_what_else_was_made(Seen { rollback: "RollbackOrdered", weights: None, new: None, ..seen("ROLLING_BACK") }, "delete 2 Services, unpin web, ROLLING_BACK (RollbackOrdered)")]
#[case::then_the_workload(Seen { rollback: "RollbackOrdered", weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "unpause web, ROLLING_BACK (RollbackOrdered)")]
#[case::but_not_an_edited_one(Seen { rollback: "RollbackOrdered", edited: true, weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "ROLLED_BACK (RollbackOrdered)")]
#[case::rolled_back(Seen { rollback: "RollbackOrdered", paused: false, weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "ROLLED_BACK (RollbackOrdered)")]
#[case::failed(Seen { rollback: "RefusedByApiServer", paused: false, weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "FAILED (RefusedByApiServer)")]
#[case::no_traffic_onto_a_dead_old_version(Seen { old: 0, spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "ROLLING_BACK (RollbackOrdered)")]
fn decision(#[case] seen: Seen, #[case] wanted: &str) {
    assert_eq!(line(&seen.plan()), wanted);
}

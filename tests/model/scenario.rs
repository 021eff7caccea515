//! What a run starts from, what people do in it, and how it should end.

use std::collections::BTreeSet;
use std::time::Duration;

use aether_operator::api::{State, names};
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::{Value, json};

use super::controllers::Timing;
use super::gateway::Manner;
use super::meddler::Meddler;
use super::world::{NS, World, key_of};

/// When people act; counted in milliseconds since that became so, or since they last acted.
#[derive(Clone, Debug)]
pub enum When {
    State(State, u64),
    Routing(&'static str, u64),
    /// Ready says that reason.
    Reason(&'static str, u64),
    After(u64),
}

/// What people do.
#[derive(Clone, Debug)]
pub enum Act {
    /// A merge patch of the update's spec.
    Spec(Value),
    /// A merge patch of any object.
    Edit(Kind, &'static str, Value),
    /// They delete the update.
    Delete,
    /// Any change of any object; of a route, its author means it for good.
    Change(Kind, &'static str, fn(&mut Value)),
    /// They delete an object, and whatever it owns goes too.
    Remove(Kind, &'static str),
    /// They create an object again, as it was at the start.
    Restore(Kind, &'static str),
    /// They delete the namespace.
    Doom,
    /// They delete so many ready pods of that version.
    Kill(&'static str, usize),
    /// From now on the gateway behaves like this.
    Gateway(Manner),
    /// What they do next breaks these invariants, for so many milliseconds.
    Excuse(&'static [&'static str], u64),
    /// The API server takes everything again.
    Allow,
    /// Nothing; the script waits until it is so.
    Look,
}

impl Act {
    /// The workload's image is edited, as a GitOps tool does.
    pub fn image(version: &str) -> Self {
        let template = workload("web", version, 1)["spec"]["template"].take();
        Self::Edit(Kind::Deployment, "web", json!({"spec": {"template": template}}))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    State(State),
    /// It stays in that state, says that reason, and a person is needed.
    Held(State, &'static str),
    Gone,
    /// Any end: a terminal state, or no update any more.
    Over,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub updates: Vec<Value>,
    pub routes: Vec<Value>,
    pub replicas: i32,
    pub script: Vec<(When, Act)>,
    pub goal: Goal,
    pub live_at_end: Option<String>,
    pub timing: Timing,
    pub gateway: Manner,
    pub meddler: Option<Meddler>,
    pub dials_pods: bool,
    pub deadline: Duration,
    pub broken: BTreeSet<String>,
    pub refused: BTreeSet<String>,
    /// A HorizontalPodAutoscaler sizes the workload.
    pub autoscaler: bool,
    /// A manifest owns the workload's `replicas`.
    pub replicas_owned: bool,
    /// The apex stays pinned to the live version.
    pub keeps_pin: bool,
    /// The workload stays paused.
    pub keeps_pause: bool,
    /// The reason of Ready at the end.
    pub says: Option<&'static str>,
    /// News of pods come that many milliseconds late, all the time.
    pub pods_late: u64,
    /// The share of the traffic from which on the new version errs, where updates are judged by what is measured.
    pub errs_from: Option<f64>,
}

impl Scenario {
    /// 1.0.0 -> 2.0.0 in the five steps of the guide, with times that make a run short.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            updates: vec![update("web", "2.0.0")],
            routes: vec![route("web", &json!([[("web", 1)]]))],
            replicas: 3,
            script: Vec::new(),
            goal: Goal::State(State::Completed),
            live_at_end: Some("2.0.0".into()),
            timing: Timing::default(),
            gateway: Manner::Honest,
            meddler: None,
            dials_pods: true,
            deadline: Duration::from_mins(15),
            broken: BTreeSet::new(),
            refused: BTreeSet::new(),
            autoscaler: false,
            replicas_owned: false,
            keeps_pin: false,
            keeps_pause: false,
            says: None,
            pods_late: 0,
            errs_from: None,
        }
    }

    /// The same with something else in the spec.
    #[allow(clippy::needless_pass_by_value, reason = "reads better at fifty calls")]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        for update in &mut self.updates {
            update["spec"][field] = value.clone();
        }
        self
    }

    pub fn routes(mut self, routes: Vec<Value>) -> Self {
        self.routes = routes;
        self
    }

    /// People do something that breaks these invariants for a while.
    pub fn harm(self, when: When, act: Act, excused: &'static [&'static str], ms: u64) -> Self {
        self.when(when, Act::Excuse(excused, ms)).when(When::After(0), act)
    }

    /// People do something when it is so.
    pub fn when(mut self, when: When, act: Act) -> Self {
        self.script.push((when, act));
        self
    }

    pub fn orders(self, when: When, mut control: Value) -> Self {
        if control.get("version").is_none() {
            control["version"] = json!("2.0.0");
        }
        self.when(when, Act::Spec(json!({"control": control})))
    }

    pub fn ends(mut self, goal: Goal, live: &str) -> Self {
        (self.goal, self.live_at_end) = (goal, (!live.is_empty()).then(|| live.to_owned()));
        self
    }

    pub fn rolled_back(self) -> Self {
        self.ends(Goal::State(State::RolledBack), "1.0.0")
    }

    /// The user's own objects, and some of others that look like it.
    pub fn build(&self, world: &mut World) {
        for (kind, object) in self.objects() {
            world.create(kind, object, "user").unwrap();
        }
    }

    /// The user's object of that name as it is at the start.
    pub fn object(&self, kind: Kind, name: &str) -> Option<Value> {
        let found = self.objects().into_iter().find(|(k, o)| *k == kind && key_of(o) == Key::new(NS, name));
        found.map(|(_, object)| object)
    }

    fn objects(&self) -> Vec<(Kind, Value)> {
        let mut objects = vec![
            (Kind::Deployment, workload("web", "1.0.0", self.replicas)),
            (Kind::Service, service("web", &json!({"app": "web"}))),
            (Kind::Deployment, workload("other", "7.7.7", 1)),
            (Kind::Service, service("other", &json!({"app": "other"}))),
        ];
        if self.replicas_owned {
            objects[0].1["metadata"]["managedFields"] = json!([{
                "manager": "gitops", "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}},
            }]);
        }
        objects.push((Kind::HttpRoute, route("elsewhere", &json!([[("other", 1)]]))));
        objects.extend(self.routes.iter().map(|r| (Kind::HttpRoute, r.clone())));
        if self.autoscaler {
            let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
            let object = json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web", "namespace": NS},
                "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 9},
            });
            objects.push((Kind::Autoscaler, object));
        }
        let mut namesakes = objects.clone();
        namesakes.truncate(2);
        for (_, object) in &mut namesakes {
            object["metadata"]["namespace"] = json!("elsewhere");
        }
        objects.into_iter().chain(namesakes).collect()
    }
}

pub fn update(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate",
        "metadata": {"name": name, "namespace": NS, "finalizers": [names::FINALIZER]},
        "spec": {
            "artifactBase": "org.example:web", "version": version, "cleanupPolicy": "IMMEDIATE",
            "traffic": {"settle": "3s", "drain": "5s"},
            "progression": {"steps": ["1:9", "1:3", "1:1", "3:1", "1:0"], "interval": "4s", "deployDeadline": "60s"},
            "metrics": {"none": {}},
        },
    })
}

fn workload(name: &str, version: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": NS, "labels": {"app": name}, "annotations": {"deployment.kubernetes.io/revision": "1"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "progressDeadlineSeconds": 600,
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": format!("registry.example:5000/{name}:{version}"), "env": [{"name": "A", "value": "1"}]}]},
            },
        },
    })
}

fn service(name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NS},
        "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80, "targetPort": 8080}], "selector": selector},
    })
}

/// A route as the API server stores it, with its defaults; rules are lists of (Service, weight).
pub fn route(name: &str, rules: &Value) -> Value {
    let rules: Vec<Value> = rules
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(at, backends)| {
            let refs = backends.as_array().unwrap().iter().map(|b| json!({"group": "", "kind": "Service", "name": b[0], "port": 80, "weight": b[1]}));
            let mut rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": format!("/{at}")}}], "backendRefs": refs.collect::<Vec<_>>()});
            if at > 0 {
                rule["filters"] = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-rule", "value": at.to_string()}]}}]);
                rule["someday"] = json!({"field": "of a version this build has never heard of"});
            }
            rule
        })
        .collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"hostnames": [format!("{name}.example")], "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}], "rules": rules},
    })
}

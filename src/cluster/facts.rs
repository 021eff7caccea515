//! The few facts of each object that decisions need, read leniently from what the API server sends.
//!
//! A cached Pod costs 37 KB, its facts about 0.3; an object that cannot be read costs only itself.
//! Objects of others stay untyped, so that fields this build has never heard of survive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{RollingUpdate, State, Time, names};

/// The kinds the operator watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// aether.dev RollingUpdate.
    RollingUpdate,
    /// apps Deployment.
    Deployment,
    /// apps ReplicaSet.
    ReplicaSet,
    /// core Pod.
    Pod,
    /// core Service.
    Service,
    /// discovery.k8s.io EndpointSlice.
    EndpointSlice,
    /// gateway.networking.k8s.io HTTPRoute.
    HttpRoute,
    /// autoscaling HorizontalPodAutoscaler.
    Autoscaler,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::RollingUpdate,
        Self::Deployment,
        Self::ReplicaSet,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::Autoscaler,
    ];

    /// (group, version, kind, plural) as the API knows them.
    pub fn gvk(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::RollingUpdate => ("aether.dev", "v1alpha1", "RollingUpdate", "rollingupdates"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::ReplicaSet => ("apps", "v1", "ReplicaSet", "replicasets"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
            Self::Autoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
        }
    }
}

/// Where an object lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Shorthand.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Opaque version, precondition of writes.
    pub resource_version: String,
    /// Generation of the spec.
    pub generation: i64,
    /// A deletion is under way.
    pub deleting: bool,
    /// Labels of ours, and the ReplicaSet's hash; others are not kept.
    pub labels: BTreeMap<String, String>,
    /// Annotations of ours; others are not kept.
    pub annotations: BTreeMap<String, String>,
    /// There are annotations, ours or not: a JSON Patch must know.
    pub annotated: bool,
    /// UID of the controlling owner.
    pub controller: Option<String>,
    /// UIDs of all owners.
    pub owners: Vec<String>,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// Field manager of the newest write to the object itself that was not ours; of Deployments, Services and routes.
    pub last_writer: Option<String>,
}

impl Meta {
    /// Where it lives.
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    fn read(object: &DynamicObject) -> Self {
        let meta = &object.metadata;
        let ours = |map: &Option<BTreeMap<String, String>>| {
            map.iter()
                .flatten()
                .filter(|(k, _)| k.starts_with("aether.dev/") || *k == names::POD_TEMPLATE_HASH)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            labels: ours(&meta.labels),
            annotations: ours(&meta.annotations),
            annotated: meta.annotations.is_some(),
            controller: owners.iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone()),
            owners: owners.iter().map(|o| o.uid.clone()).collect(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            last_writer: None,
        }
    }

    fn with_last_writer(mut self, object: &DynamicObject) -> Self {
        // A Deployment is annotated by its controller all the time.
        let others = [names::FIELD_MANAGER, "kube-controller-manager"];
        let entries = object.metadata.managed_fields.iter().flatten().filter(|e| e.subresource.is_none());
        let named = entries.filter(|e| e.manager.as_deref().is_some_and(|m| !others.contains(&m)));
        self.last_writer = named.max_by_key(|e| e.time.as_ref().map(|t| t.0)).and_then(|e| e.manager.clone());
        self
    }
}

/// A Deployment: the user's, or one of ours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deployment {
    /// Common part.
    pub meta: Meta,
    /// Pods wanted.
    pub replicas: i32,
    /// Template changes are not rolled out.
    pub paused: bool,
    /// `spec.selector.matchLabels`.
    pub selector: BTreeMap<String, String>,
    /// The pod template as JSON text; empty for Deployments of ours, which are never templates.
    pub template: Arc<str>,
    /// What a new version's Deployment takes over besides the template: minReadySeconds, strategy and the like.
    pub tuning: Value,
    /// Generation the Deployment controller has seen.
    pub observed_generation: i64,
    /// Pods in any ReplicaSet.
    pub total: i32,
    /// Pods of the current template.
    pub updated: i32,
    /// Pods ready for `minReadySeconds`.
    pub available: i32,
    /// Who, other than the operator, says `replicas` in a manifest.
    pub replicas_owner: Option<String>,
    /// Why the Deployment controller cannot make pods (quota, admission), if it says so.
    pub failure: Option<String>,
}

/// A ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Common part; `labels` holds the pod-template-hash, `controller` the Deployment.
    pub meta: Meta,
    /// Pods wanted.
    pub replicas: i32,
    /// The serving label that its pods are born with.
    pub serving: Option<String>,
}

/// A HorizontalPodAutoscaler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Autoscaler {
    /// Common part.
    pub meta: Meta,
    /// Kind and name of what it scales.
    pub target: (String, String),
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Common part; `controller` is the ReplicaSet.
    pub meta: Meta,
    /// Ready by its conditions.
    pub ready: bool,
    /// Reason and message of what keeps it from getting ready, such as ImagePullBackOff.
    pub problem: Option<(String, String)>,
    /// Its address, once it has one.
    pub ip: String,
    /// Its annotations of `prometheus.io/`.
    pub scraping: BTreeMap<String, String>,
    /// Its containers' ports, sidecars' as well.
    pub ports: Vec<ContainerPort>,
    /// Its process. Of several containers only this is known of whichever has a port that none declares: it did not start
    /// before the oldest of them. Its restarts show as counters that fall.
    pub process: Option<Process>,
    /// Paths that machines ask its containers for over HTTP: probes, and what Istio's sidecar reads.
    pub polled: Vec<String>,
}

/// A port that a container declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name, may be empty.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Whose it is.
    pub process: Process,
}

/// One run of a container: its counters begin at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// How often the container was started again.
    pub restarts: i32,
    /// When this run started, while it runs.
    pub started: Option<Time>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Common part.
    pub meta: Meta,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// `spec.type`.
    pub type_: String,
    /// What a version Service takes over from the apex: ports, affinity, traffic policy.
    pub shape: Value,
}

/// One EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Common part.
    pub meta: Meta,
    /// The Service it belongs to.
    pub service: String,
    /// Names of the pods that get new connections.
    pub ready: BTreeSet<String>,
    /// Names of every pod in it, terminating ones too.
    pub all: BTreeSet<String>,
}

/// An HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRoute {
    /// Common part.
    pub meta: Meta,
    /// `spec.parentRefs`, defaults filled in.
    pub parents: Vec<ParentRef>,
    /// `spec.rules`, as they are.
    pub rules: Value,
    /// `status.parents`.
    pub statuses: Vec<ParentStatus>,
}

/// A parent of a route with the API's defaults filled in, so that spec and status compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    /// API group.
    pub group: Option<String>,
    /// Kind.
    pub kind: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Listener.
    pub section_name: Option<String>,
    /// Port.
    pub port: Option<i32>,
}

impl ParentRef {
    fn complete(mut self, namespace: &str) -> Self {
        self.group.get_or_insert_with(|| "gateway.networking.k8s.io".into());
        self.kind.get_or_insert_with(|| "Gateway".into());
        self.namespace.get_or_insert_with(|| namespace.into());
        self
    }
}

impl std::fmt::Display for ParentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_deref().unwrap_or("Gateway"), self.name)
    }
}

/// What one controller says about a route under one parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentStatus {
    /// Which parent.
    pub parent: ParentRef,
    /// Who says it.
    pub controller: String,
    /// Its conditions.
    pub conditions: Vec<RouteCondition>,
}

/// One condition of a route's parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteCondition {
    /// Accepted, ResolvedRefs, PartiallyInvalid.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False, Unknown.
    pub status: String,
    /// CamelCase word.
    pub reason: String,
    /// Sentence.
    pub message: String,
    /// Generation it speaks of.
    pub observed_generation: i64,
}

/// A RollingUpdate as read, or why it cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Common part.
    pub meta: Meta,
    /// The object; the error text keeps one unreadable object from stopping the others.
    pub object: Result<Box<RollingUpdate>, String>,
}

impl Update {
    /// The recorded state; PENDING where there is none yet, nothing where the object cannot be read.
    pub fn state(&self) -> Option<State> {
        let object = self.object.as_ref().ok()?;
        Some(object.status.as_ref().map(|s| s.state).unwrap_or_default())
    }
}

/// The facts of one object.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Update(Arc<Update>),
    Deployment(Arc<Deployment>),
    ReplicaSet(Arc<ReplicaSet>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    HttpRoute(Arc<HttpRoute>),
    Autoscaler(Arc<Autoscaler>),
}

impl Fact {
    /// The common part.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Update(o) => &o.meta,
            Self::Deployment(o) => &o.meta,
            Self::ReplicaSet(o) => &o.meta,
            Self::Pod(o) => &o.meta,
            Self::Service(o) => &o.meta,
            Self::EndpointSlice(o) => &o.meta,
            Self::HttpRoute(o) => &o.meta,
            Self::Autoscaler(o) => &o.meta,
        }
    }

    /// Reads the facts of an object of that kind. Total: what is missing has its default.
    pub fn read(kind: Kind, object: DynamicObject) -> Self {
        let meta = Meta::read(&object);
        match kind {
            Kind::RollingUpdate => Self::Update(Arc::new(read_update(meta, object))),
            Kind::Deployment => Self::Deployment(Arc::new(read_deployment(meta.with_last_writer(&object), &object))),
            Kind::ReplicaSet => {
                let replicas = int(&object.data, "/spec/replicas").unwrap_or(1);
                let serving = strings(object.data.pointer("/spec/template/metadata/labels")).remove(names::SERVING);
                Self::ReplicaSet(Arc::new(ReplicaSet { meta, replicas, serving }))
            }
            Kind::Pod => Self::Pod(Arc::new(read_pod(meta, &object))),
            Kind::Service => Self::Service(Arc::new(read_service(meta.with_last_writer(&object), &object.data))),
            Kind::EndpointSlice => Self::EndpointSlice(Arc::new(read_slice(meta, &object))),
            Kind::HttpRoute => Self::HttpRoute(Arc::new(read_route(meta.with_last_writer(&object), &object.data))),
            Kind::Autoscaler => {
                let part = |path: &str| text(&object.data, path).to_owned();
                let target = (part("/spec/scaleTargetRef/kind"), part("/spec/scaleTargetRef/name"));
                Self::Autoscaler(Arc::new(Autoscaler { meta, target }))
            }
        }
    }
}

fn read_update(meta: Meta, object: DynamicObject) -> Update {
    let mut object = object;
    object.metadata = kube::core::ObjectMeta { name: object.metadata.name, namespace: object.metadata.namespace, ..Default::default() };
    Update { meta, object: object.try_parse::<RollingUpdate>().map(Box::new).map_err(|e| e.to_string()) }
}

const TUNING: [&str; 4] = ["minReadySeconds", "strategy", "progressDeadlineSeconds", "revisionHistoryLimit"];

fn read_deployment(meta: Meta, object: &DynamicObject) -> Deployment {
    let data = &object.data;
    let ours = meta.labels.contains_key(names::REVISION);
    let template = match data.pointer("/spec/template") {
        Some(template) if !ours => template.to_string().into(),
        _ => Arc::from(""),
    };
    Deployment {
        replicas: int(data, "/spec/replicas").unwrap_or(1),
        paused: data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or_default(),
        selector: strings(data.pointer("/spec/selector/matchLabels")),
        template,
        tuning: if ours { Value::Null } else { pick(data.pointer("/spec"), &TUNING) },
        observed_generation: data.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or_default(),
        total: int(data, "/status/replicas").unwrap_or_default(),
        updated: int(data, "/status/updatedReplicas").unwrap_or_default(),
        available: int(data, "/status/availableReplicas").unwrap_or_default(),
        replicas_owner: replicas_owner(object),
        failure: list(data, "/status/conditions")
            .filter(|c| text(c, "/type") == "ReplicaFailure" && text(c, "/status") == "True")
            .map(|c| text(c, "/message").to_owned())
            .next(),
        meta,
    }
}

/// Who says `replicas` in a manifest: a server-side applier, or kubectl's client-side apply. A scale
/// subresource write (an HPA, `kubectl scale`) is a size, not a claim that comes back by itself.
fn replicas_owner(object: &DynamicObject) -> Option<String> {
    const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let applied = object.metadata.annotations.as_ref().and_then(|a| a.get(APPLIED));
    // What a client-side apply says is no field ownership where it equals what was there, but it comes back all the same.
    if applied.and_then(|text| serde_json::from_str::<Value>(text).ok()).is_some_and(|a| a.pointer("/spec/replicas").is_some()) {
        return Some("kubectl apply".to_owned());
    }
    let entries = object.metadata.managed_fields.as_deref().unwrap_or_default();
    entries
        .iter()
        .filter(|e| e.manager.as_deref() != Some(names::FIELD_MANAGER) && e.subresource.is_none())
        .filter(|e| e.operation.as_deref() == Some("Apply") || e.manager.as_deref() == Some("kubectl-client-side-apply"))
        .find(|e| e.fields_v1.as_ref().is_some_and(|f| f.0.pointer("/f:spec/f:replicas").is_some()))
        .and_then(|e| e.manager.clone())
}

fn read_pod(meta: Meta, object: &DynamicObject) -> Pod {
    let data = &object.data;
    let condition = |type_: &str| list(data, "/status/conditions").find(|c| text(c, "/type") == type_);
    let ready = condition("Ready").is_some_and(|c| text(c, "/status") == "True");
    let waiting = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .iter()
        .flat_map(|path| list(data, path))
        .filter_map(|c| c.pointer("/state/waiting"))
        .map(|w| (text(w, "/reason").to_owned(), text(w, "/message").to_owned()))
        .find(|(reason, _)| !matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing"));
    let unschedulable = || {
        condition("PodScheduled")
            .filter(|c| text(c, "/status") == "False" && text(c, "/reason") == "Unschedulable")
            .map(|c| ("Unschedulable".to_owned(), text(c, "/message").to_owned()))
    };
    let problem = waiting.or_else(unschedulable);
    let annotations = object.metadata.annotations.iter().flatten();
    let scraping = annotations.filter(|(k, _)| k.starts_with("prometheus.io/")).map(|(k, v)| (k.clone(), v.clone())).collect();
    let (ports, process) = read_processes(data);
    Pod { ready, problem, ip: text(data, "/status/podIP").to_owned(), scraping, ports, process, polled: read_polled(data), meta }
}

/// The ports of a pod's containers, and the pod's process.
fn read_processes(data: &Value) -> (Vec<ContainerPort>, Option<Process>) {
    let run_of = |statuses: &str, name: &str| {
        let status = list(data, statuses).find(|s| text(s, "/name") == name);
        Process {
            restarts: status.and_then(|s| int(s, "/restartCount")).unwrap_or_default(),
            started: status.and_then(|s| text(s, "/state/running/startedAt").parse().ok()),
        }
    };
    let (mut ports, mut runs) = (Vec::new(), Vec::new());
    for (containers, statuses) in
        [("/spec/containers", "/status/containerStatuses"), ("/spec/initContainers", "/status/initContainerStatuses")]
    {
        for container in list(data, containers) {
            let process = run_of(statuses, text(container, "/name"));
            runs.push(process);
            for port in list(container, "/ports") {
                let number = int(port, "/containerPort").and_then(|n| u16::try_from(n).ok());
                ports.extend(number.map(|number| ContainerPort { name: text(port, "/name").to_owned(), number, process }));
            }
        }
    }
    let process = match runs.as_slice() {
        [] => None,
        [only] => Some(*only),
        several => Some(Process { restarts: 0, started: several.iter().filter_map(|run| run.started).min() }),
    };
    (ports, process)
}

/// What machines ask for. More or longer paths than these are not kept, and who asks for them is taken for a user.
fn read_polled(data: &Value) -> Vec<String> {
    const MOST: usize = 16;
    const LONGEST: usize = 256;
    const PROBES: [&str; 3] = ["/readinessProbe/httpGet/path", "/livenessProbe/httpGet/path", "/startupProbe/httpGet/path"];
    let mut paths = BTreeSet::new();
    for container in list(data, "/spec/containers").chain(list(data, "/spec/initContainers")) {
        let probed = PROBES.iter().map(|probe| text(container, probe).to_owned());
        let asked = probed.chain(list(container, "/env").flat_map(asked_by_istio));
        paths.extend(asked.filter(|path| !path.is_empty() && path.len() <= LONGEST));
    }
    paths.into_iter().take(MOST).collect()
}

/// Istio's sidecar is probed and read in the others' place. What it asks them for then is in its environment.
fn asked_by_istio(env: &Value) -> Vec<String> {
    let value = || serde_json::from_str::<Value>(text(env, "/value")).unwrap_or_default();
    match text(env, "/name") {
        "ISTIO_KUBE_APP_PROBERS" => {
            value().as_object().into_iter().flatten().map(|(_, prober)| text(prober, "/httpGet/path").to_owned()).collect()
        }
        "ISTIO_PROMETHEUS_ANNOTATIONS" => match text(&value(), "/path") {
            "" => vec!["/metrics".to_owned()],
            path => vec![path.to_owned()],
        },
        _ => Vec::new(),
    }
}

fn read_service(meta: Meta, data: &Value) -> Service {
    const SHAPE: [&str; 8] = [
        "ports",
        "sessionAffinity",
        "sessionAffinityConfig",
        "internalTrafficPolicy",
        "trafficDistribution",
        "publishNotReadyAddresses",
        "ipFamilies",
        "ipFamilyPolicy",
    ];
    let mut shape = pick(data.pointer("/spec"), &SHAPE);
    if text(data, "/spec/clusterIP") == "None" {
        // A headless apex has headless versions, or callers would see a difference.
        if let Some(shape) = shape.as_object_mut() {
            shape.insert("clusterIP".into(), "None".into());
        }
    }
    for port in shape.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
    Service {
        selector: strings(data.pointer("/spec/selector")),
        type_: data.pointer("/spec/type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned(),
        shape,
        meta,
    }
}

fn read_slice(meta: Meta, object: &DynamicObject) -> EndpointSlice {
    let mut slice = EndpointSlice {
        service: object.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")).cloned().unwrap_or_default(),
        meta,
        ..EndpointSlice::default()
    };
    for endpoint in list(&object.data, "/endpoints") {
        let name = match text(endpoint, "/targetRef/name") {
            "" => text(endpoint, "/addresses/0"),
            name => name,
        };
        if endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true) {
            slice.ready.insert(name.to_owned());
        }
        slice.all.insert(name.to_owned());
    }
    slice
}

fn read_route(meta: Meta, data: &Value) -> HttpRoute {
    let parent = |value: &Value| ParentRef::deserialize(value).unwrap_or_default().complete(&meta.namespace);
    let statuses = list(data, "/status/parents")
        .map(|status| ParentStatus {
            parent: status.get("parentRef").map(parent).unwrap_or_default(),
            controller: text(status, "/controllerName").to_owned(),
            conditions: list(status, "/conditions").filter_map(|c| RouteCondition::deserialize(c).ok()).collect(),
        })
        .collect();
    HttpRoute {
        parents: list(data, "/spec/parentRefs").map(parent).collect(),
        rules: data.pointer("/spec/rules").cloned().unwrap_or_default(),
        statuses,
        meta,
    }
}

/// The named fields of an object, those that are there.
fn pick(object: Option<&Value>, names: &[&str]) -> Value {
    let object = object.and_then(Value::as_object);
    names.iter().filter_map(|name| Some(((*name).to_owned(), object?.get(*name)?.clone()))).collect()
}

fn int(data: &Value, path: &str) -> Option<i32> {
    data.pointer(path).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok())
}

fn text<'a>(data: &'a Value, path: &str) -> &'a str {
    data.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(data: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    data.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    value.and_then(Value::as_object).into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;

//! The controllers of a cluster, each a function that looks at the world and does what is next.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use aether_operator::api::{Time, names};
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::{Value, json};

use super::gateway::{Manner, Plane};
use super::rng::Rng;
use super::world::{FOREGROUND, World, int, is_deleting, is_ready, items, key_of, millis, owner_uids, selects, strings, text};

/// How long things take, in milliseconds.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From a pod's creation to Ready.
    pub ready: u64,
    /// From a pod's deletion to gone.
    pub gone: u64,
    /// From a route's change to its parents' status.
    pub ack: u64,
    /// From a change to the gateway's data plane.
    pub plane: u64,
    /// From a slice's change to kube-proxy.
    pub proxy: u64,
    /// Chance in percent that a controller sleeps through a tick.
    pub lazy: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { ready: 2000, gone: 3000, ack: 500, plane: 2000, proxy: 1000, lazy: 0 }
    }
}

/// The cluster: its API server, its controllers' memory and its data plane.
pub struct Cluster {
    pub world: World,
    pub plane: Plane,
    pub timing: Timing,
    /// How the gateway behaves.
    pub gateway: Manner,
    /// Image tags whose pods never get ready.
    pub broken: BTreeSet<String>,
    timers: BTreeMap<String, Time>,
    serial: u64,
    /// The version of the world at which no controller had anything to do.
    idle_at: u64,
}

type Controller = fn(&mut Cluster);

pub const CONTROLLERS: [(&str, Controller); 6] = [
    ("deployment", deployments),
    ("replicaset", replica_sets),
    ("kubelet", kubelet),
    ("slices", slices),
    ("gc", collect_garbage),
    ("gateway", super::gateway::acknowledge),
];

impl Cluster {
    pub fn new(timing: Timing) -> Self {
        Self {
            world: World::new(),
            plane: Plane::default(),
            timing,
            gateway: Manner::Honest,
            broken: BTreeSet::new(),
            timers: BTreeMap::new(),
            serial: 0,
            idle_at: 0,
        }
    }

    /// The gateway behaves otherwise from now on.
    pub fn turn_gateway(&mut self, manner: Manner) {
        (self.gateway, self.idle_at) = (manner, 0);
    }

    /// One tick of everything but the operator. False: nothing was to be done, nothing has changed.
    pub fn step(&mut self, rng: &mut Rng) -> bool {
        let now = self.world.now;
        if self.idle_at == self.world.version && self.timers.values().all(|due| *due > now) && !self.plane.lags() {
            return false;
        }
        let (version, mut all) = (self.world.version, true);
        for (_, controller) in CONTROLLERS {
            if rng.percent(self.timing.lazy) {
                all = false;
            } else {
                controller(self);
            }
        }
        // Matters nobody asks about any more.
        self.timers.retain(|_, due| *due + millis(20_000) > now);
        self.plane.follow(&self.world, &self.timing);
        if all && version == self.world.version {
            self.idle_at = version;
        }
        true
    }
}

/// What `timers` says of that matter; asked for the first time, it is due after `wait`.
pub fn is_due(cluster: &mut Cluster, matter: &str, wait: u64) -> bool {
    let now = cluster.world.now;
    let due = *cluster.timers.entry(matter.to_owned()).or_insert(now + millis(wait));
    if due <= now {
        cluster.timers.remove(matter);
    }
    due <= now
}

pub fn forget(cluster: &mut Cluster, matter: &str) {
    cluster.timers.remove(matter);
}

fn hash_of(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:08x}", hasher.finish() & 0xffff_ffff)
}

/// A hash for a new ReplicaSet; one of the same name that was edited since is left alone.
fn free_hash(world: &World, key: &Key, template: &Value) -> String {
    let taken = |hash: &str| world.at(Kind::ReplicaSet, &Key::new(&key.namespace, format!("{}-{hash}", key.name))).is_some();
    let hash = hash_of(template);
    (0..100).map(|n| if n == 0 { hash.clone() } else { format!("{hash}{n}") }).find(|h| !taken(h)).unwrap()
}

/// Whether a ReplicaSet has that template, but for the hash that its controller has put in.
fn is_made_from(set: &Value, template: &Value) -> bool {
    let own = &set["spec"]["template"];
    let labels = |t: &Value| {
        let mut labels = strings(t, "/metadata/labels");
        labels.remove(names::POD_TEMPLATE_HASH);
        labels
    };
    own["spec"] == template["spec"]
        && own["metadata"]["annotations"] == template["metadata"]["annotations"]
        && labels(own) == labels(template)
}

fn owned(world: &World, kind: Kind, uid: &str) -> Vec<Arc<Value>> {
    world.of(kind).map(|(_, o)| o).filter(|o| owner_uids(o).any(|u| u == uid)).cloned().collect()
}

fn scale(world: &mut World, set: &Value, replicas: i64) {
    if int(set, "/spec/replicas") != replicas {
        world.edit(Kind::ReplicaSet, &key_of(set), "deployment", |s| s["spec"]["replicas"] = json!(replicas));
    }
}

fn deployments(c: &mut Cluster) {
    for (key, deployment) in c.world.list(Kind::Deployment) {
        if !is_deleting(&deployment) {
            roll(&mut c.world, &key, &deployment);
            report(&mut c.world, &key);
        }
    }
}

fn roll(world: &mut World, key: &Key, deployment: &Value) {
    let uid = text(deployment, "/metadata/uid");
    let template = &deployment["spec"]["template"];
    let wanted = int(deployment, "/spec/replicas");
    let sets = owned(world, Kind::ReplicaSet, uid);
    // Of several that say the same the oldest is gone on with, and the others go, as with the real one.
    let current = sets.iter().find(|s| is_made_from(s, template));
    let filled: Vec<_> = sets.iter().filter(|s| int(s, "/spec/replicas") > 0).collect();
    if deployment.pointer("/spec/paused").is_some() {
        let one = match filled.as_slice() {
            [] => current.or_else(|| sets.last()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(set) = one {
            scale(world, set, wanted);
        }
        return;
    }
    let Some(current) = current else {
        let hash = free_hash(world, key, template);
        let mut template = template.clone();
        template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", key.name), "namespace": key.namespace, "labels": template["metadata"]["labels"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": key.name, "uid": uid, "controller": true}],
            },
            // A rollout begins with its surge.
            "spec": {"replicas": if filled.is_empty() { wanted } else { wanted.min(1) }, "template": template},
        });
        world.create(Kind::ReplicaSet, set, "deployment").ok();
        return;
    };
    let others: Vec<_> = filled.iter().filter(|s| s["metadata"]["uid"] != current["metadata"]["uid"]).collect();
    let Some(other) = others.first() else {
        scale(world, current, wanted);
        return;
    };
    // A native rollout, one pod up, one pod down.
    let total: i64 = sets.iter().map(|s| int(s, "/spec/replicas")).sum();
    let ready = sets.iter().flat_map(|s| owned(world, Kind::Pod, text(s, "/metadata/uid"))).filter(|p| is_ready(p)).count();
    if int(current, "/spec/replicas") < wanted && total <= wanted {
        scale(world, current, int(current, "/spec/replicas") + 1);
    } else if i64::try_from(ready).unwrap() > wanted {
        scale(world, other, int(other, "/spec/replicas") - 1);
    }
}

fn report(world: &mut World, key: &Key) {
    let Some(deployment) = world.at(Kind::Deployment, key).cloned() else { return };
    let mut counts = (0, 0, 0);
    let sets = owned(world, Kind::ReplicaSet, text(&deployment, "/metadata/uid"));
    let updated = sets.iter().position(|s| is_made_from(s, &deployment["spec"]["template"]));
    for (at, set) in sets.iter().enumerate() {
        let current = updated == Some(at);
        for pod in owned(world, Kind::Pod, text(set, "/metadata/uid")).iter().filter(|p| !is_deleting(p)) {
            counts.0 += 1;
            counts.1 += i32::from(current);
            counts.2 += i32::from(is_ready(pod));
        }
    }
    let status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": counts.0, "updatedReplicas": counts.1, "availableReplicas": counts.2, "readyReplicas": counts.2,
    });
    if deployment.get("status") != Some(&status) {
        world.edit(Kind::Deployment, key, "deployment", |d| d["status"] = status);
    }
}

fn replica_sets(c: &mut Cluster) {
    for (key, set) in c.world.list(Kind::ReplicaSet) {
        let uid = text(&set, "/metadata/uid");
        let mut pods: Vec<_> = owned(&c.world, Kind::Pod, uid).into_iter().filter(|p| !is_deleting(p)).collect();
        if is_deleting(&set) {
            continue;
        }
        let wanted = usize::try_from(int(&set, "/spec/replicas")).unwrap();
        for _ in pods.len()..wanted {
            c.serial += 1;
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": format!("{}-{:03}", key.name, c.serial), "namespace": key.namespace,
                    "labels": set["spec"]["template"]["metadata"]["labels"],
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": key.name, "uid": uid, "controller": true}],
                },
                "spec": set["spec"]["template"]["spec"],
                "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]},
            });
            c.world.create(Kind::Pod, pod, "replicaset").unwrap();
        }
        pods.sort_by_key(|p| is_ready(p));
        let surplus = pods.len().saturating_sub(wanted);
        for pod in pods.into_iter().take(surplus) {
            c.world.delete(Kind::Pod, &key_of(&pod), None, "replicaset").unwrap();
        }
    }
}

/// The tag of the first container: the version, as the cluster itself knows it.
pub fn tag(spec: &Value) -> &str {
    text(spec, "/containers/0/image").rsplit(':').next().unwrap_or_default()
}

fn kubelet(c: &mut Cluster) {
    for (key, pod) in c.world.list(Kind::Pod) {
        let uid = text(&pod, "/metadata/uid");
        if is_deleting(&pod) {
            if is_due(c, &format!("gone {uid}"), c.timing.gone) {
                c.world.remove(Kind::Pod, &key, "kubelet");
            }
        } else if !is_ready(&pod) && !c.broken.contains(tag(&pod["spec"])) && is_due(c, &format!("ready {uid}"), c.timing.ready) {
            c.world.edit(Kind::Pod, &key, "kubelet", |p| {
                p["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            });
        }
    }
}

fn slices(c: &mut Cluster) {
    for (key, service) in c.world.list(Kind::Service) {
        let selector = strings(&service, "/spec/selector");
        if selector.is_empty() {
            continue;
        }
        let endpoints: Vec<Value> = c
            .world
            .of(Kind::Pod)
            .filter(|(k, p)| k.namespace == key.namespace && selects(&selector, &strings(p, "/metadata/labels")))
            .map(|(k, p)| {
                json!({
                    "addresses": [k.name], "targetRef": {"kind": "Pod", "name": k.name},
                    "conditions": {"ready": is_ready(p), "serving": true, "terminating": is_deleting(p)},
                })
            })
            .collect();
        let slice = Key::new(&key.namespace, format!("{}-eps", key.name));
        let known = c.world.at(Kind::EndpointSlice, &slice).filter(|s| owner_uids(s).eq([text(&service, "/metadata/uid")]));
        if known.is_some_and(|s| items(s, "/endpoints").eq(&endpoints)) {
            continue;
        }
        if known.is_some() {
            c.world.edit(Kind::EndpointSlice, &slice, "slices", |s| s["endpoints"] = json!(endpoints));
        } else {
            let object = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": slice.name, "namespace": slice.namespace, "labels": {"kubernetes.io/service-name": key.name},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": key.name, "uid": service["metadata"]["uid"]}],
                },
                "addressType": "IPv4", "endpoints": endpoints,
            });
            // The slice of a Service of the same name that is gone has to be collected first.
            c.world.create(Kind::EndpointSlice, object, "slices").ok();
        }
    }
}

/// What all owners of are gone goes too; what waits for what it owns goes after that.
fn collect_garbage(c: &mut Cluster) {
    let waits = |o: &Value| is_deleting(o) && items(o, "/metadata/finalizers").any(|f| f == FOREGROUND);
    let waiting: Vec<_> = c.world.objects.iter().filter(|(_, o)| waits(o)).map(|(id, o)| (id.clone(), o.clone())).collect();
    for ((kind, key), owner) in waiting {
        let uid = text(&owner, "/metadata/uid");
        let all = c.world.objects.iter().filter(|(_, o)| owner_uids(o).any(|u| u == uid));
        let dependents: Vec<_> = all.map(|(id, _)| id.clone()).collect();
        if dependents.is_empty() {
            c.world.remove(kind, &key, "gc");
        }
        for (kind, key) in dependents {
            if kind == Kind::ReplicaSet {
                c.world.delete_foreground(kind, &key, None, "gc").ok();
            } else {
                c.world.delete(kind, &key, None, "gc").ok();
            }
        }
    }
    let orphans: Vec<_> = c
        .world
        .objects
        .iter()
        .filter(|(_, o)| items(o, "/metadata/ownerReferences").next().is_some() && !owner_uids(o).any(|u| c.world.has_uid(u)))
        .map(|(id, _)| id.clone())
        .collect();
    for (kind, key) in orphans {
        c.world.delete(kind, &key, None, "gc").ok();
    }
}

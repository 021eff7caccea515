//! What the operator says about a pool: the documented JSON key for key, and what Kubernetes expects.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Time;
use crate::api::conditions::Condition;

/// What the operator says about a pool. The keys with an underscore are the documented ones of `GET /rolling`.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPoolStatus {
    /// Proxies that serve, aged ones included until their own turn.
    #[serde(default)]
    pub healthy: i32,
    /// Proxies created and not yet healthy.
    #[serde(default)]
    pub pending: i32,
    /// Proxies marked for recycling whose deletion has not started.
    #[serde(default, rename = "pending_recycle")]
    pub pending_recycle: i32,
    /// Proxies being deleted, or gone and waiting for their replacement.
    #[serde(default)]
    pub recycling: i32,
    /// When this status last changed.
    #[serde(default, rename = "last_update", skip_serializing_if = "Option::is_none")]
    pub last_update: Option<Time>,
    /// Addresses of the healthy ones; at most 500.
    #[serde(default, rename = "healthy_ips")]
    #[schemars(length(max = 500), inner(length(max = 64)))]
    pub healthy_ips: Vec<String>,
    /// Addresses of the marked ones; at most 500.
    #[serde(default, rename = "pending_recycle_ips")]
    #[schemars(length(max = 500), inner(length(max = 64)))]
    pub pending_recycle_ips: Vec<String>,
    /// Addresses of those in recycling; at most 500.
    #[serde(default, rename = "recycling_ips")]
    #[schemars(length(max = 500), inner(length(max = 64)))]
    pub recycling_ips: Vec<String>,
    /// The rolling configuration in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RollingConfig>,
    /// `metadata.generation` this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Proxies that exist (scale subresource).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of the proxies that are pods (scale subresource).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `healthy/wanted`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The floor in force: minAvailable, or less where it could never be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_min_available: Option<i32>,
    /// Proxies past their age limit.
    #[serde(default)]
    pub aged: i32,
    /// Proxies whose probes fail, or that do not run.
    #[serde(default)]
    pub unhealthy: i32,
    /// Proxies that were there to stay when the cloud's list could be believed last. A list that suddenly shows none of them
    /// may be that of another account.
    #[serde(default)]
    pub known: i32,
    /// Second proxies of one place that were removed so far.
    #[serde(default)]
    pub duplicates_removed: i32,
    /// Age of the oldest proxy when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age: Option<String>,
    /// When the next proxy reaches its age limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_expiry: Option<Time>,
    /// The highest epoch given out: none is ever used twice.
    #[serde(default)]
    pub epoch: i64,
    /// What is under way, slot by slot: written before it is done. At most 250 at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub in_flight: Vec<InFlight>,
    /// What of the annotation `aether.dev/evict` has been answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub evicted: Vec<Evicted>,
    /// What is known of the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderStatus>,
    /// What tools read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A rolling configuration, as the REST API spells it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollingConfig {
    /// Recycling keeps to floor and batch.
    pub enabled: bool,
    /// Proxies that must stay available.
    pub min_available: i32,
    /// Proxies in recycling at once.
    pub batch_size: i32,
}

/// One slot that something is done about. It stays on record until it has come to its end.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Place in the pool.
    pub slot: u32,
    /// What it is for.
    pub op: Op,
    /// How far it is.
    pub phase: Step,
    /// When it was marked.
    pub since: Time,
    /// Epoch of the proxy that is to be created; 0 while none is.
    #[serde(default)]
    pub epoch: u32,
    /// Name of the attempt to create; on record before the call is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    /// Hash of what it is created from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// When that create was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<Time>,
    /// How often it was asked for and did not appear.
    #[serde(default)]
    pub attempts: u32,
    /// Replacements for this slot that did not become healthy within startupTimeout.
    #[serde(default)]
    pub missed: u32,
    /// The cloud's id of the new proxy, once it is listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// The cloud's id of the proxy that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Address of the proxy that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What a slot in flight is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// An empty place gets a proxy.
    Fill,
    /// An aged or drifted proxy is replaced.
    Recycle,
    /// A person wants that proxy replaced.
    Evict,
    /// One proxy too many goes.
    Remove,
}

/// How far a slot in flight is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The old proxy still serves; its replacement comes first or waits for room.
    Marked,
    /// The old proxy is being deleted.
    Deleting,
    /// The old one is gone; a new one is asked for.
    Creating,
    /// The new one exists and is not healthy yet.
    Starting,
}

/// An entry of the annotation `aether.dev/evict` that has been answered; it goes when the entry does.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Evicted {
    /// The entry as it was written: a VM's id, or its address at that time.
    #[schemars(length(max = 256))]
    pub entry: String,
    /// The VM that it meant; none: nobody had it, and whoever gets that address later is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
}

/// What is known of the cloud.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// Which: digitalocean, aws, gcp, hetzner, vultr or kubernetes.
    #[serde(default)]
    pub name: String,
    /// When the last complete list was asked for, as of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_list_at: Option<Time>,
    /// Requests left in the cloud's window, as of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_remaining: Option<i64>,
    /// Nothing is asked of the cloud before then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_until: Option<Time>,
    /// The cloud's last error, while it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400))]
    pub last_error: Option<String>,
}

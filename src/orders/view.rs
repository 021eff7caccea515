//! What is answered: the documented JSON, made of custom resources. `-o json` of the CLI and the REST API give the same.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::conditions::{self, INVALID_SPEC, READY};
use crate::api::proxy_pool::RollingConfig;
use crate::api::rolling_update::{CleanupPolicy, Decision, Health, Outcome, Step, Verdict, VersionHealth};
use crate::api::{ProxyPool, RollingUpdate, State, Time};
use crate::rollout::wish::Wish;

/// One rolling update.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Its id: the RollingUpdate's name.
    pub update_id: String,
    /// Namespace it is in.
    pub namespace: String,
    /// `group:name` of what is released.
    pub artifact_base: String,
    /// The version that carried the traffic when it started; null until that is known.
    pub old_version: Option<String>,
    /// The version being brought out.
    pub new_version: String,
    /// Where it is.
    pub state: State,
    /// The ratio new:old that is in force.
    pub routing: String,
    /// The ratio that the data plane follows, where it can say.
    pub effective_routing: Option<String>,
    /// Pods wanted of the new version; null until that is known.
    pub new_instances: Option<i32>,
    /// Pods ready of the new version.
    pub ready_instances: Option<i32>,
    /// When it started; milliseconds since 1970.
    pub created_at: i64,
    /// When its status last changed; milliseconds since 1970.
    pub updated_at: i64,
    /// The limits in force.
    pub thresholds: Limits,
    /// Every routing change waits for a person.
    pub require_manual_approval: bool,
    /// What happens to the old version after completion.
    pub cleanup_policy: CleanupPolicy,
    /// The progression step in force.
    pub step: Option<Step>,
    /// What was measured means.
    pub decision: Option<Decision>,
    /// One CamelCase word for what it does or waits for.
    pub reason: String,
    /// The same as a sentence, with what a person can do.
    pub message: String,
    /// What is asked for now; the operator follows as fast as is safe.
    pub asked: Asked,
}

/// The limits of an update.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Largest share of failed requests, 0 to 1.
    pub max_error_rate: f64,
    /// Largest p99 latency, in milliseconds.
    pub max_latency_ms: i32,
}

/// What people ask of an update.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// The version wanted live. Another one than newVersion supersedes it.
    pub version: String,
    /// Hold this ratio new:old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// Steps up to this ratio may be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved: Option<String>,
    /// Hold everything where it is.
    #[serde(default)]
    pub paused: bool,
    /// How it shall end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// Several of them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Updates {
    /// In the order of namespace and name.
    pub updates: Vec<Update>,
}

/// The documented health answer, and what it means.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HealthAnswer {
    /// The documented keys.
    #[serde(flatten)]
    pub health: Health,
    /// Healthy, Unhealthy or Unknown.
    pub verdict: Verdict,
    /// One CamelCase word for why.
    pub reason: String,
    /// A sentence with the numbers.
    pub message: String,
    /// The limits they are held against.
    pub thresholds: Limits,
}

/// Who answered what, and when.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Names this request in the audit log.
    pub request_id: String,
    /// When it was answered.
    pub timestamp: Time,
}

/// The documented answer about rolling.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct RollingAnswer {
    /// About this answer.
    pub metadata: Metadata,
    /// A sentence.
    pub message: String,
    /// The operator-wide configuration; of one pool alone, what is in force there.
    pub config: RollingConfig,
    /// `provider/instance` -> how that pool is.
    pub status: BTreeMap<String, PoolStatus>,
}

/// How one pool is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Proxies that serve.
    pub healthy: i32,
    /// Proxies created and not yet healthy.
    pub pending: i32,
    /// Proxies marked for recycling.
    pub pending_recycle: i32,
    /// Proxies being deleted, or gone and waiting for their replacement.
    pub recycling: i32,
    /// When that last changed.
    pub last_update: Option<Time>,
    /// Addresses of the healthy ones, all of them.
    pub healthy_ips: Vec<String>,
    /// Addresses of the marked ones.
    pub pending_recycle_ips: Vec<String>,
    /// Addresses of those in recycling.
    pub recycling_ips: Vec<String>,
}

/// One healthy proxy. Its login is in the pool's Secrets and in no answer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its address.
    pub ip: String,
    /// The port it listens on.
    pub port: u16,
    /// It wants a login.
    pub auth_enabled: bool,
    /// Where it is reached, without the login.
    pub url: String,
    /// `provider/instance` of its pool.
    pub pool: String,
}

/// A page of the healthy proxies.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct ProxiesAnswer {
    /// About this answer.
    pub metadata: Metadata,
    /// A sentence.
    pub message: String,
    /// How many there are in all.
    pub total: usize,
    /// This page.
    pub proxies: Vec<Proxy>,
}

/// One proxy, picked at random or about to go.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct ProxyAnswer {
    /// About this answer.
    pub metadata: Metadata,
    /// A sentence.
    pub message: String,
    /// Which.
    pub proxy: Proxy,
}

impl Update {
    /// As it is now. A status that still speaks of the release before counts as PENDING.
    pub fn of(update: &RollingUpdate) -> Self {
        let spec = &update.spec;
        let status = update.status.clone().unwrap_or_default();
        let anew = status.state.is_terminal() && !speaks_of_spec(update);
        let wish = Wish::parse(spec).unwrap_or_else(|_| Wish::last_resort(Some(spec), &status));
        let ready = conditions::find(&status.conditions, READY).filter(|c| !anew || c.reason == INVALID_SPEC);
        let born = update.creation_timestamp().map_or(0, |t| t.0.as_millisecond());
        let millis = |time: Option<Time>| time.map_or(born, |t| t.timestamp_millis());
        let old = if anew && status.state == State::Completed { &status.new_version } else { &status.old_version };
        Self {
            update_id: update.name_any(),
            namespace: update.namespace().unwrap_or_default(),
            artifact_base: spec.artifact_base.clone(),
            old_version: old.clone(),
            new_version: status.new_version.clone().filter(|_| !anew).unwrap_or_else(|| spec.version.clone()),
            state: if anew { State::Pending } else { status.state },
            routing: status.routing.clone().filter(|_| !anew).unwrap_or_else(|| "0:1".into()),
            effective_routing: status.effective_routing.clone().filter(|_| !anew),
            new_instances: status.new_instances.filter(|_| !anew).or(spec.instances),
            ready_instances: status.ready_instances.filter(|_| !anew),
            created_at: millis(status.created_at),
            updated_at: millis(status.updated_at),
            thresholds: Limits { max_error_rate: wish.max_error_rate, max_latency_ms: wish.max_latency_ms },
            require_manual_approval: wish.manual_approval,
            cleanup_policy: wish.cleanup,
            step: status.step.clone().filter(|_| !anew),
            decision: status.decision.clone().filter(|_| !anew),
            reason: ready.map_or_else(|| "Pending".into(), |c| c.reason.clone()),
            message: ready.map_or_else(|| "waiting for the operator".into(), |c| c.message.clone()),
            asked: asked(update),
        }
    }

    /// It is not over.
    pub fn is_active(&self) -> bool {
        !self.state.is_terminal()
    }
}

impl HealthAnswer {
    /// What is known; nothing measured is Unknown with 0 requests.
    pub fn of(update: &RollingUpdate) -> Self {
        let shown = Update::of(update);
        let status = update.status.clone().unwrap_or_default();
        let none = |version: Option<String>| VersionHealth {
            version: version.unwrap_or_default(),
            request_count: 0,
            error_rate: 0.0,
            avg_latency_ms: 0.0,
        };
        let nothing = || Health {
            update_id: shown.update_id.clone(),
            old_version: none(shown.old_version.clone()),
            new_version: none(Some(shown.new_version.clone())),
            collected_at: shown.updated_at,
        };
        let health = status.health.filter(|_| shown.decision.is_some()).unwrap_or_else(nothing);
        let (verdict, reason, message) = match &shown.decision {
            Some(d) => (d.verdict, d.reason.clone(), d.message.clone()),
            None => (Verdict::Unknown, "NotJudged".into(), "nothing has been measured yet".into()),
        };
        Self { health, verdict, reason, message, thresholds: shown.thresholds }
    }
}

impl RollingAnswer {
    /// What is so, with the documented sentence.
    pub fn of(metadata: Metadata, config: RollingConfig, status: BTreeMap<String, PoolStatus>) -> Self {
        Self { metadata, message: "Rolling deployment status retrieved successfully".into(), config, status }
    }
}

impl PoolStatus {
    /// `healthy`: the addresses of all healthy ones, of which the status holds 500.
    pub fn of(pool: &ProxyPool, healthy: Vec<String>) -> Self {
        let status = pool.status.clone().unwrap_or_default();
        Self {
            healthy: status.healthy,
            pending: status.pending,
            pending_recycle: status.pending_recycle,
            recycling: status.recycling,
            last_update: status.last_update,
            healthy_ips: healthy,
            pending_recycle_ips: status.pending_recycle_ips,
            recycling_ips: status.recycling_ips,
        }
    }
}

/// The status speaks of the version and attempt that the spec wants.
pub fn speaks_of_spec(update: &RollingUpdate) -> bool {
    let status = update.status.as_ref();
    let attempt = status.and_then(|s| s.attempt).unwrap_or(1);
    status.and_then(|s| s.new_version.as_deref()) == Some(&update.spec.version) && attempt == update.spec.attempt.unwrap_or(1)
}

/// Orders for another version are none.
fn asked(update: &RollingUpdate) -> Asked {
    let spec = &update.spec;
    let control = spec.control.clone().filter(|c| c.version == spec.version);
    Asked {
        version: spec.version.clone(),
        routing: control.as_ref().and_then(|c| c.routing.clone()),
        approved: control.as_ref().and_then(|c| c.approved.clone()),
        paused: control.as_ref().and_then(|c| c.paused).unwrap_or_default(),
        outcome: control.and_then(|c| c.outcome),
    }
}

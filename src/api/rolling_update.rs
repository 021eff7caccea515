//! `RollingUpdate`: one workload's releases, the running one and, over time, the next ones.
#![allow(clippy::duplicated_attributes, reason = "the printer columns of the derive look like it")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::Time;
use super::conditions::Condition;
use super::duration::{HELP as DURATION_HELP, RULE as DURATION_RULE};
use super::evidence::Evidence;

const RATIO_RULE: &str = "self.matches('^ *(1000000|[0-9]{1,6}) *: *(1000000|[0-9]{1,6}) *$') && self.matches('[1-9]')";
const RATIO_HELP: &str = "must be new:old, two whole numbers from 0 to 1000000, not both 0, for example 1:3";
const VERSION_RULE: &str = "self.matches('^[A-Za-z0-9_.+-]{1,63}$') && self.matches('[A-Za-z0-9]')";
const VERSION_HELP: &str = "must be 1 to 63 characters of A-Z a-z 0-9 _ . + - with a letter or digit among them, for example 2.0.0";

/// A rolling update in two stages: the new version is deployed at 0 % traffic, then traffic is shifted to it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "aether.dev",
    version = "v1alpha1",
    kind = "RollingUpdate",
    plural = "rollingupdates",
    shortname = "ru",
    shortname = "update",
    category = "aether",
    namespaced,
    status = "RollingUpdateStatus",
    derive = "PartialEq",
    doc = "Brings out versions of a service: deploy at 0 % traffic, then shift traffic by a ratio new:old, gated by health.",
    scale(
        spec_replicas_path = ".spec.instances",
        status_replicas_path = ".status.readyInstances",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Routing", type_ = "string", json_path = ".status.routing", description = "new:old"),
    printcolumn(name = "New", type_ = "string", json_path = ".status.newVersion"),
    printcolumn(name = "Old", type_ = "string", json_path = ".status.oldVersion"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.decision.verdict"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(
        name = "Next",
        type_ = "string",
        priority = 1,
        json_path = ".status.step.nextNotBefore",
        description = "No step before this time"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollingUpdateSpec {
    /// `group:name` of what is released. The name is the default name of the workload and of its Service.
    #[x_kube(validation = Rule::new("self == oldSelf").message("artifactBase cannot be changed; make another RollingUpdate"))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_.-]+:[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')").message("must be group:name, the name in lower case, for example org.example:my-slice"))]
    #[schemars(length(min = 1, max = 253))]
    pub artifact_base: String,
    /// The version wanted live. Changing it starts the next update.
    #[x_kube(validation = Rule::new(VERSION_RULE).message(VERSION_HELP))]
    #[schemars(length(max = 63))]
    pub version: String,
    /// Raise it to run the same version again after ROLLED_BACK or FAILED. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("must be 1 or more"))]
    pub attempt: Option<i32>,
    /// Pods of the new version; at rest, of the live one. Default: as many as the old version has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("must be 1 or more; a service at 0 instances cannot be updated without losing requests"))]
    pub instances: Option<i32>,
    /// Preset of the two limits: Default 0.01 and 500 ms, Strict 0.001 and 200 ms, Relaxed 0.05 and 1000 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Thresholds>,
    /// Largest share of failed requests, 0 to 1. Overrides the preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0.0 && self <= 1.0").message("must be a share from 0 to 1; 1 percent is 0.01"))]
    pub max_error_rate: Option<f64>,
    /// Largest p99 latency in milliseconds. Overrides the preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self > 0").message("must be more than 0 milliseconds"))]
    pub max_latency_ms: Option<i32>,
    /// Every routing change waits for a person. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_manual_approval: Option<bool>,
    /// What happens to the old version after completion. Default GRACE_PERIOD (it keeps its size for 5 minutes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup_policy: Option<CleanupPolicy>,
    /// The Deployment that is released, where it differs from the artifact's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadSpec>,
    /// How traffic gets to the versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficSpec>,
    /// How the update goes forward by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progression: Option<ProgressionSpec>,
    /// Where health is read. Default: the pods' own metrics endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
    /// A person's orders, for one version only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlSpec>,
}

/// Named pairs of limits.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thresholds {
    Default,
    Strict,
    Relaxed,
}

/// What happens to the old version after completion.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CleanupPolicy {
    Immediate,
    GracePeriod,
    Manual,
}

/// The user's Deployment.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Its name. Default: the name part of artifactBase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The container whose image is the version. Default: the annotated default container, else the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// The image, with `{version}` where the version goes. Default: the container's image with its tag replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[^\\\\s{}]*[{]version[}][^\\\\s{}]*$')").message("must hold {version} once and no spaces, for example registry.example/shop:{version}"))]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
}

/// How traffic gets to the versions.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficSpec {
    /// Gateway: weights on HTTPRoutes. Pods: shares of the Service's endpoints. Default Auto: Gateway where a route names the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<TrafficMode>,
    /// The Service that callers know. Default: the workload's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub service: Option<String>,
    /// The HTTPRoutes to shift. Default: every one of the namespace that names the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    pub http_routes: Option<Vec<String>>,
    /// How long the data plane gets after it acknowledged a weight. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub settle: Option<String>,
    /// How long a version keeps its pods after its weight went to 0. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub drain: Option<String>,
}

/// How traffic gets to the versions.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficMode {
    Auto,
    Gateway,
    Pods,
}

/// How the update goes forward by itself.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgressionSpec {
    /// The ratios new:old, each larger than the one before; the last one must be x:0. Default 1:9, 1:3, 1:1, 3:1, 1:0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(s, s.matches('^ *(1000000|[0-9]{1,6}) *: *(1000000|[0-9]{1,6}) *$') && s.matches('[1-9]'))").message("each step must be new:old, two whole numbers from 0 to 1000000, not both 0, for example 1:3"))]
    #[x_kube(validation = Rule::new("self[self.size() - 1].matches('^ *0*[1-9][0-9]* *: *0+ *$')").message("the last step must give the new version everything, for example 1:0"))]
    #[schemars(length(min = 1, max = 32), inner(length(max = 24)))]
    pub steps: Option<Vec<String>>,
    /// Least time at a step. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub interval: Option<String>,
    /// A new version that is not ready after this long is rolled back. Default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub deploy_deadline: Option<String>,
    /// After this long at a step without a verdict the update holds and says so. Default 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub analysis_deadline: Option<String>,
    /// What a proven breach of a limit does. Default Pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_breach: Option<OnBreach>,
    /// Requests a step needs before it can be called healthy. Default: 3 / maxErrorRate, between 50 and 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("must be 1 or more"))]
    pub min_requests: Option<i32>,
}

/// What a proven breach does.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBreach {
    Pause,
    Rollback,
}

/// Where health is read: exactly one source.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.pods) ? 1 : 0) + (has(self.prometheus) ? 1 : 0) + (has(self.none) ? 1 : 0) <= 1").message("name one of pods, prometheus and none"))]
pub struct MetricsSpec {
    /// Scrape every pod of both versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodMetricsSpec>,
    /// Ask a Prometheus-compatible API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSpec>,
    /// An explicit wish: readiness alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<NoMetrics>,
}

/// Nothing to say: `none: {}`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct NoMetrics {}

/// Where a pod shows its metrics.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMetricsSpec {
    /// Port number. Default: the annotation `prometheus.io/port`, else the container port named `metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 65535").message("must be a port from 1 to 65535"))]
    pub port: Option<i32>,
    /// Path. Default: the annotation `prometheus.io/path`, else `/metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("must start with /"))]
    #[schemars(length(max = 256))]
    pub path: Option<String>,
}

/// A Prometheus-compatible API.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.preset != 'custom' || (has(self.queries) && 'requests' in self.queries)").message("preset custom needs queries with one named requests; the others may be errors and durationSeconds or durationMilliseconds"))]
#[x_kube(validation = Rule::new("self.preset == 'custom' || !has(self.queries)").message("queries are for preset custom; set preset: custom or take the queries away"))]
#[x_kube(validation = Rule::new("!has(self.queries) || self.queries.all(q, q in ['requests', 'errors', 'durationSeconds', 'durationMilliseconds'])").message("queries may be named requests, errors, durationSeconds and durationMilliseconds"))]
#[x_kube(validation = Rule::new("!has(self.queries) || !('durationSeconds' in self.queries && 'durationMilliseconds' in self.queries)").message("queries has durationSeconds and durationMilliseconds; keep the one whose unit is right"))]
pub struct PrometheusSpec {
    /// Its address, for example `http://prometheus.monitoring:9090`.
    #[x_kube(validation = Rule::new("self.matches('^https?://([^ /?#@:]+|[[][0-9a-fA-F:.]+[]])(:[0-9]{1,5})?(/[^ ?#]*)?$')").message("must be an http or https address without credentials or query, for example http://prometheus:9090"))]
    #[schemars(length(max = 512))]
    pub address: String,
    /// Whose metric names to ask for.
    pub preset: PrometheusPreset,
    /// The user's own queries, with preset `custom`: `requests` (needed), `errors` (without it the series of `requests`
    /// need a label code, status or status_code), `durationSeconds` or `durationMilliseconds` (histogram buckets with `le`).
    /// Each is one selector of raw counters of one version that ends in a range, like `http_requests_total{...}[2m]`, without
    /// functions; inside quotes {{namespace}}, {{service}}, {{workload}}, {{version}} and, after =~, {{pods}} are filled in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 4, "additionalProperties" = {"type": "string", "minLength": 1, "maxLength": 4096}))]
    pub queries: BTreeMap<String, String>,
}

/// Whose metric names to ask for.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PrometheusPreset {
    Traefik,
    Istio,
    Envoy,
    Linkerd,
    Custom,
}

/// A person's orders. They count only while `version` is `spec.version`, so that an old order never meets a new release.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlSpec {
    /// The version these orders are for.
    #[x_kube(validation = Rule::new(VERSION_RULE).message(VERSION_HELP))]
    #[schemars(length(max = 63))]
    pub version: String,
    /// Hold this ratio new:old; automatic progression stops while it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RATIO_RULE).message(RATIO_HELP))]
    #[schemars(length(max = 24))]
    pub routing: Option<String>,
    /// With requireManualApproval: steps up to this ratio may be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RATIO_RULE).message(RATIO_HELP))]
    #[schemars(length(max = 24))]
    pub approved: Option<String>,
    /// Hold everything where it is. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Complete (followed once x:0 is in force) or Rollback (followed at once).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// How a person wants the update to end.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    Rollback,
}

/// Where an update is. The legal moves are in [`crate::rollout::transitions`].
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    #[default]
    Pending,
    Deploying,
    Deployed,
    Routing,
    Completing,
    Completed,
    RollingBack,
    RolledBack,
    Failed,
}

impl State {
    /// Every state, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Deploying,
        Self::Deployed,
        Self::Routing,
        Self::Completing,
        Self::Completed,
        Self::RollingBack,
        Self::RolledBack,
        Self::Failed,
    ];

    /// As the status and the documentation spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Deploying => "DEPLOYING",
            Self::Deployed => "DEPLOYED",
            Self::Routing => "ROUTING",
            Self::Completing => "COMPLETING",
            Self::Completed => "COMPLETED",
            Self::RollingBack => "ROLLING_BACK",
            Self::RolledBack => "ROLLED_BACK",
            Self::Failed => "FAILED",
        }
    }

    /// Nothing more happens for this version and attempt.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::RolledBack | Self::Failed)
    }

    /// Something of the cluster may be in the operator's hands.
    pub fn is_active(self) -> bool {
        !self.is_terminal() && self != Self::Pending
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the operator says about an update.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdateStatus {
    /// `metadata.generation` this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The update's id: `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_id: Option<String>,
    /// As in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_base: Option<String>,
    /// The version that carried the traffic when the update started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_version: Option<String>,
    /// The version being brought out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_version: Option<String>,
    /// The attempt this state belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// Where the update is.
    #[serde(default)]
    pub state: State,
    /// The ratio new:old that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// The ratio new:old that the data plane follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_routing: Option<String>,
    /// Pods wanted of the new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_instances: Option<i32>,
    /// Pods the old version had when it was last whole: what it gets back if it must return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_instances: Option<i32>,
    /// Pods ready of the new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_instances: Option<i32>,
    /// `ready/wanted` of the new version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Label selector of the new version's pods (scale subresource).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// When this update started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// When this status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Time>,
    /// When the present state began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_since: Option<Time>,
    /// The names of what the update works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Objects>,
    /// The progression step in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What that means for the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The counts that the decision is made from; the operator goes on from them after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// When others last undid what the update stands on: the newest 20 times of the last five minutes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub interference: Vec<Interference>,
    /// The newest 20 changes of state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub history: Vec<Transition>,
    /// What tools read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The names of what an update works on, fixed when it starts.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    /// How traffic is shifted: Gateway or Pods.
    #[serde(default)]
    pub mode: ShiftMode,
    /// The user's Deployment.
    pub workload: String,
    /// The apex Service.
    pub service: String,
    /// Deployment that runs the old version.
    pub old_revision: String,
    /// Service that selects only the old version.
    pub old_service: String,
    /// Deployment that runs the new version; its Service has the same name.
    pub new_revision: String,
    /// The HTTPRoutes that are split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub routes: Vec<String>,
}

/// How an update shifts traffic, once that is settled.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShiftMode {
    #[default]
    Gateway,
    Pods,
}

/// Somebody undid what the update stands on, and it was put back.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Interference {
    /// When it was put back.
    pub at: Time,
    /// Kind and name of the object.
    pub object: String,
    /// Field manager that wrote it last, as far as it can be told.
    pub manager: String,
}

/// The progression step in force.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Counted from 1; 0 while a person's ratio is in force that is no step.
    pub index: i32,
    /// How many steps there are.
    pub of: i32,
    /// When the data plane acknowledged the step's weights.
    pub since: Time,
    /// No further step before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_not_before: Option<Time>,
}

/// What was measured, as documented.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The update's id.
    pub update_id: String,
    /// The old version's figures.
    pub old_version: VersionHealth,
    /// The new version's figures.
    pub new_version: VersionHealth,
    /// Milliseconds since 1970.
    pub collected_at: i64,
}

/// One version's figures.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionHealth {
    /// Which.
    pub version: String,
    /// Requests counted since the first shift.
    pub request_count: i64,
    /// Share of failed ones, 0 to 1.
    pub error_rate: f64,
    /// Mean latency in the running step; shown, never judged.
    pub avg_latency_ms: f64,
}

/// What the figures mean for the update.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// One CamelCase word for programs.
    pub reason: String,
    /// A sentence with the numbers.
    pub message: String,
    /// When it was made.
    pub at: Time,
    /// Once a breach was proven: what `spec.control.approved` said before. Another value is the answer to the breach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_before: Option<String>,
    /// The reason of that breach. A later one of another kind is to be answered anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breach: Option<String>,
}

/// Whether the new version may go on. Unknown neither advances nor rolls back.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    Unhealthy,
    Unknown,
}

impl Verdict {
    /// As the status spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
        }
    }
}

/// One change of state.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// When.
    pub at: Time,
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// One CamelCase word for programs.
    pub reason: String,
    /// Who wanted it: `operator`, or the order that was followed, behind the name of whoever last changed what is asked for
    /// where that is known: `alice (spec.control)`.
    pub by: String,
}

/// The definition as installed: what the types derive, and a status that is there from birth.
///
/// The default status makes a new object PENDING, with conditions that keep `kubectl wait` and
/// kstatus waiting, from its first moment and at no write (the Gateway API does the same).
pub fn crd() -> CustomResourceDefinition {
    let mut crd = RollingUpdate::crd();
    let never = "1970-01-01T00:00:00Z";
    let condition = |type_: &str, status: &str| serde_json::json!({"type": type_, "status": status, "reason": "Pending", "message": "waiting for the operator", "lastTransitionTime": never});
    let born = serde_json::json!({
        "state": State::Pending,
        "conditions": [
            condition(super::conditions::READY, "False"),
            condition(super::conditions::RECONCILING, "True"),
            condition(super::conditions::STALLED, "False"),
        ],
    });
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(status) = root.and_then(|r| r.properties.as_mut()).and_then(|p| p.get_mut("status")) {
            status.default = Some(JSON(born.clone()));
            status.nullable = None;
            if let Some(evidence) = status.properties.as_mut().and_then(|p| p.get_mut("evidence")) {
                without_defaults(evidence);
            }
        }
    }
    crd
}

/// Counts are written whole: what the API server would fill in is hundreds of lines that say 0.
fn without_defaults(schema: &mut JSONSchemaProps) {
    schema.default = None;
    schema.properties.iter_mut().flat_map(|p| p.values_mut()).for_each(without_defaults);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        without_defaults(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_accepts_the_durations_that_are_parsed() {
        assert!(DURATION_RULE.contains(super::super::duration::PATTERN));
    }

    #[test]
    fn a_new_object_is_pending_from_birth() {
        let crd = serde_json::to_value(crd()).unwrap();
        let status = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default").unwrap();
        assert_eq!(status["state"], "PENDING");
        let born: RollingUpdateStatus = serde_json::from_value(status.clone()).unwrap();
        assert_eq!(born.conditions.len(), 3);
    }
}

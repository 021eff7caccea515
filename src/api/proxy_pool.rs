//! `ProxyPool`: proxies in one place of one cloud, renewed by age without ever being too few.
#![allow(clippy::duplicated_attributes, reason = "the printer columns of the derive look like it")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions;
use super::duration::{HELP as DURATION_HELP, RULE as DURATION_RULE};

mod providers;
mod status;

pub use providers::{AwsSpec, DigitalOceanSpec, GcpSpec, HetznerSpec, KubernetesSpec, ResourcesSpec, SpotSpec, VultrSpec};
pub use status::{Evicted, InFlight, Op, ProviderStatus, ProxyPoolStatus, RollingConfig, Step};

const NAME_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')";
const NAME_HELP: &str = "must be lower-case letters, digits and dashes, for example default";

/// One pool of proxies: the guide's "provider instance".
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "aether.dev",
    version = "v1alpha1",
    kind = "ProxyPool",
    plural = "proxypools",
    shortname = "pp",
    category = "aether",
    namespaced,
    status = "ProxyPoolStatus",
    derive = "PartialEq",
    doc = "Keeps a number of proxies in one cloud healthy and younger than a limit, without ever going below a minimum.",
    scale(spec_replicas_path = ".spec.minScaling", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider.name"),
    printcolumn(name = "Healthy", type_ = "string", json_path = ".status.ready", description = "serving/wanted"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Recycling", type_ = "integer", json_path = ".status.recycling"),
    printcolumn(name = "Aged", type_ = "integer", json_path = ".status.aged"),
    printcolumn(name = "Min", type_ = "integer", json_path = ".status.effectiveMinAvailable"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].reason")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.digitalocean), has(self.aws), has(self.gcp), has(self.hetzner), has(self.vultr), has(self.kubernetes)].filter(p, p).size() == 1").message("name exactly one provider: digitalocean, aws, gcp, hetzner, vultr or kubernetes"))]
#[x_kube(validation = Rule::new("has(self.digitalocean) == has(oldSelf.digitalocean) && has(self.aws) == has(oldSelf.aws) && has(self.gcp) == has(oldSelf.gcp) && has(self.hetzner) == has(oldSelf.hetzner) && has(self.vultr) == has(oldSelf.vultr) && has(self.kubernetes) == has(oldSelf.kubernetes)").message("the provider cannot be changed; make another ProxyPool"))]
#[x_kube(validation = Rule::new("has(self.instance) == has(oldSelf.instance) && (!has(self.instance) || self.instance == oldSelf.instance)").message("instance cannot be changed; make another ProxyPool"))]
#[x_kube(validation = Rule::new("!has(self.maxScaling) || self.maxScaling >= self.minScaling").message("maxScaling must not be below minScaling; raise maxScaling, or leave it out for no surge"))]
#[x_kube(validation = Rule::new("has(self.credentialsSecretRef) || has(self.aws) || has(self.gcp) || has(self.kubernetes)").message("credentialsSecretRef is needed for digitalocean, hetzner and vultr: name the Secret that holds the API token"))]
#[x_kube(validation = Rule::new("!has(self.kubernetes) || !has(self.credentialsSecretRef)").message("credentialsSecretRef is for clouds; take it away from a kubernetes pool"))]
#[x_kube(validation = Rule::new("!has(self.ageLimit) || !self.ageLimit.matches('^([0-9]{1,7}(ms|s|m|h)){1,4}$') || duration(self.ageLimit) == duration('0s') || (has(self.health) && has(self.health.startupTimeout) ? (!self.health.startupTimeout.matches('^([0-9]{1,7}(ms|s|m|h)){1,4}$') || duration(self.ageLimit) >= duration(self.health.startupTimeout) + duration(self.health.startupTimeout)) : duration(self.ageLimit) >= duration('20m'))").message("ageLimit must be 0s (never) or at least twice health.startupTimeout (default 10m); raise ageLimit or lower health.startupTimeout"))]
pub struct ProxyPoolSpec {
    /// Name of the pool in REST paths and log lines, `provider/instance`. Default: metadata.name. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(NAME_RULE).message(NAME_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub instance: Option<String>,
    /// How many proxies are wanted.
    #[x_kube(validation = Rule::new("self >= 0 && self <= 5000").message("must be from 0 to 5000"))]
    pub min_scaling: i32,
    /// How many may exist at any moment. Above minScaling it is room for surge: replacements come before the old ones go.
    /// Default: minScaling (the old ones go first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 5000").message("must be from 0 to 5000"))]
    pub max_scaling: Option<i32>,
    /// A proxy older than this is recycled; 0s: never. Default: the operator's AGE_LIMIT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message("must be a duration such as 1h or 1h30m; 0s means never"))]
    #[schemars(length(max = 32))]
    pub age_limit: Option<String>,
    /// Spreads renewals: each proxy's limit is shorter by its own share of up to this much. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 50").message("must be from 0 to 50 percent"))]
    pub age_jitter_percent: Option<i32>,
    /// How renewal keeps the pool serving. Each field left out is the operator-wide one (ROLLING_*, ConfigMap aether-rolling).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<RollingSpec>,
    /// Create and delete nothing; list, probe and report. What a person evicts goes all the same. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Droplets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digitalocean: Option<DigitalOceanSpec>,
    /// EC2 instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsSpec>,
    /// Compute Engine instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<GcpSpec>,
    /// Hetzner Cloud servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hetzner: Option<HetznerSpec>,
    /// Vultr instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vultr: Option<VultrSpec>,
    /// Pods of this cluster: needs no cloud account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesSpec>,
    /// Secret of the same namespace with the cloud's credentials. AWS and GCP may go without (role, workload identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// What each proxy does.
    pub proxy: ProxySpec,
    /// When a proxy counts as healthy, and as dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// How the addresses reach those who use them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishSpec>,
    /// What becomes of the proxies when the pool is deleted. Default Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// How renewal keeps the pool serving.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollingSpec {
    /// false: all aged proxies go at once. Default: the operator's ROLLING_DEPLOYMENT, or true where another field here is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Healthy proxies that must stay while others are recycled. At minScaling or above it is lowered to minScaling - 1,
    /// unless there is room for surge (maxScaling above minScaling): then to minScaling. That is said in a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0").message("must be 0 or more"))]
    pub min_available: Option<i32>,
    /// Proxies in recycling at once, until their replacements are healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("must be 1 or more; to recycle nothing set paused: true or ageLimit: 0s"))]
    pub batch_size: Option<i32>,
    /// Recycling begins only within one of these. Default: at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub windows: Vec<WindowSpec>,
}

/// A span of time that comes again.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowSpec {
    /// When it opens, as cron: minute hour day month weekday.
    #[x_kube(validation = Rule::new("self.matches('^ *[^ ]+( +[^ ]+){4} *$')").message("must be five cron fields, minute hour day month weekday, for example 0 2 * * *"))]
    #[schemars(length(min = 9, max = 100))]
    pub schedule: String,
    /// How long it is open; at most 168h.
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub duration: String,
    /// Name of the time zone the schedule is in, for example Europe/Berlin. Default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
}

/// A Secret of the pool's own namespace.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What each proxy does.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.authSecretRef) || (has(self.allowFrom) && self.allowFrom.size() > 0 && self.allowFrom.all(c, !c.endsWith('/0')))").message("this would be a proxy open to everybody: set authSecretRef, or allowFrom with the networks that may use it"))]
pub struct ProxySpec {
    /// Port it listens on. Default 8899.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 65535").message("must be a port from 1 to 65535"))]
    pub port: Option<i32>,
    /// Secret of the same namespace with keys `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<SecretRef>,
    /// Networks that may use it, as CIDR. They must contain the address that the operator's probes come from. Default: all,
    /// with credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("each must be a network in CIDR notation, for example 203.0.113.0/24"))]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub allow_from: Vec<String>,
    /// Ports that CONNECT may reach. Default 443 and 563.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(p, p >= 1 && p <= 65535)").message("each must be a port from 1 to 65535"))]
    #[schemars(length(max = 64))]
    pub connect_ports: Option<Vec<i32>>,
}

/// When a proxy counts as healthy, and as dead.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthSpec {
    /// Time between two probes of one proxy. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub interval: Option<String>,
    /// Time one probe may take. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub timeout: Option<String>,
    /// Failed probes in a row that make a proxy dead. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 2").message("must be 2 or more; one failed probe never deletes a proxy"))]
    pub failure_threshold: Option<i32>,
    /// Time from its creation in which a proxy must become healthy. Default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_HELP))]
    #[schemars(length(max = 32))]
    pub startup_timeout: Option<String>,
    /// With a larger share of dead proxies at once the probes are not trusted and nothing is deleted for its health;
    /// one dead proxy is always believed. Default 40.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100").message("must be from 0 to 100 percent"))]
    pub max_unhealthy_percent: Option<i32>,
    /// URLs fetched through the proxy besides its own status page; more than half must answer. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(u, u.matches('^https?://[^ /?#@]+([/?#][^ ]*)?$'))").message("each must be an http or https address without credentials"))]
    #[schemars(length(max = 8), inner(length(max = 512)))]
    pub egress_targets: Vec<String>,
}

/// How the addresses reach those who use them.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishSpec {
    /// A headless Service whose endpoints are the healthy proxies. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<bool>,
    /// A Secret with the list of proxy URLs. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<bool>,
}

/// What becomes of the proxies when the pool is deleted.
#[allow(missing_docs)]
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    #[default]
    Delete,
    Orphan,
}

/// The definition as installed: what the types derive, and conditions from birth that keep `kubectl wait` waiting.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = ProxyPool::crd();
    let never = "1970-01-01T00:00:00Z";
    let condition = |type_: &str, status: &str| serde_json::json!({"type": type_, "status": status, "reason": "Pending", "message": "waiting for the operator", "lastTransitionTime": never});
    let born = serde_json::json!({
        "conditions": [
            condition(conditions::READY, "False"),
            condition(conditions::RECONCILING, "True"),
            condition(conditions::STALLED, "False"),
        ],
    });
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(status) = root.and_then(|r| r.properties.as_mut()).and_then(|p| p.get_mut("status")) {
            status.default = Some(JSON(born.clone()));
            status.nullable = None;
        }
    }
    crd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_accepts_the_durations_that_are_parsed() {
        assert!(DURATION_RULE.contains(super::super::duration::PATTERN));
        let crd = serde_json::to_string(&crd()).unwrap();
        assert_eq!(crd.matches(super::super::duration::PATTERN).count(), 2 + crd.matches("must be a duration such as").count());
    }

    #[test]
    fn a_pool_stays_where_its_proxies_are() {
        let crd = serde_json::to_value(crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        for (provider, field) in [
            ("gcp", "project"),
            ("gcp", "zone"),
            ("aws", "region"),
            ("digitalocean", "region"),
            ("hetzner", "location"),
            ("vultr", "region"),
        ] {
            let rules = spec[provider]["properties"][field]["x-kubernetes-validations"].as_array().unwrap();
            assert!(rules.iter().any(|r| r["rule"] == "self == oldSelf"), "{provider}.{field}");
        }
    }

    #[test]
    fn the_documented_status_is_read_key_for_key() {
        let documented = serde_json::json!({
            "healthy": 3, "pending": 0, "pending_recycle": 1, "recycling": 1, "last_update": "2024-01-01T00:00:00Z",
            "healthy_ips": ["192.168.1.1", "192.168.1.2", "192.168.1.3"],
            "pending_recycle_ips": ["192.168.1.4"], "recycling_ips": ["192.168.1.5"],
            "config": {"enabled": true, "min_available": 3, "batch_size": 2},
        });
        let status: ProxyPoolStatus = serde_json::from_value(documented.clone()).unwrap();
        let said = serde_json::to_value(&status).unwrap();
        for (key, value) in documented.as_object().unwrap() {
            assert_eq!(&said[key], value, "{key}");
        }
    }
}

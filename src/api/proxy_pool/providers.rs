//! What proxies are made of, cloud by cloud.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Elsewhere a list does not show the proxies that there are: they would cost money and nobody would know of them.
const FIXED_RULE: &str = "self == oldSelf";
const FIXED_HELP: &str = "cannot be changed: the proxies there would be lost; make another ProxyPool";

/// Droplets.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DigitalOceanSpec {
    /// Region slug, for example lon1.
    #[x_kube(validation = Rule::new(FIXED_RULE).message(FIXED_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// Size slug. Default s-1vcpu-1gb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub size: Option<String>,
    /// Image slug or id, of the Debian family. Default ubuntu-24-04-x64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub image: Option<String>,
}

/// EC2 instances.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsSpec {
    /// Region, for example eu-central-1.
    #[x_kube(validation = Rule::new(FIXED_RULE).message(FIXED_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// Image id, of the Debian family.
    #[x_kube(validation = Rule::new("self.startsWith('ami-')").message("must be the id of an image, for example ami-0123456789abcdef0"))]
    #[schemars(length(min = 5, max = 63))]
    pub ami: String,
    /// Instance type. Default t3.micro.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub instance_type: Option<String>,
    /// Subnet. Default: the region's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub subnet_id: Option<String>,
    /// Security groups; they must let the proxy port in. Default: the network's default one, which lets in nobody from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub security_group_ids: Vec<String>,
    /// Spot instances, one-time. Default: on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot: Option<SpotSpec>,
}

/// How spot capacity is used.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpotSpec {
    /// Take an on-demand instance where there is no spot capacity. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_fallback: Option<bool>,
}

/// Compute Engine instances.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcpSpec {
    /// Project id.
    #[x_kube(validation = Rule::new(FIXED_RULE).message(FIXED_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub project: String,
    /// Zone, for example europe-west3-a.
    #[x_kube(validation = Rule::new(FIXED_RULE).message(FIXED_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub zone: String,
    /// Machine type. Default e2-micro.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub machine_type: Option<String>,
    /// Project of the image. Default ubuntu-os-cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub image_project: Option<String>,
    /// Image family, of the Debian family. Default ubuntu-2404-lts-amd64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub image_family: Option<String>,
    /// Spot instances. Default: on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot: Option<SpotSpec>,
}

/// Hetzner Cloud servers.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HetznerSpec {
    /// Location, for example nbg1.
    #[x_kube(validation = Rule::new(FIXED_RULE).message(FIXED_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub location: String,
    /// Server type. Default cx23.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub server_type: Option<String>,
    /// Image name, of the Debian family. Default ubuntu-24.04.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub image: Option<String>,
}

/// Vultr instances.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VultrSpec {
    /// Region id, for example ewr.
    #[x_kube(validation = Rule::new(FIXED_RULE).message(FIXED_HELP))]
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// Plan. Default vc2-1c-1gb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub plan: Option<String>,
    /// Number of the operating system, of the Debian family. Default 2284 (Ubuntu 24.04).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("must be the number of an operating system, for example 2284"))]
    pub os_id: Option<i32>,
}

/// Pods of this cluster.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSpec {
    /// Image that holds tinyproxy and a shell.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// What each pod asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesSpec>,
}

/// Requests and limits of a container, as in a pod.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourcesSpec {
    /// What is set aside, for example `cpu: 50m`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 64}))]
    pub requests: BTreeMap<String, String>,
    /// What is never exceeded, for example `memory: 64Mi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 64}))]
    pub limits: BTreeMap<String, String>,
}

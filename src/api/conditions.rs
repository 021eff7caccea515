//! Conditions: the part of the status that tools read (`kubectl wait`, Helm, Flux, Argo CD).

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::Time;

/// Reason of Ready=False while the spec cannot be read.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// The update is over and went well (kstatus).
pub const READY: &str = "Ready";
/// The operator is at work, or waits for a person (kstatus).
pub const RECONCILING: &str = "Reconciling";
/// It will not come to a good end by itself (kstatus).
pub const STALLED: &str = "Stalled";
/// The new version's pods are ready behind their own Service.
pub const NEW_VERSION_AVAILABLE: &str = "NewVersionAvailable";
/// The gateway has acknowledged the weights in `status.routing`.
pub const TRAFFIC_SHIFTED: &str = "TrafficShifted";
/// The verdict on the new version.
pub const HEALTHY: &str = "Healthy";
/// The old version's pods are gone.
pub const OLD_VERSION_REMOVED: &str = "OldVersionRemoved";
/// False when an order in `spec.control` is not followed, with the reason.
pub const ORDER_ACCEPTED: &str = "OrderAccepted";
/// False while the workload's pod template has been edited and nothing rolls that out, with what to do.
pub const TEMPLATE_ROLLED_OUT: &str = "TemplateRolledOut";
/// False while an autoscaler sizes the workload itself and so does not follow from version to version.
pub const AUTOSCALER_FOLLOWS: &str = "AutoscalerFollows";
/// True after somebody else has undone what the update stood on again and again, with who.
pub const CONFLICTING_MANAGER: &str = "ConflictingManager";

/// Of a pool: as many proxies serve as must (the floor in force).
pub const AVAILABLE: &str = "Available";
/// Of a pool: proxies are being recycled, with how many; False with what is in the way.
pub const RECYCLING: &str = "Recycling";
/// Of a pool: a wish that could never be kept was lowered, with both numbers.
pub const CONFIG_ADJUSTED: &str = "ConfigAdjusted";
/// Of a pool: the cloud answers.
pub const PROVIDER_REACHABLE: &str = "ProviderReachable";
/// Of a pool: the cloud takes the credentials.
pub const CREDENTIALS_VALID: &str = "CredentialsValid";
/// Of a pool: the cloud wants fewer requests.
pub const RATE_LIMITED: &str = "RateLimited";
/// Of a pool: the account may not have more.
pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
/// Of a pool: the place has no more of that kind.
pub const CAPACITY_UNAVAILABLE: &str = "CapacityUnavailable";
/// Of a pool: False while too many probes fail at once to be believed; nothing is deleted for its health then.
pub const PROBE_TRUSTED: &str = "ProbeTrusted";
/// Of a pool: more proxies than may be, creates that never appear, or a list without any of the proxies that were there; no
/// proxy is created while it is True.
pub const RUNAWAY_BRAKE: &str = "RunawayBrake";
/// Of a pool: a replacement has missed its startupTimeout; nothing more is recycled until it is healthy.
pub const DEGRADED: &str = "Degraded";
/// Of a pool: False when it cannot be renewed within ageLimit, with the numbers.
pub const ROTATION_FEASIBLE: &str = "RotationFeasible";

/// A condition after the Kubernetes API conventions.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is said.
    #[schemars(length(max = 316))]
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    #[schemars(length(max = 10))]
    pub status: String,
    /// `metadata.generation` that this was said about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// One CamelCase word for programs.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// A sentence for people.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// The three answers a condition can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    True,
    /// No.
    False,
    /// Not known.
    Unknown,
}

impl Answer {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::True } else { Self::False }
    }
}

/// Sets one condition; the transition time moves only when the answer does.
pub fn set(conditions: &mut Vec<Condition>, generation: i64, now: Time, type_: &str, answer: Answer, reason: &str, message: &str) {
    let status = answer.as_str();
    // What an object is born with (`rolling_update`) has no time of its own yet.
    let before = conditions.iter().find(|c| c.type_ == type_ && c.status == status && c.last_transition_time != Time::UNIX_EPOCH);
    let since = before.map_or_else(|| to_seconds(now), |c| c.last_transition_time);
    let new = Condition {
        type_: type_.into(),
        status: status.into(),
        observed_generation: Some(generation),
        last_transition_time: since,
        reason: reason.into(),
        message: message.into(),
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Takes a condition away.
pub fn clear(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|c| c.type_ != type_);
}

/// Kubernetes' own times have whole seconds; some readers of conditions expect that.
fn to_seconds(now: Time) -> Time {
    Time::from_timestamp(now.timestamp(), 0).unwrap_or(now)
}

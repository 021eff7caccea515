//! What is kept of both versions' figures while an update is on: whole numbers, so that nothing is lost in a restart.
//!
//! What they mean is in [`crate::rollout::verdict::evidence`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Time;

/// Windows that are kept one by one; what is older is added together, so a status stays a few kilobytes.
pub const KEPT: usize = 32;

/// What one version did in one window, pods that went away included.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Requests answered.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub requests: u64,
    /// Those that failed: 5xx, and transport errors where the source knows them.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub errors: u64,
    /// Requests with a known duration bucket; 0 where there is no histogram.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub timed: u64,
    /// Surely slow: above the nearest bucket edge that is at least the limit.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub slow_low: u64,
    /// Possibly slow: above the nearest bucket edge that is at most the limit.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub slow_high: u64,
}

/// Both versions in the same window: a step, or a part of one.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct StepCounts {
    /// The new version.
    pub new: Counts,
    /// The old version.
    pub old: Counts,
    /// The same step as the window before.
    pub continues: bool,
}

/// Failures among trials.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Tally {
    /// Trials.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub of: u64,
    /// Those that failed.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub bad: u64,
}

/// One kind of failure in one window, as the tests take it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Lane {
    /// What speaks against the new version by itself: nothing, where the old one was over its limit as well.
    pub counted: Tally,
    /// The new version.
    pub new: Tally,
    /// The old version; of slow requests, the possibly slow ones.
    pub old: Tally,
    /// Requests of the new version per ...
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub split_new: u64,
    /// ... requests of the old one. Of several windows, the split that excuses the new version most.
    #[schemars(with = "i64")]
    #[serde(with = "count")]
    pub split_old: u64,
}

/// The oldest windows, added together.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Earlier {
    /// How many they are.
    #[schemars(with = "i64")]
    pub windows: u32,
    /// Failed requests.
    pub errors: Lane,
    /// Slow requests.
    pub slow: Lane,
    /// The old version in the newest of them.
    pub last_old: Counts,
}

/// All that is known of an update, oldest first; the last window is the running one. Survives a restart as status.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Evidence {
    /// The step that the running window belongs to: its `status.step.since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The latency limit, in ms, that slow requests were told by.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub limit_ms: Option<u32>,
    /// What is older than the windows kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
    /// The windows kept.
    #[schemars(length(max = 32))]
    pub steps: Vec<StepCounts>,
}

/// Counts are 64 bits with a sign in the API, and never negative.
mod count {
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    pub fn serialize<S: Serializer>(count: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(i64::try_from(*count).unwrap_or(i64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        Ok(u64::try_from(i64::deserialize(from)?).unwrap_or_default())
    }
}

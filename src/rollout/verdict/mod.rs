//! Whether the new version may get more traffic: Healthy, Unhealthy or Unknown.
//!
//! Today readiness is the only evidence; a spec that asks for metrics gets an honest Unknown,
//! which never advances by itself and never stands in a person's way.

pub mod evidence;
pub mod judge;
pub mod likelihood;
pub mod simulation;

use crate::api::Time;
use crate::api::rolling_update::{Decision, Verdict};

use super::model::Observation;
use super::wish::Wish;

/// Judges the new version at the present step.
pub fn judge(obs: &Observation, wish: &Wish, instances: i32, now: Time) -> Decision {
    let ready = obs.new.endpoints.ready.len();
    let answer = |verdict, reason: &str, message: String| Decision { verdict, reason: reason.into(), message, at: now };
    if !wish.readiness_decides {
        return answer(
            Verdict::Unknown,
            "NoMetricsSource",
            "this build judges by readiness only; set spec.metrics to {none: {}} to let that decide, or give the ratios yourself with spec.control.routing".into(),
        );
    }
    if i32::try_from(ready).unwrap_or(i32::MAX) < instances {
        return answer(
            Verdict::Unknown,
            "NotReady",
            format!("{ready} of {instances} pods of the new version are ready; readiness alone decides"),
        );
    }
    answer(Verdict::Healthy, "ReadinessOnly", format!("all {instances} pods of the new version are ready; readiness alone decides"))
}

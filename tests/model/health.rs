//! What is measured in the model: both versions get requests at all times, and the new one errs from some share on.

use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::evidence::{Counts, Evidence, StepCounts};
use aether_operator::api::{Ratio, State, Time};
use aether_operator::metrics_source::measure::{Measured, Release};
use aether_operator::rollout::model::Observation;
use aether_operator::rollout::wish::Source;

/// Requests a second of each version that has traffic.
const RATE: u64 = 100;

/// What a process that began then has counted of the step, if the update is judged by it.
pub fn measured(obs: &Observation, began: Time, now: Time, errs_from: Option<f64>) -> Option<Arc<Measured>> {
    let wish = obs.wish.as_ref().ok().filter(|w| w.source != Source::None)?;
    if !matches!(obs.status.state, State::Deployed | State::Routing) {
        return None;
    }
    let step = obs.status.step.as_ref().map(|s| s.since);
    let from = step.map(|since| (since + wish.settle).max(began));
    let seconds = from.map_or(0, |from| u64::try_from((now - from).num_seconds()).unwrap_or_default());
    let requests = if obs.has_traffic() { RATE * seconds } else { 0 };
    let share = obs.status.routing.as_ref().and_then(|r| r.parse::<Ratio>().ok()).map_or(0.0, Ratio::share);
    let errors = if errs_from.is_some_and(|from| share >= from) { requests / 10 } else { 0 };
    let counts = |errors| Counts { requests, errors, ..Counts::default() };
    let window = StepCounts { new: counts(errors), old: counts(0), continues: false };
    Some(Arc::new(Measured {
        release: Release::of(&obs.meta, &obs.status, &obs.objects),
        step,
        is_counting: requests > 0,
        evidence: Evidence { since: step, limit_ms: None, earlier: None, steps: if requests > 0 { vec![window] } else { Vec::new() } },
        newest: Some(now),
        interval: Duration::from_secs(5),
        at: now,
        ..Measured::default()
    }))
}

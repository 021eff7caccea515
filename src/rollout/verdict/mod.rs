//! Whether the new version may get more traffic: Healthy, Unhealthy or Unknown.
//!
//! `judge` asks the source the user chose: readiness alone (`metrics: {none: {}}`), or what was measured, which [`judge::judge`]
//! weighs. Unhealthy is said of a proven breach only. It is latched in the status: it stands until the step is another one,
//! which only a person's order or a rollback brings about. Unknown never advances and never rolls back.

pub mod evidence;
pub mod judge;
pub mod likelihood;
pub mod simulation;

use std::time::Duration;

use crate::api::Time;
use crate::api::rolling_update::{Decision, Health, Verdict, VersionHealth};
use crate::metrics_source::measure::{Measured, Unread};

use self::evidence::{Kind, Tally};
use self::judge::{Judgement, Situation};
use super::model::Observation;
use super::wish::{Source, Wish};

/// Reason of Unknown where nobody says where a pod shows its metrics.
const NO_TARGET: &str = "NoMetricsTarget";
/// Reason of Unknown where they cannot be read.
const UNAVAILABLE: &str = "MetricsUnavailable";
/// Reason of Unknown while a step has not lasted its interval.
const INTERVAL_NOT_PASSED: &str = "IntervalNotPassed";
/// Reason of Unknown before the first figures of a step.
pub const NOT_MEASURED_YET: &str = "NotMeasuredYet";

/// Judges the new version at the present step.
pub fn judge(obs: &Observation, wish: &Wish, instances: i32, now: Time) -> Decision {
    if let Some(latched) = latched(obs) {
        return latched.clone();
    }
    if wish.source == Source::None {
        return readiness(obs, instances, now);
    }
    let (verdict, reason, message) = measured(obs, wish, instances, now);
    decision(obs, wish, (verdict, &reason, message), now)
}

/// What is said as a step begins, which nothing is known about yet.
pub fn at_first(obs: &Observation, wish: &Wish, instances: i32, now: Time) -> Decision {
    if wish.source == Source::None {
        return readiness(obs, instances, now);
    }
    let message = "the step has just begun; it is counted from settle on".to_owned();
    decision(obs, wish, (Verdict::Unknown, INTERVAL_NOT_PASSED, message), now)
}

/// The breach that was proven at the present step and recorded.
pub fn latched(obs: &Observation) -> Option<&Decision> {
    said_at_this_step(obs).filter(|d| d.verdict == Verdict::Unhealthy)
}

/// The recorded decision, if it is about the present step.
pub fn said_at_this_step(obs: &Observation) -> Option<&Decision> {
    let since = obs.status.step.as_ref().map(|s| s.since).or(obs.status.state_since);
    obs.status.decision.as_ref().filter(|d| since.is_none_or(|since| d.at >= since))
}

/// What is said holds no figures, so that another text is news.
pub fn is_without_figures(decision: &Decision) -> bool {
    [NO_TARGET, UNAVAILABLE].contains(&decision.reason.as_str())
}

/// The words for a breach.
pub fn breach_word(reason: &str) -> &'static str {
    judge::BREACHES.into_iter().find(|b| *b == reason).unwrap_or("Breached")
}

fn readiness(obs: &Observation, instances: i32, now: Time) -> Decision {
    let (verdict, reason, message) = match ready(obs, instances) {
        Ok(()) => {
            (Verdict::Healthy, "ReadinessOnly", format!("all {instances} pods of the new version are ready; readiness alone decides"))
        }
        Err(ready) => {
            (Verdict::Unknown, "NotReady", format!("{ready} of {instances} pods of the new version are ready; readiness alone decides"))
        }
    };
    Decision { verdict, reason: reason.into(), message, at: now, approved_before: None, breach: None }
}

/// Whether the new version has all of its pods; else how many.
fn ready(obs: &Observation, instances: i32) -> Result<(), usize> {
    let ready = obs.new.endpoints.ready.len();
    if i32::try_from(ready).unwrap_or(i32::MAX) < instances { Err(ready) } else { Ok(()) }
}

fn decision(obs: &Observation, wish: &Wish, (verdict, reason, message): (Verdict, &str, String), now: Time) -> Decision {
    let before = obs.status.decision.as_ref();
    let answered = before.and_then(|d| d.breach.as_deref());
    let (approved_before, breach) = if verdict == Verdict::Unhealthy && answered.and_then(judge::kind_of) != judge::kind_of(reason) {
        // An approval that is there before a breach is no answer to it.
        (Some(wish.orders.approved.as_ref().map_or_else(String::new, |a| a.text.clone())), Some(reason.to_owned()))
    } else {
        (before.and_then(|d| d.approved_before.clone()), answered.map(str::to_owned))
    };
    Decision { verdict, reason: reason.to_owned(), message, at: now, approved_before, breach }
}

fn measured(obs: &Observation, wish: &Wish, instances: i32, now: Time) -> (Verdict, String, String) {
    let unknown = |reason: &str, message: String| (Verdict::Unknown, reason.to_owned(), message);
    let step = obs.status.step.as_ref();
    let interval_passed = step.and_then(|s| s.next_not_before).is_none_or(|t| t <= now);
    let not_yet = |reason: &str| {
        let passed = interval_passed || !obs.has_traffic();
        unknown(if passed { reason } else { INTERVAL_NOT_PASSED }, "no figures of this step yet; it is counted from settle on".into())
    };
    let Some(m) = &obs.measured else { return not_yet(NOT_MEASURED_YET) };
    let age = m.newest.map(|newest| (now - newest).to_std().unwrap_or_default());
    let is_fresh = age.is_some_and(|age| age <= m.interval * judge::FRESH_INTERVALS);
    if !is_fresh && let Some(problem) = &m.problem {
        let (reason, why) = match problem {
            Unread::NoTarget(why) => (NO_TARGET, why),
            Unread::Failed(why) => (UNAVAILABLE, why),
        };
        return unknown(reason, format!("{why}; nothing is known of the new version's requests until they can be read"));
    }
    if age.is_none() {
        return not_yet(NOT_MEASURED_YET);
    }
    let situation =
        Situation { interval_passed, newest_sample_age_ms: age.map(millis), scrape_interval_ms: millis(m.interval), edges: m.edges };
    let judged = || judge::judge(&m.evidence, &wish.limits(), &situation);
    if !obs.has_traffic() {
        return without_traffic(obs, m, instances, is_fresh, judged);
    }
    if !m.is_counting || m.step != step.map(|s| s.since) {
        return not_yet(NOT_MEASURED_YET);
    }
    let Judgement { verdict, reason, mut message, .. } = judged();
    if m.is_without_counter && reason == "InsufficientTraffic" {
        message
            .push_str("; the new version shows none of the request counters that are known (docs/health.md), as one may that nobody calls");
    }
    if let Some(old) = &m.old_problem {
        message.push_str("; the old version cannot be read: ");
        message.push_str(old);
    }
    (verdict, reason.to_owned(), message)
}

/// At 0:1: what was proven before stands, else readiness decides, provided that the metrics can be read.
fn without_traffic(
    obs: &Observation,
    m: &Measured,
    instances: i32,
    is_fresh: bool,
    judged: impl Fn() -> Judgement,
) -> (Verdict, String, String) {
    let judgement = judged();
    if judgement.breach.is_some() || !is_fresh {
        return (judgement.verdict, judgement.reason.to_owned(), judgement.message);
    }
    match ready(obs, instances) {
        Ok(()) => {
            let source = if m.is_without_counter { "there is no request counter in its metrics yet" } else { "its metrics can be read" };
            let message = format!("all {instances} pods of the new version are ready and have no traffic yet; {source}");
            (Verdict::Healthy, "ReadyWithoutTraffic".to_owned(), message)
        }
        Err(ready) => (Verdict::Unknown, "NotReady".to_owned(), format!("{ready} of {instances} pods of the new version are ready")),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The documented figures, once there are any.
pub fn health(obs: &Observation, measured: &Measured) -> Option<Health> {
    let (new, old) = measured.evidence.whole(Kind::Errors);
    if measured.evidence.steps.is_empty() {
        return None;
    }
    let before = obs.status.health.as_ref();
    let figures = |version: &Option<String>, tally: Tally, mean: Option<f64>, before: Option<&VersionHealth>| VersionHealth {
        version: version.clone().unwrap_or_default(),
        request_count: i64::try_from(tally.of).unwrap_or(i64::MAX),
        error_rate: tally.rate(),
        // Of the last step, until there is a mean of this one.
        avg_latency_ms: mean.or(before.map(|b| b.avg_latency_ms)).unwrap_or_default(),
    };
    Some(Health {
        update_id: obs.meta.name.clone(),
        old_version: figures(&obs.status.old_version, old, measured.means.1, before.map(|b| &b.old_version)),
        new_version: figures(&obs.status.new_version, new, measured.means.0, before.map(|b| &b.new_version)),
        collected_at: measured.at.timestamp_millis(),
    })
}

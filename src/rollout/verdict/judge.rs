//! Healthy, Unhealthy or Unknown: what the evidence means for the next step.
//!
//! `Unhealthy` is said of a proven breach and of nothing else, so a caller may roll back on that word alone. A point
//! estimate over the limit is `Unknown`: it is no answer yet, holds the progression, and clears itself if it was noise.
//!
//! The checks, in this order; the first that applies gives the reason:
//! 1. `InvalidLimits`: a limit is no number, or no share.
//! 2. `StaleMetrics`: no sample, or the newest is more than 2 scrape intervals old. Before any breach, because old figures
//!    never roll back by themselves; a breach found while they were fresh has been latched by the caller.
//! 3. Breaches: `ErrorRateBreached`, `LatencyBreached`, `WorseThanOldErrors`, `WorseThanOldLatency`.
//! 4. `BaselineUnhealthy`: both versions are over the limit in the running step.
//! 5. `AboveThreshold`: only the new one is.
//! 6. `LatencyBucketTooCoarse`: the buckets cannot tell on which side of the limit the new version is.
//! 7. `IntervalNotPassed`. Before 8, because few requests are no news while time is left.
//! 8. `InsufficientTraffic`.
//! 9. `Healthy`.
//!
//! The old version over its own limit: windows in which it was do not count towards an absolute breach, now or later (so
//! an outage that both shared does not convict the new version once it is over), and while it lasts, and until enough was
//! seen without it, a new version over the limit is `BaselineUnhealthy`. Two things it does not change. The relative tests
//! stay: proof that the new version is more than `factor` times worse holds at any level, and rolling back helps. And a new
//! version within its limits may go on: it may be the repair.

use crate::api::rolling_update::Verdict;
pub use crate::metrics_source::window::Edges;

use super::evidence::{Allowed, Counts, Evidence, Kind, StepCounts, Tally, absolute, relative};

/// Chance that an update whose new version is within all limits is ever called a breach.
pub const ALPHA: f64 = 0.05;

/// Errors, latency, and both against the old version.
const TESTS: f64 = 4.0;

/// Evidence from here on is a breach: `TESTS / ALPHA` = 80.
pub const BAR: f64 = TESTS / ALPHA;

/// The latency limit is for the 99th percentile: so many requests may be slower.
pub const SLOW_SHARE: f64 = 0.01;

/// A sample so many scrape intervals old is still fresh.
pub const FRESH_INTERVALS: u32 = 2;

/// What the new version may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Largest share of failed requests, 0 to 1. At 0 one failure is proof, at 1 nothing is.
    pub max_error_rate: f64,
    /// Largest 99th percentile, in milliseconds.
    pub max_latency_ms: f64,
    /// Requests of the new version that a step needs: [`default_min_requests`].
    pub min_requests: u64,
    /// How many times as often as the old version the new one may fail; at least 1.
    pub factor: f64,
}

impl Limits {
    /// Limits with the default number of requests and factor 2.
    pub fn new(max_error_rate: f64, max_latency_ms: f64) -> Self {
        Self { max_error_rate, max_latency_ms, min_requests: default_min_requests(max_error_rate), factor: 2.0 }
    }

    /// What is allowed of one kind of failure.
    pub fn allowed(&self, kind: Kind) -> Allowed {
        let rate = match kind {
            Kind::Errors => self.max_error_rate,
            Kind::Slow => SLOW_SHARE,
        };
        Allowed { rate, enough: self.min_requests.max(1) }
    }

    fn are_usable(&self) -> bool {
        (0.0..=1.0).contains(&self.max_error_rate) && self.max_latency_ms >= 0.0 && self.factor >= 1.0
    }
}

/// `ceil(3 / rate)`, between 50 and 500: so many requests without a failure speak for a rate within the limit (rule of
/// three).
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 50 to 500")]
pub fn default_min_requests(max_error_rate: f64) -> u64 {
    if max_error_rate > 0.0 { (3.0 / max_error_rate).ceil().clamp(50.0, 500.0) as u64 } else { 500 }
}

/// What the counts do not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// The step has lasted its `interval`.
    pub interval_passed: bool,
    /// Age of the newest sample; `None`: there is none.
    pub newest_sample_age_ms: Option<u64>,
    /// Time between two scrapes.
    pub scrape_interval_ms: u64,
    /// The new version's bucket edges.
    pub edges: Edges,
}

impl Situation {
    fn is_fresh(&self) -> bool {
        self.newest_sample_age_ms.is_some_and(|age| age <= self.scrape_interval_ms.saturating_mul(FRESH_INTERVALS.into()))
    }
}

/// The four tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Errors against the limit.
    ErrorRate,
    /// Slow requests against the limit.
    Latency,
    /// Errors against the old version.
    ErrorsAgainstOld,
    /// Slow requests against the old version.
    LatencyAgainstOld,
}

impl Test {
    const ALL: [Self; 4] = [Self::ErrorRate, Self::Latency, Self::ErrorsAgainstOld, Self::LatencyAgainstOld];

    fn kind(self) -> Kind {
        match self {
            Self::ErrorRate | Self::ErrorsAgainstOld => Kind::Errors,
            Self::Latency | Self::LatencyAgainstOld => Kind::Slow,
        }
    }
}

/// The answer, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// Which test is over the bar; there is one exactly when `Unhealthy`. To be latched: later counts may dilute it.
    pub breach: Option<Test>,
    /// One CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence with the numbers.
    pub message: String,
    /// The largest evidence of the four tests; a breach from [`BAR`] on.
    pub evidence: f64,
}

/// Judges an update. Total: any counts and limits get an answer.
pub fn judge(evidence: &Evidence, limits: &Limits, situation: &Situation) -> Judgement {
    if !limits.are_usable() {
        let message = format!(
            "limits cannot be used: maxErrorRate {} must be 0 to 1, maxLatencyMs {} not negative, factor {} at least 1",
            limits.max_error_rate, limits.max_latency_ms, limits.factor
        );
        return Judgement { verdict: Verdict::Unknown, breach: None, reason: "InvalidLimits", message, evidence: 1.0 };
    }
    let (errors, slow) = (limits.allowed(Kind::Errors), limits.allowed(Kind::Slow));
    let tests = [
        (Test::ErrorRate, absolute(evidence, Kind::Errors, errors)),
        (Test::Latency, absolute(evidence, Kind::Slow, slow)),
        (Test::ErrorsAgainstOld, relative(evidence, Kind::Errors, errors, limits.factor)),
        (Test::LatencyAgainstOld, relative(evidence, Kind::Slow, slow, limits.factor)),
    ];
    let largest = tests.iter().fold(0.0, |most: f64, (_, e)| most.max(*e));
    let breach = tests.iter().find(|(_, e)| *e >= BAR).map(|(test, _)| *test).filter(|_| situation.is_fresh());
    let (verdict, reason, why) = match breach {
        Some(test) => (Verdict::Unhealthy, breached(test), proven(test, limits)),
        None => unproven(evidence, limits, situation),
    };
    let of = |kind: Kind| tests.iter().filter(|(test, _)| test.kind() == kind).fold(0.0, |most: f64, (_, e)| most.max(*e));
    let message = format!("{}{why}", Figures { evidence, limits, errors: of(Kind::Errors), slow: of(Kind::Slow) });
    Judgement { verdict, breach, reason, message, evidence: largest }
}

/// What is said of a breach, one word for each test.
pub const BREACHES: [&str; 4] = ["ErrorRateBreached", "LatencyBreached", "WorseThanOldErrors", "WorseThanOldLatency"];

/// What kind of failure such a word is about.
pub fn kind_of(breach: &str) -> Option<Kind> {
    Test::ALL.into_iter().find(|test| breached(*test) == breach).map(Test::kind)
}

fn breached(test: Test) -> &'static str {
    let [errors, latency, against_errors, against_latency] = BREACHES;
    match test {
        Test::ErrorRate => errors,
        Test::Latency => latency,
        Test::ErrorsAgainstOld => against_errors,
        Test::LatencyAgainstOld => against_latency,
    }
}

fn proven(test: Test, limits: &Limits) -> String {
    match test {
        Test::ErrorRate => "; more errors than the limit allows are proven".into(),
        Test::Latency => format!("; a p99 over {} ms is proven", limits.max_latency_ms),
        Test::ErrorsAgainstOld => format!("; more than {} times the old version's error rate is proven", limits.factor),
        Test::LatencyAgainstOld => format!("; more than {} times the old version's share of slow requests is proven", limits.factor),
    }
}

/// Everything but a breach, in the order of the module's head.
fn unproven(evidence: &Evidence, limits: &Limits, situation: &Situation) -> (Verdict, &'static str, String) {
    let unknown = |reason, why: String| (Verdict::Unknown, reason, why);
    let (errors, slow) = (limits.allowed(Kind::Errors), limits.allowed(Kind::Slow));
    let new = evidence.running().new;
    if !situation.is_fresh() {
        let newest =
            situation.newest_sample_age_ms.map_or("there is no sample yet".into(), |age| format!("the newest sample is {age} ms old"));
        let most = situation.scrape_interval_ms.saturating_mul(FRESH_INTERVALS.into());
        return unknown("StaleMetrics", format!("; {newest}, at most {most} ms are good enough; see that the metrics can be read"));
    }
    let estimates = [(Kind::Errors, errors), (Kind::Slow, slow)].map(|(kind, allowed)| (kind, allowed, evidence.estimate(kind, allowed)));
    let bad: Vec<_> = estimates.iter().filter(|(kind, allowed, step)| step.new.surely(*kind).is_over(*allowed)).collect();
    if bad.iter().any(|(kind, allowed, step)| step.old.surely(*kind).rate() > allowed.rate) {
        return unknown("BaselineUnhealthy", "; the old version is over the limit too, so look for what both use".into());
    }
    if !bad.is_empty() {
        return unknown("AboveThreshold", "; over the limit, but not proven: holding until it clears or the evidence is in".into());
    }
    if estimates.iter().any(|(kind, allowed, step)| step.new.possibly(*kind).is_over(*allowed)) {
        return unknown("LatencyBucketTooCoarse", too_coarse(limits, situation.edges));
    }
    if !situation.interval_passed {
        return unknown("IntervalNotPassed", "; the step has not lasted its interval yet".into());
    }
    // Where durations are known at all they must suffice: figures that went away are no good news.
    if evidence.is_timed() && new.timed < slow.enough {
        return unknown(
            "InsufficientTraffic",
            format!("; {} of {} requests with a known duration seen in this step", new.timed, slow.enough),
        );
    }
    if new.requests < errors.enough {
        return unknown("InsufficientTraffic", format!("; {} of {} requests seen in this step", new.requests, errors.enough));
    }
    (Verdict::Healthy, "Healthy", String::new())
}

fn too_coarse(limits: &Limits, edges: Edges) -> String {
    let edge = |edge: Option<f64>, else_: &str| edge.filter(|e| e.is_finite()).map_or(else_.to_owned(), |e| format!("{e} ms"));
    let (below, above) = (edge(edges.below_ms, "0"), edge(edges.above_ms, "infinity"));
    format!(
        "; the buckets go from {below} to {above} and cannot tell whether p99 is within {limit} ms; \
         add the edge {limit} ms ({seconds} s) to the histogram",
        limit = limits.max_latency_ms,
        seconds = limits.max_latency_ms / 1000.0,
    )
}

/// The numbers of the running step, and since the first shift where that is more.
struct Figures<'a> {
    evidence: &'a Evidence,
    limits: &'a Limits,
    /// How strongly errors speak against the new version, by the limit or by the old version.
    errors: f64,
    /// And slow requests.
    slow: f64,
}

impl std::fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StepCounts { new, old, .. } = self.evidence.running();
        let rate = self.limits.max_error_rate;
        let (of_new, of_old) = (new.surely(Kind::Errors), old.surely(Kind::Errors));
        write!(f, "new {} (limit {}), evidence {} of {BAR}", errors(of_new, rate), percent(rate, 4), evidence_shown(self.errors))?;
        write!(f, "; old {}", share(of_old))?;
        if self.evidence.is_timed() {
            let (limit, ms) = (percent(SLOW_SHARE, 4), self.limits.max_latency_ms);
            write!(f, "; over {ms} ms: new {} (limit {limit}), evidence {} of {BAR}", slow(new), evidence_shown(self.slow))?;
            write!(f, "; old {}", slow(old))?;
        } else if new.requests > 0 {
            f.write_str("; latency is not judged: there is no histogram")?;
        }
        let judged = |kind| self.evidence.estimate(kind, self.limits.allowed(kind)).new;
        let left_out = new.requests.saturating_sub(judged(Kind::Errors).requests).max(new.timed.saturating_sub(judged(Kind::Slow).timed));
        if left_out > 0 {
            write!(f, "; of these, {left_out} of the new one while both were over a limit are left out")?;
        }
        let whole = |kind| self.evidence.whole(kind);
        let (all_new, all_old) = whole(Kind::Errors);
        if all_new != new.surely(Kind::Errors) {
            write!(f, "; since the first shift: new {}, old {}", errors(all_new, rate), share(all_old))?;
            let (all_new, _) = whole(Kind::Slow);
            if all_new.of > 0 {
                write!(f, ", new over {} ms {}", self.limits.max_latency_ms, share(all_new))?;
            }
        }
        Ok(())
    }
}

/// With more digits where the rate would look like the limit and is not.
fn errors(tally: Tally, limit: f64) -> String {
    let (rate, shown) = (tally.rate(), percent(limit, 4));
    let apart = (2..10).map(|digits| percent(rate, digits)).find(|text| *text != shown || (rate - limit).abs() < 1e-12);
    let equals = if tally.of == 0 { String::new() } else { format!(" = {}", apart.unwrap_or(shown)) };
    format!("{}/{} errors{equals}", tally.bad, tally.of)
}

fn share(tally: Tally) -> String {
    format!("{}/{}{}", tally.bad, tally.of, equals(tally.rate(), tally.of))
}

/// From the surely to the possibly slow ones.
fn slow(counts: Counts) -> String {
    let (low, high) = (counts.surely(Kind::Slow), counts.possibly(Kind::Slow));
    if low == high {
        return share(low);
    }
    format!("{} to {}/{} = {} to {}", low.bad, high.bad, high.of, percent(low.rate(), 2), percent(high.rate(), 2))
}

fn equals(rate: f64, of: u64) -> String {
    if of == 0 { String::new() } else { format!(" = {}", percent(rate, 2)) }
}

/// Rounded down, so that what is below the bar is never shown as the bar.
fn evidence_shown(evidence: f64) -> String {
    match evidence.floor() {
        e if e > 1e6 => "over 1000000".into(),
        e => format!("{e}"),
    }
}

/// A share with so many digits that count: `2.7 %`, `0.24 %`, `1 %`.
fn percent(share: f64, digits: usize) -> String {
    let percent = share * 100.0;
    let (mut leading, mut decimals) = (percent, digits.saturating_sub(1));
    while leading >= 10.0 {
        leading /= 10.0;
        decimals = decimals.saturating_sub(1);
    }
    while leading > 0.0 && leading < 1.0 && decimals < 15 {
        leading *= 10.0;
        decimals += 1;
    }
    let text = format!("{percent:.decimals$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short} %")
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

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
//! an outage that both shared does not convict the new version once it is over), and while it lasts a new version over the
//! limit is `BaselineUnhealthy`. Two things it does not change. The relative tests stay: proof that the new version is more
//! than `factor` times worse holds at any level, and rolling back helps. And a new version within its limits may go on: it
//! may be the repair.

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
const FRESH_INTERVALS: u64 = 2;

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
        self.newest_sample_age_ms.is_some_and(|age| age <= self.scrape_interval_ms.saturating_mul(FRESH_INTERVALS))
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
    let message = format!("{}{why}", Figures { evidence, limits, largest });
    Judgement { verdict, breach, reason, message, evidence: largest }
}

/// What is said of a breach, one word for each test.
pub const BREACHES: [&str; 4] = ["ErrorRateBreached", "LatencyBreached", "WorseThanOldErrors", "WorseThanOldLatency"];

/// What kind of failure such a word is about.
pub fn kind_of(breach: &str) -> Option<Kind> {
    let kinds = [Kind::Errors, Kind::Slow, Kind::Errors, Kind::Slow];
    BREACHES.into_iter().zip(kinds).find(|(word, _)| *word == breach).map(|(_, kind)| kind)
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
    let StepCounts { new, old, .. } = evidence.running();
    if !situation.is_fresh() {
        let newest =
            situation.newest_sample_age_ms.map_or("there is no sample yet".into(), |age| format!("the newest sample is {age} ms old"));
        let most = situation.scrape_interval_ms.saturating_mul(FRESH_INTERVALS);
        return unknown("StaleMetrics", format!("; {newest}, at most {most} ms are good enough; see that the metrics can be read"));
    }
    let over = |counts: Counts, kind| counts.surely(kind).is_over(limits.allowed(kind));
    let (bad_errors, bad_latency) = (over(new, Kind::Errors), over(new, Kind::Slow));
    if (bad_errors && over(old, Kind::Errors)) || (bad_latency && over(old, Kind::Slow)) {
        return unknown("BaselineUnhealthy", "; the old version is over the limit too, so look for what both use".into());
    }
    if bad_errors || bad_latency {
        return unknown("AboveThreshold", "; over the limit, but not proven: holding until it clears or the evidence is in".into());
    }
    if new.possibly(Kind::Slow).is_over(slow) {
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
    largest: f64,
}

impl std::fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StepCounts { new, old, .. } = self.evidence.running();
        let limit = percent(self.limits.max_error_rate, 4);
        write!(f, "new {} (limit {limit}), evidence {} of {BAR}", errors(new.surely(Kind::Errors)), evidence_shown(self.largest))?;
        write!(f, "; old {}", share(old.surely(Kind::Errors)))?;
        if self.evidence.is_timed() {
            let (limit, ms) = (percent(SLOW_SHARE, 4), self.limits.max_latency_ms);
            write!(f, "; over {ms} ms: new {} (limit {limit}), old {}", slow(new), slow(old))?;
        } else {
            f.write_str("; latency is not judged: there is no histogram")?;
        }
        let whole = |kind| self.evidence.whole(kind);
        let (all_new, all_old) = whole(Kind::Errors);
        if all_new != new.surely(Kind::Errors) {
            write!(f, "; since the first shift: new {}, old {}", errors(all_new), share(all_old))?;
            let (all_new, _) = whole(Kind::Slow);
            if all_new.of > 0 {
                write!(f, ", new over {} ms {}", self.limits.max_latency_ms, share(all_new))?;
            }
        }
        Ok(())
    }
}

fn errors(tally: Tally) -> String {
    format!("{}/{} errors{}", tally.bad, tally.of, equals(tally.rate(), tally.of))
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn counts(requests: u64, errors: u64) -> Counts {
        Counts { requests, errors, ..Counts::default() }
    }

    fn timed(requests: u64, slow_low: u64, slow_high: u64) -> Counts {
        Counts { requests, timed: requests, slow_low, slow_high, errors: 0 }
    }

    fn step(new: Counts, old: Counts) -> StepCounts {
        StepCounts { new, old, continues: false }
    }

    fn evidence(steps: &[StepCounts]) -> Evidence {
        Evidence { steps: steps.into(), ..Evidence::default() }
    }

    fn good() -> Situation {
        let edges = Edges { below_ms: Some(300.0), above_ms: Some(1200.0) };
        Situation { interval_passed: true, newest_sample_age_ms: Some(30_000), scrape_interval_ms: 15_000, edges }
    }

    fn said(steps: &[StepCounts]) -> Judgement {
        judge(&evidence(steps), &Limits::new(0.01, 500.0), &good())
    }

    const OLD: Counts = Counts { requests: 3000, errors: 3, timed: 0, slow_low: 0, slow_high: 0 };
    const OLD_TIMED: Counts = Counts { requests: 3000, errors: 3, timed: 3000, slow_low: 3, slow_high: 3 };

    #[rstest]
    #[case::healthy(step(counts(300, 3), OLD), "Healthy")]
    #[case::nothing_counted(step(counts(0, 0), OLD), "InsufficientTraffic")]
    #[case::one_too_few(step(counts(299, 0), OLD), "InsufficientTraffic")]
    #[case::over_the_limit(step(counts(300, 4), counts(0, 0)), "AboveThreshold")]
    #[case::proven(step(counts(300, 11), counts(0, 0)), "ErrorRateBreached")]
    #[case::proven_by_few(step(counts(20, 4), counts(0, 0)), "ErrorRateBreached")]
    #[case::within_the_limit_but_far_worse(step(counts(3000, 25), counts(30_000, 3)), "WorseThanOldErrors")]
    #[case::fast(step(timed(1000, 3, 9), OLD_TIMED), "Healthy")]
    #[case::surely_slow(step(timed(1000, 11, 15), timed(1000, 5, 5)), "AboveThreshold")]
    #[case::slow_and_proven(step(timed(1000, 23, 23), timed(1000, 9, 9)), "LatencyBreached")]
    #[case::possibly_slow(step(timed(1000, 3, 90), OLD_TIMED), "LatencyBucketTooCoarse")]
    #[case::far_slower_than_the_old(step(timed(10_000, 90, 90), timed(90_000, 90, 90)), "WorseThanOldLatency")]
    #[case::both_slow(step(timed(1000, 50, 50), timed(1000, 50, 50)), "BaselineUnhealthy")]
    #[case::few_durations(step(Counts { requests: 1000, timed: 299, ..Counts::default() }, OLD_TIMED), "InsufficientTraffic")]
    #[case::both_failing(step(counts(1000, 500), counts(1000, 400)), "BaselineUnhealthy")]
    #[case::both_failing_the_new_one_far_more(step(counts(1000, 500), counts(1000, 20)), "WorseThanOldErrors")]
    #[case::the_repair(step(counts(1000, 1), counts(1000, 400)), "Healthy")]
    #[case::counters_that_contradict(step(counts(10, 900), counts(0, 7)), "ErrorRateBreached")]
    fn reasons(#[case] step: StepCounts, #[case] reason: &str) {
        let said = said(&[step]);
        assert_eq!(said.reason, reason, "{}", said.message);
        let proven = ["ErrorRateBreached", "LatencyBreached", "WorseThanOldErrors", "WorseThanOldLatency"].contains(&reason);
        let verdict = if proven {
            Verdict::Unhealthy
        } else if reason == "Healthy" {
            Verdict::Healthy
        } else {
            Verdict::Unknown
        };
        assert_eq!((said.verdict, said.breach.is_some(), said.evidence >= BAR && proven), (verdict, proven, proven));
        assert!(said.message.starts_with("new ") && said.message.contains(" errors") && said.message.contains(" of 80; old "));
    }

    #[rstest]
    #[case::no_sample(Situation { newest_sample_age_ms: None, ..good() }, "StaleMetrics")]
    #[case::too_old(Situation { newest_sample_age_ms: Some(30_001), ..good() }, "StaleMetrics")]
    #[case::too_early(Situation { interval_passed: false, ..good() }, "IntervalNotPassed")]
    fn not_before_its_time(#[case] situation: Situation, #[case] reason: &str) {
        let limits = Limits::new(0.01, 500.0);
        let healthy = evidence(&[step(counts(1000, 0), OLD)]);
        let said = judge(&healthy, &limits, &situation);
        assert_eq!((said.verdict, said.reason), (Verdict::Unknown, reason));
        // Old figures convict nobody; a young step does.
        let failing = judge(&evidence(&[step(counts(1000, 500), OLD)]), &limits, &situation);
        assert_eq!(failing.breach.is_some(), situation.is_fresh(), "{}", failing.message);
    }

    #[test]
    fn an_outage_of_both_convicts_nobody_once_it_is_over() {
        let (fine, outage) = (step(counts(1000, 1), counts(1000, 1)), step(counts(1000, 500), counts(1000, 500)));
        assert_eq!(said(&[fine, outage]).reason, "BaselineUnhealthy");
        assert_eq!(said(&[fine, outage, fine]).reason, "Healthy");
    }

    #[test]
    fn minimum_and_estimate_are_those_of_the_running_step() {
        let fine = step(counts(10_000, 1), counts(1000, 1));
        assert_eq!(said(&[fine, step(counts(200, 0), OLD)]).reason, "InsufficientTraffic");
        assert_eq!(said(&[fine, step(counts(200, 0), OLD), StepCounts { continues: true, ..step(counts(100, 0), OLD) }]).reason, "Healthy");
        assert_eq!(said(&[fine, step(counts(300, 4), OLD)]).reason, "AboveThreshold");
    }

    #[test]
    fn the_message_carries_the_numbers() {
        let message = said(&[step(counts(412, 11), counts(1240, 3))]).message;
        assert!(message.starts_with("new 11/412 errors = 2.7 % (limit 1 %), evidence "), "{message}");
        assert!(message.contains(" of 80; old 3/1240 = 0.24 %; latency is not judged: there is no histogram"), "{message}");
        let coarse = said(&[step(timed(412, 0, 9), timed(1240, 0, 3))]).message;
        let wanted = "new 0/412 errors = 0 % (limit 1 %), evidence 1 of 80; old 0/1240 = 0 %; \
                      over 500 ms: new 0 to 9/412 = 0 % to 2.2 % (limit 1 %), old 0 to 3/1240 = 0 % to 0.24 %; \
                      the buckets go from 300 ms to 1200 ms and cannot tell whether p99 is within 500 ms; \
                      add the edge 500 ms (0.5 s) to the histogram";
        assert_eq!(coarse, wanted);
        let later = said(&[step(counts(1000, 40), OLD), step(counts(0, 0), OLD)]).message;
        assert!(later.contains("since the first shift: new 40/1000 errors = 4 %, old 6/6000 = 0.1 %"), "{later}");
    }

    #[rstest]
    #[case(0.0, 2, "0 %")]
    #[case(0.0267, 2, "2.7 %")]
    #[case(0.07, 4, "7 %")]
    #[case(0.000_012_34, 2, "0.0012 %")]
    #[case(0.123, 2, "12 %")]
    #[case(0.9996, 2, "100 %")]
    #[case(1.0, 4, "100 %")]
    fn percents(#[case] share: f64, #[case] digits: usize, #[case] text: &str) {
        assert_eq!(percent(share, digits), text);
    }

    #[rstest]
    #[case(0.01, 300)]
    #[case(0.001, 500)]
    #[case(0.05, 60)]
    #[case(0.02, 150)]
    #[case(0.5, 50)]
    #[case(1.0, 50)]
    #[case(0.0, 500)]
    #[case(f64::NAN, 500)]
    fn the_default_number_of_requests(#[case] rate: f64, #[case] requests: u64) {
        assert_eq!(default_min_requests(rate), requests);
    }

    #[rstest]
    #[case::no_error_allowed(0.0, 0, "Healthy")]
    #[case::one_error_is_proof(0.0, 1, "ErrorRateBreached")]
    #[case::every_error_allowed(1.0, 1000, "Healthy")]
    #[case::not_a_number(f64::NAN, 0, "InvalidLimits")]
    #[case::no_share(1.01, 0, "InvalidLimits")]
    #[case::negative(-0.01, 0, "InvalidLimits")]
    fn limits_at_the_ends(#[case] rate: f64, #[case] errors: u64, #[case] reason: &str) {
        let said = judge(&evidence(&[step(counts(1000, errors), counts(0, 0))]), &Limits::new(rate, 500.0), &good());
        assert_eq!(said.reason, reason, "{}", said.message);
    }

    #[test]
    fn nothing_seen_is_never_healthy() {
        let limits = Limits { min_requests: 0, ..Limits::new(0.01, 500.0) };
        assert_eq!(judge(&Evidence::default(), &limits, &good()).reason, "InsufficientTraffic");
    }

    prop_compose! {
        fn any_counts()(
            requests in prop_oneof![0..900_u64, 0..=u64::MAX], errors in prop_oneof![0..20_u64, 0..=u64::MAX],
            timed in prop_oneof![Just(0_u64), 0..900_u64, 0..=u64::MAX],
            slow_low in 0..20_u64, slow_high in prop_oneof![0..20_u64, 0..=u64::MAX],
        ) -> Counts {
            Counts { requests, errors, timed, slow_low, slow_high }
        }
    }

    prop_compose! {
        fn any_step()(new in any_counts(), old in any_counts(), continues: bool) -> StepCounts { StepCounts { new, old, continues } }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Any input gets an answer, and each answer means what the contract says it means.
        #[test]
        fn is_total_and_keeps_its_word(
            steps in prop::collection::vec(any_step(), 0..4), rate in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0_f64, any::<f64>()],
            factor in prop_oneof![Just(2.0), any::<f64>()], latency in any::<f64>(), min_requests in 0..600_u64,
            interval_passed: bool, newest_sample_age_ms in prop::option::of(0..60_000_u64),
            scrape_interval_ms in prop_oneof![Just(15_000), any::<u64>()],
        ) {
            let limits = Limits { max_error_rate: rate, max_latency_ms: latency, min_requests, factor };
            let situation = Situation { interval_passed, newest_sample_age_ms, scrape_interval_ms, edges: Edges::default() };
            let evidence = evidence(&steps);
            let said = judge(&evidence, &limits, &situation);
            prop_assert!(said.evidence.is_finite() && !said.message.is_empty());
            prop_assert_eq!(said.verdict == Verdict::Unhealthy, said.breach.is_some());
            prop_assert!(said.breach.is_none() || (said.evidence >= BAR && situation.is_fresh()));
            let new = evidence.running().new.sane();
            let is_healthy = limits.are_usable() && situation.is_fresh() && interval_passed && said.breach.is_none()
                && new.requests >= min_requests.max(1) && new.surely(Kind::Errors).rate() <= rate
                && (!evidence.is_timed() || (new.timed >= min_requests.max(1) && new.possibly(Kind::Slow).rate() <= SLOW_SHARE));
            prop_assert_eq!(said.verdict == Verdict::Healthy, is_healthy, "{}", said.message);
        }
    }
}

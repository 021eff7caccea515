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

/// In one step as well, once enough was seen without it; and what came with the outage and stayed is held on.
#[test]
fn an_outage_of_both_is_forgotten_in_the_same_step() {
    let on = |window: StepCounts| StepCounts { continues: true, ..window };
    let (fine, outage) = (step(counts(300, 1), counts(300, 1)), on(step(counts(1000, 500), counts(1000, 500))));
    let (after, later) = (on(step(counts(300, 1), counts(1, 0))), on(step(counts(300, 1), counts(900, 0))));
    assert_eq!(said(&[fine, outage]).reason, "BaselineUnhealthy");
    assert_eq!(said(&[fine, outage, after]).reason, "BaselineUnhealthy", "the window after it is not apart from it");
    let healthy = said(&[fine, outage, after, later]);
    assert_eq!(healthy.reason, "Healthy");
    assert!(healthy.message.contains("; of these, 1300 of the new one while both were over a limit are left out"), "{}", healthy.message);
    let bad = on(step(counts(300, 8), counts(900, 0)));
    assert_eq!(said(&[fine, outage, after, bad]).reason, "AboveThreshold");
    let only = step(counts(1000, 500), counts(1000, 500));
    assert_eq!(said(&[only, after, on(step(counts(20, 0), counts(900, 0)))]).reason, "BaselineUnhealthy", "too little was seen besides");
}

/// A histogram that only the old version has is missed.
#[test]
fn a_histogram_that_went_away_is_missed() {
    let said = said(&[step(counts(1000, 0), OLD_TIMED)]);
    assert_eq!(said.reason, "InsufficientTraffic", "{}", said.message);
    assert!(said.message.contains("0 of 300 requests with a known duration"), "{}", said.message);
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
                  over 500 ms: new 0 to 9/412 = 0 % to 2.2 % (limit 1 %), evidence 0 of 80; old 0 to 3/1240 = 0 % to 0.24 %; \
                  the buckets go from 300 ms to 1200 ms and cannot tell whether p99 is within 500 ms; \
                  add the edge 500 ms (0.5 s) to the histogram";
    assert_eq!(coarse, wanted);
    let near = said(&[step(counts(20_000, 201), OLD)]).message;
    assert!(near.starts_with("new 201/20000 errors = 1.005 % (limit 1 %)"), "{near}");
    assert!(said(&[step(counts(400, 4), OLD)]).message.starts_with("new 4/400 errors = 1 % (limit 1 %)"));
    assert!(!said(&[step(counts(0, 0), OLD)]).message.contains("histogram"));
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
        let estimate = |kind| evidence.estimate(kind, limits.allowed(kind)).new.possibly(kind).rate() <= limits.allowed(kind).rate;
        let is_healthy = limits.are_usable() && situation.is_fresh() && interval_passed && said.breach.is_none()
            && new.requests >= min_requests.max(1) && estimate(Kind::Errors)
            && (!evidence.is_timed() || (new.timed >= min_requests.max(1) && estimate(Kind::Slow)));
        prop_assert_eq!(said.verdict == Verdict::Healthy, is_healthy, "{}", said.message);
    }
}

use super::*;
use proptest::prelude::*;
use rstest::rstest;

const ONE_PERCENT: Allowed = Allowed { rate: 0.01, enough: 300 };
const BAR: f64 = 80.0;

fn counts(requests: u64, errors: u64) -> Counts {
    Counts { requests, errors, ..Counts::default() }
}

fn window(new: (u64, u64), old: (u64, u64)) -> StepCounts {
    StepCounts { new: counts(new.0, new.1), old: counts(old.0, old.1), continues: false }
}

fn steps(steps: &[StepCounts]) -> Evidence {
    Evidence { steps: steps.into(), ..Evidence::default() }
}

fn errors(evidence: &Evidence) -> f64 {
    absolute(evidence, Kind::Errors, ONE_PERCENT)
}

#[rstest]
#[case(20, 4)]
#[case(50, 5)]
#[case(100, 6)]
#[case(300, 11)]
#[case(1000, 23)]
fn so_many_errors_prove_a_breach_of_one_percent(#[case] requests: u64, #[case] proof: u64) {
    // Of one process, and of the average in the first step.
    for e in [|n, k| over_limit(n, k, 0.01), |n, k| errors(&steps(&[window((n, k), (0, 0))]))] {
        assert!(e(requests, proof - 1) < BAR && e(requests, proof) >= BAR);
    }
}

#[test]
fn averages_over_the_start_of_the_fault() {
    let (whole, second) = (over_limit(500, 20, 0.01), over_limit(100, 18, 0.01));
    let wanted = 0.5 * whole + 0.5 * (whole / 2.0 + second / 6.0 + 1.0 / 3.0);
    let e = errors(&steps(&[window((400, 2), (0, 0)), window((100, 18), (0, 0))]));
    assert!((e / wanted - 1.0).abs() < 1e-12, "{e} {wanted}");
    assert!((errors(&steps(&[])) - 1.0).abs() < 1e-12);
    assert!((errors(&steps(&[StepCounts::default(); 4])) - 1.0).abs() < 1e-12);
}

#[test]
fn good_history_does_not_hide_a_late_fault() {
    let (good, bad) = ((100_000, 100), (300, 20));
    assert!(errors(&steps(&[window(good, (0, 0)), window(bad, (0, 0))])) >= BAR);
    assert!(errors(&steps(&[window((100_300, 120), (0, 0))])) < 1.0);
}

#[test]
fn what_both_versions_share_does_not_count() {
    let outage = window((1000, 500), (1000, 500));
    let fine = window((1000, 1), (1000, 1));
    assert!(errors(&steps(&[fine, outage, fine])) < 1.0);
    assert!(errors(&steps(&[fine, window((1000, 500), (1000, 1)), fine])) > BAR);
    // Few requests of the old one tell as well, and so do those of the window before where a window has just begun.
    assert!(errors(&steps(&[fine, window((1000, 500), (10, 4)), fine])) < 1.0);
    assert!(errors(&steps(&[fine, outage, window((20, 10), (20, 0))])) < 1.0);
    assert!(errors(&steps(&[fine, fine, window((20, 10), (20, 0))])) > BAR);
    // All traffic is on the new one now.
    assert!(errors(&steps(&[fine, window((60, 0), (20, 1)), window((250, 250), (0, 0))])) > BAR);
}

#[rstest]
#[case::nine_to_one((100, 14), (900, 14), true)]
#[case::the_same_at_one_to_one((500, 14), (500, 14), false)]
#[case::four_failures_are_too_few((10, 4), (100_000, 0), false)]
#[case::five_are_not((10, 5), (100_000, 0), true)]
#[case::twice_as_bad_is_allowed((10_000, 400), (10_000, 200), false)]
#[case::three_times_is_not((10_000, 600), (10_000, 200), true)]
#[case::nobody_to_compare_with((10_000, 300), (0, 0), false)]
fn against_the_old_version(#[case] new: (u64, u64), #[case] old: (u64, u64), #[case] is_proof: bool) {
    let e = relative(&steps(&[window(new, old)]), Kind::Errors, ONE_PERCENT, 2.0);
    assert_eq!(e >= BAR, is_proof, "{e}");
}

#[test]
fn coarse_buckets_prove_nothing_against_the_old_version() {
    let counts = |slow_low, slow_high| Counts { requests: 1000, timed: 1000, slow_low, slow_high, errors: 0 };
    let e = |new, old| relative(&steps(&[StepCounts { new, old, continues: false }]), Kind::Slow, ONE_PERCENT, 2.0);
    assert!(e(counts(60, 60), counts(2, 2)) >= BAR);
    assert!(e(counts(2, 60), counts(2, 2)) <= 1.0);
    assert!(e(counts(60, 60), counts(2, 60)) < 1.0);
}

#[test]
fn the_running_step_is_all_its_windows() {
    let mut evidence = steps(&[window((7, 7), (7, 7))]);
    evidence.begin_step(ONE_PERCENT, ONE_PERCENT);
    evidence.add(counts(300, 1), counts(5, 0));
    assert!(evidence.wants_window(300) && !evidence.wants_window(301));
    evidence.begin_window(ONE_PERCENT, ONE_PERCENT);
    evidence.add(counts(30, 2), counts(6, 1));
    let running = evidence.running();
    assert_eq!((running.new, running.old), (counts(330, 3), counts(11, 1)));
    assert_eq!(evidence.whole(Kind::Errors), (Tally { of: 337, bad: 10 }, Tally { of: 18, bad: 8 }));
}

/// It does not depend on which windows are kept one by one.
#[test]
fn what_both_versions_shared_does_not_count_when_it_is_old() {
    let mut evidence = Evidence::default();
    for i in 0..KEPT + 5 {
        evidence.begin_step(ONE_PERCENT, ONE_PERCENT);
        // The end of an outage: the old version's part is in the first window.
        let (new, old) = [(counts(1000, 500), counts(1000, 500)), (counts(1000, 60), counts(1000, 0))][i.min(1)];
        let fine = (counts(1000, 1), counts(1000, 1));
        let (new, old) = if i < 2 { (new, old) } else { fine };
        evidence.add(new, old);
    }
    assert!(evidence.earlier.is_some() && errors(&evidence) < 1.0, "{}", errors(&evidence));
}

#[test]
fn survives_a_restart() {
    let mut evidence = Evidence::default();
    for i in 0..40 {
        evidence.begin_step(ONE_PERCENT, ONE_PERCENT);
        evidence.add(counts(100, i), counts(50, 1));
    }
    assert_eq!((evidence.steps.len(), evidence.earlier.unwrap().windows), (KEPT, 8));
    let text = serde_json::to_string(&evidence).unwrap();
    assert!(!text.contains('.') && text.len() < 8192, "{}", text.len());
    assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence);
    assert_eq!(serde_json::from_str::<Evidence>("{}").unwrap(), Evidence::default());
}

prop_compose! {
    fn any_counts()(
        requests in prop_oneof![0..2000_u64, 0..=u64::MAX], errors in prop_oneof![0..30_u64, 0..=u64::MAX],
        timed in prop_oneof![0..2000_u64, 0..=u64::MAX],
        slow_low in 0..40_u64, slow_high in prop_oneof![0..40_u64, 0..=u64::MAX],
    ) -> Counts {
        Counts { requests, errors, timed, slow_low, slow_high }
    }
}

prop_compose! {
    fn any_window()(new in any_counts(), old in any_counts(), continues: bool) -> StepCounts {
        StepCounts { new, old, continues }
    }
}

prop_compose! {
    fn small_window()(n in 0..500_u64, k in 0..20_u64, m in 0..500_u64, j in 0..8_u64) -> StepCounts { window((n, k), (m, j)) }
}

fn all_four(evidence: &Evidence, allowed: Allowed, factor: f64) -> [f64; 4] {
    let of = |kind| [absolute(evidence, kind, allowed), relative(evidence, kind, allowed, factor)];
    let ([a, b], [c, d]) = (of(Kind::Errors), of(Kind::Slow));
    [a, b, c, d]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_counts_give_a_number(windows in prop::collection::vec(any_window(), 0..5), rate in 0.0..=1.0_f64, factor in 1.0..1e9_f64) {
        for e in all_four(&steps(&windows), Allowed { rate, enough: 50 }, factor) {
            prop_assert!(e.is_finite() && e >= 0.0, "{e}");
        }
    }

    /// In every window, more failures of the new version never help it, and more of the old one never harm it.
    #[test]
    fn failures_speak_against_their_version(mut windows in prop::collection::vec(any_window(), 1..5), at: prop::sample::Index) {
        let before = all_four(&steps(&windows), ONE_PERCENT, 2.0);
        let i = at.index(windows.len());
        let old = windows[i].old;
        windows[i].new.errors = windows[i].new.errors.saturating_add(1);
        windows[i].new.slow_low = windows[i].new.slow_low.saturating_add(1);
        windows[i].new.slow_high = windows[i].new.slow_high.max(windows[i].new.slow_low);
        let worse = all_four(&steps(&windows), ONE_PERCENT, 2.0);
        for (b, w) in before.iter().zip(worse) {
            prop_assert!(w >= b * (1.0 - 1e-6), "{b} {w}");
        }
        windows[i].old.errors = old.errors.saturating_add(1);
        windows[i].old.slow_high = old.slow_high.saturating_add(1);
        let [_, errors, _, slow] = all_four(&steps(&windows), ONE_PERCENT, 2.0);
        prop_assert!(errors <= worse[1] * (1.0 + 1e-6) && slow <= worse[3] * (1.0 + 1e-6));
    }

    /// At the factor itself, one more failure leaves the expectation where it was, whatever the splits were before.
    #[test]
    fn the_old_version_expects_nothing_at_the_factor(
        windows in prop::collection::vec(small_window(), 1..5), new in 1..900_u64, old in 1..900_u64,
    ) {
        let e = |last| {
            let mut windows = windows.clone();
            // Enough failures, so that none is hidden by TELLING.
            windows.push(window((100, 5), (100, 5)));
            windows.push(last);
            relative(&steps(&windows), Kind::Errors, ONE_PERCENT, 2.0)
        };
        let odds = 2.0 * real(new) / real(old);
        let (now, worse, better) = (e(window((new, 0), (old, 0))), e(window((new, 1), (old, 0))), e(window((new, 0), (old, 1))));
        // Clear of the ceiling.
        prop_assume!(now < 1e13);
        prop_assert!(((worse * odds + better) / (1.0 + odds) / now - 1.0).abs() < 1e-9);
    }

    /// Merging loses evidence and makes none, and the weights stay those of the windows' true numbers.
    #[test]
    fn merging_makes_no_evidence(windows in prop::collection::vec(small_window(), 33..60)) {
        let mut merged = Evidence::default();
        for w in &windows {
            merged.begin_step(ONE_PERCENT, ONE_PERCENT);
            merged.add(w.new, w.old);
        }
        let all = steps(&windows);
        prop_assert_eq!(merged.whole(Kind::Errors), all.whole(Kind::Errors));
        for (m, a) in all_four(&merged, ONE_PERCENT, 2.0).iter().zip(all_four(&all, ONE_PERCENT, 2.0)) {
            prop_assert!(*m <= a * (1.0 + 1e-9), "{m} {a}");
        }
    }
}

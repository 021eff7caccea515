//! What is counted of both versions, and how strongly it speaks against the new one.
//!
//! The strength is an e-process: a number that starts at 1 and whose expectation never rises while the new version is
//! within its limit. By Ville's inequality it reaches `x` with probability at most `1/x`, however often one looks, so no
//! look has to be paid for. [`absolute`] tests one version against a limit, [`relative`] the new version against the old.

use super::likelihood::{bounded_exp, over_limit, real};
pub use crate::api::evidence::{Counts, Earlier, Evidence, KEPT, Lane, StepCounts, Tally};

/// So many failures of one version tell of a fault even where requests are few, and fewer are never compared with the
/// other version's.
pub const TELLING: u64 = 5;

/// How much worse than allowed the new version may be, in steps of a quarter of a doubling: 1.09 to 59 times.
const WORSE: usize = 24;

/// The two kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests that failed.
    Errors,
    /// Requests slower than the limit.
    Slow,
}

/// Share of failures that is allowed, and how many trials make a point estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// 0 to 1.
    pub rate: f64,
    /// From so many trials on, or [`TELLING`] failures, a point estimate counts.
    pub enough: u64,
}

impl Tally {
    /// A sum that saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { of: self.of.saturating_add(other.of), bad: self.bad.saturating_add(other.bad) }
    }

    /// Share of failures; 0 of nothing.
    pub fn rate(self) -> f64 {
        if self.of == 0 { 0.0 } else { real(self.bad) / real(self.of) }
    }

    /// The point estimate is over the limit, and made from enough.
    pub fn is_over(self, allowed: Allowed) -> bool {
        self.rate() > allowed.rate && (self.of >= allowed.enough || self.bad >= TELLING)
    }
}

impl Counts {
    /// Counters that contradict each other (scraped while they move) are brought in line, towards fewer failures.
    #[must_use]
    pub fn sane(self) -> Self {
        let slow_low = self.slow_low.min(self.timed);
        let slow_high = self.slow_high.min(self.timed).max(slow_low);
        Self { errors: self.errors.min(self.requests), slow_low, slow_high, ..self }
    }

    /// A sum that saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            timed: self.timed.saturating_add(other.timed),
            slow_low: self.slow_low.saturating_add(other.slow_low),
            slow_high: self.slow_high.saturating_add(other.slow_high),
        }
    }

    /// What surely failed.
    pub fn surely(self, kind: Kind) -> Tally {
        let sane = self.sane();
        match kind {
            Kind::Errors => Tally { of: sane.requests, bad: sane.errors },
            Kind::Slow => Tally { of: sane.timed, bad: sane.slow_low },
        }
    }

    /// What may have failed.
    pub fn possibly(self, kind: Kind) -> Tally {
        match kind {
            Kind::Errors => self.surely(kind),
            Kind::Slow => Tally { of: self.timed, bad: self.sane().slow_high },
        }
    }
}

impl StepCounts {
    /// A sum of both versions.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { new: self.new.plus(other.new), old: self.old.plus(other.old), continues: self.continues }
    }

    /// One kind of failure. A window in which the old version was over the limit itself tells of something that both
    /// share; leaving it out is fair, because the choice looks at the old version only.
    fn lane(&self, kind: Kind, allowed: Allowed) -> Lane {
        let (new, old) = (self.new.surely(kind), self.old.possibly(kind));
        let is_shared = self.old.surely(kind).is_over(allowed);
        Lane { counted: if is_shared { Tally::default() } else { new }, new, old, split_new: new.of, split_old: old.of }
    }
}

impl Lane {
    /// Two windows as one. The splits differ, so the larger share of the new version stands for both: the more requests
    /// it had, the more failures are excused, so evidence is lost by this and never made.
    fn plus(self, other: Self) -> Self {
        let is_steeper =
            u128::from(other.split_new) * u128::from(self.split_old) > u128::from(self.split_new) * u128::from(other.split_old);
        // 0:0 is no split at all.
        let is_first = self.split_new == 0 && self.split_old == 0;
        let steepest = if is_steeper || is_first { other } else { self };
        Self {
            counted: self.counted.plus(other.counted),
            new: self.new.plus(other.new),
            old: self.old.plus(other.old),
            split_new: steepest.split_new,
            split_old: steepest.split_old,
        }
    }
}

impl Evidence {
    /// A step begins: a shift is done, or a step went on for more than 30 minutes without being looked at.
    pub fn begin_step(&mut self, errors: Allowed, slow: Allowed) {
        self.begin(false, errors, slow);
    }

    /// The running step goes on in a new window, so that a fault that starts late in a long step meets no good history.
    /// When to do so must not depend on failures: [`Evidence::wants_window`].
    pub fn begin_window(&mut self, errors: Allowed, slow: Allowed) {
        self.begin(!self.steps.is_empty(), errors, slow);
    }

    /// The running window has seen enough requests to stand alone.
    pub fn wants_window(&self, enough: u64) -> bool {
        self.steps.last().is_some_and(|window| window.new.requests >= enough.max(1))
    }

    /// More was counted in the running window.
    pub fn add(&mut self, new: Counts, old: Counts) {
        if self.steps.is_empty() {
            self.steps.push(StepCounts::default());
        }
        if let Some(window) = self.steps.last_mut() {
            *window = window.plus(StepCounts { new, old, continues: false });
        }
    }

    /// The running step: its windows added together.
    pub fn running(&self) -> StepCounts {
        let mut sum = StepCounts::default();
        for window in self.steps.iter().rev() {
            sum = sum.plus(*window);
            if !window.continues {
                break;
            }
        }
        sum
    }

    /// The oldest windows are merged above [`KEPT`]. The processes since the first shift keep all their counts; those that
    /// started at a merged window other than the first are dropped, and their weight with them: nobody inherits it.
    fn begin(&mut self, continues: bool, errors: Allowed, slow: Allowed) {
        while self.steps.len() >= KEPT {
            let oldest = self.steps.remove(0);
            let (errors, slow) = (oldest.lane(Kind::Errors, errors), oldest.lane(Kind::Slow, slow));
            self.earlier = Some(match self.earlier {
                None => Earlier { windows: 1, errors, slow },
                Some(e) => Earlier { windows: e.windows.saturating_add(1), errors: e.errors.plus(errors), slow: e.slow.plus(slow) },
            });
        }
        self.steps.push(StepCounts { continues, ..StepCounts::default() });
    }

    /// Both versions since the first shift.
    pub fn whole(&self, kind: Kind) -> (Tally, Tally) {
        let earlier = self.earlier_lane(kind);
        let sum = |(new, old): (Tally, Tally), s: &StepCounts| (new.plus(s.new.surely(kind)), old.plus(s.old.possibly(kind)));
        self.steps.iter().fold((earlier.new, earlier.old), sum)
    }

    /// Durations of the new version's requests have been seen since the first shift.
    pub fn is_timed(&self) -> bool {
        self.whole(Kind::Slow).0.of > 0
    }

    fn earlier_lane(&self, kind: Kind) -> Lane {
        let earlier = self.earlier.unwrap_or_default();
        match kind {
            Kind::Errors => earlier.errors,
            Kind::Slow => earlier.slow,
        }
    }

    /// The average over the times at which a fault may have started: half on the first shift, half on the start of window
    /// `j` with weight `1/(j(j+1))`. Windows not begun count 1; their weights add up to `1/(begun + 1)`.
    ///
    /// `process` is handed the windows from the last to the first and says what it amounts to so far.
    fn averaged(&self, kind: Kind, allowed: Allowed, mut process: impl FnMut(Lane) -> f64) -> f64 {
        let merged = self.earlier.map_or(0, |e| u64::from(e.windows));
        let kept = self.steps.len() as u64;
        let mut since = 1.0;
        let mut late = 0.0;
        for (i, step) in self.steps.iter().enumerate().rev() {
            since = process(step.lane(kind, allowed));
            let window = real(merged + i as u64 + 1);
            if window > 1.0 {
                late += since / (window * (window + 1.0));
            }
        }
        if self.earlier.is_some() {
            since = process(self.earlier_lane(kind));
        }
        let begun = real(merged + kept);
        let first = if begun > 0.0 { since / 2.0 } else { 0.0 };
        0.5 * since + 0.5 * (first + late + 1.0 / (begun + 1.0))
    }
}

/// Evidence that the new version fails more often than allowed.
pub fn absolute(evidence: &Evidence, kind: Kind, allowed: Allowed) -> f64 {
    let mut sum = Tally::default();
    evidence.averaged(kind, allowed, |lane| {
        sum = sum.plus(lane.counted);
        over_limit(sum.of, sum.bad, allowed.rate)
    })
}

/// Evidence that the new version fails more than `factor` times as often as the old one in the same windows.
///
/// Given all failures of a window, the new version's are binomial: their odds are the request split times the true factor.
/// At most 1 while the new version has fewer than [`TELLING`] failures.
pub fn relative(evidence: &Evidence, kind: Kind, allowed: Allowed, factor: f64) -> f64 {
    let factor = if factor >= 1.0 { factor.min(1e6) } else { 1.0 };
    let mut ln_ratios = [0.0; WORSE];
    let e = evidence.averaged(kind, allowed, |lane| {
        // Each part of the mixture multiplies over windows with its own split; only then they are averaged.
        let mut sum = 0.0;
        for (i, ln_ratio) in (0_u32..).zip(&mut ln_ratios) {
            *ln_ratio += ln_worse(lane, factor, ((f64::from(i) + 0.5) / 4.0).exp2());
            sum += bounded_exp(*ln_ratio);
        }
        sum / real(WORSE as u64)
    });
    if evidence.whole(kind).0.bad < TELLING { e.min(1.0) } else { e }
}

/// Log likelihood of `worse * factor` against `factor` in one window: with odds `t * split` against `f * split`,
/// `(t/f)^new * ((old + f*new) / (old + t*new))^all`.
fn ln_worse(lane: Lane, factor: f64, worse: f64) -> f64 {
    let (new, old) = (real(lane.split_new), real(lane.split_old));
    if lane.split_new == 0 {
        return 0.0;
    }
    let all = real(lane.new.bad) + real(lane.old.bad);
    let excess = (worse - 1.0) * factor * new / (old + factor * new);
    real(lane.new.bad) * worse.ln() - all * excess.ln_1p()
}

#[cfg(test)]
mod tests {
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
        assert!(errors(&steps(&[fine, window((1000, 500), (10, 4)), fine])) > BAR, "too few to tell");
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
}

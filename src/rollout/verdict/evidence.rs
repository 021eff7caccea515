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

    /// One kind of failure, in a window that tells of the new version alone or of something that both share.
    fn lane(&self, kind: Kind, is_shared: bool) -> Lane {
        let (new, old) = (self.new.surely(kind), self.old.possibly(kind));
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

    /// The running step: its windows added together, as far as they are kept one by one.
    pub fn running(&self) -> StepCounts {
        self.running_windows().fold(StepCounts::default(), |sum, (_, window)| sum.plus(*window))
    }

    /// The running step as it is judged by its rates: without what both versions shared, once that is over and enough was
    /// seen besides.
    pub fn estimate(&self, kind: Kind, allowed: Allowed) -> StepCounts {
        let apart = self.running_windows().filter(|(i, _)| !self.is_shared(*i, kind, allowed));
        let apart = apart.fold(StepCounts::default(), |sum, (_, window)| sum.plus(*window));
        let is_over = !self.steps.is_empty() && !self.is_shared(self.steps.len() - 1, kind, allowed);
        if is_over && apart.new.surely(kind).of >= allowed.enough { apart } else { self.running() }
    }

    /// The windows of the running step with their places, newest first.
    fn running_windows(&self) -> impl Iterator<Item = (usize, &StepCounts)> {
        let mut is_of_the_step = true;
        self.steps.iter().enumerate().rev().take_while(move |(_, window)| std::mem::replace(&mut is_of_the_step, window.continues))
    }

    /// The old version was over the limit itself in that window, or in it and the one before: what went wrong then is
    /// something that both share, so the window is not held against the new version. Where nobody called the old version it
    /// says nothing, whatever was before. No number of failures is asked for:
    /// the new version's errors convict it after four, long before a fifth of the traffic has shown as many. Leaving such
    /// windows out is fair, because the choice looks at the old version only.
    fn is_shared(&self, i: usize, kind: Kind, allowed: Allowed) -> bool {
        let old = |window: Option<&StepCounts>| window.map(|w| w.old.surely(kind));
        let before = i.checked_sub(1).map_or_else(|| self.earlier.map(|e| e.last_old.surely(kind)), |i| old(self.steps.get(i)));
        let now = old(self.steps.get(i)).unwrap_or_default();
        now.of > 0 && (now.rate() > allowed.rate || now.plus(before.unwrap_or_default()).rate() > allowed.rate)
    }

    /// One kind of failure in that window.
    fn lane(&self, i: usize, window: &StepCounts, kind: Kind, allowed: Allowed) -> Lane {
        window.lane(kind, self.is_shared(i, kind, allowed))
    }

    /// The oldest windows are merged above [`KEPT`]. The processes since the first shift keep all their counts; those that
    /// started at a merged window other than the first are dropped, and their weight with them: nobody inherits it.
    fn begin(&mut self, continues: bool, errors: Allowed, slow: Allowed) {
        while self.steps.len() >= KEPT {
            let Some(oldest) = self.steps.first().copied() else { break };
            let (errors, slow) = (self.lane(0, &oldest, Kind::Errors, errors), self.lane(0, &oldest, Kind::Slow, slow));
            self.earlier = Some(match self.earlier {
                None => Earlier { windows: 1, errors, slow, last_old: oldest.old },
                Some(e) => Earlier {
                    windows: e.windows.saturating_add(1),
                    errors: e.errors.plus(errors),
                    slow: e.slow.plus(slow),
                    last_old: oldest.old,
                },
            });
            self.steps.remove(0);
        }
        self.steps.push(StepCounts { continues, ..StepCounts::default() });
    }

    /// Both versions since the first shift.
    pub fn whole(&self, kind: Kind) -> (Tally, Tally) {
        let earlier = self.earlier_lane(kind);
        let sum = |(new, old): (Tally, Tally), s: &StepCounts| (new.plus(s.new.surely(kind)), old.plus(s.old.possibly(kind)));
        self.steps.iter().fold((earlier.new, earlier.old), sum)
    }

    /// Durations of either version's requests have been seen since the first shift.
    pub fn is_timed(&self) -> bool {
        let (new, old) = self.whole(Kind::Slow);
        new.of > 0 || old.of > 0
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
            since = process(self.lane(i, step, kind, allowed));
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
#[path = "evidence_tests.rs"]
mod tests;

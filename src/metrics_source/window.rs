//! Counters are read at two instants and subtracted per series: whole requests, per version, since the window began.
//!
//! | what is seen | what is counted |
//! |---|---|
//! | a series that was there before | what it grew by |
//! | a value below the last one | all of it: the process restarted, counters start at 0 |
//! | a series that was absent when its target was read before | all of it |
//! | a target for the first time, started before the window or nobody knows when | nothing: a baseline, its history is not ours |
//! | a target for the first time, started within the window | all of it |
//! | a target that is gone, or that was not read for so long that it is forgotten | what it contributed stays |
//! | a target that comes back after that | nothing: a baseline |
//! | a half that was rejected | nothing; the last good reading stays the baseline, the next good one makes up for it |
//!
//! A restart that outgrows the last value within one scrape looks like growth. Whoever knows that a container restarted
//! gives it another run: it is then a target for the first time. Runs are told by one and pages by another, so a page may be
//! of a run nobody told of yet: what was read after a run started was that run's already, and is gone on from.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::snapshot::{Counts, Edge, Histogram, Part, Problem, Reading, Snapshot};
use crate::api::Time;

/// One thing that is read: a process that owns its counters, or a Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId {
    /// What stays the same over restarts.
    place: Box<str>,
    /// Tells restarts apart.
    run: Box<str>,
}

impl TargetId {
    /// A container of a pod. `run` tells its restarts apart (the container's id or restart count; empty where unknown).
    pub fn container(pod_uid: &str, port: u16, run: &str) -> Self {
        Self { place: format!("{pod_uid}/{port}").into(), run: run.into() }
    }

    /// The Prometheus, which never restarts anybody's counters by itself.
    pub fn prometheus() -> Self {
        Self { place: "prometheus".into(), run: "".into() }
    }
}

/// Counted requests of one version since the window began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Failed ones among them.
    pub errors: u64,
    /// Requests whose duration is known by bucket.
    pub timed: u64,
    /// Surely slower than the limit.
    pub slow_low: u64,
    /// Possibly slower than the limit.
    pub slow_high: u64,
    /// Durations together, of `summed` requests.
    pub duration_sum_ms: f64,
    /// Requests that `duration_sum_ms` is of: some sources give no sum.
    pub summed: u64,
    /// The edges that `slow_low` and `slow_high` were read at.
    pub edges: Edges,
}

impl Totals {
    /// Mean duration; shown, never judged.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.summed > 0).then(|| self.duration_sum_ms / self.summed as f64)
    }
}

/// The bucket edges nearest to the latency limit. Equal: the limit is an edge, and there is no doubt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Edges {
    /// The nearest edge not above the limit; `None` where some histogram has none.
    pub below_ms: Option<f64>,
    /// The nearest edge not below the limit; `None` where some histogram has none.
    pub above_ms: Option<f64>,
}

/// The counting of one update, from step to step.
#[derive(Clone, Debug)]
pub struct Window {
    began: Time,
    /// Whatever was forgotten had been read until then at the latest; it may come back, and must not count twice.
    forgotten: Option<Time>,
    versions: BTreeMap<String, Version>,
}

#[derive(Clone, Debug, Default)]
struct Version {
    /// By their places.
    targets: HashMap<Box<str>, Known>,
    sums: Sums,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    requests: u64,
    errors: u64,
    /// By the histograms' edges: requests below each.
    timed: BTreeMap<Arc<[Edge]>, Vec<u64>>,
    duration_us: u64,
    summed: u64,
}

/// What is known of one target.
#[derive(Clone, Debug)]
struct Known {
    run: Box<str>,
    at: Time,
    requests: Half<Last>,
    durations: Half<LastHistogram>,
}

/// The last good readings of one half of the snapshots.
#[derive(Clone, Debug)]
struct Half<T> {
    source: Option<&'static str>,
    /// A good reading was had: what was absent from it counts from 0.
    read: bool,
    series: HashMap<Box<str>, T>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    value: u64,
    at: Time,
}

#[derive(Clone, Debug)]
struct LastHistogram {
    last: Buckets,
    at: Time,
    /// The newest reading was rejected.
    rejected: bool,
}

/// A histogram's numbers: as read, or what they grew by.
#[derive(Clone, Debug)]
struct Buckets {
    edges: Arc<[Edge]>,
    below: Box<[u64]>,
    sum_us: Option<u64>,
}

impl Window {
    /// Starts counting at `began`.
    pub fn new(began: Time) -> Self {
        Self { began, forgotten: None, versions: BTreeMap::new() }
    }

    /// Starts a new window: totals go to zero, baselines stay. Call it right after a round of readings has been
    /// added; what happened since the last reading counts into the new window.
    pub fn begin(&mut self, at: Time) {
        self.began = at;
        for version in self.versions.values_mut() {
            version.sums = Sums::default();
        }
    }

    /// Forgets the targets that were last read before then, so that the churn of pods does not pile up. What they
    /// contributed stays.
    pub fn forget(&mut self, before: Time) {
        for version in self.versions.values_mut() {
            version.targets.retain(|_, known| {
                let stays = known.at >= before;
                self.forgotten = self.forgotten.max(Some(known.at).filter(|_| !stays));
                stays
            });
        }
    }

    /// When the window began.
    pub fn began(&self) -> Time {
        self.began
    }

    /// Adds what one target said. `started`: when its process started, where that is known.
    /// What cannot be counted is returned; it is never part of the totals.
    pub fn add(&mut self, version: &str, target: &TargetId, started: Option<Time>, snapshot: Snapshot) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.versions.contains_key(version) {
            self.versions.insert(version.to_owned(), Version::default());
        }
        let Some(Version { targets, sums }) = self.versions.get_mut(version) else { return problems };
        let TargetId { place, run } = target;
        // Of a run that was told of late, or whose start nobody knows, the last reading is the baseline.
        let is_known = |known: &Known| known.run == *run || started.is_none_or(|started| started <= known.at);
        if !targets.get(place).is_some_and(is_known) {
            let born_here = started.is_some_and(|s| s >= self.began && self.forgotten.is_none_or(|forgotten| s > forgotten));
            targets.insert(place.clone(), Known::new(snapshot.at, born_here));
        }
        let Some(known) = targets.get_mut(place) else { return problems };
        if snapshot.at < known.at {
            return vec![Problem::OutOfOrder];
        }
        known.at = snapshot.at;
        known.run.clone_from(run);
        known.requests.add(snapshot.requests, sums, &mut problems);
        known.durations.add(snapshot.durations, sums, &mut problems);
        problems
    }

    /// What was counted of a version, with durations held against a limit in ms.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn totals(&self, version: &str, limit_ms: u32) -> Totals {
        let Some(Version { sums, .. }) = self.versions.get(version) else { return Totals::default() };
        let limit = Edge::of_ms(limit_ms);
        let mut totals = Totals {
            requests: sums.requests,
            errors: sums.errors.min(sums.requests),
            duration_sum_ms: sums.duration_us as f64 / 1e3,
            summed: sums.summed,
            ..Totals::default()
        };
        let mut edges: Option<Edges> = None;
        // Sums and counts without any edge (summaries) have a mean, and are no histogram.
        let has_edges = sums.timed.keys().flat_map(|bounds| bounds.iter()).any(|edge| *edge != Edge::INFINITE);
        for (bounds, below) in sums.timed.iter().filter(|_| has_edges) {
            let Some(all) = below.last().copied().filter(|all| *all > 0) else { continue };
            let buckets = || bounds.iter().zip(below).filter(|(edge, _)| **edge != Edge::INFINITE);
            let under = buckets().rfind(|(edge, _)| **edge <= limit);
            let over = buckets().find(|(edge, _)| **edge >= limit);
            totals.timed += all;
            totals.slow_low += over.map_or(0, |(_, below)| all.saturating_sub(*below));
            totals.slow_high += all.saturating_sub(under.map_or(0, |(_, below)| *below));
            let these = Edges { below_ms: under.map(|(e, _)| e.ms()), above_ms: over.map(|(e, _)| e.ms()) };
            edges = Some(edges.map_or(these, |known| known.coarser(these)));
        }
        totals.edges = edges.unwrap_or_default();
        totals
    }
}

impl Edges {
    /// Each histogram's bounds hold for its own requests, so their sums hold for all; what is said of the edges is the widest gap.
    fn coarser(self, other: Self) -> Self {
        let both = |a: Option<f64>, b: Option<f64>, pick: fn(f64, f64) -> f64| a.zip(b).map(|(a, b)| pick(a, b));
        Self { below_ms: both(self.below_ms, other.below_ms, f64::min), above_ms: both(self.above_ms, other.above_ms, f64::max) }
    }
}

impl Sums {
    fn count(&mut self, counts: Counts, grown: u64) {
        let (requests, errors) = match counts {
            Counts::Request => (grown, 0),
            Counts::FailedRequest => (grown, grown),
            Counts::FailureOnly => (0, grown),
        };
        self.requests = self.requests.saturating_add(requests);
        self.errors = self.errors.saturating_add(errors);
    }

    fn time(&mut self, grown: &Buckets) {
        match self.timed.get_mut(&grown.edges) {
            Some(sums) => sums.iter_mut().zip(&grown.below).for_each(|(sum, grown)| *sum = sum.saturating_add(*grown)),
            None => drop(self.timed.insert(Arc::clone(&grown.edges), grown.below.to_vec())),
        }
        if let Some(sum_us) = grown.sum_us {
            self.duration_us = self.duration_us.saturating_add(sum_us);
            self.summed = self.summed.saturating_add(grown.below.last().copied().unwrap_or_default());
        }
    }
}

impl Known {
    fn new(at: Time, born_here: bool) -> Self {
        Self { run: "".into(), at, requests: Half::new(born_here), durations: Half::new(born_here) }
    }
}

impl<T> Half<T> {
    /// A process born within the window had nothing when the window began: that is as good as having read it.
    fn new(born_here: bool) -> Self {
        Self { source: None, read: born_here, series: HashMap::new() }
    }

    /// The readings to subtract, and whether those of absent series count from 0; `None` where the part was rejected.
    fn open<R>(&mut self, part: Part<R>, problems: &mut Vec<Problem>) -> Option<(Vec<R>, bool)> {
        let readings = part.series?;
        if let (Some(before), Some(now)) = (self.source, part.source)
            && before != now
        {
            problems.push(Problem::SourceChanged { before, now });
            self.series.clear();
            self.read = false;
        }
        self.source = part.source.or(self.source);
        Some((readings, std::mem::replace(&mut self.read, true)))
    }
}

impl Half<Last> {
    fn add(&mut self, part: Part<Reading>, sums: &mut Sums, problems: &mut Vec<Problem>) {
        let Some((readings, from_zero)) = self.open(part, problems) else { return };
        for Reading { series, counts, value, at } in readings {
            match self.series.entry(series) {
                Entry::Vacant(absent) => {
                    absent.insert(Last { value, at });
                    sums.count(counts, if from_zero { value } else { 0 });
                }
                // One of two Prometheus replicas may lag behind the other.
                Entry::Occupied(known) if at < known.get().at => {}
                Entry::Occupied(mut known) => {
                    let last = known.insert(Last { value, at });
                    sums.count(counts, value.checked_sub(last.value).unwrap_or(value));
                }
            }
        }
    }
}

impl Half<LastHistogram> {
    fn add(&mut self, part: Part<Histogram>, sums: &mut Sums, problems: &mut Vec<Problem>) {
        let family = part.source.unwrap_or("of durations");
        let Some((histograms, from_zero)) = self.open(part, problems) else { return };
        for Histogram { series, edges, below, sum_us, at } in histograms {
            let now = Buckets { edges, below, sum_us };
            match self.series.entry(series) {
                Entry::Vacant(absent) => {
                    if from_zero {
                        sums.time(&now);
                    }
                    absent.insert(LastHistogram { last: now, at, rejected: false });
                }
                Entry::Occupied(known) if at < known.get().at => {}
                Entry::Occupied(mut known) => {
                    let rejected = match now.since(&known.get().last, family) {
                        Ok(grown) => {
                            sums.time(&grown);
                            false
                        }
                        Err(problem) => {
                            problems.push(problem);
                            true
                        }
                    };
                    let known = known.get_mut();
                    // Twice in a row is how it is now: a new baseline, so that one oddity does not blind for ever.
                    if !rejected || known.rejected {
                        known.last = now;
                        known.at = at;
                    }
                    known.rejected = rejected && !known.rejected;
                }
            }
        }
    }
}

impl Buckets {
    /// What a histogram grew by. One falling bucket means that all of it was reset.
    fn since(&self, last: &Self, family: &'static str) -> Result<Self, Problem> {
        if last.edges != self.edges {
            return Err(Problem::EdgesChanged { family });
        }
        let pairs = || last.below.iter().zip(&self.below);
        if pairs().any(|(last, now)| now < last) {
            return Ok(self.clone());
        }
        let below: Box<[_]> = pairs().map(|(last, now)| now - last).collect();
        if below.iter().zip(below.iter().skip(1)).any(|(a, b)| a > b) {
            return Err(Problem::Torn { family });
        }
        let sum_us = last.sum_us.zip(self.sum_us).and_then(|(last, now)| now.checked_sub(last));
        Ok(Self { edges: self.edges.clone(), below, sum_us })
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;

//! What was read, round by round, put together to evidence about one update. Pure: a round's readings go in.
//!
//! A step is counted from `settle` after it came into force and one round of readings (its baseline) on; what happens
//! between two steps belongs to neither. At 0:1 nothing is counted, but it is known whether the metrics can be read.
//!
//! A step goes on as another one, whose counts begin at nothing, when nobody looked at it for long and when the latency
//! limit is another: slow requests are told by a limit, so what is known of the other one says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::TimeDelta;

use crate::api::Time;
use crate::api::evidence::{Counts, Evidence};
use crate::api::rolling_update::{Objects, RollingUpdateStatus};
use crate::cluster::facts::Meta;
use crate::rollout::verdict::evidence::Kind;
use crate::rollout::verdict::judge::Limits;

use super::recognise::Recognised;
use super::snapshot::Problem;
use super::window::{Edges, TargetId, Totals, Window};

/// A step that nobody looked at for so long goes on as another one, and a target nobody read for so long is a stranger.
const PAUSE: TimeDelta = TimeDelta::minutes(30);

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The one that is brought out.
    New,
    /// The one that carried the traffic.
    Old,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
        }
    }
}

/// Why one target gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Nobody says where to read it.
    NoTarget(String),
    /// It could not be read.
    Failed(String),
}

/// What one target said in a round.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Whose counters they are.
    pub version: Version,
    /// Its name for people.
    pub name: String,
    /// Which target it is.
    pub target: TargetId,
    /// When its process started, where that is known.
    pub started: Option<Time>,
    /// If it cannot be read the numbers have a hole.
    pub expected: bool,
    /// What was read.
    pub read: Result<Recognised, Unread>,
}

/// One round of readings, and what was true when it began.
#[derive(Clone, Debug)]
pub struct Round {
    /// When the readings were complete.
    pub now: Time,
    /// When the step in force came into force; `None` before the first.
    pub step: Option<Time>,
    /// The ratio in force gives the new version something.
    pub has_traffic: bool,
    /// How long the data plane gets after it acknowledged a weight.
    pub settle: Duration,
    /// What the new version may do.
    pub limits: Limits,
    /// Latency limit in whole milliseconds.
    pub limit_ms: u32,
    /// Time between two rounds, or as much as the source needs for something new to show.
    pub interval: Duration,
    /// Every target's.
    pub readings: Vec<Reading>,
}

/// Which release was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// UID of the RollingUpdate.
    pub uid: String,
    /// The new version's Deployment.
    pub revision: String,
    /// The attempt.
    pub attempt: i32,
}

impl Release {
    /// What is being brought out by that update.
    pub fn of(update: &Meta, status: &RollingUpdateStatus, objects: &Objects) -> Self {
        Self { uid: update.uid.clone(), revision: objects.new_revision.clone(), attempt: status.attempt.unwrap_or(1) }
    }
}

/// What is known after a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Of which release.
    pub release: Release,
    /// The step that the counts belong to.
    pub step: Option<Time>,
    /// The step is being counted, and figures of the new version that are newer than its baseline are among the counts.
    pub is_counting: bool,
    /// What was counted.
    pub evidence: Evidence,
    /// How far back the new version's figures are certain: every pod that should be read was read since.
    pub newest: Option<Time>,
    /// Time between two rounds, or as long as one takes where that is more.
    pub interval: Duration,
    /// The new version's bucket edges.
    pub edges: Edges,
    /// Mean latencies in the step, in ms: new, old.
    pub means: (Option<f64>, Option<f64>),
    /// What keeps the new version from being read.
    pub problem: Option<Unread>,
    /// What keeps the old version from being read.
    pub old_problem: Option<String>,
    /// The new version was read, and there is no request counter in what it says.
    pub is_without_counter: bool,
    /// When the round was complete.
    pub at: Time,
}

/// How far the counting of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has not settled, or was not read since.
    Waiting,
    /// Its baseline was read, the new version's newest figures then; nothing was counted in this process.
    Begun(Option<Time>),
    /// Newer figures of the new version were counted.
    Counting,
}

/// The measuring of one release, from round to round.
#[derive(Clone, Debug)]
pub struct Measuring {
    window: Window,
    evidence: Evidence,
    step: Option<Time>,
    phase: Phase,
    /// What the evidence holds of the window already.
    taken: (Totals, Totals),
    last_round: Option<Time>,
    /// When each of the new version's targets was last read; until it was once, when it was first tried.
    read_at: BTreeMap<TargetId, Time>,
    /// The newest reading of the new version.
    ever: Option<Time>,
    /// Anything was counted of the new version, by whomever.
    is_seen: bool,
}

impl Measuring {
    /// Goes on from what was recorded at `last`, or begins. Every target is a baseline first.
    pub fn new(recorded: Option<&Evidence>, last: Option<Time>, now: Time) -> Self {
        let evidence = recorded.cloned().unwrap_or_default();
        Self {
            window: Window::new(now),
            is_seen: evidence.whole(Kind::Errors).0.of > 0,
            evidence,
            step: None,
            phase: Phase::Waiting,
            taken: <_>::default(),
            last_round: last,
            read_at: BTreeMap::new(),
            ever: None,
        }
    }

    /// The new version has had series, now or before a restart.
    pub fn is_seen(&self) -> bool {
        self.is_seen
    }

    /// Takes in one round.
    pub fn round(&mut self, round: Round) -> Measured {
        let now = round.now;
        if self.last_round.is_some_and(|last| now < last) {
            self.forget_readings(now);
        }
        let paused = self.last_round.is_some_and(|last| now - last > PAUSE);
        let is_other_limit = self.evidence.limit_ms != Some(round.limit_ms);
        if is_other_limit {
            self.forget_durations();
            self.evidence.limit_ms = Some(round.limit_ms);
        }
        if paused || is_other_limit {
            // The step goes on as another one, whenever that begins: its counts so far do not speak for what comes.
            self.evidence.since = None;
        }
        if self.step != round.step || !round.has_traffic || self.evidence.since.is_none() {
            self.phase = Phase::Waiting;
        }
        (self.step, self.last_round) = (round.step, Some(now));
        self.window.forget(now - PAUSE);
        let seen = self.read(round.readings, now);
        self.count(round.step.filter(|_| round.has_traffic), round.settle, &round.limits, seen.oldest, now);
        let is_counting = self.phase == Phase::Counting;
        let mean = |version: Version| self.window.totals(version.name(), round.limit_ms).mean_ms().filter(|_| is_counting);
        Measured {
            release: Release::default(),
            step: self.step,
            is_counting,
            evidence: self.evidence.clone(),
            newest: seen.newest,
            interval: round.interval,
            edges: self.window.totals(Version::New.name(), round.limit_ms).edges,
            means: (mean(Version::New), mean(Version::Old)),
            problem: seen.problem,
            old_problem: seen.old_problem,
            is_without_counter: seen.is_without_counter,
            at: now,
        }
    }

    /// Puts readings into the window.
    fn read(&mut self, readings: Vec<Reading>, now: Time) -> Seen {
        let mut seen = Seen::default();
        let (mut expected, mut families, mut good) = (BTreeSet::new(), 0, 0);
        for Reading { version, name, target, started, expected: is_expected, read } in readings {
            let said = |what: String| if name.is_empty() { what } else { format!("{name}: {what}") };
            let result = match read {
                Ok(Recognised { snapshot, problems }) => {
                    let (at, has_family) = (snapshot.at, snapshot.requests.source.is_some());
                    self.is_seen |= version == Version::New && !snapshot.is_empty();
                    seen.oldest = Some(seen.oldest.map_or(at, |o: Time| o.min(at)));
                    let more = self.window.add(version.name(), &target, started, snapshot);
                    // A replica that lags behind is no news, good or bad.
                    match problems.into_iter().chain(more).find(|p| *p != Problem::OutOfOrder) {
                        Some(problem) => Err(Unread::Failed(said(problem.to_string()))),
                        None => Ok((at, has_family)),
                    }
                }
                Err(Unread::NoTarget(why)) => Err(Unread::NoTarget(said(why))),
                Err(Unread::Failed(why)) => Err(Unread::Failed(said(why))),
            };
            if version == Version::Old {
                if let (Err(Unread::NoTarget(why) | Unread::Failed(why)), true) = (result, is_expected) {
                    seen.old_problem.get_or_insert(why);
                }
                continue;
            }
            match result {
                Ok((at, has_family)) => {
                    good += 1;
                    families += i32::from(has_family);
                    self.ever = self.ever.max(Some(at));
                    self.read_at.insert(target.clone(), at);
                }
                Err(why) if is_expected => {
                    self.read_at.entry(target.clone()).or_insert(now);
                    seen.problem.get_or_insert(why);
                }
                Err(_) => {}
            }
            if is_expected {
                expected.insert(target);
            }
        }
        self.read_at.retain(|target, _| expected.contains(target));
        seen.newest = self.ever.map(|ever| self.read_at.values().copied().min().unwrap_or(ever));
        seen.is_without_counter = good > 0 && families == 0;
        seen
    }

    /// Begins to count the step when its time has come, else takes what was counted since the last round.
    fn count(&mut self, step: Option<Time>, settle: Duration, limits: &Limits, oldest: Option<Time>, now: Time) {
        let Some(step) = step else { return };
        let (errors, slow) = (limits.allowed(Kind::Errors), limits.allowed(Kind::Slow));
        if self.phase == Phase::Waiting {
            // The baseline must not be older than the step; a Prometheus tells of the past.
            if oldest.is_none_or(|oldest| oldest < step + settle) {
                return;
            }
            self.window.begin(now);
            self.taken = <_>::default();
            if self.evidence.since == Some(step) {
                // Before a restart: the same step, and a start point of its own.
                self.evidence.begin_window(errors, slow);
            } else {
                self.evidence.begin_step(errors, slow);
            }
            self.evidence.since = Some(step);
            self.phase = Phase::Begun(self.ever);
            return;
        }
        let limit_ms = self.evidence.limit_ms.unwrap_or_default();
        let totals = |version: Version| self.window.totals(version.name(), limit_ms);
        let now = (totals(Version::New), totals(Version::Old));
        let (new, old) = (grown(&self.taken.0, &now.0), grown(&self.taken.1, &now.1));
        self.taken = now;
        if self.evidence.wants_window(limits.min_requests) {
            self.evidence.begin_window(errors, slow);
        }
        self.evidence.add(new, old);
        // A Prometheus may tell the same once more.
        if matches!(self.phase, Phase::Begun(baseline) if self.ever > baseline) {
            self.phase = Phase::Counting;
        }
    }

    /// The clock was put back: what was read is of the future, and nothing would follow on it for as long. Strangers all.
    fn forget_readings(&mut self, now: Time) {
        self.window = Window::new(now);
        self.phase = Phase::Waiting;
        self.read_at.clear();
        self.ever = None;
    }

    /// What was held against another limit tells nothing about this one.
    fn forget_durations(&mut self) {
        for window in &mut self.evidence.steps {
            for counts in [&mut window.new, &mut window.old] {
                *counts = Counts { requests: counts.requests, errors: counts.errors, ..Counts::default() };
            }
        }
        if let Some(earlier) = &mut self.evidence.earlier {
            earlier.slow = <_>::default();
        }
    }
}

#[derive(Default)]
struct Seen {
    /// The oldest of the readings.
    oldest: Option<Time>,
    newest: Option<Time>,
    problem: Option<Unread>,
    old_problem: Option<String>,
    is_without_counter: bool,
}

/// What a version's totals grew by since they were last taken.
fn grown(taken: &Totals, now: &Totals) -> Counts {
    Counts {
        requests: now.requests.saturating_sub(taken.requests),
        errors: now.errors.saturating_sub(taken.errors),
        timed: now.timed.saturating_sub(taken.timed),
        slow_low: now.slow_low.saturating_sub(taken.slow_low),
        slow_high: now.slow_high.saturating_sub(taken.slow_high),
    }
}

/// A latency limit as the buckets are held against it.
pub fn limit_ms(max_latency_ms: i32) -> u32 {
    u32::try_from(max_latency_ms).unwrap_or(1).max(1)
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;

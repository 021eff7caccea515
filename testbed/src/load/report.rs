//! What a load generator has seen.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// How many failures are kept with all their details.
const DETAILED: usize = 50;

/// How one request ended. An answer with a status from 200 to 399 is a success, everything else is a failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Answered.
    Ok {
        /// What the header `x-version` said; empty if there was none.
        version: String,
    },
    /// Answered with an error status.
    Status {
        /// The status.
        code: u16,
        /// What the header `x-version` said; empty if there was none, as in answers of a gateway itself.
        version: String,
    },
    /// No connection: `refused`, `unreachable` and so on.
    Connect(&'static str),
    /// No whole answer within the plan's timeout.
    Timeout,
    /// The connection was reset before the answer was whole.
    Reset,
    /// The connection was closed before the answer was whole.
    Closed,
    /// The same, on a kept connection, before any of the answer came: the server closed it as the request was sent.
    /// Many clients send such a request again; this one counts it as lost.
    ClosedKept,
    /// The Service had no endpoint.
    NoEndpoints,
    /// Something else.
    Other(String),
}

impl Outcome {
    /// Whether the request was answered well.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok { .. })
    }

    /// The version that answered, well or not.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Ok { version } | Self::Status { version, .. } if !version.is_empty() => Some(version),
            _ => None,
        }
    }
}

/// The kind of outcome, without the version.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { .. } => f.write_str("ok"),
            Self::Status { code, .. } => write!(f, "status {code}"),
            Self::Connect(kind) => write!(f, "connect: {kind}"),
            Self::Timeout => f.write_str("timeout"),
            Self::Reset => f.write_str("reset"),
            Self::Closed => f.write_str("closed"),
            Self::ClosedKept => f.write_str("closed while kept"),
            Self::NoEndpoints => f.write_str("no endpoints"),
            Self::Other(what) => write!(f, "other: {what}"),
        }
    }
}

/// A failed request in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When the request was due.
    pub at: DateTime<Utc>,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered or was called: the pod if it said so, otherwise the address.
    pub with: String,
    /// Whether it went over a connection that had been used before.
    pub kept: bool,
    /// How long it took to fail.
    pub took: Duration,
    /// It was to use a new connection.
    fresh: bool,
}

/// One request, in 16 bytes: half an hour of 600 requests a second is 17 MB.
#[derive(Clone, Copy, Debug)]
struct Record {
    due_micros: u64,
    took_micros: u32,
    outcome: u16,
    fresh: bool,
    slow: bool,
}

/// One request that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// When it was due, from the start of the load.
    pub due: Duration,
    /// From its sending to its end.
    pub took: Duration,
    pub outcome: Outcome,
    pub with: String,
    /// It was to use a new connection.
    pub fresh: bool,
    /// It went over a connection used before.
    pub kept: bool,
    /// It asked for a slow answer.
    pub slow: bool,
}

/// All requests of a load, or of a part of its time, that have ended.
#[derive(Clone, Debug)]
pub struct Report {
    started: DateTime<Utc>,
    outcomes: Vec<Outcome>,
    codes: HashMap<Outcome, u16>,
    records: Vec<Record>,
    failures: Vec<Failure>,
    pub(super) late: Duration,
    pub(super) unanswered: usize,
    pub(super) crossed: usize,
}

impl Report {
    pub(super) fn new(started: DateTime<Utc>) -> Self {
        Self {
            started,
            outcomes: Vec::new(),
            codes: HashMap::new(),
            records: Vec::new(),
            failures: Vec::new(),
            late: Duration::ZERO,
            unanswered: 0,
            crossed: 0,
        }
    }

    pub(super) fn add(&mut self, ended: Ended) {
        let Ended { due, took, outcome, with, fresh, kept, slow } = ended;
        if !outcome.is_ok() && self.failures.len() < DETAILED {
            let at = self.started + TimeDelta::from_std(due).unwrap_or_default();
            self.failures.push(Failure { at, outcome: outcome.clone(), with, kept, took, fresh });
        }
        let code = self.codes.get(&outcome).copied().unwrap_or_else(|| {
            let code = u16::try_from(self.outcomes.len()).unwrap_or(u16::MAX);
            self.outcomes.push(outcome.clone());
            self.codes.insert(outcome, code);
            code
        });
        self.records.push(Record {
            due_micros: u64::try_from(due.as_micros()).unwrap_or(u64::MAX),
            took_micros: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
            outcome: code,
            fresh,
            slow,
        });
    }

    /// The requests that were due from `from` on and before `to`.
    #[must_use]
    pub fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let micros = |time: DateTime<Utc>| {
            let micros = (time - self.started).num_microseconds().unwrap_or(i64::MAX);
            u64::try_from(micros).unwrap_or(0)
        };
        let (from_micros, to_micros) = (micros(from), micros(to));
        let mut part = self.select(|record| (from_micros..to_micros).contains(&record.due_micros));
        part.failures.retain(|failure| failure.at >= from && failure.at < to);
        part
    }

    /// The requests on new connections.
    #[must_use]
    pub fn fresh(&self) -> Self {
        self.by_connection(true)
    }

    /// The requests on kept connections.
    #[must_use]
    pub fn kept(&self) -> Self {
        self.by_connection(false)
    }

    fn by_connection(&self, fresh: bool) -> Self {
        let mut part = self.select(|record| record.fresh == fresh);
        part.failures.retain(|failure| failure.fresh == fresh);
        part
    }

    fn select(&self, wanted: impl Fn(&Record) -> bool) -> Self {
        Self { records: self.records.iter().copied().filter(wanted).collect(), ..self.clone_without_records() }
    }

    fn clone_without_records(&self) -> Self {
        Self {
            started: self.started,
            outcomes: self.outcomes.clone(),
            codes: self.codes.clone(),
            records: Vec::new(),
            failures: self.failures.clone(),
            late: self.late,
            unanswered: self.unanswered,
            crossed: self.crossed,
        }
    }

    /// When the load began.
    pub fn started(&self) -> DateTime<Utc> {
        self.started
    }

    /// How many requests have ended.
    pub fn requests(&self) -> u64 {
        self.records.len() as u64
    }

    /// How many of them failed.
    pub fn failed(&self) -> u64 {
        self.failures().values().sum()
    }

    /// Number of requests by outcome.
    pub fn outcomes(&self) -> BTreeMap<&Outcome, u64> {
        let mut counts = BTreeMap::new();
        for record in &self.records {
            if let Some(outcome) = self.outcomes.get(usize::from(record.outcome)) {
                *counts.entry(outcome).or_default() += 1;
            }
        }
        counts
    }

    /// Number of failures by kind, such as `status 503` or `connect: refused`.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (outcome, count) in self.outcomes().into_iter().filter(|(outcome, _)| !outcome.is_ok()) {
            *counts.entry(outcome.to_string()).or_default() += count;
        }
        counts
    }

    /// Number of answers, good or bad, by the version that gave them; answers without a version are not in it.
    pub fn versions(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (outcome, count) in self.outcomes() {
            if let Some(version) = outcome.version() {
                *counts.entry(version.to_owned()).or_default() += count;
            }
        }
        counts
    }

    /// The share, from 0 to 1, that this version has of all answers that name a version; 0 without any.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn share(&self, version: &str) -> f64 {
        let versions = self.versions();
        let all: u64 = versions.values().sum();
        let own = versions.get(version).copied().unwrap_or_default();
        if all == 0 { 0.0 } else { own as f64 / all as f64 }
    }

    /// The latency that this share of the good answers did not exceed, from the sending of the request to the end of the
    /// answer; answers that were asked to be slow do not count. `None` without any.
    pub fn latency(&self, quantile: f64) -> Option<Duration> {
        let ok: Vec<bool> = self.outcomes.iter().map(Outcome::is_ok).collect();
        let counts = |record: &&Record| !record.slow && ok.get(usize::from(record.outcome)).is_some_and(|ok| *ok);
        let mut micros: Vec<u32> = self.records.iter().filter(counts).map(|record| record.took_micros).collect();
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((micros.len() as f64 * quantile.clamp(0.0, 1.0)).ceil() as usize).saturating_sub(1);
        if index >= micros.len() {
            return None;
        }
        let (_, micros, _) = micros.select_nth_unstable(index);
        Some(Duration::from_micros(u64::from(*micros)))
    }

    /// The first failures, in the order in which they ended; at most 50 of the whole load are kept.
    pub fn first_failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Requests sent that have not ended yet; none once the load was stopped.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Kept connections that the server closed just as a request was written to them; it was sent again on another one.
    pub fn crossed(&self) -> usize {
        self.crossed
    }

    /// The most that the generator itself was behind its schedule. Far more than a few milliseconds means a machine too
    /// busy for the rate: then the load was not what was planned.
    pub fn late(&self) -> Duration {
        self.late
    }
}

/// One line of totals, one for each version, and if there were failures their kinds and the first ten.
impl fmt::Display for Report {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) =
            self.records.iter().fold((u64::MAX, 0), |(first, last), record| (first.min(record.due_micros), last.max(record.due_micros)));
        let seconds = last.saturating_sub(first) as f64 / 1e6;
        write!(f, "{} requests in {seconds:.1} s, {} failed", self.requests(), self.failed())?;
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            if let Some(latency) = self.latency(quantile) {
                write!(f, ", {name} {:.1} ms", latency.as_secs_f64() * 1e3)?;
            }
        }
        if self.unanswered > 0 {
            write!(f, ", {} under way", self.unanswered)?;
        }
        if self.crossed > 0 {
            write!(f, ", {} sent again because an idle connection was just being closed", self.crossed)?;
        }
        if self.late > Duration::from_millis(50) {
            write!(f, ", generator up to {} ms late", self.late.as_millis())?;
        }
        for (version, count) in self.versions() {
            write!(f, "\n  {version:<12} {count:>8}  {:>5.1} %", self.share(&version) * 100.0)?;
        }
        for (kind, count) in self.failures() {
            write!(f, "\n  failed: {kind:<20} {count:>8}")?;
        }
        for Failure { at, outcome, with, kept, took, .. } in self.failures.iter().take(10) {
            let connection = if *kept { "kept" } else { "new" };
            let (time, took) = (at.format("%H:%M:%S%.3f"), took.as_secs_f64() * 1e3);
            write!(f, "\n    {time}  {outcome}, {with}, {connection} connection, after {took:.1} ms")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(DateTime::from_timestamp(1_893_456_000, 0).unwrap());
        for n in 0..100_u64 {
            let version = if n % 4 == 0 { "2" } else { "1" }.to_owned();
            let outcome = match n {
                50 => Outcome::Status { code: 503, version: String::new() },
                51 => Outcome::Status { code: 500, version },
                52 => Outcome::Connect("refused"),
                _ => Outcome::Ok { version },
            };
            report.add(Ended {
                due: Duration::from_millis(n * 10),
                took: Duration::from_millis(n + 1),
                outcome,
                with: "web-1".into(),
                fresh: n % 2 == 0,
                kept: false,
                slow: n == 99,
            });
        }
        report
    }

    #[test]
    fn counts() {
        let report = report();
        assert_eq!((report.requests(), report.failed()), (100, 3));
        let kinds = [("connect: refused", 1), ("status 500", 1), ("status 503", 1)];
        assert_eq!(report.failures(), kinds.map(|(kind, count)| (kind.to_owned(), count)).into());
        assert_eq!(report.versions(), [("1".to_owned(), 74), ("2".to_owned(), 24)].into());
        assert!((report.share("2") - 24.0 / 98.0).abs() < 1e-9);
        assert_eq!(report.fresh().requests() + report.kept().requests(), 100);
        assert!((report.fresh().share("1") - 0.5).abs() < 1e-9);
    }

    #[test]
    fn windows_hold_their_start_and_not_their_end() {
        let report = report();
        let at = |millis| report.started() + TimeDelta::milliseconds(millis);
        let window = report.between(at(510), at(530));
        assert_eq!((window.requests(), window.failed(), window.first_failures().len()), (2, 2, 2));
        assert_eq!(report.between(at(-5000), at(10)).requests(), 1);
        assert_eq!(report.between(at(5000), at(9000)).requests(), 0);
        assert_eq!(report.between(at(5000), at(9000)).latency(0.5), None);
    }

    #[test]
    fn quantiles_leave_out_failures_and_slow_ones() {
        let report = report();
        assert_eq!(report.latency(1.0), Some(Duration::from_millis(99)));
        assert_eq!(report.latency(0.0), Some(Duration::from_millis(1)));
        assert_eq!(report.latency(0.5), Some(Duration::from_millis(48)));
    }

    #[test]
    fn reads_well() {
        let text = report().to_string();
        assert!(text.starts_with("100 requests in 1.0 s, 3 failed, p50 48.0 ms, p99 "), "{text}");
        assert!(text.contains("\n    00:00:00.520  connect: refused, web-1, new connection, after 53.0 ms"), "{text}");
    }

    #[test]
    fn records_are_small() {
        assert_eq!(size_of::<Record>(), 16);
    }
}

//! Reads the answers of a Prometheus-compatible API into the shape that pods give.
//!
//! All series of a version are one target of the window, [`super::window::TargetId::prometheus`]: the first
//! good answer is the baseline, and a series that appears later counts from 0.
//!
//! An answer without series is ambiguous: nobody has called that version yet, or the Prometheus has lost whoever counts
//! the requests (then it forgets the series within the queries' two minutes). Series that were there before tell which it
//! is, see [`still_there`], or else the other version's, see [`dated`].
//!
//! Every query ends in a range, so each series comes with the time it was really scraped at. The answer to an instant says
//! of every value that it is as new as the question: a replica that lags behind would look like a restart there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::exposition::{self, Sample};
use super::measure::Unread;
use super::promql::{Question, Role};
use super::recognise::{self, Recognised};
use super::snapshot::{Counts, Part, Problem, Reading, Snapshot};
use crate::api::Time;

/// What custom queries are called in messages.
const REQUESTS: &str = "query requests";
const ERRORS: &str = "query errors";
const DURATIONS: &str = "query durations";

/// A series in the answer.
pub type Series = Sample<'static>;

/// What an answer must satisfy.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// When the answer came.
    pub now: Time,
    /// How old the newest sample may be: two scrape intervals of the Prometheus.
    pub max_age: TimeDelta,
    /// More series than this are refused.
    pub most_series: usize,
}

/// One answer that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The series with their last values.
    pub series: Vec<Series>,
    /// When the newest of them was scraped, as far as the answer tells; `None` without series.
    pub newest: Option<Time>,
}

/// Why an answer cannot be used. No text of the other side is repeated: the address is the user's to
/// choose, and what answers there may be anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is no answer of a Prometheus.
    #[error("the answer is not that of a Prometheus API")]
    Foreign,
    /// The query is at fault.
    #[error("the query was refused as wrong (bad_data)")]
    BadQuery,
    /// The Prometheus is at fault.
    #[error("the query failed ({0})")]
    Failed(&'static str),
    /// Not all of the data.
    #[error("the answer came with warnings, so it may be partial")]
    Partial,
    /// Something other than series over a range.
    #[error("the answer is a {0}, not series over a range; end the query in one, like [2m]")]
    NotRange(&'static str),
    /// Native histograms have other buckets in each sample.
    #[error("the answer has native histograms; ask for classic ones")]
    NativeHistogram,
    /// Two replicas' data of the same thing, which would count twice.
    #[error("the answer has the series of several Prometheus replicas; ask where they are deduplicated")]
    Replicas,
    /// Nothing new.
    #[error("the newest sample is over {0} s old")]
    Stale(i64),
    /// Clocks differ.
    #[error("the newest sample is over {0} s in the future; check the clocks")]
    Future(i64),
    /// Too much.
    #[error("the answer has more than {0} series")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Response {
    status: String,
    #[serde(rename = "errorType", default)]
    error_type: String,
    #[serde(default)]
    warnings: Vec<IgnoredAny>,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Matrix(Vec<Entry>),
    Vector(IgnoredAny),
    Scalar(IgnoredAny),
    String(IgnoredAny),
}

#[derive(Deserialize)]
struct Entry {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    histograms: Option<IgnoredAny>,
}

/// Reads the body of an answer to `/api/v1/query`, whatever its HTTP status was.
pub fn read(body: &[u8], demand: Demand) -> Result<Answer, AnswerError> {
    let response: Response = serde_json::from_slice(body).map_err(|_| AnswerError::Foreign)?;
    match (response.status.as_str(), response.error_type.as_str()) {
        ("success", _) => {}
        ("error", "bad_data") => return Err(AnswerError::BadQuery),
        ("error", known) => {
            const KNOWN: [&str; 6] = ["timeout", "canceled", "execution", "internal", "unavailable", "not_found"];
            return Err(AnswerError::Failed(KNOWN.into_iter().find(|k| *k == known).unwrap_or("no known reason")));
        }
        _ => return Err(AnswerError::Foreign),
    }
    if !response.warnings.is_empty() {
        return Err(AnswerError::Partial);
    }
    let entries = match response.data {
        Some(Data::Matrix(entries)) => entries,
        Some(Data::Vector(_)) => return Err(AnswerError::NotRange("vector")),
        Some(Data::Scalar(_)) => return Err(AnswerError::NotRange("scalar")),
        Some(Data::String(_)) => return Err(AnswerError::NotRange("string")),
        None => return Err(AnswerError::Foreign),
    };
    if entries.len() > demand.most_series {
        return Err(AnswerError::TooMany(demand.most_series));
    }
    for label in ["prometheus_replica", "__replica__"] {
        if entries.iter().filter_map(|e| e.metric.get(label)).collect::<BTreeSet<_>>().len() > 1 {
            return Err(AnswerError::Replicas);
        }
    }
    let series = entries.into_iter().map(last_value).collect::<Result<Vec<_>, _>>()?;
    let newest = series.iter().filter_map(|s| s.timestamp_ms).max().and_then(Time::from_timestamp_millis);
    if let Some(newest) = newest {
        let age = demand.now - newest;
        if age > demand.max_age {
            return Err(AnswerError::Stale(demand.max_age.num_seconds()));
        }
        if -age > demand.max_age {
            return Err(AnswerError::Future(demand.max_age.num_seconds()));
        }
    }
    Ok(Answer { series, newest })
}

/// The last value of a series.
fn last_value(mut entry: Entry) -> Result<Series, AnswerError> {
    let Some((at, value)) = entry.values.pop() else {
        return Err(if entry.histograms.is_some() { AnswerError::NativeHistogram } else { AnswerError::Foreign });
    };
    let name = entry.metric.remove("__name__").unwrap_or_default();
    Ok(Sample {
        name: Cow::Owned(name),
        labels: entry.metric.into_iter().map(|(n, v)| (Cow::Owned(n), Cow::Owned(v))).collect(),
        value: exposition::number_of(&value).ok_or(AnswerError::Foreign)?,
        timestamp_ms: Some(exposition::ms_of_seconds(at).ok_or(AnswerError::Foreign)?),
    })
}

/// Puts the answers about one version together. `asked_at` stands in where no series tells a time.
pub fn recognise(answers: &[(Question, Answer)], asked_at: Time) -> Recognised {
    let at = answers.iter().filter_map(|(_, a)| a.newest).max().unwrap_or(asked_at);
    let mut problems = Vec::new();
    let mut requests = Part { source: Some(REQUESTS), series: Some(Vec::new()) };
    let mut durations = Part::default();
    let (mut is_failure_shown, mut is_error_found) = (false, false);
    for (question, answer) in answers {
        match question.role {
            Role::Family(family) => return recognise::of_family(family, &answer.series, at),
            Role::Requests { by_code: true } => {
                let found = recognise::of_codes(REQUESTS, &answer.series, at, &mut problems);
                join(&mut requests, found);
            }
            Role::Requests { by_code: false } => {
                is_failure_shown = shows_failures(&answer.series, at);
                let found = answer.series.iter().map(|s| recognise::reading(s, REQUESTS, Counts::Request, at)).collect();
                join(&mut requests, recognise::part(REQUESTS, found, &mut problems));
            }
            Role::Errors => {
                is_error_found = answer.series.iter().any(|s| s.value > 0.0);
                let failure = |s| {
                    let reading = recognise::reading(s, ERRORS, Counts::FailureOnly, at)?;
                    // The same series is among the requests.
                    Ok(Reading { series: format!("errors\0{}", reading.series).into(), ..reading })
                };
                let found = answer.series.iter().map(failure).collect();
                join(&mut requests, recognise::part(ERRORS, found, &mut problems));
            }
            Role::Durations(unit) => {
                let buckets = answer.series.iter().map(|s| ("_bucket", s));
                let found = recognise::histograms(buckets, DURATIONS, unit, at).map_err(|problem| problems.push(problem));
                durations = Part { source: Some(DURATIONS), series: found.ok() };
            }
        }
    }
    if is_failure_shown && !is_error_found {
        problems.push(Problem::ErrorsUnseen);
        requests.series = None;
    }
    Recognised { snapshot: Snapshot { at, requests, durations }, problems }
}

/// Whether counters of requests with a code label show that some failed: whoever asks for errors by another query has to find some.
fn shows_failures(series: &[Series], at: Time) -> bool {
    let by_code = recognise::of_codes(REQUESTS, series, at, &mut Vec::new()).series;
    by_code.is_some_and(|readings| readings.iter().any(|r| r.counts == Counts::FailedRequest && r.value > 0))
}

/// When the newest series of what was read was scraped; `None` without series.
pub fn newest(read: &Result<Recognised, Unread>) -> Option<Time> {
    read.as_ref().ok().map(|r| &r.snapshot).filter(|s| !s.is_empty()).map(|s| s.at)
}

/// What was read about a version with traffic that had series before. Counters do not go away by themselves: without any now,
/// whoever holds them is not scraped any more, and what was counted so far would pass for all there is.
pub fn still_there(read: Result<Recognised, Unread>) -> Result<Recognised, Unread> {
    const LOST: &str = "Prometheus: no series of the new version any more; see that it still scrapes what counts its requests";
    read.and_then(|read| if read.snapshot.is_empty() { Err(Unread::Failed(LOST.to_owned())) } else { Ok(read) })
}

/// What was read about one version, given the [`newest`] series of the other one in the same round. Without series it is
/// as new as those; with none there either it tells nothing, so it must not pass for new figures.
pub fn dated(read: Result<Recognised, Unread>, other: Option<Time>) -> Result<Recognised, Unread> {
    const NOTHING: &str =
        "Prometheus: no series of either version; see that it scrapes what counts their requests, and that somebody calls them";
    let mut read = read?;
    if read.snapshot.is_empty() {
        read.snapshot.at = other.ok_or_else(|| Unread::Failed(NOTHING.to_owned()))?;
    }
    Ok(read)
}

/// Requests without their errors would look healthy: both, or neither.
fn join(all: &mut Part<Reading>, more: Part<Reading>) {
    all.series = all.series.take().zip(more.series).map(|(mut all, more)| {
        all.extend(more);
        all
    });
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;

//! From samples to request counters and duration histograms: well-known names need no configuration.
//!
//! Exactly one family is read per target, by the order of [`POD_FAMILIES`], and never two added up:
//! a sidecar's counter and the application's count the same requests. Sidecars come first, because
//! they also see the answers that the process never gave; names an application chose come last.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::exposition::{self, Exposition, ExpositionError, Format, Keep, Kind, Sample};
use super::snapshot::{self, Counts, Edge, Histogram, Part, Problem, Reading, Snapshot, Unit};
use super::uncounted::Uncounted;
use crate::api::Time;

/// One way of counting requests.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Name of the request counter.
    pub requests: &'static str,
    /// Which of its requests failed.
    failed: Failed,
    /// Only series with this label: a proxy counts what comes in and what goes out under one name.
    pub only: Option<(&'static str, &'static str)>,
    /// Histograms that time the same requests, best first.
    pub durations: &'static [Durations],
}

/// A histogram of durations, named without suffix.
#[derive(Debug, PartialEq, Eq)]
pub struct Durations {
    /// Its name.
    pub name: &'static str,
    /// What it measures in.
    pub unit: Unit,
}

#[derive(Debug, PartialEq, Eq)]
enum Failed {
    /// By HTTP status, in the first of these labels that is there.
    Code(&'static [&'static str]),
    /// By HTTP status, which is 0 as well where Envoy's flags say `DC`: the caller hung up.
    CodeAndFlags(&'static str, &'static str),
    /// OpenTelemetry leaves the code out where there was no answer, and says `error_type`.
    CodeOrErrorType(&'static str),
    /// Linkerd's inbound verdict, which knows about gRPC.
    Classification,
    /// Linkerd's outbound status, and why there is none.
    StatusOrError,
}

const CODES: &[&str] = &["code", "status", "status_code"];

const fn seconds(name: &'static str) -> Durations {
    Durations { name, unit: Unit::Seconds }
}

const fn milliseconds(name: &'static str) -> Durations {
    Durations { name, unit: Unit::Milliseconds }
}

const PLAIN_S: Durations = seconds("http_request_duration_seconds");
const PLAIN_MS: Durations = milliseconds("http_request_duration_milliseconds");
const OTEL: Durations = seconds("http_server_request_duration_seconds");
const MICROMETER: Durations = seconds("http_server_requests_seconds");

/// What is looked for in a pod, the first that is there is taken.
pub static POD_FAMILIES: [Family; 7] = [
    ISTIO,
    Family {
        requests: "response_total",
        failed: Failed::Classification,
        only: Some(("direction", "inbound")),
        durations: &[milliseconds("response_latency_ms")],
    },
    Family { requests: "http_requests_total", failed: Failed::Code(CODES), only: None, durations: &[PLAIN_S, PLAIN_MS, OTEL, MICROMETER] },
    Family {
        requests: "http_server_request_duration_seconds_count",
        failed: Failed::CodeOrErrorType("http_response_status_code"),
        only: None,
        durations: &[OTEL],
    },
    Family { requests: "http_server_requests_seconds_count", failed: Failed::Code(&["status"]), only: None, durations: &[MICROMETER] },
    Family { requests: "http_request_duration_seconds_count", failed: Failed::Code(CODES), only: None, durations: &[PLAIN_S] },
    Family { requests: "http_request_duration_milliseconds_count", failed: Failed::Code(CODES), only: None, durations: &[PLAIN_MS] },
];

/// Istio's sidecar, by itself and in Prometheus. The source's side of the same requests is another reporter.
pub const ISTIO: Family = Family {
    requests: "istio_requests_total",
    failed: Failed::CodeAndFlags("response_code", "response_flags"),
    only: Some(("reporter", "destination")),
    durations: &[milliseconds("istio_request_duration_milliseconds")],
};

/// Traefik, per service.
pub static TRAEFIK: Family = Family {
    requests: "traefik_service_requests_total",
    failed: Failed::Code(&["code"]),
    only: None,
    durations: &[seconds("traefik_service_request_duration_seconds")],
};

/// Istio in Prometheus.
pub static ISTIO_MESH: Family = ISTIO;

/// Envoy, per cluster.
pub static ENVOY: Family = Family {
    requests: "envoy_cluster_upstream_rq",
    failed: Failed::Code(&["envoy_response_code"]),
    only: None,
    durations: &[milliseconds("envoy_cluster_upstream_rq_time")],
};

/// Linkerd's outbound side, per backend of a route.
pub static LINKERD: Family = Family {
    requests: "outbound_http_route_backend_response_statuses_total",
    failed: Failed::StatusOrError,
    only: None,
    durations: &[seconds("outbound_http_route_backend_response_duration_seconds")],
};

/// Whether a pod's sample is of any use: what the parser keeps.
pub fn is_wanted(name: &str) -> bool {
    POD_FAMILIES.iter().any(|f| f.requests == name || f.durations.iter().any(|d| suffix_of(name, d.name).is_some()))
}

fn suffix_of<'n>(name: &'n str, base: &str) -> Option<&'n str> {
    name.strip_prefix(base).filter(|suffix| matches!(*suffix, "_bucket" | "_sum" | "_count"))
}

/// What was read of one target, and what could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// The counters.
    pub snapshot: Snapshot,
    /// Why parts of it are missing.
    pub problems: Vec<Problem>,
}

/// Samples that a page may have of what is looked for: what is kept of one is kept for as long as the update lasts.
const MOST_SAMPLES: usize = 50_000;
/// Series that one pod may have of requests, and of histograms.
const MOST_SERIES: usize = 2_000;

/// Reads a pod's page, the parser's work included.
pub fn read_pod(bytes: &[u8], format: Format, uncounted: &Uncounted, at: Time) -> Result<Recognised, ExpositionError> {
    let keep = Keep { wanted: is_wanted, most: MOST_SAMPLES };
    Ok(of_pod(&exposition::parse(bytes, format, keep)?, uncounted, at))
}

/// Reads a pod's metrics. Without any family it knows the snapshot is empty, not wrong: most clients
/// show a counter only after its first request.
fn of_pod(exposition: &Exposition<'_>, uncounted: &Uncounted, at: Time) -> Recognised {
    let samples = &exposition.samples;
    // Which family it is must not depend on who has called so far.
    let family = POD_FAMILIES.iter().find(|family| samples.iter().any(|s| family.counts(s) && family.failed.is_shown_by(s)));
    let users = |sample: &Sample<'_>| !uncounted.holds(sample);
    let mut problems = Vec::new();
    // A histogram without codes still times requests.
    let timed = family.or_else(|| POD_FAMILIES.iter().find(|f| f.only.is_none() && f.timed_by(samples).is_some()));
    let mut requests = family.map(|f| f.read_requests(samples, users, at, &mut problems)).unwrap_or_default();
    let mut durations = timed.map(|f| f.read_durations(samples, users, at, &mut problems)).unwrap_or_default();
    if let Some(family) = family.filter(|f| exposition.types.get(f.requests) == Some(&Kind::Gauge)) {
        requests.series = None;
        problems.push(Problem::NotACounter { family: family.requests });
    }
    bound(&mut requests, &mut problems);
    bound(&mut durations, &mut problems);
    Recognised { snapshot: Snapshot { at, requests, durations }, problems }
}

/// Rejects more series than a pod may have.
fn bound<T>(part: &mut Part<T>, problems: &mut Vec<Problem>) {
    if let (Some(family), Some(_)) = (part.source, part.series.take_if(|series| series.len() > MOST_SERIES)) {
        problems.push(Problem::TooManySeries { family, most: MOST_SERIES });
    }
}

/// Reads one family of what a Prometheus told.
pub fn of_family(family: &Family, samples: &[Sample<'_>], at: Time) -> Recognised {
    let mut problems = Vec::new();
    let requests = family.read_requests(samples, |_| true, at, &mut problems);
    let durations = family.read_durations(samples, |_| true, at, &mut problems);
    Recognised { snapshot: Snapshot { at, requests, durations }, problems }
}

/// Counters of a query that the user wrote: the usual code labels, whatever their name.
pub fn of_codes(family: &'static str, samples: &[Sample<'_>], at: Time, problems: &mut Vec<Problem>) -> Part<Reading> {
    let failed = Failed::Code(CODES);
    let readings = samples.iter().map(|s| {
        if !failed.is_told_by(s) {
            return Err(Problem::NoCode { family });
        }
        let failed = failed.has_failed(s).map_err(|label| Problem::UnreadableCode { family, label })?;
        reading(s, family, if failed { Counts::FailedRequest } else { Counts::Request }, at)
    });
    part(family, readings.collect(), problems)
}

impl Family {
    /// Whether the sample is a request counter of this family that tells failures.
    fn counts(&self, sample: &Sample<'_>) -> bool {
        sample.name == self.requests && self.is_ours(sample) && self.failed.is_told_by(sample)
    }

    fn is_ours(&self, sample: &Sample<'_>) -> bool {
        self.only.is_none_or(|(label, value)| sample.label(label) == Some(value))
    }

    fn read_requests(
        &self,
        samples: &[Sample<'_>],
        takes: impl Fn(&Sample<'_>) -> bool,
        at: Time,
        problems: &mut Vec<Problem>,
    ) -> Part<Reading> {
        let readings: Result<Vec<_>, _> = samples
            .iter()
            .filter(|s| self.counts(s) && takes(s))
            .map(|s| {
                let failed = self.failed.has_failed(s).map_err(|label| Problem::UnreadableCode { family: self.requests, label })?;
                reading(s, self.requests, if failed { Counts::FailedRequest } else { Counts::Request }, at)
            })
            .collect();
        part(self.requests, readings, problems)
    }

    /// The histogram that is there.
    fn timed_by(&self, samples: &[Sample<'_>]) -> Option<&'static Durations> {
        self.durations.iter().find(|d| samples.iter().any(|s| self.is_ours(s) && suffix_of(&s.name, d.name).is_some_and(|s| s != "_sum")))
    }

    fn read_durations(
        &self,
        samples: &[Sample<'_>],
        takes: impl Fn(&Sample<'_>) -> bool,
        at: Time,
        problems: &mut Vec<Problem>,
    ) -> Part<Histogram> {
        let Some(durations) = self.timed_by(samples) else { return Part::default() };
        let of_it = samples.iter().filter_map(|s| Some((suffix_of(&s.name, durations.name)?, s)));
        let histograms = histograms(of_it.filter(|(_, s)| self.is_ours(s) && takes(s)), durations.name, durations.unit, at);
        if let Err(problem) = &histograms {
            problems.push(problem.clone());
        }
        Part { source: Some(durations.name), series: histograms.ok() }
    }
}

impl Failed {
    /// Series without the label are of another shape, as totals beside their own parts, and are left out.
    fn is_told_by(&self, sample: &Sample<'_>) -> bool {
        match self {
            Self::Code(labels) => labels.iter().any(|l| sample.label(l).is_some()),
            Self::CodeAndFlags(label, _) => sample.label(label).is_some(),
            Self::CodeOrErrorType(_) => true,
            Self::Classification => sample.label("classification").is_some(),
            Self::StatusOrError => sample.label("http_status").is_some() || sample.label("error").is_some(),
        }
    }

    /// Whether this series shows that the family is of this shape: another of the same name might hide its failures elsewhere.
    fn is_shown_by(&self, sample: &Sample<'_>) -> bool {
        match self {
            Self::CodeOrErrorType(label) => sample.label(label).is_some() || sample.label("error_type").is_some(),
            _ => true,
        }
    }

    /// Whether its requests failed; the error names the label that cannot be read.
    fn has_failed(&self, sample: &Sample<'_>) -> Result<bool, &'static str> {
        match self {
            Self::Code(labels) => {
                let found = labels.iter().find_map(|l| Some((*l, sample.label(l)?)));
                found.map_or(Ok(false), |(label, code)| is_failure(code).ok_or(label))
            }
            Self::CodeAndFlags(label, flags) => {
                let hung_up = sample.label(flags) == Some("DC");
                Ok(is_failure(sample.label(label).unwrap_or_default()).ok_or(*label)? && !hung_up)
            }
            Self::CodeOrErrorType(label) => match sample.label(label) {
                Some(code) => is_failure(code).ok_or(label),
                None => Ok(sample.label("error_type").is_some_and(|e| !e.is_empty())),
            },
            Self::Classification => Ok(sample.label("classification") != Some("success")),
            Self::StatusOrError => {
                let no_answer = sample.label("error").is_some_and(|e| !e.is_empty());
                let status = sample.label("http_status").unwrap_or_default();
                Ok(no_answer || is_failure(status).ok_or("http_status")?)
            }
        }
    }
}

/// 5xx, also as a class, and 0 for no answer at all. `None`: that is no HTTP status.
pub fn is_failure(code: &str) -> Option<bool> {
    // Clients write `unknown` (Micrometer, for one) where the caller hung up first: a request, and nobody's failure.
    if code.is_empty() || code.eq_ignore_ascii_case("unknown") {
        return Some(false);
    }
    if matches!(code, "0" | "000") {
        return Some(true);
    }
    let [first, rest @ ..] = code.as_bytes() else { return None };
    let is_status = rest.len() == 2 && rest.iter().all(|b| b.is_ascii_digit() || b.eq_ignore_ascii_case(&b'x'));
    (is_status && matches!(first, b'1'..=b'9')).then_some(*first == b'5')
}

/// One counter of a sample.
pub fn reading(sample: &Sample<'_>, family: &'static str, counts: Counts, at: Time) -> Result<Reading, Problem> {
    let value = snapshot::requests(sample.value).map_err(|what| Problem::BadValue { family, what })?;
    Ok(Reading { series: identity(sample, &sample.name), counts, value, at: moment(sample, at) })
}

/// A part of readings, all of them or none: half of a scrape would skew the share of errors.
pub fn part(family: &'static str, readings: Result<Vec<Reading>, Problem>, problems: &mut Vec<Problem>) -> Part<Reading> {
    let unique = readings.and_then(|readings| {
        let mut seen = HashSet::with_capacity(readings.len());
        if readings.iter().all(|r| seen.insert(&r.series)) { Ok(readings) } else { Err(Problem::Duplicate { family }) }
    });
    if let Err(problem) = &unique {
        problems.push(problem.clone());
    }
    Part { source: Some(family), series: unique.ok() }
}

/// A series' identity: name and labels, sorted, without `le`; zero bytes keep the parts apart.
fn identity(sample: &Sample<'_>, name: &str) -> Box<str> {
    let mut labels: Vec<_> = sample.labels.iter().filter(|(n, _)| n != "le").collect();
    labels.sort_unstable();
    let length = name.len() + labels.iter().map(|(n, v)| n.len() + v.len() + 2).sum::<usize>();
    let mut text = String::with_capacity(length);
    text.push_str(name);
    for (name, value) in labels {
        for part in [name, value] {
            text.push('\0');
            text.push_str(part);
        }
    }
    text.into()
}

fn moment(sample: &Sample<'_>, at: Time) -> Time {
    sample.timestamp_ms.and_then(Time::from_timestamp_millis).unwrap_or(at)
}

#[derive(Default)]
struct Gathered {
    buckets: Vec<(Edge, u64)>,
    count: Option<u64>,
    sum_us: Option<u64>,
    at: Time,
}

/// Puts samples of one histogram family together and checks each: all of them or none.
/// A family without any bucket (a summary) becomes one infinite bucket, of which only the mean is taken: it is no histogram.
pub fn histograms<'a>(
    samples: impl Iterator<Item = (&'a str, &'a Sample<'a>)>,
    family: &'static str,
    unit: Unit,
    at: Time,
) -> Result<Vec<Histogram>, Problem> {
    let bad = |what| Problem::BadHistogram { family, what };
    let value = |v: f64| snapshot::requests(v).map_err(|what| Problem::BadValue { family, what });
    let mut gathered: BTreeMap<Box<str>, Gathered> = BTreeMap::new();
    for (suffix, sample) in samples {
        let one = gathered.entry(identity(sample, family)).or_default();
        one.at = one.at.max(moment(sample, at));
        match suffix {
            "_bucket" => {
                let le = sample.label("le").ok_or_else(|| bad("a bucket without le"))?;
                let edge = Edge::read(le, unit).ok_or_else(|| bad("a le that is no duration"))?;
                one.buckets.push((edge, value(sample.value)?));
            }
            "_count" if sample.label("quantile").is_none() => one.count = Some(value(sample.value)?),
            "_sum" => one.sum_us = snapshot::sum_us(sample.value, unit),
            _ => {}
        }
    }
    let has_buckets = gathered.values().any(|g| !g.buckets.is_empty());
    // Mostly the same for all of a page.
    let mut known: Option<Arc<[Edge]>> = None;
    gathered
        .into_iter()
        .filter(|(_, g)| !g.buckets.is_empty() || (!has_buckets && g.count.is_some()))
        .map(|(series, mut g)| {
            if g.buckets.is_empty() {
                g.buckets.extend(g.count.map(|count| (Edge::INFINITE, count)));
            }
            g.buckets.sort_unstable();
            let pairs = || g.buckets.iter().zip(g.buckets.iter().skip(1));
            if pairs().any(|(a, b)| a.0 == b.0) {
                return Err(bad("one bucket twice"));
            }
            if pairs().any(|(a, b)| a.1 > b.1) {
                return Err(bad("buckets that fall"));
            }
            if g.buckets.last().is_none_or(|(edge, _)| *edge != Edge::INFINITE) {
                return Err(bad("no bucket le=\"+Inf\""));
            }
            let (edges, below): (Vec<_>, Vec<_>) = g.buckets.into_iter().unzip();
            let edges = known.take().filter(|known| **known == *edges).unwrap_or_else(|| edges.into());
            known = Some(Arc::clone(&edges));
            Ok(Histogram { series, edges, below: below.into(), sum_us: g.sum_us, at: g.at })
        })
        .collect()
}

#[cfg(test)]
#[path = "recognise_tests.rs"]
mod tests;

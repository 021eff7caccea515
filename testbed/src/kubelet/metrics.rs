//! One application's request metrics, in Prometheus' text format.
//!
//! Written by hand: a registry per pod would cost kilobytes each, this is some hundred bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds; a last one without bound follows.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// So many paths are told apart; clients must not make the labels grow.
const MOST_PATHS: usize = 20;

/// Requests answered since the application started. An empty path is one that is not told.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: BTreeMap<(u16, &'static str, String), u64>,
    durations: BTreeMap<String, Durations>,
}

#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

impl Metrics {
    /// Counts one answer.
    pub fn count(&mut self, code: u16, method: &'static str, path: &str, took: Duration) {
        let is_told = self.durations.len() < MOST_PATHS || self.durations.contains_key(path);
        let path = if is_told { path } else { "other" };
        *self.requests.entry((code, method, path.to_owned())).or_default() += 1;
        let durations = self.durations.entry(path.to_owned()).or_default();
        let seconds = took.as_secs_f64();
        durations.count += 1;
        durations.seconds += seconds;
        // Not cumulative here: only the first bucket that holds the value is counted, the text adds them up.
        if let Some((bucket, _)) = durations.buckets.iter_mut().zip(BOUNDS).find(|(_, bound)| seconds <= *bound) {
            *bucket += 1;
        }
    }

    /// The text of `/metrics`, with so many other series as most applications have.
    pub fn text(&self, more_series: u32) -> String {
        let mut text = String::with_capacity(1200);
        text.push_str("# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n");
        // Writing to a String cannot fail.
        for ((code, method, path), count) in &self.requests {
            let path = label(path, ",", "");
            let _ = writeln!(text, "http_requests_total{{code=\"{code}\",method=\"{method}\"{path}}} {count}");
        }
        text.push_str("# HELP http_request_duration_seconds Time from the request's head to its answer.\n");
        text.push_str("# TYPE http_request_duration_seconds histogram\n");
        // Before the first request as well.
        let none = BTreeMap::from([(String::new(), Durations::default())]);
        for (path, Durations { buckets, count, seconds }) in if self.durations.is_empty() { &none } else { &self.durations } {
            let (with_le, alone) = (label(path, "", ","), label(path, "{", "}"));
            let mut below = 0;
            for (bucket, bound) in buckets.iter().zip(BOUNDS) {
                below += bucket;
                let _ = writeln!(text, "http_request_duration_seconds_bucket{{{with_le}le=\"{bound}\"}} {below}");
            }
            let _ = writeln!(text, "http_request_duration_seconds_bucket{{{with_le}le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "http_request_duration_seconds_sum{alone} {seconds}");
            let _ = writeln!(text, "http_request_duration_seconds_count{alone} {count}");
        }
        for n in 0..more_series {
            let _ = writeln!(text, "app_things{{kind=\"of the kind {n}\",where=\"in the application\"}} {n}");
        }
        text
    }
}

/// The label of a path that is told, between what comes before and behind it.
fn label(path: &str, before: &str, behind: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{before}path={path:?}{behind}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let mut metrics = Metrics::default();
        for millis in [5, 6, 700, 20_000] {
            metrics.count(200, "GET", "", Duration::from_millis(millis));
        }
        metrics.count(500, "POST", "", Duration::ZERO);
        let text = metrics.text(0);
        for line in [
            "http_requests_total{code=\"200\",method=\"GET\"} 4",
            "http_requests_total{code=\"500\",method=\"POST\"} 1",
            "http_request_duration_seconds_bucket{le=\"0.005\"} 2",
            "http_request_duration_seconds_bucket{le=\"0.01\"} 3",
            "http_request_duration_seconds_bucket{le=\"1\"} 4",
            "http_request_duration_seconds_bucket{le=\"10\"} 4",
            "http_request_duration_seconds_bucket{le=\"+Inf\"} 5",
            "http_request_duration_seconds_count 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn paths_are_told_apart_and_only_so_many() {
        let mut metrics = Metrics::default();
        for n in 0..40 {
            metrics.count(200, "GET", &format!("/{n}"), Duration::from_millis(20));
        }
        let text = metrics.text(0);
        for line in [
            "http_requests_total{code=\"200\",method=\"GET\",path=\"/0\"} 1",
            "http_requests_total{code=\"200\",method=\"GET\",path=\"other\"} 20",
            "http_request_duration_seconds_bucket{path=\"/0\",le=\"0.01\"} 0",
            "http_request_duration_seconds_bucket{path=\"/0\",le=\"0.025\"} 1",
            "http_request_duration_seconds_count{path=\"other\"} 20",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }
}

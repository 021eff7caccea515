//! One application's request metrics, in Prometheus' text format.
//!
//! Written by hand: a registry per pod would cost kilobytes each, this is some hundred bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds; a last one without bound follows.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Requests answered since the application started.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: BTreeMap<(u16, &'static str), u64>,
    buckets: [u64; BOUNDS.len()],
    seconds: f64,
}

impl Metrics {
    /// Counts one answer.
    pub fn count(&mut self, code: u16, method: &'static str, took: Duration) {
        *self.requests.entry((code, method)).or_default() += 1;
        let seconds = took.as_secs_f64();
        self.seconds += seconds;
        // Not cumulative here: only the first bucket that holds the value is counted, the text adds them up.
        if let Some((bucket, _)) = self.buckets.iter_mut().zip(BOUNDS).find(|(_, bound)| seconds <= *bound) {
            *bucket += 1;
        }
    }

    /// The text of `/metrics`, with so many other series as most applications have.
    pub fn text(&self, more_series: u32) -> String {
        let mut text = String::with_capacity(1200);
        text.push_str("# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n");
        // Writing to a String cannot fail.
        for ((code, method), count) in &self.requests {
            let _ = writeln!(text, "http_requests_total{{code=\"{code}\",method=\"{method}\"}} {count}");
        }
        text.push_str("# HELP http_request_duration_seconds Time from the request's head to its answer.\n");
        text.push_str("# TYPE http_request_duration_seconds histogram\n");
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            below += bucket;
            let _ = writeln!(text, "http_request_duration_seconds_bucket{{le=\"{bound}\"}} {below}");
        }
        let count: u64 = self.requests.values().sum();
        let _ = writeln!(text, "http_request_duration_seconds_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "http_request_duration_seconds_sum {}", self.seconds);
        let _ = writeln!(text, "http_request_duration_seconds_count {count}");
        for n in 0..more_series {
            let _ = writeln!(text, "app_things{{kind=\"of the kind {n}\",where=\"in the application\"}} {n}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let mut metrics = Metrics::default();
        for millis in [5, 6, 700, 20_000] {
            metrics.count(200, "GET", Duration::from_millis(millis));
        }
        metrics.count(500, "POST", Duration::ZERO);
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
}

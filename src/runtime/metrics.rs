//! What the operator counts about itself, for `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::rolling_update::Verdict;
use crate::api::{ProxyPoolStatus, State};
use crate::cloud::Error;
use crate::cluster::SharedIndex;
use crate::cluster::facts::Key;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    resource: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    source: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    namespace: String,
    pool: String,
    provider: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    provider: &'static str,
    verb: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

/// What is shown of one pool.
pub struct PoolFigures<'a> {
    /// Whose.
    pub key: &'a Key,
    /// As in `status.provider.name`.
    pub provider: &'static str,
    /// What was said last.
    pub status: &'a ProxyPoolStatus,
    /// minScaling.
    pub wanted: u32,
    /// Requests left in the cloud's window, if it says so.
    pub rate_remaining: Option<u32>,
}

type Figure = (&'static str, &'static str, fn(&PoolFigures<'_>) -> Option<i64>);

/// Gauges by namespace, pool and provider; one that is not known is not shown.
const POOL_GAUGES: [Figure; 11] = [
    ("pool_wanted", "Proxies that a pool wants", |f| Some(f.wanted.into())),
    ("pool_existing", "Proxies that exist", |f| f.status.replicas.map(Into::into)),
    ("pool_healthy", "Proxies that serve, aged ones included until their turn", |f| Some(f.status.healthy.into())),
    ("pool_pending", "Proxies created and not healthy yet", |f| Some(f.status.pending.into())),
    ("pool_pending_recycle", "Proxies marked for recycling and still there", |f| Some(f.status.pending_recycle.into())),
    ("pool_recycling", "Proxies being deleted, or waiting for their replacement", |f| Some(f.status.recycling.into())),
    ("pool_aged", "Proxies past their age limit", |f| Some(f.status.aged.into())),
    ("pool_unhealthy", "Proxies whose probes fail, or that do not run", |f| Some(f.status.unhealthy.into())),
    ("pool_floor", "Proxies that must stay available", |f| f.status.effective_min_available.map(Into::into)),
    ("pool_rate_remaining", "Requests left in the provider's window", |f| f.rate_remaining.map(Into::into)),
    ("pool_duplicates_removed", "Second proxies of one place removed in the pool's life", |f| Some(f.status.duplicates_removed.into())),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
}

/// The operator's counters; cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    writes: Family<WriteLabels, Counter>,
    decisions: Counter,
    leader: Gauge,
    updates: Family<StateLabels, Gauge>,
    reads: Family<ReadLabels, Counter>,
    rounds: Family<SourceLabels, Histogram, fn() -> Histogram>,
    verdicts: Family<VerdictLabels, Gauge>,
    pools: [Family<PoolLabels, Gauge>; POOL_GAUGES.len()],
    calls: Family<CallLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("aether");
        let metrics = Self {
            registry: Arc::default(),
            writes: <_>::default(),
            decisions: <_>::default(),
            leader: <_>::default(),
            updates: <_>::default(),
            reads: <_>::default(),
            // The upper ones are where a round takes longer than the time between two.
            rounds: Family::new_with_constructor(|| Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 5.0, 15.0, 60.0])),
            verdicts: <_>::default(),
            pools: <_>::default(),
            calls: <_>::default(),
            requests: <_>::default(),
            // The upper ones are for `?wait=`.
            durations: Family::new_with_constructor(|| Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0])),
        };
        registry.register("api_writes", "Mutating requests sent to the API server", metrics.writes.clone());
        registry.register("decisions", "Decisions made", metrics.decisions.clone());
        registry.register("leader", "1 while this process is the leader", metrics.leader.clone());
        registry.register("rolling_updates", "RollingUpdates by state", metrics.updates.clone());
        registry.register("metric_reads", "Pages of pods and answers of a Prometheus, by how reading them went", metrics.reads.clone());
        registry.register("metric_round_seconds", "Time to read all pages or answers of one update once", metrics.rounds.clone());
        registry.register("verdicts", "RollingUpdates that shift traffic, by their present verdict", metrics.verdicts.clone());
        for ((name, help, _), family) in POOL_GAUGES.into_iter().zip(&metrics.pools) {
            registry.register(name, help, family.clone());
        }
        registry.register("cloud_calls", "Calls to the providers of pools, by how they went", metrics.calls.clone());
        registry.register(
            "rest_requests",
            "Requests of the REST API; code 499: the caller left before the answer",
            metrics.requests.clone(),
        );
        registry.register("rest_request_seconds", "Time until they were answered", metrics.durations.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    /// Counts a mutating request.
    pub fn wrote(&self, verb: &'static str, resource: &'static str, code: &str) {
        self.writes.get_or_create(&WriteLabels { verb, resource, code: code.to_owned() }).inc();
    }

    /// Counts a decision.
    pub fn decided(&self) {
        self.decisions.inc();
    }

    /// Counts a page or an answer, by the kind of source and one of a few words.
    pub fn read(&self, source: &'static str, result: &'static str) {
        self.reads.get_or_create(&ReadLabels { source, result }).inc();
    }

    /// Counts a round of readings of one update, by the kind of source.
    pub fn read_all(&self, source: &'static str, took: Duration) {
        self.rounds.get_or_create(&SourceLabels { source }).observe(took.as_secs_f64());
    }

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
        if !leads {
            // Whoever leads now shows them.
            self.pools.iter().for_each(Family::clear);
        }
    }

    /// Counts a call to a provider; one that is held back to stay within its limit is `throttled` as well.
    pub fn called<T>(&self, provider: &'static str, verb: &'static str, answer: &Result<T, Error>) {
        let result = answer.as_ref().map_or_else(|error| error.class.word(), |_| "ok");
        self.calls.get_or_create(&CallLabels { provider, verb, result }).inc();
    }

    /// Counts a request of the REST API, by the template of its route.
    pub fn answered(&self, route: &'static str, method: &'static str, code: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { route, method, code }).inc();
        self.durations.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    /// Shows how a pool is.
    pub fn pool(&self, figures: &PoolFigures<'_>) {
        let labels = PoolLabels { namespace: figures.key.namespace.clone(), pool: figures.key.name.clone(), provider: figures.provider };
        for ((_, _, figure), family) in POOL_GAUGES.iter().zip(&self.pools) {
            match figure(figures) {
                Some(n) => {
                    family.get_or_create(&labels).set(n);
                }
                None => {
                    family.remove(&labels);
                }
            }
        }
    }

    /// Shows nothing more of a pool that is gone.
    pub fn forget_pool(&self, key: &Key, provider: &'static str) {
        let labels = PoolLabels { namespace: key.namespace.clone(), pool: key.name.clone(), provider };
        for family in &self.pools {
            family.remove(&labels);
        }
    }

    /// The exposition in OpenMetrics text.
    pub fn text(&self, index: &SharedIndex) -> String {
        for state in State::ALL {
            self.updates.get_or_create(&StateLabels { state: state.as_str() }).set(0);
        }
        for verdict in [Verdict::Healthy, Verdict::Unhealthy, Verdict::Unknown] {
            self.verdicts.get_or_create(&VerdictLabels { verdict: verdict.as_str() }).set(0);
        }
        for update in index.lock().updates() {
            let state = update.state().unwrap_or_default();
            let status = update.object.as_ref().ok().and_then(|o| o.status.as_ref());
            // By verdict and not by name: names pile up over time.
            if let Some(decision) = status.and_then(|s| s.decision.as_ref()).filter(|_| matches!(state, State::Deployed | State::Routing)) {
                self.verdicts.get_or_create(&VerdictLabels { verdict: decision.verdict.as_str() }).inc();
            }
            self.updates.get_or_create(&StateLabels { state: state.as_str() }).inc();
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::Class;

    fn shown(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text(&SharedIndex::default());
        text.lines().filter(|l| l.starts_with("aether_pool_") || l.starts_with("aether_cloud_")).map(str::to_owned).collect()
    }

    #[test]
    fn every_metric_is_explained() {
        let metrics = Metrics::default();
        // What has never happened is not shown.
        metrics.wrote("patch", "pods", "200");
        metrics.read("pods", "ok");
        metrics.read_all("pods", Duration::ZERO);
        metrics.called("aws", "list", &Ok(()));
        metrics.answered("/rolling", "GET", 200, Duration::ZERO);
        let status = ProxyPoolStatus { replicas: Some(1), effective_min_available: Some(1), ..ProxyPoolStatus::default() };
        let figures = PoolFigures { key: &Key::new("shop", "p"), provider: "aws", status: &status, wanted: 1, rate_remaining: Some(1) };
        metrics.pool(&figures);
        let text = metrics.text(&SharedIndex::default());
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
        assert_eq!(names.len(), POOL_GAUGES.len() + 10, "one is new, or was not made to show: {names:?}");
        let page = include_str!("../../docs/operations.md");
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not say what {name} means");
        }
    }

    #[test]
    fn a_pool_is_shown_as_it_is_until_it_is_gone() {
        let metrics = Metrics::default();
        let (key, other) = (Key::new("shop", "p"), Key::new("shop", "q"));
        let status = ProxyPoolStatus {
            healthy: 4,
            aged: 2,
            replicas: Some(6),
            effective_min_available: Some(3),
            duplicates_removed: 7,
            ..ProxyPoolStatus::default()
        };
        let figures = PoolFigures { key: &key, provider: "hetzner", status: &status, wanted: 5, rate_remaining: Some(99) };
        metrics.pool(&figures);
        metrics.pool(&PoolFigures { key: &other, ..figures });
        let labels = r#"{namespace="shop",pool="p",provider="hetzner"}"#;
        let one: Vec<String> = shown(&metrics).into_iter().filter(|l| l.contains(labels)).collect();
        let wanted =
            [("healthy", 4), ("aged", 2), ("existing", 6), ("wanted", 5), ("floor", 3), ("rate_remaining", 99), ("duplicates_removed", 7)];
        for (name, n) in wanted {
            assert!(one.contains(&format!("aether_pool_{name}{labels} {n}")), "{name}: {one:#?}");
        }
        assert_eq!((one.len(), shown(&metrics).len()), (POOL_GAUGES.len(), 2 * POOL_GAUGES.len()));
        // A cloud that does not say what is left shows nothing rather than an old figure.
        metrics.pool(&PoolFigures { key: &key, provider: "hetzner", status: &status, wanted: 5, rate_remaining: None });
        assert_eq!(shown(&metrics).len(), 2 * POOL_GAUGES.len() - 1);
        metrics.forget_pool(&key, "hetzner");
        assert_eq!(shown(&metrics).len(), POOL_GAUGES.len());
        metrics.leads(false);
        assert_eq!(shown(&metrics), [""; 0]);
    }

    #[test]
    fn calls_are_counted_by_how_they_went_and_say_nothing_else() {
        let metrics = Metrics::default();
        let failed = |class| Err::<(), _>(Error { class, message: "canary-token".into() });
        for answer in [Ok(()), Ok(()), failed(Class::Throttled(None)), failed(Class::Unknown)] {
            metrics.called("vultr", "create", &answer);
        }
        let line = |result: &str, n: u32| format!(r#"aether_cloud_calls_total{{provider="vultr",verb="create",result="{result}"}} {n}"#);
        let mut lines = shown(&metrics);
        lines.sort();
        assert_eq!(lines, [line("ok", 2), line("throttled", 1), line("unknown", 1)]);
    }
}

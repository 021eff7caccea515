//! What the operator counts about itself, for `/metrics`.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::api::State;
use crate::api::rolling_update::Verdict;
use crate::cluster::SharedIndex;

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
    verdicts: Family<VerdictLabels, Gauge>,
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
            verdicts: <_>::default(),
        };
        registry.register("api_writes", "Mutating requests sent to the API server", metrics.writes.clone());
        registry.register("decisions", "Decisions made", metrics.decisions.clone());
        registry.register("leader", "1 while this process is the leader", metrics.leader.clone());
        registry.register("rolling_updates", "RollingUpdates by state", metrics.updates.clone());
        registry.register("metric_reads", "Pages of pods and answers of a Prometheus, by how reading them went", metrics.reads.clone());
        registry.register("verdicts", "RollingUpdates that shift traffic, by their present verdict", metrics.verdicts.clone());
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

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
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

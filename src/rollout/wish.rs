//! The spec, parsed once: what is wanted, with every default filled in and nothing left to check.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::rolling_update::{
    CleanupPolicy, MetricsSpec, OnBreach, Outcome, PrometheusPreset, PrometheusSpec, RollingUpdateSpec, Thresholds, TrafficMode,
};
use crate::api::{Ratio, RollingUpdateStatus, duration};
use crate::metrics_source::promql::{Backend, Preset, QuestionError, questions};
use crate::metrics_source::targets::PodMetrics;

use super::verdict::judge::{Limits, default_min_requests};

/// Steps when the spec names none: the guide's recommended progression.
pub const DEFAULT_STEPS: [&str; 5] = ["1:9", "1:3", "1:1", "3:1", "1:0"];
/// How long GRACE_PERIOD keeps the old version at full size (the guide's 5 minutes).
pub const GRACE_PERIOD: Duration = Duration::from_mins(5);

/// A validated spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// `group:name`.
    pub artifact_base: String,
    /// The version wanted live.
    pub version: String,
    /// Counted from 1.
    pub attempt: i32,
    /// Pods of the new version; `None`: as many as the old one has.
    pub instances: Option<i32>,
    /// Name of the user's Deployment.
    pub workload: String,
    /// Container that carries the version, if named.
    pub container: Option<String>,
    /// Image with `{version}`, if given.
    pub image: Option<String>,
    /// Name of the apex Service.
    pub service: String,
    /// How traffic is shifted.
    pub mode: TrafficMode,
    /// Routes, if named.
    pub routes: Option<Vec<String>>,
    /// Time for the data plane after it acknowledged.
    pub settle: Duration,
    /// Time a version keeps its pods after its weight went to 0.
    pub drain: Duration,
    /// The ratios, as written and as meant.
    pub steps: Vec<Asked>,
    /// Least time at a step.
    pub interval: Duration,
    /// Longest time in DEPLOYING.
    pub deploy_deadline: Duration,
    /// Longest time at a step without a verdict.
    pub analysis_deadline: Duration,
    /// What a breach does.
    pub on_breach: OnBreach,
    /// Largest share of failed requests.
    pub max_error_rate: f64,
    /// Largest p99, in milliseconds.
    pub max_latency_ms: i32,
    /// Every routing change waits for a person.
    pub manual_approval: bool,
    /// What happens to the old version.
    pub cleanup: CleanupPolicy,
    /// Requests of the new version that a step needs.
    pub min_requests: u64,
    /// Where health is read.
    pub source: Source,
    /// The orders, if they are for this version.
    pub orders: Orders,
}

/// Where health is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// At the pods of both versions.
    Pods(PodMetrics),
    /// At a Prometheus-compatible API.
    Prometheus(PrometheusMetrics),
    /// Nowhere: readiness alone decides.
    None,
}

/// A Prometheus and what it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusMetrics {
    /// Its address.
    pub address: String,
    preset: PrometheusPreset,
    queries: BTreeMap<String, String>,
}

impl PrometheusMetrics {
    /// Whose names to ask for.
    pub fn preset(&self) -> Preset<'_> {
        match self.preset {
            PrometheusPreset::Traefik => Preset::Traefik,
            PrometheusPreset::Istio => Preset::Istio,
            PrometheusPreset::Envoy => Preset::Envoy,
            PrometheusPreset::Linkerd => Preset::Linkerd,
            PrometheusPreset::Custom => Preset::Custom(&self.queries),
        }
    }
}

impl Source {
    fn parse(spec: Option<&MetricsSpec>) -> Result<Self, SpecError> {
        let error = |field: &str, message: String| SpecError { field: format!("metrics.{field}"), message };
        match spec {
            Some(MetricsSpec { none: Some(_), .. }) => Ok(Self::None),
            Some(MetricsSpec { prometheus: Some(PrometheusSpec { address, preset, queries }), .. }) => {
                let source = PrometheusMetrics { address: address.clone(), preset: *preset, queries: queries.clone() };
                // Whether they can be asked shows with any names.
                let anybody = Backend { namespace: "x", service: "x", workload: "x", pods: "x", version: "x" };
                questions(source.preset(), anybody).map_err(|e: QuestionError| error("prometheus.queries", e.to_string()))?;
                Ok(Self::Prometheus(source))
            }
            Some(MetricsSpec { pods: Some(pods), .. }) => {
                let port = pods.port.map(|p| u16::try_from(p).map_err(|_| error("pods.port", "must be a port from 1 to 65535".into())));
                Ok(Self::Pods(PodMetrics { port: port.transpose()?, path: pods.path.clone() }))
            }
            _ => Ok(Self::Pods(PodMetrics::default())),
        }
    }
}

/// A ratio and how its author wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What it means.
    pub ratio: Ratio,
    /// What is shown.
    pub text: String,
}

impl Asked {
    fn parse(field: &str, text: &str) -> Result<Self, SpecError> {
        let ratio = text.parse().map_err(|e| SpecError { field: field.into(), message: format!("{e}") })?;
        Ok(Self { ratio, text: text.trim().to_owned() })
    }
}

impl From<Ratio> for Asked {
    fn from(ratio: Ratio) -> Self {
        Self { ratio, text: ratio.to_string() }
    }
}

/// A person's orders for the version being brought out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// Hold this ratio.
    pub routing: Option<Asked>,
    /// Steps up to this one may be taken.
    pub approved: Option<Asked>,
    /// Hold everything.
    pub paused: bool,
    /// How it shall end.
    pub outcome: Option<Outcome>,
    /// The version they were given for, where that is not `spec.version`: they are ignored, and it is said.
    pub for_other: Option<String>,
}

/// A field whose value the schema should have refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {message}")]
pub struct SpecError {
    /// Path below `spec`.
    pub field: String,
    /// What is wrong and what to write.
    pub message: String,
}

impl Wish {
    /// Parses a spec. The schema refuses what fails here; an object stored before a rule existed may still carry it.
    pub fn parse(spec: &RollingUpdateSpec) -> Result<Self, SpecError> {
        let error = |field: &str, message: &str| SpecError { field: field.into(), message: message.into() };
        let workload = spec.workload.clone().unwrap_or_default();
        let traffic = spec.traffic.clone().unwrap_or_default();
        let progression = spec.progression.clone().unwrap_or_default();
        let (_, name) = spec
            .artifact_base
            .split_once(':')
            .ok_or_else(|| error("artifactBase", "write group:name, for example org.example:my-slice"))?;
        let workload_name = workload.name.unwrap_or_else(|| name.to_owned());
        let steps = match &progression.steps {
            Some(steps) => steps.iter().map(|s| Asked::parse("progression.steps", s)).collect::<Result<Vec<_>, _>>()?,
            None => DEFAULT_STEPS.iter().map(|s| Asked::parse("progression.steps", s)).collect::<Result<Vec<_>, _>>()?,
        };
        if !steps.last().is_some_and(|s| s.ratio.is_all_new()) {
            return Err(error("progression.steps", "the last step must give the new version everything, for example 1:0"));
        }
        let first = Asked::from(Ratio::ALL_OLD);
        let mut pairs = std::iter::once(&first).chain(&steps).zip(&steps);
        if let Some((before, after)) = pairs.find(|(before, after)| !after.ratio.exceeds(before.ratio)) {
            let message =
                format!("each step must give the new version more than the one before; {} does not after {}", after.text, before.text);
            return Err(error("progression.steps", &message));
        }
        let (error_rate, latency) = match spec.thresholds.unwrap_or(Thresholds::Default) {
            Thresholds::Default => (0.01, 500),
            Thresholds::Strict => (0.001, 200),
            Thresholds::Relaxed => (0.05, 1000),
        };
        let max_error_rate = spec.max_error_rate.unwrap_or(error_rate);
        let min_requests = progression.min_requests.and_then(|n| u64::try_from(n).ok());
        Ok(Self {
            artifact_base: spec.artifact_base.clone(),
            version: spec.version.clone(),
            attempt: spec.attempt.unwrap_or(1),
            instances: spec.instances,
            service: traffic.service.unwrap_or_else(|| workload_name.clone()),
            workload: workload_name,
            container: workload.container,
            image: workload.image,
            mode: traffic.mode.unwrap_or(TrafficMode::Auto),
            routes: traffic.http_routes,
            settle: span("traffic.settle", traffic.settle.as_deref(), 10)?,
            drain: span("traffic.drain", traffic.drain.as_deref(), 30)?,
            steps,
            interval: span("progression.interval", progression.interval.as_deref(), 300)?,
            deploy_deadline: span("progression.deployDeadline", progression.deploy_deadline.as_deref(), 600)?,
            analysis_deadline: span("progression.analysisDeadline", progression.analysis_deadline.as_deref(), 1800)?,
            on_breach: progression.on_breach.unwrap_or(OnBreach::Pause),
            max_error_rate,
            max_latency_ms: spec.max_latency_ms.unwrap_or(latency),
            manual_approval: spec.require_manual_approval.unwrap_or_default(),
            cleanup: spec.cleanup_policy.unwrap_or(CleanupPolicy::GracePeriod),
            min_requests: min_requests.unwrap_or_else(|| default_min_requests(max_error_rate)),
            source: Source::parse(spec.metrics.as_ref())?,
            orders: orders(spec)?,
        })
    }

    /// What to go back by when the spec cannot be read: the recorded version, every default, and of the spec what says
    /// whether to go back.
    pub fn last_resort(spec: Option<&RollingUpdateSpec>, status: &RollingUpdateStatus) -> Self {
        let of_this = spec.filter(|s| status.new_version.as_ref() == Some(&s.version));
        let control = of_this.and_then(|s| s.control.as_ref().filter(|c| c.version == s.version));
        let on_breach = of_this.and_then(|s| s.progression.as_ref()?.on_breach);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let objects = status.objects.clone().unwrap_or_default();
        Self {
            artifact_base: text(&status.artifact_base),
            version: text(&status.new_version),
            attempt: status.attempt.unwrap_or(1),
            instances: None,
            workload: objects.workload,
            container: None,
            image: None,
            service: objects.service,
            mode: TrafficMode::Auto,
            routes: None,
            settle: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            steps: Vec::new(),
            interval: Duration::from_mins(5),
            deploy_deadline: Duration::from_mins(10),
            analysis_deadline: Duration::from_mins(30),
            on_breach: on_breach.unwrap_or(OnBreach::Pause),
            max_error_rate: 0.01,
            max_latency_ms: 500,
            manual_approval: false,
            cleanup: CleanupPolicy::GracePeriod,
            min_requests: default_min_requests(0.01),
            source: Source::None,
            orders: Orders {
                paused: control.and_then(|c| c.paused).unwrap_or_default(),
                outcome: control.and_then(|c| c.outcome),
                ..Orders::default()
            },
        }
    }

    /// What the new version may do.
    pub fn limits(&self) -> Limits {
        let limits = Limits::new(self.max_error_rate, f64::from(self.max_latency_ms));
        Limits { min_requests: self.min_requests, ..limits }
    }

    /// How long the old version keeps its pods after it got its last request.
    pub fn old_version_stays(&self) -> Duration {
        match self.cleanup {
            CleanupPolicy::GracePeriod => self.drain.max(GRACE_PERIOD),
            CleanupPolicy::Immediate | CleanupPolicy::Manual => self.drain,
        }
    }

    /// The step with that ratio, counted from 1; 0 where it is none.
    pub fn step_of(&self, ratio: Ratio) -> usize {
        self.steps.iter().position(|s| s.ratio == ratio).map_or(0, |i| i + 1)
    }
}

fn orders(spec: &RollingUpdateSpec) -> Result<Orders, SpecError> {
    let Some(control) = &spec.control else { return Ok(Orders::default()) };
    if control.version != spec.version {
        return Ok(Orders { for_other: Some(control.version.clone()), ..Orders::default() });
    }
    Ok(Orders {
        routing: control.routing.as_deref().map(|s| Asked::parse("control.routing", s)).transpose()?,
        approved: control.approved.as_deref().map(|s| Asked::parse("control.approved", s)).transpose()?,
        paused: control.paused.unwrap_or_default(),
        outcome: control.outcome,
        for_other: None,
    })
}

fn span(field: &str, text: Option<&str>, default_seconds: u64) -> Result<Duration, SpecError> {
    match text {
        None => Ok(Duration::from_secs(default_seconds)),
        Some(text) => duration::parse(text).map_err(|e| SpecError { field: field.into(), message: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn wish(spec: &Value) -> Result<Wish, SpecError> {
        let mut object = json!({"artifactBase": "x:web", "version": "2.0.0"});
        object.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        Wish::parse(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_pods_are_read_unless_another_source_is_named() {
        let source = |spec| wish(&spec).unwrap().source;
        assert_eq!(source(json!({})), Source::Pods(PodMetrics::default()));
        assert_eq!(source(json!({"metrics": {}})), Source::Pods(PodMetrics::default()));
        let pods = PodMetrics { port: Some(9090), path: Some("/m".into()) };
        assert_eq!(source(json!({"metrics": {"pods": {"port": 9090, "path": "/m"}}})), Source::Pods(pods));
        assert_eq!(source(json!({"metrics": {"none": {}}})), Source::None);
        let Source::Prometheus(found) = source(json!({"metrics": {"prometheus": {"address": "http://p:9090", "preset": "istio"}}})) else {
            panic!("another source")
        };
        assert_eq!(found.address, "http://p:9090");
        assert!(matches!(found.preset(), Preset::Istio));
    }

    #[rstest]
    #[case(json!({}), "named requests")]
    #[case(json!({"requests": "x[2m]", "latency": "y"}), "latency")]
    #[case(json!({"requests": "rate(x[5m])"}), "rate()")]
    #[case(json!({"requests": "x"}), "ends in a range")]
    #[case(json!({"requests": "x{s={{service}}}"}), "quoted")]
    fn queries_that_cannot_be_asked_are_told_with_the_way_out(#[case] queries: Value, #[case] wanted: &str) {
        let source = json!({"address": "http://p:9090", "preset": "custom", "queries": queries});
        let error = wish(&json!({"metrics": {"prometheus": source}})).unwrap_err();
        assert_eq!(error.field, "metrics.prometheus.queries");
        assert!(error.message.contains(wanted), "{error}");
    }

    #[rstest]
    #[case(json!(["1:9", "1:0"]), None)]
    #[case(json!(["1:1", "1:3", "1:0"]), Some("1:3 does not after 1:1"))]
    #[case(json!(["1:1", "2:2", "1:0"]), Some("2:2 does not after 1:1"))]
    #[case(json!(["0:1", "1:0"]), Some("0:1 does not after 0:1"))]
    #[case(json!(["1:1"]), Some("the last step must give the new version everything"))]
    fn steps_rise(#[case] steps: Value, #[case] wanted: Option<&str>) {
        let said = wish(&json!({"progression": {"steps": steps}})).err();
        assert_eq!(said.is_some(), wanted.is_some(), "{said:?}");
        assert!(said.is_none_or(|e| e.field == "progression.steps" && e.message.contains(wanted.unwrap())));
    }

    #[rstest]
    #[case(json!({}), (0.01, 500.0, 300))]
    #[case(json!({"thresholds": "Strict"}), (0.001, 200.0, 500))]
    #[case(json!({"thresholds": "Relaxed"}), (0.05, 1000.0, 60))]
    #[case(json!({"thresholds": "Relaxed", "maxErrorRate": 0.2}), (0.2, 1000.0, 50))]
    #[case(json!({"maxLatencyMs": 90, "progression": {"minRequests": 7}}), (0.01, 90.0, 7))]
    fn limits(#[case] spec: Value, #[case] (rate, latency, requests): (f64, f64, u64)) {
        let limits = Limits { max_error_rate: rate, max_latency_ms: latency, min_requests: requests, factor: 2.0 };
        assert_eq!(wish(&spec).unwrap().limits(), limits);
    }
}

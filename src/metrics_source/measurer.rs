//! The shell around [`super::measure`]: while this process leads, every update with traffic to judge is read in rounds.
//!
//! One task per update, so that a slow or dead target delays no other one. What came out is put into the index, and the
//! drive loop is told to look; nothing is decided and nothing is written here.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{State, Time};
use crate::cluster::SharedIndex;
use crate::cluster::facts::{Key, Update};
use crate::cluster::watch::News;
use crate::rollout::model::{Observation, Side};
use crate::rollout::observe::observe;
use crate::rollout::wish::{PrometheusMetrics, Source, Wish};
use crate::runtime::clock;
use crate::runtime::metrics::Metrics;

use super::measure::{Measuring, Reading, Release, Round, Unread, Version, limit_ms};
use super::prometheus;
use super::promql::{Backend, questions, regex_literal};
use super::recognise::{self, Recognised};
use super::scrape::Scraper;
use super::targets::{self, NoTarget, PodMetrics, Target};
use super::window::TargetId;

/// Time between two rounds at the pods.
pub const POD_ROUND: Duration = Duration::from_secs(5);
/// Time between two rounds at a Prometheus.
pub const PROMETHEUS_ROUND: Duration = Duration::from_secs(15);
/// What a Prometheus tells may be so old: a scrape interval of one minute and a half. Half of it counts as its interval.
const PROMETHEUS_AGE: Duration = Duration::from_secs(90);
/// How often it is looked which updates there are to measure.
const LOOK: Duration = Duration::from_secs(1);
/// Pods of one update that are read at the same time.
const AT_ONCE: usize = 32;

/// Measures; one for the process.
#[derive(Clone)]
pub struct Measurer {
    index: Arc<SharedIndex>,
    scraper: Scraper,
    news: mpsc::UnboundedSender<News>,
    metrics: Metrics,
    /// Time between two rounds at the pods.
    round: Duration,
}

impl Measurer {
    /// A measurer that puts what it finds into that index and says so there.
    pub fn new(index: Arc<SharedIndex>, scraper: Scraper, news: mpsc::UnboundedSender<News>, metrics: Metrics) -> Self {
        Self { index, scraper, news, metrics, round: POD_ROUND }
    }

    /// With other time between two rounds at the pods, for tests.
    #[must_use]
    pub fn every(self, round: Duration) -> Self {
        Self { round, ..self }
    }

    /// Measures whatever is to be measured, for ever. What another leader has counted meanwhile is in the statuses.
    pub async fn run(&self) {
        self.index.lock().forget_measured();
        let mut tasks = JoinSet::new();
        let mut running: HashMap<tokio::task::Id, Key> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    let busy: HashSet<&Key> = running.values().collect();
                    for key in self.wanted(&busy) {
                        let (measurer, of) = (self.clone(), key.clone());
                        let task = tasks.spawn(async move { measurer.measure(&of).await });
                        running.insert(task.id(), key);
                    }
                }
                Some(done) = tasks.join_next_with_id() => {
                    let task = done.as_ref().map_or_else(tokio::task::JoinError::id, |(task, ())| *task);
                    if let Err(error) = done {
                        tracing::error!(%error, "measuring failed");
                    }
                    running.remove(&task);
                }
            }
        }
    }

    /// Updates to measure that are not measured yet. Only those are looked at, since this is asked all the time.
    fn wanted(&self, busy: &HashSet<&Key>) -> Vec<Key> {
        let index = self.index.lock();
        let is_shifting = |u: &&Arc<Update>| matches!(u.state(), Some(State::Deployed | State::Routing));
        let has_source = |u: &&Arc<Update>| u.object.as_ref().is_ok_and(|o| o.spec.metrics.as_ref().is_none_or(|m| m.none.is_none()));
        let candidates = index.updates().filter(is_shifting).filter(has_source).map(|u| u.meta.key());
        candidates.filter(|key| !busy.contains(key) && look_at(&index, key).is_some()).collect()
    }

    /// Measures one update until it is not to be measured any more.
    async fn measure(&self, key: &Key) {
        let mut known: Option<(Release, Measuring)> = None;
        loop {
            let began = Instant::now();
            let Some((obs, wish)) = look_at(&self.index.lock(), key) else { break };
            let release = Release::of(&obs.meta, &obs.status, &obs.objects);
            if known.as_ref().is_none_or(|(of, _)| *of != release) {
                // When it was last measured is written with what was.
                let last = obs.status.health.as_ref().and_then(|h| Time::from_timestamp_millis(h.collected_at));
                known = Some((release.clone(), Measuring::new(obs.status.evidence.as_ref(), last, clock::now())));
            }
            let Some((_, measuring)) = &mut known else { break };
            let (source, readings, every, interval) = match &wish.source {
                Source::None => break,
                Source::Pods(spec) => ("pods", self.pods(&obs, spec).await, self.round, self.round),
                Source::Prometheus(source) => {
                    let readings = self.prometheus(&obs, source, measuring.is_seen()).await;
                    ("prometheus", readings, PROMETHEUS_ROUND, PROMETHEUS_AGE / 2)
                }
            };
            let took = began.elapsed();
            self.metrics.read_all(source, took);
            let mut measured = measuring.round(Round {
                now: clock::now(),
                step: obs.status.step.as_ref().map(|s| s.since),
                has_traffic: obs.has_traffic(),
                settle: wish.settle,
                limits: wish.limits(),
                limit_ms: limit_ms(wish.max_latency_ms),
                // What is read first is as old as the round is long: pods that do not answer must not make it look stale.
                interval: interval.max(took),
                readings,
            });
            measured.release = release;
            self.index.lock().measure(key.clone(), Arc::new(measured));
            // Nobody listens any more only while the process ends.
            let _ = self.news.send(News::Measured(key.clone()));
            tokio::time::sleep_until(began + jittered(every)).await;
        }
        self.index.lock().forget_measured_of(key);
    }

    async fn pods(&self, obs: &Observation, spec: &PodMetrics) -> Vec<Reading> {
        let (mut readings, mut targets) = (Vec::new(), Vec::new());
        for (version, side) in [(Version::New, &obs.new), (Version::Old, &obs.old)] {
            for pod in &side.pods {
                let name = format!("pod {}", pod.meta.name);
                let is_expected = pod.ready && !pod.meta.deleting;
                match targets::of_pod(pod, spec) {
                    Ok(target) => {
                        let run = target.process.map_or_else(String::new, |p| p.restarts.to_string());
                        let id = TargetId::container(&pod.meta.uid, target.port, &run);
                        let url = target.url.clone();
                        targets.push(((version, name, id, target), url));
                    }
                    Err(NoTarget::NoAddress) if !is_expected => {}
                    Err(why) => readings.push(Reading {
                        version,
                        name,
                        target: TargetId::container(&pod.meta.uid, 0, ""),
                        started: None,
                        expected: is_expected,
                        read: Err(Unread::NoTarget(why.to_string())),
                    }),
                }
            }
        }
        let read = |(.., target): &(_, _, _, Target), page: super::scrape::Page| {
            recognise::read_pod(&page.bytes, page.format, &target.uncounted, clock::now())
        };
        for ((version, name, id, target), page) in self.scraper.scrape_all(targets, AT_ONCE, read).await {
            let read = match page {
                Ok(read) => read.map_err(|e| ("unreadable", e.to_string())),
                Err(e) => Err((e.word(), e.to_string())),
            };
            self.metrics.read("pods", read.as_ref().map_or_else(|(word, _)| *word, |_| "ok"));
            let read = read.map_err(|(_, text)| Unread::Failed(text));
            let started = target.process.and_then(|p| p.started);
            readings.push(Reading { version, name, target: id, started, expected: target.expected, read });
        }
        // In an order of their own, so that the same pod is named from round to round.
        readings.sort_by(|a, b| a.name.cmp(&b.name));
        readings
    }

    async fn prometheus(&self, obs: &Observation, source: &PrometheusMetrics, is_seen: bool) -> Vec<Reading> {
        let new = self.ask(obs, source, Version::New);
        let old = self.ask(obs, source, Version::Old);
        let (new, old) = join(new, old).await;
        let (of_new, of_old) = (prometheus::newest(&new), prometheus::newest(&old));
        // At 0:1 many a proxy forgets the new version.
        let new = if is_seen && obs.has_traffic() { prometheus::still_there(new) } else { new };
        let reading = |version, read, other| {
            let read = prometheus::dated(read, other);
            Reading { version, name: String::new(), target: TargetId::prometheus(), started: None, expected: true, read }
        };
        vec![reading(Version::New, new, of_old), reading(Version::Old, old, of_new)]
    }

    async fn ask(&self, obs: &Observation, source: &PrometheusMetrics, version: Version) -> Result<Recognised, Unread> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (side, service, revision, tag) = match version {
            Version::New => (&obs.new, &obs.objects.new_revision, &obs.objects.new_revision, text(&obs.status.new_version)),
            Version::Old => (&obs.old, &obs.objects.old_service, &obs.objects.old_revision, text(&obs.status.old_version)),
        };
        let pods = pods_of(side, revision);
        let backend = Backend { namespace: &obs.meta.namespace, service, workload: revision, pods: &pods, version: &tag };
        let read = match questions(source.preset(), backend) {
            Ok(questions) => {
                let age = TimeDelta::from_std(PROMETHEUS_AGE).unwrap_or_default();
                self.scraper.ask(&source.address, &questions, clock::now(), age).await.map_err(|e| (e.word(), e.to_string()))
            }
            Err(e) => Err(("unreadable", e.to_string())),
        };
        self.metrics.read("prometheus", read.as_ref().map_or_else(|(word, _)| *word, |_| "ok"));
        read.map_err(|(_, text)| Unread::Failed(text))
    }
}

/// An update that is to be measured now, and what is wanted of it.
fn look_at(index: &crate::cluster::index::Index, key: &Key) -> Option<(Observation, Wish)> {
    let obs = observe(index, key)?;
    let wish = obs.wish.as_ref().ok()?.clone();
    let is_shifting = matches!(obs.status.state, State::Deployed | State::Routing);
    (is_shifting && !obs.meta.deleting && wish.source != Source::None).then_some((obs, wish))
}

/// A regular expression for the names of a version's pods.
fn pods_of(side: &Side, revision: &str) -> String {
    match &side.set {
        Some(set) => format!("{}-[a-z0-9]+", regex_literal(&set.meta.name)),
        None => format!("{}-[a-z0-9]+-[a-z0-9]+", regex_literal(revision)),
    }
}

/// A tenth less to a tenth more, so that updates that began together do not stay together.
fn jittered(every: Duration) -> Duration {
    let chance = std::hash::RandomState::new().hash_one(0_u8) % 201;
    let permille = 900 + u32::try_from(chance).unwrap_or(100);
    every * permille / 1000
}

//! The measurer against real HTTP servers, without a cluster: what pods show becomes evidence in the index.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether_operator::cluster::SharedIndex;
use aether_operator::cluster::facts::{Fact, Key, Kind};
use aether_operator::cluster::watch::News;
use aether_operator::metrics_source::measure::{Measured, Unread};
use aether_operator::metrics_source::measurer::Measurer;
use aether_operator::metrics_source::scrape::{Limits, Scraper};
use aether_operator::rollout::verdict::evidence::Kind as Failure;
use aether_operator::runtime::metrics::Metrics;
use axum::Router;
use axum::routing::get;
use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A fifth of a second and not five: a test waits for rounds.
const ROUND: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Counters {
    good: AtomicU64,
    failed: AtomicU64,
}

/// A pod's server: its counters, and where it listens.
async fn server() -> (Arc<Counters>, SocketAddr) {
    let counters = Arc::<Counters>::default();
    let of = counters.clone();
    let text = move || {
        let of = of.clone();
        async move {
            let (good, failed) = (of.good.load(Ordering::Relaxed), of.failed.load(Ordering::Relaxed));
            format!("http_requests_total{{code=\"200\"}} {good}\nhttp_requests_total{{code=\"503\"}} {failed}\n")
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/metrics", get(text))).await.unwrap() });
    (counters, address)
}

/// Accepts and never answers.
async fn stuck() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

struct World {
    index: Arc<SharedIndex>,
    heard: mpsc::UnboundedReceiver<News>,
    measuring: tokio::task::JoinHandle<()>,
    sender: mpsc::UnboundedSender<News>,
    version: u32,
}

impl Drop for World {
    fn drop(&mut self) {
        self.measuring.abort();
    }
}

impl World {
    fn new() -> Self {
        let (index, (sender, heard)) = (Arc::<SharedIndex>::default(), mpsc::unbounded_channel());
        let mut world = Self { index, heard, measuring: tokio::spawn(async {}), sender, version: 1 };
        world.start();
        world
    }

    /// Another process begins to lead.
    fn start(&mut self) {
        self.measuring.abort();
        let limits = Limits { connect: Duration::from_secs(1), total: Duration::from_secs(1), ..Limits::default() };
        let scraper = Scraper::new(limits).unwrap();
        let measurer = Measurer::new(self.index.clone(), scraper, self.sender.clone(), Metrics::default()).every(ROUND);
        self.measuring = tokio::spawn(async move { measurer.run().await });
    }

    fn put(&mut self, kind: Kind, name: &str, mut object: Value) {
        let (group, version, kind_name, _) = kind.gvk();
        self.version += 1;
        object["apiVersion"] = if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
        object["kind"] = kind_name.into();
        let meta = &mut object["metadata"];
        meta["name"] = name.into();
        meta["namespace"] = "shop".into();
        meta["uid"] = format!("{kind_name}-{name}").into();
        meta["resourceVersion"] = self.version.to_string().into();
        self.index.lock().apply(kind, Fact::read(kind, serde_json::from_value(object).unwrap()));
    }

    /// An update called `name` in the middle of a step, with one pod of each version, and what is recorded of it.
    fn update(&mut self, name: &str, new: SocketAddr, old: SocketAddr, routing: &str, recorded: &Value) {
        for (version, address) in [("2-0-0", new), ("1-0-0", old)] {
            let revision = format!("{name}-{version}");
            let labels = json!({"aether.dev/revision": revision});
            self.put(Kind::Deployment, &revision, json!({"metadata": {"labels": labels}, "spec": {"replicas": 1}}));
            let annotations = json!({"prometheus.io/port": address.port().to_string()});
            let status = json!({"podIP": address.ip().to_string(), "conditions": [{"type": "Ready", "status": "True"}]});
            self.put(Kind::Pod, &revision, json!({"metadata": {"labels": labels, "annotations": annotations}, "status": status}));
        }
        let objects = json!({
            "workload": name, "service": name, "oldRevision": format!("{name}-1-0-0"), "oldService": format!("{name}-1-0-0"),
            "newRevision": format!("{name}-2-0-0"),
        });
        let mut status = json!({
            "state": "ROUTING", "routing": routing, "oldVersion": "1.0.0", "newVersion": "2.0.0", "attempt": 1, "objects": objects,
            "step": {"index": 1, "of": 5, "since": "2020-01-01T00:00:00Z"},
        });
        for (field, value) in recorded.as_object().into_iter().flatten() {
            status[field] = value.clone();
        }
        let spec = json!({"artifactBase": format!("x:{name}"), "version": "2.0.0"});
        self.put(Kind::RollingUpdate, name, json!({"metadata": {}, "spec": spec, "status": status}));
    }

    /// Waits for a round of that update after which this is so.
    async fn until(&mut self, name: &str, wanted: impl Fn(&Measured) -> bool) -> Arc<Measured> {
        let key = Key::new("shop", name);
        let found = timeout(Duration::from_secs(20), async {
            loop {
                let Some(News::Measured(about)) = self.heard.recv().await else { panic!("only rounds are told here") };
                let measured = self.index.lock().measured(&key).filter(|_| about == key);
                if let Some(measured) = measured.filter(|m| wanted(m)) {
                    return measured;
                }
            }
        });
        let last = || self.index.lock().measured(&key);
        found.await.unwrap_or_else(|_| panic!("it came to {:#?}", last()))
    }
}

fn new_requests(measured: &Measured) -> (u64, u64) {
    let (new, _) = measured.evidence.whole(Failure::Errors);
    (new.of, new.bad)
}

#[tokio::test]
async fn what_pods_show_becomes_evidence_and_survives_a_restart() {
    let ((new, new_at), (old, old_at)) = (server().await, server().await);
    // What was before the step is nobody's.
    new.failed.store(1000, Ordering::Relaxed);
    let mut world = World::new();
    world.update("web", new_at, old_at, "1:9", &Value::Null);
    world.until("web", |m| m.is_counting).await;
    new.good.fetch_add(40, Ordering::Relaxed);
    new.failed.fetch_add(2, Ordering::Relaxed);
    old.good.fetch_add(100, Ordering::Relaxed);
    let measured = world.until("web", |m| new_requests(m) == (42, 2) && m.evidence.running().old.requests == 100).await;
    assert!(measured.problem.is_none() && measured.newest.is_some());

    // Figures of the other process are not judged before there are some of this one.
    let figures = |version: &str| json!({"version": version, "requestCount": 42, "errorRate": 0.0, "avgLatencyMs": 0.0});
    let mut recorded = json!({
        "evidence": measured.evidence,
        "health": {"updateId": "web", "oldVersion": figures("1.0.0"), "newVersion": figures("2.0.0"), "collectedAt": measured.at.timestamp_millis()},
    });
    world.update("web", new_at, old_at, "1:9", &recorded);
    world.start();
    let begun = world.until("web", |m| m.evidence.steps.len() == 2).await;
    assert!(!begun.is_counting && begun.newest.is_some(), "{begun:?}");
    world.until("web", |m| m.is_counting).await;
    new.good.fetch_add(8, Ordering::Relaxed);
    let measured = world.until("web", |m| new_requests(m).0 != 42).await;
    assert_eq!((new_requests(&measured), measured.evidence.running().new.requests), ((50, 2), 50));

    // Another one, half an hour and more after the last: the step goes on as another one.
    recorded["health"]["collectedAt"] = (measured.at - TimeDelta::minutes(31)).timestamp_millis().into();
    world.update("web", new_at, old_at, "1:9", &recorded);
    world.start();
    let measured = world.until("web", |m| m.is_counting).await;
    assert_eq!((new_requests(&measured), measured.evidence.running().new.requests), ((42, 2), 0));
}

#[tokio::test]
async fn old_pods_that_do_not_answer_leave_the_new_figures_fresh() {
    let (new, new_at) = server().await;
    let mut world = World::new();
    world.update("web", new_at, stuck().await, "1:9", &Value::Null);
    world.until("web", |m| m.is_counting).await;
    new.good.fetch_add(10, Ordering::Relaxed);
    let measured = world.until("web", |m| new_requests(m).0 == 10).await;
    assert_eq!(measured.old_problem.as_deref(), Some("pod web-1-0-0: timed out"));
    // The new version's pod was read at the beginning of a round as long as the old one's silence.
    let age = (measured.at - measured.newest.unwrap()).to_std().unwrap();
    assert!(age > 2 * ROUND, "{age:?}: nothing is shown by this");
    assert!(age <= measured.interval * 2, "{age:?} of {:?}", measured.interval);
}

#[tokio::test]
async fn a_stuck_pod_is_named_and_delays_no_other_update() {
    let ((new, new_at), (_, old_at)) = (server().await, server().await);
    let mut world = World::new();
    world.update("stuck", stuck().await, old_at, "1:9", &Value::Null);
    world.update("web", new_at, old_at, "1:9", &Value::Null);
    let begun = std::time::Instant::now();
    world.until("web", |m| m.is_counting).await;
    for n in 1..=5 {
        new.good.fetch_add(10, Ordering::Relaxed);
        world.until("web", |m| new_requests(m).0 == 10 * n).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let stuck = world.until("stuck", |m| m.problem.is_some()).await;
    assert_eq!(stuck.problem, Some(Unread::Failed("pod stuck-2-0-0: timed out".into())));
    assert_eq!(stuck.newest, None);
}

#[tokio::test]
async fn a_pod_nobody_listens_at_and_one_that_talks_nonsense_are_told_at_zero_already() {
    let (_, old_at) = server().await;
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nonsense = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nonsense_at = nonsense.local_addr().unwrap();
    let text = || async { "{\"not\": \"metrics\"}\n" };
    tokio::spawn(async move { axum::serve(nonsense, Router::new().route("/metrics", get(text))).await.unwrap() });
    let mut world = World::new();
    world.update("web", nowhere, old_at, "0:1", &Value::Null);
    world.update("desk", nonsense_at, old_at, "0:1", &Value::Null);
    let refused = world.until("web", |m| m.problem.is_some()).await;
    assert_eq!(refused.problem, Some(Unread::Failed("pod web-2-0-0: connection refused".into())));
    assert!(refused.evidence.steps.is_empty() && refused.newest.is_none());
    let garbled = world.until("desk", |m| m.problem.is_some()).await;
    assert!(matches!(&garbled.problem, Some(Unread::Failed(why)) if why.starts_with("pod desk-2-0-0: ")), "{garbled:?}");
}

#[tokio::test]
async fn nothing_is_measured_when_it_is_over_or_not_wanted() {
    let ((_, new_at), (_, old_at)) = (server().await, server().await);
    let mut world = World::new();
    world.update("web", new_at, old_at, "1:9", &Value::Null);
    world.until("web", |m| m.is_counting).await;
    let spec = json!({"artifactBase": "x:web", "version": "2.0.0", "metrics": {"none": {}}});
    world.put(Kind::RollingUpdate, "web", json!({"metadata": {}, "spec": spec, "status": {"state": "ROUTING"}}));
    for _ in 0..50 {
        if world.index.lock().measured(&Key::new("shop", "web")).is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("what was measured is still in the index");
}

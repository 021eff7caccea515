//! The resource metrics API, `metrics.k8s.io`: where autoscalers read the CPU of pods.
//!
//! A pod's CPU is what it works: the requests it answers, by its own count, times what one request costs in its
//! namespace, which tests set. So CPU moves from version to version as the traffic does, and falls when there are more pods.
//!
//! It is an aggregated API, as in any cluster: an `APIService` names a Service, here one of the type ExternalName. Of
//! such a Service the API server asks no endpoints (which could not be, because an endpoint may not be on the
//! loopback interface, and the bed has no other) and calls `https://<external name>:<port>` itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::bed::Bed;
use crate::tls::Listener;

const SERVICE: &str = "metrics-api";
const NAMESPACE: &str = "kube-system";
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4443);
/// Where applications show their count.
const APPLICATION_PORT: u16 = 8080;
/// How long requests are counted for one figure.
const WINDOW: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(1);

/// The running API. It ends when dropped; its objects stay in the cluster.
pub struct MetricsApi {
    books: Arc<Books>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl MetricsApi {
    /// Serves the API, tells the API server of it, and waits until it is to be had there.
    pub async fn start(bed: &Bed) -> anyhow::Result<Self> {
        let books = Arc::new(Books { client: bed.client(), costs: Mutex::default(), counts: Mutex::default(), asked: Mutex::default() });
        // The name by which the API server calls the Service.
        let listener = Listener::bind(ADDRESS, bed.pki(), &format!("{SERVICE}.{NAMESPACE}.svc")).await?;
        let routes = router(books.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!("the metrics API ended: {error}");
            }
        });
        let counting = tokio::spawn(count(books.clone()));
        let api = Self { books, _tasks: [serving, counting].map(AbortOnDropHandle::new) };
        register(bed).await?;
        Ok(api)
    }

    /// From now on a request costs every pod of the namespace that much CPU time.
    pub fn set_cost(&self, namespace: &str, request: Duration) {
        lock(&self.books.costs).insert(namespace.to_owned(), request);
    }

    /// The label selectors for which somebody has asked for the pods of a namespace.
    pub fn asked(&self, namespace: &str) -> BTreeSet<String> {
        lock(&self.books.asked).get(namespace).cloned().unwrap_or_default()
    }
}

struct Books {
    client: Client,
    /// CPU time of a request, by namespace; no others are looked at.
    costs: Mutex<BTreeMap<String, Duration>>,
    /// By namespace and name of the pod.
    counts: Mutex<HashMap<(String, String), Count>>,
    asked: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// What is known of a pod's requests.
#[derive(Debug)]
struct Count {
    at: Instant,
    answered: u64,
    /// The last full window: when it ended, how long it was, and the requests in it.
    window: Option<(DateTime<Utc>, Duration, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks all pods for their counts, again and again.
async fn count(books: Arc<Books>) {
    let mut ticks = interval(WINDOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let namespaces: Vec<String> = lock(&books.costs).keys().cloned().collect();
        for namespace in namespaces {
            let pods = Api::<Pod>::namespaced(books.client.clone(), &namespace).list(&ListParams::default()).await;
            join_all(pods.iter().flat_map(|list| &list.items).map(|pod| books.look_at(pod))).await;
        }
    }
}

impl Books {
    async fn look_at(&self, pod: &Pod) -> Option<()> {
        let key = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
        let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
        let answered = timeout(PATIENCE, answered(ip)).await.ok()?.ok()?;
        let at = Instant::now();
        let mut counts = lock(&self.counts);
        let window = counts.get(&key).map(|last| (Utc::now(), at - last.at, answered.saturating_sub(last.answered)));
        counts.insert(key, Count { at, answered, window });
        Some(())
    }

    /// A pod's metrics, once a whole window of it is known.
    fn metrics(&self, pod: &Pod) -> Option<Value> {
        let key = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
        let cost = *lock(&self.costs).get(&key.0)?;
        let (ended, took, requests) = lock(&self.counts).get(&key)?.window?;
        let worked = cost.saturating_mul(u32::try_from(requests).ok()?);
        let nanocores = worked.as_nanos() * Duration::from_secs(1).as_nanos() / took.as_nanos().max(1);
        Some(json!({
            "metadata": {"namespace": key.0, "name": key.1, "labels": pod.metadata.labels},
            "timestamp": ended.to_rfc3339_opts(SecondsFormat::Secs, true),
            "window": format!("{}s", WINDOW.as_secs()),
            "containers": [{
                "name": pod.spec.as_ref()?.containers.first()?.name,
                "usage": {"cpu": format!("{nanocores}n"), "memory": "16Mi"},
            }],
        }))
    }
}

/// The requests that a pod has answered.
async fn answered(ip: &str) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect((ip, APPLICATION_PORT)).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let counters = text.lines().filter(|line| line.starts_with("http_requests_total{"));
    Ok(counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

fn router(books: Arc<Books>) -> Router {
    let kinds = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
        "resources": [{"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]}],
    });
    Router::new()
        .route("/apis/metrics.k8s.io/v1beta1", get(|| async { Json(kinds) }))
        .route("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", get(pods))
        .with_state(books)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    label_selector: String,
}

async fn pods(
    State(books): State<Arc<Books>>,
    Path(namespace): Path<String>,
    Query(Asked { label_selector }): Query<Asked>,
) -> Result<Json<Value>, (StatusCode, String)> {
    lock(&books.asked).entry(namespace.clone()).or_default().insert(label_selector.clone());
    let pods = Api::<Pod>::namespaced(books.client.clone(), &namespace).list(&ListParams::default().labels(&label_selector)).await;
    let pods = pods.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let items: Vec<Value> = pods.items.iter().filter_map(|pod| books.metrics(pod)).collect();
    Ok(Json(json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})))
}

async fn register(bed: &Bed) -> anyhow::Result<()> {
    let authority = ByteString(std::fs::read(bed.ca_file())?);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": SERVICE},
        "spec": {"type": "ExternalName", "externalName": ADDRESS.ip()},
    });
    let name = "v1beta1.metrics.k8s.io";
    let api = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": NAMESPACE, "name": SERVICE, "port": ADDRESS.port()}, "caBundle": authority,
        },
    });
    for object in [service, api] {
        bed.apply(object).await?;
    }
    let available = ["wait", "--for=condition=Available", "--timeout=60s", &format!("apiservice/{name}")];
    bed.kubectl(&available).await.context("the API server does not reach the metrics API")?;
    Ok(())
}

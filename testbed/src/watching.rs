//! An update as a bystander sees it: every status it ever had, in order, from a watch of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// `RollingUpdates` of a namespace.
pub fn updates(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("aether.dev", "v1alpha1", "RollingUpdate");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, "rollingupdates"))
}

/// One status, when it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// By this watch's clock.
    pub at: DateTime<Utc>,
    /// The whole status.
    pub status: Value,
}

impl Seen {
    /// A text below `status`, or nothing.
    pub fn text(&self, path: &str) -> &str {
        self.status.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// `status.state`.
    pub fn state(&self) -> &str {
        self.text("/state")
    }

    /// State and, while it matters, ratio: `ROUTING 1:3`.
    pub fn place(&self) -> String {
        match self.state() {
            "ROUTING" => format!("ROUTING {}", self.text("/routing")),
            state => state.to_owned(),
        }
    }

    /// A condition's (status, reason, message).
    pub fn condition(&self, type_: &str) -> (String, String, String) {
        let all = self.status.pointer("/conditions").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|c| c.get("type").and_then(Value::as_str) == Some(type_));
        let field = |name: &str| found.and_then(|c| c.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned();
        (field("status"), field("reason"), field("message"))
    }
}

/// Watches the status of one object, mostly a `RollingUpdate`, until dropped.
#[derive(Debug)]
pub struct Watching {
    seen: Arc<(Mutex<Vec<Seen>>, Notify)>,
    _task: AbortOnDropHandle<()>,
}

impl Watching {
    /// Starts to watch a `RollingUpdate`; it need not be there yet.
    pub fn start(client: &Client, namespace: &str, name: &str) -> Self {
        Self::of(updates(client, namespace), name)
    }

    /// Starts to watch an object of any kind.
    pub fn of(api: Api<DynamicObject>, name: &str) -> Self {
        let seen: Arc<(Mutex<Vec<Seen>>, Notify)> = Arc::default();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let stream = watcher(api, config).default_backoff().applied_objects();
        let into = seen.clone();
        let task = tokio::spawn(async move {
            futures::pin_mut!(stream);
            while let Some(object) = stream.next().await {
                let Ok(object) = object else { continue };
                let status = object.data.get("status").cloned().unwrap_or_default();
                let mut list = into.0.lock().unwrap_or_else(PoisonError::into_inner);
                if list.last().is_none_or(|s| s.status != status) {
                    list.push(Seen { at: Utc::now(), status });
                    into.1.notify_waiters();
                }
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// Every status so far.
    pub fn all(&self) -> Vec<Seen> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest status.
    pub fn last(&self) -> Option<Seen> {
        self.all().pop()
    }

    /// The places it went through, each once in a row.
    pub fn places(&self) -> Vec<String> {
        let mut places: Vec<String> = self.all().iter().map(Seen::place).collect();
        places.dedup();
        places
    }

    /// Waits for a status like this; the error tells where it stands.
    pub async fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Seen) -> bool) -> anyhow::Result<Seen> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let news = self.seen.1.notified();
            if let Some(seen) = self.last().filter(&wanted) {
                return Ok(seen);
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                let last = self.last();
                let place = last.as_ref().map_or_else(|| "no status".to_owned(), Seen::place);
                let why = last.map(|s| s.condition("Ready").2).unwrap_or_default();
                bail!("no {what} within {limit:?}; it is at {place}: {why}; it went {:?}", self.places());
            }
        }
    }

    /// Waits for a state.
    pub async fn until_state(&self, state: &str, limit: Duration) -> anyhow::Result<Seen> {
        self.until(state, limit, |s| s.state() == state).await
    }
}

/// Watches the ready endpoints of a Service until dropped.
#[derive(Debug)]
pub struct WatchingEndpoints {
    seen: Arc<Mutex<Vec<BTreeSet<String>>>>,
    _task: AbortOnDropHandle<()>,
}

impl WatchingEndpoints {
    /// Starts to watch.
    pub fn start(client: &Client, namespace: &str, service: &str) -> Self {
        let seen: Arc<Mutex<Vec<BTreeSet<String>>>> = Arc::default();
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let stream = watcher(Api::<EndpointSlice>::namespaced(client.clone(), namespace), config).default_backoff().applied_objects();
        let into = seen.clone();
        let task = tokio::spawn(async move {
            futures::pin_mut!(stream);
            let mut slices = BTreeMap::new();
            while let Some(slice) = stream.next().await {
                let Ok(slice) = slice else { continue };
                slices.insert(slice.name_any(), ready_pods(&slice));
                let all = slices.values().flatten().cloned().collect();
                into.lock().unwrap_or_else(PoisonError::into_inner).push(all);
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// Every set of ready pods so far.
    pub fn all(&self) -> Vec<BTreeSet<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The smallest number of ready pods there ever was.
    pub fn least(&self) -> usize {
        self.all().iter().map(BTreeSet::len).min().unwrap_or_default()
    }
}

fn ready_pods(slice: &EndpointSlice) -> BTreeSet<String> {
    let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready != Some(false)));
    ready.filter_map(|e| e.target_ref.as_ref()?.name.clone()).collect()
}

/// One size of a Deployment, when it was seen.
pub type Size = (DateTime<Utc>, i32);

/// Watches how many pods the Deployments of a namespace are to have, until dropped.
#[derive(Debug)]
pub struct WatchingSizes {
    seen: Arc<Mutex<BTreeMap<String, Vec<Size>>>>,
    _task: AbortOnDropHandle<()>,
}

impl WatchingSizes {
    /// Starts to watch.
    pub fn start(client: &Client, namespace: &str) -> Self {
        let seen: Arc<Mutex<BTreeMap<String, Vec<Size>>>> = Arc::default();
        let api = Api::<Deployment>::namespaced(client.clone(), namespace);
        let stream = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
        let into = seen.clone();
        let task = tokio::spawn(async move {
            futures::pin_mut!(stream);
            while let Some(deployment) = stream.next().await {
                let Ok(deployment) = deployment else { continue };
                let size = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                let mut all = into.lock().unwrap_or_else(PoisonError::into_inner);
                let sizes = all.entry(deployment.name_any()).or_default();
                if sizes.last().is_none_or(|last| last.1 != size) {
                    sizes.push((Utc::now(), size));
                }
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// Every size of a Deployment so far, in order.
    pub fn of(&self, deployment: &str) -> Vec<Size> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(deployment).cloned().unwrap_or_default()
    }
}

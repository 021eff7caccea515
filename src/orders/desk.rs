//! The shell around [`updates`] and [`pools`]: reads, decides, writes, as whoever its client is. What was read is a
//! precondition of what is written; where somebody was faster it is looked at and decided again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::api::proxy_pool::RollingConfig;
use crate::api::rolling_update::CleanupPolicy;
use crate::api::{ProxyPool, RollingUpdate, names};
use crate::cluster::client::{CallError, bounded};
use crate::pool::keep::CONFIG;
use crate::pool::wish::Defaults;

use super::pools::{self, Eviction};
use super::updates::{self, Begin, Move, Order, Start};
use super::view::{PoolStatus, Update};
use super::{Class, Refusal};

/// Field manager of what people ask for.
const MANAGER: &str = "aether";
/// How often somebody else may be faster.
const TRIES: usize = 10;
/// Time for the operator to look at a pool that has changed.
const FORGETS: Duration = Duration::from_secs(1);
/// Pools whose addresses are read at once.
const POOLS_AT_ONCE: usize = 8;
/// Between two looks of who may not watch.
const LOOKS: Duration = Duration::from_secs(1);

/// Where people's orders are taken.
#[derive(Clone)]
pub struct Desk {
    client: Client,
    /// Namespace of the operator, where the rolling ConfigMap is.
    operator: String,
    /// What pools get that do not say, where no ConfigMap says it.
    defaults: Defaults,
}

/// How an order is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner<'a> {
    /// Whose order it is, where that is not whoever the client is.
    pub by: Option<&'a str>,
    /// Only check it.
    pub dry_run: bool,
}

impl Desk {
    /// Orders are written as whoever `client` is. `operator`: the operator's namespace.
    pub fn new(client: Client, operator: &str, defaults: Defaults) -> Self {
        Self { client, operator: operator.to_owned(), defaults }
    }

    /// Whoever needs more than orders.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Namespace of the operator.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Every RollingUpdate of a namespace, or of all.
    pub async fn updates(&self, namespace: Option<&str>) -> Result<Vec<RollingUpdate>, Refusal> {
        let api: Api<RollingUpdate> = namespace.map_or_else(|| Api::all(self.client.clone()), |n| Api::namespaced(self.client.clone(), n));
        let mut all = bounded(api.list(&ListParams::default())).await.map_err(|e| refusal(&e, "RollingUpdates"))?.items;
        all.sort_by_key(|u| (u.namespace(), u.name_any()));
        Ok(all)
    }

    /// The id that is meant: `current` is the one active update of the namespace.
    pub async fn resolve(&self, namespace: &str, id: &str) -> Result<String, Refusal> {
        if id != "current" {
            return Ok(id.to_owned());
        }
        let active: Vec<String> =
            self.updates(Some(namespace)).await?.iter().map(Update::of).filter(Update::is_active).map(|u| u.update_id).collect();
        match &*active {
            [one] => Ok(one.clone()),
            [] => Err(Refusal::not_found(format!("no update is active in namespace {namespace}"))),
            several => Err(Refusal::conflict(format!("current is not clear in namespace {namespace}: {} are active", several.join(", ")))),
        }
    }

    /// The update of that id; not `current`.
    pub async fn update(&self, namespace: &str, id: &str) -> Result<RollingUpdate, Refusal> {
        if !is_name(id) {
            return Err(Refusal::not_found(format!("there is no update {id:.80?}: an id is the name of a RollingUpdate")));
        }
        let what = format!("update {id} in namespace {namespace}");
        bounded(self.updates_in(namespace).get(id)).await.map_err(|e| refusal(&e, &what))
    }

    /// Starts an update: creates its object, or moves the one that is there to the version.
    pub async fn start(&self, namespace: &str, start: &Start, supersede: bool, manner: Manner<'_>) -> Result<RollingUpdate, Refusal> {
        self.start_where(namespace, start, supersede, manner, &|_, _| std::future::ready(Ok(())).boxed()).await
    }

    /// As [`Desk::start`]; one that is there, by name, is moved only where `may_move` agrees to each verb that takes.
    pub async fn start_where(
        &self,
        namespace: &str,
        start: &Start,
        supersede: bool,
        manner: Manner<'_>,
        may_move: &(dyn Fn(String, &'static str) -> BoxFuture<'static, Result<(), Refusal>> + Send + Sync),
    ) -> Result<RollingUpdate, Refusal> {
        let api = self.updates_in(namespace);
        for _ in 0..TRIES {
            let there = self.updates(Some(namespace)).await?;
            let workload = updates::workload(start, &there)?;
            let begin = updates::start(start, &there, supersede)?;
            self.has_workload(namespace, workload).await?;
            let what = format!("RollingUpdate for {}", start.artifact_base);
            let written = match begin {
                Begin::Create(mut object) => {
                    if let Some(by) = manner.by {
                        object.annotations_mut().insert(names::ORDERED_BY.into(), by.into());
                    }
                    let params = PostParams { dry_run: manner.dry_run, field_manager: Some(MANAGER.into()) };
                    bounded(api.create(&params, &object)).await
                }
                Begin::Move(Move { name, patch, verbs, is_anew }) => {
                    let Some(read) = there.iter().find(|u| u.name_any() == name) else { continue };
                    for verb in verbs {
                        may_move(name.clone(), verb).await?;
                    }
                    // Whoever changes limits has ordered nothing.
                    self.write(read, patch, Manner { by: manner.by.filter(|_| is_anew), ..manner }).await
                }
            };
            match written {
                Err(e) if e.code() == Some(409) => {}
                other => return other.map_err(|e| refusal(&e, &what)),
            }
        }
        Err(overtaken())
    }

    /// Gives an order about the update of that id; not `current`.
    pub async fn order(&self, namespace: &str, id: &str, order: &Order, manner: Manner<'_>) -> Result<RollingUpdate, Refusal> {
        let what = format!("update {id} in namespace {namespace}");
        for _ in 0..TRIES {
            let update = self.update(namespace, id).await?;
            let Some(patch) = updates::order(&update, order)? else { return Ok(update) };
            match self.write(&update, patch, manner).await {
                Err(e) if e.code() == Some(409) => {}
                other => return other.map_err(|e| refusal(&e, &what)),
            }
        }
        Err(overtaken())
    }

    /// Has the operator remove an old version that a cleanup policy keeps: the policy becomes IMMEDIATE, for as long as nobody
    /// sets another one.
    pub async fn end_keeping(&self, update: &RollingUpdate, manner: Manner<'_>) -> Result<RollingUpdate, Refusal> {
        let patch = json!({"spec": {"cleanupPolicy": CleanupPolicy::Immediate}});
        self.write(update, patch, manner).await.map_err(|e| refusal(&e, &format!("update {}", update.name_any())))
    }

    /// The update as it is and as it changes; `None` once it is gone. Whoever may get it and not watch it is told every second.
    /// What is Unavailable is tried again; any other refusal is the last.
    pub fn changes(&self, namespace: &str, id: &str) -> impl Stream<Item = Result<Option<RollingUpdate>, Refusal>> + use<> {
        let watched = watcher::watch_object(self.updates_in(namespace), id).default_backoff().map_err(|error| of_watch(&error));
        let may_watch = |told: &Result<_, Refusal>| std::future::ready(!matches!(told, Err(r) if r.class == Class::Forbidden));
        let (api, id) = (self.updates_in(namespace), id.to_owned());
        let looked = stream::unfold(true, move |goes_on| {
            let (api, id) = (api.clone(), id.clone());
            async move {
                if !goes_on {
                    return None;
                }
                tokio::time::sleep(LOOKS).await;
                let told = bounded(api.get_opt(&id)).await.map_err(|e| refusal(&e, &id));
                let goes_on = !matches!(&told, Err(r) if r.class != Class::Unavailable);
                Some((told, goes_on))
            }
        });
        watched.take_while(may_watch).chain(looked)
    }

    /// Waits until an update is as wanted, or that long; answers as it is then.
    pub async fn wait(
        &self,
        update: RollingUpdate,
        limit: Duration,
        is_there: impl Fn(&RollingUpdate) -> bool,
    ) -> Result<RollingUpdate, Refusal> {
        let (namespace, id, uid) = (update.namespace().unwrap_or_default(), update.name_any(), update.uid());
        let generation = update.metadata.generation;
        let mut last = update;
        let follow = async {
            let mut changes = std::pin::pin!(self.changes(&namespace, &id));
            while let Some(told) = changes.next().await {
                match told {
                    Ok(Some(update)) if update.uid() == uid => last = update,
                    Ok(_) => return Err(Refusal::not_found(format!("update {id} was deleted"))),
                    Err(refusal) if refusal.class == Class::Unavailable => continue,
                    Err(refusal) => return Err(refusal),
                }
                // The first that is told may be older than what was written.
                if last.metadata.generation >= generation && is_there(&last) {
                    break;
                }
            }
            Ok(())
        };
        match tokio::time::timeout(limit, follow).await {
            Ok(Err(gone)) => Err(gone),
            Ok(Ok(())) | Err(_) => Ok(last),
        }
    }

    /// Every pool of a namespace, or of all.
    pub async fn pools(&self, namespace: Option<&str>) -> Result<Vec<ProxyPool>, Refusal> {
        let api: Api<ProxyPool> = namespace.map_or_else(|| Api::all(self.client.clone()), |n| Api::namespaced(self.client.clone(), n));
        let mut all = bounded(api.list(&ListParams::default())).await.map_err(|e| refusal(&e, "ProxyPools"))?.items;
        all.sort_by_key(|p| (p.namespace(), p.name_any()));
        Ok(all)
    }

    /// Address and port of every healthy proxy of a pool: as published, else as far as the status shows them (500).
    pub async fn healthy(&self, pool: &ProxyPool) -> Result<Vec<(IpAddr, u16)>, Refusal> {
        let configured = pools::port(pool);
        let shown = || {
            let ips = pool.status.iter().flat_map(|s| &s.healthy_ips);
            ips.filter_map(|ip| Some((ip.parse().ok()?, configured))).collect::<Vec<_>>()
        };
        if pool.spec.publish.as_ref().is_some_and(|p| p.service == Some(false)) {
            return Ok(shown());
        }
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &pool.namespace().unwrap_or_default());
        let ours = ListParams::default().labels(&format!("{}={}", names::POOL, pool.name_any()));
        let slices = match bounded(api.list(&ours)).await {
            Ok(slices) => slices.items,
            // Whoever may read the pool may know what its status shows.
            Err(e) if e.code() == Some(403) => return Ok(shown()),
            Err(e) => return Err(refusal(&e, "EndpointSlices")),
        };
        let mut all: Vec<(IpAddr, u16)> = Vec::new();
        for slice in slices.iter().filter(|s| s.owner_references().iter().any(|o| Some(&o.uid) == pool.uid().as_ref())) {
            let port = slice.ports.iter().flatten().find_map(|p| u16::try_from(p.port?).ok()).unwrap_or(configured);
            let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
            all.extend(addresses.filter_map(|a| Some((a.parse().ok()?, port))));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Pools with their healthy proxies, in the same order.
    pub async fn with_healthy(&self, pools: Vec<ProxyPool>) -> Result<Vec<(ProxyPool, Vec<(IpAddr, u16)>)>, Refusal> {
        let reads = pools.into_iter().map(|pool| async move {
            let healthy = self.healthy(&pool).await?;
            Ok((pool, healthy))
        });
        stream::iter(reads).buffered(POOLS_AT_ONCE).try_collect().await
    }

    /// How these pools are, by their documented names.
    pub async fn statuses(&self, pools: Vec<ProxyPool>) -> Result<BTreeMap<String, PoolStatus>, Refusal> {
        let read = self.with_healthy(pools).await?;
        let status = |(pool, healthy): &(ProxyPool, Vec<(IpAddr, u16)>)| {
            let addresses = healthy.iter().map(|(ip, _)| ip.to_string()).collect();
            (pools::name(pool), PoolStatus::of(pool, addresses))
        };
        Ok(read.iter().map(status).collect())
    }

    /// The operator-wide rolling configuration.
    pub async fn config(&self) -> Result<RollingConfig, Refusal> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.operator);
        let found = bounded(api.get_opt(CONFIG)).await.map_err(|e| refusal(&e, &format!("ConfigMap {CONFIG}")))?;
        Ok(pools::config(&self.defaults.overlaid(&found.and_then(|c| c.data).unwrap_or_default())))
    }

    /// Changes the operator-wide rolling configuration, and says what it is now.
    pub async fn configure(&self, patch: pools::RollingPatch, manner: Manner<'_>) -> Result<RollingConfig, Refusal> {
        let config = pools::configure(self.config().await?, patch)?;
        let data: BTreeMap<&str, String> = BTreeMap::from([
            ("enabled", config.enabled.to_string()),
            ("min_available", config.min_available.to_string()),
            ("batch_size", config.batch_size.to_string()),
        ]);
        let annotations = manner.by.map(|by| json!({names::ORDERED_BY: by}));
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": CONFIG, "namespace": self.operator, "annotations": annotations},
        });
        let params = PatchParams { dry_run: manner.dry_run, force: true, field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.operator);
        bounded(api.patch(CONFIG, &params, &Patch::Apply(&object))).await.map_err(|e| refusal(&e, &format!("ConfigMap {CONFIG}")))?;
        Ok(config)
    }

    /// The pool that has a proxy of that address, among these.
    pub async fn pool_with(&self, pools: Vec<ProxyPool>, address: IpAddr) -> Result<ProxyPool, Refusal> {
        for pool in pools {
            if pools::has(&pool, address) || self.healthy(&pool).await?.iter().any(|(ip, _)| *ip == address) {
                return Ok(pool);
            }
        }
        Err(Refusal::not_found(format!("no proxy has the address {address}")))
    }

    /// Has the proxy of that address replaced at once, floor and batch or not.
    pub async fn evict(&self, pool: &ProxyPool, address: IpAddr, manner: Manner<'_>) -> Result<(), Refusal> {
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let api = Api::<ProxyPool>::namespaced(self.client.clone(), &namespace);
        let what = format!("pool {name} in namespace {namespace}");
        let mut read = pool.clone();
        let mut tries = 0;
        loop {
            let (patch, is_asked) = match pools::evict(&read, address) {
                Eviction::Asked => return Ok(()),
                Eviction::Forget(patch) => (patch, false),
                Eviction::Ask(patch) => (patch, true),
            };
            match bounded(api.patch(
                &name,
                &params(manner),
                &Patch::Merge(guarded(patch, read.metadata.resource_version.as_deref(), manner)),
            ))
            .await
            {
                Ok(_) if is_asked || manner.dry_run => return Ok(()),
                // The operator has to see that the old entry is gone.
                Ok(_) => tokio::time::sleep(FORGETS).await,
                Err(e) if e.code() == Some(409) => {}
                Err(e) => return Err(refusal(&e, &what)),
            }
            tries += 1;
            if tries > TRIES {
                return Err(overtaken());
            }
            read = bounded(api.get(&name)).await.map_err(|e| refusal(&e, &what))?;
        }
    }

    fn updates_in(&self, namespace: &str) -> Api<RollingUpdate> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn write(&self, read: &RollingUpdate, patch: Value, manner: Manner<'_>) -> Result<RollingUpdate, CallError> {
        let api = self.updates_in(&read.namespace().unwrap_or_default());
        let patch = guarded(patch, read.metadata.resource_version.as_deref(), manner);
        bounded(api.patch(&read.name_any(), &params(manner), &Patch::Merge(patch))).await
    }

    /// Who may not look is not told that it is missing.
    async fn has_workload(&self, namespace: &str, name: &str) -> Result<(), Refusal> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        match bounded(api.get_metadata(name)).await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some(403) => Ok(()),
            Err(e) if e.code() == Some(404) => Err(Refusal::not_found(format!(
                "workload not found: there is no Deployment {name} in namespace {namespace}; create it first, or name another one in a RollingUpdate's spec.workload"
            ))),
            Err(e) => Err(refusal(&e, &format!("Deployment {name}"))),
        }
    }
}

fn of_watch(error: &watcher::Error) -> Refusal {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let (class, message) = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => match status.code {
            401 => (Class::Unauthenticated, status.message.clone()),
            403 => (Class::Forbidden, status.message.clone()),
            _ => (Class::Unavailable, status.message.clone()),
        },
        other => (Class::Unavailable, deepest(other)),
    };
    Refusal { class, message }
}

fn params(manner: Manner<'_>) -> PatchParams {
    PatchParams { dry_run: manner.dry_run, field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

fn guarded(mut patch: Value, version: Option<&str>, manner: Manner<'_>) -> Value {
    let mut metadata = json!({"resourceVersion": version});
    if let Some(by) = manner.by {
        json_patch::merge(&mut metadata, &json!({"annotations": {names::ORDERED_BY: by}}));
    }
    json_patch::merge(&mut patch, &json!({"metadata": metadata}));
    patch
}

/// Names of namespaces: nothing else gets into a request's path.
pub fn is_namespace(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') && !text.ends_with('-')
}

/// Names of objects: nothing else gets into a request's path.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(fits)
}

fn overtaken() -> Refusal {
    Refusal { class: Class::Unavailable, message: format!("it was changed by somebody else {TRIES} times in a row; try again") }
}

/// What the API server said, for whoever asked.
pub fn refusal(error: &CallError, what: &str) -> Refusal {
    let said = error.message();
    let (class, message) = match error.code() {
        Some(401) => (Class::Unauthenticated, format!("the API server does not know these credentials: {said}")),
        Some(403) => (Class::Forbidden, said),
        Some(404) if said.contains("page not found") => {
            (Class::NotFound, "Aether's definitions are not installed in this cluster; apply them first".to_owned())
        }
        Some(404) => (Class::NotFound, format!("{what} not found")),
        Some(409) => (Class::Conflict, said),
        Some(400 | 422) => (Class::Invalid, fields(error).unwrap_or(said)),
        Some(_) => (Class::Unavailable, format!("the API server does not take it now: {said}")),
        None => (Class::Unavailable, format!("the API server cannot be reached: {}", deepest(error))),
    };
    Refusal { class, message }
}

/// `field: what is wrong`, for each field that the API server refuses, as orders name it.
fn fields(error: &CallError) -> Option<String> {
    let CallError::Api(kube::Error::Api(status)) = error else { return None };
    let causes = status.details.iter().flat_map(|d| &d.causes).filter(|c| !c.field.is_empty());
    let said = causes.map(|c| {
        // `Invalid value: "x": what is wrong`.
        let message = c.message.rsplit_once(": ").filter(|_| c.message.starts_with("Invalid value")).map_or(&*c.message, |(_, m)| m);
        format!("{}: {message}", c.field.strip_prefix("spec.").unwrap_or(&c.field))
    });
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// The cause of causes: the sentence that says what went wrong.
fn deepest(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), deepest)
}

//! ProxyPools and what belongs to them in the cluster: read, written and published, each call bounded and by the leader only.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;

use crate::api::{ProxyPool, ProxyPoolStatus, names};
use crate::cloud::{account, kubernetes};
use crate::pool::publication::Publication;
use crate::runtime::lease::Leadership;

use super::client::{CallError, bounded};
use super::facts::{Key, Meta};
use super::patch;

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Somebody else is the leader, or may be.
    #[error("not the leader any more")]
    NotLeader,
    /// Somebody else's object has the name.
    #[error("a {0} {1} is there that does not belong to the pool; delete it, or turn spec.publish off")]
    NotOurs(&'static str, String),
    /// The API server did not take it.
    #[error("{}", .0.message())]
    Call(#[from] CallError),
}

/// The pools as watched.
#[derive(Clone)]
pub struct Known {
    store: Store<ProxyPool>,
    listed: watch::Receiver<bool>,
}

impl Known {
    /// Waits until all that are there are known, however many wait. kube's own `wait_until_ready` wakes only the last one of them.
    /// False: the watch has ended.
    pub async fn is_complete(&self) -> bool {
        self.listed.clone().wait_for(|listed| *listed).await.is_ok()
    }

    /// The pool of that name.
    pub fn find(&self, key: &Key) -> Option<ProxyPool> {
        self.store.get(&ObjectRef::new(&key.name).within(&key.namespace)).map(|pool| (*pool).clone())
    }
}

/// What a watch tells: the pools, and the keys of those that it has told of.
fn known(events: impl Stream<Item = watcher::Result<Event<ProxyPool>>>) -> (Known, impl Stream<Item = Key>) {
    let (store, writer) = reflector::store();
    let (tell, listed) = watch::channel(false);
    let stored = events.reflect(writer).inspect_ok(move |event| {
        if matches!(event, Event::InitDone) {
            tell.send_replace(true);
        }
    });
    let keys = stored.touched_objects().filter_map(async |pool| match pool {
        Ok(pool) => Some(Key::new(pool.namespace().unwrap_or_default(), pool.name_any())),
        Err(error) => {
            tracing::warn!(%error, "the watch of ProxyPools is interrupted");
            None
        }
    });
    (Known { store, listed }, keys)
}

/// The way to pools.
#[derive(Clone)]
pub struct Pools {
    client: Client,
    leadership: Leadership,
    namespace: Option<String>,
}

impl PoolError {
    /// The HTTP code of the API server's answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Call(error) => error.code(),
            Self::NotLeader | Self::NotOurs(..) => None,
        }
    }

    /// Trying again does not help until a person does something.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::NotOurs(..)) || matches!(self.code(), Some(403 | 404 | 422))
    }
}

impl Pools {
    /// Writes only while `leadership` is held. Pools of `namespace`, or of all.
    pub fn new(client: Client, leadership: Leadership, namespace: Option<String>) -> Self {
        Self { client, leadership, namespace }
    }

    /// Whether this process may act, to be asked right before it does.
    pub fn leads(&self) -> bool {
        self.leadership.is_held()
    }

    /// All pools as they come and change, and a store that is always as new as the stream.
    pub fn watch(&self) -> (Known, impl Stream<Item = Key> + use<>) {
        let client = self.client.clone();
        let pools = match &self.namespace {
            Some(name) => Api::<ProxyPool>::namespaced(client, name),
            None => Api::all(client),
        };
        let stream = watcher(pools, watcher::Config::default());
        known(stream.default_backoff())
    }

    /// A Secret's keys and values, read live: a rotation counts from the next look on.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<account::Secret>, CallError> {
        let secret = bounded(Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name)).await?;
        Ok(secret.map(|s| s.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()))
    }

    /// A ConfigMap's keys and values.
    pub async fn config(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>, CallError> {
        let map = bounded(Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name)).await?;
        Ok(map.map(|m| m.data.unwrap_or_default()))
    }

    /// Replaces the status, if nobody has written the pool since it was looked at.
    pub async fn status(&self, meta: &Meta, status: &ProxyPoolStatus) -> Result<ProxyPool, PoolError> {
        let ops = vec![patch::only_at(meta), patch::add("/status", json!(status))];
        self.may_write()?;
        let patch = Patch::Json::<()>(json_patch::Patch(ops));
        Ok(bounded(self.pools(meta).patch_subresource("status", &meta.name, &params(), &patch)).await?)
    }

    /// Puts the finalizer on the pool, or takes it away, if nobody has written the pool since it was looked at.
    pub async fn hold(&self, meta: &Meta, hold: bool) -> Result<ProxyPool, PoolError> {
        let others = meta.finalizers.iter().map(String::as_str).filter(|f| *f != names::POOL_FINALIZER);
        let finalizers: Vec<&str> = others.chain(hold.then_some(names::POOL_FINALIZER)).collect();
        let ops = vec![patch::only_at(meta), patch::add("/metadata/finalizers", json!(finalizers))];
        self.may_write()?;
        Ok(bounded(self.pools(meta).patch(&meta.name, &params(), &Patch::Json::<()>(json_patch::Patch(ops)))).await?)
    }

    /// Lets pods that are the pool's proxies outlive it.
    pub async fn let_go(&self, meta: &Meta) -> Result<(), PoolError> {
        self.may_write()?;
        Ok(kubernetes::let_go(&self.client, &meta.namespace, &meta.uid).await?)
    }

    /// Makes the published addresses these, or takes what was published away.
    pub async fn publish(&self, meta: &Meta, publication: &Publication, [service, secret]: [bool; 2]) -> Result<(), PoolError> {
        let served = if service { self.publish_service(meta, publication).await } else { self.withdraw_service(meta).await };
        let urls = publication.secret(meta);
        // Each is told whatever became of the other.
        let told = if secret { self.apply("Secret", meta, &urls).await } else { self.remove::<Secret>(meta, &urls.name_any()).await };
        served.and(told)
    }

    /// Takes everything away that was published.
    pub async fn withdraw(&self, meta: &Meta) -> Result<(), PoolError> {
        let served = self.withdraw_service(meta).await;
        served.and(self.remove::<Secret>(meta, &format!("{}-proxies", meta.name)).await)
    }

    async fn publish_service(&self, meta: &Meta, publication: &Publication) -> Result<(), PoolError> {
        if let Err(error) = self.apply("Service", meta, &publication.service(meta)).await {
            // Slices of ours would be another's Service's.
            self.remove_other_slices(meta, &[]).await?;
            return Err(error);
        }
        let slices = publication.slices(meta);
        for slice in &slices {
            self.apply("EndpointSlice", meta, slice).await?;
        }
        self.remove_other_slices(meta, &slices).await
    }

    async fn withdraw_service(&self, meta: &Meta) -> Result<(), PoolError> {
        self.remove_other_slices(meta, &[]).await?;
        self.remove::<Service>(meta, &meta.name).await
    }

    fn pools(&self, meta: &Meta) -> Api<ProxyPool> {
        Api::namespaced(self.client.clone(), &meta.namespace)
    }

    fn may_write(&self) -> Result<(), PoolError> {
        if self.leads() { Ok(()) } else { Err(PoolError::NotLeader) }
    }

    /// Applies an object of the pool's own, unless it is there as wanted or another's.
    async fn apply<K>(&self, kind: &'static str, pool: &Meta, object: &K) -> Result<(), PoolError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &pool.namespace);
        let there = bounded(api.get_opt(&object.name_any())).await?;
        if there.as_ref().is_some_and(|o| !is_of(o, pool)) {
            return Err(PoolError::NotOurs(kind, object.name_any()));
        }
        if there.is_some_and(|o| holds(&json!(o), &json!(object))) {
            return Ok(());
        }
        self.may_write()?;
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        bounded(api.patch(&object.name_any(), &params, &Patch::Apply(object))).await?;
        Ok(())
    }

    async fn remove<K>(&self, pool: &Meta, name: &str) -> Result<(), PoolError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &pool.namespace);
        let Some(there) = bounded(api.get_opt(name)).await?.filter(|o| is_of(o, pool)) else { return Ok(()) };
        self.may_write()?;
        let exactly = kube::api::Preconditions { uid: there.uid(), resource_version: None };
        bounded(api.delete(name, &DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() })).await?;
        Ok(())
    }

    async fn remove_other_slices(&self, pool: &Meta, wanted: &[EndpointSlice]) -> Result<(), PoolError> {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &pool.namespace);
        let ours = ListParams::default().labels(&format!("{}={}", names::POOL, pool.name));
        for slice in bounded(api.list(&ours)).await? {
            if !wanted.iter().any(|w| w.name_any() == slice.name_any()) {
                self.remove::<EndpointSlice>(pool, &slice.name_any()).await?;
            }
        }
        Ok(())
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() }
}

fn is_of<K: Resource>(object: &K, pool: &Meta) -> bool {
    object.meta().owner_references.iter().flatten().any(|o| o.uid == pool.uid)
}

/// All that is wanted is there; what the API server adds does not count, a list must be the same.
fn holds(there: &serde_json::Value, wanted: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Null, Object};
    match (there, wanted) {
        (Object(there), Object(wanted)) => wanted.iter().all(|(key, value)| holds(there.get(key).unwrap_or(&Null), value)),
        (Array(there), Array(wanted)) => there.len() == wanted.len() && there.iter().zip(wanted).all(|(a, b)| holds(a, b)),
        // An empty list is left out by the API server.
        (Null, Array(wanted)) => wanted.is_empty(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> ProxyPool {
        let spec = json!({"minScaling": 1, "kubernetes": {"image": "x"}, "proxy": {"allowFrom": ["192.0.2.0/24"]}});
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[tokio::test]
    async fn all_that_wait_for_the_first_list_are_woken() {
        let names = ["a", "b", "c", "d"];
        let (send, events) = futures::channel::mpsc::unbounded();
        let (known, keys) = known(events);
        let mut keys = std::pin::pin!(keys);
        send.unbounded_send(Ok(Event::Init)).unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for name in names {
            send.unbounded_send(Ok(Event::InitApply(pool(name)))).unwrap();
            let (key, known) = (keys.next().await.unwrap(), known.clone());
            assert!(known.find(&key).is_none());
            waiting.spawn(async move { known.is_complete().await.then(|| known.find(&key).map(|p| p.name_any())) });
        }
        // Each waits by now.
        tokio::task::yield_now().await;
        send.unbounded_send(Ok(Event::InitDone)).unwrap();
        send.unbounded_send(Ok(Event::Apply(pool("e")))).unwrap();
        keys.next().await.unwrap();
        let limit = std::time::Duration::from_secs(20);
        let mut found = tokio::time::timeout(limit, waiting.join_all()).await.expect("not all are woken");
        found.sort();
        assert_eq!(found, names.map(|name| Some(Some(name.to_owned()))));
    }

    #[test]
    fn defaults_of_the_server_are_no_difference() {
        let wanted = json!({"ports": [{"port": 1}], "endpoints": []});
        assert!(holds(&json!({"ports": [{"port": 1, "protocol": "TCP"}], "type": "x"}), &wanted));
        assert!(!holds(&json!({"ports": [{"port": 2}]}), &wanted));
        assert!(!holds(&json!({"ports": [{"port": 1}, {"port": 2}]}), &wanted));
        assert!(!holds(&json!({"ports": [{"port": 1}], "endpoints": [{}]}), &wanted));
    }
}

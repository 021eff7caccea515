//! The shell around [`plan`]: one task per pool lists, probes, plans, writes and acts, in this order, again and again.
//!
//! A pool that fails or waits holds up nobody but itself. All runs while this process leads; when it does not, the tasks
//! are dropped where they are, which is as good as a crash: what was about to be done is on record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::proxy_pool::DeletionPolicy;
use crate::api::{ProxyPool, Time, names};
use crate::cloud::account::Accounts;
use crate::cloud::{Class, Cloud, Error, Vm};
use crate::cluster::event::Publisher;
use crate::cluster::facts::{Key, Meta};
use crate::cluster::pools::{Known, Pools};
use crate::runtime::clock;
use crate::runtime::metrics::Metrics;

use super::ledger::{self, Ledger};
use super::model::{Listed, Memory, Observation, Obstacle, listens_at};
use super::plan::plan;
use super::probe::{self, Finding};
use super::wish::{Defaults, Wish};

mod apply;
mod open;

use open::Open;

/// Name of the ConfigMap with the operator-wide rolling configuration, in the operator's namespace.
pub const CONFIG: &str = "aether-rolling";
/// After a write that did not work, or a cloud that cannot be opened.
const AGAIN: Duration = Duration::from_secs(5);
/// After the task of one pool has failed, which is a bug: the others go on.
const AFTER_A_FAILURE: Duration = Duration::from_mins(1);
/// Before the next look at a pool that has just been changed by its own status.
const AT_LEAST: Duration = Duration::from_millis(500);

/// Keeps every pool of the cluster.
#[derive(Clone)]
pub struct Keeper {
    pools: Pools,
    publisher: Publisher,
    accounts: Arc<Accounts>,
    metrics: Metrics,
    /// Namespace of the operator-wide configuration.
    namespace: String,
    defaults: Defaults,
}

impl Keeper {
    /// `defaults`: what flags and environment say; the ConfigMap in `namespace` comes before them.
    pub fn new(pools: Pools, publisher: Publisher, accounts: Accounts, metrics: Metrics, namespace: &str, defaults: Defaults) -> Self {
        Self { pools, publisher, accounts: Arc::new(accounts), metrics, namespace: namespace.to_owned(), defaults }
    }

    /// Runs for ever. Dropping it stops all pools' tasks at once.
    pub async fn run(&self) {
        let (known, keys) = self.pools.watch();
        let mut keys = std::pin::pin!(keys);
        let mut tasks = Tasks::default();
        loop {
            tokio::select! {
                key = keys.next() => {
                    let Some(key) = key else { return };
                    match tasks.bells.get(&key) {
                        Some(bell) => bell.notify_one(),
                        None => self.start(&key, &known, &mut tasks),
                    }
                }
                Some(done) = tasks.running.join_next_with_id() => {
                    let id = done.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
                    let Some(key) = tasks.keys.remove(&id) else { continue };
                    tasks.bells.remove(&key);
                    if let Err(error) = done {
                        tracing::error!(pool = %key, %error, "keeping the pool failed; it is tried again in a minute");
                        tasks.spawn(&key, Arc::default(), tokio::time::sleep(AFTER_A_FAILURE));
                    } else if known.find(&key).is_some() {
                        // It was made again in the meantime, or failed a minute ago.
                        self.start(&key, &known, &mut tasks);
                    }
                }
            }
        }
    }

    fn start(&self, key: &Key, known: &Known, tasks: &mut Tasks) {
        let bell = Arc::new(Notify::new());
        let (keeper, of, known, rings) = (self.clone(), key.clone(), known.clone(), bell.clone());
        tasks.spawn(key, bell, async move {
            let mut kept = Kept::default();
            // A first list is told object by object before the store has any of them.
            if !known.is_complete().await {
                return;
            }
            while let Some(pool) = known.find(&of) {
                let pool = kept.newest(pool);
                let wait = keeper.look(&pool, &mut kept).await;
                // A pool that was written by us just now rings as well.
                tokio::time::sleep(AT_LEAST).await;
                let _ = tokio::time::timeout(wait.saturating_sub(AT_LEAST), rings.notified()).await;
            }
            if let Some(provider) = kept.shown {
                keeper.metrics.forget_pool(&of, provider);
            }
        });
    }

    /// One look at one pool: how long until the next.
    async fn look(&self, pool: &ProxyPool, kept: &mut Kept) -> Duration {
        let meta = meta(pool);
        if kept.uid != meta.uid {
            *kept = Kept { uid: meta.uid.clone(), ..Kept::default() };
        }
        let defaults = match self.defaults().await {
            Ok(defaults) => defaults,
            Err(error) => return later(&meta, "the operator-wide configuration cannot be read", &error),
        };
        let wish = Wish::parse(&meta.name, &pool.spec, &defaults);
        let mut obs = Observation {
            wish,
            orphan: pool.spec.deletion_policy == Some(DeletionPolicy::Orphan),
            status: pool.status.clone().unwrap_or_default(),
            template: String::new(),
            list: None,
            list_error: None,
            health: BTreeMap::new(),
            direct: None,
            capabilities: crate::cloud::Capabilities { idempotent_create: false, unique_names: false, settle_seconds: 0 },
            rate: crate::cloud::Rate::default(),
            requests: None,
            meta,
        };
        let opened = match obs.wish.clone() {
            Ok(wish) => Some(self.open(&obs.meta, &wish, kept).await),
            Err(_) => None,
        };
        let (open, unopened) = opened.map_or((None, None), |opened| opened.map_or_else(|e| (None, Some(e)), |open| (Some(open), None)));
        if let Some(open) = &open {
            // In this order a list is new when it is planned by, however long proxies take to answer.
            kept.probe(open, &mut obs, open.interval()).await;
            self.list(open, &mut obs, kept).await;
            kept.probe(open, &mut obs, ledger::NEVER).await;
        }
        obs.list.clone_from(&kept.list);
        obs.list_error = unopened.or_else(|| kept.list_error.clone());
        obs.health = kept.ledger.health();
        let plan = plan(&obs, &kept.memory, clock::now());
        self.apply(&obs, open.as_ref(), plan, kept).await
    }

    async fn defaults(&self) -> Result<Defaults, crate::cluster::client::CallError> {
        let config = self.pools.config(&self.namespace, CONFIG).await?.unwrap_or_default();
        Ok(self.defaults.overlaid(&config))
    }

    /// Lists when it is time to, or when what is known is older than our own last call.
    async fn list(&self, open: &Open, obs: &mut Observation, kept: &mut Kept) {
        obs.capabilities = open.cloud.capabilities();
        let now = clock::now();
        if kept.list_again.is_none_or(|at| now >= at) {
            kept.list_again = None;
            let listed = open.cloud.list(&obs.meta.uid).await;
            self.metrics.called(open.provider, "list", &listed);
            match listed {
                Ok(vms) => {
                    if kept.list.is_none() {
                        let known = |vm: &&Vm| vm.address.is_some_and(|a| obs.status.healthy_ips.contains(&a.to_string()));
                        vms.iter().filter(known).for_each(|vm| kept.ledger.was_healthy(&vm.id));
                    }
                    if kept.list_error.as_ref().is_some_and(|e| e.class == Class::Auth) {
                        kept.memory.setbacks.remove(&Obstacle::Credentials);
                    }
                    kept.ledger.keep_only(&vms);
                    kept.list = Some(Listed { at: now, vms });
                    kept.list_error = None;
                }
                Err(error) => {
                    if matches!(error.class, Class::Throttled(_) | Class::Auth) {
                        kept.memory.set_back(&error, clock::now());
                    }
                    kept.list_error = Some(error);
                }
            }
        }
        obs.rate = open.cloud.rate();
        obs.requests = open.cloud.budget();
        obs.template = open.made.as_ref().map(|made| made.template.clone()).unwrap_or_default();
    }
}

/// What is kept of one pool between two looks. A crash loses it.
#[derive(Default)]
struct Kept {
    uid: String,
    /// The pool as this process has written it last.
    own: Option<ProxyPool>,
    memory: Memory,
    list: Option<Listed>,
    list_error: Option<Error>,
    list_again: Option<Time>,
    ledger: Ledger,
    /// The provider under which the pool is shown in metrics.
    shown: Option<&'static str>,
    /// The cloud that was opened last, and from what, as a hash.
    cloud: Option<(String, Arc<dyn Cloud>)>,
    /// What was published last, as a hash, and when; empty: it was taken away.
    published: Option<(String, Time)>,
}

impl Kept {
    /// The watch may be behind our own writes.
    fn newest(&self, watched: ProxyPool) -> ProxyPool {
        let version = |pool: &ProxyPool| pool.resource_version().and_then(|v| v.parse::<u64>().ok());
        match &self.own {
            Some(own) if own.uid() == watched.uid() && version(own) > version(&watched) => own.clone(),
            _ => watched,
        }
    }

    fn listed(&self) -> &[Vm] {
        self.list.as_ref().map(|list| &*list.vms).unwrap_or_default()
    }

    /// Asks those that were not asked for that long, each where it listens.
    async fn probe(&mut self, open: &Open, obs: &mut Observation, interval: Duration) {
        let Some(made) = &open.made else { return };
        let now = clock::now();
        let due = self.ledger.due(self.listed(), interval, now);
        let due: Vec<_> = due.filter_map(|vm| Some((vm.id.clone(), listens_at(vm, made.port)?))).collect();
        let findings = probe::probe_all(due, &made.probing).await;
        let older = self.listed().iter().filter(|vm| vm.marks.template != made.template);
        let older: BTreeSet<String> = older.map(|vm| vm.id.clone()).collect();
        let cut_off = findings.iter().any(|(_, finding)| matches!(finding, Finding::NoEgress { .. }));
        for (id, finding) in findings {
            let lives = finding.shows_life(older.contains(&id));
            self.ledger.hear(id, lives, now);
        }
        if cut_off {
            let direct = made.probing.targets.iter().map(|target| probe::reached_directly(target, made.probing.timeout));
            let reached = futures::future::join_all(direct).await.into_iter().filter(|reached| *reached).count();
            obs.direct = Some(reached * 2 > made.probing.targets.len());
        }
    }
}

/// The tasks, one for each pool.
#[derive(Default)]
struct Tasks {
    running: JoinSet<()>,
    keys: HashMap<tokio::task::Id, Key>,
    bells: HashMap<Key, Arc<Notify>>,
}

impl Tasks {
    fn spawn(&mut self, key: &Key, bell: Arc<Notify>, task: impl Future<Output = ()> + Send + 'static) {
        self.bells.insert(key.clone(), bell);
        self.keys.insert(self.running.spawn(task).id(), key.clone());
    }
}

fn later(meta: &Meta, what: &str, error: &impl std::fmt::Display) -> Duration {
    tracing::warn!(pool = %meta.key(), %error, "{what}");
    AGAIN
}

fn meta(pool: &ProxyPool) -> Meta {
    let ours = pool.annotations().iter().filter(|(key, _)| key.starts_with(names::OURS));
    Meta {
        namespace: pool.namespace().unwrap_or_default(),
        name: pool.name_any(),
        uid: pool.uid().unwrap_or_default(),
        resource_version: pool.resource_version().unwrap_or_default(),
        generation: pool.metadata.generation.unwrap_or_default(),
        deleting: pool.metadata.deletion_timestamp.is_some(),
        annotations: ours.map(|(k, v)| (k.clone(), v.clone())).collect(),
        finalizers: pool.finalizers().to_vec(),
        ..Meta::default()
    }
}

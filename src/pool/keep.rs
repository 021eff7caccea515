//! The shell around [`plan`]: one task per pool lists, probes, plans, writes and acts, in this order, again and again.
//!
//! A pool that fails or waits holds up nobody but itself. All runs while this process leads; when it does not, the tasks
//! are dropped where they are, which is as good as a crash: what was about to be done is on record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{ProxyPool, Time, names};
use crate::cloud::account::{Accounts, Home, Secret, word};
use crate::cloud::{Class, Cloud, Error, Order};
use crate::cluster::facts::{Key, Meta};
use crate::cluster::pools::{PoolError, Pools};
use crate::rollout::build::short_hash;
use crate::runtime::clock;

use super::bootstrap::{self, Login, Network, Proxy};
use super::ledger::Ledger;
use super::model::{Action, Deed, Listed, Memory, Needs, Observation, Outcome, Plan, order_name};
use super::plan::plan;
use super::probe::{self, Finding, Probing, Target};
use super::publication::{Publication, owner};
use super::wish::{Defaults, Provider, Wish};

/// Proxies of one pool that are asked at the same time.
const PROBES_AT_ONCE: usize = 32;
/// Name of the ConfigMap with the operator-wide rolling configuration, in the operator's namespace.
pub const CONFIG: &str = "aether-rolling";
/// After a write that did not work, or a cloud that cannot be opened.
const AGAIN: Duration = Duration::from_secs(5);
/// Before the next look at a pool that has just been changed by its own status.
const AT_LEAST: Duration = Duration::from_millis(500);

/// Keeps every pool of the cluster.
#[derive(Clone)]
pub struct Keeper {
    pools: Pools,
    accounts: Arc<Accounts>,
    /// Namespace of the operator-wide configuration.
    namespace: String,
    defaults: Defaults,
}

impl Keeper {
    /// `defaults`: what flags and environment say; the ConfigMap in `namespace` comes before them.
    pub fn new(pools: Pools, accounts: Accounts, namespace: &str, defaults: Defaults) -> Self {
        Self { pools, accounts: Arc::new(accounts), namespace: namespace.to_owned(), defaults }
    }

    /// Runs for ever. Dropping it stops all pools' tasks at once.
    pub async fn run(&self) {
        let (store, keys) = self.pools.watch();
        let mut keys = std::pin::pin!(keys);
        let mut tasks = JoinSet::new();
        let mut bells: HashMap<Key, Arc<Notify>> = HashMap::new();
        loop {
            tokio::select! {
                key = keys.next() => {
                    let Some(key) = key else { return };
                    match bells.get(&key) {
                        Some(bell) => bell.notify_one(),
                        None => self.start(&key, &store, &mut tasks, &mut bells),
                    }
                }
                Some(done) = tasks.join_next() => {
                    let key: Key = match done {
                        Ok(key) => key,
                        Err(error) => { tracing::error!(%error, "keeping a pool failed"); return }
                    };
                    bells.remove(&key);
                    if Pools::find(&store, &key).is_some() {
                        // It was made again in the meantime.
                        self.start(&key, &store, &mut tasks, &mut bells);
                    }
                }
            }
        }
    }

    fn start(&self, key: &Key, store: &Store<ProxyPool>, tasks: &mut JoinSet<Key>, bells: &mut HashMap<Key, Arc<Notify>>) {
        let bell = Arc::new(Notify::new());
        bells.insert(key.clone(), bell.clone());
        let (keeper, key, store) = (self.clone(), key.clone(), store.clone());
        tasks.spawn(async move {
            let mut kept = Kept::default();
            while let Some(pool) = Pools::find(&store, &key) {
                let pool = kept.newest(pool);
                let wait = keeper.look(&pool, &mut kept).await;
                // A pool that was written by us just now rings as well.
                let _ = tokio::time::timeout(wait.max(AT_LEAST), bell.notified()).await;
            }
            key
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
            orphan: pool.spec.deletion_policy == Some(crate::api::proxy_pool::DeletionPolicy::Orphan),
            status: pool.status.clone().unwrap_or_default(),
            template: String::new(),
            list: None,
            list_error: None,
            health: BTreeMap::new(),
            direct: None,
            capabilities: crate::cloud::Capabilities { idempotent_create: false, unique_names: false, settle_seconds: 0 },
            rate: crate::cloud::Rate::default(),
            meta,
        };
        let open = match obs.wish.clone() {
            Ok(wish) => match self.open(&obs.meta, &wish).await {
                Ok(open) => Some(open),
                Err(error) => {
                    obs.list_error = Some(error);
                    None
                }
            },
            Err(_) => None,
        };
        if let Some(open) = &open {
            self.list(open, &mut obs, kept).await;
            kept.probe(open, &mut obs).await;
        }
        let plan = plan(&obs, &kept.memory, clock::now());
        self.apply(&obs, open.as_ref(), plan, kept).await
    }

    async fn defaults(&self) -> Result<Defaults, crate::cluster::client::CallError> {
        let config = self.pools.config(&self.namespace, CONFIG).await?.unwrap_or_default();
        Ok(self.defaults.overlaid(&config))
    }

    /// The pool's cloud and what its proxies are made of, from the Secrets as they are now.
    async fn open(&self, meta: &Meta, wish: &Wish) -> Result<Open, Error> {
        let credentials = self.secret(meta, wish.credentials.as_deref()).await?;
        let auth = self.secret(meta, wish.proxy.auth.as_deref()).await?;
        let refused = |e: bootstrap::Refused| Error { class: Class::Invalid, message: format!("spec.proxy: {e}") };
        let login = match &auth {
            Some(auth) => Some(Login::new(&word(Some(auth), "username")?, &word(Some(auth), "password")?).map_err(refused)?),
            None => None,
        };
        let allow = wish.proxy.allow_from.iter().map(|n| Network::parse(&n.to_string())).collect::<Result<_, _>>().map_err(refused)?;
        let proxy = Proxy::new(wish.proxy.port, login.clone(), allow, wish.proxy.connect_ports.clone()).map_err(refused)?;
        let script = match wish.provider {
            Provider::Kubernetes(_) => bootstrap::pod_script(&proxy),
            _ => bootstrap::user_data(&proxy),
        };
        let owned = wish.deletion == crate::api::proxy_pool::DeletionPolicy::Delete;
        let home = Home { namespace: meta.namespace.clone(), port: wish.proxy.port, owner: owned.then(|| owner(meta)) };
        Ok(Open {
            cloud: self.accounts.open(&wish.provider, credentials.as_ref(), home).await?,
            template: short_hash(&format!("{:?} {script}", wish.provider)),
            probing: Probing {
                port: wish.proxy.port,
                login: login.clone(),
                timeout: wish.health.timeout,
                targets: wish.health.egress_targets.iter().filter_map(|t| Target::parse(t)).collect(),
                at_once: PROBES_AT_ONCE,
            },
            interval: wish.health.interval,
            port: wish.proxy.port,
            publish: [wish.publish_service, wish.publish_secret],
            login,
            script,
        })
    }

    async fn secret(&self, meta: &Meta, name: Option<&str>) -> Result<Option<Secret>, Error> {
        let Some(name) = name else { return Ok(None) };
        let missing = || Error { class: Class::Auth, message: format!("there is no Secret {name} in namespace {}", meta.namespace) };
        match self.pools.secret(&meta.namespace, name).await {
            Ok(secret) => secret.ok_or_else(missing).map(Some),
            Err(error) => Err(Error { class: Class::Transient, message: format!("Secret {name} cannot be read: {}", error.message()) }),
        }
    }

    /// Lists when it is time to, or when what is known is older than our own last call.
    async fn list(&self, open: &Open, obs: &mut Observation, kept: &mut Kept) {
        obs.capabilities = open.cloud.capabilities();
        let now = clock::now();
        if kept.list_again.is_none_or(|at| now >= at) {
            kept.list_again = None;
            match open.cloud.list(&obs.meta.uid).await {
                Ok(vms) => {
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
        obs.list.clone_from(&kept.list);
        obs.list_error.clone_from(&kept.list_error);
        obs.rate = open.cloud.rate();
        obs.template.clone_from(&open.template);
    }

    /// Status first, then what is published, then the cloud.
    async fn apply(&self, obs: &Observation, open: Option<&Open>, plan: Plan, kept: &mut Kept) -> Duration {
        let mut status = obs.status.clone();
        let mut meta = obs.meta.clone();
        if let Some(said) = plan.status {
            match self.pools.status(&meta, &said).await {
                Ok(written) => {
                    (status, meta) = (said, self::meta(&written));
                    kept.own = Some(written);
                }
                // Nothing of the plan is done, and nothing of it was learned.
                Err(error) => return later(&obs.meta, "its status was not written", &error),
            }
        }
        kept.memory = plan.memory;
        for note in &plan.notes {
            if note.warning {
                tracing::warn!(pool = %meta.key(), "{}", note.message);
            } else {
                tracing::info!(pool = %meta.key(), "{}", note.message);
            }
            self.pools.tell(&meta, note).await;
        }
        let published = match (open, plan.serving) {
            (Some(open), Some(serving)) => self.publish(&meta, open, serving, kept).await,
            _ => true,
        };
        let mut stopped = false;
        for action in &plan.actions {
            let outcome = if stopped || (!published && matches!(action.deed, Deed::Delete { .. })) {
                Outcome::Skipped
            } else {
                self.act(action, &status, &mut meta, open, kept).await
            };
            if let Outcome::Failed(error) = &outcome {
                tracing::warn!(pool = %meta.key(), why = action.why, %error, "the cloud did not do it");
                stopped |= matches!(error.class, Class::Throttled(_) | Class::Auth);
            }
            kept.memory.learn(&action.deed, &outcome, clock::now());
        }
        let now = clock::now();
        let again = now + plan.requeue;
        // Looks in between, for probes or edits, do not put it off.
        kept.list_again = Some(kept.list_again.map_or(again, |at| at.min(again)));
        let probe = open.and_then(|open| kept.ledger.next(open.interval)).map(|at| (at - now).to_std().unwrap_or_default());
        probe.map_or(plan.requeue, |probe| probe.min(plan.requeue))
    }

    /// True: what is published names nobody who is about to go.
    async fn publish(&self, meta: &Meta, open: &Open, serving: std::collections::BTreeSet<std::net::IpAddr>, kept: &mut Kept) -> bool {
        let publication = Publication { serving, port: open.port, login: open.login.clone() };
        let mark = short_hash(&format!("{:?} {} {} {:?}", publication.serving, open.port, open.template, open.publish));
        if kept.published.as_ref() == Some(&mark) {
            return true;
        }
        match self.pools.publish(meta, &publication, open.publish).await {
            Ok(()) => {
                kept.published = Some(mark);
                true
            }
            Err(error) => {
                if matches!(error, PoolError::NotOurs(..)) {
                    let note = super::model::Note { warning: true, reason: "NotPublished", message: error.to_string() };
                    self.pools.tell(meta, &note).await;
                }
                tracing::warn!(pool = %meta.key(), %error, "addresses not published");
                false
            }
        }
    }

    async fn act(
        &self,
        action: &Action,
        status: &crate::api::ProxyPoolStatus,
        meta: &mut Meta,
        open: Option<&Open>,
        kept: &mut Kept,
    ) -> Outcome {
        let is_met = match &action.needs {
            Needs::Nothing | Needs::Unchanged(_) => true,
            Needs::Recorded(nonce) => status.in_flight.iter().any(|f| f.nonce == *nonce),
            Needs::Listed(at) => {
                kept.list.as_ref().is_some_and(|list| list.at >= *at && list.vms.iter().any(|vm| is_meant(vm, &action.deed)))
            }
        };
        if !is_met || !self.pools.leads() {
            return Outcome::Skipped;
        }
        let failed = |error: Error| Outcome::Failed(error);
        match (&action.deed, open) {
            (Deed::Hold | Deed::Release, _) => match self.pools.hold(meta, action.deed == Deed::Hold).await {
                Ok(written) => {
                    *meta = self::meta(&written);
                    kept.own = Some(written);
                    Outcome::Done
                }
                Err(error) => {
                    tracing::info!(pool = %meta.key(), %error, "the finalizer was not changed");
                    Outcome::Skipped
                }
            },
            (_, None) => Outcome::Skipped,
            (Deed::Look(marks), Some(open)) => open.cloud.find(marks).await.map_or_else(failed, |vm| Outcome::Found(vm.is_some())),
            (Deed::Create(marks), Some(open)) => {
                let order = Order { name: order_name(marks), marks: marks.clone(), user_data: open.script.clone() };
                open.cloud.create(&order).await.map_or_else(failed, |_| Outcome::Done)
            }
            (Deed::Delete { id, .. }, Some(open)) => open.cloud.delete(id).await.map_or_else(failed, |()| Outcome::Done),
        }
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
    /// What was published last, as a hash.
    published: Option<String>,
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

    /// Asks whoever is due, and tells what is known.
    async fn probe(&mut self, open: &Open, obs: &mut Observation) {
        let now = clock::now();
        let vms = self.list.as_ref().map(|list| &*list.vms).unwrap_or_default();
        let findings = probe::probe_all(self.ledger.due(vms, open.interval, now), &open.probing).await;
        let cut_off = findings.iter().any(|(_, finding)| matches!(finding, Finding::NoEgress { .. }));
        for (id, finding) in findings {
            self.ledger.hear(id, matches!(finding, Finding::Alive { .. }), now);
        }
        obs.health = self.ledger.health();
        if cut_off {
            let mut reached = 0;
            for target in &open.probing.targets {
                reached += usize::from(probe::reached_directly(target, open.probing.timeout).await);
            }
            obs.direct = Some(reached * 2 > open.probing.targets.len());
        }
    }
}

/// A pool's cloud and what its proxies are, for one look. Holds credentials: never shown.
struct Open {
    cloud: Arc<dyn Cloud>,
    template: String,
    script: String,
    probing: Probing,
    interval: Duration,
    port: u16,
    login: Option<Login>,
    /// A Service; a Secret.
    publish: [bool; 2],
}

fn is_meant(vm: &crate::cloud::Vm, deed: &Deed) -> bool {
    matches!(deed, Deed::Delete { id, pool } if vm.id == *id && vm.marks.pool == *pool)
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

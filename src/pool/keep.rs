//! The shell around [`plan`]: one task per pool lists, probes, plans, writes and acts, in this order, again and again.
//!
//! A pool that fails or waits holds up nobody but itself. All runs while this process leads; when it does not, the tasks
//! are dropped where they are, which is as good as a crash: what was about to be done is on record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{ProxyPool, Time, names};
use crate::cloud::account::{Accounts, Home, Secret, word};
use crate::cloud::{Class, Cloud, Error, Order, Vm};
use crate::cluster::facts::{Key, Meta};
use crate::cluster::pools::Pools;
use crate::rollout::build::short_hash;
use crate::runtime::clock;

use super::bootstrap::{self, Login, Network, Proxy};
use super::ledger::Ledger;
use super::model::{Action, Deed, Listed, Memory, Needs, Note, Observation, Obstacle, Outcome, Plan, order_name};
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
/// After the task of one pool has failed, which is a bug: the others go on.
const AFTER_A_FAILURE: Duration = Duration::from_mins(1);
/// Events of one look: each takes a request, and the log has them all.
const EVENTS: usize = 20;
/// After this long it is seen to that what was published is still there.
const STILL_THERE: Duration = Duration::from_mins(5);
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
        let mut tasks = Tasks::default();
        loop {
            tokio::select! {
                key = keys.next() => {
                    let Some(key) = key else { return };
                    match tasks.bells.get(&key) {
                        Some(bell) => bell.notify_one(),
                        None => self.start(&key, &store, &mut tasks),
                    }
                }
                Some(done) = tasks.running.join_next_with_id() => {
                    let id = done.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
                    let Some(key) = tasks.keys.remove(&id) else { continue };
                    tasks.bells.remove(&key);
                    if let Err(error) = done {
                        tracing::error!(pool = %key, %error, "keeping the pool failed; it is tried again in a minute");
                        tasks.spawn(&key, Arc::default(), tokio::time::sleep(AFTER_A_FAILURE));
                    } else if Pools::find(&store, &key).is_some() {
                        // It was made again in the meantime, or failed a minute ago.
                        self.start(&key, &store, &mut tasks);
                    }
                }
            }
        }
    }

    fn start(&self, key: &Key, store: &Store<ProxyPool>, tasks: &mut Tasks) {
        let bell = Arc::new(Notify::new());
        let (keeper, of, store, rings) = (self.clone(), key.clone(), store.clone(), bell.clone());
        tasks.spawn(key, bell, async move {
            let mut kept = Kept::default();
            while let Some(pool) = Pools::find(&store, &of) {
                let pool = kept.newest(pool);
                let wait = keeper.look(&pool, &mut kept).await;
                // A pool that was written by us just now rings as well.
                tokio::time::sleep(AT_LEAST).await;
                let _ = tokio::time::timeout(wait.saturating_sub(AT_LEAST), rings.notified()).await;
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
            Ok(wish) => self.open(&obs.meta, &wish, kept).await.map_err(|error| kept.list_error = Some(error)).ok(),
            Err(_) => None,
        };
        if let Some(open) = &open {
            // In this order a list is new when it is planned by, however long proxies take to answer.
            let due = |kept: &Kept, now| kept.ledger.due(kept.listed(), open.interval(), now);
            kept.probe(open, &mut obs, due).await;
            self.list(open, &mut obs, kept).await;
            kept.probe(open, &mut obs, |kept, now| kept.ledger.unasked(kept.listed(), now)).await;
        }
        obs.list.clone_from(&kept.list);
        obs.list_error.clone_from(&kept.list_error);
        obs.health = kept.ledger.health();
        let plan = plan(&obs, &kept.memory, clock::now());
        self.apply(&obs, open.as_ref(), plan, kept).await
    }

    async fn defaults(&self) -> Result<Defaults, crate::cluster::client::CallError> {
        let config = self.pools.config(&self.namespace, CONFIG).await?.unwrap_or_default();
        Ok(self.defaults.overlaid(&config))
    }

    /// The pool's cloud and what its proxies are made of, from the Secrets as they are now. Nothing is made any more for a
    /// pool that is being deleted, so it needs no login, and the credentials that worked last are good enough.
    async fn open(&self, meta: &Meta, wish: &Wish, kept: &mut Kept) -> Result<Open, Error> {
        let cloud = match (self.cloud(meta, wish, kept).await, &kept.cloud) {
            (Ok(cloud), _) => cloud,
            (Err(_), Some((_, last))) if meta.deleting => last.clone(),
            (Err(error), _) => return Err(error),
        };
        let made = if meta.deleting { None } else { Some(self.made(meta, wish).await?) };
        Ok(Open { cloud, made })
    }

    /// The same cloud as long as provider and credentials are the same: it knows what it was told of its limits.
    async fn cloud(&self, meta: &Meta, wish: &Wish, kept: &mut Kept) -> Result<Arc<dyn Cloud>, Error> {
        let credentials = self.secret(meta, wish.credentials.as_deref()).await?;
        let owned = wish.deletion == crate::api::proxy_pool::DeletionPolicy::Delete;
        let mark = short_hash(&format!("{:?} {credentials:?} {owned} {}", wish.provider, wish.proxy.port));
        if let Some((of, cloud)) = &kept.cloud
            && *of == mark
        {
            return Ok(cloud.clone());
        }
        let home = Home { namespace: meta.namespace.clone(), port: wish.proxy.port, owner: owned.then(|| owner(meta)) };
        let cloud = self.accounts.open(&wish.provider, credentials.as_ref(), home).await?;
        kept.cloud = Some((mark, cloud.clone()));
        Ok(cloud)
    }

    async fn made(&self, meta: &Meta, wish: &Wish) -> Result<Made, Error> {
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
        Ok(Made {
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
        obs.template = open.made.as_ref().map(|made| made.template.clone()).unwrap_or_default();
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
        }
        let published = match (open.and_then(|open| open.made.as_ref()), plan.serving) {
            _ if meta.deleting => self.withdraw(&meta, kept).await,
            (Some(made), Some(serving)) => self.publish(&meta, made, serving, kept).await,
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
        // Last: whoever reads them waits for nothing, and the work would.
        for note in plan.notes.iter().take(EVENTS) {
            self.pools.tell(&meta, note).await;
        }
        let now = clock::now();
        let again = now + plan.requeue;
        // Looks in between, for probes or edits, do not put it off.
        kept.list_again = Some(kept.list_again.map_or(again, |at| at.min(again)));
        let probe = open.and_then(|open| kept.ledger.next(open.interval())).map(|at| (at - now).to_std().unwrap_or_default());
        probe.map_or(plan.requeue, |probe| probe.min(plan.requeue))
    }

    /// True: what is published names nobody who is about to go, or cannot be helped.
    async fn publish(&self, meta: &Meta, made: &Made, serving: BTreeSet<IpAddr>, kept: &mut Kept) -> bool {
        let publication = Publication { serving, port: made.port, login: made.login.clone() };
        let mark = short_hash(&format!("{:?} {} {} {:?}", publication.serving, made.port, made.template, made.publish));
        if kept.published.as_ref().is_some_and(|(of, at)| *of == mark && clock::now() < *at + STILL_THERE) {
            return true;
        }
        match self.pools.publish(meta, &publication, made.publish).await {
            Ok(()) => {
                kept.published = Some((mark, clock::now()));
                true
            }
            Err(error) => {
                tracing::warn!(pool = %meta.key(), %error, "addresses not published");
                if error.is_lasting() {
                    // Said once until it is another, or some time has passed.
                    kept.published = Some((mark, clock::now()));
                    self.pools.tell(meta, &Note { warning: true, reason: "NotPublished", message: error.to_string() }).await;
                }
                error.is_lasting()
            }
        }
    }

    /// Takes away what was published before the first proxy goes. The pool's own end does it in any case.
    async fn withdraw(&self, meta: &Meta, kept: &mut Kept) -> bool {
        if kept.published.as_ref().is_none_or(|(of, _)| !of.is_empty()) {
            match self.pools.withdraw(meta).await {
                Ok(()) => kept.published = Some((String::new(), clock::now())),
                Err(error) => tracing::warn!(pool = %meta.key(), %error, "addresses not taken away"),
            }
        }
        true
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
                let Some(made) = &open.made else { return Outcome::Skipped };
                let order = Order { name: order_name(marks), marks: marks.clone(), user_data: made.script.clone() };
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

    /// Asks those proxies.
    async fn probe(&mut self, open: &Open, obs: &mut Observation, whom: impl FnOnce(&Self, Time) -> Vec<(String, IpAddr)>) {
        let Some(made) = &open.made else { return };
        let now = clock::now();
        let findings = probe::probe_all(whom(self, now), &made.probing).await;
        let cut_off = findings.iter().any(|(_, finding)| matches!(finding, Finding::NoEgress { .. }));
        for (id, finding) in findings {
            // One that was made with another login is not dead for that; it is renewed in its turn.
            let is_older = self.listed().iter().any(|vm| vm.id == id && vm.marks.template != made.template);
            let alive = matches!(finding, Finding::Alive { .. }) || (is_older && finding == Finding::WrongLogin);
            self.ledger.hear(id, alive, now);
        }
        if cut_off {
            let direct = made.probing.targets.iter().map(|target| probe::reached_directly(target, made.probing.timeout));
            let reached = futures::future::join_all(direct).await.into_iter().filter(|reached| *reached).count();
            obs.direct = Some(reached * 2 > made.probing.targets.len());
        }
    }
}

/// A pool's cloud, for one look.
struct Open {
    cloud: Arc<dyn Cloud>,
    /// `None` while the pool is being deleted.
    made: Option<Made>,
}

impl Open {
    fn interval(&self) -> Duration {
        self.made.as_ref().map_or(AFTER_A_FAILURE, |made| made.interval)
    }
}

/// What a pool's proxies are. Holds credentials: never shown.
struct Made {
    template: String,
    script: String,
    probing: Probing,
    interval: Duration,
    port: u16,
    login: Option<Login>,
    /// A Service; a Secret.
    publish: [bool; 2],
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

fn is_meant(vm: &Vm, deed: &Deed) -> bool {
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

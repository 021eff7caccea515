//! The operator process: everything started, in order, and stopped, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cloud::account::Accounts;
use crate::cluster::drive::{self, Context};
use crate::cluster::event::Publisher;
use crate::cluster::pools::Pools;
use crate::cluster::write::Writer;
use crate::cluster::{SharedIndex, client, watch as watches};
use crate::metrics_source::measurer::Measurer;
use crate::metrics_source::scrape::{Limits, Scraper};
use crate::orders::Desk;
use crate::pool::keep::Keeper;
use crate::pool::wish::Defaults;
use crate::rest::{self, Certificate, Gate};

use super::admin::{self, Health};
use super::lease::{Candidate, Leadership};
use super::metrics::Metrics;

/// Name of the Lease.
pub const LEASE: &str = "aether-operator";

/// How the operator runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
    /// How the REST API is served; `None`: not at all.
    pub api: Option<ApiSettings>,
    /// Namespace of the Lease.
    pub namespace: String,
    /// The one namespace it works in; `None`: all.
    pub watched: Option<String>,
    /// Who this process is; unique.
    pub identity: String,
    /// How long a Lease lasts.
    pub lease: Duration,
    /// What pools get that do not say.
    pub pool_defaults: Defaults,
    /// Provider name -> address to use instead of the cloud's own.
    pub cloud_addresses: BTreeMap<String, String>,
    /// For how many seconds a cloud's list may not show what was done; `None`: what each provider's module says.
    pub cloud_settle: Option<u32>,
}

/// How the REST API is served.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Where.
    pub address: SocketAddr,
    /// Namespace of calls that do not say; `None`: the one that is watched, or `default`.
    pub namespace: Option<String>,
    /// What tokens must be made for.
    pub audience: String,
    /// Names of the server, besides addresses, localhost and names of Services.
    pub hosts: Vec<String>,
    /// With TLS.
    pub certificate: Option<Certificate>,
}

/// Runs until `stop` completes or something essential ends.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let client = client::connect().await?;
    let index = Arc::new(SharedIndex::default());
    let metrics = Metrics::default();
    let leadership = Leadership::default();
    let health = Health { synced: Arc::default(), alive: Arc::new(AtomicBool::new(true)), index: index.clone(), metrics: metrics.clone() };

    let (news, mut heard) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let synced = watches::start(&client, settings.watched.as_deref(), &index, &news, &mut tasks);
    let mut serving = tokio::spawn(admin::serve(settings.admin, health.clone()));
    // On followers as well: it reads and writes through the API server.
    let ending = CancellationToken::new();
    let mut api = tokio::spawn(answer(settings.clone(), client.clone(), metrics.clone(), ending.clone()));
    let (leads, mut follows) = watch::channel(false);
    let candidate = Candidate::new(&client, &settings.namespace, LEASE, &settings.identity, settings.lease.into(), leadership.clone());
    tasks.spawn(candidate.run(leads));

    let publisher = Publisher::new(client.clone(), &settings.identity);
    let pools = Pools::new(client.clone(), leadership.clone(), settings.watched.clone());
    let accounts = Accounts::new(client.clone(), settings.cloud_addresses.clone(), settings.cloud_settle)?;
    let keeper = Keeper::new(pools, publisher.clone(), accounts, metrics.clone(), &settings.namespace, settings.pool_defaults);
    let measurer = Measurer::new(index.clone(), Scraper::new(Limits::default())?, news, metrics.clone());
    let context = Context {
        writer: Writer::new(client.clone(), index.clone(), leadership, metrics.clone()),
        publisher,
        index,
        metrics: metrics.clone(),
    };
    tracing::info!(identity = settings.identity, "started");
    let result = tokio::select! {
        () = stop => Ok(()),
        Some(_) = tasks.join_next() => Err(anyhow::anyhow!("a watch or the leader election ended")),
        ended = &mut serving => Err(anyhow::anyhow!("the admin server ended: {ended:?}")),
        ended = &mut api => Err(anyhow::anyhow!("the REST server ended: {ended:?}")),
        () = lead((&context, &measurer, &keeper), &mut follows, synced, &mut heard, &health, &metrics) => Err(anyhow::anyhow!("the drive loop ended")),
    };
    health.alive.store(false, Ordering::Relaxed);
    tasks.shutdown().await;
    release(&client, &settings).await;
    ending.cancel();
    if settings.api.is_some() && !api.is_finished() {
        // It takes no longer than its last answers may.
        let _ = api.await;
    }
    tracing::info!("stopped");
    result
}

/// Serves the REST API for as long as the process runs.
async fn answer(settings: Settings, client: Client, metrics: Metrics, ending: CancellationToken) -> anyhow::Result<()> {
    let Some(api) = settings.api else { return std::future::pending().await };
    let listener = TcpListener::bind(api.address).await.with_context(|| format!("listening on {}", api.address))?;
    let gate = Gate::reviewed(client.clone(), &api.audience);
    let desk = Desk::new(client, &settings.namespace, settings.pool_defaults);
    let namespace = api.namespace.or_else(|| settings.watched.clone()).unwrap_or_default();
    let rest = rest::Settings { namespace, only: settings.watched, hosts: api.hosts, metrics, ending };
    rest::serve(listener, api.certificate, desk, gate, rest).await
}

async fn release(client: &Client, settings: &Settings) {
    Candidate::release(client, &settings.namespace, LEASE, &settings.identity).await;
}

/// Drives while this process leads and knows the cluster; forgets all when it does not.
async fn lead(
    (context, measurer, keeper): (&Context, &Measurer, &Keeper),
    follows: &mut watch::Receiver<bool>,
    mut synced: watch::Receiver<bool>,
    heard: &mut mpsc::UnboundedReceiver<watches::News>,
    health: &Health,
    metrics: &Metrics,
) {
    if synced.wait_for(|s| *s).await.is_err() {
        return;
    }
    health.synced.store(true, Ordering::Relaxed);
    tracing::info!("the cluster is known");
    loop {
        // News of the time before are in the index already.
        tokio::select! {
            led = follows.wait_for(|l| *l) => if led.is_err() { return },
            said = heard.recv() => if said.is_none() { return } else { continue },
        }
        tracing::info!("leading");
        metrics.leads(true);
        tokio::select! {
            lost = follows.wait_for(|l| !*l) => if lost.is_err() { return },
            () = drive::run(context.clone(), heard) => return,
            () = measurer.run() => return,
            () = keeper.run() => return,
        }
        tracing::warn!("not leading any more");
        metrics.leads(false);
    }
}

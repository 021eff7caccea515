//! `aether status`: everything at a glance. What may not be read is said where it would be.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

use crate::api::{ProxyPool, Time};
use crate::cluster::client::{CallError, bounded};
use crate::orders::desk::refusal;
use crate::orders::view::{PoolStatus, Update};
use crate::orders::{Class, Refusal, pools};
use crate::runtime::clock;
use crate::runtime::run::LEASE;

use super::session::Session;
use super::{Failure, pods, pool, render, show};

/// Group and version of the definitions.
const DEFINED: &str = "aether.dev/v1alpha1";
/// The labels of the operator's pods.
const OPERATOR: &str = "app.kubernetes.io/name=aether,app.kubernetes.io/component=operator";
/// Between two looks of who waits.
const LOOKS: Duration = Duration::from_secs(1);
/// What must be defined.
const KINDS: [&str; 2] = ["rollingupdates", "proxypools"];

/// What is known, or why it is not.
#[derive(Serialize, Debug, Clone)]
#[serde(untagged)]
pub enum Told<T> {
    /// This is so.
    Known(T),
    /// It could not be read.
    Unknown {
        /// Why, as a sentence.
        error: String,
    },
}

/// Everything at a glance.
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// Its pods: name -> ready.
    pub operator_pods: Told<BTreeMap<String, bool>>,
    /// Who leads.
    pub leader: Told<Leader>,
    /// The resources that are defined in the cluster.
    pub definitions: Told<Vec<String>>,
    /// Active updates.
    pub updates: Told<Vec<Update>>,
    /// `namespace/provider/instance` -> how that pool is.
    pub pools: Told<BTreeMap<String, PoolStatus>>,
    /// The pools as they are read.
    #[serde(skip)]
    pub read_pools: Vec<ProxyPool>,
}

/// Who leads.
#[derive(Serialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// Its identity; none: nobody leads.
    pub identity: Option<String>,
    /// When it last said so.
    pub renewed_at: Option<Time>,
    /// It has said so in time.
    pub is_alive: bool,
}

/// Shows it. With `check` it is a failure where nobody can work, not even after that time.
pub async fn run(session: &Session, check: Option<Duration>) -> Result<(), Failure> {
    let deadline = Instant::now() + check.unwrap_or_default();
    loop {
        let overview = look(session).await?;
        let amiss = check.map(|_| amiss(&overview)).unwrap_or_default();
        if amiss.is_empty() || Instant::now() >= deadline {
            show(session.format, &overview, |wide| page(&overview, wide, clock::now()))?;
            return if amiss.is_empty() { Ok(()) } else { Err(Failure::failed(amiss.join("; "))) };
        }
        tokio::time::sleep(LOOKS).await;
    }
}

/// Why nobody can work, as far as is known: what could not be read counts as amiss.
pub fn amiss(overview: &Overview) -> Vec<String> {
    let namespace = &overview.operator_namespace;
    let ready = match &overview.operator_pods {
        Told::Known(pods) if pods.values().any(|ready| *ready) => None,
        Told::Known(_) => Some(format!("no pod of the operator is ready in namespace {namespace}")),
        Told::Unknown { error } => Some(format!("the operator's pods: {error}")),
    };
    let led = match &overview.leader {
        Told::Known(leader) if leader.is_alive => None,
        Told::Known(_) => Some(format!("no operator leads in namespace {namespace}")),
        Told::Unknown { error } => Some(format!("the leader: {error}")),
    };
    let defined = match &overview.definitions {
        Told::Known(names) => {
            let missing: Vec<&str> = KINDS.into_iter().filter(|kind| !names.iter().any(|n| n == kind)).collect();
            (!missing.is_empty()).then(|| format!("not defined: {}", missing.join(", ")))
        }
        Told::Unknown { error } => Some(format!("the definitions: {error}")),
    };
    [ready, led, defined].into_iter().flatten().collect()
}

/// What cannot be reached is an error; what may not be read, or is not there, is told.
fn told<T>(answer: Result<T, Refusal>) -> Result<Told<T>, Refusal> {
    match answer {
        Ok(known) => Ok(Told::Known(known)),
        Err(refusal) if matches!(refusal.class, Class::Unavailable | Class::Unauthenticated) => Err(refusal),
        Err(refusal) => Ok(Told::Unknown { error: refusal.message }),
    }
}

async fn look(session: &Session) -> Result<Overview, Refusal> {
    let (client, namespace) = (session.desk.client(), session.desk.operator());
    let scope = session.scope(!session.is_named);
    // Who may not see all may see their own.
    let own = |refused: &Refusal| scope.is_none() && refused.class == Class::Forbidden;
    let definitions = match bounded(client.list_api_group_resources(DEFINED)).await {
        Ok(list) => Ok(list.resources.into_iter().map(|r| r.name).filter(|n| !n.contains('/')).collect()),
        Err(e) if e.code() == Some(404) => Ok(Vec::new()),
        Err(e) => Err(refusal(&e, DEFINED)),
    };
    let operators = Api::<Pod>::namespaced(client.clone(), namespace);
    let operators = bounded(operators.list(&ListParams::default().labels(OPERATOR))).await;
    let operators = operators.map(|l| l.items.iter().map(pods::row).map(|p| (p.name, p.ready)).collect());
    let lease = bounded(Api::<Lease>::namespaced(client.clone(), namespace).get_opt(LEASE)).await;
    let updates = match session.desk.updates(scope).await {
        Err(refused) if own(&refused) => session.desk.updates(Some(&session.namespace)).await,
        answer => answer,
    };
    let updates = updates.map(|all| all.iter().map(Update::of).filter(Update::is_active).collect());
    let pools = match session.desk.pools(scope).await {
        Err(refused) if own(&refused) => session.desk.pools(Some(&session.namespace)).await,
        answer => answer,
    };
    let (found, read_pools) = match told(pools)? {
        Told::Known(pools) => (Told::Known(pools.iter().map(pool_status).collect()), pools),
        Told::Unknown { error } => (Told::Unknown { error }, Vec::new()),
    };
    let of_pods = |e: CallError| refusal(&e, "Pods");
    Ok(Overview {
        operator_namespace: namespace.to_owned(),
        operator_pods: told(operators.map_err(of_pods))?,
        leader: told(lease.map(|l| leader(l, clock::now())).map_err(|e| refusal(&e, "Lease")))?,
        definitions: told(definitions)?,
        updates: told(updates)?,
        pools: found,
        read_pools,
    })
}

fn pool_status(pool: &ProxyPool) -> (String, PoolStatus) {
    let healthy = pool.status.iter().flat_map(|s| s.healthy_ips.clone()).collect();
    (format!("{}/{}", pool.namespace().unwrap_or_default(), pools::name(pool)), PoolStatus::of(pool, healthy))
}

/// Who leads, after the Lease.
fn leader(lease: Option<Lease>, now: Time) -> Leader {
    let spec = lease.and_then(|l| l.spec).unwrap_or_default();
    let identity = spec.holder_identity.filter(|h| !h.is_empty());
    let renewed_at = spec.renew_time.and_then(|t| Time::from_timestamp_millis(t.0.as_millisecond()));
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(15));
    let is_alive = identity.is_some() && renewed_at.is_some_and(|t| (now - t).num_seconds() <= lasts);
    Leader { identity, renewed_at, is_alive }
}

/// The page; pure.
pub fn page(overview: &Overview, wide: bool, now: Time) -> String {
    let not_shown = |error: &String| format!("not shown: {error}");
    let namespace = &overview.operator_namespace;
    let operator = match &overview.operator_pods {
        Told::Known(pods) if pods.is_empty() => format!("no pods in namespace {namespace}"),
        Told::Known(pods) => {
            let names: Vec<&str> = pods.keys().map(String::as_str).collect();
            format!("{}/{} pods ready in namespace {namespace}: {}", pods.values().filter(|r| **r).count(), pods.len(), names.join(", "))
        }
        Told::Unknown { error } => not_shown(error),
    };
    let leader = match &overview.leader {
        Told::Known(Leader { identity: Some(who), renewed_at, is_alive }) => {
            let heard = format!("heard of {} ago", render::age(*renewed_at, now));
            if *is_alive { format!("{who}, {heard}") } else { format!("none; {who} led and was last {heard}") }
        }
        Told::Known(_) => format!("none in namespace {namespace}; is the operator there? (--operator-namespace)"),
        Told::Unknown { error } => not_shown(error),
    };
    let definitions = match &overview.definitions {
        Told::Known(names) if names.is_empty() => "none; apply them first".into(),
        Told::Known(names) => format!("{} ({DEFINED})", names.join(", ")),
        Told::Unknown { error } => not_shown(error),
    };
    let (updates, update_table) = match &overview.updates {
        Told::Known(active) if active.is_empty() => ("none active".into(), String::new()),
        Told::Known(active) => (format!("{} active", active.len()), format!("\n{}", render::updates(active, true, wide, now))),
        Told::Unknown { error } => (not_shown(error), String::new()),
    };
    let (pools, pool_table) = match &overview.pools {
        Told::Known(all) if all.is_empty() => ("none".into(), String::new()),
        Told::Known(all) => (all.len().to_string(), format!("\n{}", pool::rows(&overview.read_pools, true, now))),
        Told::Unknown { error } => (not_shown(error), String::new()),
    };
    let lines = [("Operator", operator), ("Leader", leader), ("Definitions", definitions), ("Updates", updates), ("Pools", pools)];
    let head = lines.map(|(name, value)| format!("{:<14}{value}\n", format!("{name}:"))).concat();
    head + &update_table + &pool_table
}

//! `aether pool`.

use std::net::IpAddr;
use std::path::Path;

use kube::ResourceExt as _;

use crate::api::proxy_pool::RollingConfig;
use crate::api::{ProxyPool, Time};
use crate::orders::Refusal;
use crate::orders::desk::Manner;
use crate::orders::pools::{self, RollingPatch};
use crate::orders::view::{Metadata, PoolStatus, RollingAnswer};
use crate::runtime::clock;

use super::args::{Pool, PoolName};
use super::render::{age, table};
use super::session::Session;
use super::{Failure, note, print, show};

/// Runs a command about pools.
pub async fn run(session: &Session, command: Pool) -> Result<(), Failure> {
    match command {
        Pool::List { all_namespaces } => list(session, all_namespaces).await,
        Pool::Status { pool } => status(session, &pool).await,
        Pool::Evict { pool, ip } => evict(session, &pool, ip).await,
        Pool::Rolling { enabled, min_available, batch_size } => rolling(session, RollingPatch { enabled, min_available, batch_size }).await,
        Pool::Convert { .. } => Ok(()),
    }
}

/// Manifests to stdout, what a person must know about them to stderr.
pub fn convert(file: &Path, namespace: Option<&str>) -> Result<(), Failure> {
    let read = if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = read.map_err(|error| Failure { code: 2, message: format!("{} cannot be read: {error}", file.display()) })?;
    let converted = super::convert::convert(&text, namespace).map_err(|error| Failure { code: 2, message: error.to_string() })?;
    for line in &converted.notes {
        note(&format!("note: {line}"));
    }
    print(&converted.yaml)
}

async fn list(session: &Session, all_namespaces: bool) -> Result<(), Failure> {
    let found = session.desk.pools(session.scope(all_namespaces)).await?;
    if session.is_for_people() {
        if found.is_empty() {
            let place = if all_namespaces { "any namespace".into() } else { format!("namespace {}", session.namespace) };
            note(&format!("There are no pools in {place}."));
            return Ok(());
        }
        return print(&rows(&found, all_namespaces, clock::now()));
    }
    let config = session.desk.config().await?;
    let answer = answer(session, config, pools::select(found, None, None)?).await?;
    show(session.format, &answer, |_| String::new())
}

async fn status(session: &Session, name: &PoolName) -> Result<(), Failure> {
    let pool = find(session, name).await?;
    if session.is_for_people() {
        let healthy = session.desk.healthy(&pool).await?.into_iter().map(|(ip, _)| ip.to_string()).collect();
        return print(&page(&pool, &PoolStatus::of(&pool, healthy), clock::now()));
    }
    let config = match pool.status.as_ref().and_then(|s| s.config) {
        Some(in_force) => in_force,
        None => session.desk.config().await?,
    };
    let answer = answer(session, config, vec![pool]).await?;
    show(session.format, &answer, |_| String::new())
}

async fn evict(session: &Session, name: &PoolName, ip: IpAddr) -> Result<(), Failure> {
    let pool = session.desk.pool_with(vec![find(session, name).await?], ip).await?;
    session.desk.evict(&pool, ip, Manner::default()).await?;
    print(&format!("pool {}: {ip} is asked to go; a replacement follows\n", pools::name(&pool)))
}

async fn rolling(session: &Session, patch: RollingPatch) -> Result<(), Failure> {
    let config = if patch == RollingPatch::default() {
        session.desk.config().await?
    } else {
        session.desk.configure(patch, Manner::default()).await?
    };
    let answer = answer(session, config, Vec::new()).await?;
    show(session.format, &answer, |_| configuration(&config))
}

/// The one pool of that name in the namespace.
async fn find(session: &Session, name: &PoolName) -> Result<ProxyPool, Refusal> {
    let all = session.desk.pools(Some(&session.namespace)).await?;
    let known: Vec<String> = all.iter().map(pools::name).collect();
    let found = pools::select(all, Some(&name.provider), Some(&name.instance));
    found.ok().and_then(|pools| pools.into_iter().next()).ok_or_else(|| {
        let there = if known.is_empty() { "there are none".into() } else { format!("there are {}", known.join(", ")) };
        let (provider, instance, namespace) = (&name.provider, &name.instance, &session.namespace);
        Refusal::not_found(format!("there is no pool {provider}/{instance} in namespace {namespace}; {there}"))
    })
}

/// What the REST API answers.
async fn answer(session: &Session, config: RollingConfig, pools: Vec<ProxyPool>) -> Result<RollingAnswer, Refusal> {
    let metadata = Metadata { request_id: uuid::Uuid::new_v4().to_string(), timestamp: clock::now() };
    Ok(RollingAnswer::of(metadata, config, session.desk.statuses(pools).await?))
}

/// The table of pools.
pub fn rows(pools: &[ProxyPool], namespaces: bool, now: Time) -> String {
    let mut header = vec!["POOL", "HEALTHY", "WANTED", "PENDING", "MARKED", "RECYCLING", "FLOOR", "CHANGED"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    let row = |pool: &ProxyPool| {
        let status = pool.status.clone().unwrap_or_default();
        let mut row = if namespaces { vec![pool.namespace().unwrap_or_default()] } else { Vec::new() };
        row.extend([
            pools::name(pool),
            status.healthy.to_string(),
            pool.spec.min_scaling.to_string(),
            status.pending.to_string(),
            status.pending_recycle.to_string(),
            status.recycling.to_string(),
            status.effective_min_available.map_or_else(|| "-".into(), |n| n.to_string()),
            status.last_update.map_or_else(|| "-".into(), |t| format!("{} ago", age(Some(t), now))),
        ]);
        row
    };
    table(&header, &pools.iter().map(row).collect::<Vec<_>>())
}

/// Everything about one pool. What is healthy comes from what is published, all of it.
pub fn page(pool: &ProxyPool, shown: &PoolStatus, now: Time) -> String {
    let status = pool.status.clone().unwrap_or_default();
    let list = |ips: &[String]| if ips.is_empty() { "-".into() } else { ips.join(", ") };
    let mut lines = vec![
        ("Pool", pools::name(pool)),
        ("Namespace", pool.namespace().unwrap_or_default()),
        ("Healthy", format!("{} of {} wanted: {}", shown.healthy, pool.spec.min_scaling, list(&shown.healthy_ips))),
        ("Pending", shown.pending.to_string()),
        ("Marked", format!("{}: {}", shown.pending_recycle, list(&shown.pending_recycle_ips))),
        ("Recycling", format!("{}: {}", shown.recycling, list(&shown.recycling_ips))),
    ];
    if let Some(config) = status.config {
        lines.push(("Rolling", in_words(&config)));
    }
    lines.push(("Changed", shown.last_update.map_or_else(|| "-".into(), |t| format!("{} ago", age(Some(t), now)))));
    let head = lines.into_iter().map(|(name, value)| format!("{:<12}{value}\n", format!("{name}:"))).collect::<Vec<_>>().concat();
    let row = |c: &crate::api::Condition| vec![c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone()];
    let conditions: Vec<_> = status.conditions.iter().map(row).collect();
    if conditions.is_empty() { head } else { format!("{head}\n{}", table(&["CONDITION", "STATUS", "REASON", "MESSAGE"], &conditions)) }
}

fn in_words(config: &RollingConfig) -> String {
    let kept = if config.enabled { "kept to" } else { "not kept to" };
    format!("at least {} available, at most {} at once, {kept}", config.min_available, config.batch_size)
}

/// The operator-wide rolling configuration.
pub fn configuration(config: &RollingConfig) -> String {
    let row = vec![config.enabled.to_string(), config.min_available.to_string(), config.batch_size.to_string()];
    table(&["ENABLED", "MIN-AVAILABLE", "BATCH-SIZE"], &[row])
}

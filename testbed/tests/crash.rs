//! The operator is killed in the middle of every state and started again; nobody may notice.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use testbed::operator::Operator;
use testbed::process::Signal;
use testbed::rig::{LEASE, Rig, Shop};
use testbed::watching::{Seen, Watching};

/// One after the other: they share the operator that is killed.
const AT_ONCE: usize = 1;

common::tests![
    killed_in_every_state_of_an_update
    killed_in_every_state_of_a_rollback
    a_restart_writes_nothing_about_what_is_finished
    approvals_survive_a_restart
    pods_in_service_are_replaced_while_nobody_is_there
    a_leader_that_was_asleep_does_nothing
];

/// Longest an update may take with all these funerals.
const LIMIT: Duration = Duration::from_mins(4);

/// Kills the operator some time after each new place was entered, and starts it again, until `end` is reached.
/// Returns the places in which it died.
async fn kill_everywhere(rig: &Arc<Rig>, watching: &Watching, end: &str) -> anyhow::Result<BTreeSet<String>> {
    let begun = tokio::time::Instant::now();
    let mut killed = BTreeSet::new();
    let mut wait = 10_u64;
    loop {
        ensure!(begun.elapsed() < LIMIT, "not at {end} after {LIMIT:?}; it went {:?}", watching.places());
        let Some(place) = watching.last().map(|s| s.place()) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        if place == end {
            return Ok(killed);
        }
        // Twice in each place, at ever different moments of it.
        if killed.contains(&format!("{place} again")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
        wait = (wait * 7 + 130) % 1500;
        let mut operator = rig.operator.lock().await;
        operator.crash().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
        if !killed.insert(place.clone()) {
            killed.insert(format!("{place} again"));
        }
    }
}

async fn killed_in_every_state_of_an_update(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "crash", json!({})).await?;
    shop.start_load()?;
    // In PENDING nothing happens without an operator, so it dies before it has seen the update at all.
    rig.operator.lock().await.crash().await?;
    let watching = shop.update(json!({})).await?;
    *rig.operator.lock().await = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    let killed = kill_everywhere(rig, &watching, "COMPLETED").await?;
    let requests = shop.no_request_failed().await?;
    for place in
        ["PENDING", "DEPLOYING", "DEPLOYED", "ROUTING 1:9", "ROUTING 1:3", "ROUTING 1:1", "ROUTING 3:1", "ROUTING 1:0", "COMPLETING"]
    {
        ensure!(killed.contains(place) || place == "PENDING", "it was never killed in {place}, only in {killed:?}");
    }
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    let writes = rig.writes(&shop.namespace)?;
    ensure!(writes.no_ops().is_empty(), "a restart wrote for nothing:\n{}", writes.no_ops());
    println!("killed in {killed:?}: {requests} requests, 0 failed\n{writes}");
    shop.close().await
}

async fn killed_in_every_state_of_a_rollback(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "crash-back", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    watching.until_state("ROLLING_BACK", LIMIT).await?;
    let killed = kill_everywhere(rig, &watching, "ROLLED_BACK").await?;
    ensure!(killed.contains("ROLLING_BACK"));
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;
    println!("killed in {killed:?}: {requests} requests, 0 failed");
    shop.close().await
}

async fn a_restart_writes_nothing_about_what_is_finished(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "restart", json!({})).await?;
    let watching = shop.update(json!({"progression": {"steps": ["1:0"]}, "traffic": {"settle": "2s", "drain": "2s"}})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = rig.writes(&shop.namespace)?.len();
    let mut operator = rig.operator.lock().await;
    operator.stop().await?;
    *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    drop(operator);
    let writes = rig.writes(&shop.namespace)?;
    ensure!(writes.len() == before, "a restart wrote:\n{writes}");
    shop.close().await
}

async fn approvals_survive_a_restart(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "crash-approve", json!({})).await?;
    let watching = shop.update(json!({"requireManualApproval": true, "progression": {"steps": ["1:3", "1:0"], "interval": "1s"}})).await?;
    shop.order(json!({"approved": "1:3"})).await?;
    let waits = |s: &Seen| s.place() == "ROUTING 1:3" && s.condition("Ready").1 == "AwaitingApproval";
    watching.until("a wait for approval", LIMIT, waits).await?;
    let before = rig.writes(&shop.namespace)?.len();
    let mut operator = rig.operator.lock().await;
    operator.crash().await?;
    *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    drop(operator);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let writes = rig.writes(&shop.namespace)?;
    ensure!(writes.len() == before, "a restart wrote while a person was waited for:\n{writes}");
    shop.order(json!({"approved": "1:0"})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.close().await
}

/// Pods mode: all pods in service are deleted, and no operator labels those that replace them.
async fn pods_in_service_are_replaced_while_nobody_is_there(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open_without_routes(rig, "crash-pods").await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the pods", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let mut operator = rig.operator.lock().await;
    operator.crash().await?;
    shop.kubectl(&["delete", "pods", "-l", "aether.dev/serving", "--wait=false"]).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let kept = shop.lately_seen_by(0, 3000)?;
    ensure!(kept.requests() > 0 && kept.share("1.0.0") >= 1.0, "with nobody there it does not fall back to the old version: {kept}");
    *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    drop(operator);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let fresh = shop.lately_seen_by(0, 3000)?.fresh().share("2.0.0");
    ensure!((fresh - 0.5).abs() < 0.1, "back again it has not restored the shares: {fresh}");
    shop.patch_update(json!({"control": null})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.close().await
}

/// Two operators; the one that leads is stopped for longer than its lease lasts, and goes on; and so the other one.
async fn a_leader_that_was_asleep_does_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "asleep", json!({})).await?;
    let mut second = Operator::start(&rig.bed, "second-operator", 8082, LEASE).await?;
    let first = rig.operator.lock().await;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    let places = [("DEPLOYING", &*first), ("ROUTING 1:9", &second), ("ROUTING 1:1", &*first), ("COMPLETING", &second)];
    for (place, leader) in places {
        watching.until(place, LIMIT, |s| s.place() == place).await?;
        let before = watching.all().len();
        leader.signal(Signal::SIGSTOP)?;
        let other = watching.until("a word of the other one", LIMIT, |s| s.place() != place || watching.all().len() > before).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        leader.signal(Signal::SIGCONT)?;
        other?;
    }
    watching.until_state("COMPLETED", LIMIT).await?;
    second.stop().await?;
    drop(first);
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    let writes = shop.no_wasted_write()?;
    println!("led by each in turn: {requests} requests, 0 failed\n{writes}");
    shop.close().await
}

//! The operator is killed in the middle of every state and started again; nobody may notice.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use testbed::operator::Operator;
use testbed::rig::{LEASE, Rig, Shop};
use testbed::watching::Watching;

/// One after the other: they share the operator that is killed.
const AT_ONCE: usize = 1;

common::tests![
    killed_in_every_state_of_an_update
    killed_in_every_state_of_a_rollback
    a_restart_writes_nothing_about_what_is_finished
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

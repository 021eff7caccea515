//! There and back: promotion, rollback and what happens to the old version.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use testbed::rig::{LIMIT, PODS, Rig, Shop};

/// The places an automatic update of the default steps goes through.
const WAY: [&str; 10] = [
    "PENDING",
    "DEPLOYING",
    "DEPLOYED",
    "ROUTING 1:9",
    "ROUTING 1:3",
    "ROUTING 1:1",
    "ROUTING 3:1",
    "ROUTING 1:0",
    "COMPLETING",
    "COMPLETED",
];

pub async fn a_promotion_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "promote", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    ensure!(watching.places() == WAY, "it went {:?}", watching.places());
    ensure!(ended.text("/oldVersion") == "1.0.0" && ended.text("/newVersion") == "2.0.0" && ended.text("/ready") == "4/4");
    ensure!(ended.condition("Ready").0 == "True" && ended.condition("OldVersionRemoved").0 == "True");
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    ensure!(shop.get("deployment/web").await?.pointer("/spec/replicas") == Some(&json!(0)));
    let writes = shop.no_wasted_write()?;
    println!("promotion over two routes: {requests} requests, 0 failed\n{writes}");
    shop.close().await
}

pub async fn a_rollback_in_the_middle_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "rollback", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let before = shop.rig.writes(&shop.namespace)?.len();
    shop.order(json!({"outcome": "Rollback"})).await?;
    let back = watching.until_state("ROLLING_BACK", LIMIT).await?;
    ensure!(back.condition("Ready").1 == "RollbackOrdered");
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    let writes = shop.no_wasted_write()?;
    let after = &writes.entries()[before..];
    ensure!(after[0].resource == "httproutes" && after[1].resource == "httproutes", "the weights were not first:\n{writes}");
    shop.nothing_left_but(&["web"]).await?;
    ensure!(shop.get("deployment/web").await?.pointer("/spec/replicas") == Some(&json!(PODS)));
    println!("rollback from 1:1 over two routes: {requests} requests, 0 failed");
    shop.close().await
}

pub async fn a_rollback_before_any_traffic_leaves_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "early", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "0:1"}})).await?;
    let deployed =
        watching.until("DEPLOYED and waiting", LIMIT, |s| s.state() == "DEPLOYED" && s.condition("Ready").1 == "AwaitingRouting").await?;
    ensure!(deployed.condition("Reconciling").0 == "True");
    // 0 % is 0: nobody has met the new version, not even callers of the Service itself.
    for caller in 0..4 {
        ensure!(shop.seen_by(caller)?.share("2.0.0") == 0.0, "caller {caller} met the new version");
    }
    shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    for caller in 0..4 {
        ensure!(shop.seen_by(caller)?.share("2.0.0") == 0.0, "caller {caller} met the new version");
    }
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

pub async fn a_grace_period_keeps_the_old_version_whole_and_the_way_back_short(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "grace", json!({})).await?;
    shop.start_load()?;
    let spec = json!({"cleanupPolicy": "GRACE_PERIOD", "progression": {"steps": ["1:0"]}});
    let watching = shop.update(spec).await?;
    watching.until_state("COMPLETING", LIMIT).await?;
    // Long past the drain, the old version is whole and the routes are the user's again.
    tokio::time::sleep(Duration::from_secs(15)).await;
    ensure!(watching.last().context("no status")?.state() == "COMPLETING");
    let old = shop.get("deployment/web").await?;
    ensure!(old.pointer("/status/availableReplicas") == Some(&json!(PODS)));
    let before = shop.rig.writes(&shop.namespace)?.len();
    shop.order(json!({"outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    shop.no_request_failed().await?;
    let writes = shop.no_wasted_write()?;
    ensure!(
        writes.entries()[before].target() == "services" && writes.entries()[before].name == "web",
        "not one patch of the apex:\n{writes}"
    );
    shop.nothing_left_but(&["web"]).await?;
    shop.close().await
}

pub async fn a_kept_old_version_stays_until_told(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "keep", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"cleanupPolicy": "MANUAL", "progression": {"steps": ["1:1", "1:0"]}})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.condition("OldVersionRemoved").0 == "False" && ended.condition("OldVersionRemoved").1 == "CleanupManual");
    tokio::time::sleep(Duration::from_secs(3)).await;
    for caller in 0..4 {
        let share = shop.lately_seen_by(caller, 2000)?.fresh().share("2.0.0");
        ensure!(share >= 1.0, "caller {caller} still meets the old version");
    }
    ensure!(shop.get("deployment/web").await?.pointer("/status/availableReplicas") == Some(&json!(PODS)));
    shop.patch_update(json!({"cleanupPolicy": "IMMEDIATE"})).await?;
    watching.until("its end", LIMIT, |s| s.condition("OldVersionRemoved").0 == "True").await?;
    ensure!(!watching.places().iter().skip_while(|p| *p != "COMPLETED").any(|p| p != "COMPLETED"), "it went {:?}", watching.places());
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

pub async fn the_next_release_on_the_same_object(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "next", json!({})).await?;
    shop.start_load()?;
    let steps = json!({"progression": {"steps": ["1:1", "1:0"]}});
    let watching = shop.update(steps).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.patch_update(json!({"version": "3.0.0"})).await?;
    watching.until("the next release", LIMIT, |s| s.text("/newVersion") == "3.0.0" && s.state() == "DEPLOYING").await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/oldVersion") == "2.0.0");
    shop.no_request_failed().await?;
    // The operator made 2.0.0, so it is gone; the user's own Deployment stays as the template.
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

pub async fn a_manifest_that_says_replicas_cannot_bring_an_old_version_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "replicas", json!({})).await?;
    let mut manifest = testbed::rig::deployment("web", &json!({}));
    manifest["spec"]["replicas"] = json!(PODS);
    shop.kubectl_stdin(&["apply", "-f", "-"], &manifest.to_string()).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"progression": {"steps": ["1:0"]}})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.condition("Ready").2.contains("leave replicas out"), "{:?}", ended.condition("Ready"));
    shop.kubectl_stdin(&["apply", "-f", "-"], &manifest.to_string()).await?;
    shop.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).await?;
    // Version 1.0.0 has its pods back; nobody may meet it, not even after a rollback of the release after.
    shop.patch_update(json!({"version": "3.0.0", "progression": {"steps": ["1:1", "1:0"]}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    shop.patch_update(json!({"control": {"version": "3.0.0", "outcome": "Rollback"}})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    for caller in 0..4 {
        let share = shop.lately_seen_by(caller, 2000)?.share("2.0.0");
        ensure!(share >= 1.0, "caller {caller} gets version 2.0.0 only for {share}");
    }
    shop.no_request_failed().await?;
    shop.close().await
}

//! Another version is wanted before this one is out.

use std::sync::Arc;

use anyhow::{Context, ensure};
use chrono::TimeDelta;
use serde_json::json;
use testbed::rig::{LIMIT, Rig, Shop};

pub async fn another_version_in_the_middle_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "supersede", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"progression": {"steps": ["1:1", "1:0"]}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    shop.patch_update(json!({"version": "3.0.0"})).await?;
    let back = watching.until_state("ROLLING_BACK", LIMIT).await?;
    ensure!(back.condition("Ready").1 == "Superseded", "{:?}", back.condition("Ready"));
    let ended = watching.until("3.0.0", LIMIT, |s| s.state() == "COMPLETED" && s.text("/newVersion") == "3.0.0").await?;
    ensure!(ended.text("/oldVersion") == "1.0.0");
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    let writes = shop.no_wasted_write()?;
    // Pin, flip, unpin: the Service never lost its pin in between; and so with the pause.
    ensure!(writes.filter(|e| e.target() == "services" && e.verb == "patch").len() == 3, "{writes}");
    ensure!(writes.filter(|e| e.resource == "deployments" && e.name == "web").len() == 2, "{writes}");
    let gone = writes.filter(|e| e.verb == "delete" && e.name == "web-2-0-0").entries().first().context("2.0.0 was not deleted")?.at;
    let moved = writes.filter(|e| e.resource == "httproutes" && e.at < back.at).entries().last().context("no weights")?.at;
    ensure!(gone - moved >= TimeDelta::seconds(7), "2.0.0 was not drained: {} after its last weight", gone - moved);
    println!("superseded at 1:1: {requests} requests, 0 failed\n{writes}");
    shop.close().await
}

pub async fn another_version_before_any_traffic_and_after_all_of_it(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "supersede-ends", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"cleanupPolicy": "GRACE_PERIOD", "progression": {"steps": ["1:0"]}})).await?;
    watching.until_state("DEPLOYING", LIMIT).await?;
    shop.patch_update(json!({"version": "3.0.0"})).await?;
    watching.until("3.0.0 with all traffic", LIMIT, |s| s.state() == "COMPLETING" && s.text("/newVersion") == "3.0.0").await?;
    for caller in 0..4 {
        ensure!(shop.seen_by(caller)?.share("2.0.0") == 0.0, "caller {caller} met 2.0.0");
    }
    shop.patch_update(json!({"version": "4.0.0", "cleanupPolicy": "IMMEDIATE"})).await?;
    let ended = watching.until("4.0.0", LIMIT, |s| s.state() == "COMPLETED" && s.text("/newVersion") == "4.0.0").await?;
    ensure!(ended.text("/oldVersion") == "1.0.0");
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-4-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

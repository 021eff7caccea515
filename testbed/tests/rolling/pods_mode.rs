//! No route to shift by: the Service's own endpoints are the shares.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use testbed::rig::{LIMIT, PODS, Rig, Shop};
use testbed::watching::WatchingEndpoints;

pub async fn a_promotion_by_pods_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open_without_routes(rig, "by-pods").await?;
    let endpoints = WatchingEndpoints::start(&rig.bed.client(), &shop.namespace, "web");
    shop.start_load()?;
    let watching = shop.update(json!({"progression": {"interval": "6s"}})).await?;
    let shares = [("1:9", "0:4", 0.0), ("1:3", "1:3", 0.25), ("1:1", "2:2", 0.5), ("3:1", "3:1", 0.75)];
    for (ratio, effective, share) in shares {
        let seen = watching.until(ratio, LIMIT, |s| s.place() == format!("ROUTING {ratio}")).await?;
        ensure!(seen.text("/effectiveRouting") == effective, "at {ratio} it says {}", seen.text("/effectiveRouting"));
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let fresh = shop.lately_seen_by(0, 3000)?.fresh().share("2.0.0");
        ensure!((fresh - share).abs() < 0.1, "at {ratio} new connections went to 2.0.0 for {fresh}");
    }
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.condition("TrafficShifted").0 == "True", "{:?}", ended.condition("TrafficShifted"));
    let requests = shop.no_request_failed().await?;
    ensure!(endpoints.least() >= PODS, "the Service once had only {} ready pods: {:?}", endpoints.least(), endpoints.all());
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    let writes = shop.no_wasted_write()?;
    println!("promotion by pods: {requests} requests, 0 failed, never below {} endpoints\n{writes}", endpoints.least());
    shop.close().await
}

pub async fn a_rollback_by_pods_behind_a_gateway_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "pods-back", json!({})).await?;
    let endpoints = WatchingEndpoints::start(&rig.bed.client(), &shop.namespace, "web");
    shop.start_load()?;
    let watching = shop.update(json!({"traffic": {"mode": "Pods"}, "control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the pods", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    for gateway in 0..2 {
        shop.comes_to_shares(gateway, &[("2.0.0", 0.5)]).await?;
    }
    let before = rig.writes(&shop.namespace)?.len();
    shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    ensure!(endpoints.least() >= PODS, "the Service once had only {} ready pods: {:?}", endpoints.least(), endpoints.all());
    let writes = shop.no_wasted_write()?;
    let first = &writes.entries()[before];
    ensure!((first.resource.as_str(), first.name.as_str()) == ("services", "web"), "not one patch of the Service first:\n{writes}");
    ensure!(writes.filter(|e| e.resource == "httproutes").is_empty(), "a route was touched:\n{writes}");
    shop.nothing_left_but(&["web"]).await?;
    println!("rollback by pods: {requests} requests, 0 failed");
    shop.close().await
}

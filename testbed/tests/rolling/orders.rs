//! What people ask for while an update is on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::{Seen, Watching};

pub async fn ratios_by_hand_up_and_down_and_complete(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "by-hand", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "1:3"}})).await?;
    for (ratio, share) in [("1:3", 0.25), ("3:1", 0.75), ("0:1", 0.0), ("1:1", 0.5)] {
        shop.order(json!({"routing": ratio})).await?;
        watching.until(ratio, LIMIT, |s| s.text("/routing") == ratio && s.condition("TrafficShifted").0 == "True").await?;
        // One request in ten of the second rule goes to the foreign backend all the time, whose version is 1.0.0.
        for (caller, share) in [(0, share), (1, share), (4, 0.9 * share)] {
            shop.comes_to_shares(caller, &[("2.0.0", share)]).await.with_context(|| format!("at {ratio}"))?;
        }
        ensure!(shop.lately_seen_by(2, 3000)?.share("2.0.0") == 0.0, "callers of the Service met the new version before x:0");
    }
    shop.order(json!({"outcome": "Complete"})).await?;
    let refused = watching.until("a refusal", LIMIT, |s| s.condition("OrderAccepted").0 == "False").await?;
    ensure!(refused.condition("OrderAccepted").1 == "CompleteNeedsFullRouting" && refused.state() == "ROUTING");
    shop.order(json!({"routing": "1:0"})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

pub async fn of_two_updates_of_one_workload_one_waits(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "two", json!({})).await?;
    let names = ["first", "second"];
    let watching = names.map(|name| Watching::start(&rig.bed.client(), &shop.namespace, name));
    let items = names.map(|name| {
        json!({
            "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": name},
            "spec": {
                "artifactBase": "shop.example:web", "version": if name == "first" { "2.0.0" } else { "3.0.0" }, "metrics": {"none": {}},
                "cleanupPolicy": "IMMEDIATE", "traffic": {"settle": "2s", "drain": "2s"}, "progression": {"interval": "2s", "steps": ["1:0"]},
            },
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    shop.kubectl_stdin(&["apply", "-f", "-"], &list.to_string()).await?;
    watching[0].until_state("COMPLETED", LIMIT).await?;
    let waited = watching[1].all().iter().any(|s| s.state() == "PENDING" && s.condition("Ready").1 == "AnotherUpdateActive");
    ensure!(waited, "the second did not wait; it went {:?}", watching[1].places());
    let ended = watching[1].until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/oldVersion") == "2.0.0", "the second did not start from the first's version");
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    shop.close().await
}

pub async fn approvals_one_by_one(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "approvals", json!({})).await?;
    let watching =
        shop.update(json!({"requireManualApproval": true, "progression": {"steps": ["1:9", "1:3", "1:0"], "interval": "1s"}})).await?;
    let waits = |place: &'static str| move |s: &Seen| s.place() == place && s.condition("Ready").1 == "AwaitingApproval";
    let held = watching.until("a wait for approval", LIMIT, waits("DEPLOYED")).await?;
    ensure!(held.condition("Ready").2.contains("spec.control.approved: \"1:9\""), "{}", held.condition("Ready").2);
    ensure!(held.condition("Reconciling").0 == "True" && held.condition("Stalled").0 == "False");
    shop.order(json!({"approved": "1:3"})).await?;
    watching.until("a wait for approval", LIMIT, waits("ROUTING 1:3")).await?;
    ensure!(watching.places().contains(&"ROUTING 1:9".to_owned()), "a step was left out: {:?}", watching.places());

    // An approval for another version is none.
    shop.patch_update(json!({"control": {"version": "1.9.0", "approved": "1:0"}})).await?;
    let ignored = watching.until("a refusal", LIMIT, |s| s.condition("OrderAccepted").0 == "False").await?;
    ensure!(ignored.condition("OrderAccepted").1 == "OtherVersion", "{:?}", ignored.condition("OrderAccepted"));
    shop.order(json!({"approved": "1:0", "paused": true})).await?;
    watching.until("a pause", LIMIT, |s| s.place() == "ROUTING 1:3" && s.condition("Ready").1 == "Paused").await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(watching.last().context("no status")?.place() == "ROUTING 1:3", "it went {:?}", watching.places());
    shop.order(json!({"paused": false})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

/// Both backends of one rule are brought out at once, by two updates: neither moves a share of the other's.
pub async fn two_updates_share_a_route(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "shared", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    let other = json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "other"},
        "spec": {
            "artifactBase": "shop.example:other", "version": "7.0.0", "cleanupPolicy": "IMMEDIATE", "metrics": {"none": {}},
            "traffic": {"settle": "3s", "drain": "4s"}, "progression": {"interval": "4s"},
            "control": {"version": "7.0.0", "routing": "1:1"},
        },
    });
    let watching_other = Watching::start(&rig.bed.client(), &shop.namespace, "other");
    shop.kubectl_stdin(&["apply", "-f", "-"], &other.to_string()).await?;
    for watching in [&watching, &watching_other] {
        watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    }
    shop.comes_to_shares(4, &[("2.0.0", 0.45), ("7.0.0", 0.05), ("1.0.0", 0.5)]).await?;
    // One goes back while the other goes on.
    shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    shop.kubectl(&["patch", "rollingupdate", "other", "--type=merge", "-p", r#"{"spec":{"control":null}}"#]).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    watching_other.until_state("COMPLETED", LIMIT).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "other-7-0-0"]).await?;
    shop.no_empty_write()?;
    shop.close().await
}

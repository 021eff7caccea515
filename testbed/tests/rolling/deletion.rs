//! Somebody deletes or edits what an update stands on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::rig::{LIMIT, PODS, Rig, Shop};
use testbed::watching::Watching;

pub async fn a_deleted_update_goes_back_first(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "deleted", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    watching.until("a quarter of the traffic", LIMIT, |s| s.place() == "ROUTING 1:3").await?;
    shop.kubectl(&["delete", "rollingupdate", "web", "--timeout=90s"]).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

/// A shop held at half of the traffic.
async fn at_one_to_one(rig: &Arc<Rig>, namespace: &str, annotations: Value) -> anyhow::Result<(Shop, Watching)> {
    let shop = Shop::open(rig, namespace, annotations).await?;
    let steps = json!({"steps": ["1:1", "1:0"]});
    let watching = shop.update(json!({"progression": steps, "control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    Ok((shop, watching))
}

/// Waits until kubectl's answer is this.
async fn until_it_says(shop: &Shop, args: &[&str], wanted: &str) -> anyhow::Result<()> {
    let mut said = String::new();
    for _ in 0..120 {
        said = shop.kubectl(args).await.unwrap_or_default();
        if said == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("kubectl {args:?} says {said}, not {wanted}")
}

pub async fn children_deleted_by_a_person(rig: &Arc<Rig>) -> anyhow::Result<()> {
    // Pods that serve for a while after they were told to end, as they should: longer than the slowest gateway takes.
    let (mut shop, watching) = at_one_to_one(rig, "children", json!({"testbed.aether.dev/shutdown": "6s"})).await?;
    shop.start_load()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    shop.kubectl(&["delete", "deployment", "web-2-0-0", "--wait=false"]).await?;
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(ended.condition("Stalled").1 == "NewVersionGone", "{:?}", ended.condition("Stalled"));
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;

    shop.patch_update(json!({"attempt": 2})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    shop.kubectl(&["delete", "service", "web-2-0-0", "web-1-0-0"]).await?;
    for service in ["web-2-0-0", "web-1-0-0"] {
        shop.kubectl(&["wait", "--for=create", &format!("service/{service}"), "--timeout=20s"]).await?;
    }
    shop.patch_update(json!({"control": null})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.close().await
}

pub async fn what_the_user_deletes_or_edits_in_the_middle(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (shop, watching) = at_one_to_one(rig, "meddled", json!({})).await?;
    let backends = ["get", "httproute", "quick", "-o", "jsonpath={range .spec.rules[*].backendRefs[*]}{.name}={.weight} {end}"];
    let split = "web-1-0-0=1 web-2-0-0=1 other=2 web-1-0-0=9 web-2-0-0=9 ";
    until_it_says(&shop, &backends, split).await?;

    // A route goes and comes back as its manifest says.
    shop.kubectl(&["delete", "httproute", "quick"]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    shop.apply_manifests(&[]).await?;
    until_it_says(&shop, &backends, split).await?;

    // So does the Service; it comes back without a pin.
    shop.kubectl(&["delete", "service", "web"]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    shop.apply_manifests(&[]).await?;
    let hash = shop.kubectl(&["get", "service", "web-1-0-0", "-o", "jsonpath={.spec.selector.pod-template-hash}"]).await?;
    ensure!(!hash.is_empty(), "the old version's Service selects no hash");
    until_it_says(&shop, &["get", "service", "web", "-o", "jsonpath={.spec.selector.pod-template-hash}"], &hash).await?;

    // A rule is added: it is split like the others.
    let rule =
        json!({"matches": [{"path": {"type": "PathPrefix", "value": "/more"}}], "backendRefs": [{"name": "web", "port": 80, "weight": 5}]});
    let add = json!([{"op": "add", "path": "/spec/rules/-", "value": rule}]);
    shop.kubectl(&["patch", "httproute", "quick", "--type=json", "-p", &add.to_string()]).await?;
    until_it_says(&shop, &backends, &format!("{split}web-1-0-0=5 web-2-0-0=5 ")).await?;

    // More pods of the old version are more pods of the new one.
    let more = PODS + 2;
    shop.kubectl(&["scale", "deployment/web", &format!("--replicas={more}")]).await?;
    let size = ["get", "deployment", "web-2-0-0", "-o", "jsonpath={.status.availableReplicas}"];
    until_it_says(&shop, &size, &more.to_string()).await?;

    shop.patch_update(json!({"control": null})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/ready") == format!("{more}/{more}"), "{}", ended.text("/ready"));
    until_it_says(&shop, &backends, "web=1 other=1 web=9 web=5 ").await?;
    shop.close().await
}

pub async fn a_namespace_goes_at_once(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (shop, _watching) = at_one_to_one(rig, "doomed", json!({})).await?;
    rig.bed.kubectl(&["delete", "namespace", &shop.namespace, "--timeout=60s"]).await?;
    Ok(())
}

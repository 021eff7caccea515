//! A tool applies the user's manifests again in the middle of an update, as GitOps tools do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::{Seen, Watching};

const FORCED: [&str; 3] = ["--server-side", "--force-conflicts", "--field-manager=gitops-tool"];

/// A shop under load, held at half of the traffic.
async fn at_one_to_one(rig: &Arc<Rig>, namespace: &str) -> anyhow::Result<(Shop, Watching)> {
    let mut shop = Shop::open(rig, namespace, json!({})).await?;
    shop.start_load()?;
    let steps = json!({"steps": ["1:1", "1:0"]});
    let watching = shop.update(json!({"progression": steps, "control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    Ok((shop, watching))
}

fn interferences(seen: &Seen) -> usize {
    seen.status["interference"].as_array().map_or(0, Vec::len)
}

/// Waits until it is put right, lets the update end, and demands that nobody noticed anything.
async fn goes_on(mut shop: Shop, watching: &Watching) -> anyhow::Result<()> {
    watching.until("a word about it", LIMIT, |s| interferences(s) > 0).await?;
    watching.until("half of the traffic again", LIMIT, |s| s.condition("TrafficShifted").0 == "True").await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    for gateway in 0..2 {
        shop.comes_to_shares(gateway, &[("2.0.0", 0.5)]).await?;
    }
    ensure!(shop.lately_seen_by(2, 3000)?.fresh().share("2.0.0") == 0.0, "callers of the Service met the new version");
    shop.patch_update(json!({"control": null})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

pub async fn a_plain_apply_of_the_manifests_is_put_right(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (shop, watching) = at_one_to_one(rig, "applied").await?;
    // Without force a server-side apply is refused, and changes nothing.
    let refused = shop.apply_manifests(&["--server-side", "--field-manager=gitops-tool"]).await;
    ensure!(refused.is_err_and(|e| format!("{e:#}").contains("conflict")), "no conflict was reported");
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(interferences(&watching.last().context("no status")?) == 0);
    shop.apply_manifests(&[]).await?;
    goes_on(shop, &watching).await
}

pub async fn a_forced_apply_is_put_right_the_pin_first(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (shop, watching) = at_one_to_one(rig, "forced").await?;
    let before = rig.writes(&shop.namespace)?.len();
    shop.apply_manifests(&FORCED).await?;
    watching.until("a word about it", LIMIT, |s| interferences(s) > 0).await?;
    let told = watching.last().context("no status")?.status["interference"][0]["manager"].clone();
    ensure!(told == "gitops-tool", "it names {told}");
    let writes = rig.writes(&shop.namespace)?;
    let first = writes.entries().get(before).context("nothing was put back")?;
    ensure!(first.resource == "services", "the pin was not first:\n{writes}");
    goes_on(shop, &watching).await
}

pub async fn a_tool_that_never_stops_gets_its_way_safely(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (mut shop, watching) = at_one_to_one(rig, "fight").await?;
    let fight = async {
        loop {
            shop.apply_manifests(&FORCED).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let ended = tokio::select! {
        ended = watching.until_state("ROLLED_BACK", LIMIT) => ended?,
        broken = fight => return broken,
    };
    let (answer, _, message) = ended.condition("ConflictingManager");
    ensure!(answer == "True" && message.contains("gitops-tool"), "{answer}: {message}");
    ensure!(ended.condition("Stalled").1 == "ConflictingManager");
    shop.no_request_failed().await?;
    let before = rig.writes(&shop.namespace)?.len();
    shop.apply_manifests(&FORCED).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = rig.writes(&shop.namespace)?;
    ensure!(writes.len() == before, "it fights on:\n{writes}");
    ensure!(shop.get("service/web").await?["spec"]["selector"] == json!({"app": "web"}));
    let pods: Value = shop.get("pods").await?;
    ensure!(!pods.to_string().contains("web:2.0.0"), "pods of the new version are left");
    shop.close().await
}

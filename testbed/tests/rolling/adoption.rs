//! The live version in the operator's care, and edits of the template that arrive at any time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::rig::{LIMIT, PODS, Rig, Shop};

/// Edits the pod template of the user's Deployment, as a commit does.
async fn edit(shop: &Shop, image: &str, note: &str) -> anyhow::Result<()> {
    let container = json!({"name": "app", "image": format!("registry.example/web:{image}")});
    let template = json!({"metadata": {"annotations": {"note": note}}, "spec": {"containers": [container]}});
    shop.kubectl(&["patch", "deployment", "web", "-p", &json!({"spec": {"template": template}}).to_string()]).await?;
    Ok(())
}

/// Demands that the user's Deployment is held.
async fn is_paused(shop: &Shop) -> anyhow::Result<()> {
    ensure!(shop.get("deployment/web").await?.pointer("/spec/paused") == Some(&json!(true)), "the workload is not paused");
    Ok(())
}

pub async fn a_commit_of_image_and_version_in_either_order(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "commits", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"version": "1.0.0", "progression": {"steps": ["1:1", "1:0"]}})).await?;
    let adopted = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(adopted.condition("Ready").1 == "AlreadyLive" && adopted.condition("Ready").0 == "True");
    is_paused(&shop).await?;

    edit(&shop, "2.0.0", "image first").await?;
    let told = watching.until("a word about the edit", LIMIT, |s| s.condition("TemplateRolledOut").0 == "False").await?;
    ensure!(told.condition("TemplateRolledOut").1 == "TemplateChanged" && told.condition("Ready").0 == "True");
    tokio::time::sleep(Duration::from_secs(2)).await;
    shop.patch_update(json!({"version": "2.0.0"})).await?;
    let ended = watching.until("2.0.0", LIMIT, |s| s.state() == "COMPLETED" && s.text("/newVersion") == "2.0.0").await?;
    ensure!(ended.text("/oldVersion") == "1.0.0" && ended.condition("TemplateRolledOut").0.is_empty());

    shop.patch_update(json!({"version": "3.0.0"})).await?;
    watching.until("3.0.0", LIMIT, |s| s.state() == "DEPLOYING" && s.text("/newVersion") == "3.0.0").await?;
    edit(&shop, "3.0.0", "version first").await?;
    watching.until("3.0.0", LIMIT, |s| s.state() == "COMPLETED" && s.text("/newVersion") == "3.0.0").await?;
    let live = shop.get("deployment/web-3-0-0").await?;
    ensure!(live.pointer("/spec/template/metadata/annotations/note") == Some(&json!("version first")), "{live:#}");

    // Deleted, it leaves the live version exactly as it is.
    shop.kubectl(&["delete", "rollingupdate", "web", "--timeout=60s"]).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    ensure!(shop.get("deployment/web-3-0-0").await?.pointer("/status/availableReplicas") == Some(&json!(PODS)));
    shop.no_wasted_write()?;
    shop.close().await
}

pub async fn an_edit_in_the_middle_comes_out_with_the_next_attempt_only(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "edited", json!({})).await?;
    shop.start_load()?;
    let steps = json!({"steps": ["1:1", "1:0"]});
    let watching = shop.update(json!({"progression": steps, "control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    edit(&shop, "9.9.9", "edited").await?;
    watching.until("a word about the edit", LIMIT, |s| s.condition("TemplateRolledOut").0 == "False").await?;
    shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(ended.condition("TemplateRolledOut").2.contains("attempt"), "{:?}", ended.condition("TemplateRolledOut"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    is_paused(&shop).await?;
    for caller in 0..4 {
        ensure!(shop.seen_by(caller)?.share("9.9.9") == 0.0, "caller {caller} met the edit");
    }

    shop.patch_update(json!({"attempt": 2, "control": null})).await?;
    watching.until("the second attempt", LIMIT, |s| s.state() == "COMPLETED").await?;
    let note = |object: &Value| object.pointer("/spec/template/metadata/annotations/note").cloned();
    ensure!(note(&shop.get("deployment/web-2-0-0").await?) == Some(json!("edited")));
    edit(&shop, "9.9.9", "again").await?;
    watching.until("a word about the edit", LIMIT, |s| s.condition("TemplateRolledOut").0 == "False").await?;
    shop.patch_update(json!({"attempt": 3})).await?;
    let ended = watching.until("the third attempt", LIMIT, |s| s.state() == "COMPLETED" && s.status["attempt"] == 3).await?;
    let revision = ended.text("/objects/newRevision");
    ensure!(revision.starts_with("web-2-0-0-") && note(&shop.get(&format!("deployment/{revision}")).await?) == Some(json!("again")));
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", revision]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

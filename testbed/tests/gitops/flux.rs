//! Flux, applying with its own library and the ignore rules of the sample.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::gitops::Engines;
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::Watching;

use super::git::{self, Git, Ignored, Tool};
use super::shipped;

const MANAGER: &str = "kustomize-controller";

/// The sample's rules. The shop's two routes stand for the one that it names.
fn rules() -> anyhow::Result<(Value, Vec<Ignored>)> {
    let mut rules = shipped::documents("flux/kustomization-shop.yaml")?.remove(0)["spec"]["ignore"].clone();
    let mut ignored = Vec::new();
    for rule in rules.as_array_mut().context("no ignore rules")? {
        let text = |key: &str| rule["target"][key].as_str().unwrap_or_default().to_owned();
        ignored.push(Ignored { kind: text("kind"), name: text("name"), paths: serde_json::from_value(rule["paths"].clone())? });
        if rule["target"]["kind"] == "HTTPRoute" {
            rule["target"].as_object_mut().context("no target")?.remove("name");
        }
    }
    Ok((rules, ignored))
}

async fn apply(engines: &Engines, kubeconfig: &std::path::Path, rules: &Value, items: &[Value]) -> anyhow::Result<Vec<String>> {
    let answers = engines.ask_as(Some(kubeconfig), "flux-apply", &json!({"ignore": rules, "objects": items})).await?;
    answers
        .into_iter()
        .map(|a| {
            ensure!(a.error.is_empty(), "flux: {}", a.error);
            Ok(a.answer.as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

pub async fn a_loop_of_applies_during_updates(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (engines, (rules, ignored)) = (Engines::ensure()?, rules()?);
    let (kubeconfig, user) = git::account(rig, "flux").await?;
    let sync = async |items: Vec<Value>| apply(&engines, &kubeconfig, &rules, &items).await.map(|_| ());
    let tool = Tool { user: &user, manager: MANAGER, ignored: &ignored, sync };
    let outcome = git::whole_updates(rig, "by-flux", tool).await?;
    ensure!(outcome.rewrites == 0, "Flux rewrote routes or Services {} times", outcome.rewrites);
    ensure!(outcome.put_back == 0, "{} times something was put back", outcome.put_back);
    ensure!(outcome.passes > 20 && outcome.requests > 0);
    Ok(())
}

/// Flux takes over what was written with kubectl, and away what is not in Git; what the CLI, REST and Argo CD write stays.
pub async fn orders_given_with_kubectl_patch_are_taken_away(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (engines, (rules, _)) = (Engines::ensure()?, rules()?);
    let (kubeconfig, _) = git::account(rig, "flux-orders").await?;
    let shop = Shop::open(rig, "flux-orders", json!({})).await?;
    let git = Git::of(&shop)?;
    let watching = Watching::start(&rig.bed.client(), &shop.namespace, "web");
    apply(&engines, &kubeconfig, &rules, &git.items()).await?;
    watching.until("the live version in its care", LIMIT, |s| s.condition("Ready").1 == "AlreadyLive").await?;
    git.commit(|what, item| {
        if what == "RollingUpdate/web" {
            item["spec"]["requireManualApproval"] = json!(true);
        }
    });
    git.release("2.0.0");
    apply(&engines, &kubeconfig, &rules, &git.items()).await?;
    watching.until("a wait for approval", LIMIT, |s| s.condition("Ready").1 == "AwaitingApproval").await?;

    let pause = r#"{"spec":{"control":{"version":"2.0.0","paused":true}}}"#;
    let control = async || anyhow::Ok(shop.get("rollingupdate/web").await?["spec"]["control"].clone());
    shop.kubectl(&["patch", "rollingupdate", "web", "--type=merge", "-p", pause]).await?;
    ensure!(!control().await?.is_null());
    let done = apply(&engines, &kubeconfig, &rules, &git.items()).await?;
    ensure!(control().await?.is_null(), "an order by kubectl patch is still there: {done:?}");
    // The CLI and REST write as this field manager.
    shop.kubectl(&["patch", "rollingupdate", "web", "--field-manager=aether", "--type=merge", "-p", pause]).await?;
    for _ in 0..2 {
        let done = apply(&engines, &kubeconfig, &rules, &git.items()).await?;
        ensure!(control().await?["paused"] == true, "the order is gone: {done:?}");
        ensure!(done.iter().all(|d| d == "unchanged"), "Flux still writes: {done:?}");
    }
    shop.close().await
}

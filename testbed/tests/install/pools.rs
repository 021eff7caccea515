//! Pools take rights that an installation does not give by itself: what a person is told, and what follows when they do it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use testbed::operator::repository;
use testbed::requests::NO_RIGHTS;
use testbed::rig::{LIMIT, Rig};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::chart::restricted;
use crate::helm::{chart, said, text};
use crate::release::{RELEASE, install, on_a_bare_cluster};

const NAMESPACE: &str = "pools-system";

pub async fn a_pool_says_how_to_give_it_rights(rig: &Arc<Rig>) -> anyhow::Result<()> {
    on_a_bare_cluster(rig, RELEASE, NAMESPACE, told(rig)).await
}

async fn told(rig: &Rig) -> anyhow::Result<()> {
    let place = format!("{NO_RIGHTS}-for-pools");
    restricted(rig, NAMESPACE).await?;
    install(rig, RELEASE, NAMESPACE, &chart(), &json!({})).await?;
    configure(rig).await?;
    rig.bed.create_namespace(&place).await?;
    let login = ["create", "secret", "generic", "proxy-auth", "--from-literal=username=proxy", "--from-literal=password=correct-horse"];
    rig.bed.kubectl(&[&["-n", &place], &login[..]].concat()).await?;
    rig.bed.kubectl(&["-n", &place, "apply", "-f", text(&repository().join("examples/pool-kubernetes.yaml"))?]).await?;

    let command = until("the way out in a condition", async || {
        let pool: Value = serde_json::from_str(&rig.bed.kubectl(&["-n", &place, "get", "proxypool", "kubernetes", "-o", "json"]).await?)?;
        let conditions = pool["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let said = conditions.iter().filter_map(|c| c["message"].as_str()).find_map(|m| Some(m.split_once("or: kubectl ")?.1.to_owned()));
        Ok(said.map(|said| said.split(';').next().unwrap_or_default().to_owned()))
    })
    .await?;
    println!("a pool without rights: kubectl {command}");
    rig.bed.kubectl(&command.split_whitespace().collect::<Vec<_>>()).await?;
    // It need not wait for the next try: any edit has it looked at.
    rig.bed.kubectl(&["-n", &place, "patch", "proxypool", "kubernetes", "--type=merge", "-p", r#"{"spec":{"minScaling":2}}"#]).await?;
    let pods = ["-n", &place, "get", "pods", "-o", "name"];
    until("its first pod", async || Ok((!rig.bed.kubectl(&pods).await?.is_empty()).then_some(()))).await?;
    rig.bed.kubectl(&["-n", &place, "delete", "proxypool", "kubernetes", "--timeout=90s"]).await?;
    until("no pod left", async || Ok(rig.bed.kubectl(&pods).await?.is_empty().then_some(()))).await?;
    Ok(())
}

/// Over REST, by somebody who may do just that: the first time the configuration is made, then it is changed.
async fn configure(rig: &Rig) -> anyhow::Result<()> {
    for what in [
        "create serviceaccount rolling",
        "create role rolling --verb=patch --resource=configmaps --resource-name=aether-rolling",
        "create rolebinding rolling --role=rolling --serviceaccount=pools-system:rolling",
    ] {
        rig.bed.kubectl(&[&["-n", NAMESPACE], &what.split(' ').collect::<Vec<_>>()[..]].concat()).await?;
    }
    let token = rig.bed.kubectl(&["-n", NAMESPACE, "create", "token", "rolling", "--audience=aether.dev"]).await?;
    let selector = "app.kubernetes.io/component=operator";
    let pod = rig.bed.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "jsonpath={.items[0].status.podIP}"]).await?;
    for (body, wanted) in [(r#"{"batch_size": 3}"#, "\"batch_size\":3"), (r#"{"min_available": 4}"#, "\"min_available\":4")] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "-X", "PATCH", "-H", "Content-Type: application/json", "-H"]);
        curl.arg(format!("Authorization: Bearer {}", token.trim())).args(["-d", body]).arg(format!("http://{pod}:8080/rolling"));
        let answer = said(curl, "").await?.succeeded()?;
        ensure!(answer.contains(wanted), "{body}: {answer}");
    }
    Ok(())
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(found) = look().await.with_context(|| what.to_owned())? {
            return Ok(found);
        }
        sleep(Duration::from_millis(250)).await;
    }
    bail!("{what}: not within {LIMIT:?}")
}

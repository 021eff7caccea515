//! Pools take rights that an installation does not give by itself: what a person is told, and what follows when they do it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use testbed::operator::repository;
use testbed::requests::NO_RIGHTS;
use testbed::rig::{LIMIT, Rig};
use tokio::time::{Instant, sleep};

use crate::chart::restricted;
use crate::helm::{chart, text};
use crate::release::{INSTALLED, RELEASE, gone, install, pods_say};

const NAMESPACE: &str = "pools-system";

pub async fn a_pool_says_how_to_give_it_rights(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let _installed = INSTALLED.lock().await;
    let told = told(rig).await;
    if told.is_err() {
        eprintln!("{}", pods_say(rig, NAMESPACE).await);
    }
    gone(rig, RELEASE, NAMESPACE).await?;
    told
}

async fn told(rig: &Rig) -> anyhow::Result<()> {
    let place = format!("{NO_RIGHTS}-for-pools");
    restricted(rig, NAMESPACE).await?;
    install(rig, RELEASE, NAMESPACE, &chart(), &json!({})).await?;
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

//! What Argo CD, Flux and kstatus make of every status, and which actions Argo CD offers then.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::gitops::Engines;
use testbed::rig::Rig;

use super::shipped;

type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// Status; Argo CD's health; Flux's; kstatus without expressions; actions on offer.
const UPDATES: [Row; 35] = [
    ("PENDING", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("PENDING, paused", "Suspended", "InProgress", "InProgress", "resume rollback"),
    ("DEPLOYING", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("DEPLOYED", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("DEPLOYED, awaits approval", "Suspended", "InProgress", "InProgress", "approve pause rollback"),
    ("DEPLOYED, first step approved", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, awaits approval", "Suspended", "InProgress", "InProgress", "approve pause rollback"),
    ("ROUTING, awaits approval of an odd ratio", "Suspended", "InProgress", "InProgress", "approve pause rollback"),
    ("ROUTING, paused", "Suspended", "InProgress", "InProgress", "resume rollback"),
    ("ROUTING, a ratio is held", "Suspended", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, at 1:0, held", "Suspended", "InProgress", "InProgress", "complete pause rollback"),
    ("ROUTING, orders for another version", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, figures are missing", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, no verdict in time", "Suspended", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, a limit is breached", "Suspended", "InProgress", "InProgress", "approve pause rollback"),
    ("ROUTING, a breach is answered", "Suspended", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, approved before the breach", "Suspended", "InProgress", "InProgress", "pause rollback"),
    ("ROUTING, a rollback is wanted", "Progressing", "InProgress", "InProgress", ""),
    ("ROUTING, another version is wanted", "Progressing", "InProgress", "InProgress", "rollback"),
    ("ROUTING, being deleted", "Progressing", "InProgress", "Terminating", "pause rollback"),
    ("COMPLETING", "Progressing", "InProgress", "InProgress", "complete pause rollback"),
    ("COMPLETING, paused", "Progressing", "InProgress", "InProgress", "complete resume rollback"),
    ("COMPLETED", "Healthy", "Current", "Current", ""),
    ("COMPLETED, the template was edited", "Healthy", "Current", "Current", ""),
    ("COMPLETED, the live version is gone", "Degraded", "Failed", "InProgress", ""),
    ("COMPLETED, the next version is wanted", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("ROLLING_BACK", "Progressing", "InProgress", "InProgress", "rollback"),
    ("ROLLING_BACK after a breach", "Progressing", "InProgress", "InProgress", "rollback"),
    ("ROLLED_BACK", "Degraded", "Failed", "Failed", ""),
    ("ROLLED_BACK, ConflictingManager", "Degraded", "Failed", "Failed", ""),
    ("ROLLED_BACK, another attempt is wanted", "Progressing", "InProgress", "InProgress", "pause rollback"),
    ("FAILED", "Degraded", "Failed", "Failed", ""),
    ("just created", "Progressing", "InProgress", "InProgress", "pause rollback"),
    // Not on a cluster: the definition gives every object a status. Flux takes an error for not known, and asks again.
    ("no status", "Progressing", "error", "Current", "pause rollback"),
];

const POOLS: [Row; 14] = [
    ("available", "Healthy", "Current", "Current", ""),
    ("one proxy is missing", "Progressing", "InProgress", "InProgress", ""),
    ("too few proxies", "Progressing", "InProgress", "InProgress", ""),
    ("paused", "Suspended", "Current", "Current", ""),
    ("not listed yet", "Progressing", "InProgress", "InProgress", ""),
    ("provider unreachable", "Degraded", "InProgress", "Current", ""),
    ("provider unreachable, paused", "Degraded", "InProgress", "Current", ""),
    ("provider never reached", "Degraded", "InProgress", "InProgress", ""),
    ("credentials refused", "Degraded", "Failed", "Current", ""),
    ("a replacement is late", "Degraded", "Current", "InProgress", ""),
    ("the spec has changed", "Progressing", "InProgress", "InProgress", ""),
    ("being deleted", "Progressing", "Current", "Terminating", ""),
    ("just created", "Progressing", "InProgress", "InProgress", ""),
    ("no status", "Progressing", "error", "Current", ""),
];

pub async fn of_updates(_: &Arc<Rig>) -> anyhow::Result<()> {
    let (discovery, _) = shipped::argo_actions()?;
    compare("rollingupdates.json", "RollingUpdate", "flux/kustomization-shop.yaml", Some(&discovery), &UPDATES).await
}

pub async fn of_pools(_: &Arc<Rig>) -> anyhow::Result<()> {
    compare("proxypools.json", "ProxyPool", "flux/kustomization-pools.yaml", None, &POOLS).await
}

async fn compare(file: &str, kind: &str, flux: &str, discovery: Option<&str>, wanted: &[Row]) -> anyhow::Result<()> {
    let (engines, all) = (Engines::ensure()?, shipped::statuses(file)?);
    ensure!(all.len() == wanted.len(), "{} statuses are on file, {} in the table", all.len(), wanted.len());
    let objects: Vec<&Value> = wanted.iter().map(|row| &all[row.0]).collect();
    let health = shipped::argo_setting(&format!("health.aether.dev_{kind}"))?;
    let argo = engines.ask("argo-health", &json!({"script": health, "objects": objects})).await?;
    let expressions = shipped::flux_expressions(flux, kind)?;
    let cel = engines.ask("flux-health", &json!({"exprs": expressions, "objects": objects})).await?;
    let plain = engines.ask("kstatus", &json!({"objects": objects})).await?;
    let script = discovery.unwrap_or("return {nothing = {disabled = true}}");
    let actions = engines.ask("argo-discovery", &json!({"script": script, "objects": objects})).await?;

    let mut table = vec![format!("{:<40} {:<12} {:<11} {:<12} actions", kind, "Argo CD", "Flux", "kstatus")];
    let mut wrong = Vec::new();
    for (i, row) in wanted.iter().enumerate() {
        ensure!(argo[i].error.is_empty() && actions[i].error.is_empty(), "{}: {:?} {:?}", row.0, argo[i], actions[i]);
        let told = |list: &Value| list.as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["message"] != "");
        let has_message = argo[i].answer["message"].as_str().is_some_and(|m| !m.is_empty());
        ensure!(has_message || !told(&objects[i]["status"]["conditions"]), "{}: no message", row.0);
        let all = actions[i].answer.as_object().unwrap();
        let mut offered: Vec<&str> = all.iter().filter(|(_, a)| a["disabled"] != true).map(|(n, _)| &**n).collect();
        offered.sort_unstable();
        let flux = if cel[i].error.is_empty() { cel[i].answer.as_str().unwrap() } else { "error" };
        let found = (row.0, argo[i].answer["status"].as_str().unwrap(), flux, plain[i].answer.as_str().unwrap(), &*offered.join(" "));
        let line = format!("{:<40} {:<12} {:<11} {:<12} {}", found.0, found.1, found.2, found.3, found.4);
        if found != *row {
            wrong.push(format!("{line}, not {row:?}"));
        }
        table.push(line);
    }
    println!("{}\n", table.join("\n"));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

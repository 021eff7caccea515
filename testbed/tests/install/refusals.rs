//! Values that are wrong, and what a person is told.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::rig::Rig;

use crate::helm::{self, chart, text};

/// What is wrong, and what must be in the answer: the field, and what it should be.
fn wrong() -> Vec<(Value, &'static [&'static str])> {
    vec![
        (json!({"replica": 3}), &["'replica'", "not allowed"]),
        (json!({"replicas": -1}), &["/replicas", "got -1, want 0"]),
        (json!({"replicas": "two"}), &["/replicas", "want integer"]),
        (json!({"leaseSeconds": 1}), &["/leaseSeconds", "got 1, want 3"]),
        (json!({"watchNamespace": "Shop_1"}), &["/watchNamespace", "'Shop_1' does not match"]),
        (json!({"watchNamespace": ["shop", "web"]}), &["/watchNamespace", "got array, want string"]),
        (json!({"image": {"repository": "aether-operator:1.0"}}), &["/image/repository", "does not match"]),
        (json!({"image": {"digest": "latest"}}), &["/image/digest", "does not match"]),
        (json!({"image": {"pullPolicy": "Sometimes"}}), &["/image/pullPolicy", "'IfNotPresent'"]),
        (json!({"logFormat": "xml"}), &["/logFormat", "'json', 'text'"]),
        (json!({"logLevel": "loud"}), &["/logLevel", "'loud' does not match"]),
        (json!({"crds": {"keep": "yes"}}), &["/crds/keep", "want boolean"]),
        (json!({"proxyPools": {"namespaces": "shop"}}), &["/proxyPools/namespaces", "got string, want array"]),
        (json!({"proxyPools": {"namespaces": ["shop", "shop"]}}), &["/proxyPools/namespaces", "equal"]),
        (json!({"rolling": {"batchSize": 0}}), &["/rolling/batchSize", "got 0, want 1"]),
        (json!({"rolling": {"ageLimit": "1 day"}}), &["/rolling/ageLimit", "'1 day' does not match"]),
        (json!({"api": {"tls": {"secret": "aether-tls"}}}), &["/api/tls", "'secret' not allowed"]),
        (json!({"api": {"hosts": ["https://aether.example"]}}), &["/api/hosts/0", "does not match"]),
        (json!({"service": {"type": "ExternalName"}}), &["/service/type", "'LoadBalancer'"]),
        (json!({"podLabels": {"app.kubernetes.io/name": "mine"}}), &["/podLabels/app.kubernetes.io~1name", "must be 'aether'"]),
        (json!({"topologySpreadConstraints": [{"maxSkew": 1}]}), &["/topologySpreadConstraints/0", "'topologyKey'"]),
        (json!({"extraArgs": ["run"]}), &["/extraArgs/0", "'run' does not match"]),
        (json!({"prometheusRule": {"selector": "aether"}}), &["/prometheusRule/selector", "does not match"]),
        (
            json!({"watchNamespace": "shop", "proxyPools": {"namespaces": ["web"]}}),
            &["proxyPools.namespaces: web is not watched", "watchNamespace is shop"],
        ),
    ]
}

pub async fn wrong_values_are_refused_by_their_names(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let folder = chart();
    let mut table = vec!["values that are refused:".to_owned()];
    for (values, told) in wrong() {
        let said = helm::run(rig, &["template", "aether-operator", text(&folder)?], &values).await?;
        ensure!(!said.ok, "{values} is taken");
        let line = said.err.lines().find(|line| told.iter().all(|word| line.contains(word)));
        let line = line.ok_or_else(|| anyhow::anyhow!("{values}: {told:?} is not in\n{}", said.err))?;
        table.push(format!("  {values}\n      {}", line.trim_start_matches("- ").trim_start_matches("Error: ")));
    }
    println!("{}", table.join("\n"));
    Ok(())
}

//! The files that users get, as they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;
use testbed::operator::repository;
use testbed::packaging;

/// Where a file of `gitops/` is.
pub fn path(file: &str) -> PathBuf {
    repository().join("gitops").join(file)
}

/// The documents of a file of `gitops/`.
pub fn documents(file: &str) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(path(file)).with_context(|| file.to_owned())?;
    packaging::documents(&text)
}

/// What is set in Argo CD's ConfigMap.
pub fn argo_setting(key: &str) -> anyhow::Result<String> {
    let map = documents("argocd/argocd-cm.yaml")?.remove(0);
    let value = map["data"].get(format!("resource.customizations.{key}")).and_then(Value::as_str);
    Ok(value.with_context(|| format!("no setting {key}"))?.to_owned())
}

/// The scripts of the actions: the one that says which are offered, and each.
pub fn argo_actions() -> anyhow::Result<(String, BTreeMap<String, String>)> {
    let actions: Value = serde_yaml::from_str(&argo_setting("actions.aether.dev_RollingUpdate")?)?;
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    let definitions = actions["definitions"].as_array().context("no definitions")?;
    let scripts = definitions.iter().map(|d| Ok((text(d, "name")?, text(d, "action.lua")?))).collect::<anyhow::Result<_>>()?;
    Ok((text(&actions, "discovery.lua")?, scripts))
}

/// Objects with statuses of every kind, by what they are.
pub fn statuses(file: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let path = repository().join("testbed/gitops/statuses").join(file);
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// Flux's expressions for a kind.
pub fn flux_expressions(file: &str, kind: &str) -> anyhow::Result<Value> {
    let sample = documents(file)?.remove(0);
    let all = sample["spec"]["healthCheckExprs"].as_array().context("no healthCheckExprs")?;
    all.iter().find(|e| e["kind"] == kind).cloned().with_context(|| format!("nothing for {kind}"))
}

//! `deploy/`: the chart as plain manifests, for those who do not use Helm. The base is the chart's defaults on any cluster. The
//! overlays are how the chart differs from that with `watchNamespace`, and on a cluster that has what it can make use of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::binaries::run;
use crate::operator::repository;

const HEAD: &str = "# Generated from charts/aether-operator; `make generate` writes it anew.\n";
const NAMESPACE: &str = "aether-system";
/// The oldest Kubernetes that the base is for.
const OLDEST: &str = "1.31.0";
/// One that has all that the chart can make use of.
const NEWEST: &str = "1.36.0";
/// Labels that say that Helm looks after an object, which it does not here.
const OF_HELM: [&str; 2] = ["app.kubernetes.io/managed-by", "helm.sh/chart"];

/// Writes the files of `deploy/`, or only compares them: then what is stale is an error.
pub fn render(helm: &Path, write: bool) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    for (file, text) in files(helm)? {
        let path = repository().join("deploy").join(&file);
        if fs::read_to_string(&path).unwrap_or_default() == text {
            continue;
        }
        if write {
            fs::create_dir_all(path.parent().context("a file in no folder")?)?;
            fs::write(&path, text)?;
        } else {
            stale.push(file);
        }
    }
    ensure!(stale.is_empty(), "stale in deploy/: {}; run `make generate` and commit it", stale.join(", "));
    Ok(())
}

fn files(helm: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let base = template(helm, OLDEST, &[])?;
    let newest = template(helm, NEWEST, &[])?;
    // Its rights end there, so it may have pools there.
    let own = format!("watchNamespace={NAMESPACE},proxyPools.namespaces={{{NAMESPACE}}},api.enabled=false");
    let namespaced = template(helm, OLDEST, &["--set", &own])?;
    let added = |to: &[Value]| -> Vec<Value> { to.iter().filter(|n| !base.iter().any(|b| id(b) == id(n))).cloned().collect() };
    let removed: Vec<&Value> = base.iter().filter(|b| !namespaced.iter().any(|n| id(n) == id(b))).collect();
    let patches = removed.iter().map(|object| {
        let [api_version, kind, namespace, name] = id(object);
        let mut metadata = json!({"name": name});
        if let (false, Some(metadata)) = (namespace.is_empty(), metadata.as_object_mut()) {
            metadata.insert("namespace".into(), namespace.into());
        }
        json!({"patch": serde_yaml::to_string(&json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "$patch": "delete"})).unwrap_or_default()})
    });
    // Its own namespace, so that `namespace:` of an overlay over this one moves all of it.
    let own = json!({"name": "WATCH_NAMESPACE", "value": null, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}});
    let deployment = base.iter().find(|object| id(object)[1] == "Deployment").context("the chart renders no Deployment")?;
    let container = deployment.pointer("/spec/template/spec/containers/0/name").context("its Deployment has no container")?;
    // To ask who calls is a right of the whole cluster, and its binding names one account: two overlays would share it.
    let rest = json!({"name": "AETHER_API_ADDRESS", "value": "off"});
    let container = json!({"name": container, "env": [own, rest]});
    let watches = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "aether-operator", "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"containers": [container]}}},
    });
    let patches: Vec<Value> = patches.chain([json!({"patch": serde_yaml::to_string(&watches)?})]).collect();
    let kustomization = |resources: &[&str], patches: &[Value]| {
        let mut all = json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources});
        if let (false, Some(all)) = (patches.is_empty(), all.as_object_mut()) {
            all.insert("patches".into(), patches.into());
        }
        stream(&[all])
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    Ok([
        ("base/namespace.yaml", stream(&[namespace])?),
        ("base/install.yaml", stream(&base)?),
        ("base/kustomization.yaml", kustomization(&["namespace.yaml", "install.yaml"], &[])?),
        ("newest/policies.yaml", stream(&added(&newest))?),
        ("newest/kustomization.yaml", kustomization(&["../base", "policies.yaml"], &[])?),
        ("namespaced/rights.yaml", stream(&added(&namespaced))?),
        ("namespaced/kustomization.yaml", kustomization(&["../base", "rights.yaml"], &patches)?),
    ]
    .map(|(file, text)| (file.to_owned(), text))
    .into())
}

fn template(helm: &Path, kubernetes: &str, values: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(helm);
    command.args(["template", "aether-operator"]).arg(repository().join("charts/aether-operator"));
    command.args(["--namespace", NAMESPACE, "--no-hooks", "--kube-version", kubernetes]).args(values);
    let mut objects = documents(&run(&mut command)?)?;
    objects.iter_mut().for_each(forget_helm);
    Ok(objects)
}

/// The documents of a YAML stream; empty ones are none.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let all = serde_yaml::Deserializer::from_str(text).map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// Takes the labels away wherever they are: objects have labels, and so have their templates.
fn forget_helm(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for label in OF_HELM {
                map.remove(label);
            }
            map.values_mut().for_each(forget_helm);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_helm),
        _ => {}
    }
}

/// API version, kind, namespace and name.
fn id(object: &Value) -> [String; 4] {
    ["/apiVersion", "/kind", "/metadata/namespace", "/metadata/name"]
        .map(|path| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn stream(objects: &[Value]) -> anyhow::Result<String> {
    let mut text = HEAD.to_owned();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object)?);
    }
    Ok(text)
}

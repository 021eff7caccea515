//! What the chart renders, on an API server that has to take it.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::packaging::documents;
use testbed::rig::Rig;

use crate::helm::{self, chart, stream, template, text};

/// Where it is rendered for; nothing is ever installed there.
const NAMESPACE: &str = "dry-run";
/// Namespaces that value sets name.
const OTHERS: [&str; 2] = ["dry-shop", "dry-scrape"];

/// What people install.
pub fn value_sets() -> Vec<(&'static str, Value)> {
    let monitored = json!({"serviceMonitor": {"enabled": true}, "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true}});
    vec![
        ("defaults", json!({})),
        ("monitored", monitored.clone()),
        (
            "everything said",
            json!({
                "image": {"repository": "registry.example:5000/aether-operator", "tag": "0.1.0-rc.1", "pullPolicy": "Always", "pullSecrets": ["registry"]},
                "replicas": 3, "leaseSeconds": 30, "logFormat": "text", "logLevel": "info,aether_operator=debug",
                "fullnameOverride": "aether", "serviceAccount": {"name": "operator", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"}},
                "proxyPools": {"namespaces": ["dry-shop", "dry-scrape"]},
                "rolling": {"enabled": true, "minAvailable": 5, "batchSize": 1, "ageLimit": "1h30m"},
                "api": {"namespace": "dry-shop", "audience": "aether.example", "hosts": ["aether.example"], "tls": {"secretName": "aether-tls"}},
                "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
                "serviceMonitor": {"enabled": true, "interval": "15s", "labels": {"release": "prometheus"}},
                "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}, "selector": "job=\"aether\",cluster=\"a\"", "runbookUrl": "https://docs.example/runbooks"},
                "dashboard": {"enabled": true, "labels": {"grafana_dashboard": "yes"}},
                "networkPolicy": {"restFrom": [{"namespaceSelector": {}}], "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
                "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}], "nodeSelector": {"kubernetes.io/os": "linux"},
                "priorityClassName": "system-cluster-critical", "podAnnotations": {"a": "b"}, "podLabels": {"team": "platform"},
                "extraArgs": ["--cloud-address=vultr=http://127.0.0.1:1"], "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
            }),
        ),
        (
            "one namespace",
            json!({"watchNamespace": "dry-shop", "proxyPools": {"namespaces": ["dry-shop"]}, "serviceMonitor": {"enabled": true}}),
        ),
        ("one namespace without REST", json!({"watchNamespace": "dry-shop", "api": {"enabled": false}})),
        ("pools everywhere", json!({"proxyPools": {"everywhere": true}})),
        (
            "by digest, without REST, one pod",
            json!({"image": {"digest": format!("sha256:{:064}", 7)}, "api": {"enabled": false}, "replicas": 1}),
        ),
        (
            "only what cannot be left out",
            json!({
                "crds": {"install": false}, "rbac": {"create": false}, "roles": {"create": false}, "serviceAccount": {"create": false, "name": "operators"},
                "admissionPolicies": {"enabled": false}, "podDisruptionBudget": {"enabled": false}, "networkPolicy": {"enabled": false},
                "topologySpreadConstraints": [], "rolling": {"ageLimit": 3600},
            }),
        ),
    ]
}

/// Namespaces, and the definitions of the Prometheus operator.
pub async fn prepare(rig: &Rig) -> anyhow::Result<()> {
    restricted(rig, NAMESPACE).await?;
    for name in OTHERS {
        rig.bed.create_namespace(name).await?;
    }
    let crds = &rig.bed.binaries().prometheus_operator_crds;
    for name in ["servicemonitors", "prometheusrules"] {
        let file = crds.join(format!("monitoring.coreos.com_{name}.yaml"));
        rig.bed.kubectl(&["apply", "--server-side", "-f", text(&file)?]).await?;
        rig.bed.kubectl(&["wait", "--for=condition=Established", &format!("crd/{name}.monitoring.coreos.com"), "--timeout=60s"]).await?;
    }
    Ok(())
}

/// Creates a namespace that enforces the restricted Pod Security standard.
pub async fn restricted(rig: &Rig, name: &str) -> anyhow::Result<()> {
    rig.bed.create_namespace(name).await?;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    rig.bed.kubectl(&["label", "namespace", name, label]).await?;
    Ok(())
}

pub async fn lint(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let folder = chart();
    for (name, values) in value_sets() {
        let said = helm::run(rig, &["lint", "--strict", text(&folder)?], &values).await?;
        println!("helm lint --strict ({name}):\n{}", said.out.trim());
        ensure!(said.ok && said.out.contains("1 chart(s) linted, 0 chart(s) failed"), "{name}: {}{}", said.out, said.err);
        ensure!(!said.out.contains("[WARNING]") && !said.out.contains("[ERROR]"), "{name}: {}", said.out);
    }
    Ok(())
}

pub async fn the_api_server_takes_all_of_it(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut table = vec!["kubectl apply --dry-run=server:".to_owned()];
    for (name, values) in value_sets() {
        // Hooks are rendered as well. A pod is tried below: its account is not there where nothing is made.
        let all = template(rig, NAMESPACE, &values, &[]).await.context(name)?;
        let objects: Vec<Value> = all.iter().filter(|object| object["kind"] != "Pod").cloned().collect();
        let said = rig.bed.kubectl_stdin(&["apply", "--dry-run=server", "-f", "-"], &stream(&objects)).await.context(name)?;
        let taken = said.lines().filter(|line| line.contains("server dry run")).count();
        ensure!(taken == objects.len(), "{name}: {} objects, but:\n{said}", objects.len());
        let pods = pods(&all);
        ensure!(pods.len() == 2, "{name}: {} pods", pods.len());
        rig.bed.kubectl_stdin(&["-n", NAMESPACE, "create", "--dry-run=server", "-f", "-"], &stream(&pods)).await.context(name)?;
        in_one_namespace(name, &values, &all)?;
        table.push(format!("  {name:<36} {taken:>3} objects, {} pods that the restricted standard lets in", pods.len()));
    }
    // A pod that is not restricted is refused here, so that the others are let in for what they are.
    let mut loose = pods(&template(rig, NAMESPACE, &json!({}), &[]).await?);
    loose[0]["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
    let refused = rig.bed.kubectl_stdin(&["-n", NAMESPACE, "create", "--dry-run=server", "-f", "-"], &stream(&loose[..1])).await;
    ensure!(refused.is_err_and(|e| e.to_string().contains("violates PodSecurity")), "the namespace lets everything in");
    println!("{}", table.join("\n"));
    Ok(())
}

/// The pods of a chart, by an account that is there.
fn pods(all: &[Value]) -> Vec<Value> {
    let of = |object: &Value| match object["kind"].as_str() {
        Some("Deployment") => Some(object["spec"]["template"].clone()),
        Some("Pod") => Some(object.clone()),
        _ => None,
    };
    let pod = |template: Value| {
        let mut spec = template["spec"].clone();
        spec["serviceAccountName"] = json!("default");
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "pod-"}, "spec": spec})
    };
    all.iter().filter_map(of).map(pod).collect()
}

/// With `watchNamespace` nothing is cluster-wide but the definitions and who calls REST.
fn in_one_namespace(name: &str, values: &Value, all: &[Value]) -> anyhow::Result<()> {
    if values["watchNamespace"].is_null() {
        return Ok(());
    }
    let api = values["api"]["enabled"] != json!(false);
    for object in all {
        let kind = object["kind"].as_str().unwrap_or_default();
        let reviews = api && object["metadata"]["name"].as_str().unwrap_or_default().ends_with("-reviews");
        let wide = kind.starts_with("Cluster") || kind.contains("AdmissionPolicy");
        ensure!(!wide || reviews, "{name}: {kind} {}", object["metadata"]["name"]);
        let own = [json!(NAMESPACE), json!("dry-shop")].contains(&object["metadata"]["namespace"]);
        ensure!(own || wide || kind == "CustomResourceDefinition", "{name}: {kind} in {}", object["metadata"]["namespace"]);
    }
    Ok(())
}

pub async fn old_clusters_get_no_policies(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let versions = [("1.31.0", 1, 0), ("1.35.1", 1, 0), ("1.36.0", 1, 2), ("1.37.1", 1, 2)];
    for (version, validating, mutating) in versions {
        let all = template(rig, NAMESPACE, &json!({}), &["--kube-version", version]).await?;
        let count = |kind: &str| all.iter().filter(|object| object["kind"] == kind).count();
        let found = (count("ValidatingAdmissionPolicy"), count("MutatingAdmissionPolicy"));
        ensure!(found == (validating, mutating), "{version}: {found:?}");
        ensure!((count("ValidatingAdmissionPolicyBinding"), count("MutatingAdmissionPolicyBinding")) == found);
    }
    let folder = chart();
    let refused = helm::run(rig, &["template", "a", text(&folder)?, "--kube-version", "1.30.4"], &Value::Null).await?;
    ensure!(!refused.ok && refused.err.contains("1.31"), "{refused:?}");
    // The operator is let write others' names by the name that it has in this release.
    let values = json!({"serviceAccount": {"name": "me"}});
    let policies: Vec<Value> =
        template(rig, NAMESPACE, &values, &[]).await?.into_iter().filter(|o| o["kind"].to_string().contains("Policy")).collect();
    let text = stream(&policies);
    ensure!(text.contains("system:serviceaccount:dry-run:me") && !text.contains("aether-system"), "{text}");
    Ok(())
}

/// Nothing is lost on the way through the template, and what helm takes away is taken away on purpose.
pub async fn the_definitions_are_those_of_the_code(rig: &Arc<Rig>) -> anyhow::Result<()> {
    for (keep, policy) in [(true, json!("keep")), (false, Value::Null)] {
        let all = template(rig, NAMESPACE, &json!({"crds": {"keep": keep}}), &[]).await?;
        let mut found = 0;
        for rendered in all.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
            let name = rendered["metadata"]["name"].as_str().context("it has a name")?;
            let (plural, group) = name.split_once('.').context("a name and a group")?;
            let file = testbed::operator::repository().join(format!("crds/{group}_{plural}.yaml"));
            let written = documents(&std::fs::read_to_string(file)?)?;
            ensure!(numbers(&rendered["spec"]) == numbers(&written[0]["spec"]), "{name} is another one");
            ensure!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == policy, "{name}: {}", rendered["metadata"]);
            found += 1;
        }
        ensure!(found == 2, "{found} definitions");
    }
    Ok(())
}

/// With 0 for 0.0: helm prints numbers in its own way.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64()),
        Value::Array(all) => all.iter().map(numbers).collect(),
        Value::Object(all) => all.iter().map(|(key, value)| (key.clone(), numbers(value))).collect(),
        other => other.clone(),
    }
}

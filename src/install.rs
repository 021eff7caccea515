//! What a cluster needs besides the CRDs: who the operator is and what it may do, as data.

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::names;

mod orders;

pub use orders::{APPROVER, EDITOR, VIEWER, ordered_by_policy, orders_policy, roles};

/// Default namespace of the operator.
pub const NAMESPACE: &str = "aether-system";
/// Name of the ServiceAccount and roles.
pub const NAME: &str = "aether-operator";

/// Namespace, ServiceAccount, roles with exactly the verbs that are used, and the finalizer policy.
pub fn access(namespace: &str) -> Vec<Value> {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let watch = ["get", "list", "watch"];
    let cluster_rules = [
        rule("aether.dev", &["rollingupdates"], &["get", "list", "watch", "create", "patch"]),
        rule("aether.dev", &["rollingupdates/status"], &["patch"]),
        rule("apps", &["deployments"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule("apps", &["replicasets"], &["get", "list", "watch", "patch"]),
        rule("", &["pods"], &["get", "list", "watch", "patch"]),
        rule("autoscaling", &["horizontalpodautoscalers"], &watch),
        rule("", &["services"], &["get", "list", "watch", "create", "patch", "delete", "deletecollection"]),
        rule("discovery.k8s.io", &["endpointslices"], &watch),
        rule("gateway.networking.k8s.io", &["httproutes"], &["get", "list", "watch", "patch"]),
        rule("aether.dev", &["proxypools"], &["get", "list", "watch", "patch"]),
        rule("aether.dev", &["proxypools/status"], &["patch"]),
        // Proxies that are pods, and the addresses that are published.
        rule("", &["pods"], &["create", "delete"]),
        rule("", &["secrets"], &["get", "create", "update", "patch", "delete"]),
        rule("discovery.k8s.io", &["endpointslices"], &["create", "patch", "delete"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        // Who asks over REST, and whether they may.
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
        // The orders that it writes for people, whose right to each it has asked for.
        rule("aether.dev", &["rollingupdates"], &orders::verbs("rollingupdates")),
        rule("aether.dev", &["proxypools"], &orders::verbs("proxypools")),
    ];
    let own_rules =
        [rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]), rule("", &["configmaps"], &["get", "create", "patch"])];
    let binding = |kind: &str, role: &str, namespaced: Option<&str>| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": metadata(NAME, namespaced),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
        })
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(NAME, Some(namespace))}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(NAME, None), "rules": cluster_rules}),
        binding("ClusterRoleBinding", "ClusterRole", None),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata(NAME, Some(namespace)), "rules": own_rules}),
        binding("RoleBinding", "Role", Some(namespace)),
    ]
}

/// Has the API server put the finalizer on every RollingUpdate at its creation, so that it is safe from
/// its first moment and costs the operator no write. Needs Kubernetes 1.36; without it the operator adds it.
pub fn finalizer_policy() -> Vec<Value> {
    let name = "aether-finalizer";
    let expression = format!(
        "has(object.metadata.finalizers) ? [JSONPatch{{op: \"add\", path: \"/metadata/finalizers/-\", value: \"{0}\"}}] \
         : [JSONPatch{{op: \"add\", path: \"/metadata/finalizers\", value: [\"{0}\"]}}]",
        names::FINALIZER
    );
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": metadata(name, None),
        "spec": {
            "failurePolicy": "Ignore",
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["aether.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["rollingupdates"]}]},
            "matchConditions": [{"name": "not-there-yet", "expression": format!("!has(object.metadata.finalizers) || !object.metadata.finalizers.exists(f, f == '{}')", names::FINALIZER)}],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": metadata(name, None), "spec": {"policyName": name},
    });
    vec![policy, binding]
}

fn metadata(name: &str, namespace: Option<&str>) -> Value {
    let labels = json!({"app.kubernetes.io/name": "aether", "app.kubernetes.io/part-of": "aether"});
    match namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace, "labels": labels}),
        None => json!({"name": name, "labels": labels}),
    }
}

/// Objects as one YAML stream, headed by how it came to be.
pub fn to_yaml<T: Serialize>(objects: &[T]) -> anyhow::Result<String> {
    let mut text = String::from("# Generated by aether-operator; `make generate` writes it anew.\n");
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object).context("printing YAML")?);
    }
    Ok(text)
}

//! An operator of one namespace: it does its work there, touches nothing elsewhere, and has no rights that it could do so with.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::audit::AuditLog;
use testbed::rig::{LIMIT, Rig, Shop};

use crate::chart::restricted;
use crate::helm::chart;
use crate::release::{install, on_a_bare_cluster, test};

const RELEASE: &str = "narrow";
const NAMESPACE: &str = "narrow-system";
const WATCHED: &str = "narrow-shop";
const OTHER: &str = "narrow-other";

pub async fn an_operator_of_one_namespace(rig: &Arc<Rig>) -> anyhow::Result<()> {
    on_a_bare_cluster(rig, RELEASE, NAMESPACE, work(rig)).await
}

async fn work(rig: &Arc<Rig>) -> anyhow::Result<()> {
    restricted(rig, NAMESPACE).await?;
    let mut shop = Shop::open(rig, WATCHED, json!({})).await?;
    rig.bed.create_namespace(OTHER).await?;
    install(rig, RELEASE, NAMESPACE, &chart(), &json!({"watchNamespace": WATCHED})).await?;
    test(rig, RELEASE, NAMESPACE).await?;

    let user = format!("system:serviceaccount:{NAMESPACE}:narrow-aether-operator");
    let elsewhere = json!({"apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "web"}, "spec": {"artifactBase": "shop.example:web", "version": "2.0.0"}});
    rig.bed.kubectl_stdin(&["-n", OTHER, "apply", "-f", "-"], &elsewhere.to_string()).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"progression": {"steps": ["1:1", "1:0"]}})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;

    let untouched: Value = serde_json::from_str(&rig.bed.kubectl(&["-n", OTHER, "get", "rollingupdate", "web", "-o", "json"]).await?)?;
    ensure!(untouched["status"]["observedGeneration"].is_null() && untouched["metadata"]["finalizers"].is_null(), "{untouched:#}");
    let writes = AuditLog::read(&rig.bed.audit_log())?.by_user(&user);
    let outside = writes.filter(|e| e.namespace != WATCHED && e.namespace != NAMESPACE);
    ensure!(!writes.is_empty() && outside.is_empty(), "writes elsewhere:\n{outside}");
    let refused = writes.filter(|e| e.code == 403);
    ensure!(refused.is_empty(), "writes that were denied:\n{refused}");

    // What it may, by its roles and by the API server's own answer.
    let owned = format!("app.kubernetes.io/instance={RELEASE}");
    let wide = "clusterroles,clusterrolebindings,validatingadmissionpolicies,mutatingadmissionpolicies";
    let wide = rig.bed.kubectl(&["get", wide, "-l", &owned, "-o", "name"]).await?;
    let reviews = "narrow-aether-operator-narrow-system-reviews";
    ensure!(
        wide.lines().collect::<Vec<_>>()
            == [
                format!("clusterrole.rbac.authorization.k8s.io/{reviews}"),
                format!("clusterrolebinding.rbac.authorization.k8s.io/{reviews}")
            ],
        "cluster-wide are:\n{wide}"
    );
    for (namespace, verb, resource, may) in [
        (WATCHED, "patch", "rollingupdates.aether.dev", true),
        (WATCHED, "get", "secrets", false),
        (OTHER, "get", "rollingupdates.aether.dev", false),
        (OTHER, "list", "pods", false),
        (NAMESPACE, "list", "secrets", false),
    ] {
        let answer = rig.bed.kubectl(&["auth", "can-i", verb, resource, "-n", namespace, "--as", &user]).await;
        ensure!(answer.is_ok() == may, "{verb} {resource} in {namespace}: {answer:?}");
    }
    println!(
        "watchNamespace={WATCHED}: {requests} requests, 0 failed, {} writes there, none elsewhere; cluster-wide is {reviews} only",
        writes.without_events_and_leases().len()
    );
    rig.bed.kubectl(&["-n", OTHER, "delete", "rollingupdate", "web", "--timeout=30s"]).await?;
    shop.kubectl(&["delete", "rollingupdates", "--all", "--timeout=60s"]).await?;
    shop.close().await
}

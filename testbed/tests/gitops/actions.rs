//! Argo CD's actions write what the CLI and the REST API write, are refused where they refuse, and the API server takes them.

use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::RollingUpdate;
use aether_operator::orders::updates::{Order, order};
use anyhow::{Context, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use testbed::bed::client_of;
use testbed::gitops::Engines;
use testbed::rig::Rig;
use testbed::watching;

use super::{git, shipped};

const ORDERS: [(&str, Order); 5] = [
    ("approve", Order::Approve(None)),
    ("complete", Order::Complete),
    ("pause", Order::Pause),
    ("resume", Order::Resume),
    ("rollback", Order::Rollback),
];

/// One action on one status: the object, the patch that Argo CD sends, and the spec that must come of it.
struct Given {
    action: &'static str,
    name: String,
    object: Value,
    patch: Value,
    spec: Value,
}

/// Every action on every status; those that are refused must be refused by the REST API as well.
async fn given() -> anyhow::Result<(Vec<Given>, usize)> {
    let (engines, all) = (Engines::ensure()?, shipped::statuses("rollingupdates.json")?);
    let (_, scripts) = shipped::argo_actions()?;
    let objects: Vec<&Value> = all.values().collect();
    let (mut given, mut refused) = (Vec::new(), 0);
    for (action, asked) in ORDERS {
        let answers = engines.ask("argo-action", &json!({"script": scripts[action], "objects": objects})).await?;
        for ((name, object), answer) in all.iter().zip(answers) {
            let update: RollingUpdate = serde_json::from_value(object.clone())?;
            match order(&update, &asked) {
                Err(why) => {
                    ensure!(!answer.error.is_empty(), "{action} on {name}: REST refuses ({why:?}), the action writes {}", answer.answer);
                    ensure!(answer.error.starts_with("update web: "), "{action} on {name}: {}", answer.error);
                    refused += 1;
                }
                Ok(patch) => {
                    ensure!(answer.error.is_empty(), "{action} on {name}: REST takes it, the action says: {}", answer.error);
                    let (mut by_rest, mut by_action) = (object.clone(), object.clone());
                    git::merge(&mut by_rest, &patch.unwrap_or(json!({})));
                    git::merge(&mut by_action, &answer.answer);
                    ensure!(
                        by_rest == by_action,
                        "{action} on {name}: REST makes {:#}, the action {:#}",
                        by_rest["spec"],
                        by_action["spec"]
                    );
                    given.push(Given {
                        action,
                        name: name.clone(),
                        object: object.clone(),
                        patch: answer.answer,
                        spec: by_rest["spec"].clone(),
                    });
                }
            }
        }
    }
    Ok((given, refused))
}

pub async fn write_what_the_rest_api_writes(_: &Arc<Rig>) -> anyhow::Result<()> {
    let (given, refused) = given().await?;
    println!("actions: {} orders are the same as by REST, {refused} are refused by both", given.len());
    let differ = |action: &str| given.iter().filter(|g| g.action == action && g.patch != json!({})).count();
    ensure!(ORDERS.iter().all(|(action, _)| differ(action) > 0), "an action never does anything");
    Ok(())
}

/// As Argo CD runs them: a merge patch by its server's ServiceAccount, which may patch everything.
pub async fn are_taken_by_the_api_server_with_the_shipped_rights(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let bed = &rig.bed;
    bed.create_namespace("actions").await?;
    bed.kubectl(&["create", "namespace", "argocd"]).await?;
    bed.kubectl(&["-n", "argocd", "create", "serviceaccount", "argocd-server"]).await?;
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "patch", "delete"]}]);
    bed.apply(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "argocd-server"}, "rules": rules}),
    )
    .await?;
    bed.kubectl(&["create", "clusterrolebinding", "argocd-server", "--clusterrole=argocd-server", "--serviceaccount=argocd:argocd-server"])
        .await?;
    let server = client_of(&bed.service_account_kubeconfig("argocd", "argocd-server").await?).await?;
    let (updates, by_argo) = (watching::updates(&bed.client(), "actions"), watching::updates(&server, "actions"));

    let (given, _) = given().await?;
    let given: Vec<Given> = given.into_iter().filter(|g| g.patch != json!({})).collect();
    let name_of = |i: usize| format!("case-{i}");
    for (i, case) in given.iter().enumerate() {
        let object = json!({"apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": name_of(i)}, "spec": case.object["spec"]});
        updates.create(&PostParams::default(), &serde_json::from_value(object)?).await.with_context(|| case.name.clone())?;
    }
    let run = async |i: usize| by_argo.patch(&name_of(i), &PatchParams::default(), &Patch::Merge(&given[i].patch)).await;
    for (action, verb) in [("approve", "approve"), ("pause", "route"), ("rollback", "rollback"), ("complete", "complete")] {
        let i = given.iter().position(|g| g.action == action).context("no such case")?;
        let refused = run(i).await.err().map(|e| e.to_string()).unwrap_or_default();
        ensure!(
            refused.contains(&format!("the verb {verb} on rollingupdates.aether.dev is missing")),
            "{action} without the rights: {refused:?}"
        );
    }
    bed.apply_file(&shipped::path("argocd/rbac.yaml")).await?;
    let mut first = run(0).await;
    for _ in 0..40 {
        if first.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        first = run(0).await;
    }
    first?;
    for (i, case) in given.iter().enumerate() {
        let written = run(i).await.with_context(|| format!("{} on {}", case.action, case.name))?;
        ensure!(written.data["spec"] == case.spec, "{} on {}: {:#}, not {:#}", case.action, case.name, written.data["spec"], case.spec);
    }
    println!("actions: the API server took {} orders", given.len());
    bed.kubectl(&["delete", "-f", &shipped::path("argocd/rbac.yaml").display().to_string()]).await?;
    bed.kubectl(&["delete", "namespace", "actions", "argocd", "--wait=false"]).await?;
    Ok(())
}

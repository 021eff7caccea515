//! Argo CD, as far as it touches a cluster: its settings, and syncs with the sample's ignoreDifferences.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::Utc;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use serde_json::{Value, json};
use testbed::audit::AuditLog;
use testbed::bed::client_of;
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::Watching;

use super::git::{self, Git, Ignored, Tool, with_live};
use super::shipped;

const MANAGER: &str = "argocd-controller";

/// The sample's ignoreDifferences, which hold for syncs only by the option that it must set.
fn ignored() -> anyhow::Result<Vec<Ignored>> {
    let spec = shipped::documents("argocd/application.yaml")?.remove(0)["spec"].clone();
    let options = &spec["syncPolicy"]["syncOptions"];
    for option in ["ServerSideApply=true", "RespectIgnoreDifferences=true"] {
        ensure!(options.as_array().is_some_and(|all| all.iter().any(|o| o == option)), "the sample does not set {option}");
    }
    let all = spec["ignoreDifferences"].as_array().context("no ignoreDifferences")?;
    all.iter()
        .map(|i| {
            let text = |key: &str| i[key].as_str().unwrap_or_default().to_owned();
            Ok(Ignored { kind: text("kind"), name: text("name"), paths: serde_json::from_value(i["jsonPointers"].clone())? })
        })
        .collect()
}

/// Syncs as Argo CD does: it reads what is there, takes the ignored fields into the target from it, and applies by force.
struct Argo {
    client: Client,
    namespace: String,
    resources: BTreeMap<String, ApiResource>,
}

impl Argo {
    async fn new(client: Client, namespace: &str, items: &[Value]) -> anyhow::Result<Self> {
        let mut resources = BTreeMap::new();
        for item in items {
            let types: TypeMeta = serde_json::from_value(json!({"apiVersion": item["apiVersion"], "kind": item["kind"]}))?;
            let (resource, _) = kube::discovery::pinned_kind(&client, &GroupVersionKind::try_from(&types)?).await?;
            resources.insert(types.kind, resource);
        }
        Ok(Self { client, namespace: namespace.to_owned(), resources })
    }

    fn api(&self, item: &Value) -> anyhow::Result<(Api<DynamicObject>, String)> {
        let resource = item["kind"].as_str().and_then(|kind| self.resources.get(kind)).context("no such kind")?;
        let name = item["metadata"]["name"].as_str().context("no name")?;
        Ok((Api::namespaced_with(self.client.clone(), &self.namespace, resource), name.to_owned()))
    }

    /// What it would apply by what is there now, with the generation of that.
    async fn targets(&self, items: &[Value], ignored: &[Ignored]) -> anyhow::Result<Vec<(Value, Option<i64>)>> {
        let mut targets = Vec::new();
        for item in items {
            let (api, name) = self.api(item)?;
            let live = api.get_opt(&name).await?.map(|o| serde_json::to_value(o).unwrap_or_default()).unwrap_or_default();
            targets.push((with_live(item, &live, ignored), live["metadata"]["generation"].as_i64()));
        }
        Ok(targets)
    }

    /// Tells how many routes were not any more as they had been read: what somebody wrote in between was taken back. Where
    /// nobody did, nothing of the spec changes, and the generation stays.
    async fn apply(&self, targets: &[(Value, Option<i64>)]) -> anyhow::Result<usize> {
        let mut taken_back = 0;
        for (target, read) in targets {
            let (api, name) = self.api(target)?;
            let now = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(target)).await.with_context(|| name.clone())?;
            taken_back += usize::from(target["kind"] == "HTTPRoute" && read.is_some() && now.metadata.generation != *read);
        }
        Ok(taken_back)
    }
}

pub async fn a_loop_of_syncs_during_updates(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let ignored = ignored()?;
    let (kubeconfig, user) = git::account(rig, "argo").await?;
    let client = client_of(&kubeconfig).await?;
    let reverts = AtomicUsize::new(0);
    let sync = async |items: Vec<Value>| {
        let argo = Argo::new(client.clone(), "by-argo", &items).await?;
        // One by one: what is applied is as old as one request. What is older is the other test's.
        for item in items.chunks(1) {
            reverts.fetch_add(argo.apply(&argo.targets(item, &ignored).await?).await?, Ordering::Relaxed);
        }
        Ok(())
    };
    let tool = Tool { user: &user, manager: MANAGER, ignored: &ignored, sync };
    let outcome = git::whole_updates(rig, "by-argo", tool).await?;
    let reverts = reverts.into_inner();
    println!("by-argo: {reverts} times a write of the operator was taken back, {} times something was put back", outcome.put_back);
    // What is read can be out of date when it is applied, by milliseconds here. It hardly ever is, and then it is put right.
    ensure!(reverts <= 2 && outcome.put_back <= 2);
    ensure!(outcome.passes > 20 && outcome.requests > 0);
    Ok(())
}

/// A sync that read before a step and applies after it takes the step back for a moment.
pub async fn a_sync_of_what_was_read_a_step_ago_is_put_right(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let ignored = ignored()?;
    let (kubeconfig, user) = git::account(rig, "argo-late").await?;
    let mut shop = Shop::open(rig, "argo-late", json!({})).await?;
    let git = Git::of(&shop)?;
    let argo = Argo::new(client_of(&kubeconfig).await?, &shop.namespace, &git.items()).await?;
    let watching = Watching::start(&rig.bed.client(), &shop.namespace, "web");
    argo.apply(&argo.targets(&git.items(), &ignored).await?).await?;
    watching.until("the live version in its care", LIMIT, |s| s.condition("Ready").1 == "AlreadyLive").await?;
    shop.start_load()?;
    git.release("2.0.0");
    argo.apply(&argo.targets(&git.items(), &ignored).await?).await?;
    let at = async |ratio: &'static str| {
        shop.order(json!({"routing": ratio})).await?;
        watching.until(ratio, LIMIT, |s| s.text("/routing") == ratio && s.condition("TrafficShifted").0 == "True").await
    };
    at("1:3").await?;
    let late = argo.targets(&git.items(), &ignored).await?;
    at("3:1").await?;
    let from = Utc::now();
    ensure!(argo.apply(&late).await? > 0, "it took nothing back");
    tokio::time::sleep(Duration::from_secs(6)).await;
    for gateway in 0..2 {
        shop.comes_to_shares(gateway, &[("2.0.0", 0.75)]).await?;
    }
    let told = watching.last().context("no status")?.status["interference"].as_array().map_or(0, Vec::len);
    let log = AuditLog::read(&rig.bed.audit_log())?.in_namespace(&shop.namespace);
    let took = git::put_right_after(&log, &user, from).context("no step was taken back, or it was not put right")?;
    shop.patch_update(json!({"control": null})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    println!("argo-late: a step was taken back for {took:?} and counted {told} times; {requests} requests, 0 failed");
    // One route of two is put right at once; where both were taken back before the operator looked, it is a step back, and the
    // step is taken again when it has settled (3 s).
    ensure!(took < Duration::from_secs(6));
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.close().await
}

/// The fragment is added to an argocd-cm that has other settings, by kubectl and by kustomize.
pub async fn the_settings_join_those_that_are_there(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let bed = &rig.bed;
    let namespace = "settings";
    bed.create_namespace(namespace).await?;
    bed.kubectl(&["-n", namespace, "create", "configmap", "argocd-cm", "--from-literal=url=https://argocd.example"]).await?;
    let file = shipped::path("argocd/argocd-cm.yaml").display().to_string();
    bed.kubectl(&["-n", namespace, "patch", "configmap", "argocd-cm", "--type=merge", "--patch-file", &file]).await?;
    let patched: Value = serde_json::from_str(&bed.kubectl(&["-n", namespace, "get", "configmap", "argocd-cm", "-o", "json"]).await?)?;
    let folder = tempfile::tempdir_in(bed.dir())?;
    let component = folder.path().join("argocd");
    std::fs::create_dir(&component)?;
    for file in ["kustomization.yaml", "argocd-cm.yaml"] {
        std::fs::copy(shipped::path("argocd").join(file), component.join(file))?;
    }
    std::fs::write(
        folder.path().join("cm.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: argocd-cm}\ndata: {url: 'https://argocd.example'}\n",
    )?;
    std::fs::write(folder.path().join("kustomization.yaml"), "resources: [cm.yaml]\ncomponents: [argocd]\n")?;
    let built: Value = serde_yaml::from_str(&bed.kubectl(&["kustomize", &folder.path().display().to_string()]).await?)?;
    ensure!(built["data"] == patched["data"], "kubectl and kustomize differ");
    let wanted = shipped::documents("argocd/argocd-cm.yaml")?.remove(0)["data"].clone();
    let has = wanted.as_object().context("no data")?.iter().all(|(key, value)| built["data"][key] == *value);
    ensure!(has && built["data"]["url"] == "https://argocd.example", "{:#}", built["data"]);
    bed.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok(())
}

//! The life of a release: installed, tried, upgraded from the chart before, changed, uninstalled and installed again, while a service
//! is called and its versions go out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::{Value, json};
use testbed::packaging::documents;
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::WatchingEndpoints;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::chart::restricted;
use crate::helm::{self, chart, text};

/// One release at a time: the definitions and the names of roles are there once.
static INSTALLED: Mutex<()> = Mutex::const_new(());
pub const RELEASE: &str = "aether-operator";
const NAMESPACE: &str = "aether-system";
/// Where the operator has no rights on Secrets.
const BESIDE: &str = "no-rights-beside";
/// A field that the definitions of the chart before did not have.
const NEW_FIELD: (&str, &str) = ("onBreach", "Rollback");
/// A leader that goes gives the Lease away; who follows asks for it this often (2 s), and gets it at the second time at the latest.
const WITHOUT_LEAD: Duration = Duration::from_secs(5);

pub async fn the_life_of_a_release(rig: &Arc<Rig>) -> anyhow::Result<()> {
    on_a_bare_cluster(rig, RELEASE, NAMESPACE, live(rig)).await
}

/// Does the work while no other release is there. Whatever comes of it, the next ones find a bare cluster.
pub async fn on_a_bare_cluster(
    rig: &Rig,
    release: &str,
    namespace: &str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let _installed = INSTALLED.lock().await;
    let done = work.await;
    if done.is_err() {
        eprintln!("{}", pods_say(rig, namespace).await);
    }
    gone(rig, release, namespace).await?;
    done
}

async fn live(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let [before, now] = [package(rig, Some("0.0.9")).await?, package(rig, None).await?];
    println!("helm package: {} ({} KiB)", file_name(&now), std::fs::metadata(&now)?.len() / 1024);

    restricted(rig, NAMESPACE).await?;
    install(rig, RELEASE, NAMESPACE, &before, &json!({})).await?;
    let strict = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    ensure!(rig.bed.kubectl_stdin(&strict, &breach().to_string()).await.is_err(), "the chart before had the new field");
    test(rig, RELEASE, NAMESPACE).await?;

    let mut shop = Shop::open(rig, "release", json!({})).await?;
    // Objects of both kinds that are only there. The operator is not let have pools, and says so.
    rig.bed.create_namespace(BESIDE).await?;
    let pool = testbed::operator::repository().join("examples/pool-kubernetes.yaml");
    rig.bed.kubectl(&["-n", BESIDE, "apply", "-f", text(&pool)?]).await?;
    let later = json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "later"},
        "spec": {"artifactBase": "shop.example:later", "version": "1.0.0"},
    });
    rig.bed.kubectl_stdin(&["-n", BESIDE, "apply", "-f", "-"], &later.to_string()).await?;
    shop.start_load()?;

    // The upgrade comes in the middle of an update, which goes on by itself.
    let endpoints = WatchingEndpoints::start(&rig.bed.client(), NAMESPACE, RELEASE);
    let watching = shop.update(json!({"progression": {"interval": "6s"}})).await?;
    watching.until("the first share", LIMIT, |s| s.place() == "ROUTING 1:9").await?;
    let (uids, pods, lead) = (uids(rig).await?, operators(rig, NAMESPACE).await?, Lead::watch(rig));
    upgrade(rig, &now, &json!({})).await?;
    let upgraded_at = watching.last().context("no status")?.place();
    let without = lead.end().await?;
    ensure!(self::uids(rig).await? == uids, "an object was lost, or made anew");
    ensure!(operators(rig, NAMESPACE).await?.is_disjoint(&pods), "the pods are those of the chart before");
    rig.bed.kubectl_stdin(&strict, &breach().to_string()).await.context("the definitions were not upgraded")?;
    watching.until_state("COMPLETED", LIMIT).await?;
    let way: Vec<String> = watching.places();
    ensure!(way.len() == 10 && way[3..8] == ["ROUTING 1:9", "ROUTING 1:3", "ROUTING 1:1", "ROUTING 3:1", "ROUTING 1:0"], "it went {way:?}");
    println!(
        "helm upgrade from 0.0.9: begun at ROUTING 1:9, over at {upgraded_at}, nobody led for {without:.1?}, no object lost, the update completed"
    );

    // Other values roll the pods one by one.
    let (pods, lead) = (operators(rig, NAMESPACE).await?, Lead::watch(rig));
    upgrade(rig, &now, &json!({"logLevel": "info,aether_operator=debug", "podAnnotations": {"changed": "yes"}})).await?;
    let without = lead.end().await?;
    ensure!(operators(rig, NAMESPACE).await?.is_disjoint(&pods), "the pods have the old values");
    let seen = endpoints.all();
    let least = seen.iter().skip_while(|ready| ready.len() < 2).map(BTreeSet::len).min().context("no endpoints")?;
    ensure!(least >= 2, "only {least} pods were ready at a time");
    println!("helm upgrade with other values: at least {least} pods ready at any time, nobody led for {without:.1?}");

    // Without an operator everything stays as it is, in the middle of an update as well.
    shop.patch_update(json!({"version": "3.0.0", "control": {"version": "3.0.0", "routing": "1:1"}})).await?;
    let half = |s: &testbed::watching::Seen| {
        s.text("/newVersion") == "3.0.0" && s.place() == "ROUTING 1:1" && s.condition("TrafficShifted").0 == "True"
    };
    watching.until("half of the traffic", LIMIT, half).await?;
    let (uids, users) = (self::uids(rig).await?, specs(&shop).await?);
    let said = helm::run(rig, &["uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "2m"], &Value::Null).await?;
    let out = said.succeeded()?;
    ensure!(out.contains("rollingupdates.aether.dev") && out.contains("proxypools.aether.dev"), "it does not say what it keeps: {out}");
    println!("helm uninstall:\n{}", out.trim());
    for gone in [
        "deployment/aether-operator",
        "clusterrole/aether-operator",
        "clusterrole/aether-viewer",
        "validatingadmissionpolicy/aether-orders",
    ] {
        ensure!(rig.bed.kubectl(&["-n", NAMESPACE, "get", gone]).await.is_err(), "{gone} is left");
    }
    sleep(Duration::from_secs(8)).await;
    ensure!(self::uids(rig).await? == uids, "RollingUpdates or pools went with the release");
    let after = specs(&shop).await?;
    ensure!(after == users, "what is the user's has changed:\n{after:#}\nit was\n{users:#}");
    for caller in 0..4 {
        let seen = shop.lately_seen_by(caller, 5000)?;
        ensure!(seen.requests() > 0 && seen.failed() == 0, "caller {caller}: {seen}");
    }

    // Installed again it takes up what is there.
    install(rig, RELEASE, NAMESPACE, &now, &json!({})).await?;
    println!("installed again, one led after {:.1?}", led(rig).await?);
    test(rig, RELEASE, NAMESPACE).await?;
    ensure!(self::uids(rig).await? == uids, "an object was lost, or made anew");
    shop.patch_update(json!({"control": {"version": "3.0.0", "routing": null}})).await?;
    watching.until("the end of the second update", LIMIT, |s| s.text("/newVersion") == "3.0.0" && s.state() == "COMPLETED").await?;
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    shop.no_empty_write()?;
    println!("install, upgrade, upgrade, uninstall, install: {requests} requests, 0 failed");
    for namespace in [BESIDE, &shop.namespace] {
        rig.bed.kubectl(&["-n", namespace, "delete", "rollingupdates,proxypools", "--all", "--timeout=60s"]).await?;
    }
    shop.close().await
}

/// This chart as a package; with another version it is the chart before, whose definitions lacked a field.
async fn package(rig: &Rig, version: Option<&str>) -> anyhow::Result<PathBuf> {
    let folder = rig.bed.dir().join("packages");
    std::fs::create_dir_all(&folder)?;
    let mut source = chart();
    if let Some(version) = version {
        let copy = folder.join("before");
        copy_folder(&source, &copy)?;
        let edit = |name: &str, edit: &dyn Fn(&mut Value) -> Option<()>| -> anyhow::Result<()> {
            let mut content: Value = documents(&std::fs::read_to_string(copy.join(name))?)?.pop().context("it is empty")?;
            edit(&mut content).with_context(|| format!("{name} is not what it was"))?;
            Ok(std::fs::write(copy.join(name), serde_yaml::to_string(&content)?)?)
        };
        edit("Chart.yaml", &|chart| {
            let chart = chart.as_object_mut()?;
            chart.insert("version".into(), json!(version));
            chart.insert("appVersion".into(), json!(version));
            Some(())
        })?;
        edit("files/crds/aether.dev_rollingupdates.yaml", &|crd| {
            let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/progression/properties";
            crd.pointer_mut(path)?.as_object_mut()?.remove(NEW_FIELD.0).map(drop)
        })?;
        source = copy;
    }
    let said = helm::run(rig, &["package", text(&source)?, "--destination", text(&folder)?], &Value::Null).await?.succeeded()?;
    let path = said.trim().rsplit_once(": ").context("it does not say where the package is")?.1;
    Ok(path.into())
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (from, to) = (entry.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?.path(), to.join(entry?.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            std::fs::copy(from, to)?;
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// An update that asks for the new field.
fn breach() -> Value {
    json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "new"},
        "spec": {"artifactBase": "shop.example:new", "version": "1.0.0", "progression": {NEW_FIELD.0: NEW_FIELD.1}},
    })
}

/// `helm install`, until all of it is ready.
pub async fn install(rig: &Rig, release: &str, namespace: &str, chart: &Path, values: &Value) -> anyhow::Result<()> {
    let args = ["install", release, text(chart)?, "-n", namespace, "--wait", "--timeout", "2m"];
    let said = helm::run(rig, &args, values).await?.succeeded()?;
    println!("helm install:\n{}", said.trim());
    Ok(())
}

async fn upgrade(rig: &Rig, chart: &Path, values: &Value) -> anyhow::Result<()> {
    let args = ["upgrade", RELEASE, text(chart)?, "-n", NAMESPACE, "--wait", "--timeout", "2m"];
    helm::run(rig, &args, values).await?.succeeded()?;
    Ok(())
}

/// `helm test`, which must find a leader.
pub async fn test(rig: &Rig, release: &str, namespace: &str) -> anyhow::Result<()> {
    // helm waits for pods, and a leader is elected a moment later.
    let said = helm::run(rig, &["test", release, "-n", namespace, "--logs", "--timeout", "1m"], &Value::Null).await?;
    println!("helm test:\n{}{}", said.out.trim(), said.err);
    ensure!(said.ok && said.out.contains("Phase:          Succeeded"), "helm test failed: {said:?}");
    Ok(())
}

/// Takes a release and its definitions away.
async fn gone(rig: &Rig, release: &str, namespace: &str) -> anyhow::Result<()> {
    helm::run(rig, &["uninstall", release, "-n", namespace, "--wait", "--ignore-not-found"], &Value::Null).await?.succeeded()?;
    let crds = ["crd/rollingupdates.aether.dev", "crd/proxypools.aether.dev"];
    rig.bed.kubectl(&[&["delete", "--ignore-not-found", "--timeout=60s"], &crds[..]].concat()).await?;
    Ok(())
}

/// Waits until a pod that is there leads. The rights go with the release, so the last leader could not give the Lease back: it has
/// to run out first.
async fn led(rig: &Rig) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let holder = rig.bed.kubectl(&["-n", NAMESPACE, "get", "lease", RELEASE, "-o", "jsonpath={.spec.holderIdentity}"]).await?;
        if !holder.is_empty() && rig.bed.kubectl(&["-n", NAMESPACE, "get", "pod", &holder]).await.is_ok() {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < LIMIT, "{holder:?} still leads");
        sleep(Duration::from_millis(250)).await;
    }
}

/// UIDs of all RollingUpdates and ProxyPools.
async fn uids(rig: &Rig) -> anyhow::Result<String> {
    let path = "jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.metadata.uid}{\"\\n\"}{end}";
    let all = rig.bed.kubectl(&["get", "rollingupdates,proxypools", "-A", "-o", path]).await?;
    ensure!(all.lines().count() == 3, "there are other objects:\n{all}");
    Ok(all)
}

/// UIDs of the operator's pods that are not about to go.
async fn operators(rig: &Rig, namespace: &str) -> anyhow::Result<BTreeSet<String>> {
    let shown = rig.bed.kubectl(&["-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=aether", "-o", "json"]).await?;
    let list: Value = serde_json::from_str(&shown)?;
    let all = list["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let uids: BTreeSet<String> = all.map(|pod| pod["metadata"]["uid"].to_string()).collect();
    ensure!(uids.len() == 2, "{} pods of the operator", uids.len());
    Ok(uids)
}

/// What a user's Deployments, Services and routes say.
async fn specs(shop: &Shop) -> anyhow::Result<Value> {
    let list: Value = serde_json::from_str(&shop.kubectl(&["get", "deployments,services,httproutes", "-o", "json"]).await?)?;
    let of = |o: &Value| json!({"kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"], "annotations": o["metadata"]["annotations"], "spec": o["spec"]});
    Ok(list["items"].as_array().into_iter().flatten().map(of).collect())
}

/// The end of what the operator's pods say, for errors.
async fn pods_say(rig: &Rig, namespace: &str) -> String {
    let selector = "app.kubernetes.io/name=aether";
    let log = rig.bed.kubectl(&["-n", namespace, "logs", "-l", selector, "--tail=40", "--prefix"]).await;
    let pods = rig.bed.kubectl(&["-n", namespace, "get", "pods,events"]).await;
    format!("the operator's pods said:\n{}\n{}", log.unwrap_or_else(|e| e.to_string()), pods.unwrap_or_else(|e| e.to_string()))
}

/// Looks for as long as it is watched whether somebody leads.
struct Lead {
    stop: oneshot::Sender<()>,
    watch: JoinHandle<anyhow::Result<Duration>>,
}

impl Lead {
    fn watch(rig: &Rig) -> Self {
        let leases: Api<Lease> = Api::namespaced(rig.bed.client(), NAMESPACE);
        let (stop, mut stopped) = oneshot::channel();
        let watch = tokio::spawn(async move {
            let (mut led, mut longest) = (Instant::now(), Duration::ZERO);
            while stopped.try_recv().is_err() {
                let spec = leases.get("aether-operator").await?.spec.unwrap_or_default();
                if spec.holder_identity.is_some_and(|holder| !holder.is_empty()) {
                    led = Instant::now();
                }
                longest = longest.max(led.elapsed());
                sleep(Duration::from_millis(50)).await;
            }
            Ok(longest)
        });
        Self { stop, watch }
    }

    /// For how long nobody led at most.
    async fn end(self) -> anyhow::Result<Duration> {
        let _ = self.stop.send(());
        let longest = self.watch.await??;
        ensure!(longest <= WITHOUT_LEAD, "nobody led for {longest:?}");
        Ok(longest)
    }
}

//! Sizes: by hand, by an autoscaler that points at the RollingUpdate, and by one that points at the Deployment. The
//! autoscaler is the control plane's own; what it reads is what the pods really answer.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{TimeDelta, Utc};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::core::ApiResource;
use serde_json::{Value, json};
use testbed::audit::{AuditLog, Effect};
use testbed::load::{Load, Plan, Target};
use testbed::rig::{LEASE, LIMIT, RATE, Rig, Shop};
use testbed::watching::{Seen, Size, Watching, WatchingSizes};
use tokio::time::sleep;

/// All at once: mostly they wait, for an autoscaler or for a minute to pass.
const AT_ONCE: usize = 5;

common::tests![
    by_hand_in_the_middle_and_at_rest
    as_many_as_asked_for_or_as_the_old_version_has
    an_autoscaler_of_the_update_follows_from_version_to_version;
    long:
    a_steady_load_keeps_its_pods_across_an_update
    an_autoscaler_of_the_deployment_is_copied_and_never_fought
];

/// What the autoscalers want a pod to work, in millicores.
const TARGET: f64 = 100.0;

/// Pods that a scale-down takes away serve for longer than a gateway takes to hear of it (2 s, and more where two cores do
/// everything): as with the preStop hook that such an application needs in any cluster. Of what the operator itself takes
/// away nothing depends on it; the other tests have pods that leave after 3 s.
fn patient() -> Value {
    json!({"testbed.aether.dev/shutdown": "10s"})
}

/// The controller manager's autoscaler in audit logs.
const AUTOSCALER: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";

/// Has a shop's callers make work for that many pods: 3.5 pods' work needs 4.
async fn work_for(shop: &Shop, pods: f64) -> anyhow::Result<()> {
    let cost = Duration::from_secs_f64(pods * TARGET / 1000.0 / RATE);
    shop.rig.metrics_api().await?.set_cost(&shop.namespace, cost);
    Ok(())
}

/// Points an autoscaler `web` at something, and watches it. It does at once what it finds right.
async fn autoscale(shop: &Shop, target: &Value) -> anyhow::Result<Watching> {
    let policies = json!([{"type": "Pods", "value": 20, "periodSeconds": 1}]);
    let at_once = json!({"stabilizationWindowSeconds": 0, "policies": policies});
    let object = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 12,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": format!("{TARGET}m")}}}],
            "behavior": {"scaleUp": at_once, "scaleDown": at_once},
        },
    });
    let resource = ApiResource::erase::<HorizontalPodAutoscaler>(&());
    let watching = Watching::of(Api::namespaced_with(shop.rig.bed.client(), &shop.namespace, &resource), "web");
    shop.kubectl_stdin(&["apply", "-f", "-"], &object.to_string()).await?;
    Ok(watching)
}

fn the_update() -> Value {
    json!({"apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "name": "web"})
}

/// Waits until a Deployment has exactly that many pods, all available.
async fn until_size(shop: &Shop, deployment: &str, pods: usize) -> anyhow::Result<()> {
    for field in [".spec.replicas", ".status.replicas", ".status.availableReplicas"] {
        let path = format!("jsonpath={{{field}}}={pods}");
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        shop.kubectl(&["wait", &format!("deployment/{deployment}"), "--for", &path, &limit]).await?;
    }
    Ok(())
}

/// Waits until both versions are wanted with that many pods or more, and with the same number.
async fn both_have_at_least(sizes: &WatchingSizes, pods: i32) -> anyhow::Result<()> {
    let last = |name: &str| sizes.of(name).last().map_or(0, |(_, size)| *size);
    let begun = tokio::time::Instant::now();
    while last("web") < pods || last("web") != last("web-2-0-0") {
        ensure!(begun.elapsed() < LIMIT, "they have {} and {}, not {pods}", last("web"), last("web-2-0-0"));
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

fn plain(sizes: &[Size]) -> Vec<i32> {
    sizes.iter().map(|(_, size)| *size).collect()
}

/// What anybody did to a kind of object in the shop's namespace.
fn writes_to(shop: &Shop, resource: &str) -> anyhow::Result<AuditLog> {
    let log = AuditLog::read(&shop.rig.bed.audit_log())?;
    Ok(log.in_namespace(&shop.namespace).filter(|e| e.target() == resource))
}

/// Nobody but the user has made or removed one of these.
fn only_the_users(shop: &Shop, resource: &str) -> anyhow::Result<()> {
    let made = writes_to(shop, resource)?.filter(|e| e.verb == "create" || e.verb.starts_with("delete"));
    ensure!(made.len() == 1 && made.entries()[0].user == "admin", "{resource}:\n{made}");
    Ok(())
}

async fn by_hand_in_the_middle_and_at_rest(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "by-hand", patient()).await?;
    shop.start_load()?;
    let sizes = WatchingSizes::start(&rig.bed.client(), &shop.namespace);
    let hold = json!({"control": {"version": "2.0.0", "routing": "1:3"}, "progression": {"steps": ["1:3", "1:0"]}});
    let watching = shop.update(hold).await?;
    watching.until("a quarter of the traffic", LIMIT, |s| s.place() == "ROUTING 1:3").await?;
    // Either version may have to carry everything, so both grow; neither shrinks.
    shop.kubectl(&["scale", "rollingupdate/web", "--replicas=6"]).await?;
    for deployment in ["web", "web-2-0-0"] {
        until_size(&shop, deployment, 6).await?;
    }
    shop.kubectl(&["scale", "rollingupdate/web", "--replicas=2"]).await?;
    shop.order(json!({"routing": null})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/ready") == "6/6", "it ended with {}", ended.text("/ready"));
    until_size(&shop, "web-2-0-0", 2).await?;
    shop.kubectl(&["scale", "rollingupdate/web", "--replicas=5"]).await?;
    until_size(&shop, "web-2-0-0", 5).await?;
    watching.until("5 ready pods", LIMIT, |s| s.text("/ready") == "5/5").await?;
    ensure!(plain(&sizes.of("web")) == [4, 6, 0], "web had {:?}", sizes.of("web"));
    let new = sizes.of("web-2-0-0");
    ensure!(plain(&new) == [4, 6, 2, 5] && new[2].0 > ended.at, "web-2-0-0 had {new:?}, COMPLETED at {}", ended.at);
    // The scale subresource tells what an autoscaler needs.
    let scale: Value = serde_json::from_str(&shop.kubectl(&["get", "rollingupdate", "web", "--subresource=scale", "-o", "json"]).await?)?;
    ensure!(scale.pointer("/spec/replicas") == Some(&json!(5)) && scale.pointer("/status/replicas") == Some(&json!(5)), "{scale:#}");
    let selector = scale.pointer("/status/selector").and_then(Value::as_str).context("no selector")?;
    let pods = shop.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[*].metadata.name}"]).await?;
    let pods: Vec<&str> = pods.split_whitespace().collect();
    ensure!(pods.len() == 5 && pods.iter().all(|p| p.starts_with("web-2-0-0-")), "{selector} selects {pods:?}");
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    println!("scaled by hand in the middle of an update and after: {requests} requests, 0 failed");
    shop.close().await
}

async fn as_many_as_asked_for_or_as_the_old_version_has(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "instances", json!({})).await?;
    shop.kubectl(&["scale", "deployment/web", "--replicas=3"]).await?;
    until_size(&shop, "web", 3).await?;
    let sizes = WatchingSizes::start(&rig.bed.client(), &shop.namespace);
    let watching = shop.update(json!({"progression": {"steps": ["1:0"]}})).await?;
    let releases = [("2.0.0", None, 3), ("3.0.0", Some(5), 5), ("4.0.0", Some(2), 2), ("5.0.0", None, 2)];
    for (version, instances, pods) in releases {
        shop.patch_update(json!({"version": version, "instances": instances})).await?;
        let ended = watching.until(version, LIMIT, |s| s.text("/newVersion") == version && s.state() == "COMPLETED").await?;
        let told = ended.status.pointer("/newInstances");
        ensure!(told == Some(&json!(pods)) && ended.text("/ready") == format!("{pods}/{pods}"), "{version}: {:#}", ended.status);
        // What is asked for the next version is nothing to the one before.
        let name = format!("web-{}", version.replace('.', "-"));
        ensure!(plain(&sizes.of(&name)) == [pods], "{name} had {:?}", sizes.of(&name));
    }
    ensure!(plain(&sizes.of("web")) == [3, 0] && plain(&sizes.of("web-3-0-0")) == [5], "{sizes:?}");
    shop.nothing_left_but(&["web", "web-5-0-0"]).await?;
    shop.close().await
}

/// Whether an autoscaler could do its work, from its first decision on.
fn always_active(autoscaler: &Watching) -> anyhow::Result<()> {
    let active = |s: &Seen| s.condition("ScalingActive");
    let all = autoscaler.all();
    let idle: Vec<_> = all.iter().skip_while(|s| active(s).0 != "True").filter(|s| active(s).0 != "True").collect();
    ensure!(all.iter().any(|s| active(s).0 == "True"), "it never was active: {all:#?}");
    ensure!(idle.is_empty(), "it could not scale: {idle:#?}");
    Ok(())
}

async fn an_autoscaler_of_the_update_follows_from_version_to_version(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "follows", patient()).await?;
    shop.start_load()?;
    work_for(&shop, 3.5).await?;
    let sizes = WatchingSizes::start(&rig.bed.client(), &shop.namespace);
    let watching = shop.update(json!({"version": "1.0.0", "progression": {"steps": ["1:3", "3:1", "1:0"]}})).await?;
    watching.until("the version that is live", LIMIT, |s| s.condition("Ready").1 == "AlreadyLive").await?;
    shop.kubectl(&["scale", "rollingupdate/web", "--replicas=4"]).await?;
    let autoscaler = autoscale(&shop, &the_update()).await?;
    let pods_wanted = |pods: i64| move |s: &Seen| s.status.pointer("/desiredReplicas").and_then(Value::as_i64) == Some(pods);
    autoscaler.until("4 pods for the work of 3.5", LIMIT, pods_wanted(4)).await?;
    work_for(&shop, 5.5).await?;
    until_size(&shop, "web", 6).await?;

    // In the middle it goes by the version that carries more: at 1:3 that has four of five requests. Less than there is
    // is wanted then, which must wait; more is there at once.
    shop.patch_update(json!({"version": "2.0.0", "control": {"version": "2.0.0", "routing": "1:3"}})).await?;
    watching.until("a quarter of the traffic", LIMIT, |s| s.place() == "ROUTING 1:3").await?;
    autoscaler.until("5 pods for the rest of the work", LIMIT, pods_wanted(5)).await?;
    // Of work for 9.1 pods the old version has that for 7.5. A single figure of an autoscaler may be off, upwards too, and
    // in the middle of an update nothing shrinks: so at least that.
    work_for(&shop, 9.1).await?;
    both_have_at_least(&sizes, 8).await?;
    shop.order(json!({"routing": null})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    // An autoscaler leaves alone what is within a tenth, and a single figure may have brought it to any size by now: this is
    // more than a tenth above its maximum, so it comes to that from wherever it is.
    work_for(&shop, 13.5).await?;
    until_size(&shop, "web-2-0-0", 12).await?;
    let (last, grown) = (sizes.of("web").pop(), plain(&sizes.of("web")));
    ensure!(last.is_some_and(|(_, size)| size == 0), "web had {grown:?}");
    ensure!(grown.starts_with(&[4, 6]) && grown[..grown.len() - 1].is_sorted(), "web had {grown:?}");
    let new = sizes.of("web-2-0-0");
    let during: Vec<i32> = new.iter().filter(|(at, _)| *at <= ended.at).map(|(_, size)| *size).collect();
    ensure!(during.first() == Some(&6) && during.is_sorted(), "web-2-0-0 had {new:?}, COMPLETED at {}", ended.at);
    // What is asked right after an update may still be half of the truth; later it is done at once.
    let rested = ended.at + TimeDelta::seconds(65) - Utc::now();
    sleep(rested.to_std().unwrap_or_default()).await;
    work_for(&shop, 2.5).await?;
    // Pods that are going still do some of the work.
    sleep(Duration::from_secs(10)).await;
    until_size(&shop, "web-2-0-0", 3).await?;
    let (old, new) = (plain(&sizes.of("web")), plain(&sizes.of("web-2-0-0")));
    let requests = shop.no_request_failed().await?;

    always_active(&autoscaler)?;
    // It has looked at one version's pods at a time, and always at those that the status tells.
    let told: Vec<String> = watching.all().iter().map(|s| s.text("/selector").to_owned()).collect();
    let asked = rig.metrics_api().await?.asked(&shop.namespace);
    let (by_hash, by_revision): (Vec<&String>, Vec<&String>) = asked.iter().partition(|s| s.contains("pod-template-hash="));
    ensure!(by_hash.len() == 1 && by_revision.len() == 1 && by_revision[0].contains("web-2-0-0"), "it asked for {asked:?}");
    ensure!(asked.iter().all(|asked| told.iter().any(|told| same_selector(told, asked))), "it asked for {asked:?}, told were {told:?}");
    only_the_users(&shop, "horizontalpodautoscalers")?;
    shop.no_wasted_write()?;
    println!("an autoscaler across an update: 1.0.0 had {old:?}, 2.0.0 had {new:?}; {requests} requests, 0 failed");
    shop.close().await
}

/// The same requirements, in whatever order.
fn same_selector(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.split(',').map(str::to_owned).collect();
        parts.sort_unstable();
        parts
    };
    sorted(one) == sorted(other)
}

async fn an_autoscaler_of_the_deployment_is_copied_and_never_fought(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "stays", patient()).await?;
    shop.start_load()?;
    shop.kubectl(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--max-unavailable=1"]).await?;
    let sizes = WatchingSizes::start(&rig.bed.client(), &shop.namespace);
    work_for(&shop, 4.5).await?;
    let autoscaler = autoscale(&shop, &json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"})).await?;
    until_size(&shop, "web", 5).await?;
    let hold = json!({"control": {"version": "2.0.0", "routing": "1:3"}, "progression": {"steps": ["1:3", "1:0"]}});
    let watching = shop.update(hold).await?;
    watching.until("a quarter of the traffic", LIMIT, |s| s.place() == "ROUTING 1:3").await?;
    // The autoscaler goes on sizing the old version, and the new one keeps up.
    work_for(&shop, 6.5).await?;
    for deployment in ["web", "web-2-0-0"] {
        until_size(&shop, deployment, 7).await?;
    }
    shop.order(json!({"routing": null})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    let (status, reason, help) = ended.condition("AutoscalerFollows");
    ensure!(status == "False" && reason == "PointsAtDeployment" && help.contains("scaleTargetRef"), "{status} {reason}: {help}");
    autoscaler.until("nothing to scale", LIMIT, |s| s.condition("ScalingActive").1 == "ScalingDisabled").await?;
    sleep(Duration::from_secs(5)).await;
    // While the new version takes its share the autoscaler may well think again; what it says of the old version is done,
    // and the new one only grows.
    let (old, new) = (plain(&sizes.of("web")), plain(&sizes.of("web-2-0-0")));
    ensure!(old.starts_with(&[4, 5]) && old.contains(&7) && old.ends_with(&[0]), "web had {old:?}");
    ensure!(new.is_sorted() && new.first() == Some(&5) && new.last() >= Some(&7), "web-2-0-0 had {new:?}");
    let by_autoscaler = writes_to(&shop, "deployments/scale")?.by_user(AUTOSCALER);
    ensure!(by_autoscaler.len() == old.len() - 2, "the autoscaler wrote again what somebody else had changed:\n{by_autoscaler}");
    let by_operator = shop.no_wasted_write()?.with_effect(Effect::Changed).filter(|e| e.resource == "deployments");
    ensure!(by_operator.filter(|e| e.name == "web").len() == 2, "not just pause and end:\n{by_operator}");
    ensure!(by_operator.filter(|e| e.name == "web-2-0-0").len() == new.len(), "not just creation and growth:\n{by_operator}");

    // What the condition says helps: from now on the autoscaler follows.
    shop.kubectl(&["scale", "rollingupdate/web", "--replicas=7"]).await?;
    shop.kubectl(&["patch", "hpa", "web", "--type=merge", "-p", &json!({"spec": {"scaleTargetRef": the_update()}}).to_string()]).await?;
    watching.until("the condition to go", LIMIT, |s| s.condition("AutoscalerFollows").0.is_empty()).await?;
    work_for(&shop, 8.5).await?;
    until_size(&shop, "web-2-0-0", 9).await?;
    let requests = shop.no_request_failed().await?;
    only_the_users(&shop, "horizontalpodautoscalers")?;
    only_the_users(&shop, "poddisruptionbudgets")?;
    println!("an autoscaler of the Deployment, then of the update: {requests} requests, 0 failed");
    shop.close().await
}

/// An autoscaler leaves a size alone that is about right, and so never takes back what it asked for while it saw half of
/// the traffic: the pods that carry all of it must not go at once.
async fn a_steady_load_keeps_its_pods_across_an_update(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "steady", patient()).await?;
    let addr = ([127, 0, 0, 1], rig.gateways[1].options().port).into();
    let target = Target::Gateway { addr, host: format!("quick.{}.example", shop.namespace), headers: Vec::new() };
    let load = Load::start(Plan::new(target, RATE))?;
    work_for(&shop, 7.6).await?;
    let sizes = WatchingSizes::start(&rig.bed.client(), &shop.namespace);
    let watching = shop.update(json!({"version": "1.0.0", "instances": 8, "progression": {"steps": ["1:1", "1:0"]}})).await?;
    watching.until("the version that is live", LIMIT, |s| s.condition("Ready").1 == "AlreadyLive").await?;
    until_size(&shop, "web", 8).await?;
    autoscale(&shop, &the_update()).await?;
    shop.patch_update(json!({"version": "2.0.0", "control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let asked = "jsonpath={.spec.instances}=4";
    shop.kubectl(&["wait", "rollingupdate/web", "--for", asked, "--timeout=60s"]).await?;
    shop.order(json!({"routing": null})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/ready") == "8/8", "it ended with {}", ended.text("/ready"));
    let later = ended.at + TimeDelta::seconds(80) - Utc::now();
    sleep(later.to_std().unwrap_or_default()).await;
    println!("under steady work for 7.6 pods, COMPLETED at {}, 2.0.0 had {:?}", ended.at, sizes.of("web-2-0-0"));
    ensure!(sizes.of("web-2-0-0").iter().all(|(_, size)| *size >= 7), "2.0.0 had {:?}", sizes.of("web-2-0-0"));
    let report = load.stop().await;
    ensure!(report.failed() == 0, "{report}");
    shop.close().await
}

//! Rolling updates on a real control plane, under load through two gateways and of the Service itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::rig::{LIMIT, PODS, Rig, Shop};
use testbed::watching::Watching;

/// Tests at once: each has its load, and there are two cores.
const AT_ONCE: usize = 4;

common::tests![
    a_promotion_loses_nothing
    a_rollback_in_the_middle_loses_nothing
    a_rollback_before_any_traffic_leaves_nothing
    ratios_by_hand_up_and_down_and_complete
    a_grace_period_keeps_the_old_version_whole_and_the_way_back_short
    a_kept_old_version_stays_until_told
    the_next_release_on_the_same_object
    a_deleted_update_goes_back_first
    a_refused_deployment_fails_and_leaves_nothing
    of_two_updates_of_one_workload_one_waits
    a_quota_or_a_policy_in_the_way_is_told_and_leaves_nothing
    a_manifest_that_says_replicas_cannot_bring_an_old_version_back
    a_version_that_never_gets_ready_is_rolled_back
    refused_at_apply_time
    held_in_pending_with_a_way_out
    every_example_applies
];

/// The places an automatic update of the default steps goes through.
const WAY: [&str; 10] = [
    "PENDING",
    "DEPLOYING",
    "DEPLOYED",
    "ROUTING 1:9",
    "ROUTING 1:3",
    "ROUTING 1:1",
    "ROUTING 3:1",
    "ROUTING 1:0",
    "COMPLETING",
    "COMPLETED",
];

async fn a_promotion_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "promote", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    ensure!(watching.places() == WAY, "it went {:?}", watching.places());
    ensure!(ended.text("/oldVersion") == "1.0.0" && ended.text("/newVersion") == "2.0.0" && ended.text("/ready") == "4/4");
    ensure!(ended.condition("Ready").0 == "True" && ended.condition("OldVersionRemoved").0 == "True");
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    ensure!(shop.get("deployment/web").await?.pointer("/spec/replicas") == Some(&json!(0)));
    let writes = shop.no_wasted_write()?;
    println!("promotion over two routes: {requests} requests, 0 failed\n{writes}");
    shop.close().await
}

async fn a_rollback_in_the_middle_loses_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "rollback", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let before = shop.rig.writes(&shop.namespace)?.len();
    shop.order(json!({"outcome": "Rollback"})).await?;
    let back = watching.until_state("ROLLING_BACK", LIMIT).await?;
    ensure!(back.condition("Ready").1 == "RollbackOrdered");
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    let requests = shop.no_request_failed().await?;
    let writes = shop.no_wasted_write()?;
    let after = &writes.entries()[before..];
    ensure!(after[0].resource == "httproutes" && after[1].resource == "httproutes", "the weights were not first:\n{writes}");
    shop.nothing_left_but(&["web"]).await?;
    ensure!(shop.get("deployment/web").await?.pointer("/spec/replicas") == Some(&json!(PODS)));
    println!("rollback from 1:1 over two routes: {requests} requests, 0 failed");
    shop.close().await
}

async fn a_rollback_before_any_traffic_leaves_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "early", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "0:1"}})).await?;
    let deployed =
        watching.until("DEPLOYED and waiting", LIMIT, |s| s.state() == "DEPLOYED" && s.condition("Ready").1 == "AwaitingRouting").await?;
    ensure!(deployed.condition("Reconciling").0 == "True");
    // 0 % is 0: nobody has met the new version, not even callers of the Service itself.
    for caller in 0..4 {
        ensure!(shop.seen_by(caller)?.share("2.0.0") == 0.0, "caller {caller} met the new version");
    }
    shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    for caller in 0..4 {
        ensure!(shop.seen_by(caller)?.share("2.0.0") == 0.0, "caller {caller} met the new version");
    }
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

async fn ratios_by_hand_up_and_down_and_complete(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "by-hand", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"control": {"version": "2.0.0", "routing": "1:3"}})).await?;
    for (ratio, share) in [("1:3", 0.25), ("3:1", 0.75), ("0:1", 0.0), ("1:1", 0.5)] {
        shop.order(json!({"routing": ratio})).await?;
        watching.until(ratio, LIMIT, |s| s.text("/routing") == ratio && s.condition("TrafficShifted").0 == "True").await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let now = chrono::Utc::now();
        let window = |report: testbed::load::Report| report.between(now - chrono::TimeDelta::milliseconds(1500), now).share("2.0.0");
        for gateway in 0..2 {
            let seen = window(shop.seen_by(gateway)?);
            ensure!((seen - share).abs() < 0.05, "at {ratio} gateway {gateway} sent {seen}");
        }
        ensure!(window(shop.seen_by(2)?) == 0.0, "callers of the Service met the new version before x:0");
    }
    shop.order(json!({"outcome": "Complete"})).await?;
    let refused = watching.until("a refusal", LIMIT, |s| s.condition("OrderAccepted").0 == "False").await?;
    ensure!(refused.condition("OrderAccepted").1 == "CompleteNeedsFullRouting" && refused.state() == "ROUTING");
    shop.order(json!({"routing": "1:0"})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

async fn a_grace_period_keeps_the_old_version_whole_and_the_way_back_short(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "grace", json!({})).await?;
    shop.start_load()?;
    let spec = json!({"cleanupPolicy": "GRACE_PERIOD", "progression": {"steps": ["1:0"]}});
    let watching = shop.update(spec).await?;
    watching.until_state("COMPLETING", LIMIT).await?;
    // Long past the drain, the old version is whole and the routes are the user's again.
    tokio::time::sleep(Duration::from_secs(15)).await;
    ensure!(watching.last().context("no status")?.state() == "COMPLETING");
    let old = shop.get("deployment/web").await?;
    ensure!(old.pointer("/status/availableReplicas") == Some(&json!(PODS)));
    let before = shop.rig.writes(&shop.namespace)?.len();
    shop.order(json!({"outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    shop.no_request_failed().await?;
    let writes = shop.no_wasted_write()?;
    ensure!(
        writes.entries()[before].target() == "services" && writes.entries()[before].name == "web",
        "not one patch of the apex:\n{writes}"
    );
    shop.nothing_left_but(&["web"]).await?;
    shop.close().await
}

async fn a_kept_old_version_stays_until_told(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "keep", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"cleanupPolicy": "MANUAL", "progression": {"steps": ["1:1", "1:0"]}})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.condition("OldVersionRemoved").0 == "False" && ended.condition("OldVersionRemoved").1 == "CleanupManual");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let now = chrono::Utc::now();
    for caller in 0..4 {
        let share = shop.seen_by(caller)?.between(now - chrono::TimeDelta::seconds(2), now).fresh().share("2.0.0");
        ensure!(share >= 1.0, "caller {caller} still meets the old version");
    }
    ensure!(shop.get("deployment/web").await?.pointer("/status/availableReplicas") == Some(&json!(PODS)));
    shop.patch_update(json!({"cleanupPolicy": "IMMEDIATE"})).await?;
    watching.until("its end", LIMIT, |s| s.condition("OldVersionRemoved").0 == "True").await?;
    ensure!(!watching.places().iter().skip_while(|p| *p != "COMPLETED").any(|p| p != "COMPLETED"), "it went {:?}", watching.places());
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

async fn the_next_release_on_the_same_object(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "next", json!({})).await?;
    shop.start_load()?;
    let steps = json!({"progression": {"steps": ["1:1", "1:0"]}});
    let watching = shop.update(steps).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    shop.patch_update(json!({"version": "3.0.0"})).await?;
    watching.until("the next release", LIMIT, |s| s.text("/newVersion") == "3.0.0" && s.state() == "DEPLOYING").await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/oldVersion") == "2.0.0");
    shop.no_request_failed().await?;
    // The operator made 2.0.0, so it is gone; the user's own Deployment stays as the template.
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

async fn a_deleted_update_goes_back_first(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "deleted", json!({})).await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    watching.until("a quarter of the traffic", LIMIT, |s| s.place() == "ROUTING 1:3").await?;
    shop.kubectl(&["delete", "rollingupdate", "web", "--timeout=90s"]).await?;
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

/// Has the API server deny what matches the rule in the shop's namespace, unless the expression holds.
async fn forbid(shop: &Shop, name: &str, rule: Value, expression: &str, message: &str) -> anyhow::Result<()> {
    let object = |kind: &str, spec: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let policy = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": shop.namespace}}, "resourceRules": [rule]},
        "validations": [{"expression": expression, "message": message}],
    });
    shop.rig.bed.apply(object("ValidatingAdmissionPolicy", policy)).await?;
    let binding = json!({"policyName": name, "validationActions": ["Deny"]});
    shop.rig.bed.apply(object("ValidatingAdmissionPolicyBinding", binding)).await?;
    // Policies are in force when the API server's own watch has seen them.
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(())
}

async fn a_refused_deployment_fails_and_leaves_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "refused", json!({})).await?;
    let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]});
    let allowed = "!object.spec.template.spec.containers.exists(c, c.image.endsWith(':6.6.6'))";
    forbid(&shop, "no-6-6-6", rule, allowed, "6.6.6 is not for us").await?;
    let watching = shop.update(json!({"version": "6.6.6"})).await?;
    let ended = watching.until_state("FAILED", LIMIT).await?;
    let (_, reason, message) = ended.condition("Stalled");
    ensure!(reason == "RefusedByApiServer" && message.contains("6.6.6 is not for us"), "{reason}: {message}");
    shop.nothing_left_but(&["web"]).await?;
    let writes = shop.rig.writes(&shop.namespace)?.filter(|e| e.verb == "create");
    ensure!(writes.len() == 1, "it was tried more than once:\n{writes}");
    shop.close().await
}

async fn a_quota_or_a_policy_in_the_way_is_told_and_leaves_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "barred", json!({})).await?;
    shop.kubectl(&["create", "quota", "few", "--hard=count/services=3"]).await?;
    let watching = shop.update(json!({"progression": {"steps": ["1:0"], "deployDeadline": "10s"}})).await?;
    let ended = watching.until_state("FAILED", LIMIT).await?;
    ensure!(ended.condition("Stalled").2.contains("exceeded quota"), "{:?}", ended.condition("Stalled"));
    shop.nothing_left_but(&["web"]).await?;
    let tried = shop.rig.writes(&shop.namespace)?.filter(|e| e.code >= 400);
    ensure!(tried.len() <= 2, "it was tried again and again:\n{tried}");

    shop.kubectl(&["delete", "quota", "few"]).await?;
    let rule =
        json!({"apiGroups": ["gateway.networking.k8s.io"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["httproutes"]});
    forbid(&shop, "frozen-routes", rule, "false", "routes are frozen this week").await?;
    shop.patch_update(json!({"attempt": 2})).await?;
    watching.until("the denial", LIMIT, |s| s.condition("Ready").2.contains("routes are frozen this week")).await?;
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(ended.condition("Stalled").1 == "DeployDeadlineExceeded", "{:?}", ended.condition("Stalled"));
    shop.nothing_left_but(&["web"]).await?;
    shop.close().await
}

async fn a_manifest_that_says_replicas_cannot_bring_an_old_version_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "replicas", json!({})).await?;
    let mut manifest = testbed::rig::deployment("web", &json!({}));
    manifest["spec"]["replicas"] = json!(PODS);
    shop.kubectl_stdin(&["apply", "-f", "-"], &manifest.to_string()).await?;
    shop.start_load()?;
    let watching = shop.update(json!({"progression": {"steps": ["1:0"]}})).await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.condition("Ready").2.contains("leave replicas out"), "{:?}", ended.condition("Ready"));
    shop.kubectl_stdin(&["apply", "-f", "-"], &manifest.to_string()).await?;
    shop.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).await?;
    // Version 1.0.0 has its pods back; nobody may meet it, not even after a rollback of the release after.
    shop.patch_update(json!({"version": "3.0.0", "progression": {"steps": ["1:1", "1:0"]}})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    shop.patch_update(json!({"control": {"version": "3.0.0", "outcome": "Rollback"}})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let now = chrono::Utc::now();
    for caller in 0..4 {
        let share = shop.seen_by(caller)?.between(now - chrono::TimeDelta::seconds(2), now).share("2.0.0");
        ensure!(share >= 1.0, "caller {caller} gets version 2.0.0 only for {share}");
    }
    shop.no_request_failed().await?;
    shop.close().await
}

async fn of_two_updates_of_one_workload_one_waits(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "two", json!({})).await?;
    let names = ["first", "second"];
    let watching = names.map(|name| Watching::start(&rig.bed.client(), &shop.namespace, name));
    let items = names.map(|name| {
        json!({
            "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": name},
            "spec": {
                "artifactBase": "shop.example:web", "version": if name == "first" { "2.0.0" } else { "3.0.0" }, "metrics": {"none": {}},
                "cleanupPolicy": "IMMEDIATE", "traffic": {"settle": "2s", "drain": "2s"}, "progression": {"interval": "2s", "steps": ["1:0"]},
            },
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    shop.kubectl_stdin(&["apply", "-f", "-"], &list.to_string()).await?;
    watching[0].until_state("COMPLETED", LIMIT).await?;
    let waited = watching[1].all().iter().any(|s| s.state() == "PENDING" && s.condition("Ready").1 == "AnotherUpdateActive");
    ensure!(waited, "the second did not wait; it went {:?}", watching[1].places());
    let ended = watching[1].until_state("COMPLETED", LIMIT).await?;
    ensure!(ended.text("/oldVersion") == "2.0.0", "the second did not start from the first's version");
    shop.nothing_left_but(&["web", "web-3-0-0"]).await?;
    shop.close().await
}

async fn a_version_that_never_gets_ready_is_rolled_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "never", json!({})).await?;
    shop.start_load()?;
    // Only pods made from now on are bad: the edit is not rolled out, because it arrives while the workload is paused.
    let watching = shop.update(json!({"version": "2.0.0", "progression": {"deployDeadline": "12s"}, "workload": {"image": "registry.example/broken:{version}"}})).await?;
    let broken = r#"{"spec":{"template":{"metadata":{"annotations":{"testbed.aether.dev/image-pull-error":"true"}}}}}"#;
    watching.until_state("DEPLOYING", LIMIT).await?;
    shop.kubectl(&["wait", "--for=create", "deployment/web-2-0-0", "--timeout=30s"]).await?;
    shop.kubectl(&["patch", "deployment", "web-2-0-0", "--type=merge", "-p", broken]).await?;
    let said = watching.until("the pods' trouble", LIMIT, |s| s.condition("Ready").1.contains("ImagePull")).await?;
    ensure!(said.condition("Ready").2.contains("web-2-0-0-"), "the pod is not named: {}", said.condition("Ready").2);
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(ended.condition("Stalled").1 == "DeployDeadlineExceeded", "{:?}", ended.condition("Stalled"));
    shop.no_request_failed().await?;
    shop.nothing_left_but(&["web"]).await?;
    shop.close().await
}

async fn refused_at_apply_time(rig: &Arc<Rig>) -> anyhow::Result<()> {
    rig.bed.create_namespace("typos").await?;
    let cases: [(&str, Value, &str); 19] = [
        ("steps", json!({"progression": {"steps": ["1:", "1:0"]}}), "must be new:old"),
        ("steps", json!({"progression": {"steps": ["-1:2", "1:0"]}}), "must be new:old"),
        ("steps", json!({"progression": {"steps": ["0:0", "1:0"]}}), "not both 0"),
        ("steps", json!({"progression": {"steps": ["1:0:0"]}}), "must be new:old"),
        ("steps", json!({"progression": {"steps": ["1000001:1", "1:0"]}}), "1000000"),
        ("steps", json!({"progression": {"steps": ["1:9", "1:1"]}}), "the last step must give the new version everything"),
        ("steps", json!({"progression": {"steps": []}}), "at least 1"),
        ("routing", json!({"control": {"version": "2.0.0", "routing": "0:0"}}), "not both 0"),
        ("maxErrorRate", json!({"maxErrorRate": 1.5}), "from 0 to 1"),
        ("maxErrorRate", json!({"maxErrorRate": -0.1}), "from 0 to 1"),
        ("maxLatencyMs", json!({"maxLatencyMs": 0}), "more than 0"),
        ("version", json!({"version": ""}), "1 to 63 characters"),
        ("version", json!({"version": "2.0 beta"}), "1 to 63 characters"),
        ("instances", json!({"instances": 0}), "1 or more"),
        ("cleanupPolicy", json!({"cleanupPolicy": "LATER"}), "GRACE_PERIOD"),
        ("settle", json!({"traffic": {"settle": "soon"}}), "30s"),
        ("image", json!({"workload": {"image": "registry.example/x y:{version}"}}), "{version}"),
        ("metrics", json!({"metrics": {"none": {}, "pods": {}}}), "one of pods, prometheus and none"),
        ("artifactBase", json!({"artifactBase": "shop"}), "group:name"),
    ];
    for (field, spec, wanted) in cases {
        let mut object = json!({
            "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "typo"},
            "spec": {"artifactBase": "shop.example:web", "version": "2.0.0"},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let answer = rig.bed.kubectl_stdin(&["-n", "typos", "apply", "-f", "-"], &object.to_string()).await;
        let said = format!("{:#}", answer.err().with_context(|| format!("{spec} was taken"))?);
        ensure!(said.contains(field) && said.contains(wanted), "{spec}: {said}");
    }
    let mut object = json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "fixed"},
        "spec": {"artifactBase": "shop.example:web", "version": "2.0.0"},
    });
    rig.bed.kubectl_stdin(&["-n", "typos", "apply", "-f", "-"], &object.to_string()).await?;
    object["spec"]["artifactBase"] = json!("shop.example:other");
    let said = rig.bed.kubectl_stdin(&["-n", "typos", "apply", "-f", "-"], &object.to_string()).await;
    let said = format!("{:#}", said.err().context("artifactBase was changed")?);
    ensure!(said.contains("cannot be changed"), "{said}");
    rig.bed.kubectl(&["delete", "namespace", "typos", "--wait=false"]).await?;
    Ok(())
}

async fn held_in_pending_with_a_way_out(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "holds", json!({})).await?;
    let extra = [
        testbed::rig::deployment("lonely", &json!({})),
        testbed::rig::deployment("strange", &json!({})),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "twice"},
            "spec": {"hostnames": ["twice.example"], "rules": [{"backendRefs": [{"name": "web", "port": 80}, {"name": "web", "port": 80}]}]},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "heavy"},
            "spec": {"hostnames": ["heavy.example"], "rules": [{"backendRefs": [{"name": "web", "port": 80, "weight": 500_000}]}]},
        }),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "strange"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    ];
    let list = json!({"apiVersion": "v1", "kind": "List", "items": extra});
    shop.kubectl_stdin(&["apply", "-f", "-"], &list.to_string()).await?;
    let web = |extra: Value| {
        let mut spec = json!({"artifactBase": "shop.example:web", "traffic": {"httpRoutes": ["slow"]}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    let cases: [(&str, Value, &str, &str); 9] = [
        ("no-workload", json!({"artifactBase": "shop.example:nothing"}), "WorkloadNotFound", "spec.workload.name"),
        ("no-service", json!({"artifactBase": "shop.example:lonely"}), "ServiceNotFound", "spec.traffic.service"),
        ("no-container", web(json!({"workload": {"container": "sidecar"}})), "ContainerNotFound", "it has app"),
        ("no-route", web(json!({"traffic": {"httpRoutes": ["nowhere"]}})), "RouteNotFound", "spec.traffic.httpRoutes"),
        (
            "no-naming-route",
            json!({"artifactBase": "shop.example:other", "traffic": {"httpRoutes": ["twice"]}}),
            "RouteNotFound",
            "names Service other",
        ),
        ("twice", web(json!({"traffic": {"httpRoutes": ["twice"]}})), "RouteUnsuitable", "2 times"),
        ("heavy", web(json!({"traffic": {"httpRoutes": ["heavy"]}})), "RouteUnsuitable", "1000000"),
        ("strange", json!({"artifactBase": "shop.example:strange"}), "ServiceDoesNotSelectWorkload", "selector"),
        (
            "no-pods",
            json!({"artifactBase": "shop.example:lonely", "traffic": {"service": "lonely"}}),
            "ServiceNotFound",
            "spec.traffic.service",
        ),
    ];
    for (name, mut spec, reason, help) in cases {
        spec["version"] = json!("2.0.0");
        let object = json!({"apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": name}, "spec": spec});
        let watching = Watching::start(&rig.bed.client(), &shop.namespace, name);
        shop.kubectl_stdin(&["apply", "-f", "-"], &object.to_string()).await?;
        let held = watching.until(reason, Duration::from_secs(20), |s| s.condition("Ready").1 == reason).await?;
        ensure!(held.state() == "PENDING" && held.condition("Ready").2.contains(help), "{name}: {:?}", held.condition("Ready"));
        let described = shop.kubectl(&["describe", "rollingupdate", name]).await?;
        ensure!(described.contains(reason), "kubectl describe does not say {reason}:\n{described}");
        shop.kubectl(&["delete", "rollingupdate", name, "--timeout=20s"]).await?;
    }
    // Nothing was touched by any of them.
    let touched = shop.rig.writes(&shop.namespace)?.filter(|e| e.resource != "rollingupdates");
    ensure!(touched.is_empty(), "something was touched:\n{touched}");
    shop.close().await
}

async fn every_example_applies(rig: &Arc<Rig>) -> anyhow::Result<()> {
    rig.bed.create_namespace("examples").await?;
    let mut seen = 0;
    let folder = testbed::operator::repository().join("examples");
    for dir in [folder.clone(), folder.join("demo")] {
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "yaml") {
                rig.bed.kubectl(&["-n", "examples", "apply", "-f", &path.display().to_string()]).await?;
                seen += 1;
            }
        }
    }
    ensure!(seen >= 5, "only {seen} examples were found");
    // The operator lets go of every one of them, or this would hang.
    rig.bed.kubectl(&["delete", "namespace", "examples", "--timeout=90s"]).await?;
    Ok(())
}

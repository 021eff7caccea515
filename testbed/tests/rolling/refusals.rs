//! What cannot be is said, with a way out, and leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::Watching;

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

pub async fn a_refused_deployment_fails_and_leaves_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
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

pub async fn a_quota_or_a_policy_in_the_way_is_told_and_leaves_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
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

pub async fn a_version_that_never_gets_ready_is_rolled_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
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

pub async fn refused_at_apply_time(rig: &Arc<Rig>) -> anyhow::Result<()> {
    rig.bed.create_namespace("typos").await?;
    let asked_at = |address: &str| json!({"metrics": {"prometheus": {"address": address, "preset": "traefik"}}});
    let cases: [(&str, Value, &str); 23] = [
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
        ("address", asked_at("prometheus:9090"), "http or https address"),
        ("address", asked_at("http://user:password@prometheus:9090"), "without credentials"),
        ("address", asked_at("http://prometheus 9090"), "http or https address"),
        ("address", asked_at("http://prometheus:9090/?query=up"), "or query"),
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
    for address in
        ["http://prometheus", "https://prometheus.monitoring.svc:9090/base/", "http://[fd00::1]:9090", "http://10.0.0.1:9090/a@b"]
    {
        object["spec"]["metrics"] = asked_at(address)["metrics"].clone();
        rig.bed.kubectl_stdin(&["-n", "typos", "apply", "-f", "-"], &object.to_string()).await.context(address)?;
    }
    object["spec"]["artifactBase"] = json!("shop.example:other");
    let said = rig.bed.kubectl_stdin(&["-n", "typos", "apply", "-f", "-"], &object.to_string()).await;
    let said = format!("{:#}", said.err().context("artifactBase was changed")?);
    ensure!(said.contains("cannot be changed"), "{said}");
    rig.bed.kubectl(&["delete", "namespace", "typos", "--wait=false"]).await?;
    Ok(())
}

pub async fn held_in_pending_with_a_way_out(rig: &Arc<Rig>) -> anyhow::Result<()> {
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

pub async fn every_example_applies(rig: &Arc<Rig>) -> anyhow::Result<()> {
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

//! Who may give which orders, whatever client they use: real tokens, the roles and policies as they are installed, and the API
//! server's own answers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use testbed::audit::AuditLog;
use testbed::bed::{Bed, BedOptions, client_of};
use testbed::binaries::Binaries;
use testbed::operator::{self, Operator, repository};
use testbed::rig::{self, LEASE, LIMIT};
use testbed::watching::Watching;
use testbed::{namespace, trials};
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// Where the people are, and most of what they change.
const SHOP: &str = "shop";
/// Where one of them is an editor who is none in the shop.
const ELSEWHERE: &str = "elsewhere";
/// Everybody, and the role each has in the shop.
const PEOPLE: [(&str, &str, &str); 8] = [
    ("viewer", "ClusterRole", "aether-viewer"),
    ("editor", "ClusterRole", "aether-editor"),
    ("approver", "ClusterRole", "aether-approver"),
    ("member", "ClusterRole", "edit"),
    ("owner", "ClusterRole", "admin"),
    ("patcher", "Role", "patcher"),
    ("chosen", "Role", "chosen"),
    ("stranger", "ClusterRole", "aether-editor"),
];
const EDITOR: [&str; 4] = ["route", "complete", "rollback", "destroy"];
const ALL: [&str; 5] = ["route", "approve", "complete", "rollback", "destroy"];

/// The verbs that somebody has on an object; `None`: it cannot even be changed.
fn verbs_of(person: &str, object: &str) -> Option<&'static [&'static str]> {
    match (person, object) {
        ("viewer" | "stranger", _) | ("approver" | "chosen", "pool") => None,
        ("approver", _) | ("chosen", "fresh") => Some(&["approve"]),
        ("editor" | "member", _) => Some(&EDITOR),
        ("owner", _) => Some(&ALL),
        _ => Some(&[]),
    }
}

struct Ground {
    bed: Bed,
    people: BTreeMap<&'static str, (PathBuf, Client)>,
    // Last, so that it is there when the others are dropped.
    runtime: Runtime,
}

impl Ground {
    async fn furnish(bed: &Bed) -> anyhow::Result<BTreeMap<&'static str, (PathBuf, Client)>> {
        // The other way round than people do it: nothing hangs on the order.
        for policies in ["policies.yaml", "mutating-policies.yaml"] {
            let file = repository().join("charts/aether-operator/files").join(policies).display().to_string();
            bed.kubectl(&["apply", "--server-side", "-f", &file]).await?;
        }
        operator::install(bed).await?;
        let rule = |resources: &[&str], verbs: &[&str], names: &[&str]| json!({"apiGroups": ["aether.dev"], "resources": resources, "verbs": verbs, "resourceNames": names});
        let change = ["get", "create", "patch", "update"];
        let both = ["rollingupdates", "proxypools"];
        for name in [SHOP, ELSEWHERE] {
            bed.create_namespace(name).await?;
        }
        for (name, rules) in [
            ("patcher", json!([rule(&both, &change, &[])])),
            ("chosen", json!([rule(&["rollingupdates"], &change, &[]), rule(&["rollingupdates"], &["approve"], &["fresh"])])),
        ] {
            bed.apply(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": SHOP}, "rules": rules,
            }))
            .await?;
        }
        let mut people = BTreeMap::new();
        for (person, kind, role) in PEOPLE {
            bed.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": person, "namespace": SHOP}})).await?;
            grant(bed, if person == "stranger" { ELSEWHERE } else { SHOP }, person, kind, role).await?;
            let kubeconfig = bed.service_account_kubeconfig(SHOP, person).await?;
            let client = client_of(&kubeconfig).await?;
            people.insert(person, (kubeconfig, client));
        }
        for object in [
            update("fresh", &json!({})),
            update(
                "held",
                &json!({
                    "requireManualApproval": true,
                    "control": {"version": "2.0.0", "routing": "1:1", "approved": "1:9", "paused": true, "outcome": "Rollback"},
                }),
            ),
            update("armed", &json!({"control": {"version": "3.0.0", "routing": "1:1", "approved": "1:0", "outcome": "Complete"}})),
            pool("pool", Some("10.0.0.1, vm-2")),
            pool("pool-named", Some("vm-1")),
        ] {
            bed.kubectl_stdin(&["-n", SHOP, "create", "-f", "-"], &object.to_string()).await?;
        }
        // Roles are aggregated by a controller, and policies come into force a moment after they are written.
        for (person, verb) in [("member", "route"), ("owner", "approve")] {
            until(&format!("{person} may {verb}"), async || {
                let who = format!("--as={}", name_of(person));
                bed.kubectl(&["auth", "can-i", verb, "rollingupdates.aether.dev", "-n", SHOP, &who]).await.is_ok()
            })
            .await?;
        }
        let forged = json!({"metadata": {"annotations": {"aether.dev/ordered-by": "somebody"}}});
        until("the policy on orders is in force", async || try_patch(&bed.client(), "fresh", &forged).await.is_err()).await?;
        Ok(people)
    }

    fn client(&self, person: &str) -> &Client {
        &self.people[person].1
    }

    /// kubectl as somebody, in a namespace.
    async fn kubectl_as(&self, person: &str, namespace: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
        let kubeconfig = self.people[person].0.display().to_string();
        self.bed.kubectl_stdin(&[&["--kubeconfig", &kubeconfig, "-n", namespace], args].concat(), input).await
    }

    async fn get(&self, what: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.bed.kubectl(&["-n", SHOP, "get", what, "-o", "json"]).await?)?)
    }

    async fn ordered_by(&self, what: &str) -> anyhow::Result<String> {
        let object = self.get(what).await?;
        Ok(object["metadata"]["annotations"]["aether.dev/ordered-by"].as_str().unwrap_or_default().to_owned())
    }
}

async fn grant(bed: &Bed, namespace: &str, person: &str, kind: &str, role: &str) -> anyhow::Result<()> {
    bed.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": person, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": person, "namespace": SHOP}],
    }))
    .await?;
    Ok(())
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    for _ in 0..120 {
        if is_so().await {
            return Ok(());
        }
        sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("not so within 30 s: {what}")
}

fn name_of(person: &str) -> String {
    format!("system:serviceaccount:{SHOP}:{person}")
}

fn update(name: &str, more: &Value) -> Value {
    let mut spec = json!({"artifactBase": format!("shop.example:{name}"), "version": "2.0.0", "metrics": {"none": {}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": name}, "spec": spec})
}

fn pool(name: &str, evict: Option<&str>) -> Value {
    json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool",
        "metadata": {"name": name, "annotations": evict.map(|e| json!({"aether.dev/evict": e}))},
        "spec": {"minScaling": 0, "kubernetes": {"image": "registry.example/tinyproxy:1.11"}, "proxy": {"authSecretRef": {"name": "login"}}},
    })
}

/// The objects of the kind that an object of the shop is of.
fn api(client: &Client, object: &str) -> Api<DynamicObject> {
    let (kind, plural) = if object.starts_with("pool") { ("ProxyPool", "proxypools") } else { ("RollingUpdate", "rollingupdates") };
    let kind = GroupVersionKind::gvk("aether.dev", "v1alpha1", kind);
    Api::namespaced_with(client.clone(), SHOP, &ApiResource::from_gvk_with_plural(&kind, plural))
}

/// Merges something into an object of the shop, without leaving a trace; the error is what the API server says.
async fn try_patch(client: &Client, object: &str, patch: &Value) -> Result<DynamicObject, String> {
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    api(client, object).patch(object, &params, &Patch::Merge(patch)).await.map_err(said)
}

fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.message),
        other => other.to_string(),
    }
}

/// What the API server says to whoever lacks a verb.
fn refusal(person: &str, verb: &str, object: &str) -> String {
    let (resource, role, written_in) = match verb {
        "route" => ("rollingupdates", "editor", "spec.control.routing or paused, or takes an outcome back"),
        "approve" => ("rollingupdates", "approver", "spec.control.approved, or takes requireManualApproval away"),
        "complete" => ("rollingupdates", "editor", "spec.control.outcome to Complete"),
        "rollback" => ("rollingupdates", "editor", "spec.control.outcome to Rollback"),
        _ => ("proxypools", "editor", "what the annotation aether.dev/evict names"),
    };
    denied(
        object,
        &format!(
            "{} may not {verb} {resource} {SHOP}/{object}, which changes {written_in}: the verb {verb} on {resource}.aether.dev is missing; ClusterRole aether-{role} has it",
            name_of(person)
        ),
    )
}

fn denied(object: &str, message: &str) -> String {
    let resource = if object.starts_with("pool") { "proxypools" } else { "rollingupdates" };
    format!(
        "403 {resource}.aether.dev \"{object}\" is forbidden: ValidatingAdmissionPolicy 'aether-orders' with binding 'aether-orders' denied request: {message}"
    )
}

/// Demands that somebody gets the answer which the verbs that are needed come to.
fn is_answered(person: &str, object: &str, needs: &[&str], answer: &Result<DynamicObject, String>) -> anyhow::Result<()> {
    let wanted = match verbs_of(person, object) {
        None => "403".to_owned(),
        Some(has) => needs.iter().find(|v| !has.contains(*v)).map(|v| refusal(person, v, object)).unwrap_or_default(),
    };
    let found = answer.as_ref().err().cloned().unwrap_or_default();
    let fits = if wanted == "403" { found.starts_with("403") && !found.contains("AdmissionPolicy") } else { found == wanted };
    ensure!(fits, "{person} heard\n{found:?}, not\n{wanted:?}");
    Ok(())
}

fn spec(spec: &Value) -> Value {
    json!({"spec": spec})
}

/// Orders for the version that is wanted.
fn orders(mut orders: Value) -> Value {
    orders["version"] = json!("2.0.0");
    spec(&json!({"control": orders}))
}

fn evict(entries: &Value) -> Value {
    json!({"metadata": {"annotations": {"aether.dev/evict": entries}}})
}

/// What is changed, and the verbs that takes, in the order in which they are asked for.
fn changes() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let none: &[&str] = &[];
    vec![
        ("fresh", orders(json!({"routing": "1:1"})), &["route"]),
        ("fresh", orders(json!({"paused": true})), &["route"]),
        ("fresh", orders(json!({"paused": false})), none),
        ("fresh", orders(json!({"approved": "1:1"})), &["approve"]),
        ("fresh", orders(json!({"outcome": "Complete"})), &["complete"]),
        ("fresh", orders(json!({"outcome": "Rollback"})), &["rollback"]),
        ("fresh", orders(json!({"routing": "1:0", "approved": "1:0", "outcome": "Complete"})), &["route", "approve", "complete"]),
        // Not in force.
        ("fresh", spec(&json!({"control": {"version": "3.0.0", "approved": "1:0", "outcome": "Rollback"}})), none),
        ("fresh", spec(&json!({"version": "3.0.0"})), none),
        ("fresh", spec(&json!({"version": "3.0.0", "control": {"version": "3.0.0", "approved": "1:0"}})), &["approve"]),
        ("fresh", spec(&json!({"instances": 3, "requireManualApproval": true})), none),
        ("held", spec(&json!({"control": null})), &["route"]),
        ("held", spec(&json!({"instances": 3, "attempt": 2})), none),
        // The same version once more is a start.
        ("held", spec(&json!({"attempt": 2, "control": null})), none),
        ("held", spec(&json!({"attempt": 2, "requireManualApproval": false})), none),
        ("held", spec(&json!({"attempt": 2, "control": {"routing": "1:3"}})), &["route"]),
        ("held", orders(json!({"routing": "1:1", "approved": "1:9", "paused": true, "outcome": "Rollback"})), none),
        ("held", orders(json!({"routing": null})), &["route"]),
        ("held", orders(json!({"routing": "1:3"})), &["route"]),
        ("held", orders(json!({"paused": null})), &["route"]),
        ("held", orders(json!({"approved": null})), none),
        ("held", orders(json!({"approved": "1:1"})), &["approve"]),
        ("held", orders(json!({"outcome": null})), &["route"]),
        ("held", orders(json!({"outcome": "Complete"})), &["complete"]),
        ("held", spec(&json!({"requireManualApproval": null})), &["approve"]),
        ("held", spec(&json!({"requireManualApproval": false})), &["approve"]),
        ("held", spec(&json!({"requireManualApproval": false, "version": "3.0.0"})), none),
        ("held", spec(&json!({"version": "3.0.0"})), none),
        ("held", spec(&json!({"version": "3.0.0", "control": null})), none),
        // All of it goes out of force, and all of it comes into force for another one.
        ("held", spec(&json!({"control": {"version": "3.0.0"}})), &["route"]),
        ("held", spec(&json!({"version": "3.0.0", "control": {"version": "3.0.0"}})), &["route", "approve", "rollback"]),
        ("armed", spec(&json!({"version": "3.0.0"})), &["route", "approve", "complete"]),
        ("armed", orders(json!({})), &["route", "approve", "complete"]),
        ("armed", spec(&json!({"control": null})), none),
        ("pool", evict(&json!("10.0.0.1, vm-2,vm-3")), &["destroy"]),
        ("pool", evict(&json!("10.0.0.1 vm-2")), &["destroy"]),
        ("pool", evict(&json!("vm-2,10.0.0.1")), none),
        ("pool", evict(&json!("vm-2")), none),
        ("pool", evict(&Value::Null), none),
        ("pool", spec(&json!({"maxScaling": 3})), none),
    ]
}

/// The API server checks the expressions against the definitions, and says so nowhere but in the policy's status.
async fn the_policy_fits_the_definitions(ground: &Ground) -> anyhow::Result<()> {
    let checked = async || -> anyhow::Result<Value> {
        let policy = ground.bed.kubectl(&["get", "validatingadmissionpolicy", "aether-orders", "-o", "json"]).await?;
        Ok(serde_json::from_str::<Value>(&policy)?["status"]["typeChecking"].clone())
    };
    until("the policy is checked", async || checked().await.is_ok_and(|c| c.is_object())).await?;
    let checked = checked().await?;
    ensure!(checked["expressionWarnings"].is_null(), "{checked:#}");
    Ok(())
}

async fn every_change_takes_its_verbs(ground: &Ground) -> anyhow::Result<()> {
    for (object, patch, needs) in changes() {
        for (person, ..) in PEOPLE {
            let answer = try_patch(ground.client(person), object, &patch).await;
            is_answered(person, object, needs, &answer).with_context(|| format!("{object}: {patch}"))?;
        }
    }
    Ok(())
}

async fn what_is_created_with_orders_takes_their_verbs(ground: &Ground) -> anyhow::Result<()> {
    let control = json!({"control": {"version": "2.0.0", "routing": "1:3", "outcome": "Rollback"}});
    let params = PostParams { dry_run: true, ..PostParams::default() };
    for (name, object, needs) in [
        ("plain", update("plain", &json!({})), &[][..]),
        ("ordered", update("ordered", &control), &["route", "rollback"]),
        ("approved", update("approved", &json!({"control": {"version": "2.0.0", "approved": "1:3"}})), &["approve"]),
        ("pool-plain", pool("pool-plain", None), &[]),
        ("pool-evicting", pool("pool-evicting", Some("vm-1")), &["destroy"]),
    ] {
        let object: DynamicObject = serde_json::from_value(object)?;
        for (person, ..) in PEOPLE.iter().filter(|(person, ..)| !["approver", "chosen"].contains(person)) {
            let answer = api(ground.client(person), name).create(&params, &object).await.map_err(said);
            is_answered(person, name, needs, &answer).with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

async fn who_ordered_is_written_down_and_cannot_be_forged(ground: &Ground) -> anyhow::Result<()> {
    let (editor, approver) = (name_of("editor"), name_of("approver"));
    let manifest = update("named", &json!({"requireManualApproval": true})).to_string();
    ground.kubectl_as("editor", SHOP, &["create", "-f", "-"], &manifest).await?;
    ensure!(ground.ordered_by("ru/named").await? == editor);
    let patch = |patch: Value| patch.to_string();
    let approve = patch(orders(json!({"approved": "1:9"})));
    ground.kubectl_as("approver", SHOP, &["patch", "ru", "named", "--type=merge", "-p", &approve], "").await?;
    ensure!(ground.ordered_by("ru/named").await? == approver);

    // Another name beside an order is put right; alone it is refused, also where there is none yet.
    let mut forged = orders(json!({"paused": true}));
    forged["metadata"] = json!({"annotations": {"aether.dev/ordered-by": "alice"}});
    ground.kubectl_as("editor", SHOP, &["patch", "ru", "named", "--type=merge", "-p", &patch(forged)], "").await?;
    ensure!(ground.ordered_by("ru/named").await? == editor);
    let forged = json!({"metadata": {"annotations": {"aether.dev/ordered-by": "alice"}}});
    for object in ["named", "pool-named"] {
        let heard = try_patch(ground.client("owner"), object, &forged).await.err();
        let message =
            "may not write the name of somebody else into the annotation aether.dev/ordered-by; leave it out, it is set by itself";
        ensure!(heard == Some(denied(object, &format!("{} {message}", name_of("owner")))), "{heard:?}");
    }

    // Whoever changes something else, or writes the object without the name, changes no name.
    ground.kubectl_as("owner", SHOP, &["patch", "ru", "named", "--type=merge", "-p", &patch(spec(&json!({"instances": 2})))], "").await?;
    ground.kubectl_as("editor", SHOP, &["scale", "ru/named", "--replicas=3"], "").await?;
    let mut object = ground.get("ru/named").await?;
    object["metadata"].as_object_mut().unwrap().remove("annotations");
    ground.kubectl_as("owner", SHOP, &["replace", "-f", "-"], &object.to_string()).await?;
    ground.kubectl_as("owner", SHOP, &["annotate", "ru/named", "aether.dev/ordered-by-"], "").await?;
    ensure!(ground.ordered_by("ru/named").await? == editor, "{}", ground.ordered_by("ru/named").await?);

    ensure!(ground.ordered_by("proxypool/pool-named").await? == "admin");
    ground.kubectl_as("member", SHOP, &["annotate", "--overwrite", "proxypool/pool-named", "aether.dev/evict=vm-1,vm-2"], "").await?;
    ensure!(ground.ordered_by("proxypool/pool-named").await? == name_of("member"));

    // The operator writes for others.
    let operator = ground.bed.service_account_kubeconfig("aether-system", "aether-operator").await?.display().to_string();
    let mut order = orders(json!({"approved": "1:3", "paused": null}));
    order["metadata"] = json!({"annotations": {"aether.dev/ordered-by": "alice"}});
    let order = order.to_string();
    ground.bed.kubectl(&["--kubeconfig", &operator, "-n", SHOP, "patch", "ru", "named", "--type=merge", "-p", &order]).await?;
    ensure!(ground.ordered_by("ru/named").await? == "alice");
    Ok(())
}

async fn manifests_are_applied_and_do_not_drift(ground: &Ground) -> anyhow::Result<()> {
    let example = |name: &str| repository().join("examples").join(name).display().to_string();
    let dry = |file: &str| vec!["apply".to_owned(), "--dry-run=server".to_owned(), "-f".to_owned(), example(file)];
    for file in ["minimal.yaml", "manual.yaml", "pool-aws.yaml", "pool-digitalocean.yaml", "pool-kubernetes.yaml"] {
        let args = dry(file);
        ground.kubectl_as("editor", SHOP, &args.iter().map(String::as_str).collect::<Vec<_>>(), "").await?;
    }
    let full = dry("full.yaml");
    let full: Vec<&str> = full.iter().map(String::as_str).collect();
    let refused = ground.kubectl_as("editor", SHOP, &full, "").await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(refused.contains("may not approve rollingupdates shop/my-slice"), "{refused:?}");
    ground.kubectl_as("owner", SHOP, &full, "").await?;

    // As kubectl does it, as a tool does it that applies on the server, and one way after the other.
    let manifest = example("minimal.yaml");
    let server = ["apply", "--server-side", "-f", &manifest];
    for (tool, args) in [("kubectl", &server[..1]), ("kubectl", &server[..2]), ("gitops", &server[..2])] {
        let manager = format!("--field-manager={tool}");
        let mut args = [args, &server[2..]].concat();
        if tool != "kubectl" {
            args.push(&manager);
        }
        ground.kubectl_as("editor", SHOP, &args, "").await?;
        let first = ground.get("ru/my-slice").await?;
        ground.kubectl_as("editor", SHOP, &args, "").await?;
        let second = ground.get("ru/my-slice").await?;
        // All but the status, which is the operator's.
        let written =
            |object: &Value| ["spec", "metadata/generation", "metadata/annotations"].map(|p| object.pointer(&format!("/{p}")).cloned());
        ensure!(written(&first) == written(&second), "{args:?}:\n{first:#}\n{second:#}");
        ensure!(ground.ordered_by("ru/my-slice").await? == name_of("editor"), "{args:?}: {second:#}");
        ground.kubectl_as("editor", SHOP, &["diff", "-f", &manifest], "").await?;
    }
    Ok(())
}

async fn a_release_by_an_editor_has_the_name_in_its_history(ground: &Ground) -> anyhow::Result<()> {
    const RELEASE: &str = "release";
    let bed = &ground.bed;
    bed.create_namespace(RELEASE).await?;
    grant(bed, RELEASE, "editor", "ClusterRole", "aether-editor").await?;
    for object in [rig::deployment("web", &json!({})), rig::service("web")] {
        bed.kubectl_stdin(&["-n", RELEASE, "apply", "-f", "-"], &object.to_string()).await?;
    }
    bed.kubectl(&["-n", RELEASE, "scale", "deployment/web", "--replicas=2"]).await?;
    bed.kubectl(&["-n", RELEASE, "rollout", "status", "deployment/web", "--timeout=90s"]).await?;
    let mut operator = Operator::start(bed, "operator", 8081, LEASE).await?;

    let watching = Watching::start(&bed.client(), RELEASE, "web");
    let quick = json!({
        "cleanupPolicy": "IMMEDIATE", "traffic": {"settle": "1s", "drain": "1s"}, "progression": {"interval": "1s", "steps": ["1:1", "1:0"]},
        "control": {"version": "2.0.0", "routing": "1:1"},
    });
    ground.kubectl_as("editor", RELEASE, &["apply", "-f", "-"], &update("web", &quick).to_string()).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let complete = orders(json!({"routing": "1:0", "outcome": "Complete"})).to_string();
    ground.kubectl_as("editor", RELEASE, &["patch", "ru", "web", "--type=merge", "-p", &complete], "").await?;
    let done = watching.until_state("COMPLETED", LIMIT).await?;
    let history: Vec<(&str, &str)> = done.status["history"]
        .as_array()
        .context("no history")?
        .iter()
        .map(|t| (t["to"].as_str().unwrap_or_default(), t["by"].as_str().unwrap_or_default()))
        .collect();
    let by = |field: &str| format!("{} ({field})", name_of("editor"));
    let (started, ordered) = (by("spec.version"), by("spec.control"));
    let wanted =
        [("DEPLOYING", &*started), ("DEPLOYED", "operator"), ("ROUTING", &*ordered), ("COMPLETING", &*ordered), ("COMPLETED", "operator")];
    ensure!(history == wanted, "{history:#?}");
    let told = format!(" (ordered by {})", name_of("editor"));
    until("an Event names who ordered it", async || {
        let events = bed.kubectl(&["-n", RELEASE, "get", "events.events.k8s.io", "-o", "jsonpath={.items[*].note}"]).await;
        events.is_ok_and(|notes| notes.contains(&told))
    })
    .await?;

    // None of its writes was refused by a policy, and another name alone is nothing to write about.
    let writes = || -> anyhow::Result<AuditLog> { Ok(AuditLog::read(&bed.audit_log())?.by_user(operator::USER).in_namespace(RELEASE)) };
    let forbidden = writes()?.filter(|e| e.code == 403);
    ensure!(forbidden.is_empty(), "{:#?}", forbidden.entries());
    sleep(Duration::from_secs(20)).await;
    let before = writes()?.without_events_and_leases().len();
    bed.kubectl(&["-n", RELEASE, "annotate", "--overwrite", "ru/web", "aether.dev/ordered-by=admin"]).await?;
    sleep(Duration::from_secs(3)).await;
    let after = writes()?.without_events_and_leases();
    ensure!(before > 0 && after.len() == before, "written about a name alone:\n{after}");
    operator.stop().await
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ground = || {
        Binaries::ensure()?;
        let namespace = namespace::enter("orders-test")?;
        let runtime = Runtime::new()?;
        let bed = runtime.block_on(Bed::boot(&namespace, BedOptions::default()))?;
        let people = runtime.block_on(Ground::furnish(&bed))?;
        Ok(Ground { bed, people, runtime })
    };
    macro_rules! trials {
        ($ground:ident: $($test:ident)*) => { vec![$({
            let ground: Option<Arc<Ground>> = $ground.cloned();
            Trial::test(stringify!($test), move || {
                let ground = ground.ok_or("no bed")?;
                ground.runtime.block_on($test(&ground)).map_err(|error| Failed::from(format!("{error:#}")))
            })
        }),*] };
    }
    trials::run(&arguments, ground, |ground| {
        trials![ground:
            the_policy_fits_the_definitions
            every_change_takes_its_verbs
            what_is_created_with_orders_takes_their_verbs
            who_ordered_is_written_down_and_cannot_be_forged
            manifests_are_applied_and_do_not_drift
            a_release_by_an_editor_has_the_name_in_its_history
        ]
    })
}

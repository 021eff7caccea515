//! A repository with a service's manifests, a tool that applies them again and again, and what came of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use testbed::audit::{AuditLog, Effect};
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::Watching;

/// Between two applies.
const EVERY: Duration = Duration::from_secs(3);
/// Writes of the operator to one route or other object of the user: 20 for two whole updates and one that is given up in the
/// middle, and a few to put right what a late sync took back.
const MOST_WRITES: u64 = 24;
/// Writes of its own status: 30, and one or two each time.
const MOST_STATUSES: u64 = 38;

/// What is in the repository.
#[derive(Clone)]
pub struct Git(Arc<Mutex<Vec<Value>>>);

impl Git {
    /// The shop's manifests, and a RollingUpdate for the version that is live already.
    pub fn of(shop: &Shop) -> anyhow::Result<Self> {
        let mut items = shop.manifests()["items"].as_array().context("no manifests")?.clone();
        items.push(json!({
            "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "web"},
            "spec": {
                "artifactBase": "shop.example:web", "version": "1.0.0", "cleanupPolicy": "IMMEDIATE",
                "traffic": {"settle": "3s", "drain": "4s"}, "progression": {"interval": "4s"}, "metrics": {"none": {}},
            },
        }));
        for item in &mut items {
            item["metadata"]["namespace"] = json!(shop.namespace);
        }
        Ok(Self(Arc::new(Mutex::new(items))))
    }

    pub fn items(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes some objects in one commit.
    pub fn commit(&self, change: impl Fn(&str, &mut Value)) {
        for item in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let what = format!("{}/{}", item["kind"].as_str().unwrap_or_default(), item["metadata"]["name"].as_str().unwrap_or_default());
            change(&what, item);
        }
    }

    /// A commit of image and version together.
    pub fn release(&self, version: &str) {
        self.commit(|what, item| match what {
            "Deployment/web" => {
                item["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("registry.example/web:{version}"));
            }
            "RollingUpdate/web" => item["spec"]["version"] = json!(version),
            _ => {}
        });
    }
}

/// As a JSON merge patch: null takes a field away.
pub fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, field) in fields {
        if field.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], field);
        }
    }
}

/// What a sample has a tool leave alone.
pub struct Ignored {
    pub kind: String,
    pub name: String,
    pub paths: Vec<String>,
}

impl Ignored {
    /// The shop's two routes stand for the one that the samples name.
    pub fn covers(&self, item: &Value) -> bool {
        item["kind"] == *self.kind && (self.kind == "HTTPRoute" || item["metadata"]["name"] == *self.name)
    }
}

/// What a tool applies that takes what is to be left alone from what is there.
pub fn with_live(item: &Value, live: &Value, ignored: &[Ignored]) -> Value {
    let mut target = item.clone();
    for path in ignored.iter().filter(|i| i.covers(item)).flat_map(|i| &i.paths) {
        let (parent, key) = path.rsplit_once('/').unwrap_or_default();
        let Some(fields) = target.pointer_mut(parent).and_then(Value::as_object_mut) else { continue };
        fields.remove(key);
        if let Some(value) = live.pointer(path) {
            fields.insert(key.to_owned(), value.clone());
        }
    }
    target
}

/// A tool: who it is for the audit log and for field ownership, what it leaves alone, and how it applies.
pub struct Tool<'a, S> {
    pub user: &'a str,
    pub manager: &'a str,
    pub ignored: &'a [Ignored],
    pub sync: S,
}

/// A ServiceAccount that may do everything, as such tools have it: its kubeconfig and its user name.
pub async fn account(rig: &Arc<Rig>, name: &str) -> anyhow::Result<(std::path::PathBuf, String)> {
    let namespace = format!("tool-{name}");
    rig.bed.create_namespace(&namespace).await?;
    rig.bed.kubectl(&["-n", &namespace, "create", "serviceaccount", name]).await?;
    let subject = format!("--serviceaccount={namespace}:{name}");
    rig.bed.kubectl(&["create", "clusterrolebinding", name, "--clusterrole=cluster-admin", &subject]).await?;
    Ok((rig.bed.service_account_kubeconfig(&namespace, name).await?, format!("system:serviceaccount:{namespace}:{name}")))
}

/// What came of a loop.
pub struct Outcome {
    pub passes: u32,
    pub requests: u64,
    /// Writes of the tool to routes and Services that were no no-ops, after it had taken them over: it changed something, or
    /// only became the owner of what the operator had written.
    pub rewrites: usize,
    /// Times the operator put something back.
    pub put_back: usize,
}

/// The whole story, with the tool applying every three seconds: adoption, an update, another one, and in its middle a commit
/// of image and version together. Nothing may be lost, and nothing may be left to apply.
pub async fn whole_updates<S>(rig: &Arc<Rig>, namespace: &str, tool: Tool<'_, S>) -> anyhow::Result<Outcome>
where
    S: AsyncFn(Vec<Value>) -> anyhow::Result<()>,
{
    let mut shop = Shop::open(rig, namespace, json!({})).await?;
    let git = Git::of(&shop)?;
    let watching = Watching::start(&rig.bed.client(), namespace, "web");
    let mut passes = 0;
    let applied = git.clone();
    let again = async {
        loop {
            (tool.sync)(applied.items()).await?;
            passes += 1;
            tokio::time::sleep(EVERY).await;
        }
    };
    let story = async {
        watching.until("the live version in its care", LIMIT, |s| s.condition("Ready").1 == "AlreadyLive").await?;
        tokio::time::sleep(2 * EVERY).await;
        let taken_over = Utc::now();
        shop.start_load()?;
        git.release("2.0.0");
        watching.until("2.0.0", LIMIT, |s| s.state() == "COMPLETED" && s.text("/newVersion") == "2.0.0").await?;
        git.release("3.0.0");
        watching.until("half of 3.0.0", LIMIT, |s| s.place() == "ROUTING 1:1" && s.text("/newVersion") == "3.0.0").await?;
        git.release("4.0.0");
        watching.until("4.0.0", 2 * LIMIT, |s| s.state() == "COMPLETED" && s.text("/newVersion") == "4.0.0").await?;
        let settled = Utc::now();
        tokio::time::sleep(3 * EVERY).await;
        anyhow::Ok((taken_over, settled))
    };
    let (taken_over, settled) = tokio::select! {
        told = story => told.with_context(|| format!("it went {:?}", watching.places()))?,
        broken = again => {
            let broken: anyhow::Result<()> = broken;
            return Err(broken.err().context("the loop ended")?);
        }
    };
    let requests = shop.no_request_failed().await?;
    let all = watching.all();
    ensure!(all.iter().all(|s| s.condition("ConflictingManager").0.is_empty()), "a fight was told of");
    let put_back = all.iter().map(|s| s.status["interference"].as_array().map_or(0, Vec::len)).max().unwrap_or_default();

    let log = AuditLog::read(&rig.bed.audit_log())?.in_namespace(namespace);
    let by_tool = log.by_user(tool.user).between(taken_over, Utc::now());
    let rewrites = by_tool.filter(|e| e.effect == Effect::Changed && matches!(&*e.resource, "httproutes" | "services"));
    let writes = shop.no_wasted_write()?;
    print(namespace, passes, requests, &writes, &by_tool);
    // One pass may still be under way.
    let late = by_tool.between(settled + EVERY, Utc::now()).filter(|e| e.effect != Effect::NoOp);
    ensure!(late.is_empty(), "at rest the tool still writes:\n{late}");
    for (object, count) in by_object(&writes) {
        let most = if object.contains("/status") { MOST_STATUSES } else { MOST_WRITES };
        ensure!(count <= most, "{count} writes to {object}:\n{writes}");
    }
    nothing_differs(&shop, &git, &tool).await?;
    shop.nothing_left_but(&["web", "web-4-0-0"]).await?;
    shop.close().await?;
    Ok(Outcome { passes, requests, rewrites: rewrites.len(), put_back })
}

/// What Git says and what is there are the same but for what is ignored, says kubectl.
async fn nothing_differs<S>(shop: &Shop, git: &Git, tool: &Tool<'_, S>) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for item in git.items() {
        let (kind, name) = (item["kind"].as_str().unwrap_or_default(), item["metadata"]["name"].as_str().unwrap_or_default());
        targets.push(with_live(&item, &shop.get(&format!("{kind}/{name}")).await?, tool.ignored));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": targets}).to_string();
    let manager = format!("--field-manager={}", tool.manager);
    let diff = shop.kubectl_stdin(&["diff", "--server-side", "--force-conflicts", &manager, "-f", "-"], &list).await?;
    ensure!(diff.trim().is_empty(), "Git and cluster differ:\n{diff}");
    Ok(())
}

fn by_object(log: &AuditLog) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for entry in log.entries() {
        *counts.entry(format!("{} {}", entry.target(), entry.name)).or_default() += 1;
    }
    counts
}

fn print(namespace: &str, passes: u32, requests: u64, writes: &AuditLog, by_tool: &AuditLog) {
    println!("{namespace}: {requests} requests, 0 failed; {passes} passes of the tool, {} writes of the operator:", writes.len());
    for (object, count) in by_object(writes) {
        println!("  {count:>3} {object}");
    }
    println!("what the tool wrote after it had taken over:\n{by_tool}\n");
}

/// How long a route was as somebody else wrote it: until the operator's next write.
pub fn put_right_after(log: &AuditLog, user: &str, from: DateTime<Utc>) -> Option<Duration> {
    let on_route = |e: &&testbed::audit::Entry| e.resource == "httproutes" && e.subresource.is_empty() && e.effect == Effect::Changed;
    let wrong = log.entries().iter().filter(on_route).find(|e| e.user == user && e.at >= from)?;
    let right = log
        .entries()
        .iter()
        .filter(on_route)
        .find(|e| e.name == wrong.name && e.user == testbed::operator::USER && e.answered > wrong.answered)?;
    (right.answered - wrong.answered).to_std().ok()
}

//! The benchmark: how soon traffic is back after a rollback was ordered, what a thousand finished updates cost, and what it
//! costs to read a thousand pods.
//!
//! Times are the API server's own, from its audit log. They depend on the machine and never fail the benchmark; what
//! can be counted is promised, and a broken promise does.

use std::collections::HashSet;
use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::audit::{AuditLog, Entry};
use crate::bed::{Bed, BedOptions};
use crate::kubelet;
use crate::namespace::Entered;
use crate::operator::{self, Operator};
use crate::rig;
use crate::watching;

/// Where the operator shows its own metrics.
const ADMIN_PORT: u16 = 8081;
/// Updates in ROUTING at any time while rollbacks are measured.
const ACTIVE: usize = 100;
/// Rollbacks ordered one after the other.
const SINGLE: usize = 50;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);
/// Rollbacks ordered at the same moment.
const AT_ONCE: usize = 20;
/// How often that is done.
const BURSTS: usize = 3;
/// Finished updates while the operator is to be idle.
const FINISHED: usize = 1000;
/// What is said of numbers alone may take the operator this long.
const SETTLE: Duration = Duration::from_secs(20);
/// How long it is watched then.
const IDLE: Duration = Duration::from_mins(1);
/// Pods of one update that are read for health, of both versions together.
const PODS: usize = 1000;
/// What each of them shows: the 14 series of its requests, and these.
const MORE_SERIES: usize = 100;
/// Objects created at the same time.
const HANDS: usize = 16;
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_secs(1);
/// Longest any single wait may take; a loaded machine is no error.
const LIMIT: Duration = Duration::from_mins(3);

/// A part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Rollback latency
    Rollback,
    /// The cost of what is finished
    Idle,
    /// The cost of reading pods
    Health,
}

/// Measures inside the namespace. Ok(false): it ran, and something that can be counted was not as promised.
pub async fn run(namespace: &Entered, only: Option<Part>) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let step = |what: &str| say!("{:>6.1}s  {what}", begun.elapsed().as_secs_f64());
    step("booting a control plane and the operator");
    let instant = kubelet::Options { readiness_delay: Duration::ZERO, shutdown: Duration::ZERO, ..kubelet::Options::default() };
    let bed = Bed::boot(namespace, BedOptions { kubelet: instant }).await?;
    operator::install(&bed).await?;
    let operator = Operator::start_build(&bed, &operator::release_binary()?, "operator", ADMIN_PORT, Duration::from_secs(15)).await?;
    let _gateway = AbortOnDropHandle::new(tokio::spawn(acknowledge(bed.client())));

    let mut table = Table::default();
    let mut finished = Vec::new();
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Part::Rollback) {
        let count = BURSTS * AT_ONCE + SINGLE + ACTIVE;
        step(&format!("bringing {count} updates to ROUTING 1:1"));
        finished = Shop::open(&bed, "busy", 5, count).await?;
        Shop::update(&bed, &finished, "2.0.0").await?;
        wait_for(&finished, &bed, "ROUTING 1:1", |state, routing| (state, routing) == ("ROUTING", "1:1")).await?;
        rollbacks(&bed, &operator, &finished, &mut table, step).await?;
    }
    if wanted(Part::Idle) {
        let count = FINISHED - finished.len();
        step(&format!("bringing {count} more updates to COMPLETED, because their version is live already"));
        let live = Shop::open(&bed, "done", 20, count).await?;
        Shop::update(&bed, &live, "1.0.0").await?;
        finished.extend(live);
        wait_for(&finished, &bed, "COMPLETED or ROLLED_BACK", |state, _| matches!(state, "COMPLETED" | "ROLLED_BACK")).await?;
        step(&format!("{FINISHED} updates are finished; watching the operator for {} s", IDLE.as_secs()));
        idle(&bed, &operator, &mut table).await?;
    }
    if wanted(Part::Health) {
        health(&bed, &operator, &mut table, step).await?;
    }
    step("done");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    say!("\n{}\n{cores} cores, load average {}", table.text(), load.split_whitespace().next().unwrap_or_default());
    drop(operator);
    bed.shutdown().await?;
    Ok(table.kept)
}

/// Orders rollbacks, at once and one by one, until only as many updates are left as must be active throughout; then all.
async fn rollbacks(bed: &Bed, operator: &Operator, shops: &[Shop], table: &mut Table, step: impl Fn(&str)) -> anyhow::Result<()> {
    let cpu = operator.cpu_time()?;
    let (at_once, others) = shops.split_at_checked(BURSTS * AT_ONCE).context("too few updates")?;
    let (single, rest) = others.split_at_checked(SINGLE).context("too few updates")?;
    step(&format!("ordering {AT_ONCE} rollbacks at once, {BURSTS} times"));
    for burst in at_once.chunks(AT_ONCE) {
        try_join_all(burst.iter().map(|shop| shop.roll_back(bed))).await?;
        wait_for(burst, bed, "ROLLED_BACK", |state, _| state == "ROLLED_BACK").await?;
    }
    step(&format!("ordering {SINGLE} rollbacks, one after the other"));
    for shop in single {
        shop.roll_back(bed).await?;
        sleep(PAUSE).await;
    }
    wait_for(rest, bed, "ROUTING", |state, _| state == "ROUTING").await?;
    step(&format!("ordering the other {} rollbacks at once", rest.len()));
    try_join_all(rest.iter().map(|shop| shop.roll_back(bed))).await?;
    wait_for(shops, bed, "ROLLED_BACK", |state, _| state == "ROLLED_BACK").await?;
    let cpu = operator.cpu_time()?.saturating_sub(cpu) / u32::try_from(shops.len())?;

    let log = AuditLog::read(&bed.audit_log())?;
    let find = |shops: &[Shop]| shops.iter().map(|shop| Rollback::find(&log, shop)).collect::<anyhow::Result<Vec<_>>>();
    let (at_once, single, rest) = (find(at_once)?, find(single)?, find(rest)?);
    let written: Vec<_> = single.iter().map(|r| r.written - r.ordered).collect();
    for (name, percent, target) in [("p50", 50, "10 ms"), ("p95", 95, ""), ("p99", 99, "50 ms")] {
        let what = format!("rollback ordered -> weights written, {SINGLE} times, {name}");
        table.row(&what, millis(percentile(&written, percent)), target);
    }
    let asked: Vec<_> = single.iter().map(|r| r.asked - r.ordered).collect();
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        table.row(&format!("  of which until the API server was asked, {name}"), millis(percentile(&asked, percent)), "");
    }
    let orders: Vec<_> = single.iter().map(|r| r.order_took).collect();
    table.row("  for comparison: the order itself, another patch, p50", millis(percentile(&orders, 50)), "");
    for (rollbacks, times, target) in [(&at_once, BURSTS, "250 ms"), (&rest, 1, "")] {
        let size = rollbacks.len() / times;
        let bursts = || rollbacks.chunks(size).filter_map(|burst| Some((burst, burst.iter().map(|r| r.written).max()?)));
        let from_last = bursts().filter_map(|(burst, done)| Some(done - burst.iter().map(|r| r.ordered).max()?));
        let from_first = bursts().filter_map(|(burst, done)| Some(done - burst.iter().map(|r| r.ordered).min()?));
        let worst = if times > 1 { format!(", worst of {times}") } else { String::new() };
        table.row(&format!("{size} at once, last order -> last weights{worst}"), millis(from_last.max().unwrap_or_default()), target);
        table.row(&format!("{size} at once, first order -> last weights{worst}"), millis(from_first.max().unwrap_or_default()), target);
    }
    let all = shops.len();
    let first = [at_once, single, rest].iter().flatten().filter(|r| r.first).count();
    table.promise("rollbacks whose first write was the weights", format!("{first} of {all}"), format!("{all} of {all}"));
    table.row("processor time of the operator for a whole rollback", format!("{} ms", cpu.as_millis()), "");
    Ok(())
}

/// The value that this share of them does not exceed.
fn percentile(times: &[TimeDelta], percent: usize) -> TimeDelta {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// What the operator does when there is nothing to do.
async fn idle(bed: &Bed, operator: &Operator, table: &mut Table) -> anyhow::Result<()> {
    sleep(SETTLE).await;
    let (began, cpu) = (Utc::now(), operator.cpu_time()?);
    sleep(IDLE).await;
    let (ended, cpu) = (Utc::now(), operator.cpu_time()?.saturating_sub(cpu));
    let log = AuditLog::read(&bed.audit_log())?.by_user(operator::USER).between(began, ended);
    let (leases, writes) = (log.filter(|e| e.resource == "leases"), log.filter(|e| e.resource != "leases"));
    ensure!(!leases.is_empty(), "the operator renewed no Lease: it does not run, or its writes are not in the log");
    if !writes.is_empty() {
        say!("writes of an idle operator:\n{writes}");
    }
    let (memory, peak) = operator.memory_mib()?;
    let share = 100.0 * cpu.as_secs_f64() / IDLE.as_secs_f64();
    table.promise(&format!("{FINISHED} finished updates, {} s: writes, Lease left out", IDLE.as_secs()), writes.len(), 0);
    table.row(&format!("{FINISHED} finished updates: processor, of one core"), format!("{share:.2} %"), "1 %");
    table.row("resident memory, now", format!("{memory} MiB"), "");
    table.row("resident memory, at most", format!("{peak} MiB"), "");
    Ok(())
}

/// What it costs to read all pods of a large update, against the same update when nothing is read.
async fn health(bed: &Bed, operator: &Operator, table: &mut Table, step: impl Fn(&str)) -> anyhow::Result<()> {
    step(&format!("bringing one update of {PODS} pods to ROUTING 1:1"));
    let shops = Shop::open(bed, "large", 1, 1).await?;
    let shop = shops.first().context("no shop")?;
    let patch = async |resource: &ApiResource, patch: Value| {
        let api: Api<DynamicObject> = Api::namespaced_with(bed.client(), &shop.namespace, resource);
        api.patch(&shop.name, &PatchParams::default(), &Patch::Merge(patch)).await
    };
    let template = json!({"metadata": {"annotations": {"testbed.aether.dev/more-series": MORE_SERIES.to_string()}}});
    patch(&resource("apps", "v1", "Deployment"), json!({"spec": {"replicas": PODS / 2, "template": template}})).await?;
    let rolled_out = format!("--timeout={}s", LIMIT.as_secs());
    bed.kubectl(&["-n", &shop.namespace, "rollout", "status", &format!("deployment/{}", shop.name), &rolled_out]).await?;
    Shop::update(bed, &shops, "2.0.0").await?;
    wait_for(&shops, bed, "ROUTING 1:1", |state, routing| (state, routing) == ("ROUTING", "1:1")).await?;

    let spent = async || -> anyhow::Result<(f64, Rounds)> {
        sleep(SETTLE).await;
        let (cpu, rounds) = (operator.cpu_time()?, Rounds::of(&operator::metrics(ADMIN_PORT).await?));
        sleep(IDLE).await;
        let cpu = operator.cpu_time()?.saturating_sub(cpu);
        Ok((cpu.as_secs_f64(), Rounds::of(&operator::metrics(ADMIN_PORT).await?).since(&rounds)))
    };
    step(&format!("watching the operator for {} s, nothing is read", IDLE.as_secs()));
    let (without, _) = spent().await?;
    patch(&resource("aether.dev", "v1alpha1", "RollingUpdate"), json!({"spec": {"metrics": {"none": null, "pods": {"port": 8080}}}}))
        .await?;
    step(&format!("watching it for {} s, all pods are read", IDLE.as_secs()));
    let began = Utc::now();
    let (with, rounds) = spent().await?;
    let writes = AuditLog::read(&bed.audit_log())?.by_user(operator::USER).between(began + SETTLE, Utc::now());
    let writes = writes.filter(|e| e.resource != "leases");
    ensure!(rounds.count > 0.0, "no round was counted");
    let percent = |seconds: f64| format!("{:.2} %", 100.0 * seconds / IDLE.as_secs_f64());
    let what = |figure: &str| format!("{PODS} pods, {} series each: {figure}", MORE_SERIES + 14);
    table.row(&what(&format!("rounds in {} s", IDLE.as_secs())), rounds.count, "");
    table.promise(&what("pages that could not be read"), rounds.unread, 0);
    table.row(&what("time of a round, mean"), format!("{:.0} ms", 1000.0 * rounds.seconds / rounds.count), "5 s");
    table.row(&what("processor of a round"), format!("{:.0} ms", 1000.0 * (with - without) / rounds.count), "");
    table.row(&what("processor, of one core"), percent(with), "");
    table.row("  for comparison: the same update when nothing is read", percent(without), "");
    table.promise(&what("writes, Lease left out"), writes.len(), 0);
    table.row("resident memory, now", format!("{} MiB", operator.memory_mib()?.0), "");
    Ok(())
}

/// What an operator's metrics tell of the rounds in which it read pods.
struct Rounds {
    count: f64,
    seconds: f64,
    /// Pages that could not be read.
    unread: f64,
}

impl Rounds {
    fn of(metrics: &str) -> Self {
        let sum = |name: &str, but: &str| {
            let of_pods = metrics.lines().filter(|l| l.starts_with(name) && l.contains("source=\"pods\"") && !l.contains(but));
            of_pods.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        Self {
            count: sum("aether_metric_round_seconds_count", "\n"),
            seconds: sum("aether_metric_round_seconds_sum", "\n"),
            unread: sum("aether_metric_reads_total", "result=\"ok\""),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self { count: self.count - before.count, seconds: self.seconds - before.seconds, unread: self.unread - before.unread }
    }
}

/// What the audit log tells of one rollback.
struct Rollback {
    /// How long the API server took for the order.
    order_took: TimeDelta,
    /// It had carried out the order.
    ordered: DateTime<Utc>,
    /// It got the request for the weights.
    asked: DateTime<Utc>,
    /// It had carried out that.
    written: DateTime<Utc>,
    /// Nothing was written about the update in between.
    first: bool,
}

impl Rollback {
    fn find(log: &AuditLog, shop: &Shop) -> anyhow::Result<Self> {
        let name = &shop.name;
        let in_namespace = log.in_namespace(&shop.namespace);
        let order = in_namespace.filter(|e| e.user != operator::USER && e.target() == "rollingupdates" && e.name == *name);
        let order = order.entries().last().with_context(|| format!("no order for {name}"))?;
        // All that belongs to an update starts with its name. What it deletes as a collection carries none.
        let after = in_namespace.filter(|e| e.user == operator::USER && e.name.starts_with(name) && e.at >= order.at);
        let is_weights = |e: &&Entry| e.resource == "httproutes" && e.code == 200;
        let weights = after.entries().iter().find(is_weights).with_context(|| format!("the route {name} was not written"))?;
        let first = after.entries().iter().all(|e| e.at >= weights.at);
        Ok(Self { order_took: order.answered - order.at, ordered: order.answered, asked: weights.at, written: weights.answered, first })
    }
}

/// A Deployment of one pod, its Service, its route and its update, all of one name.
struct Shop {
    namespace: String,
    name: String,
}

impl Shop {
    /// Creates shops without updates, spread over some namespaces, and waits for their pods.
    async fn open(bed: &Bed, prefix: &str, namespaces: usize, count: usize) -> anyhow::Result<Vec<Self>> {
        let shop = |n: usize| Self { namespace: format!("{prefix}-{}", n % namespaces), name: format!("{prefix}-{n:04}") };
        let shops: Vec<_> = (0..count).map(shop).collect();
        for namespace in 0..namespaces {
            bed.create_namespace(&format!("{prefix}-{namespace}")).await?;
        }
        create(bed, shops.iter().flat_map(Self::objects)).await?;
        let deployments: Api<DynamicObject> = Api::all_with(bed.client(), &resource("apps", "v1", "Deployment"));
        let deadline = Instant::now() + LIMIT;
        loop {
            let all = deployments.list(&ListParams::default()).await?;
            let available = |object: &&DynamicObject| object.data.pointer("/status/availableReplicas").is_some();
            let ready = all.items.iter().filter(available).filter(|o| o.metadata.name.as_deref().is_some_and(|n| n.starts_with(prefix)));
            let ready = ready.count();
            if ready >= count {
                return Ok(shops);
            }
            ensure!(Instant::now() < deadline, "only {ready} of {count} Deployments became available");
            sleep(POLL).await;
        }
    }

    fn objects(&self) -> Vec<Value> {
        let Self { namespace, name } = self;
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": [{"name": name, "port": 80}]}]},
        });
        let mut objects = vec![rig::deployment(name, &json!({})), rig::service(name), route];
        for object in &mut objects {
            if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
                metadata.insert("namespace".to_owned(), json!(namespace));
            }
        }
        objects
    }

    /// Asks for a version of each, held at 1:1 where it has to be brought out.
    async fn update(bed: &Bed, shops: &[Self], version: &str) -> anyhow::Result<()> {
        let update = |shop: &Self| {
            json!({
                "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate",
                "metadata": {"name": shop.name, "namespace": shop.namespace},
                "spec": {
                    "artifactBase": format!("shop.example:{}", shop.name), "version": version, "metrics": {"none": {}},
                    "traffic": {"settle": "1s", "drain": "1s"}, "control": {"version": version, "routing": "1:1"},
                },
            })
        };
        create(bed, shops.iter().map(update)).await
    }

    async fn roll_back(&self, bed: &Bed) -> anyhow::Result<()> {
        let order = Patch::Merge(json!({"spec": {"control": {"outcome": "Rollback"}}}));
        watching::updates(&bed.client(), &self.namespace).patch(&self.name, &PatchParams::default(), &order).await?;
        Ok(())
    }
}

async fn create(bed: &Bed, objects: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
    let applied = stream::iter(objects).map(|object| bed.apply(object)).buffer_unordered(HANDS);
    applied.try_for_each(async |_| Ok(())).await
}

/// Waits until the updates of all these shops have such a state and routing.
async fn wait_for(shops: &[Shop], bed: &Bed, what: &str, wanted: impl Fn(&str, &str) -> bool) -> anyhow::Result<()> {
    let updates: Api<DynamicObject> = Api::all_with(bed.client(), &resource("aether.dev", "v1alpha1", "RollingUpdate"));
    let deadline = Instant::now() + LIMIT;
    loop {
        // First of all, because what was ordered just now is being measured, and the question costs time as well.
        sleep(POLL).await;
        let all = updates.list(&ListParams::default()).await?;
        let text = |object: &DynamicObject, path: &str| object.data.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let there = |object: &&DynamicObject| wanted(&text(object, "/status/state"), &text(object, "/status/routing"));
        let names: HashSet<_> = all.items.iter().filter(there).filter_map(|o| o.metadata.name.clone()).collect();
        let Some(late) = shops.iter().find(|shop| !names.contains(&shop.name)) else { return Ok(()) };
        if Instant::now() > deadline {
            let status = all.items.iter().find(|o| o.metadata.name.as_ref() == Some(&late.name)).and_then(|o| o.data.get("status"));
            bail!("{} is not at {what} after {LIMIT:?}: {status:#?}", late.name);
        }
    }
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// What the rollbacks need of a gateway, and no more, or its own requests would slow down what is measured: it says of
/// every generation of every route that it is accepted.
async fn acknowledge(client: Client) {
    let routes = resource("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &routes);
    let mut changed = pin!(watcher(all, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(route) = changed.next().await {
        let Ok(route) = route else { continue };
        let (Some(namespace), Some(name)) = (&route.metadata.namespace, &route.metadata.name) else { continue };
        let generation = json!(route.metadata.generation);
        if route.data.pointer("/status/parents/0/conditions/0/observedGeneration") == Some(&generation) {
            continue;
        }
        let condition = |type_: &str| {
            json!({
                "type": type_, "status": "True", "reason": type_, "message": "",
                "observedGeneration": generation, "lastTransitionTime": "2030-01-01T00:00:00Z",
            })
        };
        let parent = json!({
            "parentRef": {"name": "gateway"}, "controllerName": "testbed.aether.dev/gateway",
            "conditions": [condition("Accepted"), condition("ResolvedRefs")],
        });
        let status = Patch::Merge(json!({"status": {"parents": [parent]}}));
        let routes: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &routes);
        if let Err(error) = routes.patch_status(name, &PatchParams::default(), &status).await {
            tracing::warn!("status of route {name}: {error}");
        }
    }
}

/// Figures beside what they should be at most.
struct Table {
    rows: Vec<[String; 3]>,
    kept: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self { rows: vec![["figure", "measured", "target"].map(str::to_owned)], kept: true }
    }
}

impl Table {
    fn row(&mut self, what: &str, figure: impl Display, target: impl Display) {
        self.rows.push([what.to_owned(), figure.to_string(), target.to_string()]);
    }

    /// A row whose figure must be the target.
    fn promise<T: Display>(&mut self, what: &str, figure: impl Display, target: T) {
        let (figure, target) = (figure.to_string(), target.to_string());
        let kept = figure == target;
        self.kept &= kept;
        self.row(what, figure, if kept { target } else { format!("{target}  BROKEN") });
    }

    fn text(&self) -> String {
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1));
        let line = |[what, figure, target]: &[String; 3]| format!("{what:<first$}  {figure:>second$}  {target}\n");
        self.rows.iter().map(line).collect()
    }
}

fn millis(time: TimeDelta) -> String {
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let millis = time.num_microseconds().unwrap_or(i64::MAX) as f64 / 1000.0;
    format!("{millis:.1} ms")
}

//! What the tests of rolling updates stand on: one bed, two gateways, the operator, and shops under load.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::audit::AuditLog;
use crate::bed::{Bed, BedOptions};
use crate::gateway::{Gateway, GatewayOptions};
use crate::load::{Load, Outcome, Plan, Report, Target};
use crate::metrics_api::MetricsApi;
use crate::namespace::Entered;
use crate::operator::{self, Operator};
use crate::prometheus::Prometheus;
use crate::watching::{self, Watching, WatchingEndpoints};

/// How long a Lease of the operator lasts, as a person gets it: a machine that is busy for a moment costs no lead.
pub const LEASE: Duration = Duration::from_secs(15);
/// Where operators die and sleep, their successors wait this long.
pub const SHORT_LEASE: Duration = Duration::from_secs(3);
/// Pods of a shop.
pub const PODS: usize = 4;
/// Requests per second that `web` gets of all of a shop's callers: all but a tenth of the second rule's.
pub const RATE: f64 = 138.0;
/// Names of a shop's routes, and of their Gateways: through the one with 2 s, and the one with 100 ms.
const ROUTES: [&str; 2] = ["slow", "quick"];
/// Longest any single wait may take; a loaded machine is no error.
pub const LIMIT: Duration = Duration::from_mins(2);

/// A cluster with everything in it.
pub struct Rig {
    /// The cluster.
    pub bed: Bed,
    operator: Option<Mutex<Operator>>,
    /// Traefik as a person gets it, throttle 2 s, and one with 100 ms.
    pub gateways: [Gateway; 2],
    metrics_api: OnceCell<MetricsApi>,
    prometheus: OnceCell<Prometheus>,
}

impl Rig {
    /// Boots it all, with an operator whose Lease lasts that long.
    pub async fn boot(namespace: &Entered, lease: Duration) -> anyhow::Result<Arc<Self>> {
        let mut rig = Self::boot_bare(namespace).await?;
        operator::install(&rig.bed).await?;
        rig.operator = Some(Mutex::new(Operator::start(&rig.bed, "operator", 8081, lease).await?));
        Ok(Arc::new(rig))
    }

    /// Boots it all but the operator: nothing of Aether is installed.
    pub async fn boot_bare(namespace: &Entered) -> anyhow::Result<Self> {
        let bed = Bed::boot(namespace, BedOptions::default()).await?;
        let quick = GatewayOptions {
            name: "traefik-quick".into(),
            port: 8001,
            metrics_port: 9001,
            throttle: Duration::from_millis(100),
            ..GatewayOptions::default()
        };
        let gateways = [Gateway::start(&bed, GatewayOptions::default()).await?, Gateway::start(&bed, quick).await?];
        Ok(Self { bed, operator: None, gateways, metrics_api: OnceCell::new(), prometheus: OnceCell::new() })
    }

    /// The operator under test.
    pub async fn operator(&self) -> anyhow::Result<MutexGuard<'_, Operator>> {
        Ok(self.operator.as_ref().context("the rig was booted without an operator")?.lock().await)
    }

    /// What autoscalers read the CPU of pods from; it is there from the first call on.
    pub async fn metrics_api(&self) -> anyhow::Result<&MetricsApi> {
        self.metrics_api.get_or_try_init(|| MetricsApi::start(&self.bed)).await
    }

    /// A Prometheus that scrapes both gateways, for tests that leave it alone; it is there from the first call on.
    pub async fn prometheus(&self) -> anyhow::Result<&Prometheus> {
        self.prometheus.get_or_try_init(|| self.own_prometheus("prometheus", 9090)).await
    }

    /// A Prometheus that scrapes both gateways, for one test alone.
    pub async fn own_prometheus(&self, name: &str, port: u16) -> anyhow::Result<Prometheus> {
        Prometheus::start(&self.bed, name, port, &self.metrics_ports()).await
    }

    /// Where the gateways show their metrics.
    pub fn metrics_ports(&self) -> [u16; 2] {
        self.gateways.each_ref().map(|gateway| gateway.options().metrics_port)
    }

    /// The end of the operator's log, for errors.
    pub async fn operator_log(&self) -> String {
        match self.operator().await {
            Ok(operator) => format!("the operator said:\n{}", tail(operator.log())),
            Err(none) => none.to_string(),
        }
    }

    /// What the operator has written in a namespace, Events and Lease left out.
    pub fn writes(&self, namespace: &str) -> anyhow::Result<AuditLog> {
        Ok(AuditLog::read(&self.bed.audit_log())?.by_user(operator::USER).in_namespace(namespace).without_events_and_leases())
    }
}

/// A service of a user: pods, Service, routes, and callers.
pub struct Shop {
    /// What it stands on.
    pub rig: Arc<Rig>,
    /// Its namespace.
    pub namespace: String,
    /// What the user applied, as a List.
    manifests: Value,
    routes: Vec<String>,
    wrote: Value,
    loads: Vec<(&'static str, Load)>,
}

impl Shop {
    /// Opens a shop with version 1.0.0 and waits until both gateways serve it. `annotations` steer its pods.
    pub async fn open(rig: &Arc<Rig>, namespace: &str, annotations: Value) -> anyhow::Result<Self> {
        rig.bed.create_namespace(namespace).await?;
        let mut gateways = Vec::new();
        for (gateway, name) in rig.gateways.iter().zip(ROUTES) {
            gateways.push(serde_yaml::from_str(&gateway.manifest(namespace, name))?);
        }
        let routes = ROUTES.map(|name| route(namespace, name, &json!([{"name": name, "sectionName": "web"}])));
        let shop = Self::furnish(rig, namespace, &annotations, gateways, routes.into()).await?;
        for gateway in &rig.gateways {
            let target = shop.through(gateway);
            let mut served = false;
            for _ in 0..80 {
                served = Load::start(Plan { max_requests: Some(1), ..Plan::new(target.clone(), 1.0) })?.finished().await.failed() == 0;
                if served {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            ensure!(served, "the gateway {} does not serve the shop", gateway.options().name);
        }
        Ok(shop)
    }

    /// A shop that is reached by its Service only: no Gateway, no route.
    pub async fn open_without_routes(rig: &Arc<Rig>, namespace: &str) -> anyhow::Result<Self> {
        rig.bed.create_namespace(namespace).await?;
        Self::furnish(rig, namespace, &json!({}), Vec::new(), Vec::new()).await
    }

    /// A shop in a namespace that is there, behind one route, `web`, with these parents. It cannot be called.
    pub async fn open_behind(rig: &Arc<Rig>, namespace: &str, gateways: Vec<Value>, parents: &Value) -> anyhow::Result<Self> {
        Self::furnish(rig, namespace, &json!({}), gateways, vec![route(namespace, "web", parents)]).await
    }

    async fn furnish(
        rig: &Arc<Rig>,
        namespace: &str,
        annotations: &Value,
        gateways: Vec<Value>,
        routes: Vec<Value>,
    ) -> anyhow::Result<Self> {
        let names = routes.iter().filter_map(|r| r.pointer("/metadata/name")?.as_str()).map(str::to_owned).collect();
        let pods = [deployment("web", annotations), service("web"), deployment("other", &json!({})), service("other")];
        let objects: Vec<Value> = pods.into_iter().chain(gateways).chain(routes).collect();
        let manifests = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut shop =
            Self { rig: rig.clone(), namespace: namespace.to_owned(), manifests, routes: names, wrote: Value::Null, loads: Vec::new() };
        shop.apply_manifests(&[]).await?;
        shop.kubectl(&["scale", "deployment/web", &format!("--replicas={PODS}")]).await?;
        for name in ["web", "other"] {
            shop.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=90s"]).await?;
        }
        let endpoints = WatchingEndpoints::start(&rig.bed.client(), namespace, "web");
        for _ in 0..240 {
            if endpoints.all().last().is_some_and(|ready| ready.len() == PODS) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        shop.wrote = shop.users_objects().await?;
        Ok(shop)
    }

    /// kubectl in the shop's namespace.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.rig.bed.kubectl(&[&["-n", &self.namespace], args].concat()).await
    }

    /// kubectl in the shop's namespace, with input.
    pub async fn kubectl_stdin(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        self.rig.bed.kubectl_stdin(&[&["-n", &self.namespace], args].concat(), input).await
    }

    /// Applies what the user applied at the start once more, as a GitOps tool does.
    pub async fn apply_manifests(&self, options: &[&str]) -> anyhow::Result<()> {
        self.kubectl_stdin(&[&["apply", "-f", "-"], options].concat(), &self.manifests.to_string()).await?;
        Ok(())
    }

    /// What the user applied at the start.
    pub fn manifests(&self) -> &Value {
        &self.manifests
    }

    /// An object as JSON.
    pub async fn get(&self, what: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", what, "-o", "json"]).await?)?)
    }

    fn through(&self, gateway: &Gateway) -> Target {
        let name = if gateway.options().port == 8000 { "slow" } else { "quick" };
        let host = format!("{name}.{}.example", self.namespace);
        Target::Gateway { addr: ([127, 0, 0, 1], gateway.options().port).into(), host, headers: Vec::new() }
    }

    /// The rule that sends one request in ten to a foreign backend.
    fn through_the_second_rule_of(&self, gateway: &Gateway) -> Target {
        match self.through(gateway) {
            Target::Gateway { addr, host, .. } => Target::Gateway { addr, host, headers: vec![("x-rule".into(), "1".into())] },
            service @ Target::Service { .. } => service,
        }
    }

    /// Callers: through both gateways, of the Service itself by a prompt and by a late kube-proxy, and through the rule
    /// with a foreign backend.
    pub fn start_load(&mut self) -> anyhow::Result<()> {
        self.call(Some((40, Duration::from_secs(1))))
    }

    /// The same callers, but nobody asks for slow answers: how long they take is the pods' own affair.
    pub fn start_even_load(&mut self) -> anyhow::Result<()> {
        self.call(None)
    }

    fn call(&mut self, slow_every: Option<(u32, Duration)>) -> anyhow::Result<()> {
        let [slow, quick] = &self.rig.gateways;
        let service = |lag| Target::Service {
            client: self.rig.bed.client(),
            namespace: self.namespace.clone(),
            service: "web".into(),
            port: 80,
            lag: Duration::from_secs(lag),
        };
        let plan = |target, rate| Plan { slow_every, ..Plan::new(target, rate) };
        let plans = [
            ("gateway with 2 s throttle", plan(self.through(slow), 40.0)),
            ("gateway with 100 ms throttle", plan(self.through(quick), 40.0)),
            ("Service", plan(service(0), 25.0)),
            ("Service, 1 s late", plan(service(1), 15.0)),
            ("gateway with 100 ms throttle, second rule", plan(self.through_the_second_rule_of(quick), 20.0)),
        ];
        let callers = if self.routes.is_empty() { 2..4 } else { 0..5 };
        for (who, plan) in plans.into_iter().take(callers.end).skip(callers.start) {
            self.loads.push((who, Load::start(plan)?));
        }
        Ok(())
    }

    /// What one of the callers saw so far: with routes 0 and 1 are through the gateways, 2 and 3 of the Service and 4 through
    /// the rule with a foreign backend; without, 0 and 1 are of the Service.
    pub fn seen_by(&self, caller: usize) -> anyhow::Result<Report> {
        Ok(self.loads.get(caller).context("no such caller")?.1.snapshot())
    }

    /// What one of the callers saw in the last so many milliseconds.
    pub fn lately_seen_by(&self, caller: usize, window: i64) -> anyhow::Result<Report> {
        let now = chrono::Utc::now();
        Ok(self.seen_by(caller)?.between(now - chrono::TimeDelta::milliseconds(window), now))
    }

    /// Waits until these shares of what a caller asked in the last 5 s are within 0.04 of what is wanted. A gateway begins its
    /// round of the backends anew whenever anything in the cluster changes, and a round begins with the largest: while other
    /// tests begin and end, a short time says little.
    pub async fn comes_to_shares(&self, caller: usize, wanted: &[(&str, f64)]) -> anyhow::Result<()> {
        let started = tokio::time::Instant::now();
        loop {
            let seen = self.lately_seen_by(caller, 5000)?;
            if seen.requests() > 0 && wanted.iter().all(|(version, share)| (seen.share(version) - share).abs() < 0.04) {
                return Ok(());
            }
            ensure!(started.elapsed() < LIMIT, "caller {caller} was to see {wanted:?}, but saw {:?}", seen.versions());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Requests of all callers so far, and how many of them failed.
    pub fn failed_so_far(&self) -> (u64, u64) {
        let reports = self.loads.iter().map(|(_, load)| load.snapshot());
        reports.fold((0, 0), |(requests, failed), report| (requests + report.requests(), failed + report.failed()))
    }

    /// Ends the load and tells what each caller saw, in the order of [`Shop::seen_by`].
    pub async fn end_load(&mut self) -> anyhow::Result<Vec<(&'static str, Report)>> {
        // What goes wrong right after the end counts as well.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut reports = Vec::new();
        for (who, load) in self.loads.drain(..) {
            let report = load.stop().await;
            ensure!(report.requests() > 0, "{who} sent nothing");
            reports.push((who, report));
        }
        Ok(reports)
    }

    /// Ends the load and demands that nothing failed. Returns the number of requests.
    pub async fn no_request_failed(&mut self) -> anyhow::Result<u64> {
        let mut requests = 0;
        for (who, report) in self.end_load().await? {
            requests += report.requests();
            ensure!(report.failed() == 0, "{who}: {report}\nfirst failures: {:#?}", report.first_failures());
        }
        Ok(requests)
    }

    /// Ends the load and demands that nothing failed but answers with status 500 of these versions. Returns how many
    /// requests there were, and how many failed.
    pub async fn only_pods_erred(&mut self, versions: &[&str]) -> anyhow::Result<(u64, u64)> {
        let (mut requests, mut erred) = (0, 0);
        for (who, report) in self.end_load().await? {
            requests += report.requests();
            for (outcome, count) in report.outcomes() {
                match outcome {
                    Outcome::Ok { .. } => {}
                    Outcome::Status { code: 500, version } if versions.contains(&version.as_str()) => erred += count,
                    other => anyhow::bail!("{who}: {count} x {other:?}\nfirst failures: {:#?}", report.first_failures()),
                }
            }
        }
        Ok((requests, erred))
    }

    /// Writes a `RollingUpdate` named `web`: fast, in readiness mode, with `spec` merged in; and watches it.
    pub async fn update(&self, spec: Value) -> anyhow::Result<Watching> {
        let watching = Watching::start(&self.rig.bed.client(), &self.namespace, "web");
        let mut object = json!({
            "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": "web"},
            "spec": {
                "artifactBase": "shop.example:web", "version": "2.0.0", "cleanupPolicy": "IMMEDIATE",
                "traffic": {"settle": "3s", "drain": "4s"}, "progression": {"interval": "4s"}, "metrics": {"none": {}},
            },
        });
        merge(&mut object, json!({"spec": spec}));
        self.kubectl_stdin(&["apply", "-f", "-"], &object.to_string()).await?;
        Ok(watching)
    }

    /// Merges something into the update's spec, as `kubectl patch` does.
    pub async fn patch_update(&self, spec: Value) -> anyhow::Result<()> {
        self.kubectl(&["patch", "rollingupdate", "web", "--type=merge", "-p", &json!({"spec": spec}).to_string()]).await?;
        Ok(())
    }

    /// Gives orders for version 2.0.0.
    pub async fn order(&self, mut orders: Value) -> anyhow::Result<()> {
        merge(&mut orders, json!({"version": "2.0.0"}));
        self.patch_update(json!({"control": orders})).await
    }

    /// Routes and Service, as far as the user wrote them.
    async fn users_objects(&self) -> anyhow::Result<Value> {
        let part = |object: &Value, path: &str| object.pointer(path).cloned().unwrap_or_default();
        let mut all = Vec::new();
        for name in &self.routes {
            all.push(part(&self.get(&format!("httproute/{name}")).await?, "/spec"));
        }
        all.push(part(&self.get("service/web").await?, "/spec/selector"));
        Ok(Value::Array(all))
    }

    /// Demands that routes and Service are again what the user wrote, and that only `deployments` are there.
    pub async fn nothing_left_but(&self, deployments: &[&str]) -> anyhow::Result<()> {
        let now = self.users_objects().await?;
        ensure!(now == self.wrote, "routes or Service are not as the user wrote them:\n{now:#}\nbut were\n{:#}", self.wrote);
        let names = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let path = "jsonpath={.items[*].metadata.name}";
        let services = names(self.kubectl(&["get", "services", "-o", path]).await?);
        ensure!(services == ["other", "web"], "Services are left: {services:?}");
        let found = names(self.kubectl(&["get", "deployments", "-o", path]).await?);
        let mut wanted: Vec<&str> = deployments.iter().copied().chain(["other"]).collect();
        wanted.sort_unstable();
        ensure!(found == wanted, "Deployments are {found:?}, not {wanted:?}");
        let paused = self.get("deployment/web").await?;
        ensure!(paused.pointer("/spec/paused").is_none(), "the workload is still paused");
        let labels = self.kubectl(&["get", "pods,replicasets", "-o", "json"]).await?;
        ensure!(!labels.contains("aether.dev/serving"), "serving labels are left:\n{labels}");
        Ok(())
    }

    /// Demands that no write of the operator changed nothing. Where two updates write the same objects, or it is stopped in
    /// the middle of a request, a write may be refused as outdated by one of its own; that is all that may happen to it.
    pub fn no_empty_write(&self) -> anyhow::Result<AuditLog> {
        let writes = self.rig.writes(&self.namespace)?;
        ensure!(writes.no_ops().is_empty(), "writes that changed nothing:\n{}", writes.no_ops());
        let refused = writes.filter(|e| e.code >= 400 && ![409, 422, 504].contains(&e.code));
        ensure!(refused.is_empty(), "writes that were refused:\n{:#?}", refused.entries());
        Ok(writes)
    }

    /// Demands that no write of the operator was for nothing: each changed something, or met another's that was faster.
    pub fn no_wasted_write(&self) -> anyhow::Result<AuditLog> {
        let writes = self.rig.writes(&self.namespace)?;
        ensure!(writes.no_ops().is_empty(), "writes that changed nothing:\n{}", writes.no_ops());
        let refused = writes.refused_for_nothing(&AuditLog::read(&self.rig.bed.audit_log())?.in_namespace(&self.namespace));
        ensure!(refused.is_empty(), "writes that were refused:\n{:#?}", refused.entries());
        Ok(writes)
    }

    /// Takes the shop down, so that the next ones have the machine for themselves.
    pub async fn close(self) -> anyhow::Result<()> {
        watching::updates(&self.rig.bed.client(), &self.namespace)
            .delete_collection(&kube::api::DeleteParams::default(), &kube::api::ListParams::default())
            .await?;
        self.rig.bed.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]).await?;
        Ok(())
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(80)..).unwrap_or_default().join("\n")
}

/// As a JSON merge patch: null takes a field away.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                    continue;
                }
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A Deployment as its owner writes it: no `replicas`.
pub fn deployment(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "minReadySeconds": 1,
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations},
                "spec": {"containers": [{"name": "app", "image": format!("registry.example/{name}:1.0.0"), "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

/// Part of a spec: judged by the pods' metrics, with fewer requests than by default, since 138 a second are not many at 1:9.
/// The latency limit is far above what a busy machine does to a good version.
pub fn measured(mut progression: Value) -> Value {
    merge(&mut progression, json!({"interval": "4s", "minRequests": 150}));
    json!({"metrics": {"none": null, "pods": {"port": 8080}}, "maxLatencyMs": 1000, "progression": progression})
}

/// A Service over pods of that name.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

/// A route with two rules: one for `web` alone, one with a filter, a foreign backend and weights.
fn route(namespace: &str, name: &str, parents: &Value) -> Value {
    let filter = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-seen", "value": "rule-1"}]}}]);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name},
        "spec": {
            "parentRefs": parents,
            "hostnames": [format!("{name}.{namespace}.example")],
            "rules": [
                {"backendRefs": [{"name": "web", "port": 80}]},
                {
                    "matches": [{"headers": [{"name": "x-rule", "value": "1"}]}],
                    "filters": filter,
                    "backendRefs": [{"name": "other", "port": 80, "weight": 1}, {"name": "web", "port": 80, "weight": 9}],
                },
            ],
        },
    })
}

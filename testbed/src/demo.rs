//! The demo: a new version brought out under load, for a person to watch, with the figures at the end.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::audit::AuditLog;
use crate::bed::{Bed, BedOptions};
use crate::gateway::{Gateway, GatewayOptions};
use crate::load::{Load, Plan, Report, Target};
use crate::namespace::Entered;
use crate::operator::{self, Operator, repository};
use crate::watching::{Seen, Watching};

const NAMESPACE: &str = "shop";
const HOST: &str = "shop.example";
const PODS: &str = "4";
/// Requests per second through the gateway: 2,000 and more for each step's share.
const GATEWAY_RATE: f64 = 300.0;
/// Requests per second to the Service itself.
const SERVICE_RATE: f64 = 50.0;
/// Longest the update may take.
const LIMIT: Duration = Duration::from_mins(5);
/// As in the demo's manifest: nothing is counted for a step before the data plane has settled.
const SETTLE: TimeDelta = TimeDelta::seconds(3);
/// The promise on shares, in points.
const POINTS: f64 = 2.0;
/// The promise on writes.
const MOST_WRITES: u64 = 25;

/// Runs the demo inside the namespace. Ok(false): it ran, and something was not as promised.
pub async fn run(namespace: &Entered) -> anyhow::Result<bool> {
    let begun = std::time::Instant::now();
    let step = |what: &str| say!("{:>6.1}s  {what}", begun.elapsed().as_secs_f64());
    step("booting a control plane: etcd, API server, controller manager, scheduler, nodes");
    let bed = Bed::boot(namespace, BedOptions::default()).await?;
    step("starting the gateway (Traefik, Gateway API) and the operator");
    let gateway = Gateway::start(&bed, GatewayOptions::default()).await?;
    operator::install(&bed).await?;
    let operator = Operator::start(&bed, "operator", 8081, Duration::from_secs(15)).await?;

    step("putting version 1.0.0 of `web` behind the gateway: kubectl apply -f examples/demo/app.yaml");
    bed.create_namespace(NAMESPACE).await?;
    let examples = repository().join("examples/demo");
    let apply = |file: &str| examples.join(file).display().to_string();
    bed.kubectl(&["-n", NAMESPACE, "apply", "-f", &apply("app.yaml")]).await?;
    bed.kubectl(&["-n", NAMESPACE, "scale", "deployment/web", "--replicas", PODS]).await?;
    bed.kubectl(&["-n", NAMESPACE, "rollout", "status", "deployment/web", "--timeout=90s"]).await?;
    let users = before(&bed).await?;
    let target = Target::Gateway { addr: ([127, 0, 0, 1], gateway.options().port).into(), host: HOST.into(), headers: Vec::new() };
    first_answer(&target).await?;

    step(&format!("load: {GATEWAY_RATE} requests/s through the gateway, {SERVICE_RATE}/s to the Service, half on new connections"));
    let through_gateway = Load::start(Plan { slow_every: Some((40, Duration::from_secs(1))), ..Plan::new(target, GATEWAY_RATE) })?;
    let service =
        Target::Service { client: bed.client(), namespace: NAMESPACE.into(), service: "web".into(), port: 80, lag: Duration::ZERO };
    let to_service = Load::start(Plan::new(service, SERVICE_RATE))?;
    tokio::time::sleep(Duration::from_secs(3)).await;

    step("kubectl apply -f examples/demo/rolling-update.yaml");
    let watching = Watching::start(&bed.client(), NAMESPACE, "web");
    let asked = Utc::now();
    bed.kubectl(&["-n", NAMESPACE, "apply", "-f", &apply("rolling-update.yaml")]).await?;
    let ended = follow(&watching, &through_gateway, begun).await;
    say!("\n$ kubectl -n {NAMESPACE} get rollingupdates\n{}", bed.kubectl(&["-n", NAMESPACE, "get", "rollingupdates"]).await?);

    // What goes wrong right after the end counts as well.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (through_gateway, to_service) = tokio::join!(through_gateway.stop(), to_service.stop());
    let log = AuditLog::read(&bed.audit_log())?.by_user(operator::USER).in_namespace(NAMESPACE).without_events_and_leases();
    let (memory, peak) = operator.memory_mib()?;
    let mut faults: Vec<String> = ended.err().map(|e| format!("{e:#}")).into_iter().collect();
    summarize(&watching, asked, &log, (&through_gateway, &to_service), &mut faults);
    say!("operator memory: {memory} MiB, at most {peak} MiB");
    if peak >= 60 {
        faults.push(format!("the operator took {peak} MiB"));
    }
    if before(&bed).await? != users {
        faults.push("HTTPRoute or Service are not as the user wrote them".into());
    }
    drop(operator);
    bed.shutdown().await?;

    let requests = through_gateway.requests() + to_service.requests();
    let failed = through_gateway.failed() + to_service.failed();
    let writes = log.len();
    if faults.is_empty() {
        say!("demo ok: {requests} requests, {failed} failed, {writes} API writes");
    } else {
        say!("demo FAILED: {requests} requests, {failed} failed, {writes} API writes; {}", faults.join("; "));
    }
    Ok(faults.is_empty())
}

/// What the user wrote and must find again: the route's rules and the Service's selector.
async fn before(bed: &Bed) -> anyhow::Result<(String, String)> {
    let rules =
        bed.kubectl(&["-n", NAMESPACE, "get", "httproute/web", "-o", "jsonpath={.spec}{.metadata.annotations.aether\\.dev/split}"]).await?;
    let selector = bed.kubectl(&["-n", NAMESPACE, "get", "service/web", "-o", "jsonpath={.spec.selector}"]).await?;
    Ok((rules, selector))
}

/// Waits until the gateway serves the route.
async fn first_answer(target: &Target) -> anyhow::Result<()> {
    for _ in 0..60 {
        let report = Load::start(Plan { max_requests: Some(1), ..Plan::new(target.clone(), 1.0) })?.finished().await;
        if report.failed() == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("the gateway does not serve the route")
}

/// Tells every change as it happens, and the shares every few seconds.
async fn follow(watching: &Watching, load: &Load, begun: std::time::Instant) -> anyhow::Result<()> {
    let mut told = 0;
    let mut place = String::new();
    let mut quiet = 0;
    loop {
        for seen in watching.all().iter().skip(told) {
            told += 1;
            quiet = 0;
            let (_, _, message) = seen.condition("Ready");
            if seen.place() != place {
                place = seen.place();
                say!("{:>6.1}s  {place:<13}  {message}", begun.elapsed().as_secs_f64());
            }
            match seen.state() {
                "COMPLETED" => return Ok(()),
                state @ ("ROLLED_BACK" | "FAILED") => anyhow::bail!("the update ended in {state}: {message}"),
                _ => {}
            }
        }
        ensure!(begun.elapsed() < LIMIT, "the update is still at {place} after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        quiet += 1;
        if quiet % 40 == 0 {
            let now = Utc::now();
            let report = load.snapshot();
            let recent = report.between(now - TimeDelta::seconds(4), now - TimeDelta::seconds(1));
            say!("{:>6.1}s  {:<13}  {}", begun.elapsed().as_secs_f64(), "", shares(&recent, report.failed()));
        }
    }
}

fn shares(report: &Report, failed: u64) -> String {
    let mut text = String::new();
    for version in report.versions().keys() {
        let _ = write!(text, "{version} {:.1} %  ", 100.0 * report.share(version));
    }
    format!("now: {text}(failed so far: {failed})")
}

/// Prints the figures and collects what was not as promised.
fn summarize(watching: &Watching, asked: DateTime<Utc>, log: &AuditLog, (gateway, service): (&Report, &Report), faults: &mut Vec<String>) {
    let all = watching.all();
    say!("requests through the gateway: {gateway}");
    say!("requests to the Service itself: {service}");
    for (who, report) in [("gateway", gateway), ("Service", service)] {
        if report.failed() > 0 {
            faults.push(format!("{} requests through the {who} failed", report.failed()));
        }
    }

    say!("\nstep    asked    seen     requests");
    let shifts: Vec<DateTime<Utc>> = log.entries().iter().filter(|e| e.resource == "httproutes").map(|e| e.at).collect();
    for (index, seen) in all.iter().enumerate().filter(|(_, s)| s.state() == "ROUTING") {
        let ratio = seen.text("/routing");
        let earlier = index.checked_sub(1).and_then(|i| all.get(i)).map(|s| (s.state(), s.text("/routing")));
        let (Some((new, old)), false) = (parts(ratio), earlier == Some((seen.state(), ratio))) else { continue };
        let end = shifts.iter().copied().find(|at| *at > seen.at).unwrap_or_else(Utc::now);
        let window = gateway.between(seen.at + SETTLE, end);
        let (wanted, share) = (100.0 * new / (new + old), 100.0 * window.share("2.0.0"));
        say!("{ratio:<6} {wanted:>5.1} %  {share:>5.1} %  {:>8}", window.requests());
        if (wanted - share).abs() > POINTS || window.requests() < 2000 {
            faults.push(format!("at {ratio} the new version got {share:.1} % of {} requests", window.requests()));
        }
    }

    say!("\nstate        seconds");
    for (state, seconds) in times(&all, asked) {
        say!("{state:<12} {seconds:>7.1}");
    }

    say!("\nAPI writes of the operator, Events and Lease left out\n{log}");
    let no_ops = log.no_ops().len();
    if no_ops > 0 {
        faults.push(format!("{no_ops} writes changed nothing"));
    }
    if u64::try_from(log.len()).unwrap_or(u64::MAX) > MOST_WRITES {
        faults.push(format!("{} API writes are more than {MOST_WRITES}", log.len()));
    }
}

fn parts(ratio: &str) -> Option<(f64, f64)> {
    let (new, old) = ratio.split_once(':')?;
    Some((new.trim().parse().ok()?, old.trim().parse().ok()?))
}

/// Time in each state, by the operator's own record.
fn times(all: &[Seen], asked: DateTime<Utc>) -> Vec<(String, f64)> {
    let history = all.last().and_then(|s| s.status.pointer("/history")).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut since = asked;
    let mut times = Vec::new();
    for change in &history {
        let text = |name: &str| change.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(at) = text("at").parse::<DateTime<Utc>>().context("time").ok() else { continue };
        #[expect(clippy::cast_precision_loss, reason = "minutes")]
        times.push((text("from"), (at - since).num_milliseconds() as f64 / 1000.0));
        since = at;
    }
    times
}

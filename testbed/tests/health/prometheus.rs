//! Judged by a real Prometheus that scrapes real Traefiks, with the preset for them and with own queries for the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use testbed::load::Outcome;
use testbed::prometheus::{Prometheus, Series};
use testbed::rig::{LIMIT, Rig, Shop, measured};
use testbed::watching::Seen;
use tokio::time::{Duration, Instant, sleep};

use super::{BREACHES, is_breach, largest_share, roll_back, rose_on_healthy_only, share, stays, verdict};

const REQUESTS: &str = "traefik_service_requests_total";
const TIMED: &str = "traefik_service_request_duration_seconds_count";
/// The callers that come through a gateway: the Service's own are not Traefik's to count.
const THROUGH_GATEWAYS: [usize; 3] = [0, 1, 4];

/// Measured by the Prometheus at that address. It is asked every 15 s, so there are fewer steps, and each needs fewer
/// requests: of the 98 a second that come through the gateways a tenth is not many.
fn by_prometheus(address: &str, mut progression: Value) -> Value {
    progression["steps"] = json!(["1:9", "1:1", "1:0"]);
    let mut spec = measured(progression);
    spec["metrics"] = json!({"none": null, "prometheus": {"address": address, "preset": "traefik"}});
    spec["progression"]["minRequests"] = 100.into();
    spec
}

pub async fn a_good_version_completes_by_itself(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "prom-good", json!({})).await?;
    shop.start_even_load()?;
    let watching = shop.update(by_prometheus(&rig.prometheus().await?.url(), json!({}))).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    watching.until("all of the traffic", LIMIT, |s| s.place() == "ROUTING 1:0").await?;
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    rose_on_healthy_only(&watching)?;
    let health = &ended.status["health"];
    for side in ["oldVersion", "newVersion"] {
        let figures = &health[side];
        ensure!(figures["errorRate"] == 0.0 && figures["requestCount"].as_i64().is_some_and(|n| n > 100), "{health:#}");
        ensure!(figures["avgLatencyMs"].as_f64().is_some_and(|ms| ms > 0.0), "{health:#}");
    }
    let requests = shop.no_request_failed().await?;
    shop.no_wasted_write()?;
    println!("good, by Prometheus: {requests} requests, 0 failed");
    shop.close().await
}

pub async fn errors_are_held_and_every_request_is_counted(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "prom-errors", json!({"testbed.aether.dev/error-rate.2.0.0": "0.05"})).await?;
    let prometheus = rig.prometheus().await?;
    shop.start_even_load()?;
    let watching = shop.update(by_prometheus(&prometheus.url(), json!({}))).await?;
    let held = watching.until("a breach", LIMIT, is_breach).await?;
    ensure!(largest_share(&watching) < 0.5, "it got to {}", largest_share(&watching));
    watching.until("the reason", LIMIT, |s| BREACHES.contains(&s.condition("Ready").1.as_str())).await?;
    stays(&watching, &held.place()).await?;

    // Now that it stands still: what Traefik counted, asked for as the operator did, is what the callers saw.
    let (sent, erred) = seen_through_gateways(&mut shop).await?;
    let asked = |version: &str| {
        let names = |query: &String| query.contains("prom-errors") && query.contains(version);
        prometheus.asked()?.into_iter().rfind(names).with_context(|| format!("nobody asked about {version}"))
    };
    let new = all_scraped(prometheus, &asked("web-2-0-0")?, sent).await?;
    let failed = count(&new, has_failed);
    ensure!(failed == erred && failed > 0, "{failed} errors were counted, and {erred} seen");
    let timed = count(&new, |s| s.label("__name__") == TIMED);
    ensure!(timed == sent, "{timed} requests were timed, and {sent} sent");
    let services: BTreeSet<&str> = new.iter().map(|s| s.label("service")).collect();
    ensure!(services.len() == THROUGH_GATEWAYS.len(), "two routes, and one's second rule with its filter, are counted as {services:#?}");
    let old = prometheus.ask(&asked("web-1-0-0")?).await?;
    let of_old = count(&old, |s| s.label("__name__") == REQUESTS);
    ensure!(of_old > 4 * sent, "{of_old} requests of the old version at 9 times the {sent} of the new one");
    ensure!(count(&old, |s| s.label("code").starts_with('5')) == 0, "the old version is held to have failed");
    ensure!(services.is_disjoint(&old.iter().map(|s| s.label("service")).collect()), "a service is counted for both versions");
    let judged = held.status["health"]["newVersion"]["requestCount"].as_u64().unwrap_or_default();
    ensure!(judged > 0 && judged <= sent, "judged by {judged} requests of {sent}");

    roll_back(&shop, &watching).await?;
    println!("5 % errors, by Prometheus: held at {}, {erred} of {sent} requests failed: {}", held.place(), held.text("/decision/message"));
    shop.no_empty_write()?;
    shop.close().await
}

/// One selector each, as a person would write them who knows how Traefik names what a route leads to.
fn own_queries() -> Value {
    let of_version = |name: &str, more: &str| {
        format!("{name}{{{more}service=~\"httproute-.+-svc-{{{{namespace}}}}-{{{{service}}}}-[0-9]+@kubernetesgateway\"}}[2m]  # raw")
    };
    json!({
        "requests": of_version(REQUESTS, ""),
        "errors": of_version(REQUESTS, "code=~\"5..\", "),
        "durationSeconds": of_version("traefik_service_request_duration_seconds_bucket", ""),
    })
}

pub async fn own_queries_hold_a_version_with_errors(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "prom-own", json!({"testbed.aether.dev/error-rate.2.0.0": "0.05"})).await?;
    let prometheus = rig.prometheus().await?;
    shop.start_even_load()?;
    let mut spec = by_prometheus(&prometheus.url(), json!({}));
    // Half of the traffic at once, so that a round or two are proof.
    spec["progression"]["steps"] = json!(["1:1", "1:0"]);
    spec["metrics"]["prometheus"]["preset"] = "custom".into();
    spec["metrics"]["prometheus"]["queries"] = own_queries();
    let watching = shop.update(spec).await?;
    let held = watching.until("a breach", LIMIT, is_breach).await?;
    ensure!(held.place() == "ROUTING 1:1", "it is held at {}", held.place());
    let message = held.text("/decision/message");
    // Traefik has no edge at 1000 ms, so there is no number to look for.
    ensure!(message.contains("over 1000 ms: new ") && !message.contains("errors = 0 %"), "{message}");

    let (sent, erred) = seen_through_gateways(&mut shop).await?;
    let asked = prometheus.asked()?;
    let about_new = |name: &str, failed: bool| {
        let is_it = |q: &&String| q.starts_with(name) && q.contains("prom-own-web-2-0-0-") && q.contains("code=~") == failed;
        asked.iter().rfind(is_it).with_context(|| format!("nobody asked for {name}"))
    };
    let requests = all_scraped(prometheus, about_new(REQUESTS, false)?, sent).await?;
    let errors = prometheus.ask(about_new(REQUESTS, true)?).await?;
    ensure!(
        count(&errors, |_| true) == erred && count(&requests, has_failed) == erred && erred > 0,
        "{erred} errors were seen: {errors:#?}"
    );
    let timed = prometheus.ask(about_new("traefik_service_request_duration_seconds_bucket", false)?).await?;
    ensure!(count(&timed, |s| s.label("le") == "+Inf") == sent, "{sent} requests were sent: {timed:#?}");
    let judged = held.status["health"]["newVersion"]["requestCount"].as_u64().unwrap_or_default();
    ensure!(judged > 0 && judged <= sent, "judged by {judged} requests of {sent}");
    ensure!(watching.last().is_some_and(|s| s.place() == held.place()), "it did not stay at {}", held.place());

    roll_back(&shop, &watching).await?;
    println!("5 % errors, by own queries: held at {}, {erred} of {sent} requests failed: {message}", held.place());
    shop.close().await
}

/// Ends the load. What the new version was sent through the gateways, and how much of that failed.
async fn seen_through_gateways(shop: &mut Shop) -> anyhow::Result<(u64, u64)> {
    let reports = shop.end_load().await?;
    let (mut sent, mut erred) = (0, 0);
    for (n, (who, report)) in reports.iter().enumerate() {
        for (outcome, count) in report.outcomes() {
            let counts = if THROUGH_GATEWAYS.contains(&n) { count } else { 0 };
            match outcome {
                Outcome::Ok { version } if version == "2.0.0" => sent += counts,
                Outcome::Ok { .. } => {}
                Outcome::Status { code: 500, version } if version == "2.0.0" => (sent, erred) = (sent + counts, erred + counts),
                other => anyhow::bail!("{who}: {count} x {other:?}\nfirst failures: {:#?}", report.first_failures()),
            }
        }
    }
    Ok((sent, erred))
}

fn has_failed(series: &Series) -> bool {
    series.label("__name__") == REQUESTS && series.label("code").starts_with('5')
}

/// The answer once the last of so many requests was scraped.
async fn all_scraped(prometheus: &Prometheus, query: &str, sent: u64) -> anyhow::Result<Vec<Series>> {
    let deadline = Instant::now() + LIMIT / 2;
    loop {
        let series = prometheus.ask(query).await?;
        let counted = count(&series, |s| s.label("__name__") == REQUESTS);
        if counted == sent {
            return Ok(series);
        }
        ensure!(counted < sent && Instant::now() < deadline, "{counted} requests were counted, and {sent} sent: {query}\n{series:#?}");
        sleep(Duration::from_millis(500)).await;
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of requests")]
fn count(series: &[Series], which: impl Fn(&Series) -> bool) -> u64 {
    series.iter().filter(|s| which(s)).map(|s| s.value as u64).sum()
}

fn cannot_be_read(because: &'static str) -> impl Fn(&Seen) -> bool {
    move |s| verdict(s) == ("Unknown", "MetricsUnavailable") && s.text("/decision/message").contains(because)
}

pub async fn what_cannot_be_asked_or_is_not_scraped_holds(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "prom-blind", json!({})).await?;
    shop.start_even_load()?;
    let mut prometheus = rig.own_prometheus("prometheus-blind", 9091).await?;
    // It answers, and knows nothing of the gateways; nobody listens; it knows them.
    prometheus.scrape(&[])?;
    let watching = shop.update(by_prometheus(&prometheus.url(), json!({"onBreach": "Rollback"}))).await?;
    watching.until("a Prometheus without series", LIMIT, cannot_be_read("no series of either version")).await?;
    prometheus.process().kill().await?;
    watching.until("a refused connection", LIMIT, cannot_be_read("connection refused")).await?;
    stays(&watching, "DEPLOYED").await?;
    ensure!(largest_share(&watching) == 0.0, "it got to {}", largest_share(&watching));
    let mut prometheus = rig.own_prometheus("prometheus-blind", 9091).await?;
    watching.until("the first step", LIMIT, |s| s.place() == "ROUTING 1:9").await?;
    // In the middle of a step: what was read before is too old after a minute and a half.
    prometheus.process().kill().await?;
    let held = watching.until("figures too old", 2 * LIMIT, cannot_be_read("connection refused")).await?;
    ensure!(held.place() == "ROUTING 1:9", "it is at {}", held.place());
    stays(&watching, "ROUTING 1:9").await?;
    let _prometheus = rig.own_prometheus("prometheus-blind", 9091).await?;
    watching.until("the next step", LIMIT, |s| share(s) > share(&held)).await?;
    rose_on_healthy_only(&watching)?;
    roll_back(&shop, &watching).await?;
    let requests = shop.no_request_failed().await?;
    println!("no Prometheus: held at {}, {requests} requests, 0 failed", held.place());
    shop.close().await
}

/// The figures of a whole step are there, and then the gateways are scraped no more: however the Prometheus forgets them,
/// they must not pass for new ones when the step's interval is over.
pub async fn a_target_lost_in_the_middle_of_a_step_holds(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "prom-lost", json!({})).await?;
    shop.start_even_load()?;
    let prometheus = rig.own_prometheus("prometheus-lost", 9092).await?;
    let mut spec = by_prometheus(&prometheus.url(), json!({"onBreach": "Rollback"}));
    spec["progression"]["interval"] = "4m".into();
    // The interval counts at 0:1 as well.
    spec["control"] = json!({"version": "2.0.0", "routing": "1:9"});
    let watching = shop.update(spec).await?;
    watching.until("the first step", LIMIT, |s| s.place() == "ROUTING 1:9").await?;
    shop.patch_update(json!({"control": {"routing": null}})).await?;
    // Three rounds, for a baseline and more requests than are needed.
    sleep(Duration::from_mins(1)).await;
    prometheus.scrape(&[])?;
    watching.until("figures that are too old", 2 * LIMIT, cannot_be_read("s old")).await?;
    watching.until("no figures", LIMIT, cannot_be_read("no series of the new version any more")).await?;
    let last = watching.last().context("no status")?;
    let interval_ends: DateTime<Utc> = last.text("/step/nextNotBefore").parse().context("no end of the interval")?;
    while Utc::now() < interval_ends {
        sleep(Duration::from_secs(1)).await;
    }
    stays(&watching, "ROUTING 1:9").await?;
    ensure!(verdict(&watching.last().context("no status")?).0 == "Unknown", "{:?}", watching.last());
    // As soon as they are scraped again it goes on.
    prometheus.scrape(&rig.metrics_ports())?;
    watching.until("the next step", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    roll_back(&shop, &watching).await?;
    shop.no_request_failed().await?;
    shop.close().await
}

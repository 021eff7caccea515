//! Health on the real cluster: automatic steps under load, judged by what the pods themselves count, or by a Prometheus.
//!
//! A bad version's own answers with status 500 are what these tests are about; any other failure of a request is none.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;
#[path = "health/pages.rs"]
mod pages;
#[path = "health/prometheus.rs"]
mod prometheus;

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use testbed::rig::{LEASE, LIMIT, Rig, Shop, measured};
use testbed::watching::{Seen, Watching};
use tokio::time::sleep;

/// Mostly they wait for enough requests.
const AT_ONCE: usize = 6;

common::tests![
    a_good_version_completes_by_itself
    a_good_version_completes_by_itself_by_pods
    errors_are_held_before_half_of_the_traffic
    errors_are_rolled_back_where_that_is_wanted
    slow_answers_are_held_before_half_of_the_traffic
    a_version_that_turns_bad_at_the_third_step_is_rolled_back
    without_traffic_nothing_advances_and_nothing_goes_back
    metrics_that_cannot_be_read_hold
    an_old_version_that_is_bad_too_convicts_nobody
    an_outage_of_both_is_waited_out
    pages::who_reads_and_who_probes_are_no_traffic
    prometheus::a_good_version_completes_by_itself
    prometheus::errors_are_held_and_every_request_is_counted
    prometheus::own_queries_hold_a_version_with_errors;
    long:
    prometheus::what_cannot_be_asked_or_is_not_scraped_holds
    prometheus::a_target_lost_in_the_middle_of_a_step_holds
];

/// How long what is held is watched.
const A_WHILE: Duration = Duration::from_secs(15);

const BREACHES: [&str; 4] = ["ErrorRateBreached", "LatencyBreached", "WorseThanOldErrors", "WorseThanOldLatency"];

fn verdict(seen: &Seen) -> (&str, &str) {
    (seen.text("/decision/verdict"), seen.text("/decision/reason"))
}

fn is_breach(seen: &Seen) -> bool {
    let (verdict, reason) = verdict(seen);
    verdict == "Unhealthy" && BREACHES.contains(&reason)
}

/// New version's share of the ratio on record.
fn share(seen: &Seen) -> f64 {
    let parts: Vec<f64> = seen.text("/routing").split(':').filter_map(|n| n.trim().parse().ok()).collect();
    if let [new, old] = parts[..] { new / (new + old) } else { 0.0 }
}

fn largest_share(watching: &Watching) -> f64 {
    watching.all().iter().map(share).fold(0.0, f64::max)
}

/// Every rise from a ratio came with Healthy on record.
fn rose_on_healthy_only(watching: &Watching) -> anyhow::Result<()> {
    for pair in watching.all().windows(2) {
        let [before, after] = pair else { continue };
        if after.state() == "ROUTING" && share(after) > share(before) {
            ensure!(verdict(before).0 == "Healthy", "it rose to {} on {:?}", after.text("/routing"), verdict(before));
        }
    }
    Ok(())
}

/// It stays where it is for a while, whatever is counted meanwhile.
async fn stays(watching: &Watching, place: &str) -> anyhow::Result<()> {
    sleep(A_WHILE).await;
    let is_at = watching.last().map(|s| s.place()).unwrap_or_default();
    ensure!(is_at == place, "it went on to {is_at} from {place}");
    Ok(())
}

async fn roll_back(shop: &Shop, watching: &Watching) -> anyhow::Result<()> {
    shop.order(json!({"outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    Ok(())
}

async fn a_good_version_completes_by_itself(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-good", json!({})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({}))).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let listed = shop.kubectl(&["get", "ru", "web"]).await?;
    ensure!(listed.contains("HEALTH"), "{listed}");
    let ended = watching.until_state("COMPLETED", LIMIT).await?;
    rose_on_healthy_only(&watching)?;
    let health = &ended.status["health"];
    ensure!(health["updateId"] == "web" && health["collectedAt"].is_i64(), "{health:#}");
    for (side, version) in [("oldVersion", "1.0.0"), ("newVersion", "2.0.0")] {
        let figures = &health[side];
        ensure!(figures["version"] == version && figures["errorRate"] == 0.0, "{health:#}");
        ensure!(figures["requestCount"].as_i64().is_some_and(|n| n > 150), "{health:#}");
        ensure!(figures["avgLatencyMs"].as_f64().is_some_and(|ms| ms > 0.0), "{health:#}");
    }
    ensure!(ended.status.get("evidence").is_none(), "evidence is left:\n{:#}", ended.status);
    let statuses = watching.all().len();
    ensure!(statuses < 60, "{statuses} statuses: a reading is no news");
    let requests = shop.no_request_failed().await?;
    let writes = shop.no_wasted_write()?;
    println!("good: {requests} requests, 0 failed, {} API writes, {statuses} statuses", writes.len());
    shop.close().await
}

/// The first step comes to none of four pods: nobody calls the new version there, and nobody need.
async fn a_good_version_completes_by_itself_by_pods(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open_without_routes(rig, "health-pods").await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({"steps": ["1:9", "1:1", "1:0"]}))).await?;
    let nobody = watching.until("a share of no pod", LIMIT, |s| s.place() == "ROUTING 1:9" && verdict(s).0 == "Healthy").await?;
    ensure!((nobody.text("/effectiveRouting"), verdict(&nobody).1) == ("0:4", "ReadyWithoutTraffic"), "{:#}", nobody.status);
    let half = watching.until("figures", LIMIT, |s| s.place() == "ROUTING 1:1" && verdict(s).0 == "Healthy").await?;
    ensure!(verdict(&half).1 == "Healthy" && half.text("/effectiveRouting") == "2:2", "{:#}", half.status);
    watching.until_state("COMPLETED", LIMIT).await?;
    rose_on_healthy_only(&watching)?;
    let requests = shop.no_request_failed().await?;
    println!("good, by pods: {requests} requests, 0 failed");
    shop.close().await
}

async fn errors_are_held_before_half_of_the_traffic(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-errors", json!({"testbed.aether.dev/error-rate.2.0.0": "0.05"})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({}))).await?;
    let held = watching.until("a breach", LIMIT, is_breach).await?;
    let (until_then, failed_until_then) = shop.failed_so_far();
    ensure!(largest_share(&watching) < 0.5, "it got to {}", largest_share(&watching));
    watching.until("the reason", LIMIT, |s| BREACHES.contains(&s.condition("Ready").1.as_str())).await?;
    stays(&watching, &held.place()).await?;
    let last = watching.last().unwrap();
    ensure!(verdict(&last) == verdict(&held), "the breach was taken back: {:?}", verdict(&last));
    ensure!(last.condition("Healthy").0 == "False", "{:?}", last.condition("Healthy"));
    ensure!(last.condition("Ready").2.contains("spec.control.approved"), "{:?}", last.condition("Ready"));
    let events = shop.kubectl(&["get", "events", "--field-selector", "involvedObject.name=web"]).await?;
    ensure!(events.contains(verdict(&held).1), "no Event tells of {:?}:\n{events}", verdict(&held));
    // A person goes past it, by one step.
    shop.order(json!({"approved": "1:0"})).await?;
    watching.until("the next step", LIMIT, |s| share(s) > share(&held)).await?;
    roll_back(&shop, &watching).await?;
    let (requests, failed) = shop.only_pods_erred(&["2.0.0"]).await?;
    println!(
        "5 % errors: held at {} after {failed_until_then} of {until_then} requests failed ({failed} of {requests} until all was over): {}",
        held.place(),
        held.text("/decision/message")
    );
    shop.no_empty_write()?;
    shop.close().await
}

async fn errors_are_rolled_back_where_that_is_wanted(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-back", json!({"testbed.aether.dev/error-rate.2.0.0": "0.05"})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({"onBreach": "Rollback"}))).await?;
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(largest_share(&watching) < 0.5, "it got to {}", largest_share(&watching));
    let ready = ended.condition("Ready");
    ensure!(BREACHES.contains(&ready.1.as_str()), "{ready:?}");
    let (requests, failed) = shop.only_pods_erred(&["2.0.0"]).await?;
    println!("5 % errors, onBreach Rollback: {failed} of {requests} requests failed: {}", ready.2);
    shop.nothing_left_but(&["web"]).await?;
    shop.no_wasted_write()?;
    shop.close().await
}

async fn slow_answers_are_held_before_half_of_the_traffic(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-slow", json!({"testbed.aether.dev/latency-p99.2.0.0": "1500ms"})).await?;
    shop.start_even_load()?;
    let mut spec = measured(json!({}));
    // One answer in fifty is slow, of each pod: with fewer requests there may be none among them.
    spec["progression"]["minRequests"] = 400.into();
    let watching = shop.update(spec).await?;
    let held = watching.until("a breach", LIMIT, is_breach).await?;
    ensure!(verdict(&held).1.contains("Latency"), "{:?}", verdict(&held));
    ensure!(largest_share(&watching) < 0.5, "it got to {}", largest_share(&watching));
    stays(&watching, &held.place()).await?;
    roll_back(&shop, &watching).await?;
    let requests = shop.no_request_failed().await?;
    println!("slow at p99: held at {} of {requests} requests: {}", held.place(), held.text("/decision/message"));
    shop.close().await
}

async fn a_version_that_turns_bad_at_the_third_step_is_rolled_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-late", json!({})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({"onBreach": "Rollback"}))).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let rate = ["testbed.aether.dev/error-rate=0.05", "--overwrite"];
    shop.kubectl(&[&["annotate", "pods", "-l", "aether.dev/revision=web-2-0-0"], rate.as_slice()].concat()).await?;
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(BREACHES.contains(&ended.condition("Ready").1.as_str()), "{:?}", ended.condition("Ready"));
    // Half of the traffic is all that its errors were seen at.
    ensure!(largest_share(&watching) < 0.6, "it got to {}", largest_share(&watching));
    let (requests, failed) = shop.only_pods_erred(&["2.0.0"]).await?;
    println!("bad from step 3 on: {failed} of {requests} requests failed: {}", ended.condition("Ready").2);
    shop.nothing_left_but(&["web"]).await?;
    shop.close().await
}

async fn without_traffic_nothing_advances_and_nothing_goes_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shop = Shop::open(rig, "health-idle", json!({})).await?;
    let watching = shop.update(measured(json!({"onBreach": "Rollback", "analysisDeadline": "20s"}))).await?;
    let held = watching.until("the deadline", LIMIT, |s| s.condition("Ready").1 == "AnalysisDeadlineExceeded").await?;
    ensure!(held.place() == "ROUTING 1:9", "it is at {}", held.place());
    ensure!(verdict(&held) == ("Unknown", "InsufficientTraffic"), "{:?}", verdict(&held));
    ensure!(held.condition("Ready").2.contains("InsufficientTraffic"), "{:?}", held.condition("Ready"));
    let statuses = watching.all().len();
    stays(&watching, "ROUTING 1:9").await?;
    ensure!(watching.all().len() == statuses, "a status was written for nothing");
    // A person is not held up.
    shop.order(json!({"routing": "1:1"})).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    roll_back(&shop, &watching).await?;
    shop.no_empty_write()?;
    shop.close().await
}

async fn metrics_that_cannot_be_read_hold(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-blind", json!({})).await?;
    shop.start_even_load()?;
    let told =
        |text: &'static str| move |s: &Seen| verdict(s) == ("Unknown", "MetricsUnavailable") && s.text("/decision/message").contains(text);
    let read_at = |port: u16, path: Value| json!({"metrics": {"pods": {"port": port, "path": path}}});
    // Nobody listens; something that is no metrics; an answer that does not come.
    let mut spec = measured(json!({"onBreach": "Rollback"}));
    spec["metrics"]["pods"]["port"] = 8099.into();
    let watching = shop.update(spec).await?;
    watching.until("a refused connection", LIMIT, told("connection refused")).await?;
    shop.patch_update(read_at(8080, "/".into())).await?;
    // The page that pods answer everything else with.
    let garbled = told("line 1: ");
    watching.until("an unreadable page", LIMIT, garbled).await?;
    shop.patch_update(read_at(8080, "/slow?ms=20000".into())).await?;
    watching.until("no answer", LIMIT, told("timed out")).await?;
    ensure!(largest_share(&watching) == 0.0, "it got to {}", largest_share(&watching));
    // As soon as they can be read it goes on; when they go away in the middle it holds where it is.
    shop.patch_update(read_at(8080, Value::Null)).await?;
    watching.until("the first step", LIMIT, |s| s.place() == "ROUTING 1:9").await?;
    for (what, port, path, text) in [
        ("a refused connection", 8099, Value::Null, "connection refused"),
        ("an unreadable page", 8080, "/".into(), "line 1: "),
        ("no answer", 8080, "/slow?ms=20000".into(), "timed out"),
    ] {
        shop.patch_update(read_at(port, path)).await?;
        watching.until(what, LIMIT, told(text)).await?;
    }
    let held = watching.last().unwrap();
    ensure!(held.state() == "ROUTING", "it is at {}", held.place());
    stays(&watching, &held.place()).await?;
    roll_back(&shop, &watching).await?;
    let requests = shop.no_request_failed().await?;
    println!("unreadable metrics: held at {}, {requests} requests, 0 failed", held.place());
    shop.close().await
}

/// What both use is away for a while, in the middle of the update.
async fn an_outage_of_both_is_waited_out(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-outage", json!({})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({"onBreach": "Rollback"}))).await?;
    watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    let all_err = async |rate: &str| {
        let rate = format!("testbed.aether.dev/error-rate={rate}");
        shop.kubectl(&["annotate", "pods", "--all", &rate, "--overwrite"]).await
    };
    all_err("0.05").await?;
    let held = watching.until("both being bad", LIMIT, |s| verdict(s) == ("Unknown", "BaselineUnhealthy")).await?;
    stays(&watching, &held.place()).await?;
    all_err("0").await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    ensure!(!watching.all().iter().any(is_breach), "a breach was told");
    rose_on_healthy_only(&watching)?;
    let (requests, failed) = shop.only_pods_erred(&["1.0.0", "2.0.0"]).await?;
    println!("an outage of both: held at {} and then completed, {failed} of {requests} requests failed", held.place());
    shop.close().await
}

async fn an_old_version_that_is_bad_too_convicts_nobody(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-both", json!({"testbed.aether.dev/error-rate": "0.05"})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({"onBreach": "Rollback"}))).await?;
    let held = watching.until("both being bad", LIMIT, |s| verdict(s) == ("Unknown", "BaselineUnhealthy")).await?;
    stays(&watching, &held.place()).await?;
    ensure!(!watching.all().iter().any(is_breach), "a breach was told");
    ensure!(largest_share(&watching) < 0.5, "it got to {}", largest_share(&watching));
    roll_back(&shop, &watching).await?;
    let (requests, failed) = shop.only_pods_erred(&["1.0.0", "2.0.0"]).await?;
    println!("both versions bad: held at {}, {failed} of {requests} requests failed", held.place());
    shop.close().await
}

//! The operator is killed in the middle of every state and started again; nobody may notice.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use testbed::operator::Operator;
use testbed::process::Signal;
use testbed::rig::{Rig, SHORT_LEASE as LEASE, Shop, measured};
use testbed::watching::Watching;

/// One after the other: they share the operator that is killed.
const AT_ONCE: usize = 1;

common::tests![
    killed_in_every_state
    a_leader_that_was_asleep_does_nothing;
    long:
    a_crash_while_nothing_was_to_be_done
    a_breach_outlives_its_operator
];

/// Longest an update may take with all these funerals.
const LIMIT: Duration = Duration::from_mins(4);

/// The operator dies and comes back.
async fn crash(rig: &Arc<Rig>, away: Duration) -> anyhow::Result<()> {
    let mut operator = rig.operator().await?;
    operator.crash().await?;
    tokio::time::sleep(away).await;
    *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    Ok(())
}

/// Kills the operator some time after any of these updates has entered a new place, and starts it again, until each is
/// where it ends. Returns the places in which it died, by update.
async fn kill_everywhere<const N: usize>(rig: &Arc<Rig>, updates: [(&Watching, &str); N]) -> anyhow::Result<[BTreeSet<String>; N]> {
    let begun = tokio::time::Instant::now();
    let mut killed = [(); N].map(|()| BTreeSet::new());
    let mut wait = 10_u64;
    loop {
        let places = updates.map(|(watching, _)| watching.last().map(|s| s.place()).unwrap_or_default());
        ensure!(begun.elapsed() < LIMIT, "not at the end after {LIMIT:?}, but at {places:?}");
        if places.iter().zip(&updates).all(|(place, (_, end))| place == end) {
            return Ok(killed);
        }
        let is_new = |n: usize| !places[n].is_empty() && places[n] != updates[n].1 && !killed[n].contains(&places[n]);
        if !(0..N).any(is_new) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        // At ever different moments of a place.
        tokio::time::sleep(Duration::from_millis(wait)).await;
        wait = (wait * 7 + 130) % 1500;
        let places = updates.map(|(watching, _)| watching.last().map(|s| s.place()).unwrap_or_default());
        crash(rig, Duration::from_millis(300)).await?;
        for (n, place) in places.into_iter().enumerate() {
            killed[n].insert(place);
        }
    }
}

async fn killed_in_every_state(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (out, back, pods) = tokio::try_join!(
        Shop::open(rig, "crash", json!({})),
        Shop::open(rig, "crash-back", json!({})),
        Shop::open_without_routes(rig, "crash-pods")
    )?;
    let mut shops = [out, back, pods];
    for shop in &mut shops {
        shop.start_load()?;
    }
    let [out, back, pods] = &shops;
    let backwards = back.update(json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    backwards.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1").await?;
    back.order(json!({"routing": null, "outcome": "Rollback"})).await?;
    backwards.until_state("ROLLING_BACK", LIMIT).await?;
    // In PENDING nothing happens without an operator, so it dies before it has seen these two at all.
    rig.operator().await?.crash().await?;
    let forwards = out.update(json!({})).await?;
    let by_pods = pods.update(json!({"progression": {"steps": ["1:3", "1:1", "1:0"]}})).await?;
    *rig.operator().await? = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    let killed = kill_everywhere(rig, [(&forwards, "COMPLETED"), (&backwards, "ROLLED_BACK"), (&by_pods, "COMPLETED")]).await?;

    let mut requests = 0;
    for shop in &mut shops {
        requests += shop.no_request_failed().await?;
        let writes = rig.writes(&shop.namespace)?;
        ensure!(writes.no_ops().is_empty(), "a restart wrote for nothing:\n{}", writes.no_ops());
    }
    let places = ["DEPLOYING", "DEPLOYED", "ROUTING 1:9", "ROUTING 1:3", "ROUTING 1:1", "ROUTING 3:1", "ROUTING 1:0", "COMPLETING"];
    for place in places {
        ensure!(killed[0].contains(place), "it was never killed in {place}, only in {killed:?}");
    }
    ensure!(killed[1].contains("ROLLING_BACK"));
    let [out, back, pods] = shops;
    out.nothing_left_but(&["web", "web-2-0-0"]).await?;
    back.nothing_left_but(&["web"]).await?;
    pods.nothing_left_but(&["web", "web-2-0-0"]).await?;
    println!("killed in {killed:?}: {requests} requests, 0 failed");
    for shop in [out, back, pods] {
        shop.close().await?;
    }
    Ok(())
}

/// What was proven before is not forgotten, whatever is counted after; what was ordered while nobody was there is followed.
async fn a_breach_outlives_its_operator(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "crash-breach", json!({"testbed.aether.dev/error-rate.2.0.0": "0.05"})).await?;
    shop.start_even_load()?;
    let watching = shop.update(measured(json!({}))).await?;
    let held = watching.until("a breach", LIMIT, |s| s.text("/decision/verdict") == "Unhealthy").await?;
    rig.operator().await?.crash().await?;
    // From here on it is as good as any.
    shop.kubectl(&["annotate", "pods", "-l", "aether.dev/revision=web-2-0-0", "testbed.aether.dev/error-rate.2.0.0=0", "--overwrite"])
        .await?;
    *rig.operator().await? = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let still = watching.last().unwrap();
    ensure!(still.place() == held.place() && still.status["decision"] == held.status["decision"], "{:#}", still.status);

    let mut operator = rig.operator().await?;
    operator.crash().await?;
    shop.order(json!({"approved": "1:3"})).await?;
    *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    drop(operator);
    watching.until("the approved step", LIMIT, |s| s.place() == "ROUTING 1:3").await?;
    shop.order(json!({"outcome": "Rollback"})).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    let (requests, failed) = shop.only_pods_erred(&["2.0.0"]).await?;
    println!("a breach at {} outlived two operators: {failed} of {requests} requests failed", held.place());
    shop.close().await
}

/// One update is over, one waits for a person, and one has its traffic on labelled pods (Pods mode), which are deleted
/// while nobody labels those that replace them.
async fn a_crash_while_nothing_was_to_be_done(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let (over, waiting, mut pods) = tokio::try_join!(
        Shop::open(rig, "idle-over", json!({})),
        Shop::open(rig, "idle-waiting", json!({})),
        Shop::open_without_routes(rig, "idle-pods")
    )?;
    let ended = over.update(json!({"progression": {"steps": ["1:0"]}})).await?;
    let approval = json!({"requireManualApproval": true, "progression": {"steps": ["1:3", "1:0"], "interval": "1s"}});
    let asking = waiting.update(approval).await?;
    waiting.order(json!({"approved": "1:3"})).await?;
    let held = pods.update(json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    ended.until_state("COMPLETED", LIMIT).await?;
    asking.until("a wait for approval", LIMIT, |s| s.place() == "ROUTING 1:3" && s.condition("Ready").1 == "AwaitingApproval").await?;
    held.until("half of the pods", LIMIT, |s| s.place() == "ROUTING 1:1" && s.condition("Ready").1 == "AwaitingRouting").await?;
    pods.start_load()?;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let before = [&over, &waiting].map(|shop| rig.writes(&shop.namespace).map(|w| w.len()));
    let mut operator = rig.operator().await?;
    operator.crash().await?;
    pods.kubectl(&["delete", "pods", "-l", "aether.dev/serving", "--wait=false"]).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let alone = pods.lately_seen_by(0, 3000)?;
    ensure!(alone.requests() > 0 && alone.share("1.0.0") >= 1.0, "with nobody there it does not fall back to the old version: {alone}");
    *operator = Operator::start(&rig.bed, "operator", 8081, LEASE).await?;
    drop(operator);
    tokio::time::sleep(Duration::from_secs(12)).await;
    for (shop, before) in [&over, &waiting].iter().zip(before) {
        let writes = rig.writes(&shop.namespace)?;
        ensure!(writes.len() == before?, "a restart wrote where nothing was to be done:\n{writes}");
    }
    let fresh = pods.lately_seen_by(0, 3000)?.fresh().share("2.0.0");
    ensure!((fresh - 0.5).abs() < 0.1, "back again it has not restored the shares: {fresh}");

    waiting.order(json!({"approved": "1:0"})).await?;
    pods.patch_update(json!({"control": null})).await?;
    asking.until_state("COMPLETED", LIMIT).await?;
    held.until_state("COMPLETED", LIMIT).await?;
    pods.no_request_failed().await?;
    for shop in [over, waiting, pods] {
        shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
        shop.close().await?;
    }
    Ok(())
}

/// Two operators; the one that leads is stopped for longer than its lease lasts, and goes on; and so the other one.
async fn a_leader_that_was_asleep_does_nothing(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "asleep", json!({})).await?;
    let mut second = Operator::start(&rig.bed, "second-operator", 8082, LEASE).await?;
    let first = rig.operator().await?;
    shop.start_load()?;
    let watching = shop.update(json!({})).await?;
    let places = [("DEPLOYING", &*first), ("ROUTING 1:9", &second), ("ROUTING 1:1", &*first), ("COMPLETING", &second)];
    for (place, leader) in places {
        watching.until(place, LIMIT, |s| s.place() == place).await?;
        let before = watching.all().len();
        leader.signal(Signal::SIGSTOP)?;
        let other = watching.until("a word of the other one", LIMIT, |s| s.place() != place || watching.all().len() > before).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        leader.signal(Signal::SIGCONT)?;
        other?;
    }
    watching.until_state("COMPLETED", LIMIT).await?;
    second.stop().await?;
    drop(first);
    let requests = shop.no_request_failed().await?;
    shop.nothing_left_but(&["web", "web-2-0-0"]).await?;
    let writes = shop.no_empty_write()?;
    println!("led by each in turn: {requests} requests, 0 failed\n{writes}");
    shop.close().await
}

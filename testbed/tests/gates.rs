//! The shift gate against gateways that misbehave, on a real control plane: no weight rises unless the one before was
//! acknowledged, what holds an update is said, and a rollback moves the traffic without asking anybody.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use futures::StreamExt;
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use testbed::fake_gateway::{CONTROLLER, FakeGateway, STEERED_BY};
use testbed::rig::{LEASE, LIMIT, PODS, Rig, Shop};
use testbed::watching::{Seen, Watching};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// All at once: they wait, most of the time.
const AT_ONCE: usize = 19;

common::tests![
    each_weight_waits_for_a_lag_of_1_second
    each_weight_waits_for_a_lag_of_5_seconds
    a_rollback_keeps_what_a_lagging_gateway_uses
    a_rollback_before_any_traffic_keeps_what_a_lagging_gateway_uses
    a_gateway_that_is_gone_does_not_keep_a_rollback
    a_route_taken_from_its_gateway_does_not_keep_a_rollback
    a_route_that_nobody_serves_holds_the_update_and_not_the_rollback
    a_gateway_that_never_spoke_is_told_before_anything_is_touched
    a_gateway_silent_about_the_split_runs_into_the_deadline
    an_old_generation_holds_until_it_ends
    a_route_not_accepted_is_held_and_said
    a_backend_not_found_is_held_and_said
    a_route_used_in_part_is_held_and_said
    one_of_two_gateways_refuses
    a_mesh_route_is_promoted_and_given_back;
    long:
    each_weight_waits_for_a_lag_of_20_seconds
    a_step_waits_for_a_lag_of_40_seconds
    silence_holds_every_stage_until_it_ends
    a_gateway_gone_silent_holds_the_update_and_not_the_rollback
];

/// Long enough for several steps, if anybody took one.
const A_WHILE: Duration = Duration::from_secs(8);
/// What is said of a gateway that has not acknowledged.
const SILENT: [&str; 4] = [CONTROLLER, "has not acknowledged", "route web", "Gateway fake"];
/// A promotion by way of 1:1, as the route goes through it.
const FORWARD: [&str; 5] = ["whole", "0:1", "1:1", "1:0", "whole"];

/// A shop behind a gateway that does as it is told, and a bystander who sees every version of its route.
struct Stand {
    shop: Shop,
    gateway: FakeGateway,
    /// What carries the annotation that steers the gateway.
    steered: &'static str,
    versions: Arc<Mutex<Vec<Value>>>,
    _bystander: AbortOnDropHandle<()>,
}

impl Stand {
    /// Behind a Gateway that behaves like this from the start.
    async fn open(rig: &Arc<Rig>, namespace: &str, behaviour: &str) -> anyhow::Result<Self> {
        let gateways = vec![FakeGateway::manifest("fake", behaviour)];
        Self::open_behind(rig, namespace, "gateway/fake", gateways, json!([{"name": "fake"}])).await
    }

    async fn open_behind(
        rig: &Arc<Rig>,
        namespace: &str,
        steered: &'static str,
        gateways: Vec<Value>,
        parents: Value,
    ) -> anyhow::Result<Self> {
        rig.bed.create_namespace(namespace).await?;
        let gateway = FakeGateway::start(&rig.bed, namespace).await?;
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        let api: Api<DynamicObject> = Api::namespaced_with(rig.bed.client(), namespace, &ApiResource::from_gvk(&kind));
        let versions: Arc<Mutex<Vec<Value>>> = Arc::default();
        let into = versions.clone();
        let bystander = tokio::spawn(async move {
            let web = watcher::Config::default().fields("metadata.name=web");
            let mut news = watcher(api, web).default_backoff().applied_objects().boxed();
            while let Some(object) = news.next().await {
                into.lock().unwrap().extend(object.ok().map(|o| serde_json::to_value(o).unwrap()));
            }
        });
        let shop = Shop::open_behind(rig, namespace, gateways, &parents).await?;
        Ok(Self { shop, gateway, steered, versions, _bystander: AbortOnDropHandle::new(bystander) })
    }

    /// From now on the gateway behaves like this.
    async fn steer(&self, behaviour: &str) -> anyhow::Result<()> {
        self.shop.kubectl(&["annotate", "--overwrite", self.steered, &format!("{STEERED_BY}={behaviour}")]).await?;
        Ok(())
    }

    /// Starts an update that is quick unless it is held.
    async fn update(&self, steps: &[&str], mut spec: Value) -> anyhow::Result<Watching> {
        spec["traffic"] = json!({"settle": "1s", "drain": "2s"});
        spec["progression"]["interval"] = json!("1s");
        spec["progression"]["steps"] = json!(steps);
        self.shop.update(spec).await
    }

    /// Starts an update that stays at 1:1 until it gets another order.
    async fn update_to_half(&self) -> anyhow::Result<Watching> {
        let watching = self.update(&["1:1", "1:0"], json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
        self.is_half(&watching).await?;
        Ok(watching)
    }

    async fn is_half(&self, watching: &Watching) -> anyhow::Result<Seen> {
        watching.until("half of the traffic", LIMIT, |s| s.place() == "ROUTING 1:1" && s.condition("Ready").1 == "AwaitingRouting").await
    }

    /// The ratios its route went through.
    fn went(&self) -> Vec<String> {
        let mut went: Vec<String> = self.versions.lock().unwrap().iter().map(ratio).collect();
        went.dedup();
        went
    }

    /// Waits until the newest version of the route that the bystander has seen is like this.
    async fn until_route(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.versions.lock().unwrap().last().is_some_and(&wanted) {
            ensure!(begun.elapsed() < LIMIT, "the route is not {what}; it went {:?}", self.went());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn until_ratio(&self, wanted: &str) -> anyhow::Result<()> {
        self.until_route(wanted, |r| ratio(r) == wanted).await
    }

    /// Demands that the route went this way, and that the gateway had acknowledged each version before the next was written.
    async fn went_in_turn(&self, way: &[&str]) -> anyhow::Result<()> {
        self.until_ratio(way.last().unwrap()).await?;
        ensure!(self.went() == way, "the route went {:?}", self.went());
        let versions = self.versions.lock().unwrap().clone();
        for pair in versions.windows(2) {
            let [before, after] = [&pair[0], &pair[1]];
            let written = generation(after) > generation(before);
            ensure!(!written || is_acknowledged(before), "{} was written over {before:#}", ratio(after));
        }
        Ok(())
    }

    /// Demands that for a while nothing happens to the route or to the update.
    async fn stays(&self, watching: &Watching) -> anyhow::Result<()> {
        let (went, place) = (self.went(), watching.last().map(|s| s.place()));
        sleep(A_WHILE).await;
        ensure!(self.went() == went, "the route went on: {:?}", self.went());
        ensure!(watching.last().map(|s| s.place()) == place, "the update went on: {:?}", watching.places());
        Ok(())
    }

    /// Orders a rollback and demands that it moves the traffic at once, whatever the gateway says.
    async fn roll_back(&self, watching: &Watching) -> anyhow::Result<()> {
        self.shop.order(json!({"routing": null, "outcome": "Rollback"})).await?;
        watching.until_state("ROLLING_BACK", LIMIT).await?;
        let route = self.shop.get("httproute/web").await?;
        ensure!(ratio(&route) == "0:1", "the record came before the weights: {route:#}");
        Ok(())
    }

    /// Demands that the operator has touched nothing but the update's status.
    fn untouched(&self) -> anyhow::Result<()> {
        let touched = self.shop.rig.writes(&self.shop.namespace)?.filter(|e| e.resource != "rollingupdates");
        ensure!(touched.is_empty(), "something was touched:\n{touched}");
        Ok(())
    }

    /// Waits for the end, and demands that nothing is left, and that all that the gateway used was alive while it did.
    async fn ends(self, watching: &Watching, state: &str, deployments: &[&str]) -> anyhow::Result<()> {
        watching.until_state(state, LIMIT).await?;
        self.shop.nothing_left_but(deployments).await?;
        self.shop.no_wasted_write()?;
        // What the gateway used last it gives up only now, and looks at it.
        self.until_route("acknowledged", is_acknowledged).await?;
        let faults = self.gateway.faults().await;
        ensure!(faults.is_empty(), "{faults:#?}");
        self.shop.close().await
    }

    async fn ends_completed(self, watching: &Watching) -> anyhow::Result<()> {
        self.ends(watching, "COMPLETED", &["web", "web-2-0-0"]).await
    }

    async fn ends_rolled_back(self, watching: &Watching) -> anyhow::Result<()> {
        self.ends(watching, "ROLLED_BACK", &["web"]).await
    }
}

fn generation(route: &Value) -> i64 {
    route["metadata"]["generation"].as_i64().unwrap()
}

/// What the first rule says: `whole`, or new:old.
fn ratio(route: &Value) -> String {
    let refs = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap();
    let weight = |name: &str| refs.iter().find(|r| r["name"] == name).map(|r| r["weight"].as_i64().unwrap_or(1));
    match (weight("web-2-0-0"), weight("web-1-0-0")) {
        (Some(new), Some(old)) => format!("{new}:{old}"),
        _ => "whole".to_owned(),
    }
}

/// Every parent has accepted the present generation.
fn is_acknowledged(route: &Value) -> bool {
    let accepted = |parent: &Value| {
        let mut conditions = parent["conditions"].as_array().unwrap().iter().filter(|c| c["type"] == "Accepted");
        conditions.all(|c| c["status"] == "True" && c["observedGeneration"].as_i64() >= Some(generation(route)))
    };
    let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
    parents.len() == route["spec"]["parentRefs"].as_array().unwrap().len() && parents.iter().all(accepted)
}

/// A condition gives this reason in these words, and kubectl shows it.
async fn is_said(stand: &Stand, watching: &Watching, condition: &str, reason: &str, words: &[&str]) -> anyhow::Result<Seen> {
    let seen = watching.until(reason, LIMIT, |s| s.condition(condition).1 == reason).await?;
    let (answer, _, message) = seen.condition(condition);
    println!("{} {} {condition}={answer} {reason}: {message}", stand.shop.namespace, seen.place());
    let described = stand.shop.kubectl(&["describe", "rollingupdate", "web"]).await?;
    ensure!(!described.contains("1970-"), "kubectl describe shows a time before all time:\n{described}");
    for word in words {
        ensure!(message.contains(word), "{condition} does not say {word}: {message}");
        ensure!(described.contains(word), "kubectl describe does not say {word}:\n{described}");
    }
    Ok(seen)
}

async fn each_weight_waits(rig: &Arc<Rig>, lag: u32) -> anyhow::Result<()> {
    let stand = Stand::open(rig, &format!("lag-{lag}"), "prompt").await?;
    stand.steer(&format!("lag={lag}")).await?;
    let begun = Instant::now();
    let watching = stand.update(&["1:1", "1:0"], json!({})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    stand.went_in_turn(&FORWARD).await?;
    ensure!(begun.elapsed() > 4 * Duration::from_secs(lag.into()), "the gateway did not lag");
    stand.ends_completed(&watching).await
}

async fn each_weight_waits_for_a_lag_of_1_second(rig: &Arc<Rig>) -> anyhow::Result<()> {
    each_weight_waits(rig, 1).await
}

async fn each_weight_waits_for_a_lag_of_5_seconds(rig: &Arc<Rig>) -> anyhow::Result<()> {
    each_weight_waits(rig, 5).await
}

async fn each_weight_waits_for_a_lag_of_20_seconds(rig: &Arc<Rig>) -> anyhow::Result<()> {
    each_weight_waits(rig, 20).await
}

async fn a_step_waits_for_a_lag_of_40_seconds(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "lag-40", "prompt").await?;
    stand.steer("lag=40").await?;
    let begun = Instant::now();
    let watching = stand.update(&["1:0"], json!({})).await?;
    watching.until("all of the traffic", LIMIT, |s| s.place() == "ROUTING 1:0").await?;
    ensure!(begun.elapsed() > Duration::from_secs(80), "the gateway did not lag");
    stand.steer("prompt").await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    stand.went_in_turn(&["whole", "0:1", "1:0", "whole"]).await?;
    stand.ends_completed(&watching).await
}

async fn a_rollback_keeps_what_a_lagging_gateway_uses(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "lag-back", "prompt").await?;
    let watching = stand.update_to_half().await?;
    stand.steer("lag=15").await?;
    stand.roll_back(&watching).await?;
    stand.ends_rolled_back(&watching).await
}

async fn a_rollback_before_any_traffic_keeps_what_a_lagging_gateway_uses(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "lag-early", "prompt").await?;
    stand.steer("lag=15").await?;
    let watching = stand.update(&["1:0"], json!({})).await?;
    stand.until_ratio("0:1").await?;
    stand.shop.order(json!({"outcome": "Rollback"})).await?;
    let ended = watching.until_state("ROLLED_BACK", LIMIT).await?;
    ensure!(!watching.places().contains(&"DEPLOYED".to_owned()), "it went {:?}", watching.places());
    ensure!(ended.condition("Stalled").1 == "RollbackOrdered");
    stand.ends_rolled_back(&watching).await
}

async fn a_gateway_gone_silent_holds_the_update_and_not_the_rollback(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "silent", "prompt").await?;
    let watching = stand.update_to_half().await?;
    stand.steer("never").await?;
    stand.shop.order(json!({"routing": null})).await?;
    let waiting = is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &SILENT).await?;
    let missing = is_said(&stand, &watching, "TrafficShifted", "GatewayStatusMissing", &SILENT).await?;
    is_said(&stand, &watching, "Ready", "GatewayStatusMissing", &SILENT).await?;
    ensure!(missing.condition("TrafficShifted").0 == "Unknown" && missing.place() == "ROUTING 1:1");
    let took = since(&missing) - since(&waiting);
    ensure!(took >= chrono::TimeDelta::seconds(55), "it was given up after {took}");
    ensure!(stand.went() == ["whole", "0:1", "1:1", "1:0"], "the route went {:?}", stand.went());
    stand.roll_back(&watching).await?;
    // The gateway may be using what it knew last, so nothing of that goes before it has spoken.
    is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &SILENT).await?;
    stand.stays(&watching).await?;
    stand.steer("prompt").await?;
    stand.ends_rolled_back(&watching).await
}

/// Since when `TrafficShifted` is what it is, by the operator's clock.
fn since(seen: &Seen) -> chrono::DateTime<chrono::Utc> {
    let conditions = seen.status["conditions"].as_array().unwrap();
    let shifted = conditions.iter().find(|c| c["type"] == "TrafficShifted").unwrap();
    shifted["lastTransitionTime"].as_str().unwrap().parse().unwrap()
}

async fn a_gateway_that_is_gone_does_not_keep_a_rollback(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "gone", "prompt").await?;
    let watching = stand.update_to_half().await?;
    stand.steer("gone").await?;
    is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &["no controller", "route web", "Gateway fake"]).await?;
    stand.roll_back(&watching).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    stand.steer("prompt").await?;
    stand.ends_rolled_back(&watching).await
}

async fn a_route_taken_from_its_gateway_does_not_keep_a_rollback(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "taken", "prompt").await?;
    let watching = stand.update_to_half().await?;
    stand.steer("dead").await?;
    stand.roll_back(&watching).await?;
    let attach = async |parents: Value| {
        let patch = json!({"spec": {"parentRefs": parents}}).to_string();
        stand.shop.kubectl(&["patch", "httproute", "web", "--type=merge", "-p", &patch]).await
    };
    attach(Value::Null).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    attach(json!([{"name": "fake"}])).await?;
    stand.steer("prompt").await?;
    stand.ends_rolled_back(&watching).await
}

async fn a_route_that_nobody_serves_holds_the_update_and_not_the_rollback(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "nobody", "prompt").await?;
    let watching = stand.update_to_half().await?;
    let late = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "late"},
        "spec": {"parentRefs": [{"name": "nowhere"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
    });
    stand.shop.kubectl_stdin(&["apply", "-f", "-"], &late.to_string()).await?;
    is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &["no controller", "route late", "Gateway nowhere"]).await?;
    stand.roll_back(&watching).await?;
    watching.until_state("ROLLED_BACK", LIMIT).await?;
    let late = stand.shop.get("httproute/late").await?;
    ensure!(ratio(&late) == "whole", "the route was not given back: {late:#}");
    stand.ends_rolled_back(&watching).await
}

async fn a_gateway_that_never_spoke_is_told_before_anything_is_touched(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "mute", "never").await?;
    let watching = stand.update(&["1:0"], json!({})).await?;
    is_said(&stand, &watching, "Ready", "RouteNotAccepted", &["no controller", "route web", "Gateway fake"]).await?;
    stand.stays(&watching).await?;
    stand.untouched()?;
    stand.steer("prompt").await?;
    stand.ends_completed(&watching).await
}

async fn a_gateway_silent_about_the_split_runs_into_the_deadline(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "split", "until=1").await?;
    let watching = stand.update(&["1:0"], json!({"progression": {"deployDeadline": "20s"}})).await?;
    let words = [CONTROLLER, "has not acknowledged generation 2 of route web"];
    is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &words).await?;
    is_said(&stand, &watching, "Ready", "DeployDeadlineExceeded", &words).await?;
    stand.until_ratio("whole").await?;
    stand.stays(&watching).await?;
    stand.steer("prompt").await?;
    stand.ends_rolled_back(&watching).await
}

async fn silence_holds_every_stage_until_it_ends(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "stages", "prompt").await?;
    let watching = stand.update_to_half().await?;
    stand.steer("never").await?;
    stand.shop.order(json!({"routing": "1:0"})).await?;
    stand.until_ratio("1:0").await?;
    is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &SILENT).await?;
    stand.stays(&watching).await?;
    stand.steer("prompt").await?;
    watching.until("all of the traffic", LIMIT, |s| s.place() == "ROUTING 1:0" && s.condition("Ready").1 == "AwaitingRouting").await?;
    stand.steer("never").await?;
    stand.shop.order(json!({"routing": null})).await?;
    watching.until_state("COMPLETING", LIMIT).await?;
    is_said(&stand, &watching, "Ready", "WaitingForGateway", &SILENT).await?;
    stand.stays(&watching).await?;
    let old = stand.shop.get("deployment/web").await?;
    ensure!(old["status"]["availableReplicas"] == PODS, "the old version was touched: {old:#}");
    stand.shop.kubectl(&["get", "service/web-1-0-0", "service/web-2-0-0"]).await?;
    stand.steer("prompt").await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    stand.went_in_turn(&FORWARD).await?;
    stand.ends_completed(&watching).await
}

async fn an_old_generation_holds_until_it_ends(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let stand = Stand::open(rig, "old", "prompt").await?;
    let watching = stand.update_to_half().await?;
    stand.steer("old-generation").await?;
    is_said(&stand, &watching, "TrafficShifted", "WaitingForGateway", &SILENT).await?;
    stand.shop.order(json!({"routing": null})).await?;
    stand.stays(&watching).await?;
    ensure!(stand.went() == ["whole", "0:1", "1:1"], "the route went {:?}", stand.went());
    stand.steer("prompt").await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    stand.went_in_turn(&FORWARD).await?;
    stand.ends_completed(&watching).await
}

async fn is_held_and_said(rig: &Arc<Rig>, behaviour: &str, words: &[&str]) -> anyhow::Result<()> {
    let stand = Stand::open(rig, &format!("refuses-{behaviour}"), behaviour).await?;
    let watching = stand.update(&["1:1", "1:0"], json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    is_said(&stand, &watching, "Ready", "RouteNotAccepted", words).await?;
    stand.stays(&watching).await?;
    stand.untouched()?;
    stand.steer("prompt").await?;
    stand.is_half(&watching).await?;
    stand.steer(behaviour).await?;
    let refused = is_said(&stand, &watching, "TrafficShifted", "GatewayRefuses", words).await?;
    ensure!(refused.condition("TrafficShifted").0 == "False");
    stand.shop.order(json!({"routing": null})).await?;
    is_said(&stand, &watching, "Ready", "GatewayRefuses", words).await?;
    stand.stays(&watching).await?;
    ensure!(stand.went() == ["whole", "0:1", "1:1"], "the route went {:?}", stand.went());
    stand.roll_back(&watching).await?;
    is_said(&stand, &watching, "TrafficShifted", "GatewayRefuses", words).await?;
    stand.stays(&watching).await?;
    stand.steer("prompt").await?;
    stand.ends_rolled_back(&watching).await
}

async fn a_route_not_accepted_is_held_and_said(rig: &Arc<Rig>) -> anyhow::Result<()> {
    is_held_and_said(rig, "reject", &[CONTROLLER, "Gateway fake", "Accepted", "NotAllowedByListeners", "no listener allows this route"])
        .await
}

async fn a_backend_not_found_is_held_and_said(rig: &Arc<Rig>) -> anyhow::Result<()> {
    is_held_and_said(rig, "unresolved", &[CONTROLLER, "Gateway fake", "ResolvedRefs", "BackendNotFound", "a backend does not exist"]).await
}

async fn a_route_used_in_part_is_held_and_said(rig: &Arc<Rig>) -> anyhow::Result<()> {
    is_held_and_said(rig, "partially-invalid", &[CONTROLLER, "Gateway fake", "only part", "UnsupportedValue", "a rule was left out"]).await
}

async fn one_of_two_gateways_refuses(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let namespace = "two-parents";
    let real = serde_yaml::from_str(&rig.gateways[0].manifest(namespace, "real"))?;
    let gateways = vec![real, FakeGateway::manifest("fake", "reject")];
    let stand = Stand::open_behind(rig, namespace, "gateway/fake", gateways, json!([{"name": "real"}, {"name": "fake"}])).await?;
    let watching = stand.update(&["1:1", "1:0"], json!({"control": {"version": "2.0.0", "routing": "1:1"}})).await?;
    let words = [CONTROLLER, "Gateway fake", "no listener allows this route"];
    is_said(&stand, &watching, "Ready", "RouteNotAccepted", &words).await?;
    stand.untouched()?;
    stand.steer("prompt").await?;
    stand.is_half(&watching).await?;
    stand.steer("reject").await?;
    is_said(&stand, &watching, "TrafficShifted", "GatewayRefuses", &words).await?;
    stand.shop.order(json!({"routing": null})).await?;
    stand.stays(&watching).await?;
    stand.steer("prompt").await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    stand.went_in_turn(&FORWARD).await?;
    stand.ends_completed(&watching).await
}

async fn a_mesh_route_is_promoted_and_given_back(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let stand = Stand::open_behind(rig, "mesh", "service/web", Vec::new(), parents).await?;
    stand.steer("lag=2").await?;
    let watching = stand.update(&["1:1", "1:0"], json!({})).await?;
    watching.until_state("COMPLETED", LIMIT).await?;
    stand.went_in_turn(&FORWARD).await?;
    stand.ends_completed(&watching).await
}

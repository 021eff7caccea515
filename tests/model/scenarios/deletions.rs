//! Something is deleted in the middle, in every state.

use aether_operator::api::State::{self, Completed, Completing, Deployed, Deploying, RolledBack, RollingBack, Routing};
use aether_operator::cluster::facts::Kind::{Deployment, HttpRoute, Service};
use serde_json::json;

use super::pods::by_pods;
use super::route_shapes;
use crate::scenario::{Act, Goal, Scenario, When};

/// Every state in which something is under way, and when it is well in it.
pub const MIDDLE: [(State, u64); 5] = [(Deploying, 3000), (Deployed, 1000), (Routing, 9000), (Completing, 1000), (RollingBack, 1000)];

/// A run that gets into that state.
pub fn into(state: State, base: Scenario) -> Scenario {
    match state {
        RollingBack => base.orders(When::Routing("1:1", 1500), json!({"outcome": "Rollback"})),
        _ => base,
    }
}

const FOR_EVER: u64 = 100_000_000;
/// Traffic breaks off when that goes, until it is put back or moved.
const TRAFFIC: &[&str] = &["R1", "R10"];

fn named(what: &str, state: State) -> Scenario {
    Scenario::new(&format!("{what} deleted in {state}"))
}

/// How it ends when nothing is left to be decided but what was under way.
pub fn ends_as(state: State, scenario: Scenario) -> Scenario {
    if state == RollingBack { scenario.rolled_back() } else { scenario }
}

pub fn all() -> Vec<Scenario> {
    let mut table = Vec::new();
    for (state, after) in MIDDLE {
        let when = || When::State(state, after);
        let gone = into(state, named("the update", state)).when(when(), Act::Delete);
        table.push(gone.ends(Goal::Gone, "1.0.0"));
        table.push(into(state, named("the namespace", state)).when(when(), Act::Doom).ends(Goal::Gone, ""));
        table.push(new_deployment(state, after));
        for service in ["web-1-0-0", "web-2-0-0"] {
            let scenario = into(state, named(&format!("Service {service}"), state));
            table.push(ends_as(state, scenario.harm(when(), Act::Remove(Service, service), TRAFFIC, 6000)));
        }
        table.push(one_of_two_routes(state, after));
    }
    table.extend(held());
    table.extend(beside_a_kept_version());
    table.extend(MIDDLE.into_iter().flat_map(|(state, after)| without_route(state, after)));
    table
}

/// cleanupPolicy MANUAL: both versions are there, and the Service must stay on one.
fn beside_a_kept_version() -> Vec<Scenario> {
    let kept = |what: &str| Scenario::new(what).with("cleanupPolicy", json!("MANUAL"));
    let apex = kept("the Service, beside a version that is kept, and made again,");
    let apex = apex.harm(When::State(Completed, 3000), Act::Remove(Service, "web"), &["R10", "R1", "R11", "pin"], 12_000);
    let apex = apex.when(When::After(4000), Act::Restore(Service, "web"));
    let live = kept("the live version, beside a version that is kept,");
    let live = live.harm(When::State(Completed, 3000), Act::Remove(Deployment, "web-2-0-0"), &["R10", "R1", "R11"], 12_000);
    let apex_deleted = apex.clone().when(When::After(20_000), Act::Delete).ends(Goal::Gone, "2.0.0");
    let kept = [apex, Scenario { says: Some("LiveVersionGone"), ..live }, apex_deleted];
    kept.map(|scenario| Scenario { keeps_pin: true, keeps_pause: true, ..scenario }).into()
}

/// In Pods mode.
fn without_route(state: State, after: u64) -> Vec<Scenario> {
    let named = |what: &str| into(state, by_pods(&format!("{what} deleted in {state}")));
    // There are three steps only, and a drain that waits for nobody.
    let after = if matches!(state, Routing | RollingBack) { after / 2 } else { after };
    let when = || When::State(state, after);
    let new = named("the new Deployment").harm(when(), Act::Remove(Deployment, "web-2-0-0"), &["R10", "size"], 12_000);
    let apex: &[&str] = &["R10", "R11", "size", "share", "pin", "drain"];
    let apex = named("the Service, and made again,").harm(when(), Act::Remove(Service, "web"), apex, 28_000);
    vec![
        named("the update").when(when(), Act::Delete).ends(Goal::Gone, "1.0.0"),
        named("the namespace").when(when(), Act::Doom).ends(Goal::Gone, ""),
        if state == Deploying { new } else { new.rolled_back() },
        ends_as(state, apex.when(When::After(20_000), Act::Restore(Service, "web"))),
        ends_as(state, named("Service web-2-0-0").when(when(), Act::Remove(Service, "web-2-0-0"))),
    ]
}

/// Before it has traffic it is made again, after that the update goes back.
fn new_deployment(state: State, after: u64) -> Scenario {
    let scenario = into(state, named("the new Deployment", state));
    let scenario = scenario.harm(When::State(state, after), Act::Remove(Deployment, "web-2-0-0"), TRAFFIC, 8000);
    if state == Deploying { scenario } else { scenario.rolled_back() }
}

/// The other one goes on, and this one comes back as a tool would bring it.
fn one_of_two_routes(state: State, after: u64) -> Scenario {
    let routes = route_shapes().pop().unwrap().1;
    let scenario = into(state, named("one of two routes", state)).routes(routes);
    let scenario = scenario.when(When::State(state, after), Act::Remove(HttpRoute, "web-too"));
    ends_as(state, scenario.when(When::After(4000), Act::Restore(HttpRoute, "web-too")))
}

/// Where a person is needed it is said so and nothing is written; and it goes on when the person has done it.
fn held() -> Vec<Scenario> {
    let apex = |state, after| {
        let scenario = into(state, named("the Service", state));
        scenario.harm(When::State(state, after), Act::Remove(Service, "web"), &["R10", "R1", "R11", "end"], FOR_EVER)
    };
    let route = |state, after| into(state, named("the only route", state)).when(When::State(state, after), Act::Remove(HttpRoute, "web"));
    let mut table = vec![
        apex(Routing, 9000).ends(Goal::Held(Routing, "ServiceGone"), ""),
        apex(Completing, 1000).ends(Goal::Held(Completing, "ServiceGone"), ""),
        apex(RollingBack, 1000).ends(Goal::Held(RollingBack, "RollbackOrdered"), ""),
        route(Deployed, 1000).ends(Goal::Held(Deployed, "RouteNotFound"), ""),
        route(Routing, 9000).ends(Goal::Held(Routing, "RouteNotFound"), ""),
        Scenario { says: Some("LiveVersionGone"), ..workload(Routing, 9000).ends(Goal::State(RolledBack), "") },
        workload(Completing, 1000).ends(Goal::Held(Completing, "NewVersionGone"), ""),
        workload(Completing, 7500).ends(Goal::Held(Completing, "NewVersionGone"), ""),
        nothing_left(),
        named("the new Deployment, and the old one had gone, then rolled back,", Completing)
            .harm(When::State(Completing, 7500), Act::Remove(Deployment, "web-2-0-0"), &["R10", "R1", "R2"], 40_000)
            .orders(When::Reason("NewVersionGone", 20_000), json!({"outcome": "Rollback"}))
            .rolled_back(),
        named("the new Deployment, and the old one had gone, then superseded,", Completing)
            .harm(When::State(Completing, 7500), Act::Remove(Deployment, "web-2-0-0"), &["R10", "R1", "R2"], 40_000)
            .when(When::Reason("NewVersionGone", 20_000), Act::Spec(json!({"version": "3.0.0"})))
            .ends(Goal::State(Completed), "3.0.0"),
    ];
    let back = |kind, name| Act::Restore(kind, name);
    for (state, after) in MIDDLE {
        let when = || When::State(state, after);
        let scenario = into(state, named("the Service, and made again,", state));
        let scenario = scenario.harm(when(), Act::Remove(Service, "web"), &["R10", "R1", "R11", "pin", "drain"], 28_000);
        table.push(ends_as(state, scenario.when(When::After(20_000), back(Service, "web"))));
        let scenario = into(state, named("the only route, and made again,", state));
        let scenario = scenario.when(when(), Act::Remove(HttpRoute, "web"));
        table.push(ends_as(state, scenario.when(When::After(20_000), back(HttpRoute, "web"))));
    }
    for (state, after) in [(Deployed, 1000), (Routing, 9000), (Completing, 1000), (Completing, 7500), (RollingBack, 1000)] {
        table.push(workload(state, after).when(When::After(40_000), back(Deployment, "web")).rolled_back());
    }
    table
}

/// Nothing of either version.
pub fn nothing_left() -> Scenario {
    named("the new Deployment, and the old one had gone,", Completing)
        .harm(When::State(Completing, 7500), Act::Remove(Deployment, "web-2-0-0"), &["R10", "R1", "R2"], FOR_EVER)
        .ends(Goal::Held(Completing, "NewVersionGone"), "")
}

/// Nothing serves any more: the new version's Deployment belongs to the workload.
fn workload(state: State, after: u64) -> Scenario {
    let scenario = into(state, named("the workload", state));
    scenario.harm(When::State(state, after), Act::Remove(Deployment, "web"), &["R10", "R1", "R2", "leftovers"], FOR_EVER)
}

//! People edit what an update stands on, in every state.

use aether_operator::api::State::{self, Completed, RollingBack, Routing};
use aether_operator::cluster::facts::Kind::{Deployment, HttpRoute};
use serde_json::{Value, json};

use super::deletions::{MIDDLE, ends_as, into};
use super::pods::by_pods;
use crate::scenario::{Act, Goal, Scenario, When};

pub fn all() -> Vec<Scenario> {
    let mut table = Vec::new();
    for (state, after) in MIDDLE {
        let when = || When::State(state, after);
        let named = |what: &str| into(state, Scenario::new(&format!("{what} in {state}")));
        table.push(template(state, named("the image is edited").when(when(), Act::image("9.9.9"))));
        table.push(template(state, named("a variable is edited").when(when(), Act::Change(Deployment, "web", edit_variable))));
        for (word, replicas) in [("up", 5), ("down", 2)] {
            let act = Act::Edit(Deployment, "web", json!({"spec": {"replicas": replicas}}));
            table.push(ends_as(state, named(&format!("the workload is scaled {word}")).when(when(), act)));
        }
        table.push(ends_as(state, named("a rule is added").when(when(), Act::Change(HttpRoute, "web", add_rule))));
        table.push(ends_as(state, named("a rule is put first").when(when(), Act::Change(HttpRoute, "web", put_rule_first))));
        let held = named("a backend is renamed").harm(when(), Act::Change(HttpRoute, "web", rename_new), &["foreign share"], 21_000);
        let mended = held.when(When::After(20_000), Act::Change(HttpRoute, "web", put_apex_back));
        table.push(ends_as(state, mended));
        table.push(rolled_out_past_us(Scenario::new, state, after));
        let named = |what: &str| into(state, by_pods(&format!("{what} in {state}")));
        let after = if matches!(state, Routing | RollingBack) { after / 2 } else { after };
        let edited = named("the image is edited").when(When::State(state, after), Act::image("9.9.9"));
        table.push(template(state, edited));
        table.push(rolled_out_past_us(by_pods, state, after));
    }
    let renamed = Scenario::new("a backend is renamed, and stays so").harm(
        When::State(Routing, 9000),
        Act::Change(HttpRoute, "web", rename_new),
        &["foreign share", "leftovers"],
        100_000_000,
    );
    table.push(renamed.ends(Goal::Held(Routing, "RouteUnsuitable"), ""));
    table.push(after_the_end());
    table
}

/// An edit that was not brought out keeps the workload paused after a rollback; before the new version is out it is part
/// of it.
fn template(state: State, scenario: Scenario) -> Scenario {
    Scenario { keeps_pause: state == RollingBack, ..ends_as(state, scenario) }
}

/// Somebody edits the template and resumes the workload, and a native rollout begins; later they undo both.
pub fn rolled_out_past_us(base: fn(&str) -> Scenario, state: State, after: u64) -> Scenario {
    let scenario = into(state, base(&format!("the image is edited and rolled out past us in {state}")));
    let resume = || Act::Edit(Deployment, "web", json!({"spec": {"paused": null}}));
    let scenario = scenario.when(When::State(state, after), Act::image("9.9.9"));
    let scenario = scenario.harm(When::After(0), resume(), &["T3", "R2", "native"], 100_000);
    let scenario = scenario.when(When::After(15_000), Act::image("1.0.0"));
    ends_as(state, scenario.when(When::After(0), resume()))
}

/// The old version comes back by hand, and goes again.
fn after_the_end() -> Scenario {
    let scale = |replicas: i32| Act::Edit(Deployment, "web", json!({"spec": {"replicas": replicas}}));
    let up = Scenario::new("the old version is scaled up after the end").harm(When::State(Completed, 5000), scale(2), &["R11"], 30_000);
    up.when(When::After(20_000), scale(0))
}

fn edit_variable(workload: &mut Value) {
    workload["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "2"}]);
}

fn rule(path: &str) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 5}],
    })
}

pub fn add_rule(route: &mut Value) {
    route["spec"]["rules"].as_array_mut().unwrap().push(rule("/more"));
}

fn put_rule_first(route: &mut Value) {
    route["spec"]["rules"].as_array_mut().unwrap().insert(0, rule("/first"));
}

fn rename(route: &mut Value, from: &str, to: &str) {
    for backend in route["spec"]["rules"][0]["backendRefs"].as_array_mut().unwrap() {
        if backend["name"] == from {
            backend["name"] = json!(to);
        }
    }
}

/// Only one of the two version Services is named.
fn rename_new(route: &mut Value) {
    rename(route, "web-2-0-0", "other");
}

fn put_apex_back(route: &mut Value) {
    let apex = json!([{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}]);
    route["spec"]["rules"][0]["backendRefs"] = apex;
}

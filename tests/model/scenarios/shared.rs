//! Two workloads, each with an update, behind one route.

use aether_operator::api::State::{RolledBack, Routing};
use serde_json::{Value, json};

use super::rollback;
use crate::scenario::{Goal, Scenario, When, route, update};

/// An update of the other workload.
fn others() -> Value {
    let mut update = update("other", "8.0.0");
    update["spec"]["artifactBase"] = json!("org.example:other");
    update
}

fn both(name: &str, rules: &Value) -> Scenario {
    let scenario = Scenario::new(&format!("two updates in one route, {name}")).routes(vec![route("web", rules)]);
    Scenario { updates: vec![update("web", "2.0.0"), others()], ..scenario }
}

pub fn all() -> Vec<Scenario> {
    let shapes = [
        ("one rule", json!([[("web", 3), ("other", 1)]])),
        ("one rule the other way round", json!([[("other", 2), ("web", 5)]])),
        ("a rule each", json!([[("web", 1)], [("other", 1)]])),
        ("a rule in common and one each", json!([[("web", 1), ("other", 9)], [("web", 1)], [("other", 1)]])),
    ];
    let mut table = Vec::new();
    for (name, rules) in shapes {
        table.push(both(name, &rules));
        table.push(both(&format!("{name}, one rolled back"), &rules).orders(When::Routing("1:1", 1500), rollback()).rolled_back());
        let mut slow = both(&format!("{name}, one slower"), &rules);
        slow.updates[1]["spec"]["progression"]["interval"] = json!("11s");
        slow.updates[1]["spec"]["traffic"]["settle"] = json!("5s");
        table.push(slow.clone());
        let back = slow.orders(When::State(Routing, 6000), rollback());
        table.push(Scenario { name: format!("{} and one rolled back", back.name), ..back.ends(Goal::State(RolledBack), "1.0.0") });
    }
    table
}

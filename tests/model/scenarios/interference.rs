//! A tool that does not know of the update undoes what it stands on.

use aether_operator::api::State::{Completing, RolledBack};
use aether_operator::cluster::facts::Kind::Service;
use serde_json::json;

use super::pods::by_pods;
use crate::meddler::{Meddler, Undoes};
use crate::scenario::{Act, Goal, Scenario, When};

const FIGHT: &str = "ConflictingManager";

pub fn all() -> Vec<Scenario> {
    let mut table = Vec::new();
    let kinds = [(Scenario::new as fn(&str) -> Scenario, Undoes::Weights), (Scenario::new, Undoes::Pin), (Scenario::new, Undoes::Pause)];
    for (base, undoes) in kinds.into_iter().chain([(by_pods as fn(&str) -> Scenario, Undoes::Pin), (by_pods, Undoes::Pause)]) {
        for every in [2000, 7000, 25_000, 70_000] {
            let scenario = slow(base(&format!("{undoes:?} undone every {every} ms")));
            let meddler = Some(Meddler { undoes, every, times: usize::MAX });
            table.push(Scenario { meddler, says: Some(FIGHT), ..scenario.ends(Goal::State(RolledBack), "1.0.0") });
        }
        for (every, times) in [(7000, 1), (25_000, 2), (200_000, 9)] {
            let scenario = slow(base(&format!("{undoes:?} undone {times} times every {every} ms")));
            table.push(Scenario { meddler: Some(Meddler { undoes, every, times }), ..scenario });
        }
    }
    // The old version drains again: it was reached until the data plane knew that the pin is back.
    let unpin = json!({"spec": {"selector": {"pod-template-hash": null, "aether.dev/revision": null}}});
    let unpin = Act::Edit(Service, "web", unpin);
    table.push(Scenario::new("the pin is taken away while completing").harm(When::State(Completing, 4000), unpin, &["R11", "pin"], 4000));
    table
}

/// Long enough for a fight to be seen as one.
fn slow(scenario: Scenario) -> Scenario {
    let steps = if scenario.routes.is_empty() { json!(["1:3", "1:1", "3:1", "1:0"]) } else { json!(["1:9", "1:3", "1:1", "3:1", "1:0"]) };
    scenario.with("progression", json!({"steps": steps, "interval": "90s", "deployDeadline": "120s"}))
}

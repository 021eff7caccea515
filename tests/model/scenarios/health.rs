//! Updates that are judged by what is measured.

use serde_json::{Value, json};

use crate::scenario::{Goal, Scenario, When};
use aether_operator::api::State;

/// Judged by measurement, and a breach does that.
fn measured(name: &str, on_breach: &str) -> Scenario {
    let mut scenario = Scenario::new(name).with("metrics", Value::Null);
    for update in &mut scenario.updates {
        update["spec"]["progression"]["onBreach"] = json!(on_breach);
    }
    scenario
}

/// The new version errs from half of the traffic on, and goes.
pub fn breach() -> Scenario {
    let goes = measured("errors from half of the traffic on", "Rollback").rolled_back();
    Scenario { errs_from: Some(0.5), says: Some("ErrorRateBreached"), ..goes }
}

pub fn all() -> Vec<Scenario> {
    vec![
        measured("measured and good", "Rollback"),
        breach(),
        Scenario { errs_from: Some(1.0), ..breach() },
        Scenario {
            errs_from: Some(0.5),
            ..measured("a person goes past a breach", "Pause")
                .orders(When::Routing("1:1", 20_000), json!({"approved": "1:0"}))
                .orders(When::Routing("1:0", 20_000), json!({"outcome": "Complete"}))
        },
        Scenario {
            errs_from: Some(0.5),
            ..measured("a breach at a ratio by hand", "Rollback")
                .orders(When::Routing("1:9", 1000), json!({"routing": "1:1"}))
                .ends(Goal::State(State::RolledBack), "1.0.0")
        },
    ]
}

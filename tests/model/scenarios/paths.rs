//! Ways to the same end.

use aether_operator::api::State::{Completed, Completing, Deploying, RolledBack, Routing};
use serde_json::json;

use super::adoption::adopted;
use super::pods::by_pods;
use super::rollback;
use crate::scenario::{Act, Goal, Scenario, When};

fn wants(changes: serde_json::Value) -> Act {
    let mut changes = changes;
    changes["control"] = json!(null);
    Act::Spec(changes)
}

/// Each list ends in one and the same cluster.
pub fn all() -> Vec<Vec<Scenario>> {
    let mut table = Vec::new();
    for base in [Scenario::new as fn(&str) -> Scenario, by_pods] {
        let next = || wants(json!({"version": "3.0.0"}));
        let end = |scenario: Scenario| scenario.ends(Goal::State(Completed), "3.0.0");
        let bad = json!({"version": "3.0.0", "progression": {"steps": ["1:1", "3:1"], "interval": "4s"}});
        let good = base("").updates[0]["spec"]["progression"].clone();
        let to_three = vec![
            base("at once").with("version", json!("3.0.0")),
            base("after 2.0.0").when(When::State(Completed, 2000), next()),
            base("instead of 2.0.0 in DEPLOYING").when(When::State(Deploying, 3000), next()),
            base("instead of 2.0.0 in ROUTING").when(When::Routing("1:1", 1000), next()),
            base("instead of 2.0.0 in COMPLETING").when(When::State(Completing, 1000), next()),
            base("after 2.0.0 was rolled back").orders(When::Routing("1:1", 1000), rollback()).when(When::State(RolledBack, 2000), next()),
            base("by a spec that cannot be read")
                .when(When::State(Routing, 1000), wants(bad))
                .when(When::After(9000), wants(json!({"progression": good}))),
            base("by way of 4.0.0")
                .when(When::State(Deploying, 2000), wants(json!({"version": "4.0.0"})))
                .when(When::State(Routing, 2000), next()),
        ];
        table.push(to_three.into_iter().map(end).collect());
        let version = || wants(json!({"version": "2.0.0"}));
        table.push(vec![
            adopted(base, "image and version").when(When::After(0), Act::image("2.0.0")).when(When::After(0), version()),
            adopted(base, "image, then version").when(When::After(0), Act::image("2.0.0")).when(When::After(9000), version()),
            adopted(base, "version, then image").when(When::After(0), version()).when(When::After(2000), Act::image("2.0.0")),
            adopted(base, "version, and the image at its end")
                .when(When::After(0), version())
                .when(When::Routing("1:0", 0), Act::image("2.0.0")),
        ]);
    }
    table
}

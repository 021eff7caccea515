//! The scenarios.

pub mod adoption;
pub mod deletions;
pub mod edits;
pub mod gateways;
pub mod health;
pub mod interference;
pub mod paths;
pub mod pods;
pub mod shared;
pub mod sizing;
pub mod supersede;

use aether_operator::api::{State, names};
use serde_json::{Value, json};

use crate::scenario::{Act, Goal, Scenario, When, route, update};

use State::{Completed, Completing, Deployed, Deploying, Failed, RolledBack, RollingBack, Routing};

/// Ways for the routes to be.
pub fn route_shapes() -> Vec<(&'static str, Vec<Value>)> {
    let guest = json!([[("web", 1)], [("web", 9), ("other", 1)]]);
    let first = json!([[("other", 2), ("web", 3)], [("web", 0), ("other", 1)]]);
    vec![
        ("one rule", vec![route("web", &json!([[("web", 1)]]))]),
        ("two rules with a foreign backend and filters", vec![route("web", &guest)]),
        ("a foreign backend first, and a rule that gives it nothing", vec![route("web", &first)]),
        ("two routes", vec![route("web", &json!([[("web", 1)]])), route("web-too", &guest)]),
    ]
}

fn rollback() -> Value {
    json!({"outcome": "Rollback"})
}

/// A rollback ordered when it is so.
pub fn rollback_when(name: &str, when: When) -> Scenario {
    Scenario::new(name).orders(when, rollback()).rolled_back()
}

/// A release after one whose old version was kept: its pods must not come back behind the Service.
pub fn after_manual() -> Scenario {
    let kept = Scenario::new("the next release after MANUAL").with("cleanupPolicy", json!("MANUAL"));
    let kept = kept.when(When::State(Completed, 2000), Act::Spec(json!({"version": "3.0.0"})));
    Scenario { keeps_pin: true, keeps_pause: true, ..kept.ends(Goal::State(Completed), "3.0.0") }
}

/// Every scenario that ends in one way only.
pub fn all() -> Vec<Scenario> {
    let new = Scenario::new;
    let next = |version: &str| Act::Spec(json!({"version": version}));
    let mut table = vec![
        new("cleanup IMMEDIATE"),
        new("cleanup GRACE_PERIOD").with("cleanupPolicy", json!("GRACE_PERIOD")),
        Scenario { keeps_pin: true, keeps_pause: true, ..new("cleanup MANUAL").with("cleanupPolicy", json!("MANUAL")) },
        Scenario { dials_pods: false, ..new("a gateway that dials Services") },
        Scenario { keeps_pin: true, replicas_owned: true, ..new("a manifest says replicas") },
        new("more pods than before").with("instances", json!(5)),
        new("one pod").with("instances", json!(1)),
        new("Complete ordered").orders(When::Routing("1:0", 500), json!({"outcome": "Complete"})),
        new("Complete ordered early").orders(When::Routing("1:3", 500), json!({"outcome": "Complete"})),
        new("approvals")
            .with("requireManualApproval", json!(true))
            .orders(When::State(Deployed, 8000), json!({"approved": "1:1"}))
            .orders(When::Routing("1:1", 12_000), json!({"approved": "1:0"})),
        new("ratios by hand, up and down to 0:1")
            .orders(When::State(Deployed, 3500), json!({"routing": "1:1"}))
            .orders(When::Routing("1:1", 6000), json!({"routing": "0:1"}))
            .orders(When::Routing("0:1", 6000), json!({"routing": "3 : 1"}))
            .orders(When::Routing("3 : 1", 6000), json!({"routing": "5:0"}))
            .orders(When::Routing("5:0", 10_000), json!({"routing": "5:0", "outcome": "Complete"})),
        new("a ratio by hand, then by itself")
            .orders(When::State(Deployed, 1000), json!({"routing": "1:1"}))
            .when(When::Routing("1:1", 9000), Act::Spec(json!({"control": null}))),
        new("paused for a while")
            .orders(When::Routing("1:3", 2000), json!({"paused": true}))
            .orders(When::After(30_000), json!({"paused": false})),
        new("an order for another version").orders(When::Routing("1:9", 0), json!({"version": "1.9.0", "outcome": "Rollback"})),
        rollback_when("rollback from DEPLOYING", When::State(Deploying, 2000)),
        rollback_when("rollback from DEPLOYED", When::State(Deployed, 1000)),
        rollback_when("rollback from COMPLETING at once", When::State(Completing, 0)),
        rollback_when("rollback from COMPLETING during drain", When::State(Completing, 3500)),
        rollback_when("rollback from COMPLETING in the grace period", When::State(Completing, 60_000))
            .with("cleanupPolicy", json!("GRACE_PERIOD")),
        Scenario { broken: ["2.0.0".to_owned()].into(), ..new("never ready").rolled_back() },
        Scenario { refused: ["web-2-0-0".to_owned()].into(), ..new("refused").ends(Goal::State(Failed), "1.0.0") },
        Scenario {
            refused: ["web-2-0-0".to_owned()].into(),
            ..new("refused, then another attempt")
                .when(When::State(Failed, 3000), Act::Allow)
                .when(When::After(0), Act::Spec(json!({"attempt": 2})))
        },
        new("deleted in ROUTING").when(When::Routing("1:1", 2000), Act::Delete).ends(Goal::Gone, "1.0.0"),
        new("deleted in DEPLOYING").when(When::State(Deploying, 3000), Act::Delete).ends(Goal::Gone, "1.0.0"),
        new("deleted in COMPLETING").when(When::State(Completing, 3000), Act::Delete).ends(Goal::Gone, "1.0.0"),
        new("deleted when COMPLETED").when(When::State(Completed, 1000), Act::Delete).ends(Goal::Gone, "2.0.0"),
        new("three releases")
            .when(When::State(Completed, 2000), next("3.0.0"))
            .when(When::State(Routing, 0), Act::Look)
            .when(When::State(Completed, 2000), next("4.0.0"))
            .ends(Goal::State(Completed), "4.0.0"),
        new("second release rolled back")
            .when(When::State(Completed, 2000), next("3.0.0"))
            .orders(When::State(Routing, 7000), json!({"version": "3.0.0", "outcome": "Rollback"}))
            .ends(Goal::State(RolledBack), "2.0.0"),
        new("another attempt after a rollback")
            .orders(When::Routing("1:1", 1000), rollback())
            .when(When::State(RolledBack, 1000), Act::Spec(json!({"attempt": 2, "control": null}))),
        new("back to the version before").when(When::State(Completed, 2000), next("1.0.0")).ends(Goal::State(Completed), "1.0.0"),
        new("the live version is wanted again after a rollback")
            .orders(When::Routing("1:1", 1000), rollback())
            .when(When::State(RolledBack, 1000), next("1.0.0"))
            .ends(Goal::State(Completed), "1.0.0"),
        new("the next version comes with its rollback")
            .orders(When::Routing("1:1", 1000), rollback())
            .when(When::State(RolledBack, 1000), Act::Spec(json!({"version": "3.0.0", "control": {"version": "3.0.0"}})))
            .rolled_back(),
        new("superseded in DEPLOYING").when(When::State(Deploying, 3000), next("3.0.0")).ends(Goal::State(Completed), "3.0.0"),
        new("superseded in ROUTING").when(When::Routing("1:1", 2000), next("3.0.0")).ends(Goal::State(Completed), "3.0.0"),
        new("superseded while rolling back")
            .orders(When::Routing("1:1", 2000), rollback())
            .when(When::State(RollingBack, 2000), next("3.0.0"))
            .ends(Goal::State(Completed), "3.0.0"),
        Scenario {
            keeps_pause: true,
            ..new("the template is edited, then rolled back")
                .when(When::Routing("1:3", 1000), Act::image("9.9.9"))
                .orders(When::After(3000), rollback())
                .rolled_back()
        },
        Scenario {
            keeps_pause: true,
            ..new("the template is edited, then completed").when(When::Routing("1:3", 1000), Act::image("9.9.9"))
        },
        Scenario {
            updates: vec![update("web", "2.0.0"), update("web-b", "2.0.0")],
            ..new("two updates of one workload, the same version")
        },
        bare(new("no finalizer at birth")),
    ];
    let early = new("superseded before the news of its pods").when(When::State(Deploying, 1000), next("3.0.0"));
    table.push(Scenario { pods_late: 3000, ..early.ends(Goal::State(Completed), "3.0.0") });
    for step in ["1:9", "1:3", "1:1", "3:1", "1:0"] {
        table.push(rollback_when(&format!("rollback from ROUTING at {step}"), When::Routing(step, 1500)));
    }
    for (name, routes) in route_shapes() {
        table.push(Scenario::new(&format!("forward, {name}")).routes(routes.clone()));
        table.push(rollback_when(&format!("back, {name}"), When::Routing("3:1", 1500)).routes(routes.clone()));
        table.push(rollback_when(&format!("back from COMPLETING, {name}"), When::State(Completing, 3500)).routes(routes));
    }
    table
}

fn bare(mut scenario: Scenario) -> Scenario {
    for update in &mut scenario.updates {
        assert_eq!(update["metadata"]["finalizers"], json!([names::FINALIZER]));
        update["metadata"].as_object_mut().unwrap().remove("finalizers");
    }
    scenario
}

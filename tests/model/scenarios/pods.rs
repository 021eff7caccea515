//! Pods mode: no route, so traffic is shifted by the Service's endpoints.

use aether_operator::api::State::{Completed, Completing, Deployed, Deploying, RolledBack, RollingBack, Routing};
use aether_operator::cluster::facts::Kind::Deployment;
use serde_json::{Value, json};

use crate::meddler::{Meddler, Undoes};
use crate::scenario::{Act, Goal, Scenario, When};

/// 1.0.0 -> 2.0.0 of four pods each, in three steps.
pub fn by_pods(name: &str) -> Scenario {
    let scenario = Scenario::new(&format!("by pods, {name}")).routes(Vec::new());
    let progression = json!({"steps": ["1:3", "1:1", "1:0"], "interval": "4s", "deployDeadline": "60s"});
    Scenario { replicas: 4, ..scenario.with("progression", progression) }
}

fn rollback() -> Value {
    json!({"outcome": "Rollback"})
}

/// A rollback ordered when it is so.
pub fn rollback_when(name: &str, when: When) -> Scenario {
    by_pods(name).orders(when, rollback()).rolled_back()
}

/// Every scenario without a route.
pub fn all() -> Vec<Scenario> {
    let next = |version: &str| Act::Spec(json!({"version": version}));
    let mut table = vec![
        by_pods("cleanup IMMEDIATE"),
        by_pods("cleanup GRACE_PERIOD").with("cleanupPolicy", json!("GRACE_PERIOD")),
        Scenario { keeps_pin: true, keeps_pause: true, ..by_pods("cleanup MANUAL").with("cleanupPolicy", json!("MANUAL")) },
        Scenario { replicas: 1, ..by_pods("one pod") },
        by_pods("more pods than before").with("instances", json!(6)),
        by_pods("fewer pods than before").with("instances", json!(2)),
        by_pods("small steps").with("progression", json!({"steps": ["1:9", "1:3", "1:2", "2:1", "9:1", "1:0"], "interval": "4s"})),
        by_pods("ratios by hand, up and down to 0:1")
            .orders(When::State(Deployed, 3500), json!({"routing": "1:1"}))
            .orders(When::Routing("1:1", 8000), json!({"routing": "0:1"}))
            .orders(When::Routing("0:1", 6000), json!({"routing": "3 : 1"}))
            .orders(When::Routing("3 : 1", 6000), json!({"routing": "1:3"}))
            .orders(When::Routing("1:3", 6000), json!({"routing": "5:0"}))
            .orders(When::Routing("5:0", 10_000), json!({"routing": "5:0", "outcome": "Complete"})),
        by_pods("ratios by hand, down from all")
            .orders(When::State(Deployed, 1000), json!({"routing": "1:0"}))
            .orders(When::Routing("1:0", 6000), json!({"routing": "1:1"}))
            .orders(When::Routing("1:1", 6000), json!({"routing": "1:0"}))
            .orders(When::Routing("1:0", 6000), json!({"routing": "1:3"}))
            .orders(When::Routing("1:3", 6000), json!({"routing": null})),
        rollback_when("rollback from DEPLOYING", When::State(Deploying, 2000)),
        rollback_when("rollback from DEPLOYED", When::State(Deployed, 1000)),
        rollback_when("rollback from 1:3", When::Routing("1:3", 1500)),
        rollback_when("rollback from 1:1", When::Routing("1:1", 1500)),
        rollback_when("rollback from 1:0", When::Routing("1:0", 1500)),
        rollback_when("rollback from COMPLETING", When::State(Completing, 2500)),
        rollback_when("rollback from COMPLETING in the grace period", When::State(Completing, 60_000))
            .with("cleanupPolicy", json!("GRACE_PERIOD")),
        Scenario { broken: ["2.0.0".to_owned()].into(), ..by_pods("never ready").rolled_back() },
        by_pods("deleted in ROUTING").when(When::Routing("1:1", 2000), Act::Delete).ends(Goal::Gone, "1.0.0"),
        by_pods("deleted in COMPLETING").when(When::State(Completing, 3000), Act::Delete).ends(Goal::Gone, "1.0.0"),
        by_pods("superseded in DEPLOYING").when(When::State(Deploying, 3000), next("3.0.0")).ends(Goal::State(Completed), "3.0.0"),
        by_pods("superseded in ROUTING").when(When::Routing("1:1", 2000), next("3.0.0")).ends(Goal::State(Completed), "3.0.0"),
        by_pods("superseded while rolling back")
            .orders(When::Routing("1:1", 2000), rollback())
            .when(When::State(RollingBack, 1000), next("3.0.0"))
            .ends(Goal::State(Completed), "3.0.0"),
        by_pods("three releases")
            .when(When::State(Completed, 2000), next("3.0.0"))
            .when(When::State(Routing, 0), Act::Look)
            .when(When::State(Completed, 2000), next("4.0.0"))
            .ends(Goal::State(Completed), "4.0.0"),
        by_pods("second release rolled back")
            .when(When::State(Completed, 2000), next("3.0.0"))
            .orders(When::State(Routing, 7000), json!({"version": "3.0.0", "outcome": "Rollback"}))
            .ends(Goal::State(aether_operator::api::State::RolledBack), "2.0.0"),
        by_pods("another attempt after a rollback")
            .orders(When::Routing("1:1", 1000), rollback())
            .when(When::State(aether_operator::api::State::RolledBack, 1000), Act::Spec(json!({"attempt": 2, "control": null}))),
    ];
    for at in ["1:3", "1:1", "1:0"] {
        for version in ["1.0.0", "2.0.0"] {
            let name = |what: &str| format!("{what} of {version} deleted by a person at {at}");
            table.push(by_pods(&name("a pod")).when(When::Routing(at, 2000), Act::Kill(version, 1)));
            // Of a version that carries something, all of it is lost until others are there.
            let all = by_pods(&name("every pod")).harm(When::Routing(at, 2000), Act::Kill(version, 9), &["R10", "size"], 12_000);
            table.push(all);
        }
    }
    table.extend(found());
    table
}

/// What random worlds have found.
fn found() -> Vec<Scenario> {
    let next = |version: &str| Act::Spec(json!({"version": version}));
    let pin = Some(Meddler { undoes: Undoes::Pin, every: 12_000, times: 9 });
    let pause = |every| Some(Meddler { undoes: Undoes::Pause, every, times: 1 });
    let mut table = vec![
        Scenario { replicas: 3, ..by_pods("a share that comes to no pod, and no pod to serve") }
            .orders(When::State(Deployed, 1000), json!({"routing": "1:3"}))
            .when(When::Routing("1:3", 4000), Act::Kill("2.0.0", 9))
            .orders(When::After(9000), json!({"routing": null})),
        // Its label comes with it, and the news of it when all is over.
        Scenario { keeps_pin: true, keeps_pause: true, pods_late: 6000, ..by_pods("a pod is born as the shift ends") }
            .with("cleanupPolicy", json!("MANUAL"))
            .when(When::State(Completing, 3000), Act::Kill("1.0.0", 1)),
        by_pods("deleted just as the next version is wanted")
            .with("version", json!("1.0.0"))
            .when(When::State(Completed, 5000), Act::Spec(json!({"version": "2.0.0"})))
            .when(When::After(0), Act::Delete)
            .ends(Goal::Gone, "1.0.0"),
        Scenario { says: Some("ConflictingManager"), meddler: pin, ..by_pods("the pin is taken away in one attempt after the other") }
            .when(When::Routing("1:1", 0), Act::Spec(json!({"attempt": 2})))
            .rolled_back(),
        by_pods("the old version is scaled up when it has gone, and another is wanted")
            .harm(When::State(Completing, 6500), Act::Edit(Deployment, "web", json!({"spec": {"replicas": 5}})), &["R11"], 60_000)
            .when(When::After(0), Act::Spec(json!({"version": "3.0.0"})))
            .ends(Goal::State(Completed), "3.0.0"),
    ];
    let again = Act::Spec(json!({"attempt": 2}));
    // Nothing is moved to what ends; a person has to say how it goes on.
    let next = by_pods("the old version of the next release is deleted by a person").when(When::State(Completed, 2000), next("3.0.0"));
    let harm = &["R1", "R10", "size", "share", "R11"];
    let back = by_pods("the version that a rollback went back to is deleted by a person").when(When::State(Completed, 2000), again);
    let back = back.orders(When::State(Routing, 7000), rollback());
    let back = back.harm(When::State(RolledBack, 5000), Act::Remove(Deployment, "web-2-0-0"), &["R10", "R11"], 100_000_000);
    table.push(Scenario { says: Some("LiveVersionGone"), ..back.ends(Goal::State(RolledBack), "") });
    let next = next.harm(When::Routing("1:1", 2000), Act::Remove(Deployment, "web-2-0-0"), harm, 12_000);
    table.push(Scenario { says: Some("OldVersionGone"), ..next.ends(Goal::Held(Routing, "OldVersionGone"), "") });
    // The pods that carry everything must not be replaced by some that the Service does not select.
    let held = by_pods("the pause is taken away at 0:1, when something was shifted before");
    let held = held.orders(When::State(Deployed, 1000), json!({"routing": "1:1"}));
    let held = held.orders(When::Routing("1:1", 5000), json!({"routing": "0:1"}));
    let resume = Act::Edit(Deployment, "web", json!({"spec": {"paused": null}}));
    let resumed = held.harm(When::Routing("0:1", 3000), resume, &["T3"], 20_000);
    table.push(resumed.orders(When::After(20_000), json!({"routing": null})));
    for every in [9000, 14_000, 19_000, 26_000] {
        table.push(Scenario { meddler: pause(every), ..by_pods(&format!("the pause is taken away after {every} ms")) });
        let back = rollback_when(&format!("the pause is taken away after {every} ms of a rollback"), When::Routing("1:1", 4000));
        table.push(Scenario { meddler: pause(every), ..back });
    }
    table
}

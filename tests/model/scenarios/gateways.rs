//! Gateways that are slow, silent, or refuse.

use aether_operator::api::State::{Deployed, Deploying, Pending, RollingBack, Routing};
use serde_json::json;

use crate::controllers::Timing;
use crate::gateway::Manner;
use crate::scenario::{Act, Goal, Scenario, When};

use super::rollback;

/// It acknowledges so many seconds late, and follows later still.
pub fn lagging(seconds: u64, what: &str) -> Scenario {
    let lag = seconds * 1000;
    let timing = Timing { ack: lag, plane: lag + 2000, gone: lag + 4000, ..Timing::default() };
    let progression = json!({"steps": ["1:9", "1:1", "1:0"], "interval": "4s", "deployDeadline": "120s"});
    let scenario = Scenario::new(&format!("a gateway that lags {seconds} s, {what}"));
    Scenario { timing, ..scenario.with("progression", progression) }
}

pub fn all() -> Vec<Scenario> {
    let mut table = Vec::new();
    for lag in [1, 5, 12, 20, 40] {
        table.push(lagging(lag, "forward"));
        for state in [Deploying, Deployed, Routing] {
            let back = lagging(lag, &format!("back from {state}"));
            table.push(back.orders(When::State(state, 1500), rollback()).rolled_back());
        }
    }
    for manner in [Manner::Mute, Manner::Behind, Manner::Rejects] {
        // Before the start one that refuses or has never spoken is waited for. One that is behind for ever is found out
        // while deploying, and keeps the route's Services: nobody knows what it still sends where.
        let never = Scenario { gateway: manner, ..Scenario::new(&format!("{manner:?} from the start")) };
        table.push(match manner {
            Manner::Behind => never.ends(Goal::Held(RollingBack, "DeployDeadlineExceeded"), ""),
            _ => never.ends(Goal::Held(Pending, "RouteNotAccepted"), ""),
        });
        for (state, after) in [(Deploying, 3500), (Deployed, 1000), (Routing, 9000), (RollingBack, 1000)] {
            let named = |what: &str| super::deletions::into(state, Scenario::new(&format!("{manner:?} from {state} on{what}")));
            let turned = |scenario: Scenario| scenario.when(When::State(state, after), Act::Gateway(manner));
            let honest = turned(named(" for a minute")).when(When::After(60_000), Act::Gateway(Manner::Honest));
            table.push(match state {
                // The deadline is over by then.
                Deploying | RollingBack => honest.rolled_back(),
                _ => honest,
            });
            if state != RollingBack {
                // A rollback's first write waits for nobody, whatever the gateway says.
                let back = turned(named(", and rolled back"))
                    .when(When::After(20_000), Act::Spec(json!({"control": {"version": "2.0.0", "outcome": "Rollback"}})));
                let back = back.when(When::After(60_000), Act::Gateway(Manner::Honest));
                table.push(back.rolled_back());
            }
        }
    }
    table
}

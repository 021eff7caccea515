//! Something else is wanted in the middle.

use aether_operator::api::State::{self, Completed, Completing, RollingBack, Routing};
use serde_json::{Value, json};

use super::deletions::{MIDDLE, into};
use super::pods::by_pods;
use crate::scenario::{Act, Goal, Scenario, When};

fn spec(changes: Value) -> Act {
    Act::Spec(changes)
}

/// Another version is wanted in that state.
pub fn superseded(state: State, after: u64) -> Scenario {
    let named = into(state, Scenario::new(&format!("superseded in {state}")));
    named.when(When::State(state, after), spec(json!({"version": "3.0.0", "control": null}))).ends(Goal::State(Completed), "3.0.0")
}

pub fn all() -> Vec<Scenario> {
    let mut table = Vec::new();
    for base in [Scenario::new, by_pods] {
        for (state, after) in MIDDLE {
            let pods = base("").routes.is_empty();
            let after = if pods && matches!(state, Routing | RollingBack) { after / 2 } else { after };
            let when = || When::State(state, after);
            let named = |what: &str| into(state, base(&format!("{what} in {state}")));
            let next = || spec(json!({"version": "3.0.0", "control": null}));
            table.push(named("another version").when(when(), next()).ends(Goal::State(Completed), "3.0.0"));
            let twice = named("another version, and then another one,").when(when(), next());
            let twice = twice.when(When::State(RollingBack, 1000), spec(json!({"version": "4.0.0"})));
            table.push(twice.ends(Goal::State(Completed), "4.0.0"));
            let thought_better = named("another version, and then the first one,").when(when(), next());
            let thought_better = thought_better.when(When::State(RollingBack, 1000), spec(json!({"version": "2.0.0"})));
            let end = Goal::State(aether_operator::api::State::RolledBack);
            table.push(thought_better.ends(end, "1.0.0"));
            table.push(named("another attempt").when(when(), spec(json!({"attempt": 2, "control": null}))));
            let live = named("the live version is wanted again").when(when(), spec(json!({"version": "1.0.0", "control": null})));
            table.push(live.ends(Goal::State(Completed), "1.0.0"));
        }
        let again = base("another attempt of what is live").when(When::State(Completed, 3000), spec(json!({"attempt": 2})));
        table.push(again.when(When::State(Routing, 0), Act::Look));
        let late =
            base("another version after the old one has gone").when(When::State(Completing, 7000), spec(json!({"version": "3.0.0"})));
        table.push(late.ends(Goal::State(Completed), "3.0.0"));
    }
    table
}

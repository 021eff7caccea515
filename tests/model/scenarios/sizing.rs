//! Sizes change in the middle: `spec.instances`, as an autoscaler of the update writes it, and the workload's own.

use aether_operator::api::State::{Completed, RollingBack, Routing};
use aether_operator::cluster::facts::Kind::Deployment;
use serde_json::json;

use super::deletions::{MIDDLE, ends_as, into};
use super::pods::by_pods;
use crate::scenario::{Act, Scenario, When};

pub fn all() -> Vec<Scenario> {
    let instances = |n: i32| Act::Spec(json!({"instances": n}));
    let mut table = Vec::new();
    for base in [Scenario::new, by_pods] {
        for (state, after) in MIDDLE {
            let pods = base("").routes.is_empty();
            let after = if pods && matches!(state, Routing | RollingBack) { after / 2 } else { after };
            let when = || When::State(state, after);
            let named = |what: &str| into(state, base(&format!("{what} in {state}")));
            for (word, n) in [("up", 6), ("down", 2)] {
                table.push(ends_as(state, named(&format!("instances go {word}")).with("instances", json!(4)).when(when(), instances(n))));
                let scale = Act::Edit(Deployment, "web", json!({"spec": {"replicas": n}}));
                let scaled = named(&format!("the autoscaler of the workload goes {word}")).when(when(), scale);
                table.push(Scenario { autoscaler: true, ..ends_as(state, scaled) });
            }
        }
        let rest = base("instances go up and down at rest").when(When::State(Completed, 3000), instances(6));
        table.push(rest.when(When::After(90_000), instances(1)).when(When::After(90_000), instances(4)));
        let shaky = base("instances go up and down all the time").with("instances", json!(3));
        let shaky = (0..12).fold(shaky, |s, n| s.when(When::After(5000), instances(if n % 2 == 0 { 5 } else { 2 })));
        table.push(shaky);
    }
    table
}

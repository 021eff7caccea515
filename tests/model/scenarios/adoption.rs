//! The RollingUpdate for the live version comes first; then commits that change image and version together.

use aether_operator::api::State::{Completed, RolledBack, Routing};
use serde_json::json;

use super::pods::by_pods;
use crate::scenario::{Act, Goal, Scenario, When};

fn version(version: &str) -> Act {
    Act::Spec(json!({"version": version, "control": null}))
}

/// An update of what is live already.
pub fn adopted(base: fn(&str) -> Scenario, name: &str) -> Scenario {
    base(&format!("adopted, then {name}")).with("version", json!("1.0.0")).when(When::State(Completed, 5000), Act::Look)
}

pub fn all() -> Vec<Scenario> {
    let mut table = vec![base_only()];
    for base in [Scenario::new, by_pods] {
        for late in [0, 500, 2000, 4000, 20_000] {
            let commit = |name: &str| adopted(base, &format!("{name}, {late} ms later"));
            let image_first = commit("the image and the version").when(When::After(0), Act::image("2.0.0"));
            table.push(image_first.when(When::After(late), version("2.0.0")));
            let version_first = commit("the version and the image").when(When::After(0), version("2.0.0"));
            table.push(version_first.when(When::After(late), Act::image("2.0.0")));
        }
        let deleted = adopted(base, "deleted").when(When::After(0), Act::Delete);
        table.push(deleted.ends(Goal::Gone, "1.0.0"));
        let deleted = adopted(base, "deleted when the next version is wanted").when(When::After(0), version("2.0.0"));
        table.push(deleted.when(When::After(0), Act::Delete).ends(Goal::Gone, "1.0.0"));
        let edited = adopted(base, "an edit that nobody brings out, and back").when(When::After(0), Act::image("2.0.0"));
        table.push(edited.when(When::After(9000), Act::image("1.0.0")).ends(Goal::State(Completed), "1.0.0"));
        let rolled_back = adopted(base, "a commit that is rolled back").when(When::After(0), Act::image("2.0.0"));
        let rolled_back = rolled_back.when(When::After(500), version("2.0.0"));
        let rolled_back = rolled_back.orders(When::State(Routing, 6000), json!({"outcome": "Rollback"}));
        table.push(Scenario { keeps_pause: true, ..rolled_back.ends(Goal::State(RolledBack), "1.0.0") });
        let twice = adopted(base, "two commits").when(When::After(0), Act::image("2.0.0")).when(When::After(0), version("2.0.0"));
        let twice = twice.when(When::State(Routing, 0), Act::Look).when(When::State(Completed, 3000), Act::image("3.0.0"));
        table.push(twice.when(When::After(1000), version("3.0.0")).ends(Goal::State(Completed), "3.0.0"));
    }
    table
}

fn base_only() -> Scenario {
    Scenario { says: Some("AlreadyLive"), ..adopted(Scenario::new, "nothing").ends(Goal::State(Completed), "1.0.0") }
}

//! A scenario and its faults from a seed.

use serde_json::{Value, json};

use super::controllers::Timing;
use super::rng::Rng;
use super::scenario::{Act, Goal, Scenario, When};
use super::scenarios::route_shapes;
use super::sim::Faults;

const VERSIONS: [&str; 4] = ["2.0.0", "3.0.0", "4.0.0", "5.0.0"];
const RATIOS: [&str; 7] = ["0:1", "1:9", "1:3", "2:2", "3:1", "1:0", "7:0"];

pub fn random(seed: u64) -> (Scenario, Faults) {
    let mut rng = Rng::new(seed ^ 0x0BAD_5EED);
    let (shape, routes) = rng.pick(&route_shapes());
    let policy = rng.pick(&["IMMEDIATE", "IMMEDIATE", "IMMEDIATE", "GRACE_PERIOD", "MANUAL"]);
    let ack = rng.below(1000);
    let plane = ack + rng.below(2000);
    let kills = rng.percent(40);
    let timing = Timing {
        ready: 500 + rng.below(4000),
        // A pod that goes by itself serves until everyone knows; how long depends on nobody but its owner.
        gone: plane + if kills { 4500 } else { 1500 } + rng.below(3000),
        ack,
        plane,
        proxy: rng.below(1000),
        lazy: if kills { rng.pick(&[0, 10]) } else { rng.pick(&[0, 0, 10, 40]) },
    };
    let mut scenario = Scenario {
        timing,
        dials_pods: rng.percent(60),
        replicas: rng.pick(&[1, 2, 3, 3, 4]),
        keeps_pin: policy == "MANUAL",
        keeps_pause: policy == "MANUAL",
        ..Scenario::new(&format!("random, {shape}, {policy}")).with("cleanupPolicy", json!(policy)).routes(routes)
    };
    if rng.percent(30) {
        scenario = scenario.with("instances", json!(1 + rng.below(4)));
    }
    // What comes after MANUAL is a scenario of its own.
    let versions = if policy == "MANUAL" { &VERSIONS[..1] } else { &VERSIONS[..] };
    let mut version = 0;
    let many = rng.below(5);
    for _ in 0..many {
        let when = When::After(rng.below(rng_span(&scenario)));
        let act = act(&mut rng, versions, &mut version, true);
        scenario = scenario.when(when, act);
    }
    // Nobody is left waiting for a person.
    let last = act(&mut rng, versions, &mut version, false);
    scenario = scenario.when(When::After(rng.below(60_000)), last).ends(Goal::Over, "");
    let faults =
        Faults { rate: rng.pick(&[0, 30, 80, 200]), late: rng.percent(50), kills, until: 30 + rng.below(120), ..Faults::default() };
    scenario.name = format!("{}, {:?}", scenario.name, scenario.script);
    (scenario, faults)
}

fn rng_span(scenario: &Scenario) -> u64 {
    if scenario.script.is_empty() { 60_000 } else { 30_000 }
}

fn act(rng: &mut Rng, versions: &[&str], version: &mut usize, may_hold: bool) -> Act {
    let control = |control: Value, version: usize| {
        let mut control = control;
        control["version"] = json!(versions[version]);
        // All of it, or a merge patch would leave what was ordered before.
        for field in ["routing", "paused", "outcome", "approved"] {
            control.as_object_mut().unwrap().entry(field).or_insert(Value::Null);
        }
        Act::Spec(json!({"control": control}))
    };
    match rng.below(if may_hold { 10 } else { 5 }) {
        0 | 1 => Act::Spec(json!({"control": null})),
        2 => control(json!({"outcome": "Rollback"}), *version),
        3 if *version + 1 < versions.len() => {
            *version += 1;
            Act::Spec(json!({"version": versions[*version], "control": null}))
        }
        3 | 4 => Act::Delete,
        5 | 6 => control(json!({"routing": rng.pick(&RATIOS)}), *version),
        7 => control(json!({"paused": true}), *version),
        8 => control(json!({"outcome": "Complete"}), *version),
        _ => control(json!({"routing": "1:0", "outcome": "Complete"}), *version),
    }
}

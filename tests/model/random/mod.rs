//! A scenario and its faults from a seed.

mod harm;

use serde_json::{Value, json};

use super::controllers::Timing;
use super::meddler::{Meddler, Undoes};
use super::rng::Rng;
use super::scenario::{Act, Goal, Scenario, When};
use super::scenarios::pods::by_pods;
use super::scenarios::{route_shapes, shared};
use super::sim::Faults;

const VERSIONS: [&str; 4] = ["2.0.0", "3.0.0", "4.0.0", "5.0.0"];
const RATIOS: [&str; 7] = ["0:1", "1:9", "1:3", "2:2", "3:1", "1:0", "7:0"];

pub fn random(seed: u64) -> (Scenario, Faults) {
    let mut rng = Rng::new(seed ^ 0x0BAD_5EED);
    let kills = rng.percent(30);
    let mut scenario = cluster(&mut rng, kills);
    let policy = rng.pick(&["IMMEDIATE", "IMMEDIATE", "IMMEDIATE", "GRACE_PERIOD", "MANUAL"]);
    let manual = policy == "MANUAL";
    let mut people =
        People { approvals: rng.percent(10), versions: if manual { 1 } else { VERSIONS.len() }, version: 0, attempt: 1, first: false };
    scenario = Scenario { keeps_pin: manual, keeps_pause: manual, ..scenario }.with("cleanupPolicy", json!(policy));
    if people.approvals {
        scenario.updates[0]["spec"]["requireManualApproval"] = json!(true);
    }
    if rng.percent(30) {
        scenario = scenario.with("instances", json!(1 + rng.below(4)));
    }
    if !manual && rng.percent(15) {
        // The live version is taken into care first.
        scenario.updates[0]["spec"]["version"] = json!("1.0.0");
        scenario = scenario.when(When::After(rng.below(9000)), Act::Spec(json!({"version": VERSIONS[0]})));
    }
    for _ in 0..rng.below(5) {
        let when = When::After(rng.below(if scenario.script.is_empty() { 60_000 } else { 30_000 }));
        scenario = scenario.when(when, people.act(&mut rng, true));
    }
    if rng.percent(40) {
        scenario = harm::add(scenario, &mut rng);
    } else if rng.percent(15) {
        let undoes = rng.pick(&[Undoes::Weights, Undoes::Pin, Undoes::Pause]);
        scenario.meddler = Some(Meddler { undoes, every: 1000 + rng.below(90_000), times: 1 + usize::try_from(rng.below(6)).unwrap() });
    }
    // Nobody is left waiting for a person: the last order, or approval, is for the version that is wanted.
    let mut last = people.act(&mut rng, false);
    if let Act::Spec(spec) = &mut last
        && people.first
        && spec.get("version").is_none()
        && spec["control"].is_object()
    {
        spec["control"]["version"] = json!("1.0.0");
    }
    scenario = scenario.when(When::After(rng.below(60_000)), last).ends(Goal::Over, "");
    let mut faults =
        Faults { rate: rng.pick(&[0, 30, 80, 200]), late: rng.percent(50), kills, until: 30 + rng.below(120), ..Faults::default() };
    faults.stale = rng.pick(&[0, 0, 6000]);
    scenario.name = format!("random, {}, {policy}, {:?}, {:?}", scenario.name, scenario.meddler, scenario.script);
    (scenario, faults)
}

/// What is there, and how long things take.
fn cluster(rng: &mut Rng, kills: bool) -> Scenario {
    let ack = rng.below(1000);
    let plane = ack + rng.below(2000);
    let timing = Timing {
        ready: 500 + rng.below(4000),
        // A pod that goes by itself serves until everyone knows; how long depends on nobody but its owner.
        gone: plane + if kills { 4500 } else { 1500 } + rng.below(3000),
        ack,
        plane,
        proxy: rng.below(1000),
        lazy: if kills { rng.pick(&[0, 10]) } else { rng.pick(&[0, 0, 10, 40]) },
    };
    let base = match rng.below(10) {
        0 => rng.pick(&shared::all()),
        1..=3 => by_pods("as it may be"),
        _ => {
            let (shape, routes) = rng.pick(&route_shapes());
            Scenario::new(shape).routes(routes)
        }
    };
    Scenario {
        timing,
        script: Vec::new(),
        dials_pods: rng.percent(60),
        replicas: rng.pick(&[1, 2, 3, 3, 4]),
        autoscaler: rng.percent(10),
        ..base
    }
}

/// What they have ordered so far.
struct People {
    approvals: bool,
    versions: usize,
    version: usize,
    attempt: usize,
    /// They want the first version back.
    first: bool,
}

impl People {
    fn control(&self, control: Value) -> Act {
        let mut control = control;
        control["version"] = json!(VERSIONS[self.version]);
        // All of it, or a merge patch would leave what was ordered before.
        for field in ["routing", "paused", "outcome", "approved"] {
            control.as_object_mut().unwrap().entry(field).or_insert(Value::Null);
        }
        Act::Spec(json!({"control": control}))
    }

    /// Something else, without any order but an approval of all of it where one is needed.
    fn wants(&self, spec: Value) -> Act {
        let Act::Spec(control) = self.control(json!({"approved": "1:0"})) else { unreachable!() };
        let mut spec = spec;
        spec["control"] = if self.approvals { control["control"].clone() } else { Value::Null };
        Act::Spec(spec)
    }

    fn act(&mut self, rng: &mut Rng, may_hold: bool) -> Act {
        match rng.below(if may_hold { 14 } else { 6 }) {
            0 | 1 if self.approvals => self.control(json!({"approved": "1:0"})),
            0 | 1 => Act::Spec(json!({"control": null})),
            2 => self.control(json!({"outcome": "Rollback"})),
            3 if self.version + 1 < self.versions => {
                self.version += 1;
                self.first = false;
                self.wants(json!({"version": VERSIONS[self.version]}))
            }
            4 if self.versions > 1 => {
                self.attempt += 1;
                self.wants(json!({"attempt": self.attempt}))
            }
            3..=5 => Act::Delete,
            6 | 7 => self.control(json!({"routing": rng.pick(&RATIOS)})),
            8 => self.control(json!({"paused": true})),
            9 => self.control(json!({"outcome": "Complete"})),
            10 => self.control(json!({"approved": rng.pick(&RATIOS)})),
            11 => Act::Spec(json!({"instances": 1 + rng.below(6)})),
            12 if self.versions > 1 => {
                self.first = true;
                Act::Spec(json!({"version": "1.0.0", "control": null}))
            }
            _ => self.control(json!({"routing": "1:0", "outcome": "Complete"})),
        }
    }
}

//! One thing that people break in a random world, and mend again.

use aether_operator::cluster::facts::Kind;
use serde_json::json;

use crate::gateway::Manner;
use crate::invariants::ALL;
use crate::rng::Rng;
use crate::scenario::{Act, Scenario, When};
use crate::scenarios::edits;

/// So long it may take until what they broke is whole again.
const HEALS: u64 = 60_000;

pub fn add(scenario: Scenario, rng: &mut Rng) -> Scenario {
    let when = When::After(rng.below(60_000));
    let mended = When::After(1000 + rng.below(30_000));
    let traffic: &[&str] = &["R1", "R10", "R11", "size", "share", "pin", "drain", "settle"];
    let route = if scenario.routes.iter().any(|r| r["metadata"]["name"] == "web") { "web" } else { "elsewhere" };
    match rng.below(10) {
        0 => scenario.harm(when, Act::Remove(Kind::Deployment, rng.pick(&["web-2-0-0", "web-3-0-0"])), traffic, HEALS),
        1 => scenario.harm(when, Act::Remove(Kind::Service, rng.pick(&["web-1-0-0", "web-2-0-0", "web-3-0-0"])), traffic, HEALS),
        2 => {
            let scenario = scenario.harm(when, Act::Remove(Kind::Service, "web"), traffic, 2 * HEALS);
            scenario.when(mended, Act::Restore(Kind::Service, "web"))
        }
        3 if route == "web" => {
            let scenario = scenario.when(when, Act::Remove(Kind::HttpRoute, route));
            scenario.when(mended, Act::Restore(Kind::HttpRoute, route))
        }
        4 => scenario.harm(when, Act::Kill(rng.pick(&["1.0.0", "2.0.0"]), 9), traffic, HEALS),
        5 => {
            let turned = scenario.when(when, Act::Gateway(rng.pick(&[Manner::Mute, Manner::Behind, Manner::Rejects])));
            turned.when(mended, Act::Gateway(Manner::Honest))
        }
        6 => Scenario { keeps_pause: true, ..scenario.when(when, Act::image("9.9.9")) },
        7 => {
            let scale = Act::Edit(Kind::Deployment, "web", json!({"spec": {"replicas": 1 + rng.below(6)}}));
            Scenario { keeps_pin: true, ..scenario.harm(when, scale, &["R11", "pin", "end", "share"], HEALS) }
        }
        8 if route == "web" => scenario.when(when, Act::Change(Kind::HttpRoute, route, edits::add_rule)),
        9 => scenario.harm(when, Act::Doom, &[ALL], u64::from(u32::MAX)),
        _ => scenario.when(when, Act::Look),
    }
}

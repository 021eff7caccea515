//! docs/states.md: what the decision makes of every event in every state, asked of the decision itself.

use std::fmt::Write as _;

use aether_operator::api::{RollingUpdateStatus, State};
use aether_operator::rollout::model::Plan;
use aether_operator::rollout::transitions::{DEADLINES, EDGES, is_legal};
use serde_json::json;

use super::small_world::{Figures, Seen, figures, line, seen};

/// A state in the middle of its work, with all said that there is to say; 2.0.0 replaces 1.0.0.
pub fn in_the_middle_of(state: State) -> Seen {
    let seen = at_work(state);
    let said = if state.is_terminal() { Some(said_in(state)) } else { seen.plan().status };
    let status = said.filter(|s| s.state == state).map(|s| serde_json::to_value(s).unwrap());
    Seen { status, ..seen }
}

pub fn at_work(state: State) -> Seen {
    let at = seen(state.as_str());
    let over = Seen { new: None, services: false, weights: None, apex: "user", paused: false, ..at.clone() };
    match state {
        State::Pending => at,
        State::Deploying => Seen { new: Some(1), weights: None, ..at },
        State::Deployed => Seen { held: &[("in force", 3)], ..at },
        State::Routing => Seen { routing: "1:3", weights: Some((1, 3)), since: 30, held: &[("in force", 30)], ..at },
        State::Completing => Seen { routing: "1:0", apex: "new", weights: None, since: 12, held: &[("flipped", 5), ("restored", 5)], ..at },
        State::RollingBack => Seen { rollback: "RollbackOrdered", held: &[("drained", 5)], ..at },
        State::Completed => Seen { old: 0, retired: true, routing: "1:0", new: Some(2), ..over },
        State::RolledBack => Seen { rollback: "RollbackOrdered", ..over },
        State::Failed => Seen { rollback: "RefusedByApiServer", ..over },
    }
}

type Event = (&'static str, fn(Seen) -> Seen);

pub fn ordered(mut seen: Seen, control: &serde_json::Value) -> Seen {
    seen.spec["control"] = json!({"version": "2.0.0"});
    seen.spec["control"].as_object_mut().unwrap().extend(control.as_object().unwrap().clone());
    seen
}

/// What events of ROUTING begin with that are about an update judged by what is measured.
const BY_METRICS: &str = "judged by metrics";

/// An update that is judged by these figures, at the end of a step's interval.
fn measured(seen: Seen, figures: Figures, progression: &serde_json::Value) -> Seen {
    let spec = json!({"metrics": null, "progression": progression});
    Seen { spec, measured: Some(figures), since: 99, held: &[("in force", 99)], ..seen }
}

/// What may happen.
const EVENTS: [Event; 35] = [
    ("a restart of the operator", |s| Seen { held: &[], ..s }),
    ("`control.outcome: Rollback`", |s| ordered(s, &json!({"outcome": "Rollback"}))),
    ("`control.outcome: Complete` before x:0", |s| ordered(s, &json!({"outcome": "Complete"}))),
    ("`control.routing: \"3:1\"`, settled", |s| Seen { held: &[("in force", 99)], ..ordered(s, &json!({"routing": "3:1"})) }),
    ("`control.routing: \"0:1\"`", |s| ordered(s, &json!({"routing": "0:1"}))),
    ("`control.paused: true`", |s| ordered(s, &json!({"paused": true}))),
    ("orders for another version", |s| Seen { spec: json!({"control": {"version": "1.9.0", "outcome": "Rollback"}}), ..s }),
    ("`requireManualApproval`, step not approved, its time come", |s| Seen {
        spec: json!({"requireManualApproval": true}),
        since: 99,
        held: &[("in force", 99)],
        ..s
    }),
    ("the step's time has come", |s| Seen { since: 99, held: &[("in force", 99), ("ready", 99)], ..s }),
    ("judged by metrics: the step's time has come, and they cannot be read", |s| {
        measured(s, Figures { age: None, problem: "x", counting: false, new: (0, 0), old: (0, 0), slow: None }, &json!({}))
    }),
    ("judged by metrics: the step's time has come, and all is well", |s| measured(s, figures(0, 400), &json!({}))),
    ("judged by metrics: a breach is proven", |s| measured(s, figures(30, 400), &json!({}))),
    ("judged by metrics: a breach is on record, `onBreach: Rollback`", |s| {
        let said = json!({"decision": {"verdict": "Unhealthy", "reason": "ErrorRateBreached"}});
        Seen { said, ..measured(s, figures(30, 400), &json!({"onBreach": "Rollback"})) }
    }),
    ("`version: 3.0.0`", |s| Seen { spec: json!({"version": "3.0.0"}), ..s }),
    ("`version: 1.0.0`, the old one", |s| Seen { spec: json!({"version": "1.0.0"}), ..s }),
    ("`attempt: 2`", |s| Seen { spec: json!({"attempt": 2}), ..s }),
    ("the RollingUpdate is deleted", |s| Seen { deleting: true, ..s }),
    ("another RollingUpdate is at work on the workload", |s| Seen { rival: true, ..s }),
    ("deployDeadline is over", |s| Seen { since: 601, ..s }),
    ("no pod of the new version is ready", |s| Seen { new: s.new.map(|_| 0), ..s }),
    ("the new Deployment is deleted", |s| Seen { new: None, ..s }),
    ("the API server refuses the new Deployment", |s| if s.state == "DEPLOYING" { Seen { new: None, refused: true, ..s } } else { s }),
    ("the version Services are deleted", |s| Seen { services: false, ..s }),
    ("no pod of the old version is ready", |s| Seen { old_ready: false, ..s }),
    ("the apex Service is deleted", |s| Seen { service: false, ..s }),
    ("the apex's selector is the manifest's again", |s| Seen { apex: "user", ..s }),
    ("the workload is unpaused", |s| Seen { paused: false, ..s }),
    ("the workload's template is edited", |s| Seen { edited: true, ..s }),
    ("the workload is deleted", |s| Seen { workload: false, old: 0, ..s }),
    ("the route says again what its manifest says", |s| Seen { weights: None, ..s }),
    ("the route is deleted", |s| Seen { route: false, ..s }),
    ("an autoscaler sizes the workload", |s| Seen { autoscaler: true, ..s }),
    ("the gateway has not acknowledged the route", |s| Seen { acknowledged: 4, ..s }),
    ("the gateway refuses the route", |s| Seen { acknowledged: 0, ..s }),
    ("no gateway speaks for the route", |s| Seen { acknowledged: -1, ..s }),
];

/// (Ready, Reconciling, Stalled) as kstatus sums them up: the order is that of sigs.k8s.io/cli-utils.
pub fn kstatus(generation: i64, status: &RollingUpdateStatus) -> &'static str {
    let is = |name: &str| status.conditions.iter().find(|c| c.type_ == name).is_some_and(|c| c.status == "True");
    match status.observed_generation {
        Some(observed) if observed != generation => "InProgress",
        _ if is("Reconciling") => "InProgress",
        _ if is("Stalled") => "Failed",
        _ if is("Ready") || !status.conditions.iter().any(|c| c.type_ == "Ready") => "Current",
        _ => "InProgress",
    }
}

/// What is said when a state is entered, or in the middle of it.
pub fn said_in(state: State) -> RollingUpdateStatus {
    let begun = seen("ROLLING_BACK");
    let undone = Seen { new: None, services: false, weights: None, apex: "user", paused: false, ..begun };
    let seen = match state {
        State::Pending => Seen { workload: false, ..at_work(state) },
        State::Completed => Seen { state: "COMPLETING", ..at_work(state) },
        State::RolledBack => Seen { rollback: "RollbackOrdered", ..undone },
        State::Failed => Seen { rollback: "RefusedByApiServer", ..undone },
        _ => at_work(state),
    };
    seen.plan().status.unwrap_or_else(|| panic!("{state} says nothing"))
}

fn answer(status: &RollingUpdateStatus, name: &str) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == name);
    found.map_or_else(|| "-".to_owned(), |c| c.status.clone())
}

/// The whole page.
pub fn page() -> String {
    let mut page = String::from(
        "# States of a RollingUpdate\n\nGenerated from the operator's own decision and tables (`make generate`); a test fails when it is stale.\n\n\
         ## Edges\n\n| from | to | when |\n|---|---|---|\n",
    );
    let mut row = |text: String| writeln!(page, "{text}").unwrap();
    for (from, to, when) in EDGES {
        row(format!("| {from} | {to} | {when} |"));
    }
    row("\n## Deadlines\n\n| state | bounded by | then |\n|---|---|---|".to_owned());
    for (state, bound, then) in DEADLINES {
        row(format!("| {state} | {bound} | {then} |"));
    }
    row("\n## Conditions\n\nWhat tools go by in each state: `kubectl wait`, Helm's `--wait`, Flux and Argo CD (kstatus).\n".to_owned());
    row("| state | Ready | Reconciling | Stalled | NewVersionAvailable | TrafficShifted | OldVersionRemoved | kstatus |".to_owned());
    row("|---|---|---|---|---|---|---|---|".to_owned());
    for state in State::ALL {
        let status = said_in(state);
        let names = ["Ready", "Reconciling", "Stalled", "NewVersionAvailable", "TrafficShifted", "OldVersionRemoved"];
        let answers = names.map(|name| answer(&status, name)).join(" | ");
        row(format!("| {state} | {answers} | {} |", kstatus(5, &status)));
    }
    row("\n## Events\n\nWhat the next decision is when something has happened in the middle of a state: the writes in their order, then the\nstate and reason that are recorded, and other conditions that change. An update from 1.0.0 to 2.0.0 behind one route,\njudged by readiness where nothing else is said.".to_owned());
    for state in State::ALL {
        row(format!("\n### {state}\n\n| event | decision |\n|---|---|"));
        let before = in_the_middle_of(state);
        let plan = before.plan();
        let (usual, mut same) = (outcome(&before, &plan), Vec::new());
        // Figures change nothing in the others, so there is nothing to ask them.
        let asked = EVENTS.into_iter().filter(|(event, _)| state == State::Routing || !event.starts_with(BY_METRICS));
        for (event, happens) in asked {
            let plan = happens(before.clone()).plan();
            if let Some(status) = &plan.status {
                assert!(is_legal(state, status.state), "{state}, {event}: {} is no legal next state", status.state);
            }
            match outcome(&before, &plan) {
                outcome if outcome == usual => same.push(event),
                outcome => row(format!("| {event} | {} |", if outcome.is_empty() { "waits" } else { &outcome })),
            }
        }
        let usual = if usual.is_empty() { "nothing is to be done" } else { &usual };
        row(format!("\nOtherwise {usual}, and so after: {}.", same.join("; ")));
    }
    page
}

/// The plan in one line, with the conditions that it changes.
fn outcome(before: &Seen, plan: &Plan) -> String {
    let mut words = vec![line(plan)];
    let was: Option<RollingUpdateStatus> = before.status.clone().map(|s| serde_json::from_value(s).unwrap());
    let find = |status: &RollingUpdateStatus, name: &str| status.conditions.iter().find(|c| c.type_ == name).cloned();
    for name in ["OrderAccepted", "TemplateRolledOut", "AutoscalerFollows", "TrafficShifted"] {
        let Some(now) = plan.status.as_ref().and_then(|s| find(s, name)) else { continue };
        let changed =
            was.as_ref().and_then(|s| find(s, name)).is_none_or(|w| (w.status, w.reason) != (now.status.clone(), now.reason.clone()));
        if changed && was.is_some() {
            words.push(format!("{name}={} ({})", now.status, now.reason));
        }
    }
    words.retain(|w| !w.is_empty());
    words.join(", ")
}

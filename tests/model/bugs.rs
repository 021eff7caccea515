//! Planted bugs: each must be caught, by the invariant that is there for it.

use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::{Ratio, State, Time};
use aether_operator::cluster::facts::{Key, Kind, Meta};
use aether_operator::cluster::patch;
use aether_operator::rollout::model::{Action, Memory, Observation, Plan, Target, Write};
use aether_operator::traffic::apex::{self, Pin};
use aether_operator::traffic::gateway;
use json_patch::PatchOperation;
use serde_json::json;

use super::scenario::{Scenario, When};
use super::scenarios::{rollback_when, route_shapes};
use super::world::NS;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    NewPodsBeforeThePin,
    UnreadyPodsCountAsReady,
    RatioBeforeDeployed,
    RatioAgainstTheOrders,
    NoSettling,
    OneRouteToNobody,
    ForeignWeightsForgotten,
    OldVersionGoneInRouting,
    NoDrainOfTheOld,
    NoDrainOfTheNew,
    ServicesGoneBeforeTheRoutes,
    FlipBeforeAllTraffic,
    UnpinBeforeThePodsAreGone,
    UnpauseBeforeTheUnpin,
    RiseAfterTheRollback,
    StatusSkipsStates,
    StatusAheadOfTheWork,
    SpecWritten,
    OthersTouched,
    OthersDeleted,
    WriteThatChangesNothing,
    StatusWithoutNews,
    ServicesLeftBehind,
    AnnotationLeftBehind,
}

use Bug::*;

fn promotion() -> Scenario {
    Scenario::new("promotion")
}

fn rollback() -> Scenario {
    rollback_when("rollback", When::Routing("1:1", 1500))
}

fn with_foreign_backend() -> Scenario {
    promotion().routes(route_shapes()[1].1.clone())
}

fn broken() -> Scenario {
    Scenario { broken: ["2.0.0".to_owned()].into(), ..Scenario::new("never ready").rolled_back() }
}

fn held() -> Scenario {
    let held = Scenario::new("held for a while").orders(When::State(State::Deployed, 2500), json!({"routing": "0:1"}));
    held.orders(When::After(6000), json!({"approved": "1:9"})).orders(When::After(6000), json!({"routing": null}))
}

fn hurried() -> Scenario {
    let at_once = Scenario::new("one ratio after the other").orders(When::State(State::Deployed, 0), json!({"routing": "1:1"}));
    at_once.orders(When::Routing("1:1", 0), json!({"routing": "3:1"})).orders(When::Routing("3:1", 0), json!({"routing": null}))
}

/// A bug, the invariant that catches it, and the scenario in which it does.
type Planted = (Bug, &'static str, fn() -> Scenario);

/// Every planted bug.
pub const TABLE: [Planted; 24] = [
    (NewPodsBeforeThePin, "R11", promotion),
    (UnreadyPodsCountAsReady, "R1", broken),
    (RatioBeforeDeployed, "R4", promotion),
    (RatioAgainstTheOrders, "R4", held),
    (NoSettling, "settle", hurried),
    (OneRouteToNobody, "R10", promotion),
    (ForeignWeightsForgotten, "foreign share", with_foreign_backend),
    (OldVersionGoneInRouting, "R2", promotion),
    (NoDrainOfTheOld, "drain", promotion),
    (NoDrainOfTheNew, "drain", rollback),
    (ServicesGoneBeforeTheRoutes, "R1", promotion),
    (FlipBeforeAllTraffic, "flip", promotion),
    (UnpinBeforeThePodsAreGone, "pin", rollback),
    (UnpauseBeforeTheUnpin, "T3", promotion),
    (RiseAfterTheRollback, "R3", rollback),
    (StatusSkipsStates, "R5", promotion),
    (StatusAheadOfTheWork, "end", promotion),
    (SpecWritten, "R8", promotion),
    (OthersTouched, "R6", promotion),
    (OthersDeleted, "R6", promotion),
    (WriteThatChangesNothing, "no-op", promotion),
    (StatusWithoutNews, "rest", promotion),
    (ServicesLeftBehind, "T3", promotion),
    (AnnotationLeftBehind, "leftovers", rollback),
];

fn patch_of(kind: Kind, meta: &Meta, ops: Vec<PatchOperation>) -> Action {
    Action { why: "a planted bug", write: Write::Patch(Target { kind, key: meta.key() }, ops), live: Vec::new(), regardless: false }
}

fn is_delete_services(action: &Action) -> bool {
    matches!(action.write, Write::DeleteServices { .. })
}

impl Bug {
    /// Before the decision: what is believed.
    pub fn before(self, obs: &mut Observation, memory: &mut Memory) {
        let mut forget = |facts: &[&'static str]| memory.since.extend(facts.iter().map(|f| (*f, Time::UNIX_EPOCH)));
        match self {
            NoSettling => forget(&["in force"]),
            NoDrainOfTheOld => forget(&["flipped", "restored"]),
            NoDrainOfTheNew => forget(&["drained", "restored"]),
            NewPodsBeforeThePin if obs.status.state == State::Deploying => {
                if let (Some(apex), Some(pin)) = (&mut obs.apex, &obs.old.pin) {
                    let apex = Arc::make_mut(apex);
                    apex.selector = apex::pinned_selector(apex, pin);
                }
            }
            UnreadyPodsCountAsReady => {
                if let Some(deployment) = &mut obs.new.deployment {
                    let deployment = Arc::make_mut(deployment);
                    deployment.available = deployment.replicas;
                }
                obs.new.endpoints.ready = obs.new.pods.iter().map(|p| p.meta.name.clone()).collect();
            }
            _ => {}
        }
    }

    /// After it: what is done.
    pub fn after(self, obs: &Observation, plan: &mut Plan, now: Time) {
        let state = obs.status.state;
        let new_pin = Pin { key: "aether.dev/revision", value: obs.objects.new_revision.clone() };
        match self {
            RatioBeforeDeployed if state == State::Deploying && !obs.new.endpoints.ready.is_empty() => shift(obs, plan, Ratio::ALL_NEW),
            RatioAgainstTheOrders if obs.wish.as_ref().is_ok_and(|w| w.orders.approved.is_some() && w.orders.routing.is_some()) => {
                shift(obs, plan, Ratio::new(1, 1).unwrap());
            }
            RiseAfterTheRollback if state == State::RollingBack && plan.actions.is_empty() => shift(obs, plan, Ratio::new(1, 3).unwrap()),
            OneRouteToNobody if state == State::Routing => {
                let nothing =
                    ["/spec/rules/0/backendRefs/0/weight", "/spec/rules/0/backendRefs/1/weight"].map(|at| patch::replace(at, json!(0)));
                plan.actions.push(patch_of(Kind::HttpRoute, &obs.routes[0].meta, nothing.to_vec()));
            }
            ForeignWeightsForgotten => {
                for action in &mut plan.actions {
                    if let Write::Patch(_, ops) = &mut action.write {
                        ops.retain(
                            |op| !matches!(op, PatchOperation::Replace(r) if r.path.as_str() == "/spec/rules/1/backendRefs/2/weight"),
                        );
                    }
                }
            }
            OldVersionGoneInRouting if state == State::Routing => {
                let ops = vec![patch::replace("/spec/replicas", json!(0))];
                plan.actions.push(patch_of(Kind::Deployment, &obs.workload.as_ref().unwrap().meta, ops));
            }
            ServicesGoneBeforeTheRoutes if state == State::Routing => {
                let services = obs.version_services().map(|s| (s.meta.name.clone(), s.meta.uid.clone())).collect();
                let write = Write::DeleteServices { owner: obs.owner(), services };
                plan.actions.insert(0, Action { why: "a planted bug", write, live: Vec::new(), regardless: false });
            }
            FlipBeforeAllTraffic if state == State::Routing => {
                let apex = obs.apex.as_ref().unwrap();
                plan.actions.insert(0, patch_of(Kind::Service, &apex.meta, apex::pin(apex, &new_pin)));
            }
            UnpinBeforeThePodsAreGone if state == State::RollingBack && !obs.new.pods.is_empty() => {
                let apex = obs.apex.as_ref().unwrap();
                plan.actions.push(patch_of(Kind::Service, &apex.meta, apex::unpin(apex)));
            }
            UnpauseBeforeTheUnpin if state == State::Routing => {
                plan.actions.push(patch_of(Kind::Deployment, &obs.workload.as_ref().unwrap().meta, vec![patch::remove("/spec/paused")]));
            }
            StatusSkipsStates => {
                if let Some(status) = plan.status.as_mut().filter(|s| s.state == State::Routing) {
                    status.state = State::Completed;
                }
            }
            StatusAheadOfTheWork => {
                if let Some(status) = plan.status.as_mut().filter(|_| state == State::Completing) {
                    status.state = State::Completed;
                } else if state == State::Completing {
                    let mut status = obs.status.clone();
                    status.state = State::Completed;
                    plan.status = Some(status);
                }
            }
            SpecWritten if state == State::Routing => {
                plan.actions.push(patch_of(Kind::RollingUpdate, &obs.meta, vec![patch::add("/spec/instances", json!(7))]));
            }
            OthersTouched if state == State::Deploying => {
                let target = Target { kind: Kind::Service, key: Key::new(NS, "other") };
                plan.actions.push(Action {
                    why: "a planted bug",
                    write: Write::Patch(target, vec![patch::add("/spec/type", json!("NodePort"))]),
                    live: Vec::new(),
                    regardless: false,
                });
            }
            OthersDeleted if state == State::RolledBack || state == State::Completed => {
                let workload = obs.workload.as_ref().unwrap();
                let target = Target { kind: Kind::Deployment, key: workload.meta.key() };
                plan.actions.push(Action {
                    why: "a planted bug",
                    write: Write::Delete(target, workload.meta.uid.clone()),
                    live: Vec::new(),
                    regardless: false,
                });
            }
            WriteThatChangesNothing if state == State::Deployed => {
                let apex = obs.apex.as_ref().unwrap();
                plan.actions.push(patch_of(Kind::Service, &apex.meta, vec![patch::replace("/spec/selector", json!(apex.selector))]));
            }
            StatusWithoutNews => {
                let mut status = plan.status.clone().unwrap_or_else(|| obs.status.clone());
                status.updated_at = Some(status.updated_at.unwrap_or(now) + Duration::from_millis(1));
                plan.status = Some(status);
            }
            ServicesLeftBehind => plan.actions.retain(|a| !is_delete_services(a)),
            AnnotationLeftBehind => {
                for action in &mut plan.actions {
                    if let Write::Patch(_, ops) = &mut action.write {
                        ops.retain(|op| !matches!(op, PatchOperation::Remove(r) if r.path.as_str().ends_with("paused-template")));
                    }
                }
            }
            _ => {}
        }
    }
}

fn shift(obs: &Observation, plan: &mut Plan, ratio: Ratio) {
    for route in &obs.routes {
        if let Ok(Some(ops)) = gateway::shift(route, obs.names(), ratio) {
            plan.actions.push(patch_of(Kind::HttpRoute, &route.meta, ops));
        }
    }
}

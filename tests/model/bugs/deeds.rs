//! Bugs in what is done after a decision.

use std::time::Duration;

use aether_operator::api::{Ratio, State, Time};
use aether_operator::cluster::facts::{Key, Kind, Meta};
use aether_operator::cluster::patch;
use aether_operator::rollout::build::is_as_paused;
use aether_operator::rollout::model::{Action, LiveCheck, Observation, Plan, Target, Write};
use aether_operator::traffic::apex::{self, Pin};
use aether_operator::traffic::{gateway, pods};
use json_patch::PatchOperation;
use serde_json::json;

use super::Bug::{self, *};
use crate::world::NS;

fn patch_of(kind: Kind, meta: &Meta, ops: Vec<PatchOperation>) -> Action {
    Action { why: "a planted bug", write: Write::Patch(Target { kind, key: meta.key() }, ops), live: Vec::new(), regardless: false }
}

fn is_delete_services(action: &Action) -> bool {
    matches!(action.write, Write::DeleteServices { .. })
}

impl Bug {
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
            MorePodsThanAsked if state == State::Routing && obs.status.state_since.is_some_and(|s| s + Duration::from_secs(9) < now) => {
                let revision = &obs.objects.new_revision;
                for pod in obs.new.pods.iter().filter(|p| p.ready && !pods::serves(p, revision)) {
                    plan.actions.push(patch_of(Kind::Pod, &pod.meta, pods::enlist(pod, revision)));
                }
            }
            UnpinWithBothVersionsInService if state == State::Routing => {
                let apex = obs.apex.as_ref().unwrap();
                plan.actions.push(patch_of(Kind::Service, &apex.meta, apex::unpin(apex)));
            }
            SupersededGoneUndrained if state == State::RollingBack && plan.actions.is_empty() => {
                if let Some(deployment) = obs.new_deployment().filter(|d| !d.meta.deleting) {
                    let write = Write::Delete(Target::of(Kind::Deployment, &deployment.meta), deployment.meta.uid.clone());
                    plan.actions.push(Action { why: "a planted bug", write, live: Vec::new(), regardless: false });
                }
            }
            BornTooSmall => {
                for action in &mut plan.actions {
                    if let Write::Create(Target { kind: Kind::Deployment, .. }, object) = &mut action.write {
                        object["spec"]["replicas"] = json!(1);
                    }
                }
            }
            AdoptionLetsGo if state == State::Completed => {
                if let Some(workload) = obs.workload.as_ref().filter(|w| w.paused && !is_as_paused(w)) {
                    plan.actions.push(patch_of(Kind::Deployment, &workload.meta, vec![patch::remove("/spec/paused")]));
                }
            }
            NothingCalledLive if state == State::Completing && obs.new_deployment().is_none() => {
                let mut status = obs.status.clone();
                status.state = State::Completed;
                plan.status = Some(status);
            }
            // What is believed of the pin is not looked at again either.
            NewPodsBeforeThePin | PinGoneUnnoticed => {
                for action in &mut plan.actions {
                    action.live.retain(|check| !matches!(check, LiveCheck::Selector(..)));
                }
            }
            HeldUpWritesGoThrough => {
                for action in &mut plan.actions {
                    if let Write::Patch(Target { kind: Kind::HttpRoute, .. }, ops) = &mut action.write {
                        ops.retain(|op| !matches!(op, PatchOperation::Replace(r) if r.path.as_str() == "/metadata/resourceVersion"));
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

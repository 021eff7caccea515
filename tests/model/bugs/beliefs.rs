//! Bugs in what is believed before a decision.

use std::sync::Arc;

use aether_operator::api::{Ratio, State, Time};
use aether_operator::rollout::model::{Memory, Observation};
use aether_operator::traffic::{apex, pods};

use super::Bug::{self, *};

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
            LabelsCountAsEndpoints => {
                let revision = &obs.objects.new_revision;
                let labelled = obs.old.pods.iter().chain(&obs.new.pods).filter(|p| p.ready && pods::serves(p, revision));
                obs.apex_endpoints.ready.extend(labelled.map(|p| p.meta.name.clone()));
            }
            ServingKeyLeftInTheReplicaSet if matches!(obs.status.state, State::Completing | State::RollingBack) => {
                obs.old.edited.clear();
            }
            FightsForEver => obs.status.interference.clear(),
            PinGoneUnnoticed if obs.status.state.is_active() => {
                if let (Some(apex), Some(pin)) = (&mut obs.apex, &obs.old.pin) {
                    let apex = Arc::make_mut(apex);
                    if !apex::is_pinned(apex) {
                        apex.selector = apex::pinned_selector(apex, pin);
                    }
                }
            }
            PauseGoneUnnoticed if obs.status.state == State::RollingBack => {
                if let Some(workload) = &mut obs.workload {
                    Arc::make_mut(workload).paused = true;
                }
            }
            AttemptIgnored => {
                if let (Ok(wish), Some(attempt)) = (&mut obs.wish, obs.status.attempt) {
                    wish.attempt = attempt;
                }
            }
            OrderForAnotherVersionFollowed => {
                if let Ok(wish) = &mut obs.wish {
                    wish.orders.routing = wish.orders.for_other.is_some().then(|| Ratio::ALL_NEW.into());
                }
            }
            OneApprovalForEveryStep => {
                if let Ok(wish) = &mut obs.wish {
                    wish.orders.approved = wish.orders.approved.is_some().then(|| Ratio::ALL_NEW.into());
                }
            }
            ErrorsOverlooked => {
                if let Some(measured) = &mut obs.measured {
                    Arc::make_mut(measured).evidence.steps.iter_mut().for_each(|window| window.new.errors = 0);
                }
            }
            GatewayTakenForGranted => {
                for route in &mut obs.routes {
                    let route = Arc::make_mut(route);
                    let generation = route.meta.generation;
                    route.statuses.iter_mut().flat_map(|s| &mut s.conditions).for_each(|c| c.observed_generation = generation);
                }
            }
            _ => {}
        }
    }
}

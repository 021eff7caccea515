//! PENDING: nothing is touched until everything is known to be in order.

use std::time::Duration;

use crate::api::rolling_update::{Objects, Outcome, Transition};
use crate::api::{RollingUpdateStatus, State};
use crate::cluster::facts::Kind;
use crate::traffic::gate::{self, Gate};
use crate::traffic::{apex, gateway};

use super::{completing, fence, resting, rolling_back};
use crate::rollout::build;
use crate::rollout::decide::{Turn, other_version};
use crate::rollout::model::{LiveCheck, Observation};
use crate::rollout::status::{Saying, wanted_by};
use crate::rollout::wish::Wish;

/// Why an update waits, in a word and in a sentence that says what to do.
struct Hold(&'static str, String);

/// Starts the wanted version, or says what keeps it from starting.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    let again = turn.obs.status.state.is_terminal();
    if again {
        begin_anew(turn);
    }
    turn.status.new_version = Some(wish.version.clone());
    turn.status.attempt = Some(wish.attempt);
    if again && (wish.orders.outcome == Some(Outcome::Rollback) || already_live(turn.obs, wish).is_some()) {
        turn.say(Saying::new(State::Pending, "NewVersionWanted", format!("version {} is wanted", wish.version)));
        return;
    }
    if wish.orders.outcome == Some(Outcome::Rollback) {
        turn.status.objects = Some(turn.obs.objects.clone());
        let message = "spec.control.outcome is Rollback; nothing was touched";
        turn.say(Saying { by: "spec.control", ..Saying::new(State::RollingBack, "RollbackOrdered", message) });
        return;
    }
    if let Some(version) = already_live(turn.obs, wish)
        && let Err(Hold(reason, message)) = alone(turn.obs, wish).and_then(|()| stable(turn.obs, &turn.obs.objects.old_revision))
    {
        turn.say(Saying::new(State::Pending, reason, format!("version {version} is said to be live, but {message}")));
        return;
    }
    if let Some(version) = already_live(turn.obs, wish) {
        take_over(turn, wish, &version);
        return;
    }
    match preconditions(turn.obs, wish) {
        Err(Hold(reason, message)) => {
            let state = State::Pending;
            turn.say(Saying { refused_order: other_version(wish), ..Saying::new(state, reason, message) });
            // Watches wake us for every object named here; this is for what no watch shows.
            turn.wake_after(Duration::from_mins(1));
        }
        Ok(_) if turn.hold_on() => turn.status = turn.obs.status.clone(),
        Ok((objects, instances)) => {
            fence::turn_forward(turn);
            if turn.acts() {
                turn.status = turn.obs.status.clone();
                return;
            }
            turn.starts();
            // A process that has just begun may not know yet that the workload is rolling out by itself: what was not
            // held in time must not be held in the middle.
            turn.say_if(turn.obs.workload.iter().map(|w| LiveCheck::unchanged(Kind::Deployment, &w.meta)).collect());
            turn.status.old_version = turn.obs.live.as_ref().ok().map(|l| l.version.clone());
            turn.status.objects = Some(objects);
            turn.status.new_instances = Some(instances);
            turn.status.old_instances = Some(turn.obs.old.wanted());
            turn.status.routing = Some("0:1".into());
            turn.status.effective_routing = Some("0:1".into());
            let message = format!("bringing out {instances} pods of version {} at 0 % traffic", wish.version);
            let refused_order = other_version(wish);
            turn.say(Saying { by: "spec.version", refused_order, ..Saying::new(State::Deploying, "Deploying", message) });
        }
    }
}

/// The wanted version is live: nothing is brought out, and from now on it is taken care of.
fn take_over(turn: &mut Turn<'_>, wish: &Wish, version: &str) {
    let obs = turn.obs;
    if turn.hold_on() {
        turn.status = obs.status.clone();
        return;
    }
    let workload = obs.workload.as_ref().filter(|_| obs.old_is_workload());
    if let Some(workload) = workload.filter(|w| !w.paused || !resting::is_adopted(obs)) {
        resting::adopt(turn, workload, version);
    }
    completing::release_apex(turn, obs.old.pin.as_ref(), workload.is_some());
    rolling_back::release_old_revision(turn);
    turn.status.objects =
        Some(Objects { new_revision: obs.objects.old_revision.clone(), old_service: String::new(), ..obs.objects.clone() });
    turn.status.new_instances = Some(obs.old.wanted());
    turn.status.old_version = Some(version.to_owned());
    turn.status.routing = None;
    let message = format!("version {version} carries the traffic already");
    turn.say(Saying { refused_order: other_version(wish), ..Saying::new(State::Completed, "AlreadyLive", message) });
}

/// The record of the last release makes room; its history stays, with the step to PENDING in it.
fn begin_anew(turn: &mut Turn<'_>) {
    let old = std::mem::take(&mut turn.status);
    let by = wanted_by(&turn.obs.meta, "spec.version");
    let step = Transition { at: turn.now, from: old.state, to: State::Pending, reason: "NewVersionWanted".into(), by };
    turn.status = RollingUpdateStatus {
        history: old.history,
        // A fight goes on over releases.
        interference: old.interference,
        conditions: old.conditions,
        ready_instances: old.ready_instances,
        ready: old.ready,
        selector: old.selector,
        state_since: Some(turn.now),
        ..RollingUpdateStatus::default()
    };
    turn.status.history.push(step);
}

/// The version that is live, if it is the one that is wanted and no further attempt at it is.
fn already_live(obs: &Observation, wish: &Wish) -> Option<String> {
    let live = obs.live.as_ref().ok()?;
    let raised = match obs.status.attempt {
        Some(last) if obs.status.new_version.as_deref() == Some(&wish.version) => wish.attempt != last,
        _ => wish.attempt > 1,
    };
    (live.version == wish.version && !raised).then(|| live.version.clone())
}

/// Checks all that must hold before the first write; the order is the order a person would look in.
fn preconditions(obs: &Observation, wish: &Wish) -> Result<(Objects, i32), Hold> {
    let namespace = &obs.meta.namespace;
    if wish.orders.paused {
        return Err(Hold("Paused", "spec.control.paused is true".into()));
    }
    let Some(workload) = &obs.workload else {
        return Err(Hold(
            "WorkloadNotFound",
            format!("there is no Deployment {} in namespace {namespace}; create it or set spec.workload.name", wish.workload),
        ));
    };
    if let Err(e) = build::template_version(workload, wish.container.as_deref()) {
        return Err(Hold("ContainerNotFound", e.to_string()));
    }
    let Some(apex) = &obs.apex else {
        return Err(Hold(
            "ServiceNotFound",
            format!("there is no Service {} in namespace {namespace}; create it or set spec.traffic.service", wish.service),
        ));
    };
    let selector = apex::users_selector(apex);
    let template = build::template(workload);
    let carries = |(key, value): (&String, &String)| {
        template.pointer("/metadata/labels").and_then(|l| l.get(key)).and_then(serde_json::Value::as_str) == Some(value)
    };
    if selector.is_empty() || !selector.iter().all(carries) {
        return Err(Hold(
            "ServiceDoesNotSelectWorkload",
            format!(
                "the selector of Service {} does not match the pods of Deployment {}; correct one of them or set spec.traffic.service",
                wish.service, wish.workload
            ),
        ));
    }
    routes(obs, wish)?;
    alone(obs, wish)?;
    let live = obs.live.as_ref().map_err(|e| Hold("LiveVersionUnknown", e.clone()))?;
    stable(obs, &live.revision)?;
    let instances = wish.instances.unwrap_or_else(|| obs.old.wanted());
    let routes = obs.routes.iter().map(|r| r.meta.name.clone()).collect();
    Ok((Objects { routes, ..obs.objects.clone() }, instances))
}

fn alone(obs: &Observation, wish: &Wish) -> Result<(), Hold> {
    let Some(rival) = &obs.rival else { return Ok(()) };
    let message = format!("RollingUpdate {rival} is at work on Deployment {}; this one starts when that one has ended", wish.workload);
    Err(Hold("AnotherUpdateActive", message))
}

fn routes(obs: &Observation, wish: &Wish) -> Result<(), Hold> {
    let namespace = &obs.meta.namespace;
    let not_found = |message: String| Err(Hold("RouteNotFound", message));
    if obs.by_pods() {
        return Ok(());
    }
    if let Some(missing) = obs.missing_routes.first() {
        return not_found(format!(
            "there is no HTTPRoute {missing} in namespace {namespace}; create it or correct spec.traffic.httpRoutes"
        ));
    }
    let named = |r: &&std::sync::Arc<crate::cluster::facts::HttpRoute>| gateway::names_service(r, &wish.service);
    if let Some(stranger) = obs.routes.iter().find(|r| !named(r)) {
        return not_found(format!(
            "no rule of HTTPRoute {} names Service {}; add it as a backend or correct spec.traffic",
            stranger.meta.name, wish.service
        ));
    }
    if obs.routes.is_empty() {
        return not_found(format!(
            "no HTTPRoute of namespace {namespace} names Service {}; create one or use spec.traffic.mode: Pods",
            wish.service
        ));
    }
    let ratios: Vec<_> = wish.steps.iter().chain(&wish.orders.routing).map(|asked| asked.ratio).collect();
    for route in &obs.routes {
        gateway::check(route, obs.names(), &ratios).map_err(|e| Hold("RouteUnsuitable", e.to_string()))?;
    }
    match gate::of_all(obs.routes.iter().map(AsRef::as_ref)) {
        Gate::Refused(why) | Gate::Mute(why) => Err(Hold("RouteNotAccepted", why)),
        Gate::Confirmed | Gate::Silent(_) => Ok(()),
    }
}

/// The live version must be whole and alone behind the apex, so that the pin changes nothing.
fn stable(obs: &Observation, revision: &str) -> Result<(), Hold> {
    let unstable = |message: String| Err(Hold("WorkloadNotStable", message));
    let Some(deployment) = &obs.old.deployment else {
        return unstable(format!("Deployment {revision}, recorded as live, does not exist"));
    };
    let d = deployment;
    let whole = d.available >= d.replicas && d.total == d.replicas;
    // While we hold it, its pods are rightly of another template than the one it has now.
    let rolled_out = obs.holds_workload() || d.updated == d.total;
    if d.observed_generation < d.meta.generation || !whole || !rolled_out {
        return unstable(format!(
            "Deployment {revision} is in the middle of a rollout of its own ({} pods wanted, {} there, {} of its present template, {} available); \
             wait for it, resume it or undo it",
            d.replicas, d.total, d.updated, d.available
        ));
    }
    if d.replicas < 1 {
        return unstable(format!(
            "Deployment {revision} has no pods; scale it up first, or just apply the new image: there is no traffic to keep"
        ));
    }
    if obs.old.pin.is_none() {
        return unstable(format!("Deployment {revision} has pods of more than one ReplicaSet; wait for its rollout"));
    }
    let mine = obs.old.pod_names();
    if let Some(stranger) = obs.apex_endpoints.ready.iter().find(|p| !mine.contains(p.as_str())) {
        return unstable(format!(
            "Service {} also sends traffic to pod {stranger}, which is not of Deployment {revision}; narrow its selector or remove that pod",
            obs.objects.service
        ));
    }
    if obs.apex_endpoints.ready.is_empty() {
        return unstable(format!("Service {} has no ready endpoint", obs.objects.service));
    }
    Ok(())
}

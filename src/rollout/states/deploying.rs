//! DEPLOYING: the new version is made ready at 0 % traffic, each step only when what it stands on is seen.

use json_patch::PatchOperation;
use serde_json::json;

use crate::api::{Ratio, State, names};
use crate::cluster::facts::{Deployment, Kind, Service};
use crate::cluster::patch;
use crate::traffic::apex::{self, Pin};
use crate::traffic::gate::{self, Gate};
use crate::traffic::{gateway, pods};

use super::shifting::{self, refused_order};
use super::{Wait, rolling_back, shut, sizing};
use crate::rollout::build;
use crate::rollout::decide::{Cause, Turn, shifted_to};
use crate::rollout::model::{LiveCheck, Observation, Target, Write, count};
use crate::rollout::status::{Saying, state_word};
use crate::rollout::wish::Wish;

/// Held while nothing is wrong and only time must pass: a deadline that went by while the operator was away
/// must not end an update that is as good as deployed.
const ALMOST: &str = "almost deployed";

/// Does the next thing, or says what is waited for.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    let since = obs.status.state_since.unwrap_or(turn.now);
    let deadline = since + wish.deploy_deadline;
    // From the first new pod on, a pause or a pin that is not there was taken away.
    if obs.new_deployment().is_some()
        && let Some(fight) = shifting::stand_firm(turn, wish)
    {
        rolling_back::begin(turn, wish, &fight);
        return;
    }
    let wait = if turn.acts() {
        Some(Wait(state_word(State::Deploying), "putting back what the new version stands on".to_owned()))
    } else {
        deploy(turn, wish)
    };
    let goes_on = turn.is_held(ALMOST) || (turn.acts() && turn.memory.denied.is_none());
    if let Some(Wait(_, why)) = wait.as_ref().filter(|_| !goes_on)
        && turn.is_past(deadline)
    {
        turn.abandon();
        let why = turn.memory.denied.as_ref().unwrap_or(why);
        let message = format!("not ready after {}: {why}", crate::api::duration::print(wish.deploy_deadline));
        rolling_back::begin(turn, wish, &Cause { reason: "DeployDeadlineExceeded", message, by: "operator" });
        return;
    }
    let saying = match wait {
        Some(wait) => {
            let shifted = wait.of_gateway();
            let Wait(reason, message) = wait;
            let saying = Saying::new(State::Deploying, reason, message);
            Saying { shifted: shifted.unwrap_or_else(|| saying.shifted.clone()), ..saying }
        }
        None => Saying {
            shifted: shifted_to("0:1"),
            ..Saying::new(State::Deployed, "Deployed", "the new version is ready and gets 0 % of the traffic")
        },
    };
    turn.say(Saying { refused_order: refused_order(wish, obs), ..saying });
}

/// Does the next thing that deploying needs. `None`: all of it is done.
fn deploy(turn: &mut Turn<'_>, wish: &Wish) -> Option<Wait> {
    let obs = turn.obs;
    let busy = |message: &str| Some(Wait(state_word(State::Deploying), message.to_owned()));
    let (Some(workload), Some(apex)) = (&obs.workload, &obs.apex) else {
        return Some(Wait(
            "WorkloadOrServiceGone",
            format!("Deployment {} or Service {} does not exist any more; create it again", obs.objects.workload, obs.objects.service),
        ));
    };
    if obs.old_is_workload() {
        if !workload.paused {
            pause(turn, workload);
            return busy("holding the workload still");
        }
        if workload.observed_generation < workload.meta.generation {
            return busy("waiting for the Deployment controller");
        }
    }
    let Some(old_pin) = &obs.old.pin else {
        return Some(Wait(
            "WorkloadNotStable",
            format!("Deployment {} has pods of more than one ReplicaSet; wait for its rollout", obs.objects.old_revision),
        ));
    };
    if !apex::is_pinned_to(apex, old_pin) {
        // Pods of the new version are there when somebody takes the pin away.
        let known = |pod: &str| obs.old.pod_names().contains(pod) || obs.new.pod_names().contains(pod);
        if let Some(stranger) = obs.apex_endpoints.ready.iter().find(|p| !known(p)) {
            return Some(Wait(
                "WorkloadNotStable",
                format!("Service {} also sends traffic to pod {stranger}, which is of neither version", apex.meta.name),
            ));
        }
        pin_to_old(turn, apex, old_pin);
    }
    hold_old_revision(turn);
    sizing::grow(turn, wish);
    create_missing(turn, wish, workload, old_pin);
    if turn.acts() {
        return busy("creating the new version");
    }
    let instances = obs.instances();
    if let Some(problem) = not_ready(obs, instances) {
        return Some(problem);
    }
    if !turn.held_for("ready", wish.settle) {
        turn.held(ALMOST);
        return busy("the new version is ready; giving the data plane time to know its Services");
    }
    if obs.routes.is_empty() && !obs.by_pods() {
        return Some(Wait("RouteNotFound", format!("no HTTPRoute names Service {} any more; create it again", apex.meta.name)));
    }
    for route in &obs.routes {
        match gateway::shift(route, obs.names(), Ratio::ALL_OLD) {
            Ok(None) => {}
            Ok(Some(mut ops)) => {
                // The route may say the same again when all is over: a write that was held up must not go through.
                ops.push(patch::only_at(&route.meta));
                turn.patch("the route names both versions, the new one at 0 %", Kind::HttpRoute, &route.meta, ops);
            }
            Err(e) => return Some(Wait("RouteUnsuitable", e.to_string())),
        }
    }
    if turn.acts() {
        return busy("splitting the routes");
    }
    let gate = gate::of_all(obs.routes.iter().map(AsRef::as_ref));
    if gate == Gate::Confirmed {
        return None;
    }
    shut(turn, &gate).or_else(|| {
        turn.held(ALMOST);
        busy("waiting for the gateway")
    })
}

/// Never when the workload has been let go since: the Service would name the hash of pods that may be replaced.
pub fn pin_to_old(turn: &mut Turn<'_>, apex: &Service, old_pin: &Pin) {
    let write = Write::Patch(Target::of(Kind::Service, &apex.meta), apex::pin(apex, old_pin));
    let live = vec![turn.still_wanted()];
    turn.act_if("callers of the Service stay on the old version", write, live);
}

/// Pauses the workload at exactly the version that was looked at, and writes down what that was. Where somebody has
/// unpaused it since, what was written down stays true.
fn pause(turn: &mut Turn<'_>, workload: &Deployment) {
    let live = turn.obs.status.old_version.clone().unwrap_or_default();
    let again = turn.obs.new.deployment.is_some();
    let ops = if again { pause_only(workload) } else { pause_ops(workload, &live) };
    turn.patch("an edit of the template must not replace the pods that carry the traffic", Kind::Deployment, &workload.meta, ops);
}

/// Pauses a workload that runs that version.
pub fn pause_ops(workload: &Deployment, live: &str) -> Vec<PatchOperation> {
    let notes = [
        (names::PAUSED_TEMPLATE, build::template_hash(workload)),
        (names::LIVE, live.to_owned()),
        (names::LIVE_REVISION, workload.meta.name.clone()),
    ];
    let mut ops = pause_only(workload);
    ops.extend(patch::annotate(&workload.meta, &notes));
    ops
}

/// Pauses it again; what was written down at the first time stays true.
pub fn pause_only(workload: &Deployment) -> Vec<PatchOperation> {
    vec![patch::only_at(&workload.meta), patch::add("/spec/paused", json!(true))]
}

/// In Pods mode the old version's ReplicaSet is edited, which a Deployment of ours leaves alone only while it is paused.
fn hold_old_revision(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    if let Some(old) = obs.old.deployment.as_ref().filter(|d| obs.by_pods() && !obs.old_is_workload() && !d.paused) {
        turn.patch("its pods stay what they are", Kind::Deployment, &old.meta, pause_only(old));
    }
}

fn create_missing(turn: &mut Turn<'_>, wish: &Wish, workload: &Deployment, old_pin: &Pin) {
    let obs = turn.obs;
    let name = &obs.objects.new_revision;
    match &obs.new.deployment {
        None => {
            if let Ok(object) = build::deployment(workload, wish, &obs.owner(), name, turn.status.new_instances.unwrap_or(1)) {
                // No pod of it may come behind a Service that somebody who is gone has given back since.
                let pinned = obs.apex.iter().map(|apex| LiveCheck::Selector(apex.meta.key(), apex::pinned_selector(apex, old_pin)));
                turn.create("the new version's pods", Kind::Deployment, name, object, pinned.collect());
            }
        }
        Some(_) => rebuild(turn, wish, workload),
    }
    create_missing_services(turn, wish, old_pin);
}

/// The user has edited the template since, as a commit does that changes version and template and arrives in two parts.
/// The new version has had no traffic yet, so it becomes what it would have been.
fn rebuild(turn: &mut Turn<'_>, wish: &Wish, workload: &Deployment) {
    let Some(deployment) = turn.obs.new_deployment() else { return };
    let Ok(template) = build::revision_template(workload, wish, &deployment.meta.name) else { return };
    let hash = build::short_hash(&template.to_string());
    if deployment.meta.annotations.get(names::BUILT_FROM).is_none_or(|h| *h == hash) {
        return;
    }
    let ops = vec![
        patch::test("/metadata/uid", json!(deployment.meta.uid)),
        patch::replace("/spec/template", template),
        patch::add(&patch::annotation(names::BUILT_FROM), json!(hash)),
    ];
    turn.patch("the template was edited before the new version was out", Kind::Deployment, &deployment.meta, ops);
}

/// The version Services, those that are not there.
pub fn create_missing_services(turn: &mut Turn<'_>, wish: &Wish, old_pin: &Pin) {
    let obs = turn.obs;
    let (Some(apex), owner) = (&obs.apex, obs.owner()) else { return };
    if obs.old.service.is_none() && !obs.by_pods() {
        let version = obs.status.old_version.clone().unwrap_or_default();
        let object = build::version_service(apex, wish, &owner, &obs.objects.old_service, &version, old_pin);
        turn.create("the old version's Service", Kind::Service, &obs.objects.old_service, object, Vec::new());
    }
    if obs.new.service.is_none() {
        let name = &obs.objects.new_revision;
        let version = obs.status.new_version.clone().unwrap_or_default();
        let pin = if obs.by_pods() { pods::serving(name) } else { Pin { key: names::REVISION, value: name.clone() } };
        let object = build::version_service(apex, wish, &owner, name, &version, &pin);
        turn.create("the new version's Service", Kind::Service, name, object, Vec::new());
    }
}

/// Why the new version is not ready, with the pod's name; and both Services must show their pods.
fn not_ready(obs: &Observation, instances: i32) -> Option<Wait> {
    let Some(deployment) = obs.new_deployment() else {
        return Some(Wait(
            "NameTaken",
            format!("Deployment {} exists and is not ours; remove it or change the version", obs.objects.new_revision),
        ));
    };
    let waiting = |message: String| Some(Wait(state_word(State::Deploying), message));
    if let Some(failure) = &deployment.failure {
        return Some(Wait("PodsRefused", failure.clone()));
    }
    for pod in &obs.new.pods {
        if let Some((reason, message)) = pod.problem.as_ref().filter(|_| !pod.meta.deleting) {
            let word: String = reason.chars().filter(char::is_ascii_alphanumeric).collect();
            let reason = POD_PROBLEMS.iter().find(|p| **p == word).copied().unwrap_or("PodNotStarting");
            return Some(Wait(reason, format!("pod {}: {word}: {message}", pod.meta.name)));
        }
    }
    if deployment.observed_generation < deployment.meta.generation || deployment.available < instances {
        return waiting(format!("{} of {instances} pods of the new version are available", deployment.available));
    }
    let new = obs.new.endpoints.ready.len();
    if count(&obs.new.endpoints.ready) < instances {
        return waiting(format!("Service {} shows {new} of {instances} pods", obs.objects.new_revision));
    }
    if obs.apex_endpoints.ready.is_empty() || !obs.apex_endpoints.ready.is_subset(&obs.old.endpoints.ready) {
        return waiting(format!("Service {} does not show all pods of the old version yet", obs.objects.old_service));
    }
    None
}

/// Reasons of waiting containers that are passed on as they are.
const POD_PROBLEMS: [&str; 8] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "Unschedulable",
];

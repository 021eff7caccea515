//! DEPLOYING to COMPLETED: the write sequence of a promotion, each step only when what it stands on is seen.
//!
//! Every function looks at the cluster, not at what was done before: after a crash the same
//! observation leads to the same next write.

use std::time::Duration;

use json_patch::PatchOperation;
use serde_json::json;

use crate::api::conditions::Answer;
use crate::api::rolling_update::{CleanupPolicy, Outcome, Step, Verdict};
use crate::api::{Ratio, State, Time, names};
use crate::cluster::facts::{Deployment, Key, Kind};
use crate::cluster::patch;
use crate::traffic::apex::{self, Pin};
use crate::traffic::gate::{self, Gate};
use crate::traffic::gateway;

use super::backward;
use super::build;
use super::decide::{Cause, Turn, other_version, shifted_to};
use super::model::{LiveCheck, Observation, Target, Write};
use super::status::{Saying, state_word};
use super::verdict;
use super::wish::{Asked, Wish};

/// A gateway that says nothing for this long after a write is worth a word.
const SLOW_GATEWAY: Duration = Duration::from_secs(2);
/// A gateway that says nothing for this long is taken for one that never will.
const MUTE_GATEWAY: Duration = Duration::from_secs(60);

/// The next step forward.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    match turn.obs.status.state {
        State::Deploying => deploying(turn, wish),
        State::Deployed | State::Routing => shifting(turn, wish),
        State::Completing => completing(turn, wish),
        _ => {}
    }
}

/// What stands in the way of DEPLOYED, in a word and a sentence.
struct Wait(&'static str, String);

fn deploying(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    let since = obs.status.state_since.unwrap_or(turn.now);
    let deadline = since + wish.deploy_deadline;
    let wait = deploy(turn, wish);
    if !turn.acts() && turn.is_past(deadline) && wait.is_some() {
        let why = wait.map(|w| w.1).unwrap_or_default();
        let message = format!("not ready after {}: {why}", crate::api::duration::print(wish.deploy_deadline));
        backward::begin(turn, wish, &Cause { reason: "DeployDeadlineExceeded", message, by: "operator" });
        return;
    }
    let saying = match wait {
        Some(Wait(reason, message)) => Saying::new(State::Deploying, reason, message),
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
        let mine = obs.old.pod_names();
        if let Some(stranger) = obs.apex_endpoints.ready.iter().find(|p| !mine.contains(p.as_str())) {
            return Some(Wait(
                "WorkloadNotStable",
                format!("Service {} also sends traffic to pod {stranger}, which is not of the old version", apex.meta.name),
            ));
        }
        turn.patch("callers of the Service stay on the old version", Kind::Service, &apex.meta, apex::pin(apex, old_pin));
    }
    create_missing(turn, wish, workload, old_pin);
    if turn.acts() {
        return busy("creating the new version");
    }
    let instances = obs.status.new_instances.unwrap_or(1);
    if let Some(problem) = not_ready(obs, instances) {
        return Some(problem);
    }
    if !turn.held_for("ready", wish.settle) {
        return busy("the new version is ready; giving the data plane time to know its Services");
    }
    for route in &obs.routes {
        match gateway::shift(route, obs.names(), Ratio::ALL_OLD) {
            Ok(None) => {}
            Ok(Some(ops)) => turn.patch("the route names both versions, the new one at 0 %", Kind::HttpRoute, &route.meta, ops),
            Err(e) => return Some(Wait("RouteUnsuitable", e.to_string())),
        }
    }
    if turn.acts() {
        return busy("splitting the routes");
    }
    match gate::of_all(obs.routes.iter().map(AsRef::as_ref)) {
        Gate::Confirmed => None,
        Gate::Silent(why) => {
            let reason = if turn.held("silent") < SLOW_GATEWAY { state_word(State::Deploying) } else { "WaitingForGateway" };
            turn.wake_after(SLOW_GATEWAY);
            Some(Wait(reason, why))
        }
        Gate::Refused(why) => Some(Wait("GatewayRefuses", why)),
    }
}

/// Pauses the workload at exactly the version that was looked at, and writes down what that was.
fn pause(turn: &mut Turn<'_>, workload: &Deployment) {
    let live = turn.obs.status.old_version.clone().unwrap_or_default();
    let notes =
        [(names::PAUSED_TEMPLATE, build::template_hash(workload)), (names::LIVE, live), (names::LIVE_REVISION, workload.meta.name.clone())];
    let mut ops = vec![patch::only_at(&workload.meta), patch::add("/spec/paused", json!(true))];
    ops.extend(patch::annotate(&workload.meta, &notes));
    turn.patch("an edit of the template must not replace the pods that carry the traffic", Kind::Deployment, &workload.meta, ops);
}

fn create_missing(turn: &mut Turn<'_>, wish: &Wish, workload: &Deployment, old_pin: &Pin) {
    let obs = turn.obs;
    let (Some(apex), owner) = (&obs.apex, obs.owner()) else { return };
    let name = &obs.objects.new_revision;
    if obs.new.deployment.is_none() {
        let instances = obs.status.new_instances.unwrap_or(1);
        if let Ok(object) = build::deployment(workload, wish, &owner, name, instances) {
            turn.create("the new version's pods", Kind::Deployment, name, object);
        }
    }
    if obs.old.service.is_none() {
        let version = obs.status.old_version.clone().unwrap_or_default();
        let object = build::version_service(apex, wish, &owner, &obs.objects.old_service, &version, old_pin);
        turn.create("the old version's Service", Kind::Service, &obs.objects.old_service, object);
    }
    if obs.new.service.is_none() {
        let pin = Pin { key: names::REVISION, value: name.clone() };
        let object = build::version_service(apex, wish, &owner, name, &wish.version, &pin);
        turn.create("the new version's Service", Kind::Service, name, object);
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
    if i32::try_from(new).unwrap_or(i32::MAX) < instances {
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

/// DEPLOYED and ROUTING: make the routes carry the wanted ratio, and record it once it is acknowledged.
fn shifting(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    let recorded = recorded(obs);
    let gate = gate::of_all(obs.routes.iter().map(AsRef::as_ref));
    let carried = carried(obs);
    let in_force = carried == Some(recorded.ratio) && gate == Gate::Confirmed;
    let settled = in_force && turn.held_for("in force", wish.settle);

    let (target, why_waiting) = target(turn, wish, &recorded, settled);
    if target.ratio == recorded.ratio && settled && recorded.ratio.is_all_new() && may_complete(turn, wish) {
        let message = format!("version {} carries all traffic; the old version is being retired", wish.version);
        turn.say(Saying { shifted: shifted_to("all traffic on the new version"), ..Saying::new(State::Completing, "Completing", message) });
        return;
    }
    if carried != Some(target.ratio) {
        if let Some(Wait(reason, message)) = write_ratio(turn, &target, carried) {
            say_shifting(turn, wish, &gate, Some((reason, message)));
            return;
        }
        if turn.acts() {
            return;
        }
    }
    if carried == Some(target.ratio) && target.ratio != recorded.ratio {
        match gate {
            Gate::Confirmed => record(turn, wish, &target),
            Gate::Silent(_) if turn.held("unconfirmed") < SLOW_GATEWAY => {
                turn.wake_after(SLOW_GATEWAY);
                return;
            }
            _ => {}
        }
    }
    say_shifting(turn, wish, &gate, why_waiting);
}

/// The ratio on record: what the routes were last asked for and acknowledged.
fn recorded(obs: &Observation) -> Asked {
    let text = obs.status.routing.clone().unwrap_or_default();
    text.parse().map_or(Asked::from(Ratio::ALL_OLD), |ratio| Asked { ratio, text })
}

/// The one ratio that all routes carry; `None` while they differ or one is not split.
fn carried(obs: &Observation) -> Option<Ratio> {
    let mut ratios = obs.routes.iter().map(|r| gateway::ratio(r, obs.names()));
    let first = ratios.next()??;
    ratios.all(|r| r == Some(first)).then_some(first)
}

/// The ratio that should be in force now: a person's, else the next step when its time has come.
/// The second part says what keeps the progression where it is.
fn target(turn: &mut Turn<'_>, wish: &Wish, recorded: &Asked, settled: bool) -> (Asked, Option<(&'static str, String)>) {
    if wish.orders.paused {
        return (recorded.clone(), Some(("Paused", "spec.control.paused is true".into())));
    }
    if let Some(ordered) = &wish.orders.routing {
        let waits = ordered.ratio == recorded.ratio;
        if ordered.ratio.exceeds(recorded.ratio) && !settled && !is_under_way(turn.obs, recorded.ratio, ordered.ratio) {
            return (recorded.clone(), None);
        }
        let message = format!("spec.control.routing holds {}; change it, or take it away to go on by itself", ordered.text);
        return (ordered.clone(), waits.then_some(("AwaitingRouting", message)));
    }
    let Some(next) = wish.steps.iter().find(|s| s.ratio.exceeds(recorded.ratio)) else {
        return (recorded.clone(), None);
    };
    if is_under_way(turn.obs, recorded.ratio, next.ratio) {
        return (next.clone(), None);
    }
    let stay = |why| (recorded.clone(), why);
    if wish.manual_approval && wish.orders.approved.as_ref().is_none_or(|a| next.ratio.exceeds(a.ratio)) {
        return stay(Some(("AwaitingApproval", format!("the step to {} waits for spec.control.approved: \"{}\"", next.text, next.text))));
    }
    if !settled {
        return stay(None);
    }
    if let Some(time) = turn.obs.status.step.as_ref().and_then(|s| s.next_not_before)
        && !turn.is_past(time)
    {
        return stay(None);
    }
    let decision = verdict::judge(turn.obs, wish, turn.obs.status.new_instances.unwrap_or(1), turn.now);
    if decision.verdict == Verdict::Healthy {
        return (next.clone(), None);
    }
    let why = ("AwaitingVerdict", decision.message.clone());
    turn.status.decision = Some(decision);
    stay(Some(why))
}

/// A step was decided and at least one route carries it: it is finished and recorded, never taken back halfway.
fn is_under_way(obs: &Observation, from: Ratio, to: Ratio) -> bool {
    let ratios: Vec<_> = obs.routes.iter().map(|r| gateway::ratio(r, obs.names())).collect();
    ratios.contains(&Some(to)) && ratios.iter().all(|r| *r == Some(to) || *r == Some(from))
}

/// Writes the target to every route that carries another ratio. `Some`: it may not be written.
fn write_ratio(turn: &mut Turn<'_>, target: &Asked, carried: Option<Ratio>) -> Option<Wait> {
    let obs = turn.obs;
    let raises = carried.is_none_or(|c| target.ratio.exceeds(c));
    if raises && !target.ratio.is_all_old() {
        let instances = obs.status.new_instances.unwrap_or(1);
        let ready = obs.new.endpoints.ready.len();
        let needed = needed(target.ratio.share(), instances);
        if i32::try_from(ready).unwrap_or(i32::MAX) < needed {
            return Some(Wait(
                "NotEnoughEndpoints",
                format!("{} needs {needed} ready pods of the new version, Service {} shows {ready}", target.text, obs.objects.new_revision),
            ));
        }
    }
    if !target.ratio.is_all_new() && obs.old.endpoints.ready.is_empty() {
        return Some(Wait(
            "OldVersionNotServing",
            format!("Service {} shows no ready pod, so no traffic is moved to it", obs.objects.old_service),
        ));
    }
    for route in &obs.routes {
        match gateway::shift(route, obs.names(), target.ratio) {
            Ok(None) => {}
            Ok(Some(ops)) => turn.patch("the next ratio", Kind::HttpRoute, &route.meta, ops),
            Err(e) => return Some(Wait("RouteUnsuitable", e.to_string())),
        }
    }
    None
}

/// Pods a share of the traffic needs, of a version that has `instances` for all of it; at least one.
fn needed(share: f64, instances: i32) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "at most `instances`")]
    let pods = (share * f64::from(instances)).ceil() as i32;
    pods.max(1)
}

/// Puts a ratio on record: it is in force from now on.
fn record(turn: &mut Turn<'_>, wish: &Wish, asked: &Asked) {
    let now = turn.now;
    let instances = turn.obs.status.new_instances.unwrap_or(1);
    turn.status.routing = Some(asked.text.clone());
    turn.status.effective_routing = Some(asked.text.clone());
    turn.status.decision = Some(verdict::judge(turn.obs, wish, instances, now));
    let index = i32::try_from(wish.step_of(asked.ratio)).unwrap_or_default();
    let of = i32::try_from(wish.steps.len()).unwrap_or_default();
    turn.status.step = Some(Step { index, of, since: now, next_not_before: Some(after(now, wish.interval.max(wish.settle))) });
    turn.wake_after(wish.settle);
}

fn after(time: Time, span: Duration) -> Time {
    time + span
}

fn say_shifting(turn: &mut Turn<'_>, wish: &Wish, gate: &Gate, waiting: Option<(&'static str, String)>) {
    let asked = turn.status.routing.clone().unwrap_or_default();
    let zero = recorded(turn.obs).ratio.is_all_old() && turn.status.routing == turn.obs.status.routing;
    let state = if turn.obs.status.state == State::Deployed && zero { State::Deployed } else { State::Routing };
    let shifted = match gate {
        Gate::Confirmed => shifted_to(&asked),
        Gate::Refused(why) => (Answer::False, "GatewayRefuses", why.clone()),
        Gate::Silent(why) => {
            let silent = turn.held("silent");
            turn.wake_after(if silent < SLOW_GATEWAY { SLOW_GATEWAY } else { MUTE_GATEWAY });
            match silent {
                s if s < SLOW_GATEWAY => shifted_to(&asked),
                s if s < MUTE_GATEWAY => (Answer::False, "WaitingForGateway", why.clone()),
                _ => (Answer::Unknown, "GatewayStatusMissing", why.clone()),
            }
        }
    };
    let (reason, message) = waiting.unwrap_or_else(|| (state_word(state), format!("traffic new:old is {asked}")));
    turn.say(Saying { shifted, refused_order: refused_order(wish, turn.obs), ..Saying::new(state, reason, message) });
}

/// An order that cannot be followed now.
fn refused_order(wish: &Wish, obs: &Observation) -> Option<(&'static str, String)> {
    let early = wish.orders.outcome == Some(Outcome::Complete) && !recorded(obs).ratio.is_all_new();
    let refusal = || ("CompleteNeedsFullRouting", format!("outcome Complete needs x:0 in force; routing is {}", recorded(obs).text));
    early.then(refusal).or_else(|| other_version(wish))
}

/// At x:0, in force and settled: may the old version be retired?
fn may_complete(turn: &mut Turn<'_>, wish: &Wish) -> bool {
    if wish.orders.paused {
        return false;
    }
    if wish.orders.outcome == Some(Outcome::Complete) {
        return true;
    }
    let by_itself =
        wish.orders.routing.is_none() && (!wish.manual_approval || wish.orders.approved.as_ref().is_some_and(|a| a.ratio.is_all_new()));
    let time = turn.obs.status.step.as_ref().and_then(|s| s.next_not_before);
    by_itself
        && time.is_none_or(|t| turn.is_past(t))
        && verdict::judge(turn.obs, wish, turn.obs.status.new_instances.unwrap_or(1), turn.now).verdict == Verdict::Healthy
}

/// The old version can still take the traffic back at once.
pub fn old_version_is_whole(obs: &Observation) -> bool {
    obs.old.deployment.as_ref().is_some_and(|d| d.replicas > 0 && !d.meta.deleting)
}

fn completing(turn: &mut Turn<'_>, wish: &Wish) {
    let waiting = if old_version_is_whole(turn.obs) { retire(turn, wish) } else { release(turn, wish) };
    let recorded = recorded(turn.obs).text;
    let saying = match waiting {
        Progress::Busy(message) => Saying { shifted: shifted_to(&recorded), ..Saying::new(State::Completing, "Completing", message) },
        Progress::Stuck(reason, message) => Saying { shifted: shifted_to(&recorded), ..Saying::new(State::Completing, reason, message) },
        Progress::Done(reason, message) => {
            turn.status.step = None;
            Saying {
                shifted: (Answer::True, "Restored", "the routes name the Service itself, which selects the new version".into()),
                ..Saying::new(State::Completed, reason, message)
            }
        }
    };
    let late = (turn.obs.status.state == State::Completing && wish.orders.outcome == Some(Outcome::Rollback)).then(|| {
        (
            "OldVersionGone",
            format!("the old version is gone; to go back, set spec.version to {}", turn.obs.status.old_version.clone().unwrap_or_default()),
        )
    });
    turn.say(Saying { refused_order: late.or_else(|| refused_order(wish, turn.obs)), ..saying });
}

/// How COMPLETING stands.
enum Progress {
    Busy(String),
    Stuck(&'static str, String),
    Done(&'static str, String),
}

/// While the old version lives: flip, restore, drain, and then its last hour.
fn retire(turn: &mut Turn<'_>, wish: &Wish) -> Progress {
    let obs = turn.obs;
    let busy = |message: &str| Progress::Busy(message.to_owned());
    let (Some(apex), Some(new_pin)) = (&obs.apex, &obs.new.pin) else {
        return Progress::Stuck("ServiceGone", format!("Service {} does not exist any more; create it again", obs.objects.service));
    };
    let ready = i32::try_from(obs.new.pods.iter().filter(|p| p.ready && !p.meta.deleting).count()).unwrap_or(i32::MAX);
    if !apex::is_pinned_to(apex, new_pin) {
        if ready < obs.status.new_instances.unwrap_or(1) {
            return Progress::Stuck(
                "NotEnoughEndpoints",
                format!("{ready} pods of the new version are ready; the Service stays on the old version"),
            );
        }
        turn.patch("callers of the Service go to the new version", Kind::Service, &apex.meta, apex::pin(apex, new_pin));
        return busy("flipping the Service to the new version");
    }
    let new_pods = obs.new.pod_names();
    let shown = &obs.apex_endpoints.ready;
    if shown.is_empty() || !shown.iter().all(|p| new_pods.contains(p.as_str())) || i32::try_from(shown.len()).unwrap_or(i32::MAX) < ready {
        return busy("waiting for the Service's endpoints to show the new version");
    }
    let stay = wish.old_version_stays();
    let drained = turn.held_for("flipped", stay);
    for route in &obs.routes {
        match gateway::restore(route, obs.names()) {
            Ok(None) => {}
            Ok(Some(ops)) => turn.patch("the route says again what the user wrote", Kind::HttpRoute, &route.meta, ops),
            Err(e) => return Progress::Stuck("RouteUnsuitable", e.to_string()),
        }
    }
    if turn.acts() {
        return busy("giving the routes back");
    }
    match gate::of_all(obs.routes.iter().map(AsRef::as_ref)) {
        Gate::Confirmed => {}
        Gate::Silent(why) => {
            let slow = turn.held("silent") >= SLOW_GATEWAY;
            turn.wake_after(SLOW_GATEWAY);
            return if slow { Progress::Stuck("WaitingForGateway", why) } else { busy("giving the routes back") };
        }
        Gate::Refused(why) => return Progress::Stuck("GatewayRefuses", why),
    }
    if !turn.held_for("restored", wish.settle.max(wish.drain)) || !drained {
        return busy("the old version drains before it goes");
    }
    if wish.cleanup == CleanupPolicy::Manual {
        delete_services(turn);
        return if turn.acts() {
            busy("removing the version Services")
        } else {
            Progress::Done(
                "OldVersionKept",
                format!("version {} is live; the old version is kept by cleanupPolicy MANUAL, so the Service stays pinned", wish.version),
            )
        };
    }
    retire_old(turn, new_pin);
    busy("removing the old version")
}

/// What must be true, read live, when the old version goes.
fn safe_to_retire(obs: &Observation, new_pin: &Pin) -> Vec<LiveCheck> {
    let namespace = &obs.meta.namespace;
    let mut checks: Vec<LiveCheck> = obs
        .routes
        .iter()
        .map(|r| LiveCheck::RouteWithout(r.meta.key(), vec![obs.objects.old_service.clone(), obs.objects.new_revision.clone()]))
        .collect();
    if let Some(apex) = &obs.apex {
        checks.push(LiveCheck::Selector(Key::new(namespace, &apex.meta.name), apex::pinned_selector(apex, new_pin)));
    }
    checks
}

/// The version Services go first, so that no selector names the old pods any more; then the old version.
/// The user's own Deployment is scaled to 0 and let go in the same write (at 0 nothing can roll out).
fn retire_old(turn: &mut Turn<'_>, new_pin: &Pin) {
    let obs = turn.obs;
    delete_services(turn);
    let Some(old) = &obs.old.deployment else { return };
    let Some(workload) = &obs.workload else { return };
    let checks = safe_to_retire(obs, new_pin);
    let live =
        [(names::LIVE, obs.status.new_version.clone().unwrap_or_default()), (names::LIVE_REVISION, obs.objects.new_revision.clone())];
    if obs.old_is_workload() {
        let mut ops = vec![patch::test("/metadata/uid", json!(old.meta.uid)), patch::replace("/spec/replicas", json!(0))];
        if obs.holds_workload() && is_as_paused(old) {
            ops.extend(unpause(old));
        }
        ops.extend(patch::annotate(&old.meta, &live));
        turn.act_if("the old version goes, its Deployment stays as the template", Write::Patch(target(Kind::Deployment, old), ops), checks);
    } else {
        turn.patch(
            "which version is live is written on the workload",
            Kind::Deployment,
            &workload.meta,
            patch::annotate(&workload.meta, &live),
        );
        turn.act_if("the old version goes", Write::Delete(target(Kind::Deployment, old), old.meta.uid.clone()), checks);
    }

    fn target(kind: Kind, deployment: &Deployment) -> Target {
        Target { kind, key: deployment.meta.key() }
    }
}

/// Whether the workload's template is as it was when we paused it.
pub fn is_as_paused(workload: &Deployment) -> bool {
    workload.meta.annotations.get(names::PAUSED_TEMPLATE).is_some_and(|hash| *hash == build::template_hash(workload))
}

/// Lets the Deployment controller roll out again.
pub fn unpause(workload: &Deployment) -> Vec<PatchOperation> {
    let mut ops = vec![patch::test("/spec/paused", json!(true)), patch::remove("/spec/paused")];
    ops.extend(patch::clear_annotations(&workload.meta, &[names::PAUSED_TEMPLATE]));
    ops
}

/// Takes the version Services away, in one request.
pub fn delete_services(turn: &mut Turn<'_>) {
    let services: Vec<(String, String)> = turn.obs.version_services().map(|s| (s.meta.name.clone(), s.meta.uid.clone())).collect();
    if services.is_empty() {
        return;
    }
    let meta = &turn.obs.meta;
    let write = Write::DeleteServices { namespace: meta.namespace.clone(), update_uid: meta.uid.clone(), services };
    turn.act("no route names the version Services any more", write);
}

/// The old version has no pods wanted any more: wait for the last one, then give the apex back.
fn release(turn: &mut Turn<'_>, wish: &Wish) -> Progress {
    let obs = turn.obs;
    delete_services(turn);
    if !obs.old.pods.is_empty() {
        return Progress::Busy(format!("{} pods of the old version are still ending", obs.old.pods.len()));
    }
    let Some(apex) = &obs.apex else {
        return Progress::Stuck("ServiceGone", format!("Service {} does not exist any more; create it again", obs.objects.service));
    };
    let done = |message: String| Progress::Done("Completed", message);
    if let Some(owner) = obs.objects.replicas_owner.as_ref().filter(|_| apex::is_pinned(apex)) {
        return done(format!(
            "version {} is live; {owner} says replicas of Deployment {} in its manifest, so Service {} stays pinned to the live version: leave replicas out there",
            wish.version, obs.objects.workload, apex.meta.name
        ));
    }
    if apex::is_pinned(apex) {
        turn.patch("one version is left, so the Service needs no pin", Kind::Service, &apex.meta, apex::unpin(apex));
    }
    if turn.acts() {
        return Progress::Busy("giving the Service back".into());
    }
    done(format!("version {} is live", obs.status.new_version.clone().unwrap_or_default()))
}

//! COMPLETING: the apex flips, the routes are given back, the old version drains and goes.
//!
//! Every function looks at the cluster, not at what was done before: after a crash the same
//! observation leads to the same next write.

use std::sync::Arc;
use std::time::Duration;

use json_patch::PatchOperation;
use serde_json::json;

use crate::api::conditions::Answer;
use crate::api::rolling_update::{CleanupPolicy, Outcome};
use crate::api::{State, names};
use crate::cluster::facts::{Deployment, Key, Kind};
use crate::cluster::patch;
use crate::traffic::apex::{self, Pin};
use crate::traffic::gate::{self, Gate};
use crate::traffic::gateway::{self, RouteError};

use super::shifting::{self, recorded, refused_order};
use super::{MUTE_GATEWAY, SLOW_GATEWAY, Wait, endpoints, interference, rolling_back, shut, sizing};
use crate::rollout::build;
use crate::rollout::decide::{Turn, shifted_to};
use crate::rollout::model::{LiveCheck, Observation, Target, Write, count};
use crate::rollout::status::Saying;
use crate::rollout::wish::Wish;

/// The old version can still take the traffic back at once.
pub fn old_version_is_whole(obs: &Observation) -> bool {
    obs.old.deployment.as_ref().is_some_and(|d| d.replicas > 0 && !d.meta.deleting)
}

/// The old version was scaled down already, and scaling it up again would bring back the same.
pub fn can_come_back(obs: &Observation) -> bool {
    obs.status.old_instances.is_some() && obs.old_is_workload() && obs.workload.as_ref().is_some_and(|w| build::is_as_paused(w))
}

/// The workload says that the new version is live: that is written when the old one goes, and there is no way back at
/// once from then on, even if somebody scales it up.
pub fn is_retired(obs: &Observation) -> bool {
    let noted = |w: &Arc<Deployment>| w.meta.annotations.get(names::LIVE_REVISION) == Some(&obs.objects.new_revision);
    obs.workload.as_ref().is_some_and(noted)
}

/// Does the next thing, or says what is waited for. In COMPLETED it removes an old version that was kept.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    let state = turn.obs.status.state;
    let whole = old_version_is_whole(turn.obs);
    if whole && state == State::Completing {
        if let Some(fight) = shifting::stand_firm(turn, wish) {
            rolling_back::begin(turn, wish, &fight);
            return;
        }
        sizing::grow(turn, wish);
    }
    // Somebody else may have scaled the old version down; what else has to be done before it goes is done all the same.
    let waiting = if whole || !(turn.obs.workload.is_none() || is_retired(turn.obs)) { retire(turn, wish) } else { release(turn) };
    let saying = match waiting {
        Progress::Busy(message) => {
            // No watch wakes what is COMPLETED.
            turn.wake_after(SLOW_GATEWAY);
            Saying { shifted: shifted_to(&recorded(turn.obs).text), ..Saying::new(state, "Completing", message) }
        }
        Progress::Stuck(reason, message) => {
            turn.wake_after(MUTE_GATEWAY);
            Saying { shifted: shifted_to(&recorded(turn.obs).text), ..Saying::new(state, reason, message) }
        }
        Progress::Done(reason, message) => {
            turn.status.step = None;
            let shifted = (Answer::True, "Restored", "the routes name the Service itself, which selects the new version".into());
            Saying { shifted, ..Saying::new(State::Completed, reason, message) }
        }
    };
    let late = (state == State::Completing && wish.orders.outcome == Some(Outcome::Rollback)).then(|| {
        let old = turn.obs.status.old_version.clone().unwrap_or_default();
        ("OldVersionGone", format!("the old version is gone; to go back, set spec.version to {old}"))
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
    let ready = obs.new.ready();
    if !apex::is_pinned_to(apex, new_pin) {
        if ready < obs.instances() {
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
    if shown.is_empty() || !shown.iter().all(|p| new_pods.contains(p.as_str())) {
        return busy("waiting for the Service's endpoints to show the new version");
    }
    // Where somebody has taken the pin away, the old version was reached until the data plane knew that it is back.
    let again = if interference::is_recent(&obs.status, turn.now) { wish.settle } else { Duration::ZERO };
    let drained = turn.held_for("flipped", wish.old_version_stays() + again);
    let split = obs.routes.iter().any(|r| gateway::is_split(r, obs.names()));
    if split && count(shown) < ready {
        return busy("waiting for the Service's endpoints to show all of the new version");
    }
    if let Err(e) = restore_routes(turn, Some(new_pin)) {
        return Progress::Stuck("RouteUnsuitable", e.to_string());
    }
    if turn.acts() {
        return busy("giving the routes back");
    }
    let gate = gate::of_all(obs.routes.iter().map(AsRef::as_ref));
    if gate != Gate::Confirmed {
        return shut(turn, &gate).map_or_else(|| busy("giving the routes back"), |Wait(reason, message)| Progress::Stuck(reason, message));
    }
    if !turn.held_for("restored", wish.settle.max(wish.drain)) || !drained {
        return busy("the old version drains before it goes");
    }
    // What is deleted gets no more orders: nobody could ever lift the pause.
    if wish.orders.paused && obs.status.state == State::Completing && !obs.meta.deleting {
        return Progress::Stuck("Paused", "spec.control.paused is true; the old version keeps its pods".into());
    }
    endpoints::tidy(turn);
    if turn.acts() {
        return busy("removing what the shift has left");
    }
    if wish.cleanup == CleanupPolicy::Manual && obs.status.state == State::Completing && old_version_is_whole(obs) {
        delete_services(turn);
        return if turn.acts() {
            busy("removing the version Services")
        } else {
            // With its last word: until then the update may go back.
            note_live(turn);
            Progress::Done(
                "OldVersionKept",
                format!("version {} is live; the old version is kept by cleanupPolicy MANUAL, so the Service stays pinned", wish.version),
            )
        };
    }
    retire_old(turn, new_pin);
    busy("removing the old version")
}

/// Gives every route that is split back as the user wrote it, if the Service that it names then selects that version alone.
pub fn restore_routes(turn: &mut Turn<'_>, pin: Option<&Pin>) -> Result<(), RouteError> {
    let obs = turn.obs;
    let selects = || obs.apex.iter().zip(pin).map(|(apex, pin)| LiveCheck::Selector(apex.meta.key(), apex::pinned_selector(apex, pin)));
    for route in &obs.routes {
        if let Some(mut ops) = gateway::restore(route, obs.names())? {
            // Every weight of a rule is written, by its place: only as it was looked at.
            ops.push(patch::only_as_specified(&route.meta));
            ops.extend(patch::clear_annotations(&route.meta, &[names::FENCE]));
            let write = Write::Patch(Target::of(Kind::HttpRoute, &route.meta), ops);
            turn.act_if("the route says again what the user wrote", write, selects().collect());
        }
    }
    Ok(())
}

/// No route names a version Service, read live: nothing reaches a version but through the apex.
pub fn routes_are_whole(obs: &Observation) -> Vec<LiveCheck> {
    let services = [&obs.objects.old_service, &obs.objects.new_revision].map(Clone::clone);
    obs.routes.iter().map(|r| LiveCheck::RouteWithout(r.meta.key(), services.to_vec())).collect()
}

/// And the apex selects that version alone.
pub fn only_reached(obs: &Observation, pin: &Pin) -> Vec<LiveCheck> {
    let apex = match &obs.apex {
        Some(apex) => LiveCheck::Selector(apex.meta.key(), apex::pinned_selector(apex, pin)),
        // Somebody may just have made it again, and it selects all versions then.
        None => LiveCheck::Absent(Target { kind: Kind::Service, key: Key::new(&obs.meta.namespace, &obs.objects.service) }),
    };
    routes_are_whole(obs).into_iter().chain([apex]).collect()
}

/// The version Services go first, so that no selector names the old pods any more; then the old version.
/// The user's own Deployment is scaled to 0 and let go in the same write (at 0 nothing can roll out).
fn retire_old(turn: &mut Turn<'_>, new_pin: &Pin) {
    let obs = turn.obs;
    delete_services(turn);
    let Some(workload) = &obs.workload else { return };
    let checks = only_reached(obs, new_pin);
    if obs.old_is_workload() {
        let old = workload;
        // It may look the same again, and a rollback lie in between: a write that was held up must not go through.
        let mut ops = vec![patch::only_at(&old.meta), patch::replace("/spec/replicas", json!(0))];
        if obs.holds_workload() {
            // What its template was stays written down: while it is that, scaling up brings the old version back.
            ops.extend(unpause());
        }
        ops.extend(patch::annotate(&old.meta, &notes_of_live(obs)));
        ops.extend(patch::clear_annotations(&old.meta, &[names::FENCE]));
        turn.act_if(
            "the old version goes, its Deployment stays as the template",
            Write::Patch(Target::of(Kind::Deployment, &old.meta), ops),
            checks,
        );
    } else {
        note_live(turn);
        if let Some(old) = &obs.old.deployment {
            turn.act_if("the old version goes", Write::Delete(Target::of(Kind::Deployment, &old.meta), old.meta.uid.clone()), checks);
        }
    }
}

fn notes_of_live(obs: &Observation) -> [(&'static str, String); 2] {
    [(names::LIVE, obs.status.new_version.clone().unwrap_or_default()), (names::LIVE_REVISION, obs.objects.new_revision.clone())]
}

/// The workload says which version is live, where it is not retired itself.
fn note_live(turn: &mut Turn<'_>) {
    let (obs, live) = (turn.obs, notes_of_live(turn.obs));
    let is_marked = |w: &Deployment| w.meta.annotations.contains_key(names::FENCE);
    let is_said = |w: &Deployment| !is_marked(w) && live.iter().all(|(name, value)| w.meta.annotations.get(*name) == Some(value));
    if let Some(workload) = obs.workload.as_ref().filter(|w| !is_said(w)) {
        let mut ops = vec![patch::only_at(&workload.meta)];
        ops.extend(patch::annotate(&workload.meta, &live));
        ops.extend(patch::clear_annotations(&workload.meta, &[names::FENCE]));
        turn.patch("which version is live is written on the workload", Kind::Deployment, &workload.meta, ops);
    }
}

/// Lets the Deployment controller roll out again.
pub fn unpause() -> Vec<PatchOperation> {
    vec![patch::test("/spec/paused", json!(true)), patch::remove("/spec/paused")]
}

/// Takes the version Services away, in one request.
pub fn delete_services(turn: &mut Turn<'_>) {
    let services: Vec<(String, String)> = turn.obs.version_services().map(|s| (s.meta.name.clone(), s.meta.uid.clone())).collect();
    if services.is_empty() {
        return;
    }
    let write = Write::DeleteServices { owner: turn.obs.owner(), services };
    turn.act_if("no route names the version Services any more", write, routes_are_whole(turn.obs));
}

/// The old version has no pods wanted any more: wait for the last one, then give the apex back.
fn release(turn: &mut Turn<'_>) -> Progress {
    let obs = turn.obs;
    delete_services(turn);
    if !obs.old.pods.is_empty() {
        if let (Some(apex), Some(pin)) = (&obs.apex, obs.new.pin.as_ref().filter(|_| obs.new.ready() > 0)) {
            if !apex::is_pinned_to(apex, pin) {
                // There is nothing to give in to, but the next release must know of it.
                let _ = interference::put_back(turn, Kind::Service, &apex.meta);
            }
            stay_pinned(turn, pin);
        }
        return Progress::Busy(format!("{} pods of the old version are still ending", obs.old.pods.len()));
    }
    let version = obs.status.new_version.clone().unwrap_or_default();
    if obs.apex.is_none() && !obs.meta.deleting {
        let message = format!("Service {} does not exist any more; create it again", obs.objects.service);
        return Progress::Stuck("ServiceGone", message);
    }
    let gone = obs.new_deployment().is_none_or(|d| d.meta.deleting);
    if gone && obs.status.state == State::Completing && !obs.meta.deleting {
        let (new, old) = (&obs.objects.new_revision, obs.status.old_version.clone().unwrap_or_default());
        let message =
            format!("Deployment {new} was deleted and version {old} has no pods; set spec.control.outcome to Rollback to bring it back");
        return Progress::Stuck("NewVersionGone", message);
    }
    let pinned = release_apex(turn, obs.new.pin.as_ref(), false);
    if turn.acts() {
        return Progress::Busy("giving the Service back".into());
    }
    Progress::Done("Completed", format!("version {version} is live{}", pinned.map(|why| format!("; {why}")).unwrap_or_default()))
}

/// Gives the apex its own selector back, once one version is left. It stays on the live version, and it is said why,
/// while pods of the user's own Deployment could come behind it that are not of that version.
pub fn release_apex(turn: &mut Turn<'_>, live: Option<&Pin>, live_is_workload: bool) -> Option<String> {
    let obs = turn.obs;
    let apex = obs.apex.as_ref()?;
    let workload = obs.workload.as_ref().filter(|_| !live_is_workload);
    let returns = workload.and_then(|w| match &w.replicas_owner {
        Some(owner) if w.replicas > 0 || apex::is_pinned(apex) => {
            Some(format!("{owner} says replicas of Deployment {} in its manifest: leave replicas out there", w.meta.name))
        }
        _ => (w.replicas > 0).then(|| format!("Deployment {} has pods: scale it to 0", w.meta.name)),
    });
    let (Some(why), Some(live)) = (returns, live) else {
        if apex::is_pinned(apex) {
            let write = Write::Patch(Target::of(Kind::Service, &apex.meta), apex::unpin(apex));
            let live = if obs.status.state == State::RollingBack { rolling_back::nothing_left(obs) } else { Vec::new() };
            turn.act_if("one version is left, so the Service needs no pin", write, live);
        }
        return None;
    };
    stay_pinned(turn, live);
    Some(format!("Service {} stays pinned to the live version, because {why}", apex.meta.name))
}

/// Pins the apex to the live version. Whether there is one.
pub fn stay_pinned(turn: &mut Turn<'_>, live: &Pin) -> bool {
    let Some(apex) = &turn.obs.apex else { return false };
    if !apex::is_pinned_to(apex, live) {
        turn.patch("the Service stays on the live version", Kind::Service, &apex.meta, apex::pin(apex, live));
    }
    true
}

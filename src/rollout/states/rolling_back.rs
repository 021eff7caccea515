//! ROLLING_BACK: traffic first, in one write per route, before anything is asked or waited for.

use std::time::Duration;

use serde_json::json;

use crate::api::conditions::{self, Answer, CONFLICTING_MANAGER, READY};
use crate::api::rolling_update::{Objects, Verdict};
use crate::api::{Ratio, State, names};
use crate::cluster::facts::{Deployment, Key, Kind};
use crate::cluster::patch;
use crate::traffic::gate::{self, Gate};
use crate::traffic::{apex, gateway};

use super::completing::{delete_services, only_reached, release_apex, restore_routes, unpause};
use super::deploying::{create_missing_services, pause_only};
use super::{MUTE_GATEWAY, completing, endpoints, fence, interference, resting, shut};
use crate::rollout::build::is_as_paused;
use crate::rollout::decide::{BROUGHT_BACK, Cause, REFUSED, Turn, is_another};
use crate::rollout::model::{LiveCheck, Observation, Side, Target, Write};
use crate::rollout::status::Saying;
use crate::rollout::wish::Wish;

/// Starts to go back: the write that moves the traffic comes before the one that says so.
pub fn begin(turn: &mut Turn<'_>, wish: &Wish, cause: &Cause) {
    turn.goes_back(cause);
    let stuck = traffic_back(turn, wish);
    if stuck.is_none() {
        turn.status.routing = Some("0:1".into());
        turn.status.effective_routing = Some("0:1".into());
    }
    fence::turn_back(turn);
    let message = stuck.map_or_else(|| cause.message.clone(), |s| format!("{}; {s}", cause.message));
    turn.status.step = None;
    turn.say(Saying { by: cause.by, shifted: going_back(), ..Saying::new(State::RollingBack, cause.reason, message) });
    turn.wake_after(wish.settle);
}

fn going_back() -> (Answer, &'static str, String) {
    (Answer::False, "RollingBack", "all traffic goes to the old version".to_owned())
}

/// Goes on until nothing of the new version is left.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    let (reason, message) = cause(turn);
    if let Some(waiting) = retreat(turn, wish) {
        let message = format!("{message}; {waiting}");
        let gate = gate::of_all(turn.obs.routes.iter().map(AsRef::as_ref));
        let shifted = shut(turn, &gate).and_then(|wait| wait.of_gateway()).unwrap_or_else(going_back);
        turn.say(Saying { shifted, ..Saying::new(State::RollingBack, &reason, message) });
        return;
    }
    turn.say_if(all_given_back(turn));
    let state = if reason == REFUSED { State::Failed } else { State::RolledBack };
    let shifted = (Answer::True, "Restored", "the routes name the Service itself, which selects the old version".to_owned());
    turn.say(Saying { shifted, ..Saying::new(state, &reason, message) });
}

/// What the end of a rollback depends on.
fn all_given_back(turn: &Turn<'_>) -> Vec<LiveCheck> {
    let obs = turn.obs;
    if came_from(turn) == Some(State::Pending) {
        return Vec::new();
    }
    let apex = obs.apex.iter().map(|apex| LiveCheck::Selector(apex.meta.key(), apex.selector.clone()));
    let workload = obs.workload.iter().map(|workload| LiveCheck::unchanged(Kind::Deployment, &workload.meta));
    nothing_left(obs).into_iter().chain(apex).chain(workload).collect()
}

/// A process that has just begun may not know yet what its predecessor has made, and nobody would take it away later.
pub fn nothing_left(obs: &Observation) -> Vec<LiveCheck> {
    let Objects { new_revision, old_service, .. } = &obs.objects;
    let gone = |(kind, name): (Kind, &String)| {
        let key = Key::new(&obs.meta.namespace, name);
        LiveCheck::Gone(Target { kind, key }, obs.meta.uid.clone())
    };
    [(Kind::Deployment, new_revision), (Kind::Service, new_revision), (Kind::Service, old_service)].map(gone).into()
}

/// Why the update went back: what was said when it did.
fn cause(turn: &Turn<'_>) -> (String, String) {
    let status = &turn.obs.status;
    let reason =
        status.history.iter().rev().find(|t| t.to == State::RollingBack).map_or_else(|| "RolledBack".to_owned(), |t| t.reason.clone());
    // A breach's numbers are a long sentence.
    let breach = status.decision.as_ref().filter(|d| d.verdict == Verdict::Unhealthy && d.reason == reason);
    let said = || conditions::find(&status.conditions, READY)?.message.split("; ").next();
    let message = breach.map(|d| d.message.as_str()).or_else(said).unwrap_or_default().to_owned();
    (reason, message)
}

/// Nothing of either version is there to keep up: a namespace on its way out, for example.
fn is_abandoned(obs: &Observation) -> bool {
    let over = |side: &Side| side.deployment.as_ref().is_none_or(|d| d.meta.deleting) && side.staying().next().is_none();
    obs.meta.deleting && over(&obs.old) && over(&obs.new)
}

/// All traffic to the old version. `Some`: it cannot take it.
fn traffic_back(turn: &mut Turn<'_>, wish: &Wish) -> Option<String> {
    let obs = turn.obs;
    let names = obs.names();
    if is_abandoned(obs) {
        return None;
    }
    let reaching: Vec<_> = obs.routes.iter().filter(|r| gateway::reaches_new(r, names)).collect();
    let split = obs.routes.iter().any(|r| gateway::is_split(r, names));
    let incomplete = obs.old.service.is_none() || obs.new.service.is_none();
    if let Some(pin) = obs.old.pin.as_ref().filter(|_| incomplete && split) {
        // Somebody has deleted it; without the old one there is nowhere to go back to, and a gateway does not accept a
        // route that names what is not there, at 0 % neither.
        create_missing_services(turn, wish, pin);
    }
    if !reaching.is_empty() && obs.old.endpoints.ready.is_empty() {
        let (service, name) = (&obs.objects.old_service, &obs.objects.old_revision);
        let remedy = if obs.old.deployment.is_some() { "bring its pods back" } else { "it was deleted: create it again" };
        return Some(format!("Service {service} shows no ready pod of Deployment {name}, so no traffic is moved to it; {remedy}"));
    }
    let mut stuck = Vec::new();
    for route in reaching {
        match gateway::shift(route, names, Ratio::ALL_OLD) {
            Ok(Some(ops)) => turn.patch_regardless("all traffic to the old version", Kind::HttpRoute, &route.meta, ops),
            Ok(None) => {}
            // The other routes go back all the same.
            Err(e) => stuck.push(e.to_string()),
        }
    }
    if !stuck.is_empty() {
        return Some(stuck.join("; "));
    }
    let apex = obs.apex.as_ref()?;
    if obs.old.pin.as_ref().is_some_and(|pin| apex::is_pinned_to(apex, pin)) {
        return None;
    }
    // Also where nothing of the new version is left: then nobody serves until it is done.
    if let Some(waiting) = bring_back(turn) {
        return Some(waiting);
    }
    let gone = obs.new_deployment().is_none() && obs.new.pods.is_empty();
    if gone && (!apex::is_pinned(apex) || obs.old.pin.is_none() || obs.old.ready() == 0) {
        return None;
    }
    let Some(pin) = &obs.old.pin else {
        let name = &obs.objects.old_revision;
        return Some(format!("Deployment {name} has pods of no or more than one ReplicaSet, so the Service cannot be moved to it yet"));
    };
    if obs.old.ready() == 0 {
        return Some(format!("no pod of Deployment {} is ready, so the Service is not moved to it", obs.objects.old_revision));
    }
    let is_ours = gone || obs.new.pin.as_ref().is_some_and(|new| apex::is_pinned_to(apex, new)) || endpoints::is_serving(obs);
    if !is_ours {
        // Somebody has taken the pin away, so the new version may have had traffic; that must be known until it has drained.
        let _ = interference::put_back(turn, Kind::Service, &apex.meta);
    }
    turn.patch("callers of the Service go back to the old version", Kind::Service, &apex.meta, apex::pin(apex, pin));
    None
}

/// Remembered from when the old version was found scaled down until it is whole.
const GONE: &str = "scaled down";

/// An old version that was scaled down already is scaled up and ready before it gets traffic.
fn bring_back(turn: &mut Turn<'_>) -> Option<String> {
    let obs = turn.obs;
    let old = obs.old.deployment.as_ref()?;
    // A write of a leader that was asleep may have scaled it down just as it was decided to go back.
    let went = (old.replicas == 0 && completing::can_come_back(obs)) || turn.memory.since.contains_key(GONE);
    let wanted = obs.status.old_instances.filter(|_| turn.is_late() || went || cause(turn).0 == BROUGHT_BACK)?;
    if went {
        turn.held(GONE);
    }
    if let (Some(apex), Some(new)) = (&obs.apex, obs.new.pin.as_ref().filter(|_| obs.new.ready() > 0))
        && !apex::is_pinned_to(apex, new)
    {
        // It may have been given back already, and then both versions would be behind it.
        turn.patch("callers of the Service stay on the new version", Kind::Service, &apex.meta, apex::pin(apex, new));
    }
    // Somebody may have scaled it up, but it had been let go.
    if old.replicas < wanted || (completing::can_come_back(obs) && !old.paused) {
        let size = old.replicas.max(wanted);
        let mut ops = vec![patch::test("/metadata/uid", json!(old.meta.uid)), patch::replace("/spec/replicas", json!(size))];
        ops.extend(pause_only(old));
        turn.patch("the old version comes back", Kind::Deployment, &old.meta, ops);
    }
    // Pods that are about to go may look ready still: what its controller says since it was scaled up counts as well.
    let seen = if old.observed_generation < old.meta.generation { 0 } else { old.available };
    let ready = obs.old.ready().min(seen);
    (ready < wanted).then(|| format!("not instant: {ready} of {wanted} pods of the old version are ready"))
}

/// Does the next thing; says what is waited for. `None`: it is done.
fn retreat(turn: &mut Turn<'_>, wish: &Wish) -> Option<String> {
    let obs = turn.obs;
    let names = obs.names();
    if came_from(turn) == Some(State::Pending) {
        // Nothing was touched, and what is there may be another update's.
        return None;
    }
    let stuck = traffic_back(turn, wish);
    hold_workload(turn);
    if let Some(stuck) = stuck {
        turn.wake_after(wish.settle);
        return Some(stuck);
    }
    if had_traffic(turn) {
        turn.status.routing = Some("0:1".into());
        turn.status.effective_routing = Some("0:1".into());
    }
    // At once: a ReplicaSet that was edited is one that its Deployment would replace, if somebody let it go.
    endpoints::tidy(turn);
    if turn.acts() {
        if !obs.routes.iter().any(|r| gateway::reaches_new(r, names)) {
            // Somebody takes only the pin away, again and again: what drains goes on draining.
            turn.keep("drained");
            turn.keep("restored");
        }
        return Some("moving all traffic to the old version".into());
    }
    let split = obs.routes.iter().any(|r| gateway::is_split(r, names));
    let unheard = unheard(turn);
    if let Some(why) = unheard.clone().filter(|_| had_traffic(turn) && (split || obs.new_deployment().is_some())) {
        if !split {
            // It gets no traffic by what was acknowledged last, and none by this.
            turn.keep("drained");
        }
        return Some(why);
    }
    // Kept-alive callers of the Service leave only when the pods do, so in Pods mode waiting helps nobody.
    let drain = if obs.by_pods() { wish.settle } else { wish.settle + wish.drain };
    if had_traffic(turn) && obs.new_deployment().is_some() && !held_for(turn, "drained", drain, drain) {
        return Some("the new version drains before it goes".into());
    }
    if obs.apex.is_none() && split && !is_abandoned(obs) {
        return Some(format!("Service {} does not exist any more; create it again, the routes need it", obs.objects.service));
    }
    if let Err(e) = restore_routes(turn, obs.old.pin.as_ref()) {
        return Some(e.to_string());
    }
    if turn.acts() {
        return Some("giving the routes back".into());
    }
    let followed = is_abandoned(obs) || unheard.is_none() && held_for(turn, "restored", wish.settle, drain + wish.settle);
    let following = || unheard.clone().unwrap_or_else(|| "giving the data plane time to follow".into());
    if had_traffic(turn) && obs.new_deployment().is_some() && !followed {
        return Some(following());
    }
    if let Some(deployment) = obs.new_deployment().filter(|d| !d.meta.deleting) {
        let target = Target::of(Kind::Deployment, &deployment.meta);
        let checks = obs.old.pin.as_ref().map(|pin| only_reached(obs, pin)).unwrap_or_default();
        turn.act_if("nothing reaches the new version any more", Write::Delete(target, deployment.meta.uid.clone()), checks);
        return Some("removing the new version".into());
    }
    if !obs.new.pods.is_empty() || obs.new_deployment().is_some() {
        return Some(format!("{} pods of the new version are still ending", obs.new.pods.len()));
    }
    // Until then the old version is reached by its version Service, whether the new one had traffic or not.
    if !followed && obs.version_services().next().is_some() {
        return Some(following());
    }
    delete_services(turn);
    if goes_on_at_once(turn, wish) {
        return turn.acts().then(|| "removing what the update made".into());
    }
    release_apex(turn, obs.old.pin.as_ref(), obs.old_is_workload());
    if turn.acts() {
        return Some("removing what the update made".into());
    }
    if !resting::is_adopted(obs) {
        release_workload(turn);
    }
    release_old_revision(turn);
    turn.acts().then(|| "letting go of the workload".into())
}

/// What has not been acknowledged yet. A gateway that has never spoken of a route must not keep the update here for ever;
/// one that has, may be using what it knew last while it cannot be heard.
fn unheard(turn: &mut Turn<'_>) -> Option<String> {
    let obs = turn.obs;
    if is_abandoned(obs) {
        return None;
    }
    let mut gates: Vec<Gate> = obs.routes.iter().flat_map(|route| gate::of_each_parent(route)).collect();
    let is_mute = |gate: &Gate| matches!(gate, Gate::Mute(_));
    if gates.iter().any(is_mute) && turn.held_for("mute", MUTE_GATEWAY) {
        gates.retain(|gate| !is_mute(gate));
    }
    match gates.into_iter().max()? {
        Gate::Confirmed => None,
        Gate::Mute(why) | Gate::Refused(why) => Some(why),
        Gate::Silent(why) => Some(format!("{why}, or take its parentRef out of the route if it is gone for good")),
    }
}

/// Somebody has let the workload go: while a selector names the old pods, nothing may replace them. A rollout back to
/// what was paused is let through.
fn hold_workload(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let named = obs.old.service.is_some() || obs.apex.as_ref().is_some_and(|a| apex::is_pinned(a));
    let Some(workload) = obs.workload.as_ref().filter(|w| named && !w.paused && obs.old_is_workload() && is_noted(w)) else { return };
    if !endpoints::reverts(turn, workload) && (!is_as_paused(workload) || obs.old.set.is_some()) {
        let why = "an edit of the template must not replace the pods that carry the traffic";
        turn.patch(why, Kind::Deployment, &workload.meta, pause_only(workload));
    }
}

/// Another version is wanted: pin and pause stay for it.
fn goes_on_at_once(turn: &Turn<'_>, wish: &Wish) -> bool {
    !turn.obs.meta.deleting && is_another(&turn.obs.status, wish)
}

/// A fact has held for so long without a break. While somebody undoes what is written there is no such time, so what
/// counts then is how long ago the rollback was decided.
fn held_for(turn: &mut Turn<'_>, fact: &'static str, wait: Duration, since_decided: Duration) -> bool {
    let fought = cause(turn).0 == CONFLICTING_MANAGER;
    match turn.obs.status.state_since.filter(|_| fought) {
        Some(since) => turn.is_past(since + since_decided),
        None => turn.held_for(fact, wait),
    }
}

/// The new version may have had traffic: not while it was only being deployed, unless somebody took the pin away.
fn had_traffic(turn: &Turn<'_>) -> bool {
    !matches!(came_from(turn), Some(State::Pending | State::Deploying)) || interference::is_recent(&turn.obs.status, turn.now)
}

/// The state in which it was decided to go back.
fn came_from(turn: &Turn<'_>) -> Option<State> {
    turn.obs.status.history.iter().rev().find(|t| t.to == State::RollingBack).map(|t| t.from)
}

/// It is written on the workload that it runs the live version, held by us; somebody else may have let it go since.
fn is_noted(workload: &Deployment) -> bool {
    let notes = &workload.meta.annotations;
    notes.contains_key(names::PAUSED_TEMPLATE) && notes.get(names::LIVE_REVISION) == Some(&workload.meta.name)
}

/// Lets the workload roll out again, unless that would bring out an edit nobody has judged.
pub fn release_workload(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let Some(workload) = obs.workload.as_ref().filter(|w| obs.old_is_workload() && (obs.holds_workload() || is_noted(w))) else { return };
    if workload.paused && !is_as_paused(workload) {
        return;
    }
    let mut ops = vec![patch::test("/metadata/uid", json!(workload.meta.uid))];
    // The pause holds only what was paused: an edit that arrives now makes this write fail.
    ops.push(patch::only_at(&workload.meta));
    if workload.paused {
        ops.extend(unpause());
    }
    let mut notes = vec![names::PAUSED_TEMPLATE, names::ADOPTED, names::FENCE];
    if obs.status.state != State::Completed || is_noted(workload) {
        // Else it was kept beside the live version, which must still be known.
        notes.extend([names::LIVE, names::LIVE_REVISION]);
    }
    ops.extend(patch::clear_annotations(&workload.meta, &notes));
    // Never while a selector names the hash of its pods: another process may have pinned the Service again.
    let selects = obs.apex.iter().map(|apex| LiveCheck::Selector(apex.meta.key(), apex.selector.clone())).collect();
    let write = Write::Patch(Target::of(Kind::Deployment, &workload.meta), ops);
    turn.act_if("the workload is the user's again", write, selects);
}

/// A Deployment of ours that was paused for Pods mode goes on.
pub fn release_old_revision(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    if let Some(old) = obs.old.deployment.as_ref().filter(|d| obs.by_pods() && !obs.old_is_workload() && d.paused) {
        turn.patch("its pods are as they were", Kind::Deployment, &old.meta, unpause());
    }
}

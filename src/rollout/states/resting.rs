//! At rest: an update that is over takes care of the live version, until the next one or until it is deleted.

use std::sync::Arc;

use serde_json::json;

use crate::api::conditions::{self, Answer, CONFLICTING_MANAGER, INVALID_SPEC, READY, STALLED};
use crate::api::rolling_update::Objects;
use crate::api::{State, names};
use crate::cluster::facts::{Deployment, Kind, Service};
use crate::cluster::patch;
use crate::traffic::apex;

use super::{SLOW_GATEWAY, completing, deploying, endpoints, fence, interference, rolling_back, sizing};
use crate::rollout::build;
use crate::rollout::decide::{Turn, keeps_old, other_version};
use crate::rollout::model::{Observation, Side};
use crate::rollout::status;
use crate::rollout::wish::Wish;

/// Nothing new is wanted: the Service stays on the live version, an adopted workload stays paused, its size follows.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    free_from_the_gone(turn);
    if is_in_charge(turn.obs) {
        stay_on_live(turn);
        if !turn.acts() {
            // A pod may have come too late to be seen when the shift was over, or a label.
            endpoints::tidy(turn);
        }
        if is_adopted(turn.obs) {
            stay_paused(turn);
        } else if !turn.acts() && turn.obs.status.state != State::Completed {
            // An edit that kept it paused after a rollback may have been undone.
            rolling_back::release_workload(turn);
            rolling_back::release_old_revision(turn);
        }
        sizing::follow(turn, wish);
    }
    if !turn.acts() {
        fence::clear(turn);
    }
    status::refresh(&mut turn.status, turn.obs, other_version(wish).as_ref(), turn.now);
    say_whether_live(turn);
}

/// Reason of Ready=False after somebody has deleted the version that carried the traffic when this update ended.
const GONE: &str = "LiveVersionGone";

/// Ready says whether the live version is there, whichever end it was; and a fight that is over is not told for ever.
fn say_whether_live(turn: &mut Turn<'_>) {
    let (obs, now) = (turn.obs, turn.now);
    let list = &mut turn.status.conditions;
    let told = conditions::find(list, READY).is_some_and(|c| [GONE, INVALID_SPEC].contains(&c.reason.as_str()));
    let said = match (gone(obs), conditions::find(list, STALLED).filter(|_| told)) {
        (Some(message), _) => Some((Answer::False, GONE.to_owned(), message)),
        // What was said at the end is kept there.
        (None, Some(end)) => Some(((obs.status.state == State::Completed).into(), end.reason.clone(), end.message.clone())),
        (None, None) => None,
    };
    if let Some((answer, reason, message)) = said {
        conditions::set(list, obs.meta.generation, now, READY, answer, &reason, &message);
    }
    if obs.status.state != State::Completed {
        return;
    }
    if !interference::is_recent(&obs.status, now) {
        conditions::clear(list, CONFLICTING_MANAGER);
    } else if conditions::find(list, CONFLICTING_MANAGER).is_some() {
        turn.wake_after(interference::MEMORY);
    }
}

/// The live version does not exist any more, and no other update has brought out the next one: what a person must do.
fn gone(obs: &Observation) -> Option<String> {
    let Objects { workload, old_revision, new_revision, .. } = &obs.objects;
    let name = if obs.status.state == State::Completed { new_revision } else { old_revision };
    let is_succeeded = obs.rival.is_some() || obs.live.as_ref().is_ok_and(|l| l.revision != *workload && l.revision != *name);
    if name.is_empty() || live(obs).deployment.is_some() || is_succeeded {
        return None;
    }
    let remedy = if name == workload {
        "create it again".to_owned()
    } else {
        format!("scale Deployment {workload} up to serve again, then raise spec.attempt")
    };
    Some(format!("Deployment {name}, which was live, does not exist any more; {remedy}"))
}

/// The RollingUpdate is deleted and holds no traffic: what it still holds goes back, then the object may go.
pub fn let_go(turn: &mut Turn<'_>) {
    free_from_the_gone(turn);
    if is_in_charge(turn.obs) {
        stay_on_live(turn);
        if !turn.acts() {
            endpoints::tidy(turn);
        }
        if !turn.acts() {
            rolling_back::release_workload(turn);
        }
    }
    if !turn.acts() {
        fence::clear(turn);
    }
    if !turn.acts() {
        turn.drop_finalizer();
    }
}

/// What this update speaks of is what is live, and no other update is at work on it.
fn is_in_charge(obs: &Observation) -> bool {
    let here = live(obs).deployment.as_ref().map(|d| &d.meta.name);
    obs.rival.is_none() && obs.live.as_ref().is_ok_and(|l| Some(&l.revision) == here)
}

/// The version that carries the traffic now.
fn live(obs: &Observation) -> &Side {
    if obs.status.state == State::Completed { &obs.new } else { &obs.old }
}

/// Pods of another version must not come behind the Service, and a pin that nothing needs goes.
fn stay_on_live(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let Some(deployment) = &live(obs).deployment else { return };
    let live_is_workload = deployment.meta.name == obs.objects.workload;
    let stays = match live(obs).pin.as_ref().filter(|_| keeps_old(&obs.status)) {
        Some(pin) => completing::stay_pinned(turn, pin),
        None => completing::release_apex(turn, live(obs).pin.as_ref(), live_is_workload).is_some(),
    };
    let Some(apex) = obs.apex.as_ref().filter(|a| turn.acts() && stays && !apex::is_pinned(a)) else { return };
    if let Some(fight) = interference::put_back(turn, Kind::Service, &apex.meta) {
        turn.abandon();
        let list = &mut turn.status.conditions;
        conditions::set(list, obs.meta.generation, turn.now, CONFLICTING_MANAGER, Answer::True, fight.reason, &fight.message);
    }
}

/// Somebody has deleted the live version: a pin to it keeps out whatever could serve instead.
fn free_from_the_gone(turn: &mut Turn<'_>) {
    let (obs, side) = (turn.obs, live(turn.obs));
    let is_gone = obs.rival.is_none() && side.deployment.is_none() && side.pods.is_empty();
    let to_it = |apex: &&Arc<Service>| is_gone && side.pin.as_ref().is_some_and(|pin| apex::is_pinned_to(apex, pin));
    if side.deployment.is_none() && !side.pods.is_empty() {
        // No watch wakes what is COMPLETED when they are gone.
        turn.wake_after(SLOW_GATEWAY);
    }
    if let Some(apex) = obs.apex.as_ref().filter(to_it) {
        turn.patch("nobody is left of the version that the Service is pinned to", Kind::Service, &apex.meta, apex::unpin(apex));
    }
}

/// Whether this RollingUpdate keeps the workload paused while it runs the live version.
pub fn is_adopted(obs: &Observation) -> bool {
    obs.workload.as_ref().is_some_and(|w| w.meta.annotations.get(names::ADOPTED) == Some(&obs.meta.name))
}

/// Takes the workload, which runs the live version, into care: an edit of its template rolls out through us only.
pub fn adopt(turn: &mut Turn<'_>, workload: &Deployment, version: &str) {
    // What an update that was superseded has paused already keeps the note of what it was.
    let mut ops = if turn.obs.holds_workload() { vec![patch::only_at(&workload.meta)] } else { deploying::pause_ops(workload, version) };
    ops.push(patch::add(&patch::annotation(names::ADOPTED), json!(turn.obs.meta.name)));
    turn.patch("an edit of the template must not roll out past us", Kind::Deployment, &workload.meta, ops);
}

/// Somebody has unpaused the adopted workload. Where nothing has rolled out yet it is paused again.
fn stay_paused(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let side = live(obs);
    let Some(workload) = obs.workload.as_ref().filter(|w| !w.paused && side.set.is_some()) else { return };
    let live_here = side.deployment.as_ref().is_some_and(|d| d.meta.name == workload.meta.name);
    if live_here && build::is_as_paused(workload) && interference::put_back(turn, Kind::Deployment, &workload.meta).is_none() {
        turn.patch("an edit of the template must not roll out past us", Kind::Deployment, &workload.meta, deploying::pause_only(workload));
    }
}

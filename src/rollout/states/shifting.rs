//! DEPLOYED and ROUTING: traffic follows the wanted ratio, one patch per route and step.

use std::sync::Arc;

use crate::api::conditions::Answer;
use crate::api::rolling_update::{Decision, Outcome, Step, Verdict};
use crate::api::{Ratio, State};
use crate::cluster::facts::{HttpRoute, Kind};
use crate::cluster::patch;
use crate::traffic::gate::{self, Gate};
use crate::traffic::{apex, gateway};

use super::{SLOW_GATEWAY, WAITING_FOR_GATEWAY, Wait, deploying, endpoints, interference, progress, rolling_back, shut, sizing};
use crate::rollout::build;
use crate::rollout::decide::{Cause, Turn, other_version, shifted_to};
use crate::rollout::model::{Observation, Side, count};
use crate::rollout::status::{Saying, state_word};
use crate::rollout::verdict;
use crate::rollout::wish::{Asked, Source, Wish};

/// DEPLOYED and ROUTING: make the data plane carry the wanted ratio, and record it once it is acknowledged.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    let decision = progress::look(turn, wish);
    if progress::rolls_back(wish) && progress::is_unrecorded_breach(turn, &decision) {
        // The next turn goes back, whatever happens to this process until then.
        turn.keep("in force");
        let gate = gate::of_all(obs.routes.iter().map(AsRef::as_ref));
        say_shifting(turn, wish, &gate, Some(progress::going_back(&decision)));
        return;
    }
    if let Some(fight) = stand_firm(turn, wish) {
        rolling_back::begin(turn, wish, &fight);
        return;
    }
    sizing::grow(turn, wish);
    if turn.acts() {
        return;
    }
    let on_record = recorded(obs);
    let gate = gate::of_all(obs.routes.iter().map(AsRef::as_ref));
    // Weights that were lowered but could not be recorded are the truth; going up from there takes all it takes.
    let lowered = on_routes(obs).filter(|c| on_record.ratio.exceeds(*c));
    let recorded = lowered.map_or_else(|| on_record.clone(), Asked::from);
    let in_force = carries(obs, recorded.ratio) && gate == Gate::Confirmed;
    let settled = in_force && turn.held_for("in force", wish.settle);

    let (target, why_waiting) = target(turn, wish, &recorded, settled, &decision);
    if obs.routes.is_empty() && !obs.by_pods() {
        let gone = format!("no HTTPRoute names Service {} or its versions any more; create it again, or roll back", obs.objects.service);
        say_shifting(turn, wish, &gate, Some(Wait("RouteNotFound", gone)));
        return;
    }
    if target.ratio == recorded.ratio && settled && recorded.ratio.is_all_new() && may_complete(turn, wish, &decision) {
        let message = format!("version {} carries all traffic; the old version is being retired", wish.version);
        let by = if wish.orders.outcome == Some(Outcome::Complete) { "spec.control" } else { "operator" };
        let shifted = shifted_to("all traffic on the new version");
        turn.say(Saying { by, shifted, ..Saying::new(State::Completing, "Completing", message) });
        return;
    }
    if !carries(obs, target.ratio) {
        if let Some(wait) = write_ratio(turn, &target) {
            say_shifting(turn, wish, &gate, Some(wait));
            return;
        }
        if let Some(fight) = undone(turn, on_record.ratio, target.ratio) {
            turn.abandon();
            rolling_back::begin(turn, wish, &fight);
            return;
        }
        if turn.acts() {
            return;
        }
    }
    if carries(obs, target.ratio) && target.ratio != on_record.ratio {
        match gate {
            Gate::Confirmed => record(turn, wish, &target),
            Gate::Mute(_) | Gate::Silent(_) if turn.held("unconfirmed") < SLOW_GATEWAY => {
                turn.wake_after(SLOW_GATEWAY);
                return;
            }
            _ => {}
        }
    }
    say_shifting(turn, wish, &gate, why_waiting);
}

/// What shifting stands on is put back where somebody took it away: the pause, the pin, the version Services.
/// `Some`: it was taken away too often.
pub fn stand_firm(turn: &mut Turn<'_>, wish: &Wish) -> Option<Cause> {
    let obs = turn.obs;
    if let Some(workload) = obs.workload.as_ref().filter(|w| obs.old_is_workload() && !w.paused) {
        // A rollout back to what was paused is let through.
        if !endpoints::reverts(turn, workload) && (!build::is_as_paused(workload) || obs.old.set.is_some()) {
            if let Some(fight) = interference::put_back(turn, Kind::Deployment, &workload.meta) {
                return Some(fight);
            }
            let why = "an edit of the template must not replace the pods that carry the traffic";
            turn.patch(why, Kind::Deployment, &workload.meta, deploying::pause_only(workload));
        }
    }
    let (Some(apex), Some(pin)) = (&obs.apex, &obs.old.pin) else { return None };
    let is_on = |side: &Side| side.pin.as_ref().is_some_and(|pin| apex::is_pinned_to(apex, pin));
    let may_be_new = obs.by_pods() || obs.status.state == State::Completing;
    let is_ours = is_on(&obs.old) || (may_be_new && is_on(&obs.new)) || (obs.by_pods() && endpoints::is_serving(obs));
    if !is_ours {
        if let Some(fight) = interference::put_back(turn, Kind::Service, &apex.meta) {
            return Some(fight);
        }
        // While completing, the flip itself comes next.
        if obs.status.state != State::Completing {
            deploying::pin_to_old(turn, apex, pin);
        }
    }
    if obs.status.state != State::Completing {
        deploying::create_missing_services(turn, wish, pin);
    }
    None
}

/// Somebody has taken back what is on record, and this turn writes it again. `Some`: that was done too often.
fn undone(turn: &mut Turn<'_>, on_record: Ratio, target: Ratio) -> Option<Cause> {
    let obs = turn.obs;
    if !turn.acts() || obs.by_pods() {
        return None;
    }
    let names = obs.names();
    let ours = |r: &Arc<HttpRoute>| gateway::ratio(r, names).is_some_and(|r| r == on_record || r == target);
    let route = obs.routes.iter().find(|r| gateway::is_undone(r, names, on_record) && !ours(r))?;
    interference::put_back(turn, Kind::HttpRoute, &route.meta)
}

/// The ratio on record: what the routes were last asked for and acknowledged.
pub fn recorded(obs: &Observation) -> Asked {
    let text = obs.status.routing.clone().unwrap_or_default();
    text.parse().map_or(Asked::from(Ratio::ALL_OLD), |ratio| Asked { ratio, text })
}

/// The one ratio that all routes carry; `None` while they differ or one is not split.
fn on_routes(obs: &Observation) -> Option<Ratio> {
    let mut ratios = obs.routes.iter().map(|r| gateway::ratio(r, obs.names()));
    let first = ratios.next()??;
    ratios.all(|r| r == Some(first)).then_some(first)
}

/// Whether routes or endpoints are as that ratio wants them.
fn carries(obs: &Observation, ratio: Ratio) -> bool {
    if obs.by_pods() { endpoints::carries(obs, ratio) } else { on_routes(obs) == Some(ratio) }
}

/// The ratio that should be in force now: a person's, else the next step when its time has come.
/// The second part says what keeps the progression where it is.
fn target(turn: &mut Turn<'_>, wish: &Wish, recorded: &Asked, settled: bool, decision: &Decision) -> (Asked, Option<Wait>) {
    let stay = |why| (recorded.clone(), why);
    let obs = turn.obs;
    if obs.gives_new(recorded.ratio) && obs.new.endpoints.ready.is_empty() && !obs.old.endpoints.ready.is_empty() {
        let message = "no pod of the new version is ready, so all traffic is back on the old version until they are".to_owned();
        return (Asked::from(Ratio::ALL_OLD), Some(Wait("NewVersionNotServing", message)));
    }
    let next = || wish.steps.iter().find(|s| s.ratio.exceeds(recorded.ratio));
    if wish.orders.paused {
        let half_done = wish.orders.routing.as_ref().or_else(next).filter(|to| is_under_way(turn, recorded.ratio, to.ratio));
        let paused = Wait("Paused", "spec.control.paused is true".into());
        return (half_done.unwrap_or(recorded).clone(), Some(paused));
    }
    if obs.apex.is_none() {
        let message = format!("Service {} does not exist any more, so its callers get nothing; create it again", obs.objects.service);
        return stay(Some(Wait("ServiceGone", message)));
    }
    if let Some(gone) = old_gone(obs) {
        return stay(Some(gone));
    }
    if obs.old.pin.is_none() {
        let name = &obs.objects.old_revision;
        let message = format!("Deployment {name} has pods of more than one ReplicaSet; undo the edit of its template and unpause it");
        return stay(Some(Wait("WorkloadNotStable", message)));
    }
    if let Some(ordered) = &wish.orders.routing {
        let waits = ordered.ratio == recorded.ratio;
        if ordered.ratio.exceeds(recorded.ratio) && !settled && !is_under_way(turn, recorded.ratio, ordered.ratio) {
            return stay(None);
        }
        let message = format!("spec.control.routing holds {}; change it, or take it away to go on by itself", ordered.text);
        return (ordered.clone(), waits.then_some(Wait("AwaitingRouting", message)));
    }
    let Some(next) = next() else {
        return stay(progress::at_the_end(turn, wish, decision, recorded));
    };
    if is_under_way(turn, recorded.ratio, next.ratio) {
        return (next.clone(), None);
    }
    if decision.verdict == Verdict::Unhealthy && !progress::lets(wish, decision, next.ratio) {
        return stay(Some(progress::breach(decision, Some(next))));
    }
    if progress::awaits_approval(wish, next.ratio) {
        let message = format!("the step to {} waits for spec.control.approved: \"{}\"", next.text, next.text);
        return stay(Some(Wait("AwaitingApproval", message)));
    }
    if !settled {
        return stay(None);
    }
    if let Some(time) = obs.status.step.as_ref().and_then(|s| s.next_not_before)
        && !turn.is_past(time)
    {
        return stay(None);
    }
    if progress::lets(wish, decision, next.ratio) {
        return (next.clone(), None);
    }
    if wish.source == Source::None {
        turn.status.decision = Some(decision.clone());
    }
    stay(Some(progress::no_verdict(turn, wish, decision)))
}

/// The old version was deleted: pods of it that still end are nobody to send traffic to.
fn old_gone(obs: &Observation) -> Option<Wait> {
    let gone = || format!("Deployment {} does not exist any more, and the old version with it; create it again", obs.objects.old_revision);
    obs.old.deployment.is_none().then(|| Wait("OldVersionGone", gone()))
}

/// A step was decided and is half done: it is finished and recorded, never taken back halfway.
fn is_under_way(turn: &Turn<'_>, from: Ratio, to: Ratio) -> bool {
    let obs = turn.obs;
    if obs.by_pods() {
        // Labels that nothing selects yet are no step. What was done by a process that could not record it is not undone,
        // were it only to be done again.
        let has_begun = !endpoints::carries(obs, from) && (turn.memory.heading == Some(to) || endpoints::carries(obs, to));
        return has_begun || endpoints::is_between(obs, from, to);
    }
    let ratios: Vec<_> = obs.routes.iter().map(|r| gateway::ratio(r, obs.names())).collect();
    ratios.contains(&Some(to)) && ratios.iter().all(|r| *r == Some(to) || *r == Some(from))
}

/// Brings the target about, where it is not there yet. `Some`: that may not be done.
fn write_ratio(turn: &mut Turn<'_>, target: &Asked) -> Option<Wait> {
    let obs = turn.obs;
    let gone = old_gone(obs).filter(|_| obs.by_pods() && !target.ratio.is_all_new());
    if let Some(wait) = gone.or_else(|| old_not_serving(obs, target.ratio)) {
        return Some(wait);
    }
    if obs.by_pods() {
        turn.heads_for(target.ratio);
        return endpoints::go_to(turn, target.ratio);
    }
    let raises = on_routes(obs).is_none_or(|c| target.ratio.exceeds(c));
    if raises && !target.ratio.is_all_old() {
        let ready = count(&obs.new.endpoints.ready);
        let needed = needed(target.ratio.share(), obs.instances());
        if ready < needed {
            return Some(Wait(
                "NotEnoughEndpoints",
                format!("{} needs {needed} ready pods of the new version, Service {} shows {ready}", target.text, obs.objects.new_revision),
            ));
        }
    }
    for route in &obs.routes {
        match gateway::shift(route, obs.names(), target.ratio) {
            Ok(None) => {}
            Ok(Some(mut ops)) => {
                if raises {
                    // The weights may be the same again, and a rollback lie in between.
                    ops.push(patch::only_at(&route.meta));
                }
                turn.patch("the next ratio", Kind::HttpRoute, &route.meta, ops);
            }
            Err(e) => return Some(Wait("RouteUnsuitable", e.to_string())),
        }
    }
    None
}

/// The ratio has a share for the old version, and no pod of it is ready: no traffic is moved then.
fn old_not_serving(obs: &Observation, ratio: Ratio) -> Option<Wait> {
    if ratio.is_all_new() || !obs.old.endpoints.ready.is_empty() {
        return None;
    }
    let message = format!(
        "no pod of the old version is ready, so no traffic is moved to it; bring Deployment {} back, or go on with spec.control.routing: \"1:0\"",
        obs.objects.old_revision
    );
    Some(Wait("OldVersionNotServing", message))
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
    let instances = turn.obs.instances();
    turn.status.routing = Some(asked.text.clone());
    turn.status.effective_routing = Some(if turn.obs.by_pods() { turn.obs.share(asked.ratio).to_string() } else { asked.text.clone() });
    // A breach stands while the share only falls, whoever lowered it: that is no answer to it.
    let stands = |d: &Decision| d.verdict == Verdict::Unhealthy && recorded(turn.obs).ratio.exceeds(asked.ratio);
    let breach = turn.status.decision.take().filter(stands).map(|breach| Decision { at: now, ..breach });
    turn.status.decision = Some(breach.unwrap_or_else(|| verdict::at_first(turn.obs, wish, instances, now)));
    let index = i32::try_from(wish.step_of(asked.ratio)).unwrap_or_default();
    let of = i32::try_from(wish.steps.len()).unwrap_or_default();
    turn.status.step = Some(Step { index, of, since: now, next_not_before: Some(now + wish.interval.max(wish.settle)) });
    turn.wake_after(wish.settle);
}

fn say_shifting(turn: &mut Turn<'_>, wish: &Wish, gate: &Gate, waiting: Option<Wait>) {
    let asked = turn.status.routing.clone().unwrap_or_default();
    let zero = recorded(turn.obs).ratio.is_all_old() && turn.status.routing == turn.obs.status.routing;
    let state = if turn.obs.status.state == State::Deployed && zero { State::Deployed } else { State::Routing };
    let at_gate = shut(turn, gate);
    let shifted = match at_gate.as_ref().and_then(Wait::of_gateway) {
        Some(shut) => shut,
        None if turn.obs.by_pods() => in_endpoints(turn),
        None => shifted_to(&asked),
    };
    let recorded = recorded(turn.obs).ratio;
    // A gateway that is merely slow is the course of things.
    let at_gate = at_gate.filter(|wait| wait.0 != WAITING_FOR_GATEWAY);
    let waiting = at_gate.or(waiting).or_else(|| old_not_serving(turn.obs, recorded)).or_else(|| not_ready(turn, wish));
    let Wait(reason, message) = waiting.unwrap_or_else(|| Wait(state_word(state), format!("traffic new:old is {asked}")));
    let by = if wish.orders.routing.is_some() || wish.manual_approval { "spec.control" } else { "operator" };
    turn.say(Saying { by, shifted, refused_order: refused_order(wish, turn.obs), ..Saying::new(state, reason, message) });
}

/// Pods mode: what the Service's endpoints say, and for whom that holds.
fn in_endpoints(turn: &Turn<'_>) -> (Answer, &'static str, String) {
    let obs = turn.obs;
    let shown = |side: &Side| count(side.pods.iter().filter(|p| obs.apex_endpoints.ready.contains(&p.meta.name)));
    let (new, old) = (shown(&obs.new), shown(&obs.old));
    let message = format!(
        "new connections to Service {} go to {new} new and {old} old pods; kept-alive ones stay where they are",
        obs.objects.service
    );
    (Answer::True, "InEndpoints", message)
}

/// The new version has not all of its pods: by readiness, that is a verdict too.
fn not_ready(turn: &mut Turn<'_>, wish: &Wish) -> Option<Wait> {
    if wish.source != Source::None {
        return None;
    }
    let decision = verdict::judge(turn.obs, wish, turn.obs.instances(), turn.now);
    if decision.verdict != Verdict::Unknown {
        return None;
    }
    let message = decision.message.clone();
    turn.status.decision = Some(decision);
    Some(Wait("NewVersionNotReady", message))
}

/// An order that cannot be followed now.
pub fn refused_order(wish: &Wish, obs: &Observation) -> Option<(&'static str, String)> {
    let early = wish.orders.outcome == Some(Outcome::Complete) && !recorded(obs).ratio.is_all_new();
    let refusal = || ("CompleteNeedsFullRouting", format!("outcome Complete needs x:0 in force; routing is {}", recorded(obs).text));
    early.then(refusal).or_else(|| other_version(wish))
}

/// At x:0, in force and settled: may the old version be retired?
fn may_complete(turn: &mut Turn<'_>, wish: &Wish, decision: &Decision) -> bool {
    if wish.orders.paused {
        return false;
    }
    if wish.orders.outcome == Some(Outcome::Complete) {
        return true;
    }
    let by_itself = wish.orders.routing.is_none() && !progress::awaits_approval(wish, recorded(turn.obs).ratio);
    let time = turn.obs.status.step.as_ref().and_then(|s| s.next_not_before);
    by_itself && time.is_none_or(|t| turn.is_past(t)) && decision.verdict == Verdict::Healthy
}

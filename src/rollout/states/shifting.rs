//! DEPLOYED and ROUTING: traffic follows the wanted ratio, one patch per route and step.

use crate::api::conditions::Answer;
use crate::api::rolling_update::{Outcome, Step, Verdict};
use crate::api::{Ratio, State};
use crate::cluster::facts::Kind;
use crate::traffic::gate::{self, Gate};
use crate::traffic::{apex, gateway};

use super::{MUTE_GATEWAY, SLOW_GATEWAY, deploying};
use crate::rollout::decide::{Turn, other_version, shifted_to};
use crate::rollout::model::Observation;
use crate::rollout::status::{Saying, state_word};
use crate::rollout::verdict;
use crate::rollout::wish::{Asked, Wish};

/// Why a ratio may not be written, in a word and a sentence.
struct Wait(&'static str, String);

/// DEPLOYED and ROUTING: make the routes carry the wanted ratio, and record it once it is acknowledged.
pub fn go_on(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    stand_firm(turn, wish);
    if turn.acts() {
        return;
    }
    let on_record = recorded(obs);
    let gate = gate::of_all(obs.routes.iter().map(AsRef::as_ref));
    let carried = carried(obs);
    // Weights that were lowered but could not be recorded are the truth; going up from there takes all it takes.
    let recorded = carried.filter(|c| on_record.ratio.exceeds(*c)).map_or_else(|| on_record.clone(), Asked::from);
    let in_force = carried == Some(recorded.ratio) && gate == Gate::Confirmed;
    let settled = in_force && turn.held_for("in force", wish.settle);

    let (target, why_waiting) = target(turn, wish, &recorded, settled);
    if obs.routes.is_empty() {
        let gone = format!("no HTTPRoute names Service {} or its versions any more; create it again, or roll back", obs.objects.service);
        say_shifting(turn, wish, &gate, Some(("RouteNotFound", gone)));
        return;
    }
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
    if carried == Some(target.ratio) && target.ratio != on_record.ratio {
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

/// What shifting stands on is put back where somebody took it away: the pause, the pin, the version Services.
fn stand_firm(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    if let Some(workload) = obs.workload.as_ref().filter(|w| obs.old_is_workload() && !w.paused) {
        deploying::pause(turn, workload);
    }
    let (Some(apex), Some(pin)) = (&obs.apex, &obs.old.pin) else { return };
    if !apex::is_pinned_to(apex, pin) {
        turn.patch("callers of the Service stay on the old version", Kind::Service, &apex.meta, apex::pin(apex, pin));
    }
    deploying::create_missing_services(turn, wish, pin);
}

/// The ratio on record: what the routes were last asked for and acknowledged.
pub fn recorded(obs: &Observation) -> Asked {
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
    let decision = verdict::judge(turn.obs, wish, turn.obs.instances(), turn.now);
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
        let instances = obs.instances();
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
    let instances = turn.obs.instances();
    turn.status.routing = Some(asked.text.clone());
    turn.status.effective_routing = Some(asked.text.clone());
    turn.status.decision = Some(verdict::judge(turn.obs, wish, instances, now));
    let index = i32::try_from(wish.step_of(asked.ratio)).unwrap_or_default();
    let of = i32::try_from(wish.steps.len()).unwrap_or_default();
    turn.status.step = Some(Step { index, of, since: now, next_not_before: Some(now + wish.interval.max(wish.settle)) });
    turn.wake_after(wish.settle);
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
    let waiting = waiting.or_else(|| not_ready(turn, wish, state));
    let (reason, message) = waiting.unwrap_or_else(|| (state_word(state), format!("traffic new:old is {asked}")));
    turn.say(Saying { shifted, refused_order: refused_order(wish, turn.obs), ..Saying::new(state, reason, message) });
}

/// The new version has traffic and not all of its pods: by readiness, that is a verdict too.
fn not_ready(turn: &mut Turn<'_>, wish: &Wish, state: State) -> Option<(&'static str, String)> {
    if !wish.readiness_decides || state != State::Routing || recorded(turn.obs).ratio.is_all_old() {
        return None;
    }
    let decision = verdict::judge(turn.obs, wish, turn.obs.instances(), turn.now);
    if decision.verdict == Verdict::Healthy {
        return None;
    }
    let message = decision.message.clone();
    turn.status.decision = Some(decision);
    Some(("NewVersionNotReady", message))
}

/// An order that cannot be followed now.
pub fn refused_order(wish: &Wish, obs: &Observation) -> Option<(&'static str, String)> {
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
        && verdict::judge(turn.obs, wish, turn.obs.instances(), turn.now).verdict == Verdict::Healthy
}

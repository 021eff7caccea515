//! What the verdict means for the progression: it advances on Healthy, holds on anything else, and a person goes past it.

use crate::api::rolling_update::{Decision, OnBreach, Outcome, Verdict};
use crate::api::{Ratio, RollingUpdateStatus};
use crate::rollout::decide::Turn;
use crate::rollout::verdict;
use crate::rollout::wish::{Asked, Source, Wish};

use super::Wait;

/// The verdict of this turn. What it says anew goes into the status: other figures alone are no news.
pub fn look(turn: &mut Turn<'_>, wish: &Wish) -> Decision {
    let decision = verdict::judge(turn.obs, wish, turn.obs.instances(), turn.now);
    if wish.source == Source::None {
        // Said where something waits for it.
        return decision;
    }
    let recorded = verdict::said_at_this_step(turn.obs);
    let same = recorded.filter(|r| {
        let is_news = turn.is_writing() || (verdict::is_without_figures(&decision) && r.message != decision.message);
        r.verdict == decision.verdict && r.reason == decision.reason && !is_news
    });
    let shown = match (same, recorded, &turn.obs.measured) {
        (Some(same), ..) => same.clone(),
        // Nothing was measured since this process began: what is on record is the newest there is.
        (None, Some(recorded), None) => recorded.clone(),
        _ => decision.clone(),
    };
    if is_unrecorded_breach(turn, &decision) {
        // Ready may speak of something else: an order that holds the update, a gateway that is silent.
        turn.warn(&decision.reason, decision.message.clone());
    }
    if turn.obs.measured.is_some() || turn.obs.has_traffic() {
        // Before the first round at 0:1 nobody has asked yet.
        turn.status.decision = Some(shown.clone());
    }
    // What was healthy before this process began lets nothing advance.
    if shown.verdict == Verdict::Healthy { decision } else { shown }
}

/// A breach that has to be on record before anything follows from it, so that a crash cannot lose it.
pub fn is_unrecorded_breach(turn: &Turn<'_>, decision: &Decision) -> bool {
    decision.verdict == Verdict::Unhealthy && verdict::latched(turn.obs).is_none()
}

/// Whether a breach rolls back by itself.
pub fn rolls_back(wish: &Wish) -> bool {
    wish.on_breach == OnBreach::Rollback && !wish.orders.paused
}

/// Whether the verdict lets the update get to that ratio.
pub fn lets(wish: &Wish, decision: &Decision, ratio: Ratio) -> bool {
    match decision.verdict {
        Verdict::Healthy => true,
        Verdict::Unknown => false,
        Verdict::Unhealthy => wish
            .orders
            .approved
            .as_ref()
            .is_some_and(|a| !ratio.exceeds(a.ratio) && decision.approved_before.as_deref() != Some(a.text.as_str())),
    }
}

/// What a breach makes wait for; `next`: where the update would go on to.
pub fn breach(decision: &Decision, next: Option<&Asked>) -> Wait {
    let on = match next {
        // What was approved before the breach is no answer to it.
        Some(next) if decision.approved_before.as_deref() == Some(next.text.as_str()) => {
            format!("spec.control.routing: \"{}\"", next.text)
        }
        Some(next) => format!("spec.control.approved: \"{}\" or a ratio in spec.control.routing", next.text),
        None => "spec.control.outcome: Complete".to_owned(),
    };
    let message = format!("{}; go on with {on}, or back with spec.control.outcome: Rollback", decision.message);
    Wait(verdict::breach_word(&decision.reason), message)
}

/// What is said in the moment between a breach and the rollback that it brings about.
pub fn going_back(decision: &Decision) -> Wait {
    Wait(verdict::breach_word(&decision.reason), format!("{}; all traffic goes back to the old version", decision.message))
}

/// Reason of Ready while a step waits for a verdict, ...
pub const AWAITING: &str = "AwaitingVerdict";
/// ... and has waited too long.
const OVERDUE: &str = "AnalysisDeadlineExceeded";

/// Why there is no verdict, where Ready says no more than that there is none.
pub fn held_by<'a>(status: &'a RollingUpdateStatus, ready: Option<&String>) -> Option<&'a str> {
    let decision = status.decision.as_ref().filter(|_| ready.is_some_and(|reason| [AWAITING, OVERDUE].contains(&reason.as_str())));
    decision.map(|d| d.reason.as_str())
}

/// What is said while a step waits for a verdict; too long, and a person is needed.
pub fn no_verdict(turn: &mut Turn<'_>, wish: &Wish, decision: &Decision) -> Wait {
    let why = match wish.source {
        Source::None => decision.message.clone(),
        _ => format!("{}: {}", decision.reason, decision.message),
    };
    let since = turn.obs.status.step.as_ref().map(|s| s.since).or(turn.obs.status.state_since).unwrap_or(turn.now);
    if !turn.is_past(since + wish.analysis_deadline) {
        return Wait(AWAITING, why);
    }
    let deadline = crate::api::duration::print(wish.analysis_deadline);
    let message = format!("no verdict within {deadline}: {why}; go on with spec.control.routing, or roll back with spec.control.outcome");
    Wait(OVERDUE, message)
}

/// At x:0, where no step comes any more: what keeps the old version from being retired. Past a breach only a person goes.
pub fn at_the_end(turn: &mut Turn<'_>, wish: &Wish, decision: &Decision, all_new: &Asked) -> Option<Wait> {
    if wish.orders.outcome == Some(Outcome::Complete) {
        return None;
    }
    if decision.verdict == Verdict::Unhealthy {
        return Some(breach(decision, None));
    }
    if awaits_approval(wish, all_new.ratio) {
        let message = format!("completion waits for spec.control.approved: \"{}\" or spec.control.outcome: Complete", all_new.text);
        return Some(Wait("AwaitingApproval", message));
    }
    if wish.source == Source::None || decision.verdict == Verdict::Healthy {
        return None;
    }
    let time = turn.obs.status.step.as_ref().and_then(|s| s.next_not_before);
    time.is_none_or(|t| turn.is_past(t)).then(|| no_verdict(turn, wish, decision))
}

/// Whether getting to that ratio, or being done with it, takes an approval that is not there.
pub fn awaits_approval(wish: &Wish, ratio: Ratio) -> bool {
    wish.manual_approval && wish.orders.approved.as_ref().is_none_or(|a| ratio.exceeds(a.ratio))
}

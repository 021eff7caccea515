//! How many pods the versions have: from `spec.instances`, and never fewer in the middle of an update.

use std::time::Duration;

use serde_json::json;

use crate::api::State;
use crate::cluster::facts::{Deployment, Kind};
use crate::cluster::patch;
use crate::rollout::decide::Turn;
use crate::rollout::wish::Wish;

/// An autoscaler that saw half of the traffic has this long to see all of it before its smaller size is followed.
const SECOND_LOOK: Duration = Duration::from_mins(1);
/// Held while the live version has the size that is asked for: what is asked next is asked in view of all the traffic.
const AS_ASKED: &str = "as many pods as asked for";
/// Held while it has more than an autoscaler asked for in the middle of an update.
const TOO_MANY: &str = "more pods than asked for";

/// While an update is on: more pods where more are wanted, of both versions, since either may have to carry everything.
pub fn grow(turn: &mut Turn<'_>, wish: &Wish) {
    let obs = turn.obs;
    let (recorded, old_size) = (obs.instances(), obs.old.wanted());
    let wanted = wish.instances.unwrap_or(old_size).max(recorded);
    let asked_for_more = wish.instances.is_some_and(|n| n > recorded);
    if let Some(old) = obs.old.deployment.as_ref().filter(|d| asked_for_more && d.replicas < wanted && obs.autoscaler.is_none()) {
        scale(turn, old, wanted, "the old version can take it all back");
    }
    if let Some(new) = obs.new_deployment().filter(|d| d.replicas < wanted && !d.meta.deleting) {
        scale(turn, new, wanted, "the new version has as many pods as are wanted");
    }
    turn.status.new_instances = Some(wanted);
    // A size of 0 is not one to come back to.
    if old_size > 0 {
        turn.status.old_instances = Some(old_size);
    }
}

/// At rest: the live version has the size that is asked for.
pub fn follow(turn: &mut Turn<'_>, wish: &Wish) {
    let (obs, state) = (turn.obs, turn.obs.status.state);
    let live = if state == State::Completed { &obs.new } else { &obs.old };
    let (Some(wanted), Some(live)) = (wish.instances, &live.deployment) else { return };
    if live.replicas == wanted {
        turn.held(AS_ASKED);
        return;
    }
    // A size that was asked for a version that did not stay is not the old version's; one that is asked after that is.
    let meant = state == State::Completed || obs.status.new_instances != Some(wanted);
    let elsewhere = obs.autoscaler.is_some() && live.meta.name == obs.objects.workload;
    if live.replicas == 0 || !meant || elsewhere || live.meta.deleting {
        return;
    }
    let size = if wanted > live.replicas { Some(wanted) } else { fewer(turn, live.replicas, wanted) };
    if let Some(size) = size {
        scale(turn, live, size, "the live version has the size that is asked for");
        turn.status.new_instances = Some(size);
    }
}

/// How many of `size` pods stay when `wanted` are asked for. `None`: all of them, for now.
///
/// An autoscaler never takes back a size it once asked for if the size that is there turns out to be about right. So
/// what it asked for while it saw part of the traffic is come to slowly: it can object to every pod that goes.
fn fewer(turn: &mut Turn<'_>, size: i32, wanted: i32) -> Option<i32> {
    let rested = turn.obs.status.state_since.is_none_or(|since| turn.is_past(since + SECOND_LOOK));
    if !turn.obs.autoscaled || turn.memory.since.contains_key(AS_ASKED) {
        return rested.then(|| {
            turn.held(AS_ASKED);
            wanted
        });
    }
    let could_object = turn.held_for(TOO_MANY, SECOND_LOOK);
    (rested && could_object).then(|| {
        turn.forget(TOO_MANY);
        next_below(size).max(wanted)
    })
}

/// One pod in ten fewer, at least one: about as much as an autoscaler leaves alone.
fn next_below(size: i32) -> i32 {
    size - (size / 10).max(1)
}

fn scale(turn: &mut Turn<'_>, deployment: &Deployment, replicas: i32, why: &'static str) {
    let ops = vec![
        patch::test("/metadata/uid", json!(deployment.meta.uid)),
        patch::test("/spec/replicas", json!(deployment.replicas)),
        patch::replace("/spec/replicas", json!(replicas)),
    ];
    turn.patch(why, Kind::Deployment, &deployment.meta, ops);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_down_by_a_tenth_or_by_one() {
        let steps = [(100, 90), (19, 18), (10, 9), (8, 7), (2, 1)];
        assert_eq!(steps.map(|(size, _)| next_below(size)), steps.map(|(_, next)| next));
    }
}

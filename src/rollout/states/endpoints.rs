//! Pods mode: takes the Service's endpoints to a ratio, always a pod in before a pod out.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::Ratio;
use crate::cluster::facts::{Kind, Pod};
use crate::rollout::decide::Turn;
use crate::rollout::model::{Observation, Side, count};
use crate::traffic::apex;
use crate::traffic::pods::{self, Share};

use super::Wait;

/// Pods in service that a ratio comes to.
pub fn share(obs: &Observation, ratio: Ratio) -> Share {
    Share::of(ratio, obs.old.wanted(), obs.instances())
}

/// The Service sends traffic to exactly the pods that the ratio comes to.
pub fn carries(obs: &Observation, ratio: Ratio) -> bool {
    let share = share(obs, ratio);
    let shown = &obs.apex_endpoints.ready;
    let only = |side: &Side| !shown.is_empty() && shown.iter().all(|p| side.pod_names().contains(p.as_str()));
    match (share.new, share.old) {
        (0, _) => is_pinned(obs, &obs.old) && only(&obs.old),
        (_, 0) => is_pinned(obs, &obs.new) && only(&obs.new),
        _ => {
            let (new, old) = (in_service(obs, &obs.new), in_service(obs, &obs.old));
            let names: BTreeSet<&String> = new.iter().chain(&old).map(|p| &p.meta.name).collect();
            is_serving(obs) && (count(&new), count(&old)) == (share.new, share.old) && shown.iter().collect::<BTreeSet<_>>() == names
        }
    }
}

/// Does the next thing on the way to a ratio. `Some`: it may not be done.
pub fn go_to(turn: &mut Turn<'_>, ratio: Ratio) -> Option<Wait> {
    let obs = turn.obs;
    let share = share(obs, ratio);
    if share.new == 0 {
        pin(turn, &obs.old, "all new connections go to the old version");
        return None;
    }
    if obs.new.ready() < share.new && share.new > count(in_service(obs, &obs.new)) {
        let (ready, needed) = (obs.new.ready(), share.new);
        return Some(Wait("NotEnoughEndpoints", format!("{ratio} needs {needed} ready pods of the new version, {ready} are")));
    }
    if share.old == 0 {
        pin(turn, &obs.new, "all new connections go to the new version");
        return None;
    }
    let revision = &obs.objects.new_revision;
    if let Some(set) = obs.old.set.as_ref().filter(|s| s.serving.as_ref() != Some(revision)) {
        turn.patch("pods that replace others serve as well", Kind::ReplicaSet, &set.meta, pods::born_serving(set, Some(revision)));
    }
    if is_serving(obs) {
        shift(turn, share);
    } else {
        select_serving(turn);
    }
    None
}

/// From a pin to the serving label: first the pods that are in service get it, so that nothing changes.
fn select_serving(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let revision = &obs.objects.new_revision;
    let shown = &obs.apex_endpoints.ready;
    for pod in obs.old.pods.iter().chain(&obs.new.pods) {
        let (serves, is_shown) = (pods::serves(pod, revision), shown.contains(&pod.meta.name));
        if is_shown && !serves {
            turn.patch("what serves says so", Kind::Pod, &pod.meta, pods::enlist(pod, revision));
        } else if serves && !is_shown && obs.new.pods.contains(pod) {
            turn.patch("what does not serve does not say so", Kind::Pod, &pod.meta, pods::dismiss(pod));
        }
    }
    // The EndpointSlice controller must have seen the labels before it is told to go by them. Pods of the old version
    // that carry one already, as they are born with it, may come in as well.
    let old = obs.old.pod_names();
    let more = || obs.serving.ready.difference(shown).all(|p| old.contains(p.as_str()));
    let seen = !shown.is_empty() && obs.serving.ready.is_superset(shown) && more();
    if let Some(apex) = obs.apex.as_ref().filter(|_| !turn.acts() && seen) {
        let ops = apex::pin(apex, &pods::serving(revision));
        turn.patch("the pods in service are chosen one by one", Kind::Service, &apex.meta, ops);
    }
}

/// Pods in, seen, then pods out.
fn shift(turn: &mut Turn<'_>, share: Share) {
    let obs = turn.obs;
    let revision = &obs.objects.new_revision;
    for (side, wanted) in [(&obs.new, share.new), (&obs.old, share.old)] {
        let missing = wanted - count(in_service(obs, side).into_iter().filter(|p| p.ready));
        let idle = side.staying().filter(|p| p.ready && !pods::serves(p, revision));
        for pod in idle.take(usize::try_from(missing).unwrap_or_default()) {
            turn.patch("a pod comes into service", Kind::Pod, &pod.meta, pods::enlist(pod, revision));
        }
    }
    if turn.acts() {
        return;
    }
    let shown = |side: &Side| count(side.staying().filter(|p| obs.apex_endpoints.ready.contains(&p.meta.name)));
    if shown(&obs.new) < share.new || shown(&obs.old) < share.old {
        return;
    }
    for (side, wanted) in [(&obs.new, share.new), (&obs.old, share.old)] {
        let mut pods = in_service(obs, side);
        pods.sort_by_key(|p| p.ready);
        let surplus = usize::try_from(count(&pods) - wanted).unwrap_or_default();
        for pod in pods.into_iter().take(surplus) {
            turn.patch("a pod goes out of service", Kind::Pod, &pod.meta, pods::dismiss(pod));
        }
    }
}

/// Takes every trace of the serving label away; nothing selects it any more.
pub fn tidy(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let revision = &obs.objects.new_revision;
    if !obs.by_pods() || is_serving(obs) {
        return;
    }
    if let Some(set) = obs.old.set.as_ref().filter(|s| s.serving.is_some()) {
        turn.patch("pods are born as they were", Kind::ReplicaSet, &set.meta, pods::born_serving(set, None));
    }
    for pod in obs.old.staying().chain(obs.new.staying()).filter(|p| pods::serves(p, revision)) {
        turn.patch("the Service does not go by this any more", Kind::Pod, &pod.meta, pods::dismiss(pod));
    }
}

/// The apex goes by the serving label.
pub fn is_serving(obs: &Observation) -> bool {
    obs.apex.as_ref().is_some_and(|a| apex::is_pinned_to(a, &pods::serving(&obs.objects.new_revision)))
}

fn is_pinned(obs: &Observation, side: &Side) -> bool {
    obs.apex.as_ref().zip(side.pin.as_ref()).is_some_and(|(apex, pin)| apex::is_pinned_to(apex, pin))
}

fn in_service<'a>(obs: &Observation, side: &'a Side) -> Vec<&'a Arc<Pod>> {
    side.staying().filter(|p| pods::serves(p, &obs.objects.new_revision)).collect()
}

fn pin(turn: &mut Turn<'_>, side: &Side, why: &'static str) {
    if let (Some(apex), Some(pin)) = (&turn.obs.apex, &side.pin)
        && !apex::is_pinned_to(apex, pin)
    {
        turn.patch(why, Kind::Service, &apex.meta, apex::pin(apex, pin));
    }
}

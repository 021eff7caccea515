//! Pods mode: takes the Service's endpoints to a ratio, always a pod in before a pod out.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::{Ratio, names};
use crate::cluster::facts::{Deployment, Kind, Pod};
use crate::cluster::patch;
use crate::rollout::build;
use crate::rollout::decide::Turn;
use crate::rollout::model::{Observation, Side, count};
use crate::traffic::apex;
use crate::traffic::pods::{self, Share};

use super::Wait;

/// The Service sends traffic to exactly the pods that the ratio comes to.
pub fn carries(obs: &Observation, ratio: Ratio) -> bool {
    let share = obs.share(ratio);
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

/// More pods of the new version serve than the one ratio comes to, and no more than the other does: a process that is gone
/// had begun to go there. Its last writes may not be seen yet; to take out what it had taken in could leave too few.
pub fn is_between(obs: &Observation, from: Ratio, to: Ratio) -> bool {
    let (from, to) = (obs.share(from), obs.share(to));
    let new = count(in_service(obs, &obs.new));
    is_serving(obs) && to.old > 0 && from.new < new && new <= to.new
}

/// Does the next thing on the way to a ratio. `Some`: it may not be done.
pub fn go_to(turn: &mut Turn<'_>, ratio: Ratio) -> Option<Wait> {
    let obs = turn.obs;
    let share = obs.share(ratio);
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
    let held = obs.old.deployment.as_ref().is_some_and(|d| d.paused);
    if let Some(set) = obs.old.set.as_ref().filter(|s| held && s.serving.as_ref() != Some(revision)) {
        turn.patch("pods that replace others serve as well", Kind::ReplicaSet, &set.meta, pods::born_serving(set, Some(revision)));
    }
    if is_serving(obs) {
        shift(turn, share);
    } else if held {
        select_serving(turn);
    }
    None
}

/// From a pin to the serving label: first the pods that are in service get it, so that nothing changes.
fn select_serving(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let revision = &obs.objects.new_revision;
    let shown = &obs.apex_endpoints.ready;
    let pinned = [&obs.old, &obs.new].into_iter().find(|side| is_pinned(obs, side)).map(Side::pod_names).unwrap_or_default();
    if !shown.iter().all(|p| pinned.contains(p.as_str())) {
        // What is known of the endpoints is older than the pin.
        return;
    }
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
    // One that has just gone out of service may be shown still.
    let shown = |side: &Side| count(in_service(obs, side).into_iter().filter(|p| obs.apex_endpoints.ready.contains(&p.meta.name)));
    if shown(&obs.new) < share.new || shown(&obs.old) < share.old {
        return;
    }
    for (side, wanted) in [(&obs.new, share.new), (&obs.old, share.old)] {
        let mut pods = in_service(obs, side);
        first_to_go(&mut pods, &obs.apex_endpoints.ready);
        let surplus = usize::try_from(count(&pods) - wanted).unwrap_or_default();
        for pod in pods.into_iter().take(surplus) {
            turn.patch("a pod goes out of service", Kind::Pod, &pod.meta, pods::dismiss(pod));
        }
    }
}

/// Sorts pods by when they go out of service: those that callers reach stay longest.
fn first_to_go(pods: &mut [&Arc<Pod>], shown: &BTreeSet<String>) {
    pods.sort_by_key(|p| (p.ready, shown.contains(&p.meta.name)));
}

/// Takes every trace of the serving label away; nothing selects it any more.
pub fn tidy(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    if !obs.by_pods() || is_serving(obs) {
        return;
    }
    be_born_as_before(turn);
    if let Some(set) = obs.old.set.as_ref().filter(|s| s.serving.is_none() && s.meta.annotations.contains_key(names::FENCE)) {
        let mut ops = vec![patch::only_at(&set.meta)];
        ops.extend(patch::clear_annotations(&set.meta, &[names::FENCE]));
        turn.patch("nothing is held any more", Kind::ReplicaSet, &set.meta, ops);
    }
    let old = obs.old.staying().filter(|p| !obs.new.pods.contains(p));
    dismiss(turn, old.chain(obs.new.staying()));
}

/// The label of an earlier release may be there as well.
fn dismiss<'a>(turn: &mut Turn<'_>, pods: impl Iterator<Item = &'a Arc<Pod>>) {
    for pod in pods.filter(|p| p.meta.labels.contains_key(names::SERVING)) {
        turn.patch("the Service does not go by this any more", Kind::Pod, &pod.meta, pods::dismiss(pod));
    }
}

fn be_born_as_before(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    for set in obs.old.edited.iter().chain(obs.new.edited.iter().filter(|s| !obs.old.edited.contains(s))) {
        turn.patch("pods are born as they were", Kind::ReplicaSet, &set.meta, pods::born_serving(set, None));
    }
}

/// Somebody has let the workload go, and its edited ReplicaSet is being replaced by one of the very same pods, which no
/// selector names. Whether that is being undone: once the first one is again what the template says, the Deployment goes
/// back to it, and only then can it be held again with all pods in one.
pub fn reverts(turn: &mut Turn<'_>, workload: &Deployment) -> bool {
    if !turn.obs.by_pods() || !build::is_as_paused(workload) {
        return false;
    }
    be_born_as_before(turn);
    let w = workload;
    turn.acts() || w.observed_generation < w.meta.generation || w.updated != w.total
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::facts::Meta;

    /// Where an order changes in the middle of a step, a pod that has just come in goes again, not the one that serves.
    #[test]
    fn what_callers_reach_goes_last() {
        let pod = |name: &str, ready| Arc::new(Pod { meta: Meta { name: name.into(), ..Meta::default() }, ready, ..Pod::default() });
        let (shown, unseen, unready) = (pod("shown", true), pod("unseen", true), pod("unready", false));
        let mut pods = [&shown, &unseen, &unready];
        first_to_go(&mut pods, &["shown".to_owned()].into());
        assert_eq!(pods.map(|p| p.meta.name.as_str()), ["unready", "unseen", "shown"]);
    }
}

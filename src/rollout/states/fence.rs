//! A process that takes over does not know what its predecessor was about to write. As long as it goes on in the same
//! direction, a write that was held up comes to the same. Where it turns round, it marks first what that write may be
//! for: every such write is bound to the version of the object that was looked at, so it is refused from then on.

use serde_json::json;

use crate::api::names;
use crate::cluster::facts::{Kind, Meta};
use crate::cluster::patch;
use crate::traffic::apex;

use crate::rollout::build::short_hash;
use crate::rollout::decide::Turn;

/// The update goes back: nothing that would bring it forward may arrive any more.
pub fn turn_back(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    if turn.leads_from_start() {
        return;
    }
    for route in &obs.routes {
        mark(turn, Kind::HttpRoute, &route.meta);
    }
    if let Some(apex) = &obs.apex {
        mark(turn, Kind::Service, &apex.meta);
    }
    if let Some(workload) = &obs.workload {
        mark(turn, Kind::Deployment, &workload.meta);
    }
    // One that was edited already is written anyway. The mark goes with the other traces of the shift.
    if let Some(set) = obs.old.set.as_ref().filter(|s| obs.by_pods() && s.serving.is_none()) {
        mark(turn, Kind::ReplicaSet, &set.meta);
    }
}

/// A release begins on what the last one holds still: nothing that would give it back may arrive any more.
pub fn turn_forward(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    if turn.leads_from_start() {
        return;
    }
    if let Some(apex) = obs.apex.as_ref().filter(|a| apex::is_pinned(a)) {
        mark(turn, Kind::Service, &apex.meta);
    }
    if let Some(workload) = obs.workload.as_ref().filter(|_| obs.holds_workload()) {
        mark(turn, Kind::Deployment, &workload.meta);
    }
}

/// A write of this turn does as well.
fn mark(turn: &mut Turn<'_>, kind: Kind, meta: &Meta) {
    let value = short_hash(&format!("{} {:?}", turn.obs.owner().release, turn.obs.status.state_since));
    if turn.patches(kind, meta) || meta.annotations.get(names::FENCE) == Some(&value) {
        return;
    }
    // A mark that is held up itself must not come when all is over.
    let mut ops = vec![patch::only_at(meta)];
    ops.extend(patch::annotate(meta, &[(names::FENCE, value)]));
    turn.patch("what another process was about to write must not arrive any more", kind, meta, ops);
}

/// The marks go where no other write has taken them away.
pub fn clear(turn: &mut Turn<'_>) {
    let obs = turn.obs;
    let routes = obs.routes.iter().map(|r| (Kind::HttpRoute, &r.meta));
    let all =
        routes.chain(obs.apex.iter().map(|a| (Kind::Service, &a.meta))).chain(obs.workload.iter().map(|w| (Kind::Deployment, &w.meta)));
    for (kind, meta) in all.filter(|(_, meta)| meta.annotations.contains_key(names::FENCE)) {
        let mut ops = vec![patch::test("/metadata/uid", json!(meta.uid))];
        ops.extend(patch::clear_annotations(meta, &[names::FENCE]));
        turn.patch("nothing is held any more", kind, meta, ops);
    }
}

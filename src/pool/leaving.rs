//! The pool is being deleted: its proxies go first, or are let go of.

use crate::api::names;

use super::model::{Action, Deed, Needs, Note, Observation, Plan};
use super::plan::Turn;

/// Releases a pool that need not wait for its cloud: one whose proxies are let go of, or that never ordered any. Neither
/// the spec nor the credentials may stand in its way. The version that was looked at is the lock: an order that is not
/// seen here has changed it.
pub fn let_go(obs: &Observation, plan: &mut Plan) -> bool {
    let is_held = obs.meta.finalizers.iter().any(|f| f == names::POOL_FINALIZER);
    let shows_none = obs.list.iter().flat_map(|l| &l.vms).all(|vm| vm.marks.pool != obs.meta.uid);
    let never_ordered = obs.status.epoch == 0 && obs.status.in_flight.is_empty() && shows_none;
    if !obs.meta.deleting || !is_held || !(obs.orphan || never_ordered) {
        return false;
    }
    let why = if never_ordered { "nothing was ever ordered for it" } else { "the proxies are let go of" };
    if !never_ordered {
        let message = format!("deletionPolicy is Orphan: the proxies of {} are left to themselves", obs.meta.name);
        plan.notes.push(Note { warning: true, reason: "Orphaned", message });
    }
    plan.actions.push(Action { why, deed: Deed::Release, needs: Needs::Unchanged(obs.meta.resource_version.clone()) });
    true
}

/// Deletes what carries the pool's UID, without floor; the finalizer goes after two lists in a row that show nothing of
/// it (rule I10): one list alone may be older than a VM that was just ordered.
pub fn go_on(turn: &mut Turn<'_>) {
    if !turn.is_held() || let_go(turn.obs, &mut turn.plan) {
        return;
    }
    let unchanged = Needs::Unchanged(turn.obs.meta.resource_version.clone());
    let Some(at) = turn.obs.list.as_ref().map(|l| l.at).filter(|_| turn.can_act) else { return };
    let left: Vec<_> = turn.census.all().collect();
    if !left.is_empty() {
        turn.plan.memory.empty_since = None;
        for proxy in left {
            turn.delete("the pool is being deleted", &proxy);
        }
        return;
    }
    let first = *turn.plan.memory.empty_since.get_or_insert(at);
    if first < at {
        turn.flights.clear();
        turn.act("two lists in a row show nothing of the pool", Deed::Release, unchanged);
    }
}

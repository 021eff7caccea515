//! The pool is being deleted: its proxies go first, or are let go of.

use crate::api::proxy_pool::DeletionPolicy;

use super::model::{Deed, Needs};
use super::plan::Turn;

/// Deletes what carries the pool's UID, without floor; the finalizer goes after two lists in a row that show nothing of
/// it (rule I10): one list alone may be older than a VM that was just ordered.
pub fn go_on(turn: &mut Turn<'_>) {
    if !turn.is_held() {
        return;
    }
    let unchanged = Needs::Unchanged(turn.obs.meta.resource_version.clone());
    if turn.wish.deletion == DeletionPolicy::Orphan {
        let left = turn.census.proxies.len();
        turn.note(true, "Orphaned", format!("deletionPolicy is Orphan: {left} proxies of {} are left to themselves", turn.wish.title()));
        turn.act("the proxies are let go of", Deed::Release, unchanged);
        return;
    }
    let Some(at) = turn.obs.list.as_ref().map(|l| l.at).filter(|_| turn.can_act) else { return };
    if !turn.census.proxies.is_empty() {
        turn.plan.memory.empty_since = None;
        for proxy in turn.census.proxies.clone() {
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

//! Somebody else undoes what the update stands on: it is put back, and not for ever.

use std::time::Duration;

use chrono::TimeDelta;

use crate::api::conditions::CONFLICTING_MANAGER;
use crate::api::rolling_update::Interference;
use crate::api::{RollingUpdateStatus, Time};
use crate::cluster::facts::{Kind, Meta};
use crate::rollout::decide::{Cause, Turn};

/// So often, and within this time, is a fight.
const TIMES: usize = 3;
const WITHIN: TimeDelta = TimeDelta::minutes(5);
/// So many are remembered.
const KEPT: usize = 20;

/// A fight is told of for so long after it has ended.
pub const MEMORY: Duration = Duration::from_mins(5);

/// Whether somebody has undone something of ours lately.
pub fn is_recent(status: &RollingUpdateStatus, now: Time) -> bool {
    status.interference.iter().any(|i| now - i.at < WITHIN)
}

/// Records that something of ours is being put back. `Some`: it was done so often that it is a fight, which is ended by
/// giving in.
pub fn put_back(turn: &mut Turn<'_>, kind: Kind, meta: &Meta) -> Option<Cause> {
    let (now, object) = (turn.now, format!("{} {}", kind.gvk().2, meta.name));
    let manager = meta.last_writer.clone().unwrap_or_else(|| "unknown".to_owned());
    let told = &mut turn.status.interference;
    told.retain(|i| now - i.at < WITHIN);
    // Counted for each object: one sync of a tool may well rewrite all of them.
    let count = told.iter().filter(|i| i.object == object).count() + 1;
    let message = format!("{manager} has rewritten {object}, which this update stands on");
    if count >= TIMES {
        return Some(Cause {
            reason: CONFLICTING_MANAGER,
            message: format!("{message}, {TIMES} times in five minutes; have it leave the weights, the selector and the pause alone"),
            by: "operator",
        });
    }
    told.push(Interference { at: now, object, manager });
    let surplus = told.len().saturating_sub(KEPT);
    told.drain(..surplus);
    turn.warn("PutBack", format!("{message}; put back ({count} of {TIMES} in five minutes)"));
    None
}

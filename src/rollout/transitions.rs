//! The legal moves between states, as data: decisions, documentation and tests read this one table.

use crate::api::State;

use State::{Completed, Completing, Deployed, Deploying, Failed, Pending, RolledBack, RollingBack, Routing};

/// Every legal move and when it is made.
pub const EDGES: [(State, State, &str); 24] = [
    (Pending, Deploying, "all preconditions are met"),
    (Pending, Completed, "the wanted version is live already"),
    (Pending, RollingBack, "a rollback was ordered; nothing was touched yet"),
    (Deploying, Deployed, "the new version is ready and the routes name both versions at 0:1"),
    (Deploying, RollingBack, "ordered, deadline passed, superseded, or the API server refused the pods"),
    (Deployed, Routing, "the first ratio above 0:1 is in force"),
    (Deployed, RollingBack, "ordered or superseded"),
    (Routing, Completing, "x:0 is confirmed and the update may be completed"),
    (Routing, RollingBack, "ordered, breached or superseded"),
    (Completing, Completed, "the old version is gone, or stays by policy"),
    (Completing, RollingBack, "ordered or superseded while the old version still has its pods"),
    (RollingBack, RolledBack, "nothing of the new version is left"),
    (Completed, Pending, "spec.version or spec.attempt changed"),
    (RolledBack, Pending, "spec.version or spec.attempt changed"),
    (Failed, Pending, "spec.version or spec.attempt changed"),
    // A release that follows at once is recorded from PENDING on, but written in one go.
    (Completed, Deploying, "as COMPLETED to PENDING to DEPLOYING"),
    (RolledBack, Deploying, "as ROLLED_BACK to PENDING to DEPLOYING"),
    (Failed, Deploying, "as FAILED to PENDING to DEPLOYING"),
    (Pending, Failed, "neither end can be reached"),
    (Deploying, Failed, "neither end can be reached"),
    (Deployed, Failed, "neither end can be reached"),
    (Routing, Failed, "neither end can be reached"),
    (Completing, Failed, "neither end can be reached"),
    (RollingBack, Failed, "the rollback is done and the cause needs a person, or it cannot be done"),
];

/// What bounds the time in each state, and what happens when it is over. Readiness that comes and goes resets none of them.
pub const DEADLINES: [(State, &str, &str); 9] = [
    (Pending, "none", "nothing was touched yet; the reason says what is missing"),
    (Deploying, "progression.deployDeadline", "ROLLING_BACK (DeployDeadlineExceeded)"),
    (Deployed, "progression.analysisDeadline", "holds, and says so (AnalysisDeadlineExceeded)"),
    (Routing, "progression.analysisDeadline, at each step", "holds, and says so (AnalysisDeadlineExceeded)"),
    (Completing, "drain, or 5 minutes with cleanupPolicy GRACE_PERIOD", "the old version goes, or the reason says what is in its way"),
    (Completed, "none", "the update is over"),
    (
        RollingBack,
        "settle + drain; one minute for a gateway that never says anything",
        "the new version goes, or the reason says what is in its way",
    ),
    (RolledBack, "none", "the update is over"),
    (Failed, "none", "the update is over"),
];

/// Whether a status may go from one state to the other in one write.
pub fn is_legal(from: State, to: State) -> bool {
    from == to || EDGES.iter().any(|(f, t, _)| (*f, *t) == (from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_but_the_first_is_reached_and_every_state_has_an_exit() {
        for state in State::ALL {
            assert!(state == Pending || EDGES.iter().any(|(_, to, _)| *to == state), "{state} is never reached");
            assert!(EDGES.iter().any(|(from, _, _)| *from == state), "{state} has no exit");
        }
    }

    #[test]
    fn every_state_has_its_deadline() {
        assert_eq!(DEADLINES.map(|(state, ..)| state), State::ALL);
    }

    #[test]
    fn a_terminal_state_is_left_only_for_a_new_version_or_attempt() {
        for (from, to, _) in EDGES.iter().filter(|(from, _, _)| from.is_terminal()) {
            assert!(matches!(to, Pending | Deploying), "{from} -> {to}");
        }
    }
}

//! The shift gate: whether a route's parents have acknowledged the weights written last.
//!
//! Acknowledged is not in force: gateways write status before their data plane moves (Traefik by
//! up to its throttle), so callers let `settle` pass as well.

use crate::cluster::facts::{HttpRoute, ParentStatus};

/// What the parents of a route say about its present generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Every parent accepted this generation with all its backends.
    Confirmed,
    /// A parent has not spoken yet, or of an older generation.
    Silent(String),
    /// A parent refuses.
    Refused(String),
}

/// Reads the gate of one route.
pub fn of(route: &HttpRoute) -> Gate {
    let name = &route.meta.name;
    if route.parents.is_empty() {
        return Gate::Refused(format!("route {name} has no parent; name a Gateway in its parentRefs"));
    }
    for parent in &route.parents {
        let mut spoken = route.statuses.iter().filter(|s| s.parent == *parent).peekable();
        if spoken.peek().is_none() {
            return Gate::Silent(format!("no controller has written a status for route {name} under {}", parent.name));
        }
        for status in spoken {
            match of_parent(name, status, route.meta.generation) {
                Gate::Confirmed => {}
                other => return other,
            }
        }
    }
    Gate::Confirmed
}

fn of_parent(route: &str, status: &ParentStatus, generation: i64) -> Gate {
    let parent = &status.parent.name;
    let condition = |type_: &str| status.conditions.iter().find(|c| c.type_ == type_);
    for needed in ["Accepted", "ResolvedRefs"] {
        let Some(c) = condition(needed).filter(|c| c.observed_generation >= generation) else {
            return Gate::Silent(format!("{parent} has not acknowledged generation {generation} of route {route}"));
        };
        if c.status != "True" {
            return Gate::Refused(format!("{parent} says {needed}={} for route {route}: {}: {}", c.status, c.reason, c.message));
        }
    }
    match condition("PartiallyInvalid").filter(|c| c.status == "True") {
        Some(c) => Gate::Refused(format!("{parent} uses only part of route {route}: {}: {}", c.reason, c.message)),
        None => Gate::Confirmed,
    }
}

/// The gate of several routes: the worst of them.
pub fn of_all<'a>(routes: impl IntoIterator<Item = &'a HttpRoute>) -> Gate {
    let mut worst = Gate::Confirmed;
    for route in routes {
        match (of(route), &worst) {
            (refused @ Gate::Refused(_), _) => return refused,
            (silent @ Gate::Silent(_), Gate::Confirmed) => worst = silent,
            _ => {}
        }
    }
    worst
}

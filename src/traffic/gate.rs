//! The shift gate: whether a route's parents have acknowledged the weights written last.
//!
//! Acknowledged is not in force: gateways write status before their data plane moves (Traefik by
//! up to its throttle), so callers let `settle` pass as well.

use crate::cluster::facts::{HttpRoute, ParentRef, ParentStatus};

/// What a parent of a route says about its present generation. What is worse comes later; the texts say what a person
/// should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// It accepted this generation with all its backends.
    Confirmed,
    /// Nobody speaks for it, or there is no parent.
    Mute(String),
    /// Its controller has spoken, but not of this generation.
    Silent(String),
    /// It refuses.
    Refused(String),
}

/// The gate of several routes: the worst that any of their parents says.
pub fn of_all<'a>(routes: impl IntoIterator<Item = &'a HttpRoute>) -> Gate {
    routes.into_iter().flat_map(of_each_parent).max().unwrap_or(Gate::Confirmed)
}

/// What each parent of a route says; never nothing.
pub fn of_each_parent(route: &HttpRoute) -> Vec<Gate> {
    if route.parents.is_empty() {
        let name = &route.meta.name;
        return vec![Gate::Mute(format!("route {name} has no parent, so no gateway serves it; name a Gateway in its parentRefs"))];
    }
    route.parents.iter().map(|parent| of_parent(route, parent)).collect()
}

fn of_parent(route: &HttpRoute, parent: &ParentRef) -> Gate {
    let said = route.statuses.iter().filter(|s| s.parent == *parent).map(|status| of_status(route, status));
    said.max().unwrap_or_else(|| {
        Gate::Mute(format!(
            "no controller has written a status for route {} under {parent}; check that {parent} exists and that its controller runs",
            route.meta.name
        ))
    })
}

fn of_status(route: &HttpRoute, status: &ParentStatus) -> Gate {
    let ParentStatus { parent, controller, conditions } = status;
    let (name, generation) = (&route.meta.name, route.meta.generation);
    let condition = |type_: &str| conditions.iter().find(|c| c.type_ == type_);
    let why = |reason: &str, message: &str| if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") };
    for needed in ["Accepted", "ResolvedRefs"] {
        let Some(c) = condition(needed) else {
            return Gate::Silent(format!(
                "{controller} has not said {needed} of route {name} under {parent} yet; if that lasts, look into its log"
            ));
        };
        if c.observed_generation < generation {
            return Gate::Silent(format!(
                "{controller} has not acknowledged generation {generation} of route {name} under {parent} yet, only {}; \
                 if that lasts, look into its log",
                c.observed_generation
            ));
        }
        if c.status != "True" {
            let why = why(&c.reason, &c.message);
            return Gate::Refused(format!(
                "{controller} says {needed}={} of route {name} under {parent}: {why}; correct the route or {parent}",
                c.status
            ));
        }
    }
    match condition("PartiallyInvalid").filter(|c| c.status == "True") {
        Some(c) => {
            let why = why(&c.reason, &c.message);
            Gate::Refused(format!("{controller} uses only part of route {name} under {parent}: {why}; correct the route or {parent}"))
        }
        None => Gate::Confirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::facts::{Fact, Kind};
    use rstest::rstest;
    use serde_json::{Value, json};

    const OK: [(&str, &str, i64); 2] = [("Accepted", "True", 3), ("ResolvedRefs", "True", 3)];

    fn edge() -> Value {
        json!({"name": "edge"})
    }

    fn mesh() -> Value {
        json!({"group": "", "kind": "Service", "name": "web"})
    }

    #[allow(clippy::needless_pass_by_value, reason = "made for being passed")]
    fn said(parent: Value, conditions: &[(&str, &str, i64)]) -> Value {
        let conditions = conditions.iter().map(|(type_, status, generation)| {
            json!({"type": type_, "status": status, "reason": "Because", "message": "", "observedGeneration": generation})
        });
        json!({"parentRef": parent, "controllerName": "x.example/gateway", "conditions": conditions.collect::<Vec<_>>()})
    }

    #[rstest]
    #[case::all_accepted(&[edge(), mesh()], &[said(edge(), &OK), said(mesh(), &OK)], "Confirmed")]
    #[case::defaults_written_out(&[edge()], &[said(json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": "edge"}), &OK)], "Confirmed")]
    #[case::no_parent(&[], &[], "Mute(\"route web has no parent")]
    #[case::nobody_there(&[edge()], &[], "Mute(\"no controller has written a status for route web under Gateway edge;")]
    #[case::a_status_of_somebody_else(&[edge()], &[said(mesh(), &OK)], "Mute(")]
    #[case::an_older_generation(&[edge()], &[said(edge(), &[("Accepted", "True", 2), OK[1]])], "Silent(\"x.example/gateway has not acknowledged generation 3 of route web under Gateway edge yet, only 2;")]
    #[case::a_refusal_of_an_older_generation(&[edge()], &[said(edge(), &[("Accepted", "False", 2)])], "Silent(")]
    #[case::half_a_word(&[edge()], &[said(edge(), &OK[..1])], "Silent(\"x.example/gateway has not said ResolvedRefs")]
    #[case::one_of_two_controllers(&[edge()], &[said(edge(), &OK), said(edge(), &[])], "Silent(")]
    #[case::not_accepted(&[mesh()], &[said(mesh(), &[("Accepted", "False", 3), OK[1]])], "Refused(\"x.example/gateway says Accepted=False of route web under Service web: Because;")]
    #[case::not_resolved(&[edge()], &[said(edge(), &[OK[0], ("ResolvedRefs", "False", 3)])], "Refused(")]
    #[case::used_in_part(&[edge()], &[said(edge(), &[OK[0], OK[1], ("PartiallyInvalid", "True", 3)])], "Refused(\"x.example/gateway uses only part of route web under Gateway edge: Because;")]
    #[case::silence_outweighs_acceptance(&[edge(), mesh()], &[said(edge(), &OK), said(mesh(), &[("Accepted", "True", 2)])], "Silent(")]
    #[case::a_refusal_outweighs_nobody(&[edge(), mesh()], &[said(mesh(), &[("Accepted", "False", 3)])], "Refused(")]
    fn gate(#[case] parents: &[Value], #[case] statuses: &[Value], #[case] wanted: &str) {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "web", "namespace": "shop", "generation": 3},
            "spec": {"parentRefs": parents}, "status": {"parents": statuses},
        });
        let Fact::HttpRoute(route) = Fact::read(Kind::HttpRoute, serde_json::from_value(object).unwrap()) else { unreachable!() };
        let gate = format!("{:?}", of_all([&*route]));
        assert!(gate.starts_with(wanted), "{gate}");
    }
}

//! Guest edits on the user's HTTPRoute.
//!
//! In every rule that names the apex Service, that one backend becomes two, the version Services,
//! at `W*old` and `W*new`; foreign backends of the rule are multiplied by `new+old`, so that their
//! share stays what the user wrote (where the user gave the apex no weight, nothing has to change). Everything else
//! stays byte for byte. The way back needs nothing but the route: `new` and `old` are coprime, so the
//! user's weights can be read off it, also while another update splits another backend of the same rule.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use crate::api::Ratio;
use crate::api::ratio::{MAX_PART, gcd};
use crate::cluster::facts::HttpRoute;
use crate::cluster::patch;

/// Most backends a rule may have (Gateway API).
const MAX_BACKENDS: usize = 16;

/// The three Services a split is about.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// What the user's route names.
    pub apex: &'a str,
    /// The old version's Service.
    pub old: &'a str,
    /// The new version's Service.
    pub new: &'a str,
}

/// Why a route cannot be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// One rule names the apex more than once.
    #[error("rule {rule} of route {route} names Service {service} {times} times; name it once and add up the weights")]
    Twice {
        /// The route.
        route: String,
        /// Index of the rule.
        rule: usize,
        /// The Service.
        service: String,
        /// How often.
        times: usize,
    },
    /// The exact weights would not fit the API.
    #[error(
        "rule {rule} of route {route}: weight {weight} times {factor} is above 1000000; divide the rule's weights or use steps with smaller numbers"
    )]
    TooHeavy {
        /// The route.
        route: String,
        /// Index of the rule.
        rule: usize,
        /// The user's weight.
        weight: u32,
        /// What a step multiplies it with.
        factor: u32,
    },
    /// No room for one more backend.
    #[error("rule {rule} of route {route} has {MAX_BACKENDS} backends already; an update needs room for one more")]
    Full {
        /// The route.
        route: String,
        /// Index of the rule.
        rule: usize,
    },
    /// Only one of the two version Services is named.
    #[error(
        "rule {rule} of route {route} names only one of the Services {old} and {new}; put Service {apex} back there and it will be split again"
    )]
    Half {
        /// The route.
        route: String,
        /// Index of the rule.
        rule: usize,
        /// The old version's Service.
        old: String,
        /// The new version's Service.
        new: String,
        /// The apex.
        apex: String,
    },
}

/// How a rule that concerns the update looks now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Names the apex, at that index.
    Whole(usize),
    /// Names both versions.
    Split { old: usize, new: usize },
}

/// A rule that concerns the update.
struct Rule<'a> {
    index: usize,
    refs: &'a [Value],
    form: Form,
}

fn is_service(reference: &Value, name: &str, namespace: &str) -> bool {
    let field = |key: &str| reference.get(key).and_then(Value::as_str);
    field("name") == Some(name)
        && matches!(field("kind"), None | Some("Service"))
        && matches!(field("group"), None | Some(""))
        && field("namespace").is_none_or(|n| n == namespace)
}

fn weight(reference: &Value) -> u32 {
    reference.get("weight").and_then(Value::as_u64).map_or(1, |w| u32::try_from(w).unwrap_or(MAX_PART))
}

/// Whether any rule of the route names that Service.
pub fn names_service(route: &HttpRoute, service: &str) -> bool {
    let rules = route.rules.as_array().map(Vec::as_slice).unwrap_or_default();
    rules.iter().flat_map(backends).any(|r| is_service(r, service, &route.meta.namespace))
}

fn backends(rule: &Value) -> &[Value] {
    rule.get("backendRefs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn rules<'a>(route: &'a HttpRoute, names: Names<'_>) -> Result<Vec<Rule<'a>>, RouteError> {
    let namespace = &route.meta.namespace;
    let mut found = Vec::new();
    for (index, rule) in route.rules.as_array().into_iter().flatten().enumerate() {
        let refs = backends(rule);
        let at = |name: &str| refs.iter().enumerate().filter(|(_, r)| is_service(r, name, namespace)).map(|(i, _)| i).collect::<Vec<_>>();
        let form = match (at(names.apex).as_slice(), at(names.old).as_slice(), at(names.new).as_slice()) {
            ([], [], []) => continue,
            ([apex], [], []) => Form::Whole(*apex),
            ([], [old], [new]) => Form::Split { old: *old, new: *new },
            ([_, _, ..], _, _) => {
                return Err(RouteError::Twice {
                    route: route.meta.name.clone(),
                    rule: index,
                    service: names.apex.into(),
                    times: at(names.apex).len(),
                });
            }
            _ => {
                return Err(RouteError::Half {
                    route: route.meta.name.clone(),
                    rule: index,
                    old: names.old.into(),
                    new: names.new.into(),
                    apex: names.apex.into(),
                });
            }
        };
        found.push(Rule { index, refs, form });
    }
    Ok(found)
}

/// Checks before the first write that every step can be written exactly.
pub fn check(route: &HttpRoute, names: Names<'_>, steps: &[Ratio]) -> Result<(), RouteError> {
    for rule in rules(route, names)? {
        if matches!(rule.form, Form::Whole(_)) && rule.refs.len() >= MAX_BACKENDS {
            return Err(RouteError::Full { route: route.meta.name.clone(), rule: rule.index });
        }
        for step in steps {
            fits(route, &rule, *step)?;
        }
    }
    Ok(())
}

/// The exact weights of that ratio fit the API.
fn fits(route: &HttpRoute, rule: &Rule<'_>, ratio: Ratio) -> Result<(), RouteError> {
    let (new, old) = ratio.reduced();
    let users = users_weights(rule);
    let weight = users.iter().copied().max().unwrap_or(1);
    let factor = if users.len() > 1 { new + old } else { new.max(old) };
    if u64::from(weight) * u64::from(factor) > u64::from(MAX_PART) {
        return Err(RouteError::TooHeavy { route: route.meta.name.clone(), rule: rule.index, weight, factor });
    }
    Ok(())
}

/// The user's weights of a rule, in the user's order: its own where it is whole, read off where it is split.
fn users_weights(rule: &Rule<'_>) -> Vec<u32> {
    let Form::Split { old, new } = rule.form else { return rule.refs.iter().map(weight).collect() };
    let at = |index: usize| rule.refs.get(index).map(weight).unwrap_or_default();
    // Both versions carry a multiple of coprime parts, so that what they share is the user's weight.
    let users = gcd(at(old), at(new));
    let parts = (at(old) + at(new)).checked_div(users).unwrap_or(1);
    // One that somebody has edited meanwhile may be no multiple: the nearest, and never nothing from something.
    let foreign = |index: usize| ((at(index) + parts / 2) / parts).max(at(index).min(1));
    (0..rule.refs.len()).filter(|index| *index != new).map(|index| if index == old { users } else { foreign(index) }).collect()
}

/// The ratio a route carries now. `None`: it is not split, not everywhere, or not the same everywhere.
pub fn ratio(route: &HttpRoute, names: Names<'_>) -> Option<Ratio> {
    let mut found = None;
    for rule in rules(route, names).ok()? {
        let Form::Split { old, new } = rule.form else { return None };
        let (old, new) = (weight(rule.refs.get(old)?), weight(rule.refs.get(new)?));
        // Both 0: the user gave this backend no traffic, so it says nothing.
        let Some(ratio) = Ratio::new(new, old) else { continue };
        if found.is_some_and(|f| f != ratio) {
            return None;
        }
        found = Some(ratio);
    }
    found
}

/// Whether any rule still names a version Service.
pub fn is_split(route: &HttpRoute, names: Names<'_>) -> bool {
    names_service(route, names.old) || names_service(route, names.new)
}

/// Whether any rule sends traffic to the new version.
pub fn reaches_new(route: &HttpRoute, names: Names<'_>) -> bool {
    let rules = route.rules.as_array().map(Vec::as_slice).unwrap_or_default();
    rules.iter().flat_map(backends).any(|r| is_service(r, names.new, &route.meta.namespace) && weight(r) > 0)
}

/// The patch that makes the route carry that ratio, splitting rules that are still whole. `None`: it does already.
pub fn shift(route: &HttpRoute, names: Names<'_>, ratio: Ratio) -> Result<Option<Vec<PatchOperation>>, RouteError> {
    let mut ops = Vec::new();
    for rule in rules(route, names)? {
        fits(route, &rule, ratio)?;
        let at = |index: usize| format!("/spec/rules/{}/backendRefs/{index}", rule.index);
        let users = users_weights(&rule);
        ops.extend(match rule.form {
            Form::Whole(apex) => split_rule(&rule, apex, names, &users, ratio, &at),
            Form::Split { old, new } => weigh_rule(&rule, (old, new), names, &users, ratio, &at),
        });
    }
    if ops.is_empty() {
        return Ok(None);
    }
    ops.insert(0, patch::test("/metadata/uid", json!(route.meta.uid)));
    Ok(Some(ops))
}

fn split_rule(
    rule: &Rule<'_>,
    apex: usize,
    names: Names<'_>,
    users: &[u32],
    ratio: Ratio,
    at: &impl Fn(usize) -> String,
) -> Vec<PatchOperation> {
    let mut ops: Vec<PatchOperation> = rule.refs.iter().enumerate().map(|(i, r)| patch::test(&at(i), r.clone())).collect();
    let Some(reference) = rule.refs.get(apex) else { return Vec::new() };
    let (new, old) = ratio.reduced();
    let users_weight = users.get(apex).copied().unwrap_or(1);
    let version = |name: &str, part: u32| {
        let mut version = reference.clone();
        if let Some(fields) = version.as_object_mut() {
            fields.insert("name".into(), json!(name));
            fields.insert("weight".into(), json!(users_weight * part));
        }
        version
    };
    for (index, weight) in users.iter().enumerate().filter(|(i, _)| *i != apex) {
        ops.push(patch::add(&format!("{}/weight", at(index)), json!(weight * foreign_factor(users_weight, ratio))));
    }
    // The insertion moves what is behind it, so it comes last.
    ops.push(patch::replace(&at(apex), version(names.old, old)));
    ops.push(patch::add(&at(apex + 1), version(names.new, new)));
    ops
}

/// What foreign weights of a rule are multiplied by, so that their share stays what it was.
fn foreign_factor(apex_weight: u32, ratio: Ratio) -> u32 {
    let (new, old) = ratio.reduced();
    if apex_weight == 0 { 1 } else { new + old }
}

fn weigh_rule(
    rule: &Rule<'_>,
    (old_at, new_at): (usize, usize),
    names: Names<'_>,
    users: &[u32],
    ratio: Ratio,
    at: &impl Fn(usize) -> String,
) -> Vec<PatchOperation> {
    let (new, old) = ratio.reduced();
    let foreign = foreign_factor(users_weight(users, (old_at, new_at), old_at), ratio);
    let mut guards = vec![
        patch::test(&format!("{}/name", at(old_at)), json!(names.old)),
        patch::test(&format!("{}/name", at(new_at)), json!(names.new)),
    ];
    let mut edits = Vec::new();
    for (index, reference) in rule.refs.iter().enumerate() {
        let part = if index == new_at {
            new
        } else if index == old_at {
            old
        } else {
            foreign
        };
        let wanted = users_weight(users, (old_at, new_at), index) * part;
        if weight(reference) != wanted {
            let path = format!("{}/weight", at(index));
            guards.push(patch::test(&format!("{}/name", at(index)), reference.get("name").cloned().unwrap_or_default()));
            guards.push(patch::test(&path, json!(weight(reference))));
            edits.push(patch::replace(&path, json!(wanted)));
        }
    }
    if edits.is_empty() { Vec::new() } else { guards.into_iter().chain(edits).collect() }
}

/// The user's weight behind a backend of a split rule: both versions stand where the apex stood.
fn users_weight(users: &[u32], (old_at, new_at): (usize, usize), index: usize) -> u32 {
    let index = if index == new_at { old_at } else { index };
    users.get(if index > new_at { index - 1 } else { index }).copied().unwrap_or(1)
}

/// The patch that gives the route back as the user wrote it. `None`: nothing of ours is on it.
pub fn restore(route: &HttpRoute, names: Names<'_>) -> Result<Option<Vec<PatchOperation>>, RouteError> {
    let mut ops = Vec::new();
    for rule in rules(route, names)? {
        let Form::Split { old, new } = rule.form else { continue };
        let at = |index: usize| format!("/spec/rules/{}/backendRefs/{index}", rule.index);
        let users = users_weights(&rule);
        ops.push(patch::test(&format!("{}/name", at(old)), json!(names.old)));
        ops.push(patch::test(&format!("{}/name", at(new)), json!(names.new)));
        for index in 0..rule.refs.len() {
            if index == new {
                continue;
            }
            let weight = users_weight(&users, (old, new), index);
            ops.push(patch::replace(&format!("{}/weight", at(index)), json!(weight)));
        }
        ops.push(patch::replace(&format!("{}/name", at(old)), json!(names.apex)));
        ops.push(patch::remove(&at(new)));
    }
    if ops.is_empty() {
        return Ok(None);
    }
    ops.insert(0, patch::test("/metadata/uid", json!(route.meta.uid)));
    Ok(Some(ops))
}

/// Whether somebody has undone what was written: no rule is split any more, or one carries another ratio than `on_record`.
pub fn is_undone(route: &HttpRoute, names: Names<'_>, on_record: Ratio) -> bool {
    !is_split(route, names) || ratio(route, names).is_some_and(|r| r != on_record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::facts::{Fact, Kind};
    use kube::core::DynamicObject;
    use proptest::prelude::*;
    use rstest::rstest;

    const NAMES: Names<'static> = Names { apex: "web", old: "web-1", new: "web-2" };

    #[allow(clippy::needless_pass_by_value, reason = "made for being passed")]
    fn object(rules: Value) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop", "uid": "u", "resourceVersion": "7", "annotations": {"mine": "yes"}},
            "spec": {"hostnames": ["shop.example"], "rules": rules},
        })
    }

    fn route(object: &Value) -> HttpRoute {
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        match Fact::read(Kind::HttpRoute, object) {
            Fact::HttpRoute(route) => (*route).clone(),
            _ => unreachable!(),
        }
    }

    fn patched(object: &Value, ops: &[PatchOperation]) -> Value {
        let mut object = object.clone();
        json_patch::patch(&mut object, ops).unwrap();
        object
    }

    fn shifted(object: &Value, ratio: &str) -> Value {
        match shift(&route(object), NAMES, ratio.parse().unwrap()).unwrap() {
            Some(ops) => patched(object, &ops),
            None => object.clone(),
        }
    }

    fn weights(object: &Value, rule: usize) -> Vec<(String, u64)> {
        let refs = object["spec"]["rules"][rule]["backendRefs"].as_array().unwrap();
        refs.iter().map(|r| (r["name"].as_str().unwrap().to_owned(), r["weight"].as_u64().unwrap())).collect()
    }

    fn weights_of(object: &Value) -> Vec<(String, u64)> {
        weights(object, 0)
    }

    fn named(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
        pairs.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect()
    }

    /// Filters, ports and fields this build has never heard of.
    fn rich() -> Value {
        object(json!([
            {"name": "first", "matches": [{"path": {"value": "/a"}}], "backendRefs": [
                {"name": "other", "port": 81, "weight": 1, "filters": [{"type": "X"}]},
                {"name": "web", "port": 80, "weight": 9, "filters": [{"type": "Y"}], "future": {"a": [1]}},
                {"name": "third", "port": 82, "weight": 2},
            ]},
            {"backendRefs": [{"name": "stranger", "port": 80, "weight": 5}]},
            {"backendRefs": [{"name": "web", "port": 80, "weight": 1}]},
        ]))
    }

    #[test]
    fn foreign_backends_keep_their_share() {
        let split = shifted(&rich(), "3:1");
        assert_eq!(weights(&split, 0), named(&[("other", 4), ("web-1", 9), ("web-2", 27), ("third", 8)]));
        assert_eq!(weights(&split, 1), named(&[("stranger", 5)]));
        assert_eq!(weights(&split, 2), named(&[("web-1", 1), ("web-2", 3)]));
        assert_eq!(split["spec"]["rules"][0]["backendRefs"][2]["future"], json!({"a": [1]}));
        let more = shifted(&split, "1:0");
        assert_eq!(weights(&more, 0), named(&[("other", 1), ("web-1", 0), ("web-2", 9), ("third", 2)]));
        assert_eq!(ratio(&route(&more), NAMES), Some(Ratio::ALL_NEW));
        assert!(reaches_new(&route(&more), NAMES));
    }

    #[test]
    fn a_ratio_in_force_needs_no_patch() {
        let split = shifted(&rich(), "2:6");
        assert_eq!(shift(&route(&split), NAMES, "1:3".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn a_rule_added_in_the_middle_is_split_as_well() {
        let mut split = shifted(&rich(), "1:1");
        split["spec"]["rules"].as_array_mut().unwrap().push(json!({"backendRefs": [{"name": "web", "port": 80, "weight": 4}]}));
        assert_eq!(ratio(&route(&split), NAMES), None);
        let split = shifted(&split, "1:1");
        assert_eq!(weights(&split, 3), named(&[("web-1", 4), ("web-2", 4)]));
        let whole = patched(&split, &restore(&route(&split), NAMES).unwrap().unwrap());
        assert_eq!(weights(&whole, 3), named(&[("web", 4)]));
    }

    #[test]
    fn a_rule_put_before_the_others_changes_no_share() {
        let mut split = shifted(&rich(), "1:1");
        split["spec"]["rules"].as_array_mut().unwrap().insert(0, json!({"backendRefs": [{"name": "stranger", "port": 80, "weight": 7}]}));
        let split = shifted(&split, "1:3");
        assert_eq!(weights(&split, 1), named(&[("other", 4), ("web-1", 27), ("web-2", 9), ("third", 8)]));
        let whole = patched(&split, &restore(&route(&split), NAMES).unwrap().unwrap());
        assert_eq!(weights(&whole, 1), named(&[("other", 1), ("web", 9), ("third", 2)]));
    }

    #[rstest]
    #[case(json!([{"backendRefs": [{"name": "web", "weight": 1}, {"name": "web", "weight": 2}]}]), "2 times")]
    #[case(json!([{"backendRefs": [{"name": "web", "weight": 200_000}]}]), "1000000")]
    #[case(json!([{"backendRefs": [{"name": "web-1", "weight": 1}]}]), "only one of the Services")]
    fn unsuitable_routes_are_refused_before_the_first_write(#[case] rules: Value, #[case] why: &str) {
        let steps = ["1:9", "1:0"].map(|s| s.parse().unwrap());
        let said = check(&route(&object(rules)), NAMES, &steps).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn services_of_other_kinds_and_namespaces_are_not_ours() {
        let rules = json!([{"backendRefs": [
            {"name": "web", "namespace": "elsewhere", "weight": 1}, {"name": "web", "kind": "ServiceImport", "group": "x", "weight": 1},
        ]}]);
        assert!(!names_service(&route(&object(rules)), "web"));
    }

    proptest! {
        /// Two updates of different workloads that share a rule leave nothing of each other's.
        #[test]
        fn two_updates_in_one_rule(walk in prop::collection::vec((any::<bool>(), 0u32..9, 0u32..9), 1..12), weights in prop::collection::vec(0u32..20, 3), first in any::<bool>()) {
            let both = [NAMES, Names { apex: "other", old: "other-1", new: "other-2" }];
            let refs = ["other", "web", "third"].iter().zip(&weights).map(|(name, w)| json!({"name": name, "port": 80, "weight": w}));
            let start = object(json!([{"backendRefs": refs.collect::<Vec<_>>()}]));
            let mut now = start.clone();
            for (which, new, old) in walk {
                let Some(ratio) = Ratio::new(new, old) else { continue };
                let names = both[usize::from(which)];
                if let Some(ops) = shift(&route(&now), names, ratio).unwrap() {
                    now = patched(&now, &ops);
                }
                let share = |name: &str, of: &Value| {
                    let all = weights_of(of);
                    let of_name = |n: &str| all.iter().filter(|(name, _)| name.split('-').next() == Some(n)).map(|(_, w)| w).sum::<u64>();
                    (of_name(name), all.iter().map(|(_, w)| w).sum::<u64>())
                };
                for name in ["web", "other", "third"] {
                    let ((a, b), (c, d)) = (share(name, &start), share(name, &now));
                    prop_assert_eq!(a * d, c * b, "the share of {} moved", name);
                }
            }
            for names in if first { [both[0], both[1]] } else { [both[1], both[0]] } {
                if let Some(ops) = restore(&route(&now), names).unwrap() {
                    now = patched(&now, &ops);
                }
            }
            prop_assert_eq!(now, start);
        }

        /// Any walk over ratios ends with exactly what the user wrote.
        #[test]
        fn there_and_back_again(walk in prop::collection::vec((0u32..20, 0u32..20), 1..8), weights in prop::collection::vec(0u32..50, 3)) {
            let mut start = rich();
            for (index, weight) in weights.iter().enumerate() {
                start["spec"]["rules"][0]["backendRefs"][index]["weight"] = json!(weight);
            }
            let mut now = start.clone();
            for (new, old) in walk {
                let Some(wanted) = Ratio::new(new, old) else { continue };
                now = shifted(&now, &wanted.to_string());
                prop_assert_eq!(ratio(&route(&now), NAMES), Some(wanted));
            }
            if let Some(ops) = restore(&route(&now), NAMES).unwrap() {
                now = patched(&now, &ops);
            }
            prop_assert_eq!(now, start);
        }
    }
}

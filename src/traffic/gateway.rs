//! Guest edits on the user's HTTPRoute.
//!
//! In every rule that names the apex Service, that one backend becomes two, the version Services,
//! at `W*old` and `W*new`; foreign backends of the rule are multiplied by `new+old`, so that their
//! share stays what the user wrote. Everything else stays byte for byte. The way back needs nothing
//! but the route: `new` and `old` are coprime, so the user's weights can be read off it.

use std::collections::BTreeMap;

use json_patch::PatchOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::ratio::{MAX_PART, gcd};
use crate::api::{Ratio, names};
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

/// The user's weights, written on the route while it is split, for those that cannot be read off it.
#[derive(Serialize, Deserialize, Debug, Default, PartialEq, Eq)]
struct Kept {
    /// Rule index -> the weights of its backends in the user's order.
    rules: BTreeMap<usize, Vec<Option<u32>>>,
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
        let kept = users_weights(route, &rule);
        let heaviest = kept.iter().map(|w| w.unwrap_or(1)).max().unwrap_or(1);
        for step in steps {
            let (new, old) = step.reduced();
            let factor = if kept.len() > 1 { new + old } else { new.max(old) };
            if u64::from(heaviest) * u64::from(factor) > u64::from(MAX_PART) {
                return Err(RouteError::TooHeavy { route: route.meta.name.clone(), rule: rule.index, weight: heaviest, factor });
            }
        }
    }
    Ok(())
}

/// The user's weights of a rule: kept ones where it is split, its own where it is whole.
fn users_weights(route: &HttpRoute, rule: &Rule<'_>) -> Vec<Option<u32>> {
    let own = |r: &Value| r.get("weight").map(|_| weight(r));
    match rule.form {
        Form::Whole(_) => rule.refs.iter().map(own).collect(),
        Form::Split { old, new } => {
            let at = |index: usize| rule.refs.get(index).map(weight).unwrap_or_default();
            // Both versions carry a multiple of coprime parts, so that what they share is the user's weight.
            let users = gcd(at(old), at(new));
            let parts = (at(old) + at(new)).checked_div(users).unwrap_or_default();
            let kept = kept_weights(route, rule);
            let foreign = |index: usize| match at(index).checked_div(parts) {
                Some(weight) if at(index).is_multiple_of(parts) => Some(weight),
                // The user gave the apex no weight, or somebody has edited this one: what was written down, if it fits.
                guess => kept.as_ref().and_then(|k| k.get(users_index(old, new, index)).copied().flatten()).or(guess),
            };
            let indexes = (0..rule.refs.len()).filter(|index| *index != new);
            indexes.map(|index| if index == old { Some(users) } else { foreign(index) }).collect()
        }
    }
}

/// What the split wrote down about this rule, if it still is the rule it was.
fn kept_weights(route: &HttpRoute, rule: &Rule<'_>) -> Option<Vec<Option<u32>>> {
    let kept: Kept = serde_json::from_str(route.meta.annotations.get(names::SPLIT)?).ok()?;
    kept.rules.get(&rule.index).filter(|weights| weights.len() + 1 == rule.refs.len()).cloned()
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
    let (new, old) = ratio.reduced();
    let mut ops = Vec::new();
    let mut kept = Kept::default();
    for rule in rules(route, names)? {
        let at = |index: usize| format!("/spec/rules/{}/backendRefs/{index}", rule.index);
        let users = users_weights(route, &rule);
        let edits = match rule.form {
            Form::Whole(apex) => split_rule(&rule, apex, names, &users, (new, old), &at),
            Form::Split { old: old_at, new: new_at } => weigh_rule(&rule, (old_at, new_at), names, &users, (new, old), &at),
        };
        ops.extend(edits);
        kept.rules.insert(rule.index, users);
    }
    if ops.is_empty() {
        return Ok(None);
    }
    let note = serde_json::to_string(&kept).unwrap_or_default();
    if route.meta.annotations.get(names::SPLIT) != Some(&note) {
        ops.extend(patch::annotate(&route.meta, &[(names::SPLIT, note)]));
    }
    ops.insert(0, patch::test("/metadata/uid", json!(route.meta.uid)));
    Ok(Some(ops))
}

fn split_rule(
    rule: &Rule<'_>,
    apex: usize,
    names: Names<'_>,
    users: &[Option<u32>],
    (new, old): (u32, u32),
    at: &impl Fn(usize) -> String,
) -> Vec<PatchOperation> {
    let mut ops: Vec<PatchOperation> = rule.refs.iter().enumerate().map(|(i, r)| patch::test(&at(i), r.clone())).collect();
    let Some(reference) = rule.refs.get(apex) else { return Vec::new() };
    let users_weight = users.get(apex).copied().flatten().unwrap_or(1);
    let version = |name: &str, part: u32| {
        let mut version = reference.clone();
        if let Some(fields) = version.as_object_mut() {
            fields.insert("name".into(), json!(name));
            fields.insert("weight".into(), json!(users_weight * part));
        }
        version
    };
    for (index, weight) in users.iter().enumerate().filter(|(i, _)| *i != apex) {
        ops.push(patch::add(&format!("{}/weight", at(index)), json!(weight.unwrap_or(1) * (new + old))));
    }
    // The insertion moves what is behind it, so it comes last.
    ops.push(patch::replace(&at(apex), version(names.old, old)));
    ops.push(patch::add(&at(apex + 1), version(names.new, new)));
    ops
}

fn weigh_rule(
    rule: &Rule<'_>,
    (old_at, new_at): (usize, usize),
    names: Names<'_>,
    users: &[Option<u32>],
    (new, old): (u32, u32),
    at: &impl Fn(usize) -> String,
) -> Vec<PatchOperation> {
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
            new + old
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
fn users_weight(users: &[Option<u32>], (old_at, new_at): (usize, usize), index: usize) -> u32 {
    users.get(users_index(old_at, new_at, index)).copied().flatten().unwrap_or(1)
}

/// Where a backend of a split rule stands among the user's.
fn users_index(old_at: usize, new_at: usize, index: usize) -> usize {
    let index = if index == new_at { old_at } else { index };
    if index > new_at { index - 1 } else { index }
}

/// The patch that gives the route back as the user wrote it. `None`: nothing of ours is on it.
pub fn restore(route: &HttpRoute, names: Names<'_>) -> Result<Option<Vec<PatchOperation>>, RouteError> {
    let mut ops = Vec::new();
    for rule in rules(route, names)? {
        let Form::Split { old, new } = rule.form else { continue };
        let at = |index: usize| format!("/spec/rules/{}/backendRefs/{index}", rule.index);
        let users = users_weights(route, &rule);
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
    ops.extend(patch::clear_annotations(&route.meta, &[names::SPLIT]));
    if ops.is_empty() {
        return Ok(None);
    }
    ops.insert(0, patch::test("/metadata/uid", json!(route.meta.uid)));
    Ok(Some(ops))
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

//! Guest edits on the user's HTTPRoute.
//!
//! In every rule that names the apex Service, that one backend becomes two, the version Services,
//! at `W*old` and `W*new`; foreign backends of the rule are multiplied by `new+old`, so that their
//! share stays what the user wrote. Everything else stays byte for byte. An annotation keeps the
//! user's weights, so that the way back needs nothing but the route itself.

use std::collections::BTreeMap;

use json_patch::PatchOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Ratio, names, ratio::MAX_PART};
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

/// The user's weights, kept on the route while it is split.
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
pub fn check(route: &HttpRoute, names: Names<'_>, steps: impl Iterator<Item = Ratio> + Clone) -> Result<(), RouteError> {
    for rule in rules(route, names)? {
        if matches!(rule.form, Form::Whole(_)) && rule.refs.len() >= MAX_BACKENDS {
            return Err(RouteError::Full { route: route.meta.name.clone(), rule: rule.index });
        }
        let kept = users_weights(route, &rule);
        let heaviest = kept.iter().map(|w| w.unwrap_or(1)).max().unwrap_or(1);
        for step in steps.clone() {
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
        Form::Split { .. } => {
            let kept =
                route.meta.annotations.get(names::SPLIT).and_then(|text| serde_json::from_str::<Kept>(text).ok()).unwrap_or_default();
            match kept.rules.get(&rule.index) {
                Some(weights) if weights.len() + 1 == rule.refs.len() => weights.clone(),
                // The note is gone or speaks of other backends: an even weight for each is the honest guess.
                _ => vec![None; rule.refs.len().saturating_sub(1)],
            }
        }
    }
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
    let users_index = if index == new_at { old_at } else { index };
    let users_index = if users_index > new_at { users_index - 1 } else { users_index };
    users.get(users_index).copied().flatten().unwrap_or(1)
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

//! Which of its rights the operator used: what a bed's API server was asked for by ServiceAccounts named `aether-operator` is
//! recorded when the bed goes, and the records of all suites are compared with the rules of the chart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::{ObjectRef, ResponseStatus, User};

/// Names the folder where records are kept. Unset: none are.
pub const VARIABLE: &str = "AETHER_REQUESTS";
/// Namespaces that begin so are where tests have the operator do without a right.
pub const NO_RIGHTS: &str = "no-rights";
/// What admission asked of orders, as the policy `aether-orders` says it.
const ORDERS: &str = "aether-orders/orders";
/// So long a change of bindings takes until every request is judged by it.
const SETTLES: TimeDelta = TimeDelta::seconds(5);

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Request {
    /// API group; empty for the core group.
    pub group: String,
    /// Resource, or `resource/subresource`.
    pub resource: String,
    /// As in a rule.
    pub verb: String,
}

/// How often it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// By everybody of that name.
    pub made: u64,
    /// Of these, refused for want of a right, with an example.
    pub denied: u64,
    /// One that was refused.
    pub example: Option<String>,
}

/// Requests and how often each was made.
pub type Tally = BTreeMap<Request, Count>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: ResponseStatus,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    stage_timestamp: DateTime<Utc>,
}

/// What operators asked for, after an audit log.
pub fn tally(log: impl BufRead) -> anyhow::Result<Tally> {
    let mut tally = Tally::new();
    let mut bindings_changed = None;
    let mut denied = Vec::new();
    for line in log.split(b'\n') {
        // The last line may be cut off.
        let Ok(line) = serde_json::from_slice::<Line>(&line?) else { continue };
        let Some(object) = line.object_ref else { continue };
        if line.stage != "ResponseComplete" {
            continue;
        }
        if object.api_group == "rbac.authorization.k8s.io" && line.verb == "delete" {
            bindings_changed = Some(line.stage_timestamp);
        }
        if !line.user.username.starts_with("system:serviceaccount:") || !line.user.username.ends_with("aether-operator") {
            continue;
        }
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        let resource = format!("{}{slash}{}", object.resource, object.subresource);
        let of = |verb: &str| Request { group: object.api_group.clone(), resource: resource.clone(), verb: verb.to_owned() };
        let count = tally.entry(of(&line.verb)).or_default();
        count.made += 1;
        // Who is being uninstalled has no rights any more, and that is no fault.
        let leaving = bindings_changed.is_some_and(|at| line.stage_timestamp < at + SETTLES);
        let refused = line.annotations.get("authorization.k8s.io/decision").is_some_and(|d| d == "forbid");
        if refused && !leaving && !object.namespace.starts_with(NO_RIGHTS) {
            denied.push((of(&line.verb), format!("{} {}", line.user.username, line.request_uri)));
        }
        // Server-side apply of what is not there takes both rights.
        if line.verb == "patch" && line.response_status.code == 201 {
            tally.entry(of("create")).or_default().made += 1;
        }
        for verb in line.annotations.get(ORDERS).into_iter().flat_map(|all| all.split(',')).filter(|v| !v.is_empty()) {
            tally.entry(of(verb)).or_default().made += 1;
        }
    }
    for (request, example) in denied {
        let count = tally.entry(request).or_default();
        count.denied += 1;
        count.example.get_or_insert(example);
    }
    Ok(tally)
}

/// Records what was asked for in the bed of that folder, if a folder for records is named and there was a bed.
pub fn record(bed: &Path) -> anyhow::Result<()> {
    let Some(records) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let Ok(log) = File::open(bed.join("cluster").join("audit.log")) else { return Ok(()) };
    let tally: Vec<_> = tally(BufReader::new(log))?.into_iter().collect();
    fs::create_dir_all(&records)?;
    let program = std::env::current_exe()?;
    // As cargo names tests: the name, a dash and a hash.
    let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
    Ok(fs::write(Path::new(&records).join(format!("{name}.json")), serde_json::to_vec_pretty(&tally)?)?)
}

/// A right, and who used it.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    scope: String,
    right: Request,
    made: u64,
    suites: BTreeSet<String>,
}

/// The rules compared with the records.
#[derive(Debug, Default)]
pub struct Comparison {
    rows: Vec<Row>,
    denied: Vec<String>,
    suites: BTreeSet<String>,
}

impl Comparison {
    /// Reads the rules of the chart, and all records of a folder.
    pub fn read(rules: &Path, records: &Path) -> anyhow::Result<Self> {
        let rules = fs::read_to_string(rules).with_context(|| format!("cannot read {}", rules.display()))?;
        let mut suites = BTreeMap::new();
        for file in fs::read_dir(records).into_iter().flatten().flatten().map(|f| f.path()) {
            let tally: Vec<(Request, Count)> = serde_json::from_slice(&fs::read(&file)?)?;
            suites.insert(file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), tally);
        }
        ensure!(!suites.is_empty(), "{} holds no records; `make test` makes them", records.display());
        Self::of(&serde_yaml::from_str(&rules)?, &suites)
    }

    fn of(rules: &Value, suites: &BTreeMap<String, Vec<(Request, Count)>>) -> anyhow::Result<Self> {
        let mut comparison = Self { suites: suites.keys().cloned().collect(), ..Self::default() };
        let words = |rule: &Value, key: &str| -> Vec<String> {
            rule.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        for (scope, rules) in rules.as_object().context("the rules are no object")? {
            for rule in rules.as_array().into_iter().flatten() {
                let (groups, resources) = (words(rule, "apiGroups"), words(rule, "resources"));
                for (group, resource) in groups.iter().flat_map(|g| resources.iter().map(move |r| (g, r))) {
                    for verb in words(rule, "verbs") {
                        let right = Request { group: group.clone(), resource: resource.clone(), verb };
                        let uses = suites.iter().flat_map(|(suite, tally)| tally.iter().map(move |(r, c)| (suite, r, c)));
                        let uses: Vec<_> = uses.filter(|(_, request, count)| **request == right && count.made > count.denied).collect();
                        let made = uses.iter().map(|(_, _, count)| count.made - count.denied).sum();
                        comparison.rows.push(Row {
                            scope: scope.clone(),
                            right,
                            made,
                            suites: uses.iter().map(|(suite, ..)| (*suite).clone()).collect(),
                        });
                    }
                }
            }
        }
        for (suite, tally) in suites {
            for (request, count) in tally.iter().filter(|(_, count)| count.denied > 0) {
                let example = count.example.as_deref().unwrap_or_default();
                comparison.denied.push(format!("{suite}: {} of {} {request} were denied, as {example}", count.denied, count.made));
            }
        }
        Ok(comparison)
    }

    /// Every right is used, and nothing was denied; else what is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        let unused = self.rows.iter().filter(|row| row.made == 0).map(|row| format!("nobody used {} ({})", row.right, row.scope));
        let wrong: Vec<String> = unused.chain(self.denied.iter().cloned()).collect();
        ensure!(wrong.is_empty(), "the rights are not exact:\n{}", wrong.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

/// A table: a line for each resource, its verbs with how often each was used.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Suites: {}", self.suites.iter().cloned().collect::<Vec<_>>().join(", "))?;
        writeln!(f, "| where | resource | verb (requests) |\n|---|---|---|")?;
        let mut lines: Vec<(String, String, Vec<String>)> = Vec::new();
        for Row { scope, right, made, .. } in &self.rows {
            let dot = if right.group.is_empty() { "" } else { "." };
            let resource = format!("{}{dot}{}", right.resource, right.group);
            let verb = format!("{} ({made})", right.verb);
            match lines.iter_mut().find(|(s, r, _)| (s, r) == (scope, &resource)) {
                Some((.., verbs)) => verbs.push(verb),
                None => lines.push((scope.clone(), resource, vec![verb])),
            }
        }
        for (scope, resource, verbs) in &lines {
            writeln!(f, "| {scope} | {resource} | {} |", verbs.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OPERATOR: &str = "system:serviceaccount:ops:aether-operator";

    fn line(second: u32, user: &str, verb: &str, resource: &str, namespace: &str, decision: &str) -> String {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let group = if resource == "rolebindings" { "rbac.authorization.k8s.io" } else { "apps" };
        json!({
            "stage": "ResponseComplete", "verb": verb, "user": {"username": user}, "requestURI": "/x",
            "objectRef": {"resource": resource, "subresource": subresource, "namespace": namespace, "apiGroup": group},
            "annotations": {"authorization.k8s.io/decision": decision, "aether-orders/orders": if verb == "patch" { "route,approve" } else { "" }},
            "stageTimestamp": format!("2030-01-01T00:00:{second:02}.000000Z"),
        })
        .to_string()
    }

    fn tallied(lines: &[String]) -> Vec<(String, u64, u64)> {
        let tally = tally(lines.join("\n").as_bytes()).unwrap();
        tally.iter().map(|(request, count)| (request.to_string(), count.made, count.denied)).collect()
    }

    #[test]
    fn counts_what_operators_ask_for_and_what_admission_asked_of_them() {
        let lines = [
            line(1, OPERATOR, "get", "deployments", "shop", "allow"),
            line(1, OPERATOR, "get", "deployments", "shop", "forbid"),
            line(1, OPERATOR, "get", "deployments", "no-rights-1", "forbid"),
            line(2, "system:serviceaccount:ops:other", "get", "deployments", "shop", "forbid"),
            line(2, OPERATOR, "patch", "deployments/status", "shop", "allow"),
            line(3, OPERATOR, "patch", "deployments", "shop", "allow").replace("\"stage\"", "\"responseStatus\":{\"code\":201},\"stage\""),
            "{\"stage\": \"Respo".into(),
        ];
        let wanted = [
            ("approve deployments.apps", 1, 0),
            ("create deployments.apps", 1, 0),
            ("get deployments.apps", 3, 1),
            ("patch deployments.apps", 1, 0),
            ("route deployments.apps", 1, 0),
            ("approve deployments/status.apps", 1, 0),
            ("patch deployments/status.apps", 1, 0),
            ("route deployments/status.apps", 1, 0),
        ];
        assert_eq!(tallied(&lines), wanted.map(|(request, made, denied)| (request.to_owned(), made, denied)));
    }

    #[test]
    fn who_has_just_lost_its_bindings_is_not_denied_anything() {
        let lines = [
            line(1, "admin", "delete", "rolebindings", "shop", "allow"),
            line(2, OPERATOR, "get", "deployments", "shop", "forbid"),
            line(9, OPERATOR, "get", "deployments", "shop", "forbid"),
        ];
        assert_eq!(tallied(&lines), [("get deployments.apps".to_owned(), 2, 1)]);
    }

    #[test]
    fn an_unused_right_and_a_denied_request_are_faults() {
        let rules = json!({"work": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]}]});
        let request = |verb: &str| Request { group: "apps".into(), resource: "deployments".into(), verb: verb.into() };
        let made = |made, denied| Count { made, denied, example: None };
        let compare = |tally: Vec<(Request, Count)>| Comparison::of(&rules, &[("rolling".to_owned(), tally)].into()).unwrap().check();
        compare(vec![(request("get"), made(1, 0)), (request("list"), made(1, 0))]).unwrap();
        let unused = compare(vec![(request("get"), made(1, 0)), (request("list"), made(1, 1))]).unwrap_err().to_string();
        assert!(unused.contains("nobody used list deployments.apps (work)"), "{unused}");
        let denied =
            compare(vec![(request("get"), made(1, 0)), (request("list"), made(1, 0)), (request("patch"), made(3, 2))]).unwrap_err();
        assert!(denied.to_string().contains("rolling: 2 of 3 patch deployments.apps were denied"), "{denied}");
    }
}

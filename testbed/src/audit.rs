//! The API server's audit log: who wrote what, and which of the writes changed nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Requests that ask a question in the form of a creation: they store nothing.
const QUESTIONS: [&str; 5] =
    ["tokenreviews", "subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];

/// So long may a watch be behind.
const NEWS: TimeDelta = TimeDelta::seconds(5);

/// What a mutating request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Something was written. Also a write of which the log does not tell the outcome.
    Changed,
    /// It was accepted and left the object as it was.
    NoOp,
    /// Refused with 409: somebody else was faster, or the object is there already.
    Conflict,
    /// Refused with 422: invalid, also a failed `test` of a JSON patch.
    Invalid,
    /// Refused or failed otherwise.
    Failed,
}

/// One mutating request that has been answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the API server received it.
    pub at: DateTime<Utc>,
    /// When it had answered it.
    pub answered: DateTime<Utc>,
    /// User name.
    pub user: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Resource, in the plural.
    pub resource: String,
    /// Subresource; empty if none.
    pub subresource: String,
    /// Namespace; empty if none.
    pub namespace: String,
    /// Name; empty for whole collections.
    pub name: String,
    /// Status of the answer.
    pub code: u16,
    /// What it did.
    pub effect: Effect,
}

impl Entry {
    /// `resource` or `resource/subresource`.
    pub fn target(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.resource, self.subresource)
    }
}

/// Mutating requests, in the order in which they were answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLog {
    entries: Vec<Entry>,
}

impl AuditLog {
    /// Reads a log. A last line that is not whole yet is left out.
    ///
    /// An accepted write is a no-op if the object's resourceVersion after it is one that the log has shown before, or the
    /// one that the request itself named. So a no-op is missed if it is the first that the log tells of an object, and none
    /// is found unless the log is kept at the level `RequestResponse` (`Metadata` has no objects).
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let mut reader = Reader::default();
        let context = || format!("cannot read {}", path.display());
        reader.read(BufReader::new(File::open(path).with_context(context)?)).with_context(context)?;
        Ok(reader.log)
    }

    /// The requests.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those that fulfil a condition.
    #[must_use]
    pub fn filter(&self, wanted: impl Fn(&Entry) -> bool) -> Self {
        Self { entries: self.entries.iter().filter(|entry| wanted(entry)).cloned().collect() }
    }

    /// Those of one user.
    #[must_use]
    pub fn by_user(&self, user: &str) -> Self {
        self.filter(|entry| entry.user == user)
    }

    /// Those in one namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        self.filter(|entry| entry.namespace == namespace)
    }

    /// Those received from `from` on and before `to`.
    #[must_use]
    pub fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        self.filter(|entry| entry.at >= from && entry.at < to)
    }

    /// All but events and leases, which tell and beat rather than change anything.
    #[must_use]
    pub fn without_events_and_leases(&self) -> Self {
        self.filter(|entry| !matches!(entry.resource.as_str(), "events" | "leases"))
    }

    /// Those that did this.
    #[must_use]
    pub fn with_effect(&self, effect: Effect) -> Self {
        self.filter(|entry| entry.effect == effect)
    }

    /// Accepted writes that changed nothing.
    #[must_use]
    pub fn no_ops(&self) -> Self {
        self.with_effect(Effect::NoOp)
    }

    /// Of these, the writes that were refused although nobody else had just written the object: all but those that were
    /// outdated (409, or 422 for a failed `test`) by a write of another user, which `all` must hold.
    #[must_use]
    pub fn refused_for_nothing(&self, all: &Self) -> Self {
        let same = |a: &Entry, b: &Entry| (&a.resource, &a.namespace, &a.name) == (&b.resource, &b.namespace, &b.name);
        let is_faster = |by: &Entry, refused: &Entry| {
            let just_before = by.at <= refused.answered && by.answered + NEWS >= refused.at;
            by.user != refused.user && by.effect == Effect::Changed && same(by, refused) && just_before
        };
        let outdated = |e: &Entry| matches!(e.code, 409 | 422) && all.entries.iter().any(|by| is_faster(by, e));
        self.filter(|e| e.code >= 400 && !outdated(e))
    }

    /// Number of requests by verb and `resource[/subresource]`.
    pub fn counts(&self) -> BTreeMap<(String, String), u64> {
        let mut counts = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry((entry.verb.clone(), entry.target())).or_default() += 1;
        }
        counts
    }
}

/// A table: one line for each verb and resource, its columns what came of the requests.
impl fmt::Display for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EFFECTS: [Effect; 5] = [Effect::Changed, Effect::NoOp, Effect::Conflict, Effect::Invalid, Effect::Failed];
        let mut rows: BTreeMap<(String, String), BTreeMap<Effect, u64>> = BTreeMap::new();
        for entry in &self.entries {
            let row = rows.entry((entry.target(), entry.verb.clone())).or_default();
            *row.entry(entry.effect).or_default() += 1;
        }
        let width = rows.keys().map(|(target, _)| target.len()).max().unwrap_or_default().max("resource".len());
        write!(f, "{:<width$}  {:<16}", "resource", "verb")?;
        for title in ["total", "changed", "no-op", "409", "422", "failed"] {
            write!(f, " {title:>8}")?;
        }
        for ((target, verb), row) in rows {
            write!(f, "\n{target:<width$}  {verb:<16} {:>8}", row.values().sum::<u64>())?;
            for effect in EFFECTS {
                write!(f, " {:>8}", row.get(&effect).copied().unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// An event as the API server writes it; objects are left as text, most are never looked into.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    stage: String,
    verb: String,
    user: User,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    #[serde(borrow)]
    request_object: Option<&'a RawValue>,
    #[serde(borrow)]
    response_object: Option<&'a RawValue>,
    request_received_timestamp: DateTime<Utc>,
    stage_timestamp: DateTime<Utc>,
}

#[derive(Deserialize)]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ObjectRef {
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) api_group: String,
}

#[derive(Deserialize, Default)]
pub(crate) struct ResponseStatus {
    #[serde(default)]
    pub(crate) code: u16,
}

#[derive(Deserialize)]
struct Object {
    metadata: Option<Metadata>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    resource_version: String,
    deletion_timestamp: Option<String>,
    finalizers: Vec<String>,
}

impl Object {
    fn metadata(text: Option<&RawValue>) -> Metadata {
        let object = text.and_then(|text| serde_json::from_str::<Self>(text.get()).ok());
        object.and_then(|object| object.metadata).unwrap_or_default()
    }
}

/// Group, resource, namespace and name.
type Key = (String, String, String, String);

#[derive(Default)]
struct Reader {
    log: AuditLog,
    /// All resource versions seen of an object. A set, and not only the last one, because the log is written in the order
    /// of the answers, which need not be that of the writes.
    versions: HashMap<Key, HashSet<String>>,
}

impl Reader {
    fn read(&mut self, mut from: impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 || !line.ends_with(b"\n") {
                break;
            }
            if !line.trim_ascii().is_empty() {
                self.add(&serde_json::from_slice(&line).with_context(|| format!("line {number}"))?);
            }
        }
        Ok(())
    }

    fn add(&mut self, line: &Line) {
        let Some(object) = &line.object_ref else { return };
        if line.stage != "ResponseComplete" || line.request_uri.contains("dryRun=") || QUESTIONS.contains(&object.resource.as_str()) {
            return;
        }
        let code = line.response_status.as_ref().map_or(0, |status| status.code);
        let mutates = matches!(line.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        let accepted = (200..300).contains(&code);
        if !accepted && !mutates {
            return;
        }
        let after = if accepted { Object::metadata(line.response_object) } else { Metadata::default() };
        // Taking the last finalizer away deletes the object: no new version, but no small matter either.
        let ended = after.deletion_timestamp.is_some() && after.finalizers.is_empty();
        let name = if object.name.is_empty() { after.name } else { object.name.clone() };
        let key = (object.api_group.clone(), object.resource.clone(), object.namespace.clone(), name.clone());
        let known = !after.resource_version.is_empty() && !name.is_empty() && {
            let versions = self.versions.entry(key).or_default();
            !versions.insert(after.resource_version.clone())
        };
        if !mutates {
            return;
        }
        let writes = matches!(line.verb.as_str(), "update" | "patch");
        let named = || Object::metadata(line.request_object).resource_version == after.resource_version;
        let effect = match code {
            409 => Effect::Conflict,
            422 => Effect::Invalid,
            _ if !accepted => Effect::Failed,
            _ if writes && !ended && !after.resource_version.is_empty() && (known || named()) => Effect::NoOp,
            _ => Effect::Changed,
        };
        self.log.entries.push(Entry {
            at: line.request_received_timestamp,
            answered: line.stage_timestamp,
            user: line.user.username.clone(),
            verb: line.verb.clone(),
            group: object.api_group.clone(),
            resource: object.resource.clone(),
            subresource: object.subresource.clone(),
            namespace: object.namespace.clone(),
            name,
            code,
            effect,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Effect::{Changed, Conflict, Failed, Invalid, NoOp};
    use super::*;

    fn line(second: u32, user: &str, verb: &str, resource: &str, code: u16, before: &str, after: &str) -> Value {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "x",
            "stage": "ResponseComplete", "requestURI": "/api/v1/x", "verb": verb,
            "user": {"username": user, "groups": ["g"]}, "sourceIPs": ["127.0.0.1"],
            "objectRef": {"resource": resource, "subresource": subresource, "namespace": "shop", "name": "web"},
            "responseStatus": {"metadata": {}, "code": code},
            "requestObject": {"metadata": {"resourceVersion": before}},
            "responseObject": {"metadata": {"name": "web", "resourceVersion": after}},
            "requestReceivedTimestamp": format!("2030-01-01T00:00:{second:02}.000000Z"),
            "stageTimestamp": format!("2030-01-01T00:00:{second:02}.004000Z"),
        })
    }

    fn read(lines: &[Value], rest: &str) -> AuditLog {
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        let text = lines.join("\n") + "\n";
        let mut reader = Reader::default();
        reader.read((text + rest).as_bytes()).unwrap();
        reader.log
    }

    fn effects(log: &AuditLog) -> Vec<Effect> {
        log.entries().iter().map(|entry| entry.effect).collect()
    }

    #[test]
    fn no_ops_leave_the_resource_version() {
        let log = read(
            &[
                line(1, "admin", "create", "services", 201, "", "10"),
                line(2, "op", "patch", "services", 200, "", "11"),
                line(3, "op", "patch", "services", 200, "", "11"),
                line(4, "kubelet", "patch", "services/status", 200, "", "12"),
                line(5, "op", "patch", "services", 200, "", "12"),
                line(6, "op", "update", "deployments", 200, "7", "7"),
                line(7, "op", "update", "deployments", 200, "7", "8"),
                line(8, "op", "update", "deployments", 409, "7", ""),
                line(9, "op", "patch", "deployments", 422, "", ""),
                line(10, "op", "patch", "deployments", 403, "", ""),
                line(11, "op", "delete", "services", 200, "", "12"),
            ],
            "",
        );
        let wanted = [Changed, Changed, NoOp, Changed, NoOp, NoOp, Changed, Conflict, Invalid, Failed, Changed];
        assert_eq!(effects(&log), wanted);
        assert_eq!(log.by_user("op").no_ops().len(), 3);
    }

    #[test]
    fn a_refusal_is_for_nothing_unless_another_was_just_faster() {
        let log = read(
            &[
                line(1, "admin", "create", "services", 201, "", "10"),
                line(2, "op", "patch", "services", 409, "", ""),
                line(3, "op", "patch", "services", 403, "", ""),
                line(9, "op", "patch", "services", 422, "", ""),
                line(10, "op", "patch", "services", 200, "", "11"),
                line(11, "op", "patch", "deployments", 409, "", ""),
                line(12, "kubelet", "patch", "services/status", 200, "", "12"),
                line(13, "op", "patch", "services", 422, "", ""),
            ],
            "",
        );
        let seconds: Vec<u32> =
            log.by_user("op").refused_for_nothing(&log).entries().iter().map(|e| chrono::Timelike::second(&e.at)).collect();
        // 403 is a denial; at 9 nobody else was near; of the Deployment nobody has written.
        assert_eq!(seconds, [3, 9, 11]);
    }

    #[test]
    fn a_read_tells_the_version_too() {
        let get = line(1, "op", "get", "services", 200, "", "5");
        let log = read(&[get, line(2, "op", "patch", "services", 200, "", "5")], "");
        assert_eq!(effects(&log), [NoOp]);
    }

    #[test]
    fn leaves_out_what_is_no_write() {
        let mut dry = line(1, "op", "patch", "services", 200, "", "9");
        dry["requestURI"] = json!("/api/v1/x?dryRun=All");
        let mut started = line(1, "op", "create", "services", 201, "", "9");
        started["stage"] = json!("RequestReceived");
        let review = line(1, "op", "create", "subjectaccessreviews", 201, "", "");
        assert!(read(&[dry, started, review], "").is_empty());
    }

    #[test]
    fn a_half_written_last_line_is_left_out() {
        let lines = [line(1, "op", "create", "events", 201, "", "1"), line(2, "op", "update", "leases", 200, "1", "2")];
        let log = read(&lines, "{\"kind\":\"Event\",\"sta");
        assert_eq!(log.len(), 2);
        assert!(log.without_events_and_leases().is_empty());
        assert!(Reader::default().read(&b"{\"kind\"\n"[..]).is_err());
    }

    #[test]
    fn filters_and_counts() {
        let lines = [
            line(1, "op", "patch", "services", 200, "", "1"),
            line(2, "op", "patch", "services/status", 200, "", "2"),
            line(3, "op", "patch", "services/status", 200, "", "2"),
        ];
        let log = read(&lines, "");
        let at = |second: i64| DateTime::from_timestamp(1_893_456_000 + second, 0).unwrap();
        assert_eq!(log.between(at(1), at(3)).len(), 2);
        assert_eq!(log.in_namespace("shop").len(), 3);
        let counts = [(("patch", "services"), 1), (("patch", "services/status"), 2)];
        assert_eq!(log.counts(), counts.map(|((verb, target), n)| ((verb.to_owned(), target.to_owned()), n)).into());
        let text = log.to_string();
        let wanted = [
            "resource         verb                total  changed    no-op      409      422   failed",
            "services         patch                   1        1        0        0        0        0",
            "services/status  patch                   2        1        1        0        0        0",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }
}

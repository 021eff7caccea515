//! The API server of the model: JSON objects, resource versions, generations, and a log of what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::{self, Time};
use aether_operator::cluster::facts::{Key, Kind};
use json_patch::PatchOperation;
use serde_json::{Value, json};

pub const NS: &str = "shop";

/// What keeps an object until what it owns is gone.
pub const FOREGROUND: &str = "foregroundDeletion";

pub type Objects = BTreeMap<(Kind, Key), Arc<Value>>;

/// One change, as a watch would tell it. No object: it is gone.
pub struct Event {
    pub at: Time,
    pub key: Key,
    pub uid: String,
    pub object: Option<Arc<Value>>,
}

/// One line of the story of a run; an object is described only when somebody wants to read it.
#[derive(Clone, Debug)]
pub struct Line {
    at: Time,
    by: &'static str,
    text: String,
    object: Option<(Kind, Arc<Value>)>,
}

/// Why the API server did not do as asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    Conflict,
    Exists,
    Invalid(String),
    Forbidden(String),
}

pub struct World {
    pub objects: Objects,
    pub now: Time,
    pub start: Time,
    pub log: BTreeMap<Kind, Vec<Event>>,
    pub trace: Vec<Line>,
    /// Names whose creation is refused for good.
    pub refused: BTreeSet<String>,
    /// The namespace is being deleted.
    doomed: bool,
    /// Raised by every change.
    pub version: u64,
    uids: u64,
    born: Value,
}

impl World {
    pub fn new() -> Self {
        let start = Time::from_timestamp(1_750_000_000, 0).unwrap();
        let crd = serde_json::to_value(api::rolling_update::crd()).unwrap();
        let born = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default").cloned().unwrap_or(json!({}));
        Self {
            objects: Objects::new(),
            now: start,
            start,
            log: Kind::ALL.iter().map(|k| (*k, Vec::new())).collect(),
            trace: Vec::new(),
            refused: BTreeSet::new(),
            doomed: false,
            version: 100,
            uids: 0,
            born,
        }
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.trace.push(Line { at: self.now, by: "", text: text.into(), object: None });
    }

    /// The last lines of what happened, to be read.
    pub fn story(&self, lines: usize) -> String {
        let from = self.trace.len().saturating_sub(lines);
        self.trace[from..].iter().map(|line| self.tell(line)).collect::<Vec<_>>().join("\n")
    }

    fn tell(&self, line: &Line) -> String {
        let at = (line.at - self.start).as_seconds_f64();
        let object =
            line.object.as_ref().map(|(kind, o)| format!("{} {}: {}", kind.gvk().2, text(o, "/metadata/name"), describe(*kind, o)));
        format!("{at:7.1}s {:<10} {}{}", line.by, line.text, object.unwrap_or_default())
    }

    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Value>> {
        self.at(kind, &Key::new(NS, name))
    }

    pub fn at(&self, kind: Kind, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&(kind, key.clone()))
    }

    pub fn list(&self, kind: Kind) -> Vec<(Key, Arc<Value>)> {
        self.of(kind).map(|(key, o)| (key.clone(), o.clone())).collect()
    }

    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.range((kind, Key::new("", ""))..).take_while(move |((k, _), _)| *k == kind).map(|((_, key), o)| (key, o))
    }

    pub fn has_uid(&self, uid: &str) -> bool {
        self.objects.values().any(|o| text(o, "/metadata/uid") == uid)
    }

    pub fn create(&mut self, kind: Kind, mut object: Value, by: &'static str) -> Result<Arc<Value>, Refusal> {
        let key = key_of(&object);
        if self.refused.contains(&key.name) {
            return Err(Refusal::Forbidden(format!("{} is forbidden: exceeded quota", key.name)));
        }
        if self.doomed && key.namespace == NS {
            return Err(Refusal::Forbidden(format!("unable to create new content in namespace {NS} because it is being terminated")));
        }
        if self.at(kind, &key).is_some() {
            return Err(Refusal::Exists);
        }
        self.uids += 1;
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("uid".into(), json!(format!("uid-{}", self.uids)));
        meta.insert("generation".into(), json!(1));
        meta.insert("creationTimestamp".into(), json!(stamp(self.now)));
        if kind == Kind::RollingUpdate {
            object["status"] = self.born.clone();
        }
        Ok(self.store(kind, key, object, by))
    }

    /// A JSON Patch. Whether anything changed by it comes with the object.
    pub fn patch(
        &mut self,
        kind: Kind,
        key: &Key,
        ops: &[PatchOperation],
        status: bool,
        by: &'static str,
    ) -> Result<(Arc<Value>, bool), Refusal> {
        let old = self.at(kind, key).cloned().ok_or(Refusal::NotFound)?;
        let mut new = (*old).clone();
        json_patch::patch(&mut new, ops).map_err(|e| Refusal::Invalid(e.to_string()))?;
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return Err(Refusal::Conflict);
        }
        if status {
            let said = new["status"].take();
            new = (*old).clone();
            new["status"] = said;
        } else if old.get("status").is_some() {
            new["status"] = old["status"].clone();
        }
        Ok(self.commit(kind, key, &old, new, by))
    }

    /// What controllers and people do: read, change, write.
    pub fn edit(&mut self, kind: Kind, key: &Key, by: &'static str, change: impl FnOnce(&mut Value)) -> bool {
        let Some(old) = self.at(kind, key).cloned() else { return false };
        let mut new = (*old).clone();
        change(&mut new);
        self.commit(kind, key, &old, new, by).1
    }

    pub fn delete(&mut self, kind: Kind, key: &Key, uid: Option<&str>, by: &'static str) -> Result<(), Refusal> {
        let old = self.at(kind, key).cloned().ok_or(Refusal::NotFound)?;
        if uid.is_some_and(|u| u != text(&old, "/metadata/uid")) {
            return Err(Refusal::Conflict);
        }
        let held = old.pointer("/metadata/finalizers").is_some() || kind == Kind::Pod;
        if !held {
            self.remove(kind, key, by);
        } else if !is_deleting(&old) {
            let mut new = (*old).clone();
            new["metadata"]["deletionTimestamp"] = json!(stamp(self.now));
            let generation = new["metadata"]["generation"].as_i64().unwrap_or_default();
            new["metadata"]["generation"] = json!(generation + 1);
            self.store(kind, key.clone(), new, by);
        }
        Ok(())
    }

    /// A deletion that keeps the object until everything it owns is gone.
    pub fn delete_foreground(&mut self, kind: Kind, key: &Key, uid: Option<&str>, by: &'static str) -> Result<(), Refusal> {
        let old = self.at(kind, key).ok_or(Refusal::NotFound)?;
        if uid.is_some_and(|u| u != text(old, "/metadata/uid")) {
            return Err(Refusal::Conflict);
        }
        if !is_deleting(old) {
            let (mut new, now) = ((**old).clone(), stamp(self.now));
            new["metadata"]["deletionTimestamp"] = json!(now);
            new["metadata"]["finalizers"] = json!([FOREGROUND]);
            self.store(kind, key.clone(), new, by);
        }
        Ok(())
    }

    /// The namespace is deleted: everything in it is, in no order, and nothing new comes.
    pub fn doom(&mut self) {
        self.doomed = true;
        let all: Vec<_> = self.objects.keys().filter(|(_, key)| key.namespace == NS).cloned().collect();
        for (kind, key) in all {
            self.delete(kind, &key, None, "namespace").ok();
        }
    }

    /// Takes an object out, whatever holds it.
    pub fn remove(&mut self, kind: Kind, key: &Key, by: &'static str) {
        if let Some(old) = self.objects.remove(&(kind, key.clone())) {
            self.version += 1;
            let uid = text(&old, "/metadata/uid").to_owned();
            let text = format!("DELETED {} {}", kind.gvk().2, key.name);
            self.trace.push(Line { at: self.now, by, text, object: None });
            self.log.get_mut(&kind).unwrap().push(Event { at: self.now, key: key.clone(), uid, object: None });
        }
    }

    fn commit(&mut self, kind: Kind, key: &Key, old: &Arc<Value>, mut new: Value, by: &'static str) -> (Arc<Value>, bool) {
        tidy(&mut new);
        if new == **old {
            return (old.clone(), false);
        }
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let ends = is_deleting(&new) && kind != Kind::Pod && new.pointer("/metadata/finalizers").is_none();
        let stored = self.store(kind, key.clone(), new, by);
        if ends {
            self.remove(kind, key, by);
        }
        (stored, true)
    }

    fn store(&mut self, kind: Kind, key: Key, mut object: Value, by: &'static str) -> Arc<Value> {
        self.version += 1;
        tidy(&mut object);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        self.trace.push(Line { at: self.now, by, text: String::new(), object: Some((kind, object.clone())) });
        let uid = text(&object, "/metadata/uid").to_owned();
        self.log.get_mut(&kind).unwrap().push(Event { at: self.now, key: key.clone(), uid, object: Some(object.clone()) });
        self.objects.insert((kind, key), object.clone());
        object
    }
}

/// Empty maps and lists of metadata are not stored, as with Go's `omitempty`.
fn tidy(object: &mut Value) {
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    meta.retain(|_, v| !v.as_object().is_some_and(serde_json::Map::is_empty) && !v.as_array().is_some_and(Vec::is_empty));
}

pub fn stamp(time: Time) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

pub fn key_of(object: &Value) -> Key {
    Key::new(text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

/// `Value::pointer` without its allocations: this is what a run spends its time on.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(object);
    }
    path[1..].split('/').try_fold(object, |o, token| match o {
        Value::Object(map) if token.contains('~') => map.get(&token.replace("~1", "/")),
        Value::Object(map) => map.get(token),
        Value::Array(list) => list.get(token.parse::<usize>().ok()?),
        _ => None,
    })
}

pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

pub fn int(object: &Value, path: &str) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or_default()
}

pub fn items<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    at(object, path).and_then(Value::as_array).into_iter().flatten()
}

pub fn strings(object: &Value, path: &str) -> BTreeMap<String, String> {
    let map = at(object, path).and_then(Value::as_object);
    map.into_iter().flatten().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}

pub fn is_deleting(object: &Value) -> bool {
    at(object, "/metadata/deletionTimestamp").is_some()
}

pub fn is_ready(pod: &Value) -> bool {
    !is_deleting(pod) && items(pod, "/status/conditions").any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}

pub fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    items(object, "/metadata/ownerReferences").map(|o| text(o, "/uid"))
}

/// Whether a selector picks these labels; an empty one picks nothing.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

pub fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn describe(kind: Kind, o: &Value) -> String {
    let ending = if is_deleting(o) { " (deleting)" } else { "" };
    let what = match kind {
        Kind::RollingUpdate => format!(
            "version {} control {} | {} {} {}: {}",
            text(o, "/spec/version"),
            o.pointer("/spec/control").map(ToString::to_string).unwrap_or_default(),
            text(o, "/status/state"),
            text(o, "/status/routing"),
            items(o, "/status/conditions").next().map(|c| text(c, "/reason")).unwrap_or_default(),
            items(o, "/status/conditions").next().map(|c| text(c, "/message")).unwrap_or_default(),
        ),
        Kind::Deployment => format!(
            "replicas {} paused {} gen {}/{} total {} updated {} available {} notes {:?}",
            int(o, "/spec/replicas"),
            o.pointer("/spec/paused").is_some(),
            int(o, "/status/observedGeneration"),
            int(o, "/metadata/generation"),
            int(o, "/status/replicas"),
            int(o, "/status/updatedReplicas"),
            int(o, "/status/availableReplicas"),
            strings(o, "/metadata/annotations").keys().collect::<Vec<_>>(),
        ),
        Kind::ReplicaSet => format!("replicas {}", int(o, "/spec/replicas")),
        Kind::Autoscaler => String::new(),
        Kind::Pod => format!("ready {}", is_ready(o)),
        Kind::Service => format!("selects {:?}", strings(o, "/spec/selector")),
        Kind::EndpointSlice => {
            let ready = items(o, "/endpoints").filter(|e| e["conditions"]["ready"] == true).map(|e| text(e, "/targetRef/name"));
            format!("ready {:?}", ready.collect::<Vec<_>>())
        }
        Kind::HttpRoute => {
            let rules = items(o, "/spec/rules").map(|r| {
                items(r, "/backendRefs").map(|b| format!("{}={}", text(b, "/name"), int(b, "/weight"))).collect::<Vec<_>>().join(" ")
            });
            let seen = items(o, "/status/parents").map(|p| int(p, "/conditions/0/observedGeneration").to_string());
            format!(
                "gen {} acked {} [{}]",
                int(o, "/metadata/generation"),
                seen.collect::<Vec<_>>().join(","),
                rules.collect::<Vec<_>>().join(" | ")
            )
        }
    };
    what + ending
}

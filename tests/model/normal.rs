//! A cluster without what differs from run to run: two that were brought to the same must be the same.

use std::collections::BTreeMap;

use aether_operator::cluster::facts::Kind;
use serde_json::{Value, json};

use super::truth;
use super::world::{Objects, int, items, text};

/// What is there, each object by kind and name, in what people can see of it.
pub fn form(objects: &Objects) -> BTreeMap<String, Value> {
    let mut form = BTreeMap::new();
    for kind in [Kind::RollingUpdate, Kind::Deployment, Kind::Service, Kind::HttpRoute] {
        for (name, object) in truth::all(objects, kind) {
            let meta = &object["metadata"];
            let seen = json!({
                "labels": meta["labels"], "annotations": meta["annotations"], "finalizers": meta["finalizers"],
                "spec": object["spec"], "status": if kind == Kind::RollingUpdate { said(object) } else { Value::Null },
            });
            form.insert(format!("{} {name}", kind.gvk().2), seen);
        }
    }
    for (_, set) in truth::all(objects, Kind::ReplicaSet).filter(|(_, s)| int(s, "/spec/replicas") > 0) {
        let name = format!("ReplicaSet of {}", text(set, "/metadata/ownerReferences/0/name"));
        form.insert(name, json!({"replicas": set["spec"]["replicas"], "template": set["spec"]["template"]}));
    }
    for (_, pod) in truth::all(objects, Kind::Pod) {
        let name = format!("pods with {}", pod["metadata"]["labels"]);
        let count = form.entry(name).or_insert(json!(0));
        *count = json!(count.as_i64().unwrap() + 1);
    }
    form
}

/// What an update says of itself that does not speak of the way there.
fn said(update: &Value) -> Value {
    let conditions = items(update, "/status/conditions").map(|c| (text(c, "/type"), text(c, "/status"), text(c, "/reason")));
    let mut conditions: Vec<_> = conditions.collect();
    conditions.sort_unstable();
    let mut said = json!({"conditions": conditions});
    for field in ["state", "newVersion", "routing", "ready", "readyInstances", "newInstances", "selector", "observedVersion"] {
        said[field] = update["status"][field].clone();
    }
    said
}

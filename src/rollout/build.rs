//! The objects of a new version, made from the user's own: names, Deployment, version Services.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::names;
use crate::cluster::facts::{Deployment, Service};
use crate::traffic::apex::{self, Pin};

use super::wish::Wish;

/// Longest name of a Service, and of a label value.
const MAX_NAME: usize = 63;

/// Who the objects of an update belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Namespace of everything.
    pub namespace: String,
    /// Name of the RollingUpdate.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Tells the releases that it brings out one after the other apart.
    pub release: String,
}

/// First letters of a SHA-256, enough to tell names and templates apart.
pub fn short_hash(text: &str) -> String {
    let bytes = Sha256::digest(text.as_bytes());
    bytes.iter().take(5).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// The name of a version's Deployment and Service: `<workload>-<version>` as a DNS label. Over-long
/// names and those `taken` says are in use get a hash of `seed` behind them.
pub fn revision_name(workload: &str, version: &str, seed: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = dns_label(&format!("{workload}-{version}"));
    if plain.len() <= MAX_NAME && !taken(&plain) {
        return plain;
    }
    let hash = short_hash(seed);
    let room = MAX_NAME - hash.len() - 1;
    let head: String = plain.chars().take(room).collect();
    format!("{}-{hash}", head.trim_end_matches('-'))
}

fn dns_label(text: &str) -> String {
    let mut label: String =
        text.to_ascii_lowercase().chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    if !label.starts_with(|c: char| c.is_ascii_lowercase()) {
        // Names of Services start with a letter.
        label.insert_str(0, "r-");
    }
    label.trim_end_matches('-').to_owned()
}

/// A text as a label value: what does not fit becomes `_`, the ends are alphanumeric, at most 63 long.
pub fn label_value(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let value: String = text.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    let value = if value.len() > MAX_NAME {
        let head: String = value.chars().take(MAX_NAME - 11).collect();
        format!("{head}-{}", short_hash(text))
    } else {
        value
    };
    value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// The artifact as a label value: `group.name`.
fn artifact_label(wish: &Wish) -> String {
    label_value(&wish.artifact_base.replace(':', "."))
}

/// A version as an image tag: tags hold no `+`, which by custom becomes `_`.
fn tag(version: &str) -> String {
    version.replace('+', "_")
}

/// The image of a version: the user's pattern, or the container's own image with another tag.
pub fn image(current: &str, pattern: Option<&str>, version: &str) -> String {
    if let Some(pattern) = pattern {
        return pattern.replace("{version}", &tag(version));
    }
    format!("{}:{}", split_image(current).0, tag(version))
}

/// An image's name and its tag; a digest is neither.
pub fn split_image(image: &str) -> (&str, Option<&str>) {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// The pod template of a workload.
pub fn template(workload: &Deployment) -> Value {
    serde_json::from_str(&workload.template).unwrap_or_default()
}

/// A template's identity, to see whether the user has edited it since.
pub fn template_hash(workload: &Deployment) -> String {
    short_hash(&workload.template)
}

/// Whether a workload's template is as it was when we paused it.
pub fn is_as_paused(workload: &Deployment) -> bool {
    workload.meta.annotations.get(names::PAUSED_TEMPLATE).is_some_and(|hash| *hash == template_hash(workload))
}

/// Why a container cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Deployment {workload} has no container {wanted}; it has {found}: set spec.workload.container to one of them")]
pub struct NoContainer {
    workload: String,
    wanted: String,
    found: String,
}

/// The container that carries the version: the named one, else the annotated default, else the first.
fn container(workload: &Deployment, template: &Value, named: Option<&str>) -> Result<usize, NoContainer> {
    let containers: Vec<&str> = template
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|c| c.get("name").and_then(Value::as_str).unwrap_or_default())
        .collect();
    let annotated =
        template.pointer("/metadata/annotations").and_then(|a| a.get("kubectl.kubernetes.io/default-container")).and_then(Value::as_str);
    let wanted = named.or_else(|| annotated.filter(|a| containers.contains(a))).or_else(|| containers.first().copied()).unwrap_or_default();
    containers.iter().position(|c| *c == wanted).ok_or_else(|| NoContainer {
        workload: workload.meta.name.clone(),
        wanted: wanted.to_owned(),
        found: containers.join(", "),
    })
}

/// The version a workload runs by its own template: its container's image tag, or `unknown`.
pub fn template_version(workload: &Deployment, named: Option<&str>) -> Result<String, NoContainer> {
    let template = template(workload);
    let at = container(workload, &template, named)?;
    let image = template.pointer(&format!("/spec/containers/{at}/image")).and_then(Value::as_str).unwrap_or_default();
    Ok(split_image(image).1.unwrap_or("unknown").to_owned())
}

/// Labels that tell a revision's pods from every other's.
fn revision_labels(wish: &Wish, name: &str) -> Value {
    json!({
        names::ARTIFACT: artifact_label(wish),
        names::VERSION: label_value(&wish.version),
        names::REVISION: name,
    })
}

/// The new version's pod template: the user's with another image and labels of its own.
pub fn revision_template(workload: &Deployment, wish: &Wish, name: &str) -> Result<Value, NoContainer> {
    let mut template = template(workload);
    let at = container(workload, &template, wish.container.as_deref())?;
    if let Some(image_field) = template.pointer_mut(&format!("/spec/containers/{at}/image")) {
        *image_field = json!(image(image_field.as_str().unwrap_or_default(), wish.image.as_deref(), &wish.version));
    }
    // There are labels: the API server refuses a template that its own selector does not match.
    merge(template.pointer_mut("/metadata/labels"), &revision_labels(wish, name));
    Ok(template)
}

/// The new version's Deployment.
///
/// It belongs to the user's Deployment, so that it outlives the RollingUpdate but not the workload.
pub fn deployment(workload: &Deployment, wish: &Wish, owner: &Owner, name: &str, instances: i32) -> Result<Value, NoContainer> {
    let template = revision_template(workload, wish, name)?;
    let built_from = short_hash(&template.to_string());
    let mut spec = json!({
        "replicas": instances,
        "selector": {"matchLabels": {names::REVISION: name}},
        "template": template,
    });
    merge(Some(&mut spec), &workload.tuning);
    let mut own = revision_labels(wish, name);
    merge(Some(&mut own), &json!({names::MANAGED_BY: names::FIELD_MANAGER}));
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": own,
            "annotations": {"aether.dev/update": owner.name, names::BUILT_FROM: built_from},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": workload.meta.name, "uid": workload.meta.uid,
            }],
        },
        "spec": spec,
    }))
}

/// A Service that selects one version only, otherwise like the apex. It belongs to the RollingUpdate.
pub fn version_service(service: &Service, wish: &Wish, owner: &Owner, name: &str, version: &str, pin: &Pin) -> Value {
    let selector: BTreeMap<String, String> = apex::pinned_selector(service, pin);
    let mut spec = service.shape.clone();
    merge(Some(&mut spec), &json!({"selector": selector}));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {
                names::ARTIFACT: artifact_label(wish),
                names::VERSION: label_value(version),
                names::UPDATE_UID: owner.uid,
                names::RELEASE: owner.release,
                names::MANAGED_BY: names::FIELD_MANAGER,
            },
            "ownerReferences": [{
                "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "name": owner.name, "uid": owner.uid,
            }],
        },
        "spec": spec,
    })
}

fn merge(into: Option<&mut Value>, from: &Value) {
    if let (Some(into), Some(from)) = (into.and_then(Value::as_object_mut), from.as_object()) {
        into.extend(from.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("registry.example:5000/shop", None, "2.0.0", "registry.example:5000/shop:2.0.0")]
    #[case("registry.example:5000/shop:1.0.0", None, "2.0.0", "registry.example:5000/shop:2.0.0")]
    #[case("shop:1.0.0@sha256:abc", None, "2.0.0", "shop:2.0.0")]
    #[case("shop@sha256:abc", None, "2.0.0+b1", "shop:2.0.0_b1")]
    #[case("shop:1", Some("other/shop:v{version}"), "2.0.0", "other/shop:v2.0.0")]
    fn images(#[case] current: &str, #[case] pattern: Option<&str>, #[case] version: &str, #[case] wanted: &str) {
        assert_eq!(image(current, pattern, version), wanted);
    }

    #[rstest]
    #[case("web", "2.0.0", "web-2-0-0")]
    #[case("web", "2.0.0+B_1", "web-2-0-0-b-1")]
    #[case("1web", "2.", "r-1web-2")]
    fn names_of_revisions(#[case] workload: &str, #[case] version: &str, #[case] wanted: &str) {
        assert_eq!(revision_name(workload, version, "", |_| false), wanted);
    }

    #[test]
    fn a_long_or_taken_name_gets_a_hash_and_stays_a_dns_label() {
        let taken = revision_name("web", "2.0.0", "seed", |n| n == "web-2-0-0");
        assert!(taken.starts_with("web-2-0-0-") && taken.len() == 20, "{taken}");
        let long = revision_name(&"w".repeat(80), "2.0.0", "seed", |_| false);
        assert_eq!(long.len(), 63);
    }

    #[rstest]
    #[case("org.example:my-slice", "org.example_my-slice")]
    #[case("-1.0-", "1.0")]
    fn label_values(#[case] text: &str, #[case] wanted: &str) {
        assert_eq!(label_value(text), wanted);
    }
}

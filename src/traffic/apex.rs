//! The apex Service: whom callers of the Service itself reach.
//!
//! While an update is on, the apex is *pinned*: one more key in its selector names one version's
//! pods. The pin goes to the old version before the first new pod exists, flips at x:0, and is
//! taken away when one version is left. The user's own selector is what remains without our keys.

use std::collections::BTreeMap;

use json_patch::PatchOperation;
use serde_json::json;

use crate::api::names;
use crate::cluster::facts::Service;
use crate::cluster::patch;

/// A label that all pods of one version carry and no other version's do, or that the pods in service carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// `aether.dev/revision` for Deployments of ours, `pod-template-hash` for the user's, `aether.dev/serving` for
    /// some pods of both.
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

/// The selector as the user wrote it.
pub fn users_selector(service: &Service) -> BTreeMap<String, String> {
    let mut selector = service.selector.clone();
    selector.retain(|key, _| ![names::REVISION, names::POD_TEMPLATE_HASH, names::SERVING].contains(&key.as_str()));
    selector
}

/// The user's selector, narrowed to one version.
pub fn pinned_selector(service: &Service, pin: &Pin) -> BTreeMap<String, String> {
    let mut selector = users_selector(service);
    selector.insert(pin.key.to_owned(), pin.value.clone());
    selector
}

/// Whether the apex selects that version and no other.
pub fn is_pinned_to(service: &Service, pin: &Pin) -> bool {
    service.selector == pinned_selector(service, pin)
}

/// Whether any version is pinned.
pub fn is_pinned(service: &Service) -> bool {
    service.selector != users_selector(service)
}

/// Pins the apex to a version, or to another one.
pub fn pin(service: &Service, pin: &Pin) -> Vec<PatchOperation> {
    select(service, &pinned_selector(service, pin))
}

/// Gives the apex its own selector back.
pub fn unpin(service: &Service) -> Vec<PatchOperation> {
    let mut ops = select(service, &users_selector(service));
    ops.extend(patch::clear_annotations(&service.meta, &[names::FENCE]));
    ops
}

fn select(service: &Service, selector: &BTreeMap<String, String>) -> Vec<PatchOperation> {
    vec![
        patch::test("/metadata/uid", json!(service.meta.uid)),
        // The selector may be the same again, and a rollback lie in between: a write that was held up must not go through.
        patch::only_at(&service.meta),
        patch::replace("/spec/selector", json!(selector)),
    ]
}

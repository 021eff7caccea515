//! Pods mode: the Service's own endpoints are the shares.
//!
//! At 0 % the apex is pinned to the old version and at 100 % to the new one, so that both ends heal without the
//! operator. In between the apex selects the serving label, which so many pods of either version carry. Pods of the old
//! version are born with it then (it is in their ReplicaSet's template), so a crash falls back to the old version.

use json_patch::PatchOperation;
use serde_json::json;

use crate::api::{Ratio, names};
use crate::cluster::facts::{Pod, ReplicaSet};
use crate::cluster::patch;

use super::apex::Pin;

/// Pods of each version that serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of the new version.
    pub new: i32,
    /// Of the old version.
    pub old: i32,
}

impl Share {
    /// What a ratio comes to: as many pods in all as the old version has, so that none has to carry more than before;
    /// rounded down for the new version.
    pub fn of(ratio: Ratio, old_size: i32, new_size: i32) -> Self {
        if ratio.is_all_new() {
            return Self { new: new_size, old: 0 };
        }
        let (new, old) = ratio.reduced();
        let part = i64::from(new) * i64::from(old_size) / (i64::from(new) + i64::from(old));
        let new = i32::try_from(part).unwrap_or(i32::MAX).min(new_size);
        Self { new, old: old_size - new }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.new, self.old)
    }
}

/// The label of pods that serve while that revision is brought out.
pub fn serving(revision: &str) -> Pin {
    Pin { key: names::SERVING, value: revision.to_owned() }
}

/// Whether a pod carries that serving label.
pub fn serves(pod: &Pod, revision: &str) -> bool {
    pod.meta.labels.get(names::SERVING).is_some_and(|v| v == revision)
}

fn label() -> String {
    format!("/metadata/labels/{}", patch::token(names::SERVING))
}

/// Puts a pod into service. As all that follows, only as it was looked at: a write that was held up comes too late.
pub fn enlist(pod: &Pod, revision: &str) -> Vec<PatchOperation> {
    vec![patch::test("/metadata/uid", json!(pod.meta.uid)), patch::only_at(&pod.meta), patch::add(&label(), json!(revision))]
}

/// Takes a pod out of service; it stays where it is.
pub fn dismiss(pod: &Pod) -> Vec<PatchOperation> {
    vec![patch::test("/metadata/uid", json!(pod.meta.uid)), patch::only_at(&pod.meta), patch::remove(&label())]
}

/// Has the pods that replace others be born in service, or not any more.
pub fn born_serving(set: &ReplicaSet, revision: Option<&str>) -> Vec<PatchOperation> {
    let path = format!("/spec/template{}", label());
    let edit = match revision {
        Some(revision) => patch::add(&path, json!(revision)),
        None => patch::remove(&path),
    };
    let mut ops = vec![patch::test("/metadata/uid", json!(set.meta.uid)), patch::only_at(&set.meta), edit];
    ops.extend(patch::clear_annotations(&set.meta, &[names::FENCE]));
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("0:1", 4, 4, "0:4")]
    #[case("1:9", 4, 4, "0:4")]
    #[case("1:3", 4, 4, "1:3")]
    #[case("1:1", 4, 4, "2:2")]
    #[case("1:1", 3, 3, "1:2")]
    #[case("99:1", 4, 4, "3:1")]
    #[case("1:0", 4, 6, "6:0")]
    #[case("3:1", 4, 2, "2:2")]
    fn shares(#[case] ratio: &str, #[case] old: i32, #[case] new: i32, #[case] wanted: &str) {
        assert_eq!(Share::of(ratio.parse().unwrap(), old, new).to_string(), wanted);
    }

    proptest! {
        #[test]
        fn never_fewer_pods_than_before_and_never_more_than_asked(new in 0u32..1_000_000, old in 1u32..1_000_000, was in 1i32..5000, is in 1i32..5000) {
            let share = Share::of(Ratio::new(new, old).unwrap(), was, is);
            prop_assert_eq!(share.new + share.old, was);
            prop_assert!(share.new >= 0 && share.old >= 1 && share.new <= is);
            prop_assert!(i64::from(share.new) * i64::from(new + old) <= i64::from(new) * i64::from(was));
        }
    }
}

//! JSON Patch operations, spelled short. Every patch of ours carries `test` guards, so that it changes what
//! was looked at or nothing.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
use serde_json::{Value, json};

use super::facts::Meta;

fn path(text: &str) -> PointerBuf {
    // Paths are ours and well-formed; one that is not would address the whole document, which every guard refuses.
    PointerBuf::parse(text).unwrap_or_default()
}

/// The value must be this one.
pub fn test(at: &str, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path: path(at), value })
}

/// Sets a value that may not be there yet; inserts into an array.
pub fn add(at: &str, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: path(at), value })
}

/// Sets a value that is there.
pub fn replace(at: &str, value: Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation { path: path(at), value })
}

/// Takes a value away.
pub fn remove(at: &str) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: path(at) })
}

/// Makes the write fail with 409 where the object is not at that version any more (a failed `test` is a 422).
pub fn only_at(meta: &Meta) -> PatchOperation {
    replace("/metadata/resourceVersion", json!(meta.resource_version))
}

/// Makes the write fail where the object's spec was written since; its status may have been.
pub fn only_as_specified(meta: &Meta) -> PatchOperation {
    test("/metadata/generation", json!(meta.generation))
}

/// A name as a JSON Pointer token.
pub fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Path of an annotation.
pub fn annotation(name: &str) -> String {
    format!("/metadata/annotations/{}", token(name))
}

/// Sets annotations, also where the object has none yet; that case is only safe at a known version.
pub fn annotate(meta: &Meta, annotations: &[(&str, String)]) -> Vec<PatchOperation> {
    if meta.annotated {
        return annotations.iter().map(|(name, value)| add(&annotation(name), json!(value))).collect();
    }
    let all: serde_json::Map<String, Value> = annotations.iter().map(|(n, v)| ((*n).to_owned(), json!(v))).collect();
    vec![only_at(meta), add("/metadata/annotations", Value::Object(all))]
}

/// Takes annotations of ours away, those that are there.
pub fn clear_annotations(meta: &Meta, annotations: &[&str]) -> Vec<PatchOperation> {
    annotations.iter().filter(|n| meta.annotations.contains_key(**n)).map(|n| remove(&annotation(n))).collect()
}

//! Generated files are what the code says; `UPDATE=1` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use aether_operator::{api, install};

fn check(file: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{file} is stale; run `make generate` and commit it");
}

#[test]
fn crds() {
    check("crds/aether.dev_rollingupdates.yaml", &install::to_yaml(&api::crds()).unwrap());
}

#[test]
fn access() {
    check("deploy/access.yaml", &install::to_yaml(&install::access(install::NAMESPACE)).unwrap());
}

#[test]
fn finalizer_policy() {
    check("deploy/finalizer-policy.yaml", &install::to_yaml(&install::finalizer_policy()).unwrap());
}

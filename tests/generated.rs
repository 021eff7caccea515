//! Generated files are what the code says; `UPDATE=1` writes them anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api_reference;
mod gitops_files;
mod small_world;
mod state_table;

use std::path::Path;

use aether_operator::api::State;
use aether_operator::install::rights;
use aether_operator::{api, cli, install, rest};
use rstest::rstest;

/// What the chart only includes.
const CHART: &str = "charts/aether-operator/files";

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
    for crd in api::crds() {
        let file = format!("aether.dev_{}.yaml", crd.spec.names.plural);
        let text = install::to_yaml(std::slice::from_ref(&crd)).unwrap();
        check(&format!("crds/{file}"), &text);
        check(&format!("{CHART}/crds/{file}"), &text);
    }
}

#[test]
fn rights() {
    check(&format!("{CHART}/rules.yaml"), &install::to_yaml(&[rights::all_rules()]).unwrap());
    check("docs/rights.md", &rights::page());
}

#[test]
fn roles() {
    check(&format!("{CHART}/roles.yaml"), &install::to_yaml(&[serde_json::Value::from(install::roles())]).unwrap());
}

#[test]
fn policies() {
    let (asked, named) = (install::orders_policy(install::NAMESPACE), install::ordered_by_policy(install::NAMESPACE));
    check(&format!("{CHART}/policies.yaml"), &install::to_yaml(&asked).unwrap());
    check(&format!("{CHART}/mutating-policies.yaml"), &install::to_yaml(&[install::finalizer_policy(), named].concat()).unwrap());
}

#[test]
fn openapi() {
    check("openapi.json", &rest::openapi::text());
}

#[test]
fn every_field() {
    check("docs/api.md", &api_reference::page());
}

#[test]
fn states() {
    check("docs/states.md", &state_table::page());
}

#[test]
fn gitops() {
    check("gitops/argocd/argocd-cm.yaml", &gitops_files::argocd_cm());
    check("testbed/gitops/statuses/rollingupdates.json", &gitops_files::rolling_updates());
    check("testbed/gitops/statuses/proxypools.json", &gitops_files::proxy_pools());
}

#[test]
fn help_of_every_command() {
    check("docs/cli.md", &cli::args::page());
}

#[rstest]
#[case(State::Pending, "InProgress")]
#[case(State::Deploying, "InProgress")]
#[case(State::Deployed, "InProgress")]
#[case(State::Routing, "InProgress")]
#[case(State::Completing, "InProgress")]
#[case(State::RollingBack, "InProgress")]
#[case(State::Completed, "Current")]
#[case(State::RolledBack, "Failed")]
#[case(State::Failed, "Failed")]
fn every_state_is_right_for_kstatus(#[case] state: State, #[case] wanted: &str) {
    let status = state_table::said_in(state);
    assert_eq!(status.state, state);
    assert_eq!(state_table::kstatus(5, &status), wanted);
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(5)), "{:?}", status.conditions);
    // The spec was edited and nobody has looked at it yet.
    assert_eq!(state_table::kstatus(6, &status), "InProgress");
}

//! What a release says of itself is the same everywhere, and the workflows do what a person would type. What is made of it is
//! checked by `release/check`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;
use rstest::rstest;
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Value {
    serde_yaml::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn workflows() -> Vec<String> {
    let files = std::fs::read_dir(path(".github/workflows")).unwrap();
    files.map(|file| format!(".github/workflows/{}", file.unwrap().file_name().to_str().unwrap())).collect()
}

/// All that the pattern's group finds.
fn found<'a>(pattern: &str, text: &'a str) -> Vec<&'a str> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found.get(1).unwrap().as_str()).collect()
}

#[test]
fn one_version_everywhere() {
    let chart = yaml("charts/aether-operator/Chart.yaml");
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(VERSION), Some(VERSION)), "Chart.yaml");
    let document: Value = serde_json::from_str(&text("openapi.json")).unwrap();
    assert_eq!(document["info"]["version"], VERSION, "openapi.json");
    assert_eq!(found(r#"name = "aether-operator"\nversion = "(.+)""#, &text("Cargo.lock")), [VERSION], "Cargo.lock");
}

/// Keep a Changelog: versions from the newest down, each with its day or not out yet, and nothing but the six kinds of news.
#[test]
fn the_changelog_has_this_version_on_top() {
    let changelog = text("CHANGELOG.md");
    let heading = Regex::new(r"^## \[(\d+)\.(\d+)\.(\d+)\] - (unreleased|\d{4}-\d\d-\d\d)$").unwrap();
    let mut versions = Vec::new();
    for line in changelog.lines().filter(|line| line.starts_with("## ")) {
        let parts = heading.captures(line).unwrap_or_else(|| panic!("{line}: as in ## [0.1.0] - 2026-01-31"));
        versions.push([1, 2, 3].map(|part| parts[part].parse::<u32>().unwrap()));
        assert!(versions.len() == 1 || &parts[4] != "unreleased", "{line}: only the newest version may not be out yet");
    }
    assert_eq!(versions.first().map(|[major, minor, patch]| format!("{major}.{minor}.{patch}")).as_deref(), Some(VERSION));
    assert!(versions.is_sorted_by(|newer, older| newer > older), "{versions:?}");
    for kind in found(r"(?m)^### (.+)$", &changelog) {
        assert!(["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"].contains(&kind), "### {kind}");
    }
}

#[test]
fn the_chart_says_what_it_is_and_the_oldest_cluster() {
    let chart = yaml("charts/aether-operator/Chart.yaml");
    assert_eq!(
        (chart["apiVersion"].as_str(), chart["name"].as_str(), chart["type"].as_str()),
        (Some("v2"), Some("aether-operator"), Some("application"))
    );
    assert!(chart["description"].as_str().is_some_and(|said| !said.is_empty()));
    let versioning = text("docs/versioning.md");
    let oldest = found(r"\| Kubernetes \| (\d+\.\d+) \|", &versioning)[0];
    // With -0, so that a provider's 1.31.2-gke.100 counts.
    assert_eq!(chart["kubeVersion"], format!(">={oldest}.0-0"), "docs/versioning.md has another oldest Kubernetes than Chart.yaml");
}

#[test]
fn the_licence_is_the_one_that_is_declared() {
    assert_eq!(env!("CARGO_PKG_LICENSE"), "Apache-2.0");
    let licence = text("LICENSE");
    for part in
        ["Apache License", "Version 2.0, January 2004", "9. Accepting Warranty or Additional Liability.", "END OF TERMS AND CONDITIONS"]
    {
        assert!(licence.contains(part), "LICENSE lacks: {part}");
    }
}

#[rstest]
#[case("README.md")]
#[case("CONTRIBUTING.md")]
#[case("SECURITY.md")]
#[case("CHANGELOG.md")]
#[case("docs/versioning.md")]
fn links_lead_somewhere(#[case] page: &str) {
    let folder = path(page).parent().unwrap().to_owned();
    for link in found(r"\]\(([^)#:]+)(?:#[^)]*)?\)", &text(page)) {
        assert!(folder.join(link).exists(), "{page}: {link}");
    }
}

/// A tag of an action can be moved to other code, and a token that may do more than it has to can be used for that.
#[test]
fn workflows_run_pinned_actions_with_few_rights() {
    let pinned = Regex::new(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$").unwrap();
    let mut actions = 0;
    for file in workflows() {
        for action in found(r"(?m)uses: *(.+)$", &text(&file)) {
            assert!(pinned.is_match(action), "{file}: {action} is not pinned by its commit, with the version beside it");
            actions += 1;
        }
        let workflow = yaml(&file);
        assert_eq!(workflow["permissions"], serde_json::json!({}), "{file}: what a job may do is said by the job");
        for (name, job) in workflow["jobs"].as_object().unwrap() {
            let rights = job["permissions"].as_object().unwrap_or_else(|| panic!("{file}: the job {name} has no permissions"));
            assert!(job["timeout-minutes"].is_u64(), "{file}: the job {name} has no end");
            let writes: Vec<_> = rights.iter().filter(|(_, right)| *right == "write").map(|(right, _)| right.as_str()).collect();
            let tag_only = file.ends_with("/release.yaml");
            assert!(writes.is_empty() || tag_only, "{file}: the job {name} may write {writes:?}, at a pull request");
            // Build scripts of hundreds of crates run where make does.
            let makes = job.to_string().contains("\"make ");
            assert!(writes.is_empty() || !makes, "{file}: the job {name} builds with a token that may write {writes:?}");
        }
    }
    assert!(actions > 5, "{actions}");
}

#[test]
fn workflows_run_the_targets_of_the_makefile() {
    let makefile = text("Makefile");
    let targets: BTreeSet<_> = found(r"(?m)^([a-z-]+):", &makefile).into_iter().collect();
    let mut made = BTreeSet::new();
    for file in workflows() {
        for line in found(r"(?m)\bmake ([a-z -]+)$", &text(&file)) {
            for target in line.split_whitespace() {
                assert!(targets.contains(target), "{file}: make {target}");
                made.insert(target.to_owned());
            }
        }
    }
    for wanted in ["lint", "test", "release"] {
        assert!(made.contains(wanted), "no workflow runs make {wanted}");
    }
}

/// Every test program runs in some workflow: by hand one would be forgotten in the lists of the Makefile.
#[test]
fn every_test_program_is_in_the_makefile() {
    let makefile = text("Makefile");
    for folder in ["tests", "testbed/tests"] {
        for entry in std::fs::read_dir(path(folder)).unwrap().map(Result::unwrap) {
            let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
            let is_program = entry.path().extension().is_some_and(|e| e == "rs") || entry.path().join("main.rs").exists();
            let runs = Regex::new(&format!(r"--test {name}\b")).unwrap();
            assert!(!is_program || runs.is_match(&makefile), "the Makefile does not run {folder}/{name}");
        }
    }
}

#[test]
fn every_go_module_is_kept_up_to_date() {
    let listed = yaml(".github/dependabot.yml").to_string();
    let testbed = path("testbed");
    for folder in [testbed.clone(), testbed.join("strangers")] {
        for module in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.join("go.mod").exists()) {
            let name = format!("/testbed/{}", module.strip_prefix(&testbed).unwrap().display());
            assert!(listed.contains(&format!("\"{name}\"")), ".github/dependabot.yml does not have {name}");
        }
    }
}

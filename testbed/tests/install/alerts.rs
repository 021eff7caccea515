//! The alerts and the dashboard: Prometheus's own promtool takes them, each alert fires when it should and not when it should
//! not, and nothing is asked for that the operator does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aether_operator::api::ProxyPoolStatus;
use aether_operator::cloud::{Class, Error};
use aether_operator::cluster::SharedIndex;
use aether_operator::cluster::facts::Key;
use aether_operator::runtime::metrics::{Metrics, PoolFigures};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::operator::repository;
use testbed::rig::Rig;
use tokio::process::Command;

use crate::helm::{chart, said, template, text};

/// Series and their values, minute by minute.
type Series = &'static [(&'static str, &'static str)];

/// An alert, what it fires at and when, and what it does not fire at.
const CASES: &[(&str, Series, &str, Series)] = &[
    ("AetherOperatorDown", &[], "6m", &[("aether_leader{pod='a'}", "0x10")]),
    (
        "AetherNobodyLeads",
        &[("aether_leader{pod='a'}", "0x10"), ("aether_leader{pod='b'}", "0x10")],
        "3m",
        &[("aether_leader{pod='a'}", "0x10"), ("aether_leader{pod='b'}", "1x10")],
    ),
    (
        "AetherWritesFail",
        &[
            ("aether_api_writes_total{code='ok'}", "0+8x40"),
            ("aether_api_writes_total{code='503'}", "0+1x40"),
            ("aether_api_writes_total{code='none'}", "0+1x40"),
        ],
        "30m",
        &[("aether_api_writes_total{code='ok'}", "0+8x40"), ("aether_api_writes_total{code='409'}", "0+4x40")],
    ),
    (
        "AetherWritesForbidden",
        &[("aether_api_writes_total{verb='patch',resource='services',code='403'}", "0 0 1 2 3 4 5 6 7 8 9 10")],
        "10m",
        &[("aether_api_writes_total{verb='patch',resource='services',code='403'}", "7x20")],
    ),
    (
        "AetherRestErrors",
        &[("aether_rest_requests_total{code='200'}", "0+8x40"), ("aether_rest_requests_total{code='503'}", "0+2x40")],
        "30m",
        &[
            ("aether_rest_requests_total{code='200'}", "0+8x40"),
            ("aether_rest_requests_total{code='404'}", "0+9x40"),
            ("aether_rest_requests_total{code='499'}", "0+9x40"),
        ],
    ),
    (
        "AetherUpdateFailed",
        &[("aether_rolling_updates{state='FAILED'}", "0 1x10")],
        "4m",
        &[("aether_rolling_updates{state='FAILED'}", "0x10")],
    ),
    (
        "AetherUpdateRolledBack",
        &[("aether_rolling_updates{state='ROLLED_BACK'}", "2x70 3x30")],
        "80m",
        // A pause of the operator, a member that has been there for long, and one that is gone.
        &[("aether_rolling_updates{state='ROLLED_BACK'}", "2x50 _x15 2x15 1x20")],
    ),
    (
        "AetherUpdateUnhealthy",
        &[("aether_verdicts{verdict='Unhealthy'}", "1x20")],
        "12m",
        // Each of them goes back by itself.
        &[("aether_verdicts{verdict='Unhealthy'}", "0x5 1x3 0x2 1x10")],
    ),
    (
        "AetherHealthUnknown",
        &[("aether_verdicts{verdict='Unknown'}", "1x70")],
        "65m",
        &[("aether_verdicts{verdict='Unknown'}", "1x50 0 1x40")],
    ),
    (
        "AetherUpdateWaiting",
        &[("aether_rolling_updates{state='PENDING'}", "1x40")],
        "35m",
        &[("aether_rolling_updates{state='PENDING'}", "1x20 0 1x20")],
    ),
    (
        "AetherUpdateStuck",
        &[("aether_rolling_updates{state='ROLLING_BACK'}", "1x70")],
        "65m",
        // Neither is one state after another, nor one that may last.
        &[
            ("aether_rolling_updates{state='DEPLOYING'}", "1x20 0x50"),
            ("aether_rolling_updates{state='COMPLETING'}", "0x20 1x30 0x20"),
            ("aether_rolling_updates{state='ROUTING'}", "1x70"),
        ],
    ),
    (
        "AetherUpdateHeld",
        &[("aether_rolling_updates{state='ROUTING'}", "1x1500")],
        "1445m",
        &[("aether_rolling_updates{state='ROUTING'}", "1x1400 0 1x99")],
    ),
    (
        "AetherPoolBelowFloor",
        &[
            ("aether_pool_healthy{namespace='shop',pool='p',provider='vultr'}", "2x10"),
            ("aether_pool_floor{namespace='shop',pool='p',provider='vultr'}", "3x10"),
        ],
        "6m",
        &[
            ("aether_pool_healthy{namespace='shop',pool='p',provider='vultr'}", "3x10"),
            ("aether_pool_floor{namespace='shop',pool='p',provider='vultr'}", "3x10"),
        ],
    ),
    (
        "AetherPoolTooSmall",
        &[
            ("aether_pool_healthy{namespace='shop',pool='p',provider='vultr'}", "4x70"),
            ("aether_pool_wanted{namespace='shop',pool='p',provider='vultr'}", "5x70"),
        ],
        "65m",
        &[
            ("aether_pool_healthy{namespace='shop',pool='p',provider='vultr'}", "4x30 5x1 4x40"),
            ("aether_pool_wanted{namespace='shop',pool='p',provider='vultr'}", "5x80"),
        ],
    ),
    (
        "AetherPoolNotRenewed",
        &[("aether_pool_aged{namespace='shop',pool='p',provider='vultr'}", "1x130")],
        "125m",
        &[("aether_pool_aged{namespace='shop',pool='p',provider='vultr'}", "1x60 0 1x60")],
    ),
    (
        "AetherProviderUnreachable",
        &[
            ("aether_cloud_calls_total{provider='vultr',verb='list',result='ok'}", "0+1x40"),
            ("aether_cloud_calls_total{provider='vultr',verb='list',result='transient'}", "0+2x40"),
        ],
        "30m",
        &[
            ("aether_cloud_calls_total{provider='vultr',verb='list',result='ok'}", "0+1x40"),
            ("aether_cloud_calls_total{provider='vultr',verb='list',result='throttled'}", "0+9x40"),
        ],
    ),
    (
        "AetherProviderRefuses",
        &[("aether_cloud_calls_total{provider='vultr',verb='list',result='auth'}", "0+1x40")],
        "25m",
        &[("aether_cloud_calls_total{provider='vultr',verb='list',result='quota'}", "0+1x40")],
    ),
];

/// The groups of rules as they are installed, for an operator whose series have another job than the file says.
async fn groups(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let all = template(rig, "dry-run", &json!({"prometheusRule": {"enabled": true, "selector": "job=\"other\""}}), &[]).await?;
    let rule = all.iter().find(|object| object["kind"] == "PrometheusRule").context("no PrometheusRule")?;
    Ok(rule["spec"]["groups"].as_array().context("no groups")?.clone())
}

async fn rules(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    Ok(groups(rig).await?.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
}

/// Writes a file for promtool into a folder of its own. JSON is YAML.
fn write(rig: &Rig, test: &str, name: &str, content: &Value) -> anyhow::Result<PathBuf> {
    let folder = rig.bed.dir().join(test);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    std::fs::write(&path, content.to_string())?;
    Ok(path)
}

async fn promtool(rig: &Rig, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(&rig.bed.binaries().promtool);
    command.args(args);
    let said = said(command, "").await?;
    ensure!(said.ok, "promtool {args:?}: {}{}", said.out, said.err);
    Ok(said.out)
}

pub async fn the_rules_are_rules(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let file = write(rig, "promtool-check", "rules.yaml", &json!({"groups": groups(rig).await?}))?;
    let said = promtool(rig, &["check", "rules", text(&file)?]).await?;
    println!("promtool check rules: {}", said.split_whitespace().skip(2).collect::<Vec<_>>().join(" "));
    promtool(rig, &["check", "rules", text(&chart().join("alerts/aether.yaml"))?]).await?;
    for rule in rules(rig).await? {
        let name = rule["alert"].as_str().context("a rule without a name")?;
        for annotation in ["summary", "description", "runbook_url"] {
            ensure!(rule["annotations"][annotation].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {annotation}");
        }
        ensure!(["critical", "warning", "info"].iter().any(|s| rule["labels"]["severity"] == *s), "{name}: {}", rule["labels"]);
        ensure!(
            rule["expr"].as_str().is_some_and(|e| e.contains("job=\"other\"") && !e.contains("aether-operator")),
            "{name}: {}",
            rule["expr"]
        );
    }
    Ok(())
}

pub async fn each_alert_fires_and_does_not(rig: &Arc<Rig>) -> anyhow::Result<()> {
    write(rig, "promtool-test", "rules.yaml", &json!({"groups": groups(rig).await?}))?;
    let names: BTreeSet<String> = rules(rig).await?.iter().filter_map(|rule| rule["alert"].as_str().map(str::to_owned)).collect();
    let tried: BTreeSet<String> = CASES.iter().map(|case| case.0.to_owned()).collect();
    ensure!(names == tried, "{:?} are not tried, or not there", names.symmetric_difference(&tried));
    let input = |series: Series| {
        let labelled = |name: &str| name.replacen('{', "{job='other',", 1);
        // promtool wants some series.
        let none = [("up{}", "1x10")];
        let all = if series.is_empty() { &none } else { series };
        all.iter().map(|(name, values)| json!({"series": labelled(name), "values": values})).collect::<Vec<_>>()
    };
    let mut tests = Vec::new();
    for (alert, fires, at, quiet) in CASES {
        let firing = format!("count(ALERTS{{alertname='{alert}',alertstate='firing'}}) or vector(0)");
        let expect = |at: &str, n: u32| json!({"expr": firing, "eval_time": at, "exp_samples": [{"labels": "{}", "value": n}]});
        tests.push(json!({"name": format!("{alert} fires"), "interval": "1m", "input_series": input(fires), "promql_expr_test": [expect("0m", 0), expect(at, 1)]}));
        let minutes: u32 = at.trim_end_matches('m').parse()?;
        let never: Vec<Value> = (0..=minutes).map(|minute| expect(&format!("{minute}m"), 0)).collect();
        tests.push(json!({"name": format!("{alert} does not"), "interval": "1m", "input_series": input(quiet), "promql_expr_test": never}));
    }
    let cases = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests});
    let file = write(rig, "promtool-test", "cases.yaml", &cases)?;
    let said = promtool(rig, &["test", "rules", text(&file)?]).await?;
    println!(
        "promtool test rules: {} cases of {} alerts, {}",
        2 * CASES.len(),
        names.len(),
        said.split_whitespace().last().unwrap_or_default()
    );
    Ok(())
}

/// Every series the operator can show: name -> label -> values.
fn shown() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let metrics = Metrics::default();
    metrics.wrote("patch", "services", "ok");
    metrics.decided();
    metrics.read("pods", "ok");
    metrics.leads(true);
    metrics.answered("/rolling-updates", "GET", 200, Duration::from_millis(1));
    metrics.called("vultr", "list", &Ok(()));
    for class in [
        Class::NotFound,
        Class::Throttled(None),
        Class::Quota,
        Class::Capacity,
        Class::Auth,
        Class::Invalid,
        Class::Transient,
        Class::Unknown,
    ] {
        metrics.called::<()>("vultr", "list", &Err(Error { class, message: String::new() }));
    }
    let status = ProxyPoolStatus { replicas: Some(1), effective_min_available: Some(1), ..ProxyPoolStatus::default() };
    metrics.pool(&PoolFigures { key: &Key::new("shop", "p"), provider: "vultr", status: &status, wanted: 1, rate_remaining: Some(1) });
    let text = metrics.text(&SharedIndex::default());
    let mut all: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.rsplit_once(' ').and_then(|(series, _)| series.split_once('{').or(Some((series, "")))).unwrap();
        let known = all.entry(name.to_owned()).or_default();
        for (label, value) in labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\"")) {
            known.entry(label.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
        }
    }
    all
}

/// What an expression asks for: each series of the operator, with its matchers (label, text).
fn asked(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut all = Vec::new();
    for (at, _) in expression.match_indices("aether_") {
        let rest = &expression[at..];
        let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
        let matchers = rest[name.len()..].strip_prefix('{').and_then(|m| m.split_once('}')).map_or("", |(matchers, _)| matchers);
        let pair = |m: &str| {
            m.split_once('=')
                .map(|(label, value)| (label.trim_end_matches('!').to_owned(), value.trim_start_matches('~').trim_matches('"').to_owned()))
        };
        all.push((name, matchers.split(',').filter_map(pair).collect()));
    }
    all
}

pub async fn nothing_is_asked_for_that_the_operator_does_not_show(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let shown = shown();
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(chart().join("dashboards/aether.json"))?)?;
    let mut expressions: Vec<String> = rules(rig).await?.iter().filter_map(|rule| rule["expr"].as_str().map(str::to_owned)).collect();
    let alerts = expressions.len();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        expressions.extend(panel["targets"].as_array().into_iter().flatten().filter_map(|t| t["expr"].as_str().map(str::to_owned)));
    }
    for variable in dashboard["templating"]["list"].as_array().context("no variables")? {
        expressions.extend(variable["query"]["query"].as_str().map(str::to_owned));
    }
    let mut used = BTreeSet::new();
    for expression in &expressions {
        let all = asked(expression);
        ensure!(!all.is_empty(), "{expression} asks for nothing");
        for (name, matchers) in all {
            let labels = shown.get(&name).with_context(|| format!("{name} is not shown: {expression}"))?;
            for (label, text) in matchers {
                // Prometheus gives it to what it reads.
                if label == "job" {
                    continue;
                }
                let values = labels.get(&label).with_context(|| format!("{name} has no label {label}: {expression}"))?;
                if ["state", "verdict", "result"].contains(&label.as_str()) {
                    for value in text.split('|') {
                        ensure!(values.contains(value), "{name} never has {label}={value}: {expression}");
                    }
                }
            }
            used.insert(name);
        }
    }
    println!(
        "{alerts} alerts and {} queries of the dashboard use {} series, all of which the operator shows",
        expressions.len() - alerts,
        used.len()
    );
    // As Grafana's sidecar gets it.
    let all = template(rig, "dry-run", &json!({"dashboard": {"enabled": true}}), &[]).await?;
    let map = all.iter().find(|o| o["kind"] == "ConfigMap").context("no ConfigMap")?;
    ensure!(map["metadata"]["labels"]["grafana_dashboard"] == "1", "{}", map["metadata"]);
    let installed: Value = serde_json::from_str(map["data"]["aether.json"].as_str().context("no dashboard")?)?;
    ensure!(installed == dashboard);
    Ok(())
}

pub async fn every_alert_has_its_runbook(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(repository().join("docs/runbooks.md"))?;
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut alerts = Vec::new();
    for rule in rules(rig).await? {
        let name = rule["alert"].as_str().context("a rule without a name")?.to_owned();
        ensure!(rule["annotations"]["runbook_url"] == format!("docs/runbooks.md#{}", name.to_lowercase()), "{}", rule["annotations"]);
        alerts.push(name);
    }
    ensure!(alerts == sections, "the alerts are {alerts:?}, the sections {sections:?}");
    Ok(())
}

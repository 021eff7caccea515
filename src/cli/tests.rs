//! What is parsed, refused and printed. Whether orders arrive is shown on the real cluster.
#![allow(clippy::needless_pass_by_value, reason = "cases are written with json!")]

use std::ffi::OsString;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::{Value, json};

use super::args::{self, Args, Command, Pool};
use super::pods::{self, Row};
use super::render::{self, Page, VersionPods};
use super::revisions::{Inventory, revisions};
use super::status::{Leader, Overview, Told};
use super::undeploy::{Plan, Removal, plan};
use super::{Failure, live, pool, status, update};
use crate::api::rolling_update::CleanupPolicy;
use crate::api::{ProxyPool, RollingUpdate, State, Time};
use crate::orders::view::{HealthAnswer, PoolStatus, Update, Updates};
use crate::orders::{Class, Hold, Order, Refusal};

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn parsed(line: &str) -> Args {
    args::parse(words(line)).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn now() -> Time {
    "2024-01-01T01:00:00Z".parse().unwrap()
}

/// An update to 2.0.0 at 25 %, in the middle.
fn release(change: Value) -> RollingUpdate {
    let mut object = json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate",
        "metadata": {"name": "web", "namespace": "shop", "generation": 3, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"artifactBase": "org.example:web", "version": "2.0.0", "control": {"version": "2.0.0", "routing": "1:3"}},
        "status": {
            "observedGeneration": 3, "state": "ROUTING", "routing": "1:3", "effectiveRouting": "1:9",
            "oldVersion": "1.0.0", "newVersion": "2.0.0", "attempt": 1, "newInstances": 4, "readyInstances": 3,
            "createdAt": "2024-01-01T00:45:00Z", "updatedAt": "2024-01-01T00:58:00Z",
            "objects": {
                "mode": "Gateway", "workload": "web", "service": "web", "oldRevision": "web", "oldService": "web-1-0-0",
                "newRevision": "web-2-0-0",
            },
            "step": {"index": 2, "of": 5, "since": "2024-01-01T00:56:55Z", "nextNotBefore": "2024-01-01T01:01:55Z"},
            "health": {
                "updateId": "web", "collectedAt": 1_704_070_680_000_i64,
                "oldVersion": {"version": "1.0.0", "requestCount": 9000, "errorRate": 0.001, "avgLatencyMs": 12.34},
                "newVersion": {"version": "2.0.0", "requestCount": 1000, "errorRate": 0.002, "avgLatencyMs": 15.0},
            },
            "decision": {
                "verdict": "Healthy", "reason": "WithinLimits", "message": "0.2 % of 1000 requests failed", "at": "2024-01-01T00:58:00Z",
            },
            "history": [
                {"at": "2024-01-01T00:45:00Z", "from": "PENDING", "to": "DEPLOYING", "reason": "Started", "by": "operator"},
                {"at": "2024-01-01T00:50:00Z", "from": "DEPLOYED", "to": "ROUTING", "reason": "Ordered", "by": "alice"},
            ],
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "WaitingForGateway", "message": "the gateway has not acknowledged 1:3",
                "lastTransitionTime": "2024-01-01T00:58:00Z",
            }],
        },
    });
    json_patch::merge(&mut object, &change);
    serde_json::from_value(object).unwrap()
}

fn in_state(state: &str, routing: &str) -> RollingUpdate {
    release(json!({"status": {"state": state, "routing": routing, "effectiveRouting": routing}}))
}

#[rstest]
// As in the guides, ids and ratios filled in; a comment is the shell's.
#[case("aether update start org.example:my-slice 2.0.0")]
#[case("aether update start org.example:my-slice 2.0.0 --max-error-rate 0.01 --max-latency-ms 500")]
#[case("aether update start org.example:my-slice 2.0.0 --cleanup GRACE_PERIOD")]
#[case("aether update start org.example:payment-service 2.0.0 --max-error-rate 0.001 --max-latency-ms 200 --manual-approval")]
#[case("aether update routing abc123 -r 1:9")]
#[case("aether update routing abc123 -r 1:3")]
#[case("aether update routing abc123 -r 1:1")]
#[case("aether update routing abc123 -r 3:1")]
#[case("aether update routing abc123 -r 1:0")]
#[case("aether update status abc123")]
#[case("aether update list")]
#[case("aether update health abc123")]
#[case("aether update complete abc123")]
#[case("aether update rollback abc123")]
#[case("aether logs org.example:my-slice:2.0.0")]
#[case("aether status")]
#[case("aether undeploy org.example:my-slice:2.0.0")]
// And what there is besides.
#[case("aether update start org.example:a 2.0.0 -i 3 --thresholds STRICT --supersede --wait --timeout 30m -n shop")]
#[case("aether update start org.example:a 2.0.0 --instances 3 --dry-run -o json")]
#[case("aether --context c --kubeconfig f -n shop update list -A --all -o wide")]
#[case("aether update routing current --ratio 1:3 --wait")]
#[case("aether update approve current -r 1:1 --wait --timeout 90s")]
#[case("aether update approve current")]
#[case("aether update pause current --wait")]
#[case("aether update resume current --wait")]
#[case("aether update status current -w")]
#[case("aether update complete current --wait")]
#[case("aether update rollback current --wait")]
#[case("aether logs org.example:my-slice:2.0.0 -f --tail 5")]
#[case("aether undeploy org.example:my-slice:2.0.0 --force")]
#[case("aether pool list -A")]
#[case("aether pool status digitalocean/default")]
#[case("aether pool evict digitalocean/default 203.0.113.7")]
#[case("aether pool evict digitalocean/default 2001:db8::7")]
#[case("aether pool rolling")]
#[case("aether pool rolling --enabled true --min-available 0 --batch-size 1")]
#[case("aether proxy --port 9090 --port 9091")]
#[case("aether completion fish")]
#[case("aether version")]
#[case("/usr/local/bin/kubectl-aether update list -A")]
fn a_command_line_that_parses(#[case] line: &str) {
    parsed(line);
}

#[rstest]
#[case("aether update start org.example:a", "<VERSION>")]
#[case("aether update start org.example:a 2 -i 0", "0 is not in 1..")]
#[case("aether update start org.example:a 2 --max-error-rate 7", "1 percent is 0.01")]
#[case("aether update start org.example:a 2 --max-error-rate NaN", "1 percent is 0.01")]
#[case("aether update start org.example:a 2 --max-latency-ms 0", "0 is not in 1..")]
#[case("aether update start org.example:a 2 --cleanup later", "write IMMEDIATE, GRACE_PERIOD or MANUAL")]
#[case("aether update start org.example:a 2 --thresholds lax", "write default, strict or relaxed")]
#[case("aether update start org.example:a 2 --wait --timeout 5", "write for example 30s, 5m or 1h30m")]
#[case("aether update start org.example:a 2 --wait --dry-run", "cannot be used with")]
#[case("aether update routing web", "--ratio <RATIO>")]
#[case("aether update routing web -r 1-3", "write new:old")]
#[case("aether update routing web -r 0:0", "write new:old")]
#[case("aether update approve web -r half", "write new:old")]
#[case("aether logs org.example:web", "write group:name:version")]
#[case("aether undeploy web:2.0.0", "write group:name:version")]
#[case("aether undeploy org.example:web:", "write group:name:version")]
#[case("aether pool status default", "write provider/instance")]
#[case("aether pool evict digitalocean/default nowhere", "invalid IP address")]
#[case("aether pool rolling --batch-size 0", "0 is not in 1..")]
#[case("aether pool rolling --enabled maybe", "[possible values: true, false]")]
#[case("aether proxy --port 0", "0 is not in 1..")]
#[case("aether completion powershell", "write bash, zsh or fish")]
#[case("aether update list -o text", "[possible values: table, wide, json, yaml]")]
#[case("aether update lsit", "a similar subcommand exists: 'list'")]
fn a_command_line_that_does_not(#[case] line: &str, #[case] why: &str) {
    let error = args::parse(words(line)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let said = error.to_string();
    assert!(said.contains(why), "{said}");
}

#[rstest]
#[case("IMMEDIATE", CleanupPolicy::Immediate)]
#[case("grace-period", CleanupPolicy::GracePeriod)]
#[case("Grace_Period", CleanupPolicy::GracePeriod)]
#[case("manual", CleanupPolicy::Manual)]
fn a_policy_in_any_case(#[case] text: &str, #[case] wanted: CleanupPolicy) {
    let Command::Update(args::Update::Start(start)) = parsed(&format!("aether update start a:b 1 --cleanup {text}")).command else {
        panic!("another command");
    };
    assert_eq!(start.cleanup, Some(wanted));
}

#[test]
fn ports_of_the_guides_unless_others_are_named() {
    let ports = |line: &str| match parsed(line).command {
        Command::Proxy(proxy) => proxy.ports,
        other => panic!("{other:?}"),
    };
    assert_eq!(ports("aether proxy"), [8080, 8000]);
    assert_eq!(ports("aether proxy --port 1 --port 2"), [1, 2]);
}

#[test]
fn a_pool_is_named_in_two_halves() {
    let Command::Pool(Pool::Status { pool }) = parsed("aether pool status aws/eu/1").command else { panic!("another command") };
    assert_eq!((&*pool.provider, &*pool.instance), ("aws", "eu/1"));
}

#[test]
fn the_plugin_says_how_it_is_called() {
    let help = args::parse(words("/usr/bin/kubectl-aether update routing --help")).unwrap_err().to_string();
    assert!(help.contains("Usage: kubectl aether update routing"), "{help}");
    assert!(help.contains("\n  kubectl aether update routing my-slice -r 1:3"), "{help}");
    let help = args::parse(words("/usr/bin/aether update routing --help")).unwrap_err().to_string();
    assert!(!help.contains("kubectl"), "{help}");
}

#[test]
fn every_command_has_examples() {
    fn look(command: &clap::Command) {
        let is_group = command.has_subcommands() && command.get_name() != "aether";
        let is_plain = ["help", "version"].contains(&command.get_name());
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(is_group || is_plain || help.contains("Examples:\n  aether "), "{}", command.get_name());
        command.get_subcommands().filter(|s| s.get_name() != "help").for_each(look);
    }
    let command = args::command("aether");
    command.clone().debug_assert();
    look(&command);
}

#[rstest]
#[case(Class::Invalid, 2)]
#[case(Class::NotFound, 4)]
#[case(Class::Forbidden, 4)]
#[case(Class::Unauthenticated, 4)]
#[case(Class::Conflict, 1)]
#[case(Class::Unavailable, 1)]
fn a_refusal_has_an_exit_code(#[case] class: Class, #[case] code: u8) {
    assert_eq!(Failure::from(Refusal { class, message: "no".into() }), Failure { code, message: "no".into() });
}

#[rstest]
#[case("COMPLETED", State::Completed, 0)]
#[case("ROLLED_BACK", State::Completed, 1)]
#[case("FAILED", State::Completed, 1)]
#[case("ROLLED_BACK", State::RolledBack, 0)]
#[case("COMPLETED", State::RolledBack, 1)]
#[case("ROUTING", State::Completed, 0)]
fn how_it_ended_has_an_exit_code(#[case] state: &str, #[case] meant: State, #[case] code: u8) {
    let shown = Update::of(&in_state(state, "1:1"));
    assert_eq!(update::verdict(&shown, meant).map_or_else(|f| f.code, |()| 0), code);
}

#[rstest]
#[case(json!({"status": {"state": "COMPLETED"}}), true)]
#[case(json!({"status": {"state": "ROUTING"}}), false)]
// The release before.
#[case(json!({"status": {"state": "COMPLETED", "newVersion": "1.0.0"}}), false)]
#[case(json!({"spec": {"attempt": 2}, "status": {"state": "FAILED"}}), false)]
// The operator has not looked yet.
#[case(json!({"metadata": {"generation": 4}, "status": {"state": "COMPLETED"}}), false)]
fn waiting_ends_when_what_is_asked_for_is_over(#[case] change: Value, #[case] wanted: bool) {
    assert_eq!(live::is_over(&release(change)), wanted);
}

fn row(name: &str, ready: bool, status: &str) -> Row {
    Row { name: name.into(), ready, status: status.into(), restarts: 0, born: Some("2024-01-01T00:46:00Z".parse().unwrap()) }
}

fn page(update: &RollingUpdate, pods: Result<Vec<VersionPods>, String>) -> String {
    let history = update.status.iter().flat_map(|s| s.history.clone()).collect();
    let page = Page { update: Update::of(update), health: HealthAnswer::of(update), history, pods };
    render::page(&page, now())
}

#[test]
fn page_of_an_update_in_the_middle() {
    let pods = vec![
        VersionPods { version: "1.0.0".into(), pods: vec![row("web-6c8f-abcde", true, "Running")] },
        VersionPods {
            version: "2.0.0".into(),
            pods: vec![row("web-2-0-0-77-x", true, "Running"), row("web-2-0-0-77-y", false, "CrashLoopBackOff")],
        },
    ];
    insta::assert_snapshot!(page(&release(json!({})), Ok(pods)));
}

#[test]
fn page_of_an_update_that_has_just_been_asked_for() {
    let update = release(json!({"spec": {"control": null}, "status": null}));
    insta::assert_snapshot!(page(&update, Ok(Vec::new())));
}

#[test]
fn page_of_an_update_that_is_over_where_pods_may_not_be_read() {
    let update = release(json!({
        "spec": {"control": {"version": "2.0.0", "routing": null, "outcome": "Rollback"}},
        "status": {"state": "ROLLED_BACK", "routing": "0:1", "effectiveRouting": null, "step": null},
    }));
    insta::assert_snapshot!(page(&update, Err("pods is forbidden: User \"dev\" cannot list resource \"pods\"".into())));
}

#[rstest]
#[case("list", false, false)]
#[case("list_of_all_namespaces", true, false)]
#[case("list_wide", false, true)]
fn tables(#[case] name: &str, #[case] namespaces: bool, #[case] wide: bool) {
    let fresh = release(json!({"metadata": {"name": "a-new-one"}, "spec": {"control": null}, "status": null}));
    let all = [Update::of(&fresh), Update::of(&release(json!({})))];
    insta::assert_snapshot!(name, render::updates(&all, namespaces, wide, now()));
}

#[test]
fn json_of_a_list() {
    let updates = Updates { updates: vec![Update::of(&release(json!({})))] };
    insta::assert_snapshot!(serde_json::to_string_pretty(&updates).unwrap());
}

#[test]
fn health_measured_and_not() {
    let measured = HealthAnswer::of(&release(json!({})));
    let nothing = HealthAnswer::of(&release(json!({"status": {"decision": null}})));
    insta::assert_snapshot!(format!("{}\n{}", render::health(&measured, now()), render::health(&nothing, now())));
}

#[test]
fn line_and_endings() {
    let line = render::line(&Update::of(&release(json!({}))));
    let ends = ["COMPLETED", "ROLLED_BACK", "FAILED"].map(|s| render::ending(&Update::of(&in_state(s, "0:1"))));
    insta::assert_snapshot!(format!("{line}\n{}", ends.join("\n")));
}

#[test]
fn confirmations() {
    let shown = Update::of(&release(json!({"spec": {"control": {"approved": "1:1"}}})));
    let ratio = "1:3".parse().unwrap();
    let orders = [
        Order::Routing(Hold(Some(ratio))),
        Order::Routing(Hold(None)),
        Order::Approve(None),
        Order::Pause,
        Order::Resume,
        Order::Complete,
        Order::Rollback,
    ];
    insta::assert_snapshot!(orders.iter().map(|o| render::confirmation(&shown, o)).collect::<Vec<_>>().join("\n"));
}

#[rstest]
#[case(0, "0s")]
#[case(119, "119s")]
#[case(120, "2m")]
#[case(150, "2m30s")]
#[case(600, "10m")]
#[case(3_600, "60m")]
#[case(10_800, "3h")]
#[case(11_400, "3h10m")]
#[case(86_400, "24h")]
#[case(180_000, "2d2h")]
#[case(864_000, "10d")]
fn ages_as_kubectl_shows_them(#[case] seconds: i64, #[case] wanted: &str) {
    assert_eq!(render::age(Some(now() - chrono::Duration::seconds(seconds)), now()), wanted);
}

#[rstest]
#[case(0.25, "25 %")]
#[case(1.0 / 3.0, "33.33 %")]
#[case(0.001, "0.1 %")]
#[case(0.0, "0 %")]
#[case(1.0, "100 %")]
fn shares_as_people_say_them(#[case] share: f64, #[case] wanted: &str) {
    assert_eq!(render::percent(share), wanted);
}

#[rstest]
#[case(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}), true, "Running")]
#[case(json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}), false, "CrashLoopBackOff")]
#[case(json!({"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff")]}), false, "ImagePullBackOff")]
#[case(json!({"phase": "Failed", "reason": "Evicted"}), false, "Evicted")]
#[case(json!({"phase": "Pending"}), false, "Pending")]
fn pods_as_kubectl_shows_them(#[case] status: Value, #[case] ready: bool, #[case] said: &str) {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
    let row = pods::row(&pod);
    assert_eq!((row.ready, &*row.status), (ready, said));
}

fn waiting(reason: &str) -> Value {
    json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": reason}}})
}

fn deployments(live: Option<&str>) -> Vec<Deployment> {
    let ours = |version: &str, name: &str| {
        json!({"metadata": {"name": name, "labels": {
            "aether.dev/artifact": "org.example.web", "aether.dev/version": version, "app.kubernetes.io/managed-by": "aether-operator",
        }}, "spec": {"replicas": 2, "selector": {}, "template": {}}})
    };
    let own = json!({
        "metadata": {"name": "web", "annotations": live.map(|l| json!({"aether.dev/live-revision": l}))},
        "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "r:5000/web:1.0.0"}]}}},
    });
    let other = json!({"metadata": {"name": "shop"}, "spec": {"selector": {}, "template": {}}});
    let all = [own, ours("2.0.0", "web-2-0-0"), ours("0.9.0", "web-0-9-0"), other];
    all.into_iter().map(|d| serde_json::from_value(d).unwrap()).collect()
}

fn inventory(update: Option<RollingUpdate>, live: Option<&str>) -> Inventory {
    let revisions = revisions("org.example:web", update.as_ref(), deployments(live));
    Inventory { update, revisions }
}

fn planned(there: &Inventory, version: &str) -> Plan {
    let artifact = format!("org.example:web:{version}").parse().unwrap();
    plan(there.find(&artifact, "shop").unwrap(), there.update.as_ref())
}

#[rstest]
// The new version.
#[case(in_state("DEPLOYED", "0:1"), "2.0.0", Removal::Rollback, None)]
#[case(in_state("ROUTING", "1:3"), "2.0.0", Removal::Rollback, Some("carries 25 %"))]
#[case(in_state("ROLLING_BACK", "0:1"), "2.0.0", Removal::UnderWay, None)]
#[case(release(json!({"status": {"state": "ROLLING_BACK", "routing": "0:1", "effectiveRouting": "1:3"}})), "2.0.0", Removal::Now, Some("carries 25 %"))]
#[case(in_state("COMPLETING", "1:0"), "2.0.0", Removal::Now, Some("is live"))]
#[case(in_state("COMPLETED", "1:0"), "2.0.0", Removal::Now, Some("is live"))]
#[case(in_state("ROLLED_BACK", "0:1"), "2.0.0", Removal::Now, None)]
// The old one.
#[case(in_state("DEPLOYING", "0:1"), "1.0.0", Removal::Now, Some("carries 100 %"))]
#[case(in_state("ROUTING", "1:3"), "1.0.0", Removal::Now, Some("carries 75 %"))]
#[case(release(json!({"status": {"routing": "1:0", "effectiveRouting": "3:1"}})), "1.0.0", Removal::Now, Some("carries 25 %"))]
#[case(in_state("ROUTING", "1:0"), "1.0.0", Removal::Complete, None)]
#[case(in_state("COMPLETING", "1:0"), "1.0.0", Removal::EndKeeping, None)]
#[case(release(json!({"spec": {"cleanupPolicy": "IMMEDIATE"}, "status": {"state": "COMPLETING", "routing": "1:0"}})), "1.0.0", Removal::UnderWay, None)]
#[case(release(json!({"status": {"state": "COMPLETED", "conditions": [kept()]}})), "1.0.0", Removal::EndKeeping, None)]
#[case(in_state("COMPLETED", "1:0"), "1.0.0", Removal::Now, None)]
#[case(in_state("FAILED", "0:1"), "1.0.0", Removal::Now, Some("is live"))]
#[case(in_state("PENDING", "0:1"), "1.0.0", Removal::Now, Some("is live"))]
// The next one is asked for and has not begun: the one before is still live.
#[case(release(json!({"spec": {"version": "3.0.0"}, "status": {"state": "COMPLETED"}})), "2.0.0", Removal::Now, Some("is live"))]
// One that was left over.
#[case(in_state("ROUTING", "1:3"), "0.9.0", Removal::Now, None)]
fn a_version_goes(#[case] update: RollingUpdate, #[case] version: &str, #[case] removal: Removal, #[case] breaks: Option<&str>) {
    let found = planned(&inventory(Some(update), None), version);
    assert_eq!(found.removal, removal);
    match (&found.breaks, breaks) {
        (Some(said), Some(wanted)) => assert!(said.contains(wanted), "{said}"),
        (said, wanted) => assert_eq!(said.as_deref(), wanted),
    }
}

fn kept() -> Value {
    json!({"type": "OldVersionRemoved", "status": "False", "reason": "CleanupManual", "message": "x", "lastTransitionTime": "2024-01-01T00:00:00Z"})
}

#[rstest]
#[case("1.0.0", None, true)]
#[case("2.0.0", Some("web-2-0-0"), true)]
#[case("2.0.0", None, false)]
fn without_an_update_the_workload_says_who_is_live(#[case] version: &str, #[case] live: Option<&str>, #[case] refused: bool) {
    assert_eq!(planned(&inventory(None, live), version).breaks.is_some(), refused);
}

#[test]
fn an_unknown_version_is_told_which_there_are() {
    let there = inventory(None, None);
    let refusal = there.find(&"org.example:web:7".parse().unwrap(), "shop").unwrap_err();
    assert_eq!(Failure::from(refusal.clone()).code, 4);
    assert_eq!(refusal.message, "org.example:web has no version 7 in namespace shop; there are 1.0.0, 2.0.0, 0.9.0");
}

#[test]
fn a_version_that_a_label_cannot_say_is_found_by_the_status() {
    let update = release(json!({"spec": {"version": "2.0.0+b.1"}, "status": {"newVersion": "2.0.0+b.1"}}));
    let there = inventory(Some(update), None);
    assert!(there.find(&"org.example:web:2.0.0+b.1".parse().unwrap(), "shop").is_ok());
}

fn proxies() -> ProxyPool {
    serde_json::from_value(json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool",
        "metadata": {"name": "main", "namespace": "proxies"},
        "spec": {"instance": "default", "minScaling": 3, "proxy": {}, "kubernetes": {"image": "proxy:1"}},
        "status": {
            "healthy": 2, "pending": 1, "pending_recycle": 1, "recycling": 0, "last_update": "2024-01-01T00:59:00Z",
            "healthy_ips": ["192.168.1.1", "192.168.1.2"], "pending_recycle_ips": ["192.168.1.2"], "recycling_ips": [],
            "config": {"enabled": true, "min_available": 3, "batch_size": 2}, "effectiveMinAvailable": 2,
            "conditions": [{
                "type": "Available", "status": "True", "reason": "FloorKept", "message": "2 of at least 2",
                "lastTransitionTime": "2024-01-01T00:00:00Z",
            }],
        },
    }))
    .unwrap()
}

#[test]
fn pools() {
    let pool = proxies();
    let shown = PoolStatus::of(&pool, vec!["192.168.1.1".into(), "192.168.1.2".into()]);
    let table = pool::rows(std::slice::from_ref(&pool), true, now());
    let config = pool.status.as_ref().unwrap().config.unwrap();
    insta::assert_snapshot!(format!("{table}\n{}\n{}", pool::page(&pool, &shown, now()), pool::configuration(&config)));
}

fn overview() -> Overview {
    Overview {
        operator_namespace: "aether-system".into(),
        operator_pods: Told::Known([("op-a".to_owned(), true), ("op-b".to_owned(), false)].into()),
        leader: Told::Known(Leader {
            identity: Some("op-a".into()),
            renewed_at: Some("2024-01-01T00:59:58Z".parse().unwrap()),
            is_alive: true,
        }),
        definitions: Told::Known(vec!["rollingupdates".into(), "proxypools".into()]),
        updates: Told::Known(vec![Update::of(&release(json!({})))]),
        pools: Told::Known([("proxies/kubernetes/default".to_owned(), PoolStatus::of(&proxies(), Vec::new()))].into()),
        read_pools: vec![proxies()],
    }
}

#[test]
fn status_at_a_glance() {
    insta::assert_snapshot!(status::page(&overview(), false, now()));
}

#[test]
fn status_of_a_bare_cluster() {
    let bare = Overview {
        operator_pods: Told::Known([].into()),
        leader: Told::Known(Leader::default()),
        definitions: Told::Known(Vec::new()),
        updates: Told::Unknown { error: "Aether's definitions are not installed in this cluster; apply them first".into() },
        pools: Told::Unknown { error: "proxypools.aether.dev is forbidden".into() },
        read_pools: Vec::new(),
        ..overview()
    };
    insta::assert_snapshot!(status::page(&bare, false, now()));
    assert_eq!(
        status::amiss(&bare),
        [
            "no pod of the operator is ready in namespace aether-system",
            "no operator leads in namespace aether-system",
            "not defined: rollingupdates, proxypools",
        ]
    );
    assert_eq!(status::amiss(&overview()), Vec::<String>::new());
    insta::assert_snapshot!("json_of_a_bare_cluster", serde_json::to_string_pretty(&bare).unwrap());
}

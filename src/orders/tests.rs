//! What is written for which order, and what is refused.
#![allow(clippy::needless_pass_by_value, reason = "cases are written with json!")]

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::pools::{self, Eviction, RollingPatch};
use super::updates::{self, Begin, Hold, Order, Start, start};
use super::view::{HealthAnswer, Update};
use super::{Class, Refusal};
use crate::api::proxy_pool::RollingConfig;
use crate::api::{ProxyPool, RollingUpdate};

/// An update to 2.0.0 in that state, at that ratio, which the gateway has acknowledged.
fn update(state: &str, routing: &str, change: Value) -> RollingUpdate {
    let mut object = json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate",
        "metadata": {"name": "web", "namespace": "shop", "generation": 3, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"artifactBase": "org.example:web", "version": "2.0.0"},
        "status": {
            "observedGeneration": 3, "state": state, "routing": routing, "oldVersion": "1.0.0", "newVersion": "2.0.0", "attempt": 1,
            "conditions": [{"type": "TrafficShifted", "status": "True", "reason": "x", "message": "x", "lastTransitionTime": "2024-01-01T00:00:00Z"}],
        },
    });
    json_patch::merge(&mut object, &change);
    serde_json::from_value(object).unwrap()
}

fn ratio(text: &str) -> crate::api::Ratio {
    text.parse().unwrap()
}

fn hold(text: &str) -> Hold {
    text.parse().unwrap()
}

fn written(update: &RollingUpdate, order: &Order) -> Value {
    updates::order(update, order).unwrap().map_or(Value::Null, |patch| patch["spec"]["control"].clone())
}

#[rstest]
#[case(Order::Routing(hold("1:3")), json!({"version": "2.0.0", "routing": "1:3"}))]
#[case(Order::Pause, json!({"version": "2.0.0", "paused": true}))]
#[case(Order::Resume, Value::Null)]
#[case(Order::Routing(hold("auto")), Value::Null)]
#[case(Order::Rollback, json!({"version": "2.0.0", "outcome": "Rollback"}))]
fn an_order_is_written_for_this_version(#[case] order: Order, #[case] wanted: Value) {
    assert_eq!(written(&update("ROUTING", "1:9", json!({})), &order), wanted);
}

#[rstest]
#[case::routing("routing", json!("1:3"), Order::Routing(hold("1:3")))]
#[case::paused("paused", json!(true), Order::Pause)]
#[case::outcome("outcome", json!("Rollback"), Order::Rollback)]
fn what_is_asked_for_already_is_not_written_again(#[case] field: &str, #[case] value: Value, #[case] order: Order) {
    let there = update("ROUTING", "1:9", json!({"spec": {"control": {"version": "2.0.0", field: value}}}));
    assert_eq!(updates::order(&there, &order).unwrap(), None);
}

#[test]
fn orders_for_another_version_do_not_come_back_to_life() {
    let there = update("ROUTING", "1:9", json!({"spec": {"control": {"version": "1.5.0", "outcome": "Complete", "routing": "1:0"}}}));
    let wanted = json!({"version": "2.0.0", "paused": true, "routing": null, "approved": null, "outcome": null});
    assert_eq!(written(&there, &Order::Pause), wanted);
    assert_eq!(Update::of(&there).asked.routing, None);
}

#[rstest]
#[case("PENDING", "0:1", Order::Complete, "1:0")]
#[case("ROUTING", "3:1", Order::Complete, "1:0")]
#[case("COMPLETED", "1:0", Order::Rollback, "COMPLETED")]
#[case("ROLLED_BACK", "0:1", Order::Routing(hold("1:1")), "ROLLED_BACK")]
#[case("FAILED", "0:1", Order::Pause, "FAILED")]
#[case("ROLLING_BACK", "0:1", Order::Routing(hold("1:1")), "rolled back")]
#[case("COMPLETING", "1:0", Order::Routing(hold("1:1")), "completed")]
#[case("ROUTING", "1:9", Order::Approve(None), "nothing to approve")]
fn what_cannot_be_now_is_a_conflict_that_says_why(#[case] state: &str, #[case] routing: &str, #[case] order: Order, #[case] why: &str) {
    let refusal = updates::order(&update(state, routing, json!({})), &order).unwrap_err();
    assert_eq!(refusal.class, Class::Conflict);
    assert!(refusal.message.contains(why), "{refusal}");
}

#[test]
fn completing_needs_the_gateways_word() {
    let unsaid = update("ROUTING", "1:0", json!({"status": {"conditions": []}}));
    assert_eq!(updates::order(&unsaid, &Order::Complete).unwrap_err().class, Class::Conflict);
    let said = update("ROUTING", "1:0", json!({}));
    assert_eq!(written(&said, &Order::Complete), json!({"version": "2.0.0", "outcome": "Complete"}));
}

#[rstest]
#[case::next(json!({}), None, Ok("1:9"))]
#[case::up_to(json!({}), Some("1:1"), Ok("1:1"))]
#[case::again(json!({"spec": {"control": {"version": "2.0.0", "approved": "1:9"}}}), None, Err("approved already"))]
#[case::further(json!({"spec": {"control": {"version": "2.0.0", "approved": "1:9"}}}), Some("1:3"), Ok("1:3"))]
fn approving(#[case] change: Value, #[case] named: Option<&str>, #[case] wanted: Result<&str, &str>) {
    let mut there = update("DEPLOYED", "0:1", change);
    there.spec.require_manual_approval = Some(true);
    match (updates::order(&there, &Order::Approve(named.map(ratio))), wanted) {
        (Ok(Some(patch)), Ok(wanted)) => assert_eq!(patch["spec"]["control"]["approved"], wanted),
        (Err(refusal), Err(why)) => assert!(refusal.message.contains(why), "{refusal}"),
        (answer, wanted) => panic!("{answer:?} instead of {wanted:?}"),
    }
}

#[test]
fn a_breach_is_approved_anew() {
    let decision =
        json!({"verdict": "Unhealthy", "reason": "ErrorRate", "message": "x", "at": "2024-01-01T00:00:00Z", "approvedBefore": "1:9"});
    let there = update("ROUTING", "1:9", json!({"status": {"decision": decision}}));
    assert_eq!(written(&there, &Order::Approve(None))["approved"], "1:3");
    let same = update("ROUTING", "0:1", json!({"status": {"decision": decision}}));
    assert!(updates::order(&same, &Order::Approve(None)).unwrap_err().message.contains("set the routing"));
}

fn begin(there: &[RollingUpdate], version: &str, supersede: bool) -> Result<Begin, Refusal> {
    let wanted = Start { artifact_base: "org.example:web".into(), version: version.into(), ..Start::default() };
    start(&wanted, there, supersede)
}

#[test]
fn the_first_start_makes_the_object_and_the_next_ones_move_it() {
    let Begin::Create(made) = begin(&[], "2.0.0", false).unwrap() else { panic!("not created") };
    assert_eq!((made.metadata.name.as_deref(), &*made.spec.version), (Some("web"), "2.0.0"));
    let over = update("COMPLETED", "1:0", json!({"spec": {"control": {"version": "2.0.0", "outcome": "Complete"}}}));
    let Begin::Move(moved) = begin(&[over], "3.0.0", false).unwrap() else { panic!("not moved") };
    assert_eq!((&*moved.name, moved.patch), ("web", json!({"spec": {"version": "3.0.0", "control": null}})));
}

#[rstest]
#[case::twice("ROUTING", "2.0.0", false, Ok(json!({"version": "2.0.0"})))]
#[case::again("ROLLED_BACK", "2.0.0", false, Ok(json!({"version": "2.0.0", "attempt": 2, "control": null})))]
#[case::again("FAILED", "2.0.0", false, Ok(json!({"version": "2.0.0", "attempt": 2, "control": null})))]
#[case::live("COMPLETED", "2.0.0", false, Ok(json!({"version": "2.0.0"})))]
#[case::going_back("ROLLING_BACK", "2.0.0", true, Err("rolled back"))]
#[case::another("ROUTING", "3.0.0", false, Err("supersede"))]
#[case::another("ROUTING", "3.0.0", true, Ok(json!({"version": "3.0.0", "control": null})))]
fn starting_again(#[case] state: &str, #[case] version: &str, #[case] supersede: bool, #[case] wanted: Result<Value, &str>) {
    match (begin(&[update(state, "1:9", json!({}))], version, supersede), wanted) {
        (Ok(Begin::Move(moved)), Ok(wanted)) => assert_eq!(moved.patch["spec"], wanted),
        (Err(refusal), Err(why)) => assert!(refusal.class == Class::Conflict && refusal.message.contains(why), "{refusal}"),
        (answer, wanted) => panic!("{answer:?} instead of {wanted:?}"),
    }
}

/// What the admission policy asks of whoever writes it, `start` asks of whoever it writes for.
#[rstest]
#[case::limits("ROUTING", "2.0.0", json!({"maxErrorRate": 0.1}), (vec!["patch"], false))]
#[case::lets_go("ROUTING", "2.0.0", json!({"requireManualApproval": false}), (vec!["patch", "approve"], false))]
#[case::stays("ROUTING", "2.0.0", json!({"requireManualApproval": true}), (vec!["patch"], false))]
#[case::next("COMPLETED", "3.0.0", json!({"requireManualApproval": false}), (vec!["patch"], true))]
#[case::again("ROLLED_BACK", "2.0.0", json!({"requireManualApproval": false}), (vec!["patch"], true))]
fn a_start_takes_verbs(#[case] state: &str, #[case] version: &str, #[case] change: Value, #[case] wanted: (Vec<&str>, bool)) {
    let mut there = update(state, "1:9", json!({}));
    there.spec.require_manual_approval = Some(true);
    let mut body = json!({"artifactBase": "org.example:web", "version": version});
    json_patch::merge(&mut body, &change);
    let Begin::Move(moved) = start(&serde_json::from_value(body).unwrap(), &[there], false).unwrap() else { panic!("not moved") };
    assert_eq!((moved.verbs.to_vec(), moved.is_anew), wanted);
}

/// As often as it is said, which after a lost answer may be twice.
#[test]
fn a_pause_and_a_ratio_by_hand_go_by_orders_of_their_own() {
    let there = |control: Value| update("ROUTING", "1:9", json!({"spec": {"control": control}}));
    let both = json!({"version": "2.0.0", "paused": true, "routing": "1:9"});
    assert_eq!(written(&there(both.clone()), &Order::Resume), json!({"version": "2.0.0", "paused": null}));
    assert_eq!(written(&there(both), &Order::Routing(hold("auto"))), json!({"version": "2.0.0", "routing": null}));
    assert_eq!(written(&there(json!({"version": "2.0.0", "routing": "1:9"})), &Order::Resume), Value::Null);
    assert_eq!("1-9".parse::<Hold>().unwrap_err().rsplit_once(", ").unwrap().1, "or auto");
}

#[test]
fn a_ratio_that_somebody_else_has_replaced_is_not_waited_for() {
    let asked = |ratio: &str| update("ROUTING", "1:9", json!({"spec": {"control": {"version": "2.0.0", "routing": ratio}}}));
    let order = Order::Routing(hold("1:1"));
    assert!(!order.is_followed(&asked("1:1")) && order.stands(&asked("2:2")));
    assert!(order.is_followed(&asked("1:3")) && !order.stands(&asked("1:3")));
}

#[test]
fn two_artifacts_do_not_meet_on_one_workload_or_name() {
    let other = update(
        "ROUTING",
        "1:9",
        json!({"metadata": {"name": "other"}, "spec": {"artifactBase": "else:other", "workload": {"name": "web"}}}),
    );
    assert!(begin(&[other], "2.0.0", true).unwrap_err().message.contains("else:other"));
    let namesake = update("COMPLETED", "1:0", json!({"spec": {"artifactBase": "else:web"}}));
    let refusal = begin(&[namesake], "2.0.0", true).unwrap_err();
    assert!(refusal.message.starts_with("artifactBase: "), "{refusal}");
}

#[test]
fn a_status_of_the_release_before_is_not_shown_for_the_next() {
    let next = update("COMPLETED", "1:0", json!({"spec": {"version": "3.0.0"}}));
    let shown = Update::of(&next);
    assert_eq!(
        (shown.state.as_str(), shown.old_version.as_deref(), &*shown.new_version, &*shown.routing),
        ("PENDING", Some("2.0.0"), "3.0.0", "0:1")
    );
    let back = Update::of(&update("ROLLED_BACK", "0:1", json!({"spec": {"version": "3.0.0"}})));
    assert_eq!((back.state.as_str(), back.old_version.as_deref()), ("PENDING", Some("1.0.0")));
    // What is being superseded is still there.
    let middle = Update::of(&update("ROLLING_BACK", "0:1", json!({"spec": {"version": "3.0.0"}})));
    assert_eq!((middle.state.as_str(), &*middle.new_version, &*middle.asked.version), ("ROLLING_BACK", "2.0.0", "3.0.0"));
}

#[test]
fn health_that_nobody_measured_is_unknown_with_every_documented_key() {
    let answer = json!(HealthAnswer::of(&update("DEPLOYED", "0:1", json!({}))));
    assert_eq!(
        (&answer["verdict"], &answer["newVersion"]["requestCount"], &answer["oldVersion"]["version"]),
        (&json!("Unknown"), &json!(0), &json!("1.0.0"))
    );
    assert!(answer["collectedAt"].is_i64() && answer["updateId"] == "web");
}

fn pool(change: Value) -> ProxyPool {
    let mut object = json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool", "metadata": {"name": "default", "namespace": "shop"},
        "spec": {"minScaling": 3, "digitalocean": {"region": "lon1"}, "proxy": {"allowFrom": ["203.0.113.0/24"]}},
        "status": {"healthy_ips": ["192.0.2.1", "192.0.2.2"]},
    });
    json_patch::merge(&mut object, &change);
    serde_json::from_value(object).unwrap()
}

#[rstest]
#[case::first(json!({}), Some("192.0.2.1"))]
#[case::beside_another(json!({"metadata": {"annotations": {"aether.dev/evict": "192.0.2.9"}}}), Some("192.0.2.9,192.0.2.1"))]
#[case::twice(json!({"metadata": {"annotations": {"aether.dev/evict": " 192.0.2.1 , x"}}}), None)]
#[case::answered_ones_go(json!({"metadata": {"annotations": {"aether.dev/evict": "7,8"}}, "status": {"evicted": [{"entry": "7", "vmId": "7"}]}}), Some("8,192.0.2.1"))]
fn evicting(#[case] change: Value, #[case] wanted: Option<&str>) {
    let wanted = wanted.map_or(Eviction::Asked, |text| Eviction::Ask(json!({"metadata": {"annotations": {"aether.dev/evict": text}}})));
    assert_eq!(pools::evict(&pool(change), "192.0.2.1".parse().unwrap()), wanted);
}

/// Who has the address now is another one than was meant then.
#[test]
fn an_address_is_evicted_a_second_time_after_the_first_answer_is_forgotten() {
    let answered =
        json!({"metadata": {"annotations": {"aether.dev/evict": "192.0.2.1,8"}}, "status": {"evicted": [{"entry": "192.0.2.1"}]}});
    let forgotten = Eviction::Forget(json!({"metadata": {"annotations": {"aether.dev/evict": "8"}}}));
    assert_eq!(pools::evict(&pool(answered), "192.0.2.1".parse().unwrap()), forgotten);
}

#[test]
fn pools_are_found_by_their_documented_names() {
    let all = || vec![pool(json!({})), pool(json!({"metadata": {"name": "b"}, "spec": {"instance": "second"}}))];
    assert_eq!(pools::select(all(), None, None).unwrap().len(), 2);
    assert_eq!(pools::title(&pools::select(all(), Some("digitalocean"), Some("second")).unwrap()[0]), ("digitalocean", "second".into()));
    assert_eq!(pools::select(all(), Some("x"), None).unwrap_err().message, "Provider 'x' not found");
    assert_eq!(pools::select(all(), Some("digitalocean"), Some("b")).unwrap_err().class, Class::NotFound);
    assert!(pools::has(&pool(json!({})), "192.0.2.2".parse().unwrap()));
    assert!(!pools::has(&pool(json!({})), "192.0.2.3".parse().unwrap()));
}

#[rstest]
#[case(json!({"batch_size": 3}), Ok((true, 3, 3)))]
#[case(json!({"enabled": false, "min_available": 0}), Ok((false, 0, 2)))]
#[case(json!({}), Err("at least one"))]
#[case(json!({"batch_size": 0}), Err("batch_size"))]
#[case(json!({"min_available": -1}), Err("min_available"))]
fn configuring(#[case] patch: Value, #[case] wanted: Result<(bool, i32, i32), &str>) {
    let before = RollingConfig { enabled: true, min_available: 3, batch_size: 2 };
    let patch: RollingPatch = serde_json::from_value(patch).unwrap();
    match (pools::configure(before, patch), wanted) {
        (Ok(c), Ok(wanted)) => assert_eq!((c.enabled, c.min_available, c.batch_size), wanted),
        (Err(refusal), Err(why)) => assert!(refusal.class == Class::Invalid && refusal.message.contains(why), "{refusal}"),
        (answer, wanted) => panic!("{answer:?} instead of {wanted:?}"),
    }
}

proptest! {
    #[test]
    fn any_text_is_an_artifact_or_a_clear_no(text in ".{0,300}") {
        match updates::name_of(&text) {
            Ok(name) => prop_assert!(text.ends_with(name) && text.contains(':')),
            Err(refusal) => prop_assert!(refusal.class == Class::Invalid && refusal.message.starts_with("artifactBase: ") && refusal.message.len() < 700),
        }
    }
}

//! Decisions as data: one line for what is seen, one for what follows. No cluster, no clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod small_world;

use std::time::Duration;

use aether_operator::api::rolling_update::Objects;
use aether_operator::api::{RollingUpdateStatus, State};
use aether_operator::cluster::facts::{Key, Kind};
use aether_operator::rollout::model::{LateCreate, Target, late_create};
use rstest::rstest;
use serde_json::json;
use small_world::{Seen, line, now, seen};

#[rstest]
// PENDING
#[case::starts(seen("PENDING"), "DEPLOYING (Deploying)")]
#[case::finalizer_first(Seen { finalizer: false, ..seen("PENDING") }, "finalizer web")]
#[case::no_workload(Seen { workload: false, ..seen("PENDING") }, "PENDING (WorkloadNotFound)")]
#[case::no_route(Seen { route: false, ..seen("PENDING") }, "DEPLOYING (Deploying)")]
#[case::no_route_but_gateway_wanted(Seen { route: false, spec: json!({"traffic": {"mode": "Gateway"}}), ..seen("PENDING") }, "PENDING (RouteNotFound)")]
#[case::no_pods(Seen { old: 0, ..seen("PENDING") }, "PENDING (WorkloadNotStable)")]
#[case::route_refused_by_its_gateway(Seen { acknowledged: 0, ..seen("PENDING") }, "PENDING (RouteNotAccepted)")]
#[case::route_nobody_speaks_for(Seen { acknowledged: -1, ..seen("PENDING") }, "PENDING (RouteNotAccepted)")]
#[case::already_live(Seen { spec: json!({"version": "1.0.0"}), ..seen("PENDING") }, "pause web, COMPLETED (AlreadyLive)")]
#[case::the_same_again_on_purpose(Seen { spec: json!({"version": "1.0.0", "attempt": 2}), ..seen("PENDING") }, "DEPLOYING (Deploying)")]
#[case::rollback_of_nothing(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), ..seen("PENDING") }, "ROLLING_BACK (RollbackOrdered)")]
#[case::deleted_before_it_began(Seen { deleting: true, ..seen("PENDING") }, "finalizer web")]
// DEPLOYING
#[case::pause_first(Seen { paused: false, apex: "user", new: None, services: false, weights: None, ..seen("DEPLOYING") }, "pause web, DEPLOYING (Deploying)")]
#[case::then_pin_and_create(Seen { apex: "user", new: None, services: false, weights: None, ..seen("DEPLOYING") }, "pin web, create Deployment web-2-0-0, create Service web-1-0-0, create Service web-2-0-0, DEPLOYING (Deploying)")]
#[case::only_what_is_missing(Seen { new: None, weights: None, ..seen("DEPLOYING") }, "create Deployment web-2-0-0, DEPLOYING (Deploying)")]
#[case::ready_but_not_settled(Seen { weights: None, held: &[("ready", 9)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::split_when_settled(Seen { weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "weigh web, DEPLOYING (Deploying)")]
#[case::no_split_while_a_pod_is_missing(Seen { new: Some(1), weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::deployed_when_acknowledged(Seen { held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYED (Deployed)")]
#[case::not_deployed_while_the_gateway_lags(Seen { acknowledged: 4, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::a_slow_gateway_is_told(Seen { acknowledged: 4, held: &[("ready", 10), ("silent", 2)], ..seen("DEPLOYING") }, "DEPLOYING (WaitingForGateway)")]
#[case::a_mute_gateway_is_told(Seen { acknowledged: 4, held: &[("ready", 10), ("silent", 60)], ..seen("DEPLOYING") }, "DEPLOYING (GatewayStatusMissing)")]
#[case::deadline(Seen { new: Some(1), since: 601, ..seen("DEPLOYING") }, "ROLLING_BACK (DeployDeadlineExceeded)")]
#[case::refused_by_the_api_server(Seen { new: None, refused: true, ..seen("DEPLOYING") }, "ROLLING_BACK (RefusedByApiServer)")]
#[case::a_denied_write_is_told_before_it_is_tried_again(Seen { denied: true, weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (WriteDenied)")]
#[case::a_denied_write_does_not_stop_the_deadline(Seen { denied: true, since: 601, weights: None, held: &[("ready", 10)], ..seen("DEPLOYING") }, "ROLLING_BACK (DeployDeadlineExceeded)")]
#[case::a_deadline_that_passed_while_nobody_looked(Seen { since: 601, weights: None, held: &[("ready", 1)], ..seen("DEPLOYING") }, "DEPLOYING (Deploying)")]
#[case::routes_gone(Seen { route: false, held: &[("ready", 10)], ..seen("DEPLOYING") }, "DEPLOYING (RouteNotFound)")]
// DEPLOYED and ROUTING
#[case::routes_gone_under_way(Seen { route: false, routing: "1:1", ..seen("ROUTING") }, "ROUTING 1:1 (RouteNotFound)")]
#[case::a_pin_taken_away_is_put_back(Seen { apex: "user", routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "pin web, ROUTING 1:1 ()")]
#[case::a_pause_taken_away_is_put_back(Seen { paused: false, routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "pause web, ROUTING 1:1 ()")]
#[case::services_taken_away_are_made_again(Seen { services: false, routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "create Service web-1-0-0, create Service web-2-0-0")]
#[case::pods_of_the_new_version_are_missing(Seen { new: Some(1), routing: "1:1", weights: Some((1, 1)), since: 30, ..seen("ROUTING") }, "ROUTING 1:1 (NewVersionNotReady)")]
#[case::first_step(Seen { held: &[("in force", 10)], ..seen("DEPLOYED") }, "weigh web")]
#[case::not_before_it_settled(Seen { held: &[("in force", 9)], ..seen("DEPLOYED") }, "DEPLOYED (Deployed)")]
#[case::recorded_when_acknowledged(Seen { weights: Some((1, 9)), ..seen("DEPLOYED") }, "ROUTING 1:9 (Routing)")]
#[case::not_recorded_before(Seen { weights: Some((1, 9)), acknowledged: 4, ..seen("DEPLOYED") }, "")]
#[case::a_slow_gateway_is_the_course_of_things(Seen { routing: "1:9", weights: Some((1, 3)), acknowledged: 4, held: &[("unconfirmed", 61), ("silent", 59)], ..seen("ROUTING") }, "ROUTING 1:9 (Routing)")]
#[case::a_gateway_gone_silent_is_told(Seen { routing: "1:9", weights: Some((1, 3)), acknowledged: 4, held: &[("unconfirmed", 62), ("silent", 60)], ..seen("ROUTING") }, "ROUTING 1:9 (GatewayStatusMissing)")]
#[case::a_gateway_that_refuses_is_told(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "1:9"}}), routing: "1:9", weights: Some((1, 9)), acknowledged: 0, ..seen("ROUTING") }, "ROUTING 1:9 (GatewayRefuses)")]
#[case::interval(Seen { routing: "1:9", weights: Some((1, 9)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "ROUTING 1:9 (Routing)")]
#[case::next_step(Seen { routing: "1:9", weights: Some((1, 9)), since: 61, held: &[("in force", 61)], ..seen("ROUTING") }, "weigh web")]
#[case::no_pod_left_of_the_new_version(Seen { new: Some(0), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "weigh web")]
#[case::not_enough_pods_for_it(Seen { new: Some(1), routing: "1:3", weights: Some((1, 3)), spec: json!({"control": {"version": "2.0.0", "routing": "3:1"}}), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:3 (NotEnoughEndpoints)")]
#[case::metrics_cannot_be_judged(Seen { spec: json!({"metrics": null}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::approval(Seen { spec: json!({"requireManualApproval": true}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:9 (AwaitingApproval)")]
#[case::approved(Seen { spec: json!({"requireManualApproval": true, "control": {"version": "2.0.0", "approved": "1:3"}}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "weigh web")]
#[case::paused(Seen { spec: json!({"control": {"version": "2.0.0", "paused": true}}), routing: "1:9", weights: Some((1, 9)), held: &[("in force", 61)], ..seen("ROUTING") }, "ROUTING 1:9 (Paused)")]
#[case::a_persons_ratio_down_at_once(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "0:1"}}), routing: "1:1", weights: Some((1, 1)), acknowledged: 4, ..seen("ROUTING") }, "weigh web")]
#[case::a_persons_ratio_up_when_settled(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "3:1"}}), routing: "1:1", weights: Some((1, 1)), held: &[("in force", 3)], ..seen("ROUTING") }, "ROUTING 1:1 (Routing)")]
#[case::orders_for_another_version(Seen { spec: json!({"control": {"version": "1.5.0", "outcome": "Rollback"}}), routing: "1:9", weights: Some((1, 9)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "ROUTING 1:9 (Routing)")]
#[case::weights_of_somebody_else_are_corrected(Seen { routing: "1:9", weights: Some((1, 1)), since: 30, ..seen("ROUTING") }, "weigh web, ROUTING 1:9 ()")]
#[case::completing(Seen { routing: "1:0", weights: Some((1, 0)), since: 61, held: &[("in force", 61)], ..seen("ROUTING") }, "COMPLETING (Completing)")]
#[case::complete_needs_x_0(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Complete"}}), routing: "1:1", weights: Some((1, 1)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "ROUTING 1:1 (Routing)")]
#[case::complete_ordered(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "1:0", "outcome": "Complete"}}), routing: "1:0", weights: Some((1, 0)), since: 11, held: &[("in force", 11)], ..seen("ROUTING") }, "COMPLETING (Completing)")]
// COMPLETING
#[case::flip(Seen { routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "flip web, COMPLETING (Completing)")]
#[case::no_flip_onto_missing_pods(Seen { new: Some(1), routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "COMPLETING (NotEnoughEndpoints)")]
#[case::restore_after_the_flip(Seen { apex: "new", routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "restore web, COMPLETING (Completing)")]
#[case::drain(Seen { apex: "new", routing: "1:0", weights: None, held: &[("flipped", 29), ("restored", 29)], ..seen("COMPLETING") }, "COMPLETING (Completing)")]
#[case::no_end_before_the_gateway_follows(Seen { apex: "new", acknowledged: 4, routing: "1:0", weights: None, held: &[("flipped", 60), ("restored", 60), ("silent", 2)], ..seen("COMPLETING") }, "COMPLETING (WaitingForGateway)")]
#[case::retire(Seen { apex: "new", routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "delete 2 Services, scale web, COMPLETING (Completing)")]
#[case::grace_period(Seen { spec: json!({"cleanupPolicy": "GRACE_PERIOD"}), apex: "new", routing: "1:0", weights: None, held: &[("flipped", 299), ("restored", 299)], ..seen("COMPLETING") }, "COMPLETING (Completing)")]
#[case::keep(Seen { spec: json!({"cleanupPolicy": "MANUAL"}), apex: "new", services: false, routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "note web, COMPLETED (OldVersionKept)")]
#[case::unpin_last(Seen { old: 0, retired: true, paused: false, services: false, apex: "new", routing: "1:0", weights: None, ..seen("COMPLETING") }, "unpin web, COMPLETING (Completing)")]
#[case::completed(Seen { old: 0, retired: true, paused: false, services: false, apex: "user", routing: "1:0", weights: None, ..seen("COMPLETING") }, "COMPLETED (Completed)")]
#[case::too_late_to_go_back(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), old: 0, retired: true, paused: false, services: false, apex: "user", routing: "1:0", weights: None, ..seen("COMPLETING") }, "COMPLETED (Completed)")]
// Going back
#[case::weights_before_the_record(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, ROLLING_BACK (RollbackOrdered)")]
#[case::one_patch_of_the_apex_after_the_flip(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), apex: "new", routing: "1:0", weights: None, ..seen("COMPLETING") }, "pin web, ROLLING_BACK (RollbackOrdered)")]
#[case::what_another_process_was_about_to_write_is_shut_out(Seen { took_over: true, spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), ..seen("DEPLOYED") }, "mark web, mark web, mark web, ROLLING_BACK (RollbackOrdered)")]
#[case::where_the_way_back_writes_anyway_that_does(Seen { took_over: true, spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, mark web, mark web, ROLLING_BACK (RollbackOrdered)")]
#[case::superseded(Seen { spec: json!({"version": "3.0.0"}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, ROLLING_BACK (Superseded)")]
#[case::deleted(Seen { deleting: true, routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "weigh web, ROLLING_BACK (Deleted)")]
#[case::the_new_version_drains(Seen { rollback: "RollbackOrdered", held: &[("drained", 39)], ..seen("ROLLING_BACK") }, "ROLLING_BACK (RollbackOrdered)")]
#[case::then_the_route_is_given_back(Seen { rollback: "RollbackOrdered", held: &[("drained", 40)], ..seen("ROLLING_BACK") }, "restore web, ROLLING_BACK (RollbackOrdered)")]
#[case::then_the_new_version_goes(Seen { rollback: "RollbackOrdered", weights: None, held: &[("drained", 40), ("restored", 10)], ..seen("ROLLING_BACK") }, "delete Deployment web-2-0-0, ROLLING_BACK (RollbackOrdered)")]
#[case::without_drain_where_there_was_no_traffic(Seen { rollback: "RollbackBeforeTraffic", weights: None, ..seen("ROLLING_BACK") }, "delete Deployment web-2-0-0, ROLLING_BACK (RollbackBeforeTraffic)")]
#[case::not_what_a_gateway_may_be_using(Seen { rollback: "RollbackBeforeTraffic", acknowledged: 4, weights: None, new: None, held: &[("restored", 10)], ..seen("ROLLING_BACK") }, "ROLLING_BACK (RollbackBeforeTraffic)")]
#[case::unless_nobody_is_there(Seen { rollback: "RollbackBeforeTraffic", acknowledged: -1, weights: None, new: None, held: &[("mute", 60), ("restored", 10)], ..seen("ROLLING_BACK") }, "delete 2 Services, unpin web, ROLLING_BACK (RollbackBeforeTraffic)")]
#[case::then_what_else_was_made(Seen { rollback: "RollbackOrdered", weights: None, new: None, held: &[("restored", 10)], ..seen("ROLLING_BACK") }, "delete 2 Services, unpin web, ROLLING_BACK (RollbackOrdered)")]
#[case::then_the_workload(Seen { rollback: "RollbackOrdered", weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "unpause web, ROLLING_BACK (RollbackOrdered)")]
#[case::but_not_an_edited_one(Seen { rollback: "RollbackOrdered", edited: true, weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "ROLLED_BACK (RollbackOrdered)")]
#[case::rolled_back(Seen { rollback: "RollbackOrdered", paused: false, weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "ROLLED_BACK (RollbackOrdered)")]
#[case::failed(Seen { rollback: "RefusedByApiServer", paused: false, weights: None, new: None, services: false, apex: "user", ..seen("ROLLING_BACK") }, "FAILED (RefusedByApiServer)")]
#[case::no_traffic_onto_a_dead_old_version(Seen { old: 0, spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), routing: "1:1", weights: Some((1, 1)), ..seen("ROUTING") }, "ROLLING_BACK (RollbackOrdered)")]
#[case::not_behind_a_service_that_was_given_back(Seen { rollback: "RollbackAfterScaleDown", old: 0, retired: true, services: false, apex: "user", weights: None, ..seen("ROLLING_BACK") }, "flip web, scale web, ROLLING_BACK (RollbackAfterScaleDown)")]
// At rest
#[case::no_pin_to_what_somebody_has_deleted(Seen { new: None, apex: "new", spec: json!({}), state: "COMPLETED", ..at_rest() }, "unpin web, COMPLETED (LiveVersionGone)")]
#[case::fewer_pods_not_at_once(Seen { since: 59, ..at_rest() }, "COMPLETED ()")]
#[case::fewer_pods(Seen { since: 60, ..at_rest() }, "scale web-2-0-0, COMPLETED ()")]
#[case::more_pods_at_once(Seen { since: 1, spec: json!({"instances": 3}), autoscaled: true, ..at_rest() }, "scale web-2-0-0, COMPLETED ()")]
#[case::what_an_autoscaler_asked_for_in_the_middle_waits(Seen { since: 60, autoscaled: true, held: &[("more pods than asked for", 59)], ..at_rest() }, "COMPLETED ()")]
#[case::it_could_object(Seen { since: 60, autoscaled: true, held: &[("more pods than asked for", 60)], ..at_rest() }, "scale web-2-0-0, COMPLETED ()")]
#[case::what_it_asks_for_at_rest_is_done(Seen { since: 60, autoscaled: true, held: &[("as many pods as asked for", 1)], ..at_rest() }, "scale web-2-0-0, COMPLETED ()")]
fn decision(#[case] seen: Seen, #[case] wanted: &str) {
    assert_eq!(line(&seen.plan()), wanted);
}

/// What is created by a process that stood still, in every state.
#[rstest]
#[case(None, "web-2-0-0", LateCreate::Goes)]
#[case(Some(State::Deploying), "web-2-0-0", LateCreate::Stays)]
#[case(Some(State::Routing), "web-2-0-0", LateCreate::Stays)]
#[case(Some(State::Routing), "web-3-0-0", LateCreate::Goes)]
#[case(Some(State::RollingBack), "web-2-0-0", LateCreate::Waits)]
#[case(Some(State::RolledBack), "web-2-0-0", LateCreate::Goes)]
#[case(Some(State::Completed), "web-2-0-0", LateCreate::Stays)]
#[case(Some(State::Pending), "web-2-0-0", LateCreate::Goes)]
fn a_late_create(#[case] state: Option<State>, #[case] name: &str, #[case] wanted: LateCreate) {
    let objects = Objects { new_revision: "web-2-0-0".into(), old_service: "web-1-0-0".into(), ..Objects::default() };
    let status = state.map(|state| RollingUpdateStatus { state, objects: Some(objects), ..RollingUpdateStatus::default() });
    let created = |kind| Target { kind, key: Key::new("shop", name) };
    assert_eq!(late_create(status.as_ref(), &created(Kind::Deployment)), wanted);
    // A version Service is nobody's when all is over.
    let service = if state == Some(State::Completed) { LateCreate::Goes } else { wanted };
    assert_eq!(late_create(status.as_ref(), &created(Kind::Service)), service);
}

#[test]
fn a_drain_does_not_begin_again_while_the_gateway_takes_the_route_back() {
    let lagging = Seen { rollback: "RollbackOrdered", acknowledged: 4, held: &[("drained", 40)], ..seen("ROLLING_BACK") };
    let still_split = lagging.plan();
    assert!(!still_split.memory.since.contains_key("drained"), "weights that are not acknowledged drain nothing");
    let restored = Seen { weights: None, ..lagging }.plan();
    assert_eq!(restored.memory.since.get("drained"), Some(&(now() - Duration::from_secs(40))));
}

/// 2.0.0 is live with two pods, and one is asked for.
fn at_rest() -> Seen {
    let spec = json!({"instances": 1});
    let live =
        Seen { old: 0, retired: true, paused: false, services: false, apex: "user", routing: "1:0", weights: None, ..seen("COMPLETED") };
    Seen { spec, ..live }
}

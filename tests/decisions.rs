//! Decisions as data: one line for what is seen, one for what follows. No cluster, no clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod small_world;

use std::time::Duration;

use aether_operator::api::rolling_update::{Decision, Objects, Verdict};
use aether_operator::api::{RollingUpdateStatus, State};
use aether_operator::cluster::facts::{Key, Kind};
use aether_operator::rollout::decide::Cause;
use aether_operator::rollout::model::{LateCreate, LiveCheck, Memory, Plan, Target, late_create};
use rstest::rstest;
use serde_json::{Value, json};
use small_world::{Figures, Seen, figures, line, now, seen};

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
// Measured
#[case::on_when_healthy(Seen { measured: Some(figures(0, 400)), ..judged() }, "weigh web, ROUTING 1:9 ()")]
#[case::not_before_the_interval(Seen { measured: Some(figures(0, 400)), since: 30, held: &[("in force", 30)], ..judged() }, "ROUTING 1:9 (Routing)")]
#[case::not_with_few_requests(Seen { measured: Some(figures(0, 299)), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::as_few_as_asked_for(Seen { measured: Some(figures(0, 299)), spec: json!({"metrics": null, "progression": {"minRequests": 299}}), ..judged() }, "weigh web, ROUTING 1:9 ()")]
#[case::not_above_the_limit(Seen { measured: Some(figures(6, 400)), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::with_a_limit_of_its_own(Seen { measured: Some(figures(6, 400)), spec: json!({"metrics": null, "maxErrorRate": 0.05}), ..judged() }, "weigh web, ROUTING 1:9 ()")]
#[case::not_by_the_strict_preset(Seen { measured: Some(figures(2, 900)), spec: json!({"metrics": null, "thresholds": "Strict"}), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_when_slow(Seen { measured: Some(Figures { slow: Some((7, 7)), ..figures(0, 400) }), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_when_buckets_cannot_tell(Seen { measured: Some(Figures { slow: Some((1, 90)), ..figures(0, 400) }), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_when_both_are_bad(Seen { measured: Some(Figures { old: (60, 4000), ..figures(8, 400) }), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_with_old_figures(Seen { measured: Some(Figures { age: Some(11), ..figures(0, 400) }), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_without_figures(Seen { measured: Some(UNREADABLE), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_with_those_of_another_step(Seen { measured: Some(Figures { counting: false, ..figures(0, 400) }), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::not_before_the_first(judged(), "ROUTING 1:9 (AwaitingVerdict)")]
#[case::the_deadline_is_told(Seen { measured: Some(figures(0, 9)), spec: json!({"metrics": null, "progression": {"analysisDeadline": "60s"}}), ..judged() }, "ROUTING 1:9 (AnalysisDeadlineExceeded)")]
#[case::a_breach_pauses(Seen { measured: Some(figures(30, 400)), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::at_any_time(Seen { measured: Some(figures(30, 400)), since: 13, held: &[], ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::a_slow_one_too(Seen { measured: Some(Figures { slow: Some((40, 40)), ..figures(0, 400) }), ..judged() }, "ROUTING 1:9 (LatencyBreached)")]
#[case::and_one_much_worse_than_the_old_one(Seen { measured: Some(Figures { old: (8, 40_000), ..figures(40, 5000) }), ..judged() }, "ROUTING 1:9 (WorseThanOldErrors)")]
#[case::not_by_old_figures(Seen { measured: Some(Figures { age: Some(11), ..figures(30, 400) }), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::later_counts_do_not_dilute_it(Seen { measured: Some(figures(0, 99_000)), said: breach(), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::nor_does_a_restart(Seen { said: breach(), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::recorded_before_it_rolls_back(Seen { measured: Some(figures(30, 400)), spec: rollback(json!({})), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::then_back(Seen { said: breach(), spec: rollback(json!({})), ..judged() }, "weigh web, ROLLING_BACK (ErrorRateBreached)")]
#[case::also_while_a_person_holds_a_ratio(Seen { said: breach(), spec: rollback(json!({"routing": "1:9"})), ..judged() }, "weigh web, ROLLING_BACK (ErrorRateBreached)")]
#[case::but_not_while_all_is_paused(Seen { said: breach(), spec: rollback(json!({"paused": true})), ..judged() }, "ROUTING 1:9 (Paused)")]
#[case::nobody_goes_back_for_nothing(Seen { measured: Some(UNREADABLE), spec: rollback(json!({})), ..judged() }, "ROUTING 1:9 (AwaitingVerdict)")]
#[case::approved_past_it(Seen { said: breach(), spec: control(json!({"approved": "1:3"})), ..judged() }, "weigh web")]
#[case::approved_not_so_far(Seen { said: breach(), spec: control(json!({"approved": "1:9"})), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::an_approval_of_before_is_no_answer(Seen { said: json!({"decision": {"verdict": "Unhealthy", "reason": "ErrorRateBreached", "approvedBefore": "1:0"}}), spec: control(json!({"approved": "1:0"})), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::another_one_is(Seen { said: json!({"decision": {"verdict": "Unhealthy", "reason": "ErrorRateBreached", "approvedBefore": "1:0"}}), spec: control(json!({"approved": "1:3"})), ..judged() }, "weigh web")]
#[case::a_breach_of_the_same_kind_is_answered(Seen { measured: Some(figures(30, 400)), said: answered("WorseThanOldErrors"), spec: control(json!({"approved": "1:0"})), ..judged() }, "weigh web, ROUTING 1:9 ()")]
#[case::one_of_another_kind_is_not(Seen { measured: Some(figures(30, 400)), said: answered("LatencyBreached"), spec: control(json!({"approved": "1:0"})), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::a_breach_stands_without_metrics(Seen { said: breach(), spec: json!({}), ..judged() }, "ROUTING 1:9 (ErrorRateBreached)")]
#[case::and_goes_back_without_them(Seen { said: breach(), spec: json!({"progression": {"onBreach": "Rollback"}}), ..judged() }, "weigh web, ROLLING_BACK (ErrorRateBreached)")]
#[case::by_pods_a_share_of_nobody_is_no_traffic(Seen { measured: Some(Figures { counting: false, old: (0, 0), ..figures(0, 0) }), said: json!({"objects": {"mode": "Pods"}}), weights: None, route: false, ..judged() }, "ROUTING 1:3 (Routing)")]
#[case::nothing_is_touched_by_a_spec_that_cannot_be_read(Seen { spec: unreadable("Pause"), ..judged() }, "ROUTING 1:9 (InvalidSpec)")]
#[case::nor_judged(Seen { measured: Some(figures(30, 400)), spec: unreadable("Rollback"), ..judged() }, "ROUTING 1:9 (InvalidSpec)")]
#[case::but_an_order_to_go_back_is_followed(Seen { spec: with_orders(unreadable("Pause"), json!({"outcome": "Rollback"})), ..judged() }, "weigh web, ROLLING_BACK (RollbackOrdered)")]
#[case::unless_it_is_for_another_version(Seen { spec: with_orders(unreadable("Pause"), json!({"outcome": "Rollback", "version": "1.5.0"})), ..judged() }, "ROUTING 1:9 (InvalidSpec)")]
#[case::what_is_deleted_goes_whatever_cannot_be_read(Seen { deleting: true, retired: true, spec: unreadable("Pause"), apex: "new", services: false, routing: "1:0", weights: None, held: &[("flipped", 300), ("restored", 300)], ..seen("COMPLETING") }, "scale web, COMPLETING (Completing)")]
#[case::and_so_is_a_breach_on_record(Seen { said: breach(), spec: unreadable("Rollback"), ..judged() }, "weigh web, ROLLING_BACK (ErrorRateBreached)")]
#[case::a_ratio_by_hand_is_never_blocked(Seen { said: breach(), spec: control(json!({"routing": "3:1"})), ..judged() }, "weigh web")]
#[case::nor_by_what_is_not_known(Seen { measured: Some(UNREADABLE), spec: control(json!({"routing": "3:1"})), ..judged() }, "weigh web, ROUTING 1:9 ()")]
#[case::held_by_hand(Seen { measured: Some(figures(30, 400)), spec: control(json!({"routing": "1:9"})), ..judged() }, "ROUTING 1:9 (AwaitingRouting)")]
#[case::no_traffic_before_it_can_be_measured(Seen { measured: Some(UNREADABLE), spec: json!({"metrics": null}), held: &[("in force", 10)], ..seen("DEPLOYED") }, "DEPLOYED (AwaitingVerdict)")]
#[case::nor_before_it_is_known_whether_it_can(Seen { spec: json!({"metrics": null}), held: &[("in force", 10)], ..seen("DEPLOYED") }, "DEPLOYED (AwaitingVerdict)")]
#[case::then_readiness_lets_it_begin(Seen { measured: Some(Figures { counting: false, old: (0, 0), ..figures(0, 0) }), spec: json!({"metrics": null}), held: &[("in force", 10)], ..seen("DEPLOYED") }, "weigh web, DEPLOYED ()")]
#[case::a_breach_is_not_forgotten_at_zero(Seen { measured: Some(figures(30, 400)), spec: json!({"metrics": null}), routing: "0:1", weights: Some((0, 1)), ..judged() }, "ROUTING 0:1 (ErrorRateBreached)")]
#[case::the_end_needs_a_verdict(Seen { measured: Some(figures(0, 9)), ..at_the_end() }, "ROUTING 1:0 (AwaitingVerdict)")]
#[case::the_end(Seen { measured: Some(figures(0, 400)), ..at_the_end() }, "COMPLETING (Completing)")]
#[case::a_breach_at_the_end(Seen { measured: Some(figures(30, 400)), ..at_the_end() }, "ROUTING 1:0 (ErrorRateBreached)")]
#[case::not_by_an_approval(Seen { said: breach(), spec: control(json!({"approved": "1:0"})), ..at_the_end() }, "ROUTING 1:0 (ErrorRateBreached)")]
#[case::the_end_waits_for_its_approval(Seen { measured: Some(figures(0, 400)), spec: json!({"metrics": null, "requireManualApproval": true}), ..at_the_end() }, "ROUTING 1:0 (AwaitingApproval)")]
#[case::the_approved_end(Seen { measured: Some(figures(0, 400)), spec: json!({"metrics": null, "requireManualApproval": true, "control": {"version": "2.0.0", "approved": "1:0"}}), ..at_the_end() }, "COMPLETING (Completing)")]
#[case::completed_by_order(Seen { said: breach(), spec: control(json!({"outcome": "Complete"})), ..at_the_end() }, "COMPLETING (Completing)")]
// COMPLETING
#[case::flip(Seen { routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "flip web, COMPLETING (Completing)")]
#[case::no_flip_onto_missing_pods(Seen { new: Some(1), routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "COMPLETING (NotEnoughEndpoints)")]
#[case::restore_after_the_flip(Seen { apex: "new", routing: "1:0", weights: Some((1, 0)), ..seen("COMPLETING") }, "restore web, COMPLETING (Completing)")]
#[case::drain(Seen { apex: "new", routing: "1:0", weights: None, held: &[("flipped", 29), ("restored", 29)], ..seen("COMPLETING") }, "COMPLETING (Completing)")]
#[case::no_end_before_the_gateway_follows(Seen { apex: "new", acknowledged: 4, routing: "1:0", weights: None, held: &[("flipped", 60), ("restored", 60), ("silent", 2)], ..seen("COMPLETING") }, "COMPLETING (WaitingForGateway)")]
#[case::retire(Seen { apex: "new", routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "delete 2 Services, scale web, COMPLETING (Completing)")]
#[case::grace_period(Seen { spec: json!({"cleanupPolicy": "GRACE_PERIOD"}), apex: "new", routing: "1:0", weights: None, held: &[("flipped", 299), ("restored", 299)], ..seen("COMPLETING") }, "COMPLETING (Completing)")]
#[case::keep(Seen { spec: json!({"cleanupPolicy": "MANUAL"}), apex: "new", services: false, routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "note web, COMPLETED (OldVersionKept)")]
#[case::paused_before_the_end(Seen { spec: control(json!({"paused": true})), apex: "new", routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "COMPLETING (Paused)")]
#[case::a_pause_does_not_hold_what_is_deleted(Seen { deleting: true, retired: true, spec: control(json!({"paused": true})), apex: "new", services: false, routing: "1:0", weights: None, held: &[("flipped", 30), ("restored", 30)], ..seen("COMPLETING") }, "scale web, COMPLETING (Completing)")]
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

/// The first write of a rollback was refused as outdated, so nothing is on record yet: it goes back for the same reason.
#[test]
fn a_rollback_that_was_decided_keeps_its_reason() {
    let cause = Cause { reason: "ConflictingManager", message: "gitops-tool has rewritten HTTPRoute web".into(), by: "operator" };
    let plan = seen("ROUTING").plan_with(Memory { going_back: Some(cause.clone()), ..Memory::default() });
    assert!(line(&plan).contains("ROLLING_BACK (ConflictingManager)"), "{}", line(&plan));
    assert_eq!(plan.memory.going_back, Some(cause));
}

#[test]
fn a_pin_taken_away_while_the_old_version_ends_is_remembered_in_the_next_release() {
    let ending =
        Seen { old: 0, ending: true, retired: true, paused: false, services: false, routing: "1:0", weights: None, ..seen("COMPLETING") };
    let plan = Seen { apex: "user", ..ending.clone() }.plan();
    assert_eq!(line(&plan), "flip web, COMPLETING (Completing)");
    assert_eq!(plan.status.unwrap().interference.len(), 1);
    let undisturbed = Seen { apex: "new", ..ending }.plan().status.unwrap();
    assert!(undisturbed.interference.is_empty());
}

/// A process that has just begun may know the cluster as it was a while ago.
#[test]
fn what_a_stale_list_could_undo_is_read_live() {
    let update = LiveCheck::Unchanged(Target { kind: Kind::RollingUpdate, key: Key::new("shop", "web") }, "9".into());
    let pin = Seen { apex: "user", new: None, services: false, weights: None, ..seen("DEPLOYING") }.plan();
    assert!(line(&pin).starts_with("pin web") && pin.actions[0].live.contains(&update), "{:?}", pin.actions[0].live);
    let pinned = json!({"app": "web", "pod-template-hash": "h1"});
    let pinned = LiveCheck::Selector(Key::new("shop", "web"), serde_json::from_value(pinned).unwrap());
    let create = Seen { new: None, weights: None, ..seen("DEPLOYING") }.plan();
    assert!(line(&create).starts_with("create Deployment") && create.actions[0].live.contains(&pinned), "{:?}", create.actions[0].live);
    let service = LiveCheck::Absent(Target { kind: Kind::Service, key: Key::new("shop", "web") });
    let delete = Seen { rollback: "RollbackBeforeTraffic", service: false, weights: None, ..seen("ROLLING_BACK") }.plan();
    assert!(line(&delete).starts_with("delete Deployment") && delete.actions[0].live.contains(&service), "{:?}", delete.actions[0].live);
    let new = LiveCheck::Gone(Target { kind: Kind::Deployment, key: Key::new("shop", "web-2-0-0") }, "RollingUpdate-web".into());
    let end = Seen { rollback: "RollbackOrdered", weights: None, new: None, services: false, ..seen("ROLLING_BACK") };
    let unpin = end.plan();
    assert!(line(&unpin).starts_with("unpin web") && unpin.actions[0].live.contains(&new), "{:?}", unpin.actions[0].live);
    let over = Seen { paused: false, apex: "user", ..end }.plan();
    assert!(line(&over).starts_with("ROLLED_BACK") && over.live.contains(&new), "{:?}", over.live);
    // It may be rolling out by itself, and an update that has begun would hold it in the middle.
    let workload = LiveCheck::Unchanged(Target { kind: Kind::Deployment, key: Key::new("shop", "web") }, "9".into());
    let start = seen("PENDING").plan();
    assert!(line(&start).starts_with("DEPLOYING") && start.live == [workload], "{:?}", start.live);
}

/// Without a route only labels were written that the Service does not go by yet: nobody has been moved, and nobody is.
#[test]
fn a_step_that_moved_nobody_yet_is_not_finished_when_paused() {
    let spec = json!({"progression": {"steps": ["1:1", "1:0"]}});
    let said = json!({"objects": {"mode": "Pods"}});
    let step = Seen { spec, said, route: false, weights: None, held: &[("in force", 99)], ..seen("DEPLOYED") };
    let heading = || Memory { heading: Some("1:1".parse().unwrap()), ..Memory::default() };
    assert!(line(&step.plan_with(heading())).starts_with("weigh web-h1, weigh old-0, "), "{}", line(&step.plan_with(heading())));
    let mut paused = step;
    paused.spec["control"] = json!({"version": "2.0.0", "paused": true});
    assert_eq!(line(&paused.plan_with(heading())), "DEPLOYED (Paused)");
}

/// After a rollback as after a release: whoever deletes what is live hears what to do, until it is there again.
#[test]
fn the_live_version_is_missed_after_a_rollback_too() {
    let ending = Seen {
        rollback: "RollbackOrdered",
        paused: false,
        weights: None,
        new: None,
        services: false,
        apex: "user",
        ..seen("ROLLING_BACK")
    };
    let as_said = |plan: Plan| Some(serde_json::to_value(plan.status.unwrap()).unwrap());
    let over = Seen { state: "ROLLED_BACK", status: as_said(ending.plan()), ..ending };
    assert_eq!(line(&over.plan()), "");
    let deleted = Seen { workload: false, ..over.clone() };
    let told = deleted.plan();
    assert_eq!(line(&told), "ROLLED_BACK (LiveVersionGone)");
    let back = Seen { status: as_said(told), ..over.clone() }.plan();
    assert_eq!(line(&back), "ROLLED_BACK (RollbackOrdered)");
    // The next one is another update's affair.
    assert!(!line(&Seen { rival: true, ..deleted }.plan()).contains("LiveVersionGone"));
    let earlier = Seen { said: json!({"objects": {"oldRevision": "web-1-5-0"}}), ..over };
    assert!(line(&earlier.plan()).contains("LiveVersionGone"), "{}", line(&earlier.plan()));
    let succeeded = Seen { retired: true, new: Some(2), ..earlier };
    assert!(!line(&succeeded.plan()).contains("LiveVersionGone"), "{}", line(&succeeded.plan()));
}

/// Its start was refused: another process has begun the update, which may be about to write for it still.
#[test]
fn an_update_that_another_process_began_is_not_led_from_its_start() {
    let memory = Memory { from_start: Some(now()), ..Memory::default() };
    let back = Seen { took_over: true, spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), ..seen("DEPLOYING") };
    assert!(line(&back.plan_with(memory)).starts_with("mark web, mark web, mark web, "));
}

#[test]
fn a_drain_does_not_begin_again_while_the_gateway_takes_the_route_back() {
    let lagging = Seen { rollback: "RollbackOrdered", acknowledged: 4, held: &[("drained", 40)], ..seen("ROLLING_BACK") };
    let still_split = lagging.plan();
    assert!(!still_split.memory.since.contains_key("drained"), "weights that are not acknowledged drain nothing");
    let restored = Seen { weights: None, ..lagging }.plan();
    assert_eq!(restored.memory.since.get("drained"), Some(&(now() - Duration::from_secs(40))));
}

/// At 1:9, the interval over, to be judged by what was measured.
fn judged() -> Seen {
    Seen { spec: json!({"metrics": null}), routing: "1:9", weights: Some((1, 9)), since: 61, held: &[("in force", 61)], ..seen("ROUTING") }
}

fn at_the_end() -> Seen {
    Seen { routing: "1:0", weights: Some((1, 0)), ..judged() }
}

const UNREADABLE: Figures =
    Figures { new: (0, 0), old: (0, 0), slow: None, age: None, problem: "pod new-0: connection refused", counting: false };

/// Rolled back by order; of 2.0.0 nothing is left.
fn rolled_back() -> Seen {
    Seen { paused: false, apex: "user", new: None, services: false, weights: None, ..seen("ROLLED_BACK") }
}

fn to_the_end() -> Seen {
    Seen { routing: "1:0", weights: Some((1, 0)), since: 61, held: &[("in force", 61)], ..seen("ROUTING") }
}

#[rstest]
#[case::a_start(seen("PENDING"), "DEPLOYING", "alice (spec.version)")]
#[case::another_version(Seen { spec: json!({"version": "3.0.0"}), ..seen("ROUTING") }, "ROLLING_BACK", "alice (spec.version)")]
#[case::the_next_release(Seen { spec: json!({"attempt": 2}), ..rolled_back() }, "DEPLOYING", "alice (spec.version)")]
#[case::the_first_ratio(Seen { spec: json!({"control": {"version": "2.0.0", "routing": "1:9"}}), weights: Some((1, 9)), ..seen("DEPLOYED") }, "ROUTING", "alice (spec.control)")]
#[case::an_approval(Seen { spec: json!({"requireManualApproval": true, "control": {"version": "2.0.0", "approved": "1:9"}}), weights: Some((1, 9)), ..seen("DEPLOYED") }, "ROUTING", "alice (spec.control)")]
#[case::an_end(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Complete"}}), ..to_the_end() }, "COMPLETING", "alice (spec.control)")]
#[case::a_way_back(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), ..seen("ROUTING") }, "ROLLING_BACK", "alice (spec.control)")]
#[case::a_way_back_from_nothing(Seen { spec: json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}), ..seen("PENDING") }, "ROLLING_BACK", "alice (spec.control)")]
#[case::nobodys_step(Seen { weights: Some((1, 9)), ..seen("DEPLOYED") }, "ROUTING", "operator")]
#[case::nobodys_end(to_the_end(), "COMPLETING", "operator")]
#[case::a_deadline(Seen { new: Some(1), since: 601, ..seen("DEPLOYING") }, "ROLLING_BACK", "operator")]
#[case::a_deletion(Seen { deleting: true, ..seen("ROUTING") }, "ROLLING_BACK", "deletion")]
fn whose_order_a_change_of_state_follows(#[case] seen: Seen, #[case] state: &str, #[case] by: &str) {
    let by_order = by.contains(' ');
    let plan = Seen { ordered_by: "alice".into(), ..seen.clone() }.plan();
    let last = plan.status.unwrap().history.pop().unwrap();
    assert_eq!((last.to.as_str(), &*last.by), (state, by));
    let told = plan.notes.iter().any(|n| n.message.starts_with(&format!("{state}: ")) && n.message.ends_with(" (ordered by alice)"));
    assert_eq!(told, by_order, "{:?}", plan.notes);
    // Where no name is known the order itself is named.
    let plan = seen.plan();
    let last = plan.status.unwrap().history.pop().unwrap();
    assert_eq!(last.by, by.trim_start_matches("alice (").trim_end_matches(')'));
    assert!(plan.notes.iter().all(|n| !n.message.contains("ordered by")), "{:?}", plan.notes);
}

#[rstest]
#[case::long("\u{e4}".repeat(300), format!("{} (spec.version)", "\u{e4}".repeat(253)))]
#[case::of_several_lines("a\nb\u{1b}[2J".into(), "ab[2J (spec.version)".into())]
#[case::of_nothing("\n".into(), "spec.version".into())]
fn a_name_is_kept_within_bounds(#[case] ordered_by: String, #[case] wanted: String) {
    let status = Seen { ordered_by, ..seen("PENDING") }.plan().status.unwrap();
    assert_eq!(status.history[0].by, wanted);
}

#[rstest]
#[case::at_rest(rolled_back())]
#[case::in_the_middle(Seen { routing: "1:9", weights: Some((1, 9)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") })]
fn another_name_alone_is_no_news(#[case] seen: Seen) {
    let said = serde_json::to_value(seen.plan().status.unwrap()).unwrap();
    let plan = Seen { status: Some(said), ordered_by: "alice".into(), ..seen }.plan();
    assert!(plan.status.is_none() && plan.actions.is_empty() && plan.notes.is_empty(), "{}", line(&plan));
}

/// A breach is on record.
fn breach() -> Value {
    json!({"decision": {"verdict": "Unhealthy", "reason": "ErrorRateBreached", "approvedBefore": ""}})
}

/// A breach for that reason was answered by an approval; nothing is known of the step that it led to.
fn answered(breach: &str) -> Value {
    json!({"decision": {"verdict": "Unknown", "reason": "IntervalNotPassed", "approvedBefore": "", "breach": breach}})
}

fn control(mut orders: Value) -> Value {
    orders["version"] = json!("2.0.0");
    let mut spec = json!({"metrics": null});
    spec["control"] = orders;
    spec
}

/// Steps that do not end.
fn unreadable(on_breach: &str) -> Value {
    json!({"metrics": null, "progression": {"steps": ["1:1"], "onBreach": on_breach}})
}

fn with_orders(mut spec: Value, mut orders: Value) -> Value {
    orders.as_object_mut().unwrap().entry("version").or_insert_with(|| json!("2.0.0"));
    spec["control"] = orders;
    spec
}

fn rollback(orders: Value) -> Value {
    let mut spec = control(orders);
    spec["progression"] = json!({"onBreach": "Rollback"});
    spec
}

fn decided(seen: &Seen) -> Decision {
    seen.plan().status.unwrap().decision.unwrap()
}

#[rstest]
#[case::healthy(judged(), Some(figures(0, 400)), "Healthy")]
#[case::interval(Seen { since: 30, ..judged() }, Some(figures(0, 400)), "IntervalNotPassed")]
#[case::just_begun(Seen { since: 3, ..judged() }, None, "IntervalNotPassed")]
#[case::nothing_yet(judged(), None, "NotMeasuredYet")]
#[case::little(judged(), Some(figures(0, 299)), "InsufficientTraffic")]
#[case::above(judged(), Some(figures(6, 400)), "AboveThreshold")]
#[case::coarse(judged(), Some(Figures { slow: Some((1, 90)), ..figures(0, 400) }), "LatencyBucketTooCoarse")]
#[case::both(judged(), Some(Figures { old: (60, 4000), ..figures(8, 400) }), "BaselineUnhealthy")]
#[case::stale(judged(), Some(Figures { age: Some(11), ..figures(0, 400) }), "StaleMetrics")]
#[case::unreadable(judged(), Some(UNREADABLE), "MetricsUnavailable")]
#[case::unreadable_for_a_moment(judged(), Some(Figures { problem: "pod new-0: timed out", ..figures(0, 400) }), "Healthy")]
#[case::unreadable_for_long(judged(), Some(Figures { age: Some(11), problem: "pod new-0: timed out", ..figures(0, 400) }), "MetricsUnavailable")]
#[case::at_zero(Seen { routing: "0:1", weights: Some((0, 1)), ..judged() }, Some(Figures { counting: false, old: (0, 0), ..figures(0, 0) }), "ReadyWithoutTraffic")]
#[case::not_ready_at_zero(Seen { new: Some(1), routing: "0:1", weights: Some((0, 1)), ..judged() }, Some(Figures { counting: false, old: (0, 0), ..figures(0, 0) }), "NotReady")]
#[case::none(Seen { spec: json!({}), new: Some(1), ..judged() }, None, "NotReady")]
fn reasons(#[case] seen: Seen, #[case] measured: Option<Figures>, #[case] wanted: &str) {
    assert_eq!(decided(&Seen { measured, ..seen }).reason, wanted);
}

#[test]
fn a_breach_is_told_with_its_numbers_and_the_way_out() {
    let seen = Seen { measured: Some(figures(30, 400)), ..judged() };
    let plan = seen.plan();
    let status = plan.status.unwrap();
    let decision = status.decision.unwrap();
    assert!(decision.message.starts_with("new 30/400 errors = 7.5 % (limit 1 %), evidence "), "{}", decision.message);
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    for way in ["spec.control.approved: \"1:3\"", "spec.control.routing", "spec.control.outcome: Rollback"] {
        assert!(ready.message.contains(way), "{}", ready.message);
    }
    let healthy = status.conditions.iter().find(|c| c.type_ == "Healthy").unwrap();
    assert_eq!((healthy.status.as_str(), healthy.reason.as_str()), ("False", "ErrorRateBreached"));
    assert!(plan.notes.iter().any(|n| n.warning && n.reason == "ErrorRateBreached"), "{:?}", plan.notes);
    // What survives a restart.
    assert_eq!(status.evidence.unwrap().steps[0].new.errors, 30);
}

#[test]
fn a_breach_is_told_while_a_person_holds_the_ratio() {
    let plan = Seen { measured: Some(figures(30, 400)), spec: control(json!({"routing": "1:9"})), ..judged() }.plan();
    assert!(plan.notes.iter().any(|n| n.warning && n.reason == "ErrorRateBreached"), "{:?}", plan.notes);
    assert_eq!(plan.status.unwrap().decision.unwrap().verdict, Verdict::Unhealthy);
}

#[test]
fn what_was_approved_before_a_breach_is_remembered_with_it() {
    let seen = Seen { measured: Some(figures(30, 400)), spec: control(json!({"approved": "1:0"})), ..judged() };
    assert_eq!(line(&seen.plan()), "ROUTING 1:9 (ErrorRateBreached)");
    assert_eq!(decided(&seen).approved_before.as_deref(), Some("1:0"));
    // At the next step, which a person has let it get to, what was answered stays answered.
    let next = Seen { said: answered("ErrorRateBreached"), ..seen };
    assert_eq!(decided(&next).approved_before.as_deref(), Some(""));
    assert!(line(&next.plan()).starts_with("weigh web"));
}

/// Good figures since would let it go on from there, and nobody was asked.
#[rstest]
#[case::no_pod_serves(Seen { new: Some(0), routing: "1:9", weights: Some((0, 1)), said: breach(), measured: Some(figures(0, 99_000)), ..judged() })]
#[case::a_person_lowers_it(Seen { routing: "1:1", weights: Some((1, 9)), said: breach(), spec: control(json!({"routing": "1:9"})), ..judged() })]
fn a_breach_stands_while_the_share_falls(#[case] seen: Seen) {
    let status = seen.plan().status.unwrap();
    assert_ne!(status.routing.as_deref(), Some(seen.routing));
    let decision = status.decision.clone().unwrap();
    assert_eq!((decision.verdict, &*decision.reason), (Verdict::Unhealthy, "ErrorRateBreached"));
    // From there nothing goes on by itself.
    let figures = Some(Figures { counting: false, old: (0, 0), ..figures(0, 0) });
    let weights = Some(if seen.new == Some(0) { (0, 1) } else { (1, 9) });
    let said = Some(serde_json::to_value(&status).unwrap());
    let spec = json!({"metrics": null});
    let later = Seen { new: Some(small_world::PODS), spec, said: Value::Null, status: said, weights, measured: figures, ..seen }.plan();
    let ready = later.status.as_ref().unwrap_or(&status).conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!((line(&later).contains("weigh"), &*ready.reason), (false, "ErrorRateBreached"));
}

/// Nothing is looked at then, so what was said of the cluster stays; and it is forgotten once the spec can be read.
#[rstest]
#[case::in_the_middle(Seen { routing: "1:9", weights: Some((1, 9)), since: 30, held: &[("in force", 30)], ..seen("ROUTING") }, "True")]
#[case::at_rest(Seen { rollback: "RollbackOrdered", state: "ROLLING_BACK", ..rolled_back() }, "")]
fn a_spec_that_cannot_be_read_is_told(#[case] seen: Seen, #[case] stalled: &str) {
    let before = seen.plan().status.unwrap();
    let (ready, shifted) = (condition(&before, "Ready"), condition(&before, "TrafficShifted"));
    let as_said = |status: &RollingUpdateStatus| Some(serde_json::to_value(status).unwrap());
    let seen = Seen { state: before.state.as_str(), ..seen };
    let broken = Seen { spec: json!({"progression": {"steps": ["1:1"], "interval": "60s"}}), status: as_said(&before), ..seen.clone() };
    let plan = broken.plan();
    let told = plan.status.clone().unwrap();
    let (status, reason, message) = condition(&told, "Ready");
    assert_eq!((&*status, &*reason), ("False", "InvalidSpec"));
    assert!(message.starts_with("spec.progression.steps: "), "{message}");
    assert!(plan.actions.is_empty() && plan.notes.iter().any(|n| n.warning && n.reason == "InvalidSpec"), "{:?}", plan.notes);
    assert_eq!(condition(&told, "TrafficShifted"), shifted);
    if !stalled.is_empty() {
        assert_eq!((condition(&told, "Stalled").0, condition(&told, "Reconciling").0), (stalled.into(), "False".into()));
    }
    // Once.
    assert!(Seen { status: as_said(&told), ..broken }.plan().status.is_none());
    let mended = Seen { status: as_said(&told), ..seen }.plan().status.unwrap();
    assert_eq!(condition(&mended, "Ready"), ready);
}

fn condition(status: &RollingUpdateStatus, type_: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

/// Each reason for a hold is an Event of its own, though Ready only says that there is no verdict.
#[test]
fn what_holds_a_step_is_told() {
    let held = |measured: Option<Figures>, status: Option<Value>| Seen { measured, status, ..judged() }.plan();
    let told = |plan: &Plan| plan.notes.iter().map(|n| n.message.clone()).collect::<Vec<_>>().join("\n");
    let first = held(None, None);
    assert_eq!((line(&first), told(&first)), ("ROUTING 1:9 (AwaitingVerdict)".into(), String::new()));
    let mut status = first.status;
    for (figures, reason) in
        [(figures(0, 9), "InsufficientTraffic"), (figures(6, 400), "AboveThreshold"), (UNREADABLE, "MetricsUnavailable")]
    {
        let plan = held(Some(figures), Some(serde_json::to_value(status).unwrap()));
        assert!(told(&plan).contains(reason) && plan.notes.len() == 1, "{reason}: {:?}", plan.notes);
        status = plan.status;
    }
}

/// Kept by MANUAL until the policy says otherwise; on its way out it is still known to be kept, or nobody would go on with it.
#[test]
fn an_old_version_that_was_kept_is_removed_step_by_step() {
    let spec = |policy: &str| json!({"cleanupPolicy": policy});
    let pinned = Seen {
        apex: "new",
        services: false,
        routing: "1:0",
        weights: None,
        held: &[("flipped", 30), ("restored", 30)],
        ..seen("COMPLETING")
    };
    let kept = Seen { spec: spec("MANUAL"), ..pinned.clone() }.plan().status.unwrap();
    assert_eq!(condition(&kept, "OldVersionRemoved").1, "CleanupManual");
    let next = Seen { state: "COMPLETED", spec: spec("IMMEDIATE"), status: Some(serde_json::to_value(&kept).unwrap()), ..pinned };
    let plan = next.plan();
    assert!(line(&plan).starts_with("scale web, COMPLETED (Completing)"), "{}", line(&plan));
    assert_eq!(condition(&plan.status.unwrap(), "OldVersionRemoved").1, "CleanupManual");
}

/// A gateway that does not answer is what Ready speaks of.
#[test]
fn a_breach_is_told_whatever_else_is_wrong() {
    let plan = Seen { measured: Some(figures(30, 400)), acknowledged: 0, ..judged() }.plan();
    assert!(line(&plan).ends_with("(GatewayRefuses)"), "{}", line(&plan));
    assert!(plan.notes.iter().any(|n| n.warning && n.reason == "ErrorRateBreached"), "{:?}", plan.notes);
    // And once, where nothing else is.
    let plan = Seen { measured: Some(figures(30, 400)), ..judged() }.plan();
    assert_eq!(plan.notes.iter().filter(|n| n.reason == "ErrorRateBreached").count(), 1, "{:?}", plan.notes);
}

#[test]
fn a_rollback_for_a_breach_keeps_its_numbers() {
    let message = "new 0/412 errors = 0 % (limit 1 %), evidence 103 of 80; old 3/1240; over 500 ms: new 40/412 = 9.7 %";
    let said = json!({"decision": {"verdict": "Unhealthy", "reason": "LatencyBreached", "message": message}});
    let back = Seen {
        rollback: "LatencyBreached",
        paused: false,
        weights: None,
        new: None,
        services: false,
        apex: "user",
        said,
        ..seen("ROLLING_BACK")
    };
    let status = back.plan().status.unwrap();
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!((status.state, &*ready.message), (State::RolledBack, message));
}

#[test]
fn the_documented_health_is_written_with_a_decision() {
    let status = Seen { measured: Some(figures(4, 400)), ..judged() }.plan().status.unwrap();
    let wanted = json!({
        "updateId": "web",
        "oldVersion": {"version": "1.0.0", "requestCount": 4000, "errorRate": 0.003, "avgLatencyMs": 45.0},
        "newVersion": {"version": "2.0.0", "requestCount": 400, "errorRate": 0.01, "avgLatencyMs": 50.0},
        "collectedAt": now().timestamp_millis(),
    });
    assert_eq!(serde_json::to_value(status.health).unwrap(), wanted);
}

#[rstest]
#[case::waiting(figures(0, 100), figures(0, 250), "ROUTING 1:9 (AwaitingVerdict)")]
#[case::breached(figures(30, 400), figures(90, 900), "ROUTING 1:9 (ErrorRateBreached)")]
fn other_figures_alone_are_no_news(#[case] before: Figures, #[case] after: Figures, #[case] wanted: &str) {
    let first = Seen { measured: Some(before), ..judged() };
    let plan = first.plan();
    assert_eq!(line(&plan), wanted);
    let next = Seen { status: Some(serde_json::to_value(plan.status).unwrap()), measured: Some(after), ..first };
    let plan = next.plan();
    assert!(plan.status.is_none() && plan.actions.is_empty(), "{}", line(&plan));
    // Neither is a restart.
    let plan = Seen { measured: None, ..next.clone() }.plan();
    assert!(plan.status.is_none() && plan.actions.is_empty(), "{}", line(&plan));
    // Another verdict is, and then all figures are the newest.
    let plan = Seen { measured: Some(figures(0, 9000)), ..next }.plan();
    if wanted.contains("Awaiting") {
        assert_eq!(plan.status.unwrap().health.unwrap().new_version.request_count, 9000);
    } else {
        assert!(plan.status.is_none(), "a breach is latched");
    }
}

#[test]
fn what_was_healthy_before_a_restart_lets_nothing_advance() {
    let said = json!({"decision": {"verdict": "Healthy", "reason": "Healthy"}});
    assert_eq!(line(&Seen { said, ..judged() }.plan()), "ROUTING 1:9 (AwaitingVerdict)");
}

#[test]
fn the_evidence_goes_with_the_step_and_ends_with_the_update() {
    let step = Seen { measured: Some(figures(0, 400)), routing: "1:9", weights: Some((1, 3)), ..judged() }.plan().status.unwrap();
    assert_eq!((step.routing.as_deref(), step.decision.unwrap().reason.as_str()), (Some("1:3"), "IntervalNotPassed"));
    assert_eq!(step.evidence.unwrap().steps[0].new.requests, 400);
    let over = Seen {
        old: 0,
        retired: true,
        paused: false,
        services: false,
        apex: "user",
        routing: "1:0",
        weights: None,
        said: json!({"evidence": {"steps": [{"new": {"requests": 7}}]}}),
        ..seen("COMPLETING")
    };
    let over = over.plan().status.unwrap();
    assert!(over.state.is_terminal() && over.evidence.is_none());
}

/// 2.0.0 is live with two pods, and one is asked for.
fn at_rest() -> Seen {
    let spec = json!({"instances": 1});
    let live =
        Seen { old: 0, retired: true, paused: false, services: false, apex: "user", routing: "1:0", weights: None, ..seen("COMPLETED") };
    Seen { spec, ..live }
}

//! Rolling updates on a real control plane, under load through two gateways and of the Service itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod adoption;
mod deletion;
mod interference;
mod orders;
mod pods_mode;
mod promotion;
mod refusals;
mod supersede;

use testbed::rig::LEASE;

/// Tests at once: each has its load, and there are two cores.
const AT_ONCE: usize = 8;

common::tests![
    promotion::a_promotion_loses_nothing
    promotion::a_rollback_in_the_middle_loses_nothing
    promotion::a_rollback_before_any_traffic_leaves_nothing
    promotion::a_grace_period_keeps_the_old_version_whole_and_the_way_back_short
    promotion::a_kept_old_version_stays_until_told
    promotion::the_next_release_on_the_same_object
    promotion::a_manifest_that_says_replicas_cannot_bring_an_old_version_back
    pods_mode::a_promotion_by_pods_loses_nothing
    pods_mode::a_rollback_by_pods_behind_a_gateway_loses_nothing
    supersede::another_version_in_the_middle_loses_nothing
    supersede::another_version_before_any_traffic_and_after_all_of_it
    adoption::a_commit_of_image_and_version_in_either_order
    adoption::an_edit_in_the_middle_comes_out_with_the_next_attempt_only
    interference::a_plain_apply_of_the_manifests_is_put_right
    interference::a_forced_apply_is_put_right_the_pin_first
    interference::a_tool_that_never_stops_gets_its_way_safely
    deletion::a_deleted_update_goes_back_first
    deletion::children_deleted_by_a_person
    deletion::what_the_user_deletes_or_edits_in_the_middle
    deletion::a_namespace_goes_at_once
    orders::ratios_by_hand_up_and_down_and_complete
    orders::approvals_one_by_one
    orders::two_updates_share_a_route
    orders::of_two_updates_of_one_workload_one_waits
    refusals::a_refused_deployment_fails_and_leaves_nothing
    refusals::a_quota_or_a_policy_in_the_way_is_told_and_leaves_nothing
    refusals::a_version_that_never_gets_ready_is_rolled_back
    refusals::refused_at_apply_time
    refusals::held_in_pending_with_a_way_out
    refusals::every_example_applies
];

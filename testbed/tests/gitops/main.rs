//! What `gitops/` ships, run: Argo CD's Lua and Flux's CEL on statuses of every kind, actions against what REST writes, and
//! both tools applying from Git again and again while updates are on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod actions;
mod argo;
mod flux;
mod git;
mod shipped;
mod verdicts;

use testbed::rig::LEASE;

/// Two of them have load.
const AT_ONCE: usize = 4;

common::tests![
    verdicts::of_updates
    verdicts::of_pools
    actions::write_what_the_rest_api_writes
    actions::are_taken_by_the_api_server_with_the_shipped_rights
    argo::the_settings_join_those_that_are_there
    argo::a_loop_of_syncs_during_updates
    argo::a_sync_of_what_was_read_a_step_ago_is_put_right
    flux::a_loop_of_applies_during_updates
    flux::orders_given_with_kubectl_patch_are_taken_away
];

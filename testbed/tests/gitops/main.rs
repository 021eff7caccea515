//! What `gitops/` ships, run: Argo CD's Lua and Flux's CEL on statuses of every kind, actions against what REST writes, and
//! both tools applying from Git again and again while updates are on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, unused_imports, reason = "its main is made here")]
#[path = "../common/mod.rs"]
mod common;

mod actions;
mod argo;
mod flux;
mod git;
mod shipped;
mod verdicts;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use testbed::gitops::Engines;
use testbed::rig::{LEASE, Rig};

/// Two of them have load.
const AT_ONCE: usize = 4;

fn main() -> ExitCode {
    // Before there is a network namespace, out of which nothing can be fetched.
    if !Arguments::from_args().list
        && let Err(error) = Engines::ensure()
    {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    common::main(
        AT_ONCE,
        async |namespace| Rig::boot(namespace, LEASE).await,
        |ground| {
            vec![
                common::trial!(ground, verdicts::of_updates),
                common::trial!(ground, verdicts::of_pools),
                common::trial!(ground, actions::write_what_the_rest_api_writes),
                common::trial!(ground, actions::are_taken_by_the_api_server_with_the_shipped_rights),
                common::trial!(ground, argo::the_settings_join_those_that_are_there),
                common::trial!(ground, argo::a_loop_of_syncs_during_updates),
                common::trial!(ground, argo::a_sync_of_what_was_read_a_step_ago_is_put_right),
                common::trial!(ground, flux::a_loop_of_applies_during_updates),
                common::trial!(ground, flux::orders_given_with_kubectl_patch_are_taken_away),
            ]
        },
    )
}

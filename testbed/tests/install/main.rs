//! The chart: what it renders and refuses, what its alerts say, and the life of a release under load, by the real helm.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod chart;
mod helm;
mod narrow;
mod pools;
mod refusals;
mod release;

use std::sync::Arc;

use testbed::namespace::Entered;
use testbed::rig::Rig;

/// Tests at once; those that install the operator wait for each other.
const AT_ONCE: usize = 3;

/// A cluster without Aether.
async fn bare(namespace: &Entered) -> anyhow::Result<Arc<Rig>> {
    let rig = Rig::boot_bare(namespace).await?;
    chart::prepare(&rig).await?;
    Ok(Arc::new(rig))
}

common::tests![on bare =>
    release::the_life_of_a_release
    narrow::an_operator_of_one_namespace
    pools::a_pool_says_how_to_give_it_rights
    chart::lint
    chart::the_api_server_takes_all_of_it
    chart::old_clusters_get_no_policies
    chart::the_definitions_are_those_of_the_code
    refusals::wrong_values_are_refused_by_their_names
    alerts::the_rules_are_rules
    alerts::each_alert_fires_and_does_not
    alerts::nothing_is_asked_for_that_the_operator_does_not_show
    alerts::every_alert_has_its_runbook
];

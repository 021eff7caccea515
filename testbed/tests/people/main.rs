//! What people do, through every door: the CLI, the REST API, `aether proxy`, and both guides word for word.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::format_push_string)]

mod answers;
mod cli;
mod guides;
mod place;
mod security;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use testbed::binaries::Binaries;
use testbed::pool_bed::PoolBed;
use testbed::{namespace, tinyproxy};
use tokio::runtime::Runtime;

/// They wait for clocks most of the time.
const AT_ONCE: usize = 8;
const LEASE: Duration = Duration::from_secs(15);

type Ground = (Arc<Runtime>, Arc<PoolBed>);

macro_rules! trials {
    ($ground:ident: $($($test:ident)::+)*) => {
        vec![$({
            let ground: Option<Ground> = $ground.cloned();
            let name = stringify!($($test)::+).replace(' ', "");
            Trial::test(name, move || {
                let (runtime, pools) = ground.ok_or("no bed")?;
                runtime.block_on(async {
                    match $($test)::+(&pools).await {
                        Ok(()) => Ok(()),
                        Err(error) => Err(Failed::from(pools.failure(&error).await)),
                    }
                })
            })
        }),*]
    };
}

fn trials(ground: Option<&Ground>) -> Vec<Trial> {
    trials![ground:
        guides::nothing_of_the_guides_is_missing
        guides::rolling_updates
        guides::rolling_deployments
        cli::a_release_from_the_first_to_the_last_command
        cli::waiting_ends_with_the_code_that_says_how
        cli::what_goes_wrong_is_one_sentence
        cli::an_old_version_is_undeployed_and_a_live_one_is_not
        cli::the_plugin_and_every_output
        cli::a_converted_environment_is_taken_by_the_api_server
        answers::updates_over_rest
        answers::starts_that_are_refused
        answers::pools_over_rest
        answers::followers_answer_as_well
        security::every_route_for_every_identity
        security::bodies_hosts_and_ids_that_mean_harm
    ]
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    arguments.test_threads.get_or_insert(AT_ONCE);
    let run = || -> anyhow::Result<ExitCode> {
        Binaries::ensure()?;
        let proxy = tinyproxy::program()?;
        let namespace = namespace::enter("people-test")?;
        let runtime = Arc::new(Runtime::new()?);
        let pools = Arc::new(runtime.block_on(PoolBed::boot(&namespace, proxy, LEASE))?);
        let conclusion = libtest_mimic::run(&arguments, trials(Some(&(runtime.clone(), pools.clone()))));
        // Told of what ran in full only.
        if arguments.filter.is_none() {
            runtime.block_on(async {
                println!("{}\n\n{}\n\n{}", guides::table().await, security::table().await, answers::latencies(&pools).await?);
                anyhow::Ok(())
            })?;
        }
        let log = runtime.block_on(pools.log())?;
        let leaked = security::CANARIES.iter().find(|canary| log.contains(*canary));
        Ok(match leaked {
            Some(canary) => {
                eprintln!("the operator's log has {canary}");
                ExitCode::FAILURE
            }
            None => conclusion.exit_code(),
        })
    };
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

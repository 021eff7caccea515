//! How a test binary gets its rig: a namespace of its own, one boot, then the tests.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use testbed::binaries::Binaries;
use testbed::namespace::{self, Entered};
use testbed::rig::Rig;
use tokio::runtime::Runtime;

/// What the tests run on.
pub type Ground = (Arc<Runtime>, Arc<Rig>);

/// `main` of a test binary, which boots its rig so.
pub fn main(
    at_once: usize,
    boot: impl AsyncFnOnce(&Entered) -> anyhow::Result<Arc<Rig>>,
    trials: fn(Option<&Ground>) -> Vec<Trial>,
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Listing must be quick and must not print anything else.
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    arguments.test_threads.get_or_insert(at_once);
    match run(&arguments, boot, trials) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    arguments: &Arguments,
    boot: impl AsyncFnOnce(&Entered) -> anyhow::Result<Arc<Rig>>,
    trials: fn(Option<&Ground>) -> Vec<Trial>,
) -> anyhow::Result<ExitCode> {
    Binaries::ensure()?;
    let namespace = namespace::enter("rolling-test")?;
    let runtime = Arc::new(Runtime::new()?);
    let rig = runtime.block_on(boot(&namespace))?;
    let conclusion = libtest_mimic::run(arguments, trials(Some(&(runtime, rig))));
    for failure in FAILURES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        eprintln!("{failure}");
    }
    Ok(conclusion.exit_code())
}

/// What failed and why: told at the very end once more, where it is found behind pages of logs.
pub static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether the tests that take longest run as well: `make test-long`.
pub fn is_long() -> bool {
    std::env::var_os("AETHER_LONG").is_some()
}

/// Turns async functions of the rig into a test binary; those after `long:` only run when asked for. `on BOOT =>` in front
/// names what boots another rig than one with an operator.
#[macro_export]
macro_rules! rig_tests {
    (on $boot:path => $($($test:ident)::+)* $(; long: $($($long:ident)::+)*)?) => {
        fn main() -> std::process::ExitCode {
            common::main(AT_ONCE, $boot, |ground| {
                let mut trials = vec![$(common::trial!(ground, $($test)::+)),*];
                if common::is_long() {
                    trials.extend([$($(common::trial!(ground, $($long)::+)),*)?]);
                }
                trials
            })
        }
    };
    ($($tests:tt)*) => {
        async fn boot(namespace: &testbed::namespace::Entered) -> anyhow::Result<std::sync::Arc<testbed::rig::Rig>> {
            testbed::rig::Rig::boot(namespace, LEASE).await
        }
        common::tests![on boot => $($tests)*];
    };
}

/// One test on the rig.
#[macro_export]
macro_rules! rig_trial {
    ($ground:ident, $($test:ident)::+) => {{
        let ground = $ground.cloned();
        let name = stringify!($($test)::+).replace(' ', "");
        libtest_mimic::Trial::test(name.clone(), move || {
            let (runtime, rig) = ground.ok_or("no rig")?;
            runtime.block_on(async {
                match $($test)::+(&rig).await {
                    Ok(()) => Ok(()),
                    Err(error) => {
                        common::FAILURES.lock()?.push(format!("{name} failed: {error:#}"));
                        Err(libtest_mimic::Failed::from(format!("{error:#}\n{}", rig.operator_log().await)))
                    }
                }
            })
        })
    }};
}
pub use {rig_tests as tests, rig_trial as trial};

//! `main` of a test binary whose trials all stand on one thing.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

/// Runs the trials on what `ground` makes. Where they are only listed, which must be quick, nothing is made.
pub fn run<G>(
    arguments: &Arguments,
    ground: impl FnOnce() -> anyhow::Result<G>,
    trials: impl FnOnce(Option<&Arc<G>>) -> Vec<Trial>,
) -> ExitCode {
    let ground = if arguments.list { None } else { Some(ground()) };
    match ground.transpose() {
        Ok(ground) => libtest_mimic::run(arguments, trials(ground.map(Arc::new).as_ref())).exit_code(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The CLI: `aether`, or `kubectl aether` where it is called `kubectl-aether`.

use std::process::ExitCode;

fn main() -> ExitCode {
    aether_operator::cli::main()
}

//! The CLI. Its commands come with the REST API; today it can only say which version it is.

use clap::Parser;

/// Aether for Kubernetes.
#[derive(Parser)]
#[command(name = "aether", version, arg_required_else_help = true)]
struct Args {}

fn main() {
    Args::parse();
}

//! The operator binary: `aether-operator run`, and the files it generates.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use aether_operator::runtime::{logging, run};
use aether_operator::{api, install};
use clap::{Parser, Subcommand};

/// Zero-downtime rolling updates for Kubernetes.
#[derive(Parser)]
#[command(name = "aether-operator", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Run(Run),
    /// Print the custom resource definitions as YAML.
    Crds,
    /// Print ServiceAccount, roles and admission policy as YAML.
    Rbac {
        /// Namespace the operator is installed in.
        #[arg(long, default_value = install::NAMESPACE)]
        namespace: String,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8081", env = "AETHER_ADMIN_ADDRESS")]
    admin_address: SocketAddr,
    /// Namespace of the leader election Lease.
    #[arg(long, default_value = install::NAMESPACE, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this process in the Lease; must be unique. Default: the host name and the process id.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Seconds after which the Lease of a silent leader is free.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
    lease_seconds: u64,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", env = "AETHER_LOG_FORMAT")]
    log_format: logging::Format,
}

fn main() -> ExitCode {
    match run_command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by returning it from main, which would print it for programmers.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Run(args) => operate(args),
        Command::Crds => print(&install::to_yaml(&api::crds())?),
        Command::Rbac { namespace } => print(&install::to_yaml(&install::access(&namespace))?),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

#[tokio::main]
async fn operate(args: Run) -> anyhow::Result<()> {
    logging::start(args.log_format);
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let settings = run::Settings {
        admin: args.admin_address,
        namespace: args.namespace,
        identity: args.identity.unwrap_or_else(|| format!("{}-{}", host.trim(), std::process::id())),
        lease: Duration::from_secs(args.lease_seconds),
    };
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    run::run(settings, stop).await
}

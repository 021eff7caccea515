//! The operator binary: `aether-operator run`, and the files it generates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use aether_operator::pool::wish::Defaults;
use aether_operator::runtime::{logging, run};
use aether_operator::{api, install, rest};
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
    Run(Box<Run>),
    /// Print the custom resource definitions as YAML.
    Crds,
    /// Print the OpenAPI document of the REST API as JSON.
    Openapi,
    /// Print ServiceAccount, roles and admission policies as YAML.
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
    /// Where the REST API is served; `off`: nowhere.
    #[arg(long, default_value = "0.0.0.0:8080", env = "AETHER_API_ADDRESS", value_parser = api_address)]
    api_address: ApiAddress,
    /// Namespace of REST calls that do not say. Default: the one that is watched, or `default`.
    #[arg(long, env = "AETHER_API_NAMESPACE", value_parser = namespace)]
    api_namespace: Option<Namespace>,
    /// Audience that tokens for the REST API must have.
    #[arg(long, default_value = rest::auth::AUDIENCE, env = "AETHER_API_AUDIENCE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    api_audience: String,
    /// A name under which the REST API is reached, besides addresses, localhost and names of Services; may be given again.
    #[arg(long = "api-host", value_name = "NAME", env = "AETHER_API_HOSTS", value_delimiter = ',')]
    api_hosts: Vec<String>,
    /// Certificate chain of the REST API, as PEM; read again every minute. Default: plain HTTP.
    #[arg(long, value_name = "FILE", requires = "api_tls_key")]
    api_tls_certificate: Option<PathBuf>,
    /// Its key, as PEM.
    #[arg(long, value_name = "FILE", requires = "api_tls_certificate")]
    api_tls_key: Option<PathBuf>,
    /// Namespace of the leader election Lease.
    #[arg(long, default_value = install::NAMESPACE, env = "POD_NAMESPACE")]
    namespace: String,
    /// The one namespace to work in, for which a Role is enough. Default: all.
    #[arg(long, env = "WATCH_NAMESPACE", value_parser = namespace)]
    watch_namespace: Option<Namespace>,
    /// Name of this process in the Lease; must be unique. Default: the host name and the process id.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Seconds after which the Lease of a silent leader is free.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
    lease_seconds: u64,
    /// Pools that do not say: keep to the floor and the batch when proxies are recycled.
    #[arg(long, env = "ROLLING_DEPLOYMENT", default_value = "false", action = clap::ArgAction::Set, value_parser = yes_or_no)]
    rolling_deployment: bool,
    /// Pools that do not say: healthy proxies that must stay.
    #[arg(long, env = "ROLLING_MIN_AVAILABLE", default_value_t = 3)]
    rolling_min_available: u32,
    /// Pools that do not say: proxies in recycling at once.
    #[arg(long, env = "ROLLING_BATCH_SIZE", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rolling_batch_size: u32,
    /// Pools that do not say: age at which a proxy is recycled, in seconds or as in 1h30m; 0 is never.
    #[arg(long, env = "AGE_LIMIT", default_value = "0", value_parser = age)]
    age_limit: Duration,
    /// Address of a cloud's API instead of its own, as in digitalocean=http://127.0.0.1:8080; may be given again.
    #[arg(long = "cloud-address", value_name = "PROVIDER=URL", value_parser = address)]
    cloud_addresses: Vec<(String, String)>,
    /// Seconds for which a list of those clouds may not show what was done. Default: what is known of each cloud.
    #[arg(long, requires = "cloud_addresses")]
    cloud_settle_seconds: Option<u32>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", env = "AETHER_LOG_FORMAT")]
    log_format: logging::Format,
}

/// An address, or none.
#[derive(Clone, Copy)]
struct ApiAddress(Option<SocketAddr>);

/// A chart's empty value is off.
fn api_address(text: &str) -> Result<ApiAddress, String> {
    match text {
        "" | "off" => Ok(ApiAddress(None)),
        _ => text.parse().map(|a| ApiAddress(Some(a))).map_err(|_| "write an address and a port, as in 0.0.0.0:8080, or off".into()),
    }
}

/// A namespace, or what goes without saying.
#[derive(Clone)]
struct Namespace(Option<String>);

/// A chart's empty value is unsaid.
fn namespace(text: &str) -> Result<Namespace, String> {
    match text {
        "" => Ok(Namespace(None)),
        _ if aether_operator::orders::desk::is_namespace(text) => Ok(Namespace(Some(text.to_owned()))),
        _ => Err("is no name of a namespace".into()),
    }
}

/// The guide's True and False, and what else people write; a chart's empty value is no.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "" | "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

/// The guide's plain seconds, or a duration; a chart's empty value is never.
fn age(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    text.parse().map(Duration::from_secs).or_else(|_| api::duration::parse(text).map_err(|e| e.to_string()))
}

fn address(text: &str) -> Result<(String, String), String> {
    let known = ["digitalocean", "aws", "gcp", "hetzner", "vultr"];
    let (provider, url) = text.split_once('=').ok_or("write PROVIDER=URL")?;
    if known.contains(&provider) {
        Ok((provider.into(), url.into()))
    } else {
        Err(format!("no provider {provider}; there are {}", known.join(", ")))
    }
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
        Command::Run(args) => operate(*args),
        Command::Crds => print(&install::to_yaml(&api::crds())?),
        Command::Openapi => print(&rest::openapi::text()),
        Command::Rbac { namespace } => {
            let (access, roles) = (install::access(&namespace), install::roles());
            let (asked, named) = (install::orders_policy(&namespace), install::ordered_by_policy(&namespace));
            print(&install::to_yaml(&[access, roles, install::finalizer_policy(), asked, named].concat())?)
        }
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
    let certificate = args.api_tls_certificate.zip(args.api_tls_key).map(|(chain, key)| rest::Certificate { chain, key });
    let settings = run::Settings {
        admin: args.admin_address,
        api: args.api_address.0.map(|address| run::ApiSettings {
            address,
            namespace: args.api_namespace.and_then(|n| n.0),
            audience: args.api_audience,
            hosts: args.api_hosts,
            certificate,
        }),
        namespace: args.namespace,
        watched: args.watch_namespace.and_then(|n| n.0),
        identity: args.identity.unwrap_or_else(|| format!("{}-{}", host.trim(), std::process::id())),
        lease: Duration::from_secs(args.lease_seconds),
        pool_defaults: Defaults {
            enabled: args.rolling_deployment,
            min_available: args.rolling_min_available,
            batch_size: args.rolling_batch_size,
            age_limit: args.age_limit,
        },
        cloud_addresses: args.cloud_addresses.into_iter().collect(),
        cloud_settle: args.cloud_settle_seconds,
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

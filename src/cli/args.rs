//! What can be typed: commands, their values and their help. `docs/cli.md` is made of it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::api::rolling_update::{CleanupPolicy, Thresholds};
use crate::api::{Ratio, duration};
use crate::install;
use crate::orders::Hold;
use crate::orders::desk::is_namespace;

/// Name of the binary that kubectl runs for `kubectl aether`.
const PLUGIN: &str = "kubectl-aether";

/// Zero-downtime rolling updates and proxy pools on Kubernetes.
#[derive(Parser, Debug, Clone)]
#[command(
    name = "aether",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  aether update start org.example:my-slice 2.0.0    bring out version 2.0.0
  aether update list                                what is under way
  aether update status current -w                   watch the one that is
  aether status                                     is everything in order?"
)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub global: Global,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Command,
}

/// What every command takes.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The kubeconfig file. Default: $KUBECONFIG, else ~/.kube/config, else the ServiceAccount of the pod.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context. Default: its current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace. Default: the context's.
    #[arg(long, short, global = true, value_name = "NAME", value_parser = namespace)]
    pub namespace: Option<String>,
    /// Namespace that the operator runs in.
    #[arg(long, global = true, value_name = "NAME", default_value = install::NAMESPACE, value_parser = namespace)]
    pub operator_namespace: String,
    /// How the answer is printed; json and yaml are what the REST API answers.
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// How an answer is printed.
#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with wide terminals.
    Wide,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
}

#[derive(Subcommand, Debug, Clone)]
#[allow(missing_docs)]
pub enum Command {
    /// Bring out versions, watch them, and end updates.
    #[command(subcommand, arg_required_else_help = true)]
    Update(Update),
    /// Show operator, leader, definitions, active updates and pools at a glance.
    #[command(after_help = "\
Without -n updates and pools of all namespaces are shown. What you may not read is said in its line.

Examples:
  aether status
  aether status --check && echo somebody works
  aether status -n shop -o json")]
    Status {
        /// Exit with 1 unless a pod of the operator is ready, one leads, and the definitions are there.
        #[arg(long)]
        check: bool,
        /// With --check: how long to wait until that is so, as in 30s.
        #[arg(long, value_name = "DURATION", requires = "check", default_value = "0s", value_parser = duration::parse)]
        timeout: Duration,
    },
    /// Print the logs of a version's pods.
    #[command(after_help = "\
Where there are several pods each line begins with the pod's name.

Examples:
  aether logs org.example:my-slice:2.0.0
  aether logs org.example:my-slice:2.0.0 -f --tail 20")]
    Logs(Logs),
    /// Remove a version that carries no traffic.
    #[command(after_help = "\
The new version of an update at 0 % goes by rolling the update back, the old version at 100 % new by completing it, and one that
cleanupPolicy GRACE_PERIOD or MANUAL keeps by setting that policy to IMMEDIATE: the operator then removes it when that is safe.
A version that carries traffic is refused; with --force it is said what breaks, and done.

Examples:
  aether undeploy org.example:my-slice:2.0.0
  aether undeploy org.example:my-slice:1.0.0 --force")]
    Undeploy(Undeploy),
    /// Show pools of proxies, replace proxies, configure rolling.
    #[command(subcommand, arg_required_else_help = true)]
    Pool(Pool),
    /// Serve the REST API on this machine, as whoever the kubeconfig says.
    #[command(after_help = "\
Every `curl http://localhost:8080/...` works while it runs, without a token; what you may is up to the cluster.

Examples:
  aether proxy
  aether proxy --port 9090")]
    Proxy(Proxy),
    /// Print the completion script of a shell.
    #[command(after_help = "\
Examples:
  aether completion bash > /etc/bash_completion.d/aether
  aether completion zsh > \"${fpath[1]}/_aether\"
  aether completion fish > ~/.config/fish/completions/aether.fish")]
    Completion {
        /// The shell.
        #[arg(value_parser = shell)]
        shell: Shell,
    },
    /// Print the version of this program.
    Version,
}

#[derive(Subcommand, Debug, Clone)]
#[allow(missing_docs)]
pub enum Update {
    /// Deploy a new version at 0 % of the traffic, and go on from there.
    #[command(after_help = "\
What is left out stays as it was in the release before. --wait ends when the update does.

Examples:
  aether update start org.example:my-slice 2.0.0
  aether update start org.example:my-slice 2.0.0 -i 3 --cleanup GRACE_PERIOD
  aether update start org.example:my-slice 2.0.0 --max-error-rate 0.01 --max-latency-ms 500
  aether update start org.example:payment-service 2.0.0 --thresholds strict --manual-approval
  aether update start org.example:my-slice 2.0.1 --supersede --wait --timeout 45m")]
    Start(Start),
    /// Set which share of the traffic the new version gets, and hold it there.
    #[command(after_help = "\
Examples:
  aether update routing my-slice -r 1:3    25 % new
  aether update routing my-slice -r 1:1    50 % new
  aether update routing my-slice -r 1:0 --wait")]
    Routing(Routing),
    /// Let the next step be taken, or all steps up to a ratio.
    #[command(after_help = "\
Examples:
  aether update approve my-slice
  aether update approve my-slice -r 1:1")]
    Approve(Approve),
    /// Hold everything where it is.
    #[command(after_help = "\
Examples:
  aether update pause my-slice")]
    Pause(Order),
    /// Go on after a pause.
    #[command(after_help = "\
Examples:
  aether update resume my-slice")]
    Resume(Order),
    /// Show one update: traffic, pods, health, what it waits for, history.
    #[command(after_help = "\
With -w it is drawn anew whenever something changes, until the update is over; elsewhere than on a terminal, and with NO_COLOR,
a line is added per change instead.

Examples:
  aether update status my-slice
  aether update status current -w
  aether update status my-slice -o json")]
    Status(Status),
    /// List updates.
    #[command(after_help = "\
Examples:
  aether update list
  aether update list -A --all -o wide")]
    List(List),
    /// Show what was measured of both versions, and what it means.
    #[command(after_help = "\
Examples:
  aether update health my-slice
  aether update health my-slice -o json")]
    Health(Id),
    /// Retire the old version, once all traffic is on the new one.
    #[command(after_help = "\
Examples:
  aether update complete my-slice --wait")]
    Complete(Order),
    /// Give all traffic back to the old version and remove the new one.
    #[command(after_help = "\
Examples:
  aether update rollback my-slice --wait")]
    Rollback(Order),
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Start {
    /// What is released, group:name; the name is that of its Deployment and Service.
    pub artifact_base: String,
    /// The version wanted live.
    pub version: String,
    /// Pods of the new version. Default: as many as the old one has.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), allow_negative_numbers = true)]
    pub instances: Option<i32>,
    /// Largest share of failed requests, 0 to 1. Default 0.01.
    #[arg(long, value_name = "RATE", value_parser = share)]
    pub max_error_rate: Option<f64>,
    /// Largest p99 latency in milliseconds. Default 500.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(i32).range(1..))]
    pub max_latency_ms: Option<i32>,
    /// Both limits at once: default (0.01, 500 ms), strict (0.001, 200 ms) or relaxed (0.05, 1000 ms).
    #[arg(long, value_name = "PRESET", value_parser = thresholds)]
    pub thresholds: Option<Thresholds>,
    /// Every routing change waits for `update approve` or `update routing`.
    #[arg(long)]
    pub manual_approval: bool,
    /// What happens to the old version at the end: IMMEDIATE, GRACE_PERIOD (stays 5 minutes; default) or MANUAL (stays).
    #[arg(long, value_name = "POLICY", value_parser = cleanup)]
    pub cleanup: Option<CleanupPolicy>,
    /// Take the place of an update to another version that is under way; that one is rolled back first.
    #[arg(long)]
    pub supersede: bool,
    /// Only check whether it could be started.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// Waiting for an order's end.
#[derive(clap::Args, Debug, Clone, Copy, Default)]
pub struct Wait {
    /// Wait until it is done, with progress on stderr. Exit code 0: done; 1: it ended otherwise; 3: not in time.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, as in 30s, 45m or 1h30m. The default steps alone take 25 minutes.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = wait_time)]
    pub timeout: Duration,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Id {
    /// The update's id: the name of its RollingUpdate; `current`: the one that is active.
    pub id: String,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Order {
    #[command(flatten)]
    pub id: Id,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Routing {
    #[command(flatten)]
    pub id: Id,
    /// Shares of the traffic, new:old; 1:3 is 25 % new. `auto`: hold none, the steps go on by themselves.
    #[arg(long, short, allow_hyphen_values = true)]
    pub ratio: Hold,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Approve {
    #[command(flatten)]
    pub id: Id,
    /// Steps up to this share, new:old. Default: the next step.
    #[arg(long, short)]
    pub ratio: Option<Ratio>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Status {
    #[command(flatten)]
    pub id: Id,
    /// Keep watching until the update is over.
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(clap::Args, Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct List {
    /// Of every namespace.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Those that are over too.
    #[arg(long)]
    pub all: bool,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Logs {
    /// The version, group:name:version.
    #[arg(value_name = "ARTIFACT:VERSION")]
    pub artifact: Artifact,
    /// Go on with what is logged from now on.
    #[arg(long, short)]
    pub follow: bool,
    /// Begin with the last N lines of each pod. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..), allow_negative_numbers = true)]
    pub tail: Option<i64>,
}

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Undeploy {
    /// The version, group:name:version.
    #[arg(value_name = "ARTIFACT:VERSION")]
    pub artifact: Artifact,
    /// Remove it even if it carries traffic.
    #[arg(long)]
    pub force: bool,
}

#[derive(Subcommand, Debug, Clone)]
#[allow(missing_docs)]
pub enum Pool {
    /// List pools.
    #[command(after_help = "\
Examples:
  aether pool list -A")]
    List {
        /// Of every namespace.
        #[arg(long, short = 'A')]
        all_namespaces: bool,
    },
    /// Show one pool.
    #[command(after_help = "\
Examples:
  aether pool status digitalocean/default")]
    Status {
        #[arg(value_name = "PROVIDER/INSTANCE", help = POOL_HELP)]
        pool: PoolName,
    },
    /// Have a proxy replaced at once, whatever the floor and the batch are.
    #[command(after_help = "\
Examples:
  aether pool evict digitalocean/default 203.0.113.7")]
    Evict {
        #[arg(value_name = "PROVIDER/INSTANCE", help = POOL_HELP)]
        pool: PoolName,
        /// The proxy's address.
        ip: std::net::IpAddr,
    },
    /// Show or change how all pools are recycled that do not say so themselves.
    #[command(after_help = "\
Examples:
  aether pool rolling
  aether pool rolling --enabled true --min-available 5 --batch-size 2")]
    Rolling {
        /// Keep to the floor and the batch: true or false.
        #[arg(long, value_name = "BOOL")]
        enabled: Option<bool>,
        /// Healthy proxies that must stay.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), allow_negative_numbers = true)]
        min_available: Option<i32>,
        /// Proxies in recycling at once.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), allow_negative_numbers = true)]
        batch_size: Option<i32>,
    },
    /// Turn the environment of a CloudProxy into ProxyPools and Secrets.
    #[command(after_help = "\
Examples:
  aether pool convert -f cloudproxy.env | kubectl apply -f -
  docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' cloudproxy | aether pool convert")]
    Convert {
        /// File with lines KEY=VALUE; - is standard input.
        #[arg(short, long, default_value = "-", value_name = "FILE")]
        file: std::path::PathBuf,
    },
}

const POOL_HELP: &str = "The pool; instance is spec.instance, else the ProxyPool's name";

#[derive(clap::Args, Debug, Clone)]
#[allow(missing_docs)]
pub struct Proxy {
    /// Port on 127.0.0.1; may be given again.
    #[arg(long = "port", value_name = "PORT", default_values_t = [8080, 8000], value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
}

/// `group:name:version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// `group:name`.
    pub base: String,
    /// The version.
    pub version: String,
}

impl std::str::FromStr for Artifact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, version) = text
            .rsplit_once(':')
            .filter(|(base, version)| base.contains(':') && !version.is_empty())
            .ok_or("write group:name:version, for example org.example:my-slice:2.0.0")?;
        crate::orders::updates::name_of(base).map_err(|e| e.message)?;
        Ok(Self { base: base.into(), version: version.into() })
    }
}

impl std::fmt::Display for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.base, self.version)
    }
}

/// `provider/instance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolName {
    /// The cloud.
    pub provider: String,
    /// Which of the pools there.
    pub instance: String,
}

impl std::str::FromStr for PoolName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (provider, instance) = text
            .split_once('/')
            .filter(|(p, i)| !p.is_empty() && !i.is_empty())
            .ok_or("write provider/instance, for example digitalocean/default")?;
        Ok(Self { provider: provider.into(), instance: instance.into() })
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|s| (0.0..=1.0).contains(s));
    share.ok_or_else(|| "write a share from 0 to 1; 1 percent is 0.01".into())
}

fn cleanup(text: &str) -> Result<CleanupPolicy, String> {
    match text.to_ascii_uppercase().replace('-', "_").as_str() {
        "IMMEDIATE" => Ok(CleanupPolicy::Immediate),
        "GRACE_PERIOD" => Ok(CleanupPolicy::GracePeriod),
        "MANUAL" => Ok(CleanupPolicy::Manual),
        _ => Err("write IMMEDIATE, GRACE_PERIOD or MANUAL".into()),
    }
}

fn thresholds(text: &str) -> Result<Thresholds, String> {
    match text.to_ascii_lowercase().as_str() {
        "default" => Ok(Thresholds::Default),
        "strict" => Ok(Thresholds::Strict),
        "relaxed" => Ok(Thresholds::Relaxed),
        _ => Err("write default, strict or relaxed".into()),
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let wrong = || "a namespace is up to 63 lower-case letters, digits and dashes".to_owned();
    is_namespace(text).then(|| text.to_owned()).ok_or_else(wrong)
}

fn wait_time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|e| e.to_string())
}

fn shell(text: &str) -> Result<Shell, String> {
    match text {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("write bash, zsh or fish".into()),
    }
}

/// What people type to run this program: `aether`, or `kubectl aether` where kubectl has found it.
pub fn name_of(program: Option<&OsString>) -> &'static str {
    let stem = program.and_then(|p| Path::new(p).file_stem());
    if stem.is_some_and(|s| s == PLUGIN) { "kubectl aether" } else { "aether" }
}

/// The command, as it is to be called.
pub fn command(name: &'static str) -> clap::Command {
    renamed(Args::command(), name).bin_name(name).display_name("aether")
}

/// The examples too are as people would type them.
fn renamed(command: clap::Command, name: &str) -> clap::Command {
    let help = command.get_after_help().map(|h| h.to_string().replace("\n  aether ", &format!("\n  {name} ")));
    let command = match help {
        Some(help) => command.after_help(help),
        None => command,
    };
    command.mut_subcommands(|sub| renamed(sub, name))
}

/// Parses a command line, its first word being the program.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let line: Vec<OsString> = line.into_iter().collect();
    let mut command = command(name_of(line.first()));
    let matches = command.try_get_matches_from_mut(&line)?;
    Args::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// The page on every command: `docs/cli.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# The CLI\n\n\
         Generated by `make generate` from `src/cli/args.rs`. Installed as `kubectl-aether` it runs as `kubectl aether` too.\n\n\
         Exit codes: 0 done; 1 it went wrong, or the update ended otherwise than was waited for; 2 what was asked makes no sense; \
         3 not in time (`--timeout`); 4 not found, or not allowed; 130 interrupted.\n",
    );
    let mut root = command("aether").term_width(110);
    root.build();
    describe(&root, &mut page);
    page
}

fn describe(command: &clap::Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or("aether");
    let help = command.clone().term_width(110).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        describe(sub, page);
    }
}

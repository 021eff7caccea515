//! `testbed`: a Kubernetes cluster on this machine, for a person to try things with.

mod state;
mod supervisor;

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use testbed::bench;
use testbed::binaries::Binaries;
use testbed::fake_cloud::{Dialect, FakeCloud, Settings};
use testbed::requests::Comparison;
use testbed::{namespace, packaging};
use tokio::signal::ctrl_c;
use tokio::time::sleep;

use crate::state::{Claim, Status};

/// A real Kubernetes control plane with a gateway, without containers and without root
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build and fetch everything that a test bed needs
    Build,
    /// Bring out a new version of a service under load, and watch
    Demo,
    /// Recycle a pool of proxies in a fake cloud, and watch
    DemoPool,
    /// Measure how fast the operator (its release build) goes back, what it costs at rest, and what reading health costs
    Bench {
        /// Only this
        #[arg(long, value_enum)]
        only: Option<bench::Part>,
    },
    /// Write deploy/ anew from the chart
    Render {
        /// Only say what is stale
        #[arg(long)]
        check: bool,
    },
    /// Compare the operator's rights with what it asked for in all suites, as recorded in a folder
    Rights {
        /// The folder that AETHER_REQUESTS named while they ran
        records: PathBuf,
    },
    /// Run a fake cloud that speaks the APIs of five clouds, until Ctrl-C
    Cloud {
        /// Where it listens
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Boot a test bed and leave it running
    Up {
        #[command(flatten)]
        bed: Name,
        /// Stay here until Ctrl-C
        #[arg(long)]
        foreground: bool,
    },
    /// End a test bed and leave nothing behind
    Down {
        #[command(flatten)]
        bed: Name,
    },
    /// List the test beds
    List,
    /// Run a command with KUBECONFIG set and kubectl in its PATH
    Exec {
        #[command(flatten)]
        bed: Name,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<OsString>,
    },
}

#[derive(Args)]
struct Name {
    /// Name of the test bed; several may run side by side
    #[arg(long, default_value = "default")]
    name: String,
}

/// As `println!`, but content when nobody reads: `testbed list | head -0` is no reason to panic.
macro_rules! say {
    ($($what:tt)*) => {{ let _ = writeln!(std::io::stdout(), $($what)*); }};
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Build => build(),
        Task::Demo => demo(),
        Task::DemoPool => demo_pool(),
        Task::Bench { only } => bench(only),
        Task::Render { check } => Binaries::ensure().and_then(|found| packaging::render(&found.helm, !check)),
        Task::Rights { records } => rights(&records),
        Task::Cloud { listen } => cloud(listen),
        Task::Up { bed, foreground: true } => foreground(&bed.name),
        Task::Up { bed, foreground: false } => up(&bed.name),
        Task::Down { bed } => down(&bed.name),
        Task::List => list(),
        Task::Exec { bed, command } => exec(&bed.name, &command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by returning it from main, which would print it for programmers.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> anyhow::Result<()> {
    namespace::check()?;
    let binaries = Binaries::ensure()?;
    let control_plane = binaries.apiserver.parent().unwrap_or(&binaries.apiserver);
    say!("everything is there: {}", control_plane.parent().unwrap_or(control_plane).display());
    Ok(())
}

fn demo() -> anyhow::Result<()> {
    Binaries::ensure()?;
    let namespace = namespace::enter("demo")?;
    let runtime = tokio::runtime::Runtime::new()?;
    match runtime.block_on(testbed::demo::run(&namespace)) {
        Ok(true) => Ok(()),
        Ok(false) => std::process::exit(1),
        Err(error) => {
            say!("demo FAILED: {error:#}");
            std::process::exit(1)
        }
    }
}

fn demo_pool() -> anyhow::Result<()> {
    Binaries::ensure()?;
    let proxy = testbed::tinyproxy::program()?;
    let namespace = namespace::enter("demo-pool")?;
    let runtime = tokio::runtime::Runtime::new()?;
    match runtime.block_on(testbed::demo_pool::run(&namespace, proxy)) {
        Ok(true) => Ok(()),
        Ok(false) => std::process::exit(1),
        Err(error) => {
            say!("demo FAILED: {error:#}");
            std::process::exit(1)
        }
    }
}

fn bench(only: Option<bench::Part>) -> anyhow::Result<()> {
    Binaries::ensure()?;
    let namespace = namespace::enter("bench")?;
    let runtime = tokio::runtime::Runtime::new()?;
    if !runtime.block_on(bench::run(&namespace, only))? {
        std::process::exit(1)
    }
    Ok(())
}

fn rights(records: &Path) -> anyhow::Result<()> {
    let rules = testbed::operator::repository().join("charts/aether-operator/files/rules.yaml");
    let comparison = Comparison::read(&rules, records)?;
    say!("{comparison}");
    comparison.check()
}

fn cloud(listen: SocketAddr) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let cloud = FakeCloud::start(Settings { listen, ..Settings::default() }).await?;
        say!("The fake cloud is up. Base URLs for clients, all with the token or access key id `test`:\n");
        for dialect in Dialect::ALL {
            say!("  {dialect:<16}{}", cloud.base_url(dialect));
        }
        say!("\nKnobs     {url}/control/knobs (GET, PATCH)\nWhat is   {url}/truth\n\nCtrl-C ends it.", url = cloud.url());
        Ok(ctrl_c().await?)
    })
}

fn foreground(name: &str) -> anyhow::Result<()> {
    Binaries::ensure()?;
    supervisor::run(name, announce)
}

fn up(name: &str) -> anyhow::Result<()> {
    namespace::check()?;
    if state::status(name)?.is_some() {
        bail!(supervisor::already_up(name));
    }
    Binaries::ensure()?;
    eprintln!("booting the test bed {name}");
    // Without a name on disk: it is there for as long as the supervisor has it open.
    let mut log = tempfile::tempfile()?;
    // A session of its own, so that the terminal's Ctrl-C and hang-up do not reach it.
    let mut supervisor = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .args(["up", "--foreground", "--name", name])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .context("cannot start setsid (of util-linux)")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let mut interrupt = pin!(ctrl_c());
        let mut interrupted = false;
        while supervisor.try_wait()?.is_none() {
            if interrupted {
                // Again and again, because the supervisor may not be listening yet.
                state::stop(name)?;
            } else if let Some(status) = state::status(name)?.filter(|status| status.ready) {
                return Ok(Some(status));
            }
            tokio::select! {
                _ = &mut interrupt, if !interrupted => interrupted = true,
                () = sleep(Duration::from_millis(50)) => {}
            }
        }
        if interrupted {
            bail!("interrupted; nothing is left of the test bed {name}");
        }
        Ok(None)
    })?;
    let Some(status) = status else {
        let mut said = String::new();
        log.seek(SeekFrom::Start(0))?;
        log.read_to_string(&mut said)?;
        bail!("the test bed {name} did not come up: {}", said.trim().trim_start_matches("error: "));
    };
    announce(name, &status);
    Ok(())
}

fn announce(name: &str, status: &Status) {
    let flag = if name == "default" { String::new() } else { format!(" --name {name}") };
    say!(
        "The test bed {name} is up. To use it:\n\n  \
           export KUBECONFIG={kubeconfig}\n  \
           kubectl get nodes                        # or: testbed exec{flag} -- kubectl get nodes\n\n\
         API server  {api}\n\
         gateway     {gateway} (GatewayClass traefik, listeners on port 8000)\n\
         logs        {dir}\n\n\
         To end it: testbed down{flag}",
        kubeconfig = status.kubeconfig.display(),
        api = status.api,
        gateway = status.gateway,
        dir = status.dir.display(),
    );
}

fn down(name: &str) -> anyhow::Result<()> {
    if state::stop(name)? {
        say!("the test bed {name} is gone");
        return Ok(());
    }
    if !state::names()?.iter().any(|other| other == name) {
        bail!("no test bed named {name} is up");
    }
    let claim = Claim::take(name)?.with_context(|| format!("the test bed {name} is just starting; try again"))?;
    drop(claim);
    say!("removed what a test bed named {name} had left behind");
    Ok(())
}

fn list() -> anyhow::Result<()> {
    let names = state::names()?;
    if names.is_empty() {
        say!("no test bed is up");
    }
    for name in names {
        match state::status(&name)? {
            Some(status) if status.ready => say!("{name}  up  KUBECONFIG={}", status.kubeconfig.display()),
            Some(_) => say!("{name}  booting"),
            None => say!("{name}  dead (`testbed down --name {name}` removes what is left)"),
        }
    }
    Ok(())
}

fn exec(name: &str, command: &[OsString]) -> anyhow::Result<()> {
    let status = state::status(name)?.filter(|status| status.ready);
    let status = status.with_context(|| format!("no test bed named {name} is up"))?;
    let kubectl = Binaries::ensure()?.kubectl;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = kubectl.parent().map(ToOwned::to_owned).into_iter().chain(std::env::split_paths(&path));
    let (program, args) = command.split_first().context("there is no command")?;
    let error = Command::new(program).args(args).env("KUBECONFIG", status.kubeconfig).env("PATH", std::env::join_paths(folders)?).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

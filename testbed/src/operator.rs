//! The operator under test, as a person installs it: its own ServiceAccount, its own rights, its own process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::process::{Process, Signal};

/// User name of the operator in audit logs.
pub const USER: &str = "system:serviceaccount:aether-system:aether-operator";
const NAMESPACE: &str = "aether-system";
const NAME: &str = "aether-operator";
const PATIENCE: Duration = Duration::from_mins(1);
/// The unit of processor times in /proc.
const TICK: Duration = Duration::from_millis(10);

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Installs definitions, rights, roles and policies as deploy/newest has them; its Deployment has no pods.
pub async fn install(bed: &Bed) -> anyhow::Result<()> {
    let shipped = repository().join("testbed/cluster/install").display().to_string();
    bed.kubectl(&["apply", "--server-side", "-k", &shipped]).await?;
    bed.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/rollingupdates.aether.dev", "crd/proxypools.aether.dev"])
        .await?;
    // The API server looks for new kinds every 5 s before it lets admission policies see them; until then it answers 503.
    let example = repository().join("examples/minimal.yaml").display().to_string();
    let mut answer = bed.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", &example]).await;
    for _ in 0..60 {
        let has = |name: &str| answer.as_ref().is_ok_and(|object| object.contains(name));
        if has("aether.dev/traffic") && has("aether.dev/ordered-by") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        answer = bed.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", &example]).await;
    }
    anyhow::bail!("RollingUpdates are not taken, or not with their finalizer and who wants them: {answer:?}")
}

/// A running operator process. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
}

impl Operator {
    /// Starts an operator and waits until it knows the cluster. Several may run: names tell their logs and ports apart.
    pub async fn start(bed: &Bed, name: &str, admin_port: u16, lease: Duration) -> anyhow::Result<Self> {
        Self::start_build(bed, &built(NAME)?, name, admin_port, lease).await
    }

    /// As [`Operator::start`], with more of its flags.
    pub async fn start_with(bed: &Bed, name: &str, admin_port: u16, lease: Duration, flags: &[String]) -> anyhow::Result<Self> {
        Self::launch(bed, &built(NAME)?, name, admin_port, lease, flags).await
    }

    /// As [`Operator::start`], with another build of it.
    pub async fn start_build(bed: &Bed, program: &Path, name: &str, admin_port: u16, lease: Duration) -> anyhow::Result<Self> {
        Self::launch(bed, program, name, admin_port, lease, &[]).await
    }

    /// As [`Operator::start`], with an environment.
    pub async fn start_in(bed: &Bed, name: &str, admin_port: u16, lease: Duration, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::launch_in(bed, &built(NAME)?, name, admin_port, lease, &[], environment).await
    }

    async fn launch(bed: &Bed, program: &Path, name: &str, admin_port: u16, lease: Duration, flags: &[String]) -> anyhow::Result<Self> {
        Self::launch_in(bed, program, name, admin_port, lease, flags, &[]).await
    }

    async fn launch_in(
        bed: &Bed,
        program: &Path,
        name: &str,
        admin_port: u16,
        lease: Duration,
        flags: &[String],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, NAME).await?;
        let mut command = Command::new(program);
        command
            .args(["run", "--namespace", NAMESPACE, "--admin-address", &format!("127.0.0.1:{admin_port}")])
            .args(["--api-address", &format!("127.0.0.1:{}", api_port(admin_port))])
            .args(["--lease-seconds", &lease.as_secs().to_string()])
            .args(flags)
            .envs(environment.iter().copied())
            .env("KUBECONFIG", kubeconfig)
            .env("RUST_LOG", "info,aether_operator=debug,kube_client=warn");
        let mut process = Process::spawn(bed.dir(), name, command)?;
        process.wait_until(PATIENCE, async || is_ready(admin_port).await).await?;
        Ok(Self { process })
    }

    /// Ends it as a crash does: SIGKILL, no goodbye to the Lease.
    pub async fn crash(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Ends it as kubelet does.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.process.terminate(Duration::from_secs(10)).await?;
        ensure!(status.success(), "the operator ended with {status}");
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it ends by itself, and tells how.
    pub async fn ended(&mut self) -> anyhow::Error {
        self.process.ended().await
    }

    /// Where it logs to.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// Processor time used so far.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let id = self.process.id().context("the operator has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The program's name, in brackets, may hold spaces. User and system time are the 12th and 13th field after it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(TICK * u32::try_from(ticks.iter().sum::<u64>())?)
    }

    /// Resident memory now and at its highest, in MiB.
    pub fn memory_mib(&self) -> anyhow::Result<(u64, u64)> {
        let id = self.process.id().context("the operator has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let kib = |name: &str| field(name).with_context(|| format!("no {name} in the process status"));
        Ok((kib("VmRSS:")? / 1024, kib("VmHWM:")? / 1024))
    }
}

/// An operator's own metrics.
pub async fn metrics(admin_port: u16) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, admin_port)).await?;
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await?;
    Ok(text)
}

/// Where an operator with that admin port serves REST.
pub fn api_port(admin_port: u16) -> u16 {
    admin_port + 1000
}

/// One of the repository's programs, built beside this one.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let mine = std::env::current_exe()?;
    let beside = mine.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.with_context(|| format!("{name} is not built yet; run `make build` first"))
}

/// The operator's release build, in the same target folder.
pub fn release_binary() -> anyhow::Result<PathBuf> {
    let debug = built(NAME)?;
    let release = debug.ancestors().nth(2).map(|target| target.join("release").join(NAME));
    release.filter(|path| path.is_file()).context("the operator is not built for release yet; run `make bench`")
}

async fn is_ready(port: u16) -> bool {
    answers((Ipv4Addr::LOCALHOST, port).into(), "/readyz", Duration::from_secs(2)).await
}

/// Whether a page is answered in time and with success, as a probe sees it.
pub async fn answers(address: SocketAddr, path: &str, limit: Duration) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(matches!(answer.get(..10), Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2' | b'3'])))
    };
    matches!(timeout(limit, ask).await, Ok(Ok(true)))
}

//! A container of the operator's own image: a process of the built program in a root folder laid out like the image, with what
//! its pod gives it: command, environment, volumes, a user, probes.
//!
//! Only the first container of a pod is run. What a pod may ask for and this does not do is refused with its name, so that
//! nobody takes for tested what was left out.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::given::{self, Given};
use super::logs::Log;
use crate::image::{self, Image, Mode, Root};
use crate::operator::answers;

/// Exit code of who was killed by a signal: this and the signal.
const BY_SIGNAL: i32 = 128;

/// A container that can be started, again and again.
#[derive(Debug)]
pub struct Container {
    /// Removed when the container is dropped.
    _folder: TempDir,
    root: Root,
    host: String,
    user: (u32, u32),
    environment: Vec<(String, String)>,
    program: Vec<String>,
    readiness: Option<Asked>,
    liveness: Option<Asked>,
    grace: Duration,
}

/// A probe, ready to be made.
#[derive(Clone, Debug)]
struct Asked {
    address: SocketAddr,
    path: String,
    delay: Duration,
    period: Duration,
    limit: Duration,
    successes: u32,
    failures: u32,
}

impl Container {
    /// Reads all that the pod's first container is given, and lays it out in a new folder below `dir`.
    pub async fn prepare(client: &Client, dir: PathBuf, pod: Pod, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let image = tokio::task::spawn_blocking(Image::built).await??;
        std::fs::create_dir_all(&dir)?;
        let folder = tempfile::Builder::new().prefix("container-").tempdir_in(dir)?;
        let mut root = image.lay_out(folder.path().join("root"))?;
        let pod = Given::new(client, pod, ip)?;
        root.write("/etc/hosts", format!("127.0.0.1 localhost\n{ip} {}\n", pod.name).as_bytes())?;
        let container = pod.spec.containers.first().context("a pod has a container")?;
        given::refuse(&pod.spec, container)?;
        for mount in container.volume_mounts.iter().flatten() {
            ensure!(
                mount.sub_path.is_none() && mount.sub_path_expr.is_none(),
                "volume mount {}: this pod server knows no subPath",
                mount.name
            );
            let volume = pod.spec.volumes.iter().flatten().find(|volume| volume.name == mount.name).context("a mount has its volume")?;
            let place = folder.path().join("volumes").join(&volume.name);
            std::fs::create_dir_all(&place)?;
            for (name, content) in pod.files(volume).await? {
                image::write(&place.join(name), &content)?;
            }
            let writable = volume.empty_dir.is_some() && mount.read_only != Some(true);
            root.mount(if writable { Mode::Writable } else { Mode::ReadOnly }, &place, mount.mount_path.trim_end_matches('/'))?;
        }
        let security = container.security_context.as_ref();
        let (all, own) = (pod.spec.security_context.as_ref(), security);
        let id = |own: Option<i64>, all: Option<i64>, default: u32| own.or(all).map_or(Ok(default), u32::try_from);
        let user = id(own.and_then(|own| own.run_as_user), all.and_then(|all| all.run_as_user), image.user)?;
        let group = id(own.and_then(|own| own.run_as_group), all.and_then(|all| all.run_as_group), image.group)?;
        let readiness = container.readiness_probe.as_ref().map(|probe| asked("readinessProbe", probe, container, ip)).transpose()?;
        let liveness = container.liveness_probe.as_ref().map(|probe| asked("livenessProbe", probe, container, ip)).transpose()?;
        Ok(Self {
            readiness,
            liveness,
            environment: pod.environment(container).await?,
            program: given::program(container, &image)?,
            host: pod.name.clone(),
            user: (user, group),
            grace: seconds(pod.spec.termination_grace_period_seconds, 30),
            root,
            _folder: folder,
        })
    }

    /// Starts it. What it prints goes to the log.
    pub fn start(&self, log: &Arc<Log>) -> anyhow::Result<Run> {
        let mut command = self.root.command(&self.host, self.user, &self.environment, &self.program);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start unshare (of util-linux)")?;
        let mut output = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            output.spawn(copy(stdout, log.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn(copy(stderr, log.clone()));
        }
        let (say, heard) = mpsc::unbounded_channel();
        let mut probes = JoinSet::new();
        match self.readiness.clone() {
            Some(probe) => drop(probes.spawn(watch(probe, false, Heard::Ready, say.clone()))),
            // Who has no probe is ready as soon as it runs.
            None => say.send(Heard::Ready(true))?,
        }
        if let Some(probe) = self.liveness.clone() {
            probes.spawn(watch(probe, true, Heard::Alive, say.clone()));
        }
        Ok(Run { child, output, probes, heard, _say: say, grace: self.grace, terminated: false, killed_at: None })
    }
}

/// A running container. Dropping it kills the process.
#[derive(Debug)]
pub struct Run {
    child: Child,
    output: JoinSet<()>,
    probes: JoinSet<()>,
    heard: mpsc::UnboundedReceiver<Heard>,
    /// Keeps the channel open where there is no probe.
    _say: mpsc::UnboundedSender<Heard>,
    grace: Duration,
    terminated: bool,
    /// When a process that is dead by its liveness probe is killed, if it does not end when it is asked to.
    killed_at: Option<Instant>,
}

/// What probes tell.
#[derive(Clone, Copy, Debug)]
enum Heard {
    Ready(bool),
    Alive(bool),
}

/// What a running container does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its readiness has turned.
    Ready(bool),
    /// It has ended, with this exit code, and all it said is in its log.
    Ended(u8),
}

impl Run {
    /// Waits for the next turn. May be dropped and asked again.
    pub async fn next(&mut self) -> Turn {
        loop {
            let killed_at = self.killed_at;
            let killed = async {
                match killed_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = self.child.wait() => {
                    self.probes.abort_all();
                    while self.output.join_next().await.is_some() {}
                    let code = status.ok().and_then(|status| status.code().or_else(|| status.signal().map(|signal| BY_SIGNAL + signal)));
                    return Turn::Ended(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX));
                }
                Some(heard) = self.heard.recv() => match heard {
                    Heard::Ready(ready) => return Turn::Ready(ready),
                    Heard::Alive(true) => {}
                    Heard::Alive(false) => {
                        self.terminate();
                        self.killed_at = Some(Instant::now() + self.grace);
                    }
                },
                () = killed => {
                    self.killed_at = None;
                    let _ = self.child.start_kill();
                }
            }
        }
    }

    /// Asks the process to end, once.
    pub fn terminate(&mut self) {
        if std::mem::replace(&mut self.terminated, true) {
            return;
        }
        // It has not been waited for as long as there is an id, so that the id cannot be somebody else's.
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
    }

    /// Kills the process, and waits until it is gone.
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}

/// Copies lines to a log until there are no more.
async fn copy(from: impl AsyncRead + Unpin, log: Arc<Log>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        log.print(Utc::now(), String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        line.clear();
    }
}

/// Probes for ever, and tells whenever the answer has been another one often enough.
async fn watch(probe: Asked, mut holds: bool, heard: fn(bool) -> Heard, say: mpsc::UnboundedSender<Heard>) {
    sleep(probe.delay).await;
    let mut contrary = 0;
    loop {
        let answer = answers(probe.address, &probe.path, probe.limit).await;
        contrary = if answer == holds { 0 } else { contrary + 1 };
        if contrary >= if answer { probe.successes } else { probe.failures } && contrary > 0 {
            (holds, contrary) = (answer, 0);
            let _ = say.send(heard(holds));
        }
        sleep(probe.period).await;
    }
}

fn asked(name: &str, probe: &Probe, container: &Spec, ip: Ipv4Addr) -> anyhow::Result<Asked> {
    let get = probe.http_get.as_ref().with_context(|| format!("{name}: this pod server only knows httpGet"))?;
    ensure!(get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP"), "{name}: this pod server only asks by plain HTTP");
    ensure!(get.host.is_none() && get.http_headers.is_none(), "{name}: this pod server knows neither host nor httpHeaders");
    let port = match &get.port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let port =
        port.and_then(|port| u16::try_from(port).ok()).with_context(|| format!("{name}: the container has no port {:?}", get.port))?;
    let times = |given: Option<i32>, default: u32| given.and_then(|given| u32::try_from(given).ok()).unwrap_or(default).max(1);
    Ok(Asked {
        address: SocketAddr::from((ip, port)),
        path: get.path.clone().unwrap_or_else(|| "/".into()),
        delay: seconds(probe.initial_delay_seconds.map(i64::from), 0),
        period: seconds(probe.period_seconds.map(i64::from), 10),
        limit: seconds(probe.timeout_seconds.map(i64::from), 1),
        successes: times(probe.success_threshold, 1),
        failures: times(probe.failure_threshold, 3),
    })
}

fn seconds(given: Option<i64>, default: u64) -> Duration {
    Duration::from_secs(given.and_then(|given| u64::try_from(given).ok()).unwrap_or(default))
}

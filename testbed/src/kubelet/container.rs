//! A container of the operator's own image: a process of the built program in a root folder laid out like the image, with what
//! its pod gives it: command, environment, volumes, a user, probes.
//!
//! Only the first container of a pod is run. What a pod may ask for and this does not do is refused with its name, so that
//! nobody takes for tested what was left out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container as Spec, EnvVar, KeyToPath, Pod, PodSpec, Probe, Secret, SecretProjection, ServiceAccount,
    Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Client;
use kube::api::{Api, PostParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::logs::Log;
use crate::image::{self, Image, Mode, Root};
use crate::operator::answers;
use crate::pki;

/// Addresses that the operator listens at, with their ports where the pod does not say.
const ADDRESSES: [(&str, u16); 2] = [("AETHER_ADMIN_ADDRESS", 8081), ("AETHER_API_ADDRESS", 8080)];
/// Exit code of who was killed by a signal: this and the signal.
const BY_SIGNAL: i32 = 128;

/// What a pod's volume has: names of files and what is in them.
type Files = BTreeMap<String, Vec<u8>>;

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
        let pod = Known::new(client, pod, ip)?;
        let container = pod.spec.containers.first().context("a pod has a container")?;
        refuse(&pod.spec, container)?;
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
            program: program(container, &image)?,
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

/// A pod's command stands for the image's entry point and its arguments.
fn program(container: &Spec, image: &Image) -> anyhow::Result<Vec<String>> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let program = match (given(&container.command), given(&container.args)) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), args].concat(),
        (None, None) => [image.entrypoint.clone(), image.command.clone()].concat(),
    };
    program.iter().try_for_each(|word| plain(word))?;
    Ok(program)
}

/// Kubernetes would put variables in.
fn plain(text: &str) -> anyhow::Result<()> {
    ensure!(!text.contains("$("), "{text:?}: this pod server puts no variables in");
    Ok(())
}

/// What a pod may ask for and does not get.
fn refuse(spec: &PodSpec, container: &Spec) -> anyhow::Result<()> {
    let init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    for (asked, what) in [
        (init, "initContainers"),
        (container.env_from.as_ref().is_some_and(|list| !list.is_empty()), "envFrom"),
        (container.startup_probe.is_some(), "startupProbe"),
        (container.lifecycle.is_some(), "lifecycle"),
        (container.working_dir.is_some(), "workingDir"),
    ] {
        ensure!(!asked, "container {}: this pod server knows no {what} of pods that it really runs", container.name);
    }
    Ok(())
}

/// A pod, with all that is known when its container starts.
struct Known<'a> {
    client: &'a Client,
    namespace: String,
    name: String,
    uid: String,
    ip: Ipv4Addr,
    spec: PodSpec,
    /// All of it, to find fields in.
    fields: Value,
}

impl<'a> Known<'a> {
    fn new(client: &'a Client, pod: Pod, ip: Ipv4Addr) -> anyhow::Result<Self> {
        let mut fields = serde_json::to_value(&pod)?;
        let status = serde_json::json!({"podIP": ip, "podIPs": ip, "hostIP": Ipv4Addr::LOCALHOST, "hostIPs": Ipv4Addr::LOCALHOST});
        fields.as_object_mut().context("a pod is an object")?.insert("status".into(), status);
        let meta = pod.metadata;
        Ok(Self {
            client,
            namespace: meta.namespace.context("a pod has a namespace")?,
            name: meta.name.context("a pod has a name")?,
            uid: meta.uid.context("a pod has a uid")?,
            ip,
            spec: pod.spec.context("a pod has a spec")?,
            fields,
        })
    }

    /// A field by its path; the names of labels and annotations are in `['']`.
    fn field(&self, path: &str) -> anyhow::Result<String> {
        let (path, key) =
            path.strip_suffix("']").and_then(|path| path.split_once("['")).map_or((path, None), |(path, key)| (path, Some(key)));
        let found = path.split('.').chain(key).try_fold(&self.fields, |value, name| value.get(name));
        Ok(found.and_then(Value::as_str).with_context(|| format!("fieldRef: the pod has no text at {path}"))?.to_owned())
    }

    /// Exactly what the process finds in its environment.
    async fn environment(&self, container: &Spec) -> anyhow::Result<Vec<(String, String)>> {
        let server = pki::SERVER.trim_start_matches("https://");
        let (host, port) = server.split_once(':').context("the API server has a port")?;
        let mut environment: BTreeMap<String, String> =
            [("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)].map(|(name, value)| (name.into(), value.into())).into();
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.value(variable).await.with_context(|| format!("environment variable {}", variable.name))? {
                environment.insert(variable.name.clone(), value);
            }
        }
        for (name, port) in ADDRESSES {
            let said = environment.get(name).map_or(Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))), |value| value.parse());
            // All pods of the bed share one network: who listens at every address keeps all others from it. So each listens at
            // its own address, where everybody looks for it anyway. What is no address (off) stays as it is.
            if let Ok(said) = said
                && said.ip().is_unspecified()
            {
                environment.insert(name.into(), SocketAddr::new(IpAddr::V4(self.ip), said.port()).to_string());
            }
        }
        Ok(environment.into_iter().collect())
    }

    /// `None` where a reference is optional and leads nowhere.
    async fn value(&self, variable: &EnvVar) -> anyhow::Result<Option<String>> {
        let Some(from) = &variable.value_from else {
            let value = variable.value.clone().unwrap_or_default();
            plain(&value)?;
            return Ok(Some(value));
        };
        let (files, key, optional) = if let Some(field) = &from.field_ref {
            return self.field(&field.field_path).map(Some);
        } else if let Some(secret) = &from.secret_key_ref {
            (self.secret(&secret.name, secret.optional).await?, &secret.key, secret.optional)
        } else if let Some(map) = &from.config_map_key_ref {
            (self.config_map(&map.name, map.optional).await?, &map.key, map.optional)
        } else {
            bail!("this pod server knows fieldRef, secretKeyRef and configMapKeyRef only");
        };
        match files.get(key) {
            Some(content) => Ok(Some(String::from_utf8(content.clone()).ok().with_context(|| format!("key {key:?} is no text"))?)),
            None if optional == Some(true) => Ok(None),
            None => bail!("there is no key {key:?}"),
        }
    }

    async fn secret(&self, name: &str, optional: Option<bool>) -> anyhow::Result<Files> {
        let found = Api::<Secret>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await?;
        ensure!(found.is_some() || optional == Some(true), "secret {name:?} not found");
        Ok(found.and_then(|secret| secret.data).unwrap_or_default().into_iter().map(|(key, content)| (key, content.0)).collect())
    }

    async fn config_map(&self, name: &str, optional: Option<bool>) -> anyhow::Result<Files> {
        let found = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await?;
        ensure!(found.is_some() || optional == Some(true), "configmap {name:?} not found");
        Ok(found.and_then(|map| map.data).unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes())).collect())
    }

    /// What is in a volume. The ServiceAccount's token is in one that the API server adds.
    async fn files(&self, volume: &Volume) -> anyhow::Result<Files> {
        let sources = if let Some(projected) = &volume.projected {
            projected.sources.clone().unwrap_or_default()
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.clone().unwrap_or_default();
            let secret = SecretProjection { name, items: secret.items.clone(), optional: secret.optional };
            vec![VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }]
        } else if let Some(map) = &volume.config_map {
            let map = ConfigMapProjection { name: map.name.clone(), items: map.items.clone(), optional: map.optional };
            vec![VolumeProjection { config_map: Some(map), ..VolumeProjection::default() }]
        } else if volume.empty_dir.is_some() {
            Vec::new()
        } else {
            bail!("volume {}: this pod server knows emptyDir, secret, configMap and projected only", volume.name);
        };
        let mut files = Files::new();
        for source in sources {
            files.extend(self.project(&source).await.with_context(|| format!("volume {}", volume.name))?);
        }
        Ok(files)
    }

    async fn project(&self, source: &VolumeProjection) -> anyhow::Result<Files> {
        if let Some(token) = &source.service_account_token {
            let content = self.token(token.audience.as_ref(), token.expiration_seconds).await?;
            return Ok([(token.path.clone(), content.into_bytes())].into());
        }
        if let Some(secret) = &source.secret {
            return chosen(self.secret(&secret.name, secret.optional).await?, secret.items.as_ref(), secret.optional);
        }
        if let Some(map) = &source.config_map {
            return chosen(self.config_map(&map.name, map.optional).await?, map.items.as_ref(), map.optional);
        }
        let Some(downward) = &source.downward_api else { bail!("this pod server does not know one of its sources") };
        let file = |path: &str, field: Option<&str>| -> anyhow::Result<_> {
            Ok((path.to_owned(), self.field(field.context("this pod server knows fieldRef only")?)?.into_bytes()))
        };
        let items = downward.items.iter().flatten();
        items.map(|item| file(&item.path, item.field_ref.as_ref().map(|field| field.field_path.as_str()))).collect()
    }

    /// A token of the pod's ServiceAccount that ends with the pod. The API server makes one that is asked for in this way last
    /// for a year, which spares fetching another.
    async fn token(&self, audience: Option<&String>, expiration_seconds: Option<i64>) -> anyhow::Result<String> {
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
        };
        let audiences = audience.into_iter().cloned().collect();
        let spec = TokenRequestSpec { audiences, bound_object_ref: Some(bound), expiration_seconds };
        let account = self.spec.service_account_name.as_deref().unwrap_or("default");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        Ok(answer.status.context("the API server issued no token")?.token)
    }
}

/// The keys that are asked for, by the names they are to have; all if none is.
fn chosen(files: Files, items: Option<&Vec<KeyToPath>>, optional: Option<bool>) -> anyhow::Result<Files> {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(files) };
    let mut chosen = Files::new();
    for item in items {
        match files.get(&item.key) {
            Some(content) => drop(chosen.insert(item.path.clone(), content.clone())),
            None => ensure!(optional == Some(true), "there is no key {:?}", item.key),
        }
    }
    Ok(chosen)
}

//! The bed itself: a real control plane on 127.0.0.1, fake nodes, the Gateway API, and pods that answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::{select_all, try_join_all};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{GroupVersionKind, Resource, ResourceExt};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::binaries::Binaries;
use crate::kubelet;
use crate::namespace::Entered;
use crate::packaging::documents;
use crate::pki::Pki;
use crate::process::Process;
use crate::tls::Listener;

const ETCD: &str = "http://127.0.0.1:2379";
/// For each part of the boot. Generous, because a loaded machine is no error.
const PATIENCE: Duration = Duration::from_mins(2);
const TOKEN_SECONDS: i64 = 24 * 60 * 60;
const ZONES: [&str; 3] = ["a", "b", "c"];

/// What a bed is made of.
#[derive(Debug, Default)]
pub struct BedOptions {
    /// How pods behave.
    pub kubelet: kubelet::Options,
}

/// A running cluster. Dropping it ends all its programs.
pub struct Bed {
    dir: PathBuf,
    binaries: Binaries,
    pki: Pki,
    kubeconfig: PathBuf,
    client: Client,
    processes: Vec<Process>,
    /// Aborts the pod server when dropped.
    kubelet: JoinSet<()>,
}

impl Bed {
    /// Boots a cluster in the namespace. What an earlier bed in the same namespace left is thrown away, but that bed
    /// must have been shut down.
    pub async fn boot(namespace: &Entered, options: BedOptions) -> anyhow::Result<Self> {
        // Several libraries bring rustls along, and it refuses to choose between providers by itself.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let binaries = Binaries::ensure()?;
        let dir = namespace.dir().join("cluster");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        let pki = Pki::create(&dir.join("pki"))?;
        let kubeconfig = pki.user_kubeconfig("admin", Some("system:masters"))?;

        let etcd = Process::spawn(&dir, "etcd", etcd(&binaries, &dir))?;
        let mut apiserver = Process::spawn(&dir, "kube-apiserver", apiserver(&binaries, &dir, &pki)?)?;
        let client = client_of(&kubeconfig).await?;
        apiserver.wait_until(PATIENCE, async || is_ready(&client).await).await?;
        let mut processes = vec![
            etcd,
            apiserver,
            Process::spawn(&dir, "kube-controller-manager", controller_manager(&binaries, &pki)?)?,
            Process::spawn(&dir, "kube-scheduler", scheduler(&binaries, &pki)?)?,
            Process::spawn(&dir, "kwok", kwok(&binaries, &dir, &pki)?)?,
        ];
        let address = (options.kubelet.host_ip, kubelet::PORT).into();
        let listener = Listener::bind(address, &pki, &options.kubelet.host_ip.to_string()).await?;
        let pods = kubelet::run(client.clone(), listener, dir.join("containers"), options.kubelet);
        let mut kubelet = JoinSet::new();
        kubelet.spawn(async move {
            if let Err(error) = pods.await {
                tracing::error!("the pod server ended: {error:#}");
            }
        });
        let bed = Self { dir, binaries, pki, kubeconfig, client, processes: Vec::new(), kubelet };
        tokio::select! {
            done = bed.furnish() => done?,
            error = first_to_end(&mut processes) => return Err(error),
        }
        Ok(Self { processes, ..bed })
    }

    /// Definitions, nodes, and what the controllers must have made before pods can be.
    async fn furnish(&self) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        tokio::try_join!(
            install_crds(&self.client, &self.binaries.gateway_api_crds),
            try_join_all(ZONES.iter().enumerate().map(|(index, zone)| add_node(&nodes, index + 1, zone))),
            self.wait_for_service_account("default"),
        )?;
        Ok(())
    }

    /// A client with all rights, which does not repeat failed requests by itself.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Folder with the logs, certificates and data of the bed.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the programs are.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Kubeconfig of a user with all rights, valid inside the namespace.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The bed's certificate authority.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Certificate authority of the API server, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.pki.file("ca.crt")
    }

    /// The API server's audit log: one JSON object a line, writes only, each with request and response.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Runs kubectl as admin and returns what it prints; an error carries what it complained about.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.kubectl_stdin(args, "").await
    }

    /// As [`Bed::kubectl`], with something to read: `bed.kubectl_stdin(&["apply", "-f", "-"], manifest)`.
    pub async fn kubectl_stdin(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let mut child = Command::new(&self.binaries.kubectl)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.dir.join("kubectl-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // kubectl may end without reading its input; what it says then is the better error.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!("kubectl {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `kubectl apply -f`, as a person does it.
    pub async fn apply_file(&self, path: &Path) -> anyhow::Result<String> {
        let path = path.to_str().context("the path is not UTF-8")?;
        self.kubectl(&["apply", "-f", path]).await
    }

    /// Server-side apply of one object of any kind; faster than kubectl.
    pub async fn apply(&self, object: Value) -> anyhow::Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.as_ref().context("the object has no kind")?;
        let kind = GroupVersionKind::try_from(types)?;
        let (resource, _) = kube::discovery::pinned_kind(&self.client, &kind).await?;
        apply(&self.client, &resource, &object).await
    }

    /// Creates a namespace and waits until pods can be created in it.
    pub async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        self.wait_for_service_account(name).await
    }

    async fn wait_for_service_account(&self, namespace: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let exists = |account: Option<&ServiceAccount>| account.is_some();
        wait_for(accounts, "default", exists).await
    }

    /// A token for a `ServiceAccount`, valid for a day, by the `TokenRequest` API.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        Ok(answer.status.context("the API server issued no token")?.token)
    }

    /// Kubeconfig file for a `ServiceAccount`, with a real token.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let token = self.service_account_token(namespace, name).await?;
        self.pki.token_kubeconfig(&format!("{namespace}-{name}"), &token)
    }

    /// Waits until one of the programs ends, which none should, and tells how it ended.
    pub async fn failure(&mut self) -> anyhow::Error {
        first_to_end(&mut self.processes).await
    }

    /// Ends all programs of the bed.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.kubelet.shutdown().await;
        // Killed rather than asked: an API server whose etcd is gone ignores SIGTERM.
        for process in self.processes.iter_mut().rev() {
            process.kill().await?;
        }
        Ok(())
    }
}

/// A client for a kubeconfig file. It does not repeat failed requests: tests want to see failures.
pub async fn client_of(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = hyper::Request::get("/readyz").body(Vec::new()) else { return false };
    // Unlogged: kube reports every refusal as an error, and until the API server is up there are many.
    client.request_text(request).with_subscriber(NoSubscriber::new()).await.is_ok()
}

async fn first_to_end(processes: &mut [Process]) -> anyhow::Error {
    select_all(processes.iter_mut().map(|process| Box::pin(process.ended()))).await.0
}

async fn apply(client: &Client, resource: &ApiResource, object: &DynamicObject) -> anyhow::Result<DynamicObject> {
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    };
    let params = PatchParams::apply("testbed").force();
    let applied = api.patch(&object.name_any(), &params, &Patch::Apply(object)).await;
    applied.with_context(|| format!("cannot apply {} {}", resource.kind, object.name_any()))
}

async fn wait_for<K>(api: Api<K>, name: &str, condition: impl Condition<K>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let waited = timeout(PATIENCE, await_condition(api, name, condition)).await;
    waited.with_context(|| format!("{} {name} did not come up within {PATIENCE:?}", K::kind(&())))??;
    Ok(())
}

/// Only the definitions: the folder also holds an admission policy against downgrades, which never happen here.
async fn install_crds(client: &Client, folder: &Path) -> anyhow::Result<()> {
    let resource = ApiResource::erase::<CustomResourceDefinition>(&());
    let mut definitions = Vec::new();
    for file in fs::read_dir(folder)? {
        let objects = documents(&fs::read_to_string(file?.path())?)?;
        for definition in objects.into_iter().filter(|o| o.get("kind").is_some_and(|kind| *kind == *resource.kind)) {
            definitions.push(serde_json::from_value::<DynamicObject>(definition)?);
        }
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    try_join_all(definitions.iter().map(|definition| async {
        apply(client, &resource, definition).await?;
        wait_for(api.clone(), &definition.name_any(), conditions::is_crd_established()).await
    }))
    .await?;
    Ok(())
}

async fn add_node(nodes: &Api<Node>, number: usize, zone: &str) -> anyhow::Result<()> {
    let name = format!("node-{number}");
    let resources = json!({ "cpu": "64", "memory": "256Gi", "pods": "500" });
    let node = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": zone,
            },
        },
        "status": {
            "allocatable": resources,
            "capacity": resources,
            // The addresses are kwok's; this is where the API server asks for logs there.
            "daemonEndpoints": { "kubeletEndpoint": { "Port": kubelet::PORT } },
        },
    }))?;
    nodes.create(&PostParams::default(), &node).await?;
    // Ready is not enough: until the node lifecycle controller has taken its taint away, nothing is scheduled there.
    let usable = |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        let ready = conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
        let tainted = node.and_then(|node| node.spec.as_ref()?.taints.as_ref()).is_some_and(|taints| !taints.is_empty());
        ready && !tainted
    };
    wait_for(nodes.clone(), &name, usable).await
}

fn etcd(binaries: &Binaries, dir: &Path) -> Command {
    let mut command = Command::new(&binaries.etcd);
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--unsafe-no-fsync", "--log-level=warn", "--listen-peer-urls=http://127.0.0.1:2380"]);
    command.arg(format!("--listen-client-urls={ETCD}")).arg(format!("--advertise-client-urls={ETCD}"));
    command
}

fn apiserver(binaries: &Binaries, dir: &Path, pki: &Pki) -> anyhow::Result<Command> {
    let policy = dir.join("audit-policy.yaml");
    fs::write(&policy, include_str!("../cluster/audit-policy.yaml"))?;
    let mut command = Command::new(&binaries.apiserver);
    command.arg(format!("--etcd-servers={ETCD}"));
    command.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=6443"]);
    command.args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16"]);
    // The API server would publish 127.0.0.1 as the endpoint of the `kubernetes` Service, which validation forbids.
    command.arg("--endpoint-reconciler-type=none");
    // Nobody resolves the nodes' names.
    command.arg("--kubelet-preferred-address-types=InternalIP");
    command.arg("--service-account-issuer=https://kubernetes.default.svc");
    // One file, however long: a test that reads the log must not miss what was rotated away.
    command.arg("--audit-log-maxsize=10000");
    for (flag, path) in [
        ("tls-cert-file", pki.file("apiserver.crt")),
        ("tls-private-key-file", pki.file("apiserver.key")),
        ("client-ca-file", pki.file("ca.crt")),
        ("kubelet-certificate-authority", pki.file("ca.crt")),
        ("service-account-key-file", pki.file("sa.pub")),
        ("service-account-signing-key-file", pki.file("sa.key")),
        ("audit-policy-file", policy),
        ("audit-log-path", dir.join("audit.log")),
    ] {
        command.arg(format!("--{flag}={}", path.display()));
    }
    Ok(command)
}

fn controller_manager(binaries: &Binaries, pki: &Pki) -> anyhow::Result<Command> {
    let mut command = Command::new(&binaries.controller_manager);
    command.arg("--kubeconfig").arg(pki.user_kubeconfig("system:kube-controller-manager", None)?);
    command.arg("--service-account-private-key-file").arg(pki.file("sa.key"));
    command.arg("--root-ca-file").arg(pki.file("ca.crt"));
    command.args(["--use-service-account-credentials=true", "--controllers=*,-node-ipam-controller"]);
    // Tests wait for autoscalers.
    command.arg("--horizontal-pod-autoscaler-sync-period=1s");
    command.args(UNSERVED_SINGLETON);
    Ok(command)
}

fn scheduler(binaries: &Binaries, pki: &Pki) -> anyhow::Result<Command> {
    let mut command = Command::new(&binaries.scheduler);
    command.arg("--kubeconfig").arg(pki.user_kubeconfig("system:kube-scheduler", None)?);
    command.args(UNSERVED_SINGLETON);
    Ok(command)
}

/// No election, and no HTTPS port of their own, which would cost a new certificate at every start.
const UNSERVED_SINGLETON: [&str; 4] = ["--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"];

fn kwok(binaries: &Binaries, dir: &Path, pki: &Pki) -> anyhow::Result<Command> {
    let stages = dir.join("node-stages.yaml");
    fs::write(&stages, include_str!("../cluster/node-stages.yaml"))?;
    let mut command = Command::new(&binaries.kwok);
    command.arg("--kubeconfig").arg(pki.user_kubeconfig("kwok", Some("system:masters"))?);
    command.arg("--config").arg(stages);
    command.args(["--manage-all-nodes=true", "--node-ip=127.0.0.1", "--server-address=127.0.0.1:10247"]);
    // Without it kwok renews no leases, and after 50 s the node lifecycle controller makes every pod unready for good.
    command.arg("--node-lease-duration-seconds=40");
    Ok(command)
}

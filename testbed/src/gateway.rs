//! Traefik as the Gateway API data plane: outside the cluster's pods, inside its network.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::bed::Bed;
use crate::process::Process;

/// Namespace of the gateways' service accounts.
const NAMESPACE: &str = "gateway-system";
/// What Traefik looks for in a `GatewayClass`. The name cannot be changed, so instances are told apart by label.
const CONTROLLER: &str = "traefik.io/gateway-controller";
const CLASS_LABEL: &str = "testbed.aether.dev/gateway";
const PATIENCE: Duration = Duration::from_mins(1);

/// One gateway. Several may run side by side when names and ports differ.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Name of the `GatewayClass`, and of everything else that belongs to this gateway.
    pub name: String,
    /// Where it listens for requests, and what Gateways report in their status.
    pub address: Ipv4Addr,
    /// Port for requests. A Gateway's listener must ask for the same port.
    pub port: u16,
    /// Port for Prometheus metrics on 127.0.0.1, at `/metrics`.
    pub metrics_port: u16,
    /// How long Traefik collects changes before it applies them.
    pub throttle: Duration,
}

impl Default for GatewayOptions {
    /// As a person gets it: Traefik's own throttle of 2 s.
    fn default() -> Self {
        Self { name: "traefik".to_owned(), address: Ipv4Addr::LOCALHOST, port: 8000, metrics_port: 9000, throttle: Duration::from_secs(2) }
    }
}

/// A running gateway. Dropping it kills Traefik; its objects stay in the cluster.
#[derive(Debug)]
pub struct Gateway {
    options: GatewayOptions,
    process: Process,
}

impl Gateway {
    /// Creates the gateway's `ServiceAccount`, rights and `GatewayClass`, starts Traefik, and waits until it has accepted
    /// the class and serves its ports.
    pub async fn start(bed: &Bed, options: GatewayOptions) -> anyhow::Result<Self> {
        let name = options.name.clone();
        install(bed, &name).await?;
        let token = bed.dir().join(format!("{name}.token"));
        std::fs::write(&token, bed.service_account_token(NAMESPACE, &name).await?)?;
        let mut process = Process::spawn(bed.dir(), &name, traefik(bed, &options, &token))?;
        for listener in [(options.address, options.port), (Ipv4Addr::LOCALHOST, options.metrics_port)] {
            let answers = async || TcpStream::connect(listener).await.is_ok();
            process.wait_until(PATIENCE, answers).await?;
        }
        let class = format!("gatewayclass/{name}");
        let accepted = ["wait", &class, "--for=condition=Accepted", "--timeout=60s"];
        tokio::select! {
            done = bed.kubectl(&accepted) => done?,
            error = process.ended() => return Err(error),
        };
        Ok(Self { options, process })
    }

    /// Where requests go: `http://<address>:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.options.address, self.options.port)
    }

    /// Traefik's metrics page.
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.options.metrics_port)
    }

    /// What the gateway was started with.
    pub fn options(&self) -> &GatewayOptions {
        &self.options
    }

    /// Manifest of a Gateway object of this class, open to the routes of its own namespace.
    pub fn manifest(&self, namespace: &str, name: &str) -> String {
        let GatewayOptions { name: class, port, .. } = &self.options;
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\n\
             kind: Gateway\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec:\n\
             \x20 gatewayClassName: {class}\n\
             \x20 listeners:\n\
             \x20 - {{name: web, protocol: HTTP, port: {port}, allowedRoutes: {{namespaces: {{from: Same}}}}}}\n"
        )
    }

    /// The Traefik process, for tests that kill or stop it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

async fn install(bed: &Bed, name: &str) -> anyhow::Result<()> {
    let role = format!("{name}-gateway");
    for object in [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": NAMESPACE } }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": role },
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["namespaces", "services", "secrets", "configmaps", "pods", "nodes"],
                    "verbs": ["get", "list", "watch"],
                },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
                {
                    "apiGroups": ["gateway.networking.k8s.io"],
                    "resources": ["*"],
                    "verbs": ["get", "list", "watch"],
                },
                {
                    "apiGroups": ["gateway.networking.k8s.io"],
                    "resources": [
                        "gatewayclasses/status", "gateways/status", "httproutes/status", "grpcroutes/status",
                        "tlsroutes/status", "backendtlspolicies/status",
                    ],
                    "verbs": ["update", "patch"],
                },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": NAMESPACE }],
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": { "name": name, "labels": { CLASS_LABEL: name } },
            "spec": { "controllerName": CONTROLLER },
        }),
    ] {
        bed.apply(object).await?;
    }
    Ok(())
}

fn traefik(bed: &Bed, options: &GatewayOptions, token: &Path) -> Command {
    let GatewayOptions { name, address, port, metrics_port, throttle } = options;
    let mut command = Command::new(&bed.binaries().traefik);
    command.args([
        "--log.level=INFO",
        "--log.nocolor=true",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
        "--providers.kubernetesgateway.endpoint=https://127.0.0.1:6443",
        "--metrics.prometheus.entrypoint=metrics",
        "--metrics.prometheus.addserviceslabels=true",
        "--metrics.prometheus.addrouterslabels=true",
        // Traefik's own buckets begin at 100 ms, which says nothing about pods that answer in one.
        "--metrics.prometheus.buckets=0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10",
    ]);
    command.arg(format!("--providers.kubernetesgateway.statusaddress.ip={address}"));
    command.arg(format!("--entrypoints.web.address={address}:{port}"));
    command.arg(format!("--entrypoints.metrics.address=127.0.0.1:{metrics_port}"));
    command.arg(format!("--providers.providersthrottleduration={}ms", throttle.as_millis()));
    command.arg(format!("--providers.kubernetesgateway.labelselector={CLASS_LABEL}={name}"));
    command.arg(format!("--providers.kubernetesgateway.certauthfilepath={}", bed.ca_file().display()));
    command.arg(format!("--providers.kubernetesgateway.token={}", token.display()));
    command
}

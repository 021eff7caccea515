//! What the demo and the tests of pools stand on: a cluster, the fake cloud with real proxies in its VMs, and the operator.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, BedOptions};
use crate::fake_cloud::{Dialect, FakeCloud, Knobs, Settings, Truth};
use crate::namespace::Entered;
use crate::operator::{self, Operator};
use crate::tinyproxy::Proxies;

/// Namespace of the pools.
pub const NAMESPACE: &str = "proxies";
/// The Secrets' credentials: nothing of them may show anywhere.
pub const TOKEN: &str = "canary-token-4d7f";
/// Account and token of another customer, whom faults may hit alone: Secret `other-token`.
pub const OTHER: [&str; 2] = ["other", "canary-token-other"];
/// Of the Secret `cloud-keys`, whose key id is the token.
pub const SECRET_KEY: &str = "canary-secret-key-81aa";
/// User and password of the proxies.
pub const LOGIN: [&str; 2] = ["canary-user", "canary-password-9b2e"];
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(200);
/// VMs boot in a second here, and the cloud's lists are always new.
const BOOT: Duration = Duration::from_secs(1);

/// A cluster with a cloud.
pub struct PoolBed {
    /// The cluster.
    pub bed: Bed,
    /// The cloud.
    pub cloud: FakeCloud,
    /// The operator.
    pub operator: Mutex<Operator>,
    _proxies: Proxies,
    lease: Duration,
}

impl PoolBed {
    /// Boots it all. `proxy`: where tinyproxy is.
    pub async fn boot(namespace: &Entered, proxy: PathBuf, lease: Duration) -> anyhow::Result<Self> {
        let bed = Bed::boot(namespace, BedOptions::default()).await?;
        let (proxies, machines) = Proxies::start(proxy, bed.dir());
        let cloud = FakeCloud::start(Settings {
            accounts: [(TOKEN.to_owned(), "test".to_owned()), (OTHER[1].to_owned(), OTHER[0].to_owned())].into(),
            addresses: (1..=250).map(|host| IpAddr::from(Ipv4Addr::new(10, 244, 250, host))).collect(),
            machines: Some(machines),
            knobs: Knobs { boots_after: BOOT, ..Knobs::default() },
            ..Settings::default()
        })
        .await?;
        operator::install(&bed).await?;
        bed.create_namespace(NAMESPACE).await?;
        let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data});
        let [username, password] = LOGIN;
        for object in [
            secret("cloud-token", json!({"token": TOKEN})),
            secret("cloud-keys", json!({"accessKeyId": TOKEN, "secretAccessKey": SECRET_KEY})),
            secret("other-token", json!({"token": OTHER[1]})),
            secret("proxy-auth", json!({"username": username, "password": password})),
        ] {
            bed.apply(object).await?;
        }
        let operator = Self::start_operator(&bed, &cloud, lease).await?;
        Ok(Self { bed, cloud, operator: Mutex::new(operator), _proxies: proxies, lease })
    }

    async fn start_operator(bed: &Bed, cloud: &FakeCloud, lease: Duration) -> anyhow::Result<Operator> {
        let dialects =
            [("digitalocean", Dialect::DigitalOcean), ("hetzner", Dialect::Hetzner), ("vultr", Dialect::Vultr), ("aws", Dialect::Ec2)];
        let address = |(name, dialect): (&str, Dialect)| format!("--cloud-address={name}={}", cloud.operators_url(dialect));
        let flags: Vec<String> = dialects.into_iter().map(address).chain(["--cloud-settle-seconds=1".to_owned()]).collect();
        Operator::start_with(bed, "operator", 8081, lease, &flags).await
    }

    /// Kills the operator and starts another.
    pub async fn crash(&self) -> anyhow::Result<()> {
        let mut operator = self.operator.lock().await;
        operator.crash().await?;
        *operator = Self::start_operator(&self.bed, &self.cloud, self.lease).await?;
        Ok(())
    }

    /// All that operators have logged so far.
    pub async fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.operator.lock().await.log())?)
    }

    /// What went wrong, with the end of what operators have logged.
    pub async fn failure(&self, error: &anyhow::Error) -> String {
        let log = self.log().await.unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(60).collect();
        format!("{error:#}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// What really happened to that pool's VMs.
    pub fn truth_of(&self, uid: &str) -> Truth {
        self.cloud.truth().only(|vm| vm.mark("aether-pool") == Some(uid))
    }

    /// A pool in the named cloud; `change` is merged into its spec. Its UID.
    pub async fn apply(&self, name: &str, provider: &str, change: Value) -> anyhow::Result<String> {
        let block = match provider {
            "hetzner" => json!({"location": "nbg1"}),
            "vultr" => json!({"region": "ewr"}),
            "aws" => json!({"region": "eu-central-1", "ami": "ami-0123456789abcdef0", "spot": {}}),
            _ => json!({"region": "lon1"}),
        };
        let mut spec = json!({
            "minScaling": 5,
            "credentialsSecretRef": {"name": if provider == "aws" { "cloud-keys" } else { "cloud-token" }},
            "proxy": {"authSecretRef": {"name": "proxy-auth"}},
            "health": {"interval": "2s", "timeout": "2s", "startupTimeout": "20s"},
        });
        merge(&mut spec, json!({provider: block}));
        merge(&mut spec, change);
        let pool = json!({"apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
        self.bed.apply(pool).await?.metadata.uid.context("no uid")
    }

    /// The pool as it is.
    pub async fn get(&self, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.bed.kubectl(&["-n", NAMESPACE, "get", "proxypool", name, "-o", "json"]).await?)?)
    }

    /// Waits until the truth about that pool is so.
    pub async fn until(&self, uid: &str, what: &str, limit: Duration, is: impl Fn(&Truth) -> bool) -> anyhow::Result<Truth> {
        let deadline = Instant::now() + limit;
        loop {
            let truth = self.truth_of(uid);
            if is(&truth) {
                return Ok(truth);
            }
            let shown = || truth.vms.iter().map(|vm| format!("{} {} {:?}", vm.id, vm.order.name, vm.doomed)).collect::<Vec<_>>();
            ensure!(Instant::now() < deadline, "not {what} after {limit:?}: {:#?}", shown());
            sleep(POLL).await;
        }
    }

    /// Waits until the pool's object is so.
    pub async fn until_pool(&self, name: &str, what: &str, limit: Duration, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let pool = self.get(name).await?;
            if is(&pool) {
                return Ok(pool);
            }
            ensure!(Instant::now() < deadline, "not {what} after {limit:?}: {pool:#}");
            sleep(POLL).await;
        }
    }
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

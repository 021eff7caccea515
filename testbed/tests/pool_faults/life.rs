//! The life of one pool, from its first proxy through a whole rotation to its end, while something goes wrong; and what
//! the cloud itself says of it.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use aether_operator::api::ProxyPool;
use anyhow::ensure;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use testbed::fake_cloud::{Change, FakeCloud, Knobs, Settings, Truth};
use testbed::pool_bed::TOKEN;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep};

use crate::cases::{Case, Fate, LAG, Provider, WANTED};
use crate::operator::{self, Log, Operator};
use crate::wire::{self, Gate};
use crate::world::{Pods, World};

/// Namespace of all pools.
pub const NAMESPACE: &str = "faults";
/// For each part of a life.
const LIMIT: Duration = Duration::from_mins(6);
const POLL: Duration = Duration::from_millis(200);
/// Nobody else is there, so nobody renews in between.
const ALONE: Duration = Duration::from_mins(30);
/// Where there are two of them.
const CONTESTED: Duration = Duration::from_secs(9);
/// From the moment that one stands still until it wakes: its successor has led and worked by then. Its own patience with
/// the cloud, 30 s, is not at its end.
const ASLEEP: Duration = Duration::from_secs(25);
/// Where pods listen: the other port is taken at all addresses.
const PODS_PORT: u16 = 8898;
/// The first of all.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 244, 64, 0);

/// What all cases stand on.
pub struct Ground {
    pub client: Client,
    pub machines: UnboundedSender<Change>,
    pub pods: Pods,
    pub next: AtomicU32,
    pub places_for_pods: Semaphore,
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Report {
    /// The operator was stopped, or all faults struck.
    pub struck: bool,
    /// VMs that were left.
    pub leaked: usize,
    /// VMs of one slot and epoch at the same time.
    pub twins: usize,
    /// By how many the floor was broken, by the cloud's own count.
    pub below: usize,
    /// By how many there were too many.
    pub above: usize,
    /// Writes of its first operator: statuses, others.
    pub writes: [u32; 2],
    pub seconds: u64,
    pub calls: String,
}

impl Ground {
    async fn cloud(&self, knobs: Knobs, addresses: u32) -> anyhow::Result<FakeCloud> {
        let first = u32::from(FIRST) + self.next.fetch_add(addresses, Ordering::Relaxed);
        FakeCloud::start(Settings {
            accounts: [(TOKEN.to_owned(), "test".to_owned())].into(),
            addresses: (first..first + addresses).map(|a| IpAddr::from(Ipv4Addr::from(a))).collect(),
            machines: Some(self.machines.clone()),
            knobs,
            ..Settings::default()
        })
        .await
    }

    pub fn pools(&self) -> Api<ProxyPool> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// A pool in a world of its own. `change` replaces parts of its spec.
    pub async fn make(&self, name: &str, provider: &Provider, knobs: Knobs, change: Value) -> anyhow::Result<World> {
        let mut spec = json!({
            "minScaling": WANTED,
            "ageLimit": "40s",
            "proxy": {"authSecretRef": {"name": "proxy-auth"}},
            "health": {"interval": "10s", "timeout": "5s", "startupTimeout": "20s"},
            provider.name: serde_json::from_str::<Value>(provider.block)?,
        });
        let cloud = if provider.dialect.is_some() {
            // More than the pool ever has: each is free again when its VM is gone.
            let wanted = change["minScaling"].as_u64().unwrap_or(WANTED as u64);
            let cloud = self.cloud(knobs, u32::try_from(wanted)? * 4).await?;
            let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
            let data: BTreeMap<_, _> = provider.credentials.iter().map(|(key, credential)| (*key, credential(&cloud))).collect();
            let secret = json!({"metadata": {"name": name}, "stringData": data});
            secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
            spec["credentialsSecretRef"] = json!({"name": name});
            Some(cloud)
        } else {
            spec["proxy"]["port"] = json!(PODS_PORT);
            None
        };
        for (key, value) in change.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let pool = json!({"apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool", "metadata": {"name": name}, "spec": spec});
        let made = self.pools().create(&PostParams::default(), &serde_json::from_value(pool)?).await?;
        Ok(cloud.map_or_else(|| World::Pods(self.pods.clone(), made.metadata.uid.unwrap_or_default()), World::Cloud))
    }

    /// What an operator of that pool is started with.
    pub fn settings(name: &str, provider: &Provider, world: &World, log: &Log) -> operator::Settings {
        let address = |(cloud, dialect): (&FakeCloud, _)| (provider.name.to_owned(), cloud.operators_url(dialect));
        operator::Settings {
            namespace: NAMESPACE.into(),
            lease_name: name.into(),
            lease: ALONE,
            addresses: world.cloud().zip(provider.dialect).map(address).into_iter().collect(),
            settle_seconds: 1,
            log: log.clone(),
        }
    }

    /// Deletes the pool, and waits until it is gone.
    pub async fn delete(&self, name: &str, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        let mut asked = false;
        while Instant::now() < deadline {
            if asked && matches!(self.pools().get_metadata_opt(name).await, Ok(None)) {
                return Ok(());
            }
            asked |= self.pools().delete(name, &DeleteParams::default()).await.is_ok();
            sleep(Duration::from_secs(2)).await;
        }
        let pool = self.pools().get(name).await?;
        anyhow::bail!("the pool is not gone: {}", json!(pool.status))
    }
}

/// Waits until the truth is so.
pub async fn until(world: &World, what: &str, limit: Duration, is: impl Fn(&Truth) -> bool) -> anyhow::Result<Truth> {
    let deadline = Instant::now() + limit;
    loop {
        let truth = world.truth();
        if is(&truth) {
            return Ok(truth);
        }
        let shown = || truth.alive().map(|vm| format!("{} {} {:?} {:?}", vm.id, vm.order.name, vm.doomed, vm.ends)).collect::<Vec<_>>();
        ensure!(Instant::now() < deadline, "not {what} after {limit:?}: {:#?}", shown());
        sleep(POLL).await;
    }
}

pub fn serving(truth: &Truth) -> usize {
    truth.alive().filter(|vm| vm.is_serving(truth.now)).count()
}

const PLACE: [&str; 3] = ["aether-pool", "aether-slot", "aether-epoch"];

/// Runs one case. What is in the report was found out about the whole life; an error is that it did not go on.
pub async fn live(ground: &Ground, case: &Case, log: &Log, report: &mut Report) -> anyhow::Result<()> {
    let begun = Instant::now();
    let name = case.name.replace("::", "-").replace('_', "-");
    let world = ground.make(&name, case.provider, case.knobs.clone(), case.shape.spec()).await?;
    for fault in &case.faults {
        world.cloud().into_iter().for_each(|cloud| cloud.add_fault(fault.clone()));
    }
    let mut settings = Ground::settings(&name, case.provider, &world, log);
    if case.knobs.list_lag >= LAG {
        settings.settle_seconds = 3;
    }
    if matches!(case.fate, Fate::Sleeps) {
        settings.lease = CONTESTED;
    }
    let gate = Gate::new(case.stop);
    let start = |identity, gate: &Arc<Gate>| {
        let client = wire::client(&ground.client, &Handle::current(), NAMESPACE, &name, gate);
        Operator::start(client, identity, &settings)
    };
    // Two may be there at a time.
    let operators = Mutex::new(vec![start("first", &gate)?]);
    let stopped = AtomicBool::new(false);
    let drama = async {
        tokio::select! { () = gate.reached() => {}, () = world.holds() => {} }
        stopped.store(true, Ordering::Relaxed);
        match case.fate {
            Fate::Lives => {}
            Fate::Dies => {
                let dead = operators.lock().await.remove(0);
                dead.die().await;
                log.say("it dies; its successor starts");
                operators.lock().await.push(start("first", &Gate::new(None))?);
            }
            Fate::Sleeps => {
                let asleep = operators.lock().await[0].freeze();
                log.say("it stands still; another starts");
                operators.lock().await.push(start("second", &Gate::new(None))?);
                sleep(ASLEEP).await;
                log.say("it wakes");
                world.release();
                gate.open();
                drop(asleep);
            }
        }
        pending::<anyhow::Result<()>>().await
    };
    let whole = |truth: &Truth| serving(truth) == WANTED;
    let life = async {
        let before = until(&world, "whole", LIMIT, whole).await?;
        let first: Vec<u64> = before.alive().map(|vm| vm.id).collect();
        let renewed = |truth: &Truth| serving(truth) >= WANTED && truth.alive().all(|vm| !first.contains(&vm.id));
        let after = until(&world, "renewed", LIMIT, renewed).await?;
        report.below = case.shape.floor().saturating_sub(after.lowest(before.now).1);
        if case.is_late {
            // What came late has come by now, and goes.
            sleep((begun + ASLEEP * 2).saturating_duration_since(Instant::now())).await;
            until(&world, "without the late one", LIMIT, |t| t.alive().count() <= case.shape.most() && twins_now(t) == 0).await?;
        }
        ground.delete(&name, LIMIT).await
    };
    let lived = tokio::select! { lived = life => lived, played = drama => played };
    let truth = world.truth();
    report.seconds = begun.elapsed().as_secs();
    report.writes = gate.writes();
    report.calls = truth.calls.iter().map(|((_, call), times)| format!("{call:?} {times}")).collect::<Vec<_>>().join(", ");
    report.struck = stopped.into_inner() || (matches!(case.fate, Fate::Lives) && world.faults_left() == 0);
    let allowed = usize::from(case.is_late);
    report.twins = truth.twins(&PLACE).iter().map(|t| t.at_once.saturating_sub(1 + allowed)).sum();
    report.above = truth.highest().saturating_sub(case.shape.most() + allowed);
    lived?;
    // A VM that is on its way out is none that leaks.
    sleep(case.knobs.deleted_after + case.knobs.list_lag).await;
    report.leaked = world.truth().alive().count();
    for operator in operators.into_inner() {
        operator.die().await;
    }
    Ok(())
}

fn twins_now(truth: &Truth) -> usize {
    let now = truth.clone().only(|vm| vm.is_alive(truth.now) && vm.doomed.is_none());
    now.twins(&PLACE).len()
}

//! Pools on the real cluster, in a fake cloud whose VMs are real proxies. Every figure is the cloud's own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use testbed::binaries::Binaries;
use testbed::demo_pool::waves;
use testbed::fake_cloud::{Call, Dialect, Effect, Fault, Refusal, Truth};
use testbed::pool_bed::{LOGIN, NAMESPACE, OTHER, PoolBed, SECRET_KEY, TOKEN};
use testbed::{namespace, tinyproxy};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;
use tokio::time::sleep;

/// They wait for clocks.
const AT_ONCE: usize = 8;
/// Operators die here.
const LEASE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_mins(3);
const CLOUDS: [(&str, Dialect); 4] =
    [("digitalocean", Dialect::DigitalOcean), ("hetzner", Dialect::Hetzner), ("vultr", Dialect::Vultr), ("aws", Dialect::Ec2)];

static TURNS: RwLock<()> = RwLock::const_new(());

type Ground = (Arc<Runtime>, Arc<PoolBed>);

macro_rules! trials {
    ($ground:ident: $($test:ident)*) => {
        vec![$({
            let ground: Option<Ground> = $ground.cloned();
            Trial::test(stringify!($test), move || {
                let (runtime, pools) = ground.ok_or("no bed")?;
                runtime.block_on(async {
                    // Where operators die again and again nothing else is to be seen.
                    let _turn = if stringify!($test).starts_with("killed") {
                        (Some(TURNS.write().await), None)
                    } else {
                        (None, Some(TURNS.read().await))
                    };
                    match $test(&pools).await {
                        Ok(()) => Ok(()),
                        Err(error) => Err(Failed::from(pools.failure(&error).await)),
                    }
                })
            })
        }),*]
    };
}

fn trials(ground: Option<&Ground>) -> Vec<Trial> {
    trials![ground:
        lost_replies_make_no_second_vm
        what_the_cloud_refuses_is_said_and_tried_again
        what_is_published_works_and_follows
        a_pool_is_scaled_evicted_from_and_deleted
        an_edit_of_the_port_is_rolled_out
        the_secret_of_another_account_makes_no_second_pool
        what_makes_no_sense_is_refused_with_the_way_out
        killed_again_and_again_it_keeps_floor_batch_and_leaks_nothing
    ]
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    arguments.test_threads.get_or_insert(AT_ONCE);
    let run = || -> anyhow::Result<ExitCode> {
        Binaries::ensure()?;
        let proxy = tinyproxy::program()?;
        let namespace = namespace::enter("pool-test")?;
        let runtime = Arc::new(Runtime::new()?);
        let pools = Arc::new(runtime.block_on(PoolBed::boot(&namespace, proxy, LEASE))?);
        let conclusion = libtest_mimic::run(&arguments, trials(Some(&(runtime.clone(), pools.clone()))));
        // After all of them: whatever they did, nothing of a credential may be anywhere.
        let secrets = runtime.block_on(no_secret_is_shown(&pools));
        if let Err(error) = &secrets {
            eprintln!("error: {error:#}");
        }
        Ok(if secrets.is_ok() { conclusion.exit_code() } else { ExitCode::FAILURE })
    };
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn serving(truth: &Truth) -> usize {
    truth.alive().filter(|vm| vm.is_serving(truth.now)).count()
}

fn rolling() -> Value {
    json!({"minAvailable": 3, "batchSize": 2})
}

/// No two VMs for one place at the same time.
fn no_twins(truth: &Truth) -> anyhow::Result<()> {
    let twins = truth.twins(&["aether-pool", "aether-slot", "aether-epoch"]);
    ensure!(twins.iter().all(|t| t.at_once <= 1), "twins: {twins:?}");
    Ok(())
}

async fn delete(pools: &PoolBed, name: &str, uid: &str) -> anyhow::Result<()> {
    if let Err(error) = pools.bed.kubectl(&["-n", NAMESPACE, "delete", "proxypool", name, "--timeout=90s"]).await {
        let left = pools.truth_of(uid).alive().map(|vm| (vm.id, vm.doomed)).collect::<Vec<_>>();
        anyhow::bail!("{error:#}; VMs left: {left:?}; {:#}", pools.get(name).await?);
    }
    let left = pools.truth_of(uid).alive().count();
    ensure!(left == 0, "{left} VMs leaked");
    Ok(())
}

async fn killed_again_and_again_it_keeps_floor_batch_and_leaks_nothing(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (provider, _) in CLOUDS {
        let name = format!("killed-{provider}");
        all.push((name.clone(), pools.apply(&name, provider, json!({"ageLimit": "45s", "rolling": rolling()})).await?));
    }
    let mut first = Vec::new();
    for (_, uid) in &all {
        let truth = pools.until(uid, "whole", LIMIT, |t| serving(t) == 5).await?;
        first.push((truth.now, truth.alive().map(|vm| vm.id).collect::<Vec<_>>()));
    }
    for (name, _) in &all {
        pools.until_pool(name, "healthy", LIMIT, |p| p["status"]["healthy"] == 5).await?;
    }
    // It dies in whatever it is doing, about every 7 s, until all are renewed.
    let renewed = |truth: &Truth, first: &[u64]| serving(truth) == 5 && truth.alive().all(|vm| !first.contains(&vm.id));
    let mut deaths = 0;
    while !all.iter().zip(&first).all(|((_, uid), (_, first))| renewed(&pools.truth_of(uid), first)) {
        ensure!(deaths < 60, "not renewed after {deaths} deaths");
        sleep(Duration::from_millis(5500 + 700 * (deaths % 5))).await;
        pools.crash().await?;
        deaths += 1;
    }
    for ((name, uid), (since, first)) in all.iter().zip(&first) {
        let truth = pools.truth_of(uid);
        let (_, lowest) = truth.lowest(*since);
        ensure!(lowest >= 3, "{name}: {lowest} served");
        ensure!(truth.highest() <= 5, "{name}: {} VMs at once", truth.highest());
        ensure!(waves(&truth, first).iter().all(|wave| *wave <= 2), "{name}: waves {:?}", waves(&truth, first));
        no_twins(&truth)?;
        println!("{name}: {deaths} deaths, lowest {lowest}, highest {}, {} VMs in all", truth.highest(), truth.vms.len());
        delete(pools, name, uid).await?;
    }
    Ok(())
}

async fn lost_replies_make_no_second_vm(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    for (provider, dialect) in CLOUDS {
        for effect in [Effect::LoseReply, Effect::LoseRequest] {
            pools.cloud.add_fault(Fault::always(effect).of(dialect).on(Call::Create).after(1).times(2));
        }
        let name = format!("lost-{provider}");
        let uid = pools.apply(&name, provider, json!({"minScaling": 3})).await?;
        pools.until(&uid, "whole", LIMIT, |t| serving(t) == 3).await?;
        pools.until_pool(&name, "healthy", LIMIT, |p| p["status"]["healthy"] == 3).await?;
        let truth = pools.truth_of(&uid);
        no_twins(&truth)?;
        ensure!(truth.highest() == 3, "{name}: {} VMs at once", truth.highest());
        delete(pools, &name, &uid).await?;
    }
    Ok(())
}

fn condition<'a>(pool: &'a Value, type_: &str) -> &'a Value {
    let all = pool["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["type"] == type_).unwrap_or(&Value::Null)
}

async fn what_the_cloud_refuses_is_said_and_tried_again(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let refuse =
        |refusal: Refusal| Fault { account: Some(OTHER[0].into()), ..Fault::always(Effect::Refuse(refusal)).on(Call::Create).times(1) };
    for (n, (refusal, said)) in
        [(Refusal::Quota, "QuotaExceeded"), (Refusal::NoCapacity, "CapacityUnavailable"), (Refusal::Throttled(3), "RateLimited")]
            .into_iter()
            .enumerate()
    {
        let name = format!("refused-{n}");
        pools.cloud.add_fault(refuse(refusal));
        let uid = pools.apply(&name, "hetzner", json!({"minScaling": 1, "credentialsSecretRef": {"name": "other-token"}})).await?;
        let pool = pools.until_pool(&name, said, LIMIT, |p| condition(p, said)["status"] == "True").await?;
        ensure!(!condition(&pool, said)["message"].as_str().unwrap_or_default().is_empty(), "{pool:#}");
        delete(pools, &name, &uid).await?;
    }
    Ok(())
}

async fn what_is_published_works_and_follows(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let uid = pools.apply("published", "vultr", json!({"minScaling": 2})).await?;
    pools.until_pool("published", "healthy", LIMIT, |p| p["status"]["healthy"] == 2).await?;
    let slices = || async {
        let text = pools
            .bed
            .kubectl(&["-n", NAMESPACE, "get", "endpointslices", "-l", "kubernetes.io/service-name=published", "-o", "json"])
            .await?;
        let slices: Value = serde_json::from_str(&text)?;
        let endpoints =
            slices["items"].as_array().context("no list")?.iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
        let mut addresses: Vec<String> = endpoints.map(|e| e["addresses"][0].as_str().unwrap_or_default().to_owned()).collect();
        addresses.sort();
        anyhow::Ok(addresses)
    };
    let expected = |truth: &Truth| {
        let mut addresses: Vec<String> = truth.alive().map(|vm| vm.address.to_string()).collect();
        addresses.sort();
        addresses
    };
    let before = slices().await?;
    ensure!(before == expected(&pools.truth_of(&uid)), "{before:?}");
    let encoded = pools
        .bed
        .kubectl(&["-n", NAMESPACE, "get", "secret", "published-proxies", "-o", "go-template={{.data.proxies | base64decode}}"])
        .await?;
    ensure!(
        encoded.lines().count() == 2 && encoded.contains(&format!("http://{}:{}@{}:8899", LOGIN[0], LOGIN[1], before[0])),
        "the URLs are not usable"
    );
    // One that is evicted is named no more before it goes, and its replacement is.
    let victim = pools.truth_of(&uid).alive().next().context("none")?.clone();
    let annotation = format!("aether.dev/evict={}", victim.address);
    pools.bed.kubectl(&["-n", NAMESPACE, "annotate", "proxypool", "published", &annotation]).await?;
    let truth = pools.until(&uid, "evicted", LIMIT, |t| t.vms.iter().any(|vm| vm.id == victim.id && vm.doomed.is_some())).await?;
    let named = slices().await?;
    ensure!(!named.contains(&victim.address.to_string()), "{named:?} names {} that goes: {:?}", victim.address, truth.now);
    pools.until(&uid, "whole again", LIMIT, |t| serving(t) == 2).await?;
    for _ in 0..150 {
        if slices().await? == expected(&pools.truth_of(&uid)) {
            return delete(pools, "published", &uid).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("{:?} are named, and {:?} serve", slices().await?, expected(&pools.truth_of(&uid)))
}

async fn a_pool_is_scaled_evicted_from_and_deleted(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let uid = pools.apply("scaled", "digitalocean", json!({"minScaling": 1})).await?;
    pools.until_pool("scaled", "healthy", LIMIT, |p| p["status"]["healthy"] == 1).await?;
    pools.bed.kubectl(&["-n", NAMESPACE, "scale", "proxypool/scaled", "--replicas=3"]).await?;
    pools.until_pool("scaled", "three", LIMIT, |p| p["status"]["healthy"] == 3).await?;
    pools.bed.kubectl(&["-n", NAMESPACE, "wait", "proxypool/scaled", "--for=condition=Ready", "--timeout=30s"]).await?;
    let table = pools.bed.kubectl(&["-n", NAMESPACE, "get", "pp", "scaled"]).await?;
    ensure!(table.contains("PROVIDER") && table.contains("3/3") && table.contains("digitalocean"), "{table}");
    pools.bed.kubectl(&["-n", NAMESPACE, "scale", "proxypool/scaled", "--replicas=1"]).await?;
    pools.until(&uid, "one", LIMIT, |t| t.alive().count() == 1).await?;
    delete(pools, "scaled", &uid).await
}

async fn an_edit_of_the_port_is_rolled_out(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let uid = pools.apply("port", "digitalocean", json!({"rolling": rolling()})).await?;
    pools.until_pool("port", "healthy", LIMIT, |p| p["status"]["healthy"] == 5).await?;
    let before = pools.truth_of(&uid);
    let first: Vec<u64> = before.alive().map(|vm| vm.id).collect();
    let patch = json!({"spec": {"proxy": {"port": 8900}}}).to_string();
    pools.bed.kubectl(&["-n", NAMESPACE, "patch", "proxypool", "port", "--type=merge", "-p", &patch]).await?;
    let renewed = |t: &Truth| serving(t) == 5 && t.alive().all(|vm| !first.contains(&vm.id));
    let truth = pools.until(&uid, "renewed", LIMIT, renewed).await?;
    let (_, lowest) = truth.lowest(before.now);
    ensure!(lowest >= 3, "{lowest} served");
    ensure!(waves(&truth, &first).iter().all(|wave| *wave <= 2), "waves {:?}", waves(&truth, &first));
    pools.until_pool("port", "healthy", LIMIT, |p| p["status"]["healthy"] == 5 && p["status"]["recycling"] == 0).await?;
    let decoded = "go-template={{.data.proxies | base64decode}}";
    for _ in 0..150 {
        let urls = pools.bed.kubectl(&["-n", NAMESPACE, "get", "secret", "port-proxies", "-o", decoded]).await?;
        if urls.lines().count() == 5 && urls.lines().all(|url| url.ends_with(":8900")) {
            return delete(pools, "port", &uid).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("the published URLs are not at the new port")
}

async fn the_secret_of_another_account_makes_no_second_pool(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let secret = async |token: &str| {
        let metadata = json!({"name": "swapped-token", "namespace": NAMESPACE});
        pools.bed.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}})).await
    };
    secret(TOKEN).await?;
    let change = json!({"minScaling": 3, "credentialsSecretRef": {"name": "swapped-token"}});
    let uid = pools.apply("swapped", "hetzner", change).await?;
    pools.until_pool("swapped", "healthy", LIMIT, |p| p["status"]["healthy"] == 3).await?;
    let ids = || pools.truth_of(&uid).alive().map(|vm| vm.id).collect::<Vec<_>>();
    let before = ids();
    secret(OTHER[1]).await?;
    let braked = pools.until_pool("swapped", "braked", LIMIT, |p| condition(p, "RunawayBrake")["status"] == "True").await?;
    let brake = condition(&braked, "RunawayBrake");
    ensure!(brake["reason"] == "NoneListed" && brake["message"].as_str().is_some_and(|m| m.contains("aether.dev/gone=")), "{brake:#}");
    sleep(Duration::from_secs(10)).await;
    ensure!(ids() == before, "VMs were {before:?} and are {:?}", ids());
    secret(TOKEN).await?;
    let good = |p: &Value| p["status"]["healthy"] == 3 && condition(p, "RunawayBrake")["status"] != "True";
    pools.until_pool("swapped", "as it was", LIMIT, good).await?;
    ensure!(ids() == before, "VMs were {before:?} and are {:?}", ids());
    delete(pools, "swapped", &uid).await
}

async fn what_makes_no_sense_is_refused_with_the_way_out(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    for (change, words) in [
        (json!({"hetzner": {"location": "nbg1"}}), "exactly one provider"),
        (json!({"rolling": {"batchSize": 0}}), "must be 1 or more"),
        (json!({"maxScaling": 4}), "must not be below minScaling"),
        (json!({"ageLimit": "30s"}), "twice health.startupTimeout"),
        (json!({"proxy": {"authSecretRef": null}}), "open to everybody"),
        (json!({"proxy": {"allowFrom": ["nonsense"]}}), "CIDR"),
    ] {
        let answer = pools.apply("refused", "digitalocean", change.clone()).await;
        let said = answer.err().map(|e| format!("{e:#}")).unwrap_or_default();
        ensure!(said.contains(words), "{change}: {said}");
    }
    let uid = pools.apply("lowered", "digitalocean", json!({"minScaling": 1, "rolling": {"minAvailable": 4}})).await?;
    let pool = pools.until_pool("lowered", "said", LIMIT, |p| condition(p, "ConfigAdjusted")["status"] == "True").await?;
    ensure!(condition(&pool, "ConfigAdjusted")["message"].as_str().is_some_and(|m| m.contains('4') && m.contains('0')), "{pool:#}");
    delete(pools, "lowered", &uid).await
}

/// Logs, Events, metrics and statuses, of everything that happened here.
async fn no_secret_is_shown(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let events = pools.bed.kubectl(&["-n", NAMESPACE, "get", "events,proxypools", "-o", "yaml"]).await?;
    let metrics = testbed::operator::metrics(8081).await?;
    ensure!(metrics.contains("aether_cloud_calls_total"), "no metrics of pools:\n{metrics}");
    for (where_, text) in [("the log", pools.log().await?), ("Events and pools", events), ("/metrics", metrics)] {
        for secret in [TOKEN, OTHER[1], SECRET_KEY, LOGIN[1]] {
            ensure!(!text.contains(secret), "{where_} shows a credential");
        }
    }
    Ok(())
}

//! The demo of pools: the guide's example, live: five proxies that come of age together, three of which must always serve.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use crate::fake_cloud::{Truth, Vm};
use crate::namespace::Entered;
use crate::pool_bed::PoolBed;

/// The guide's numbers.
const WANTED: usize = 5;
const FLOOR: usize = 3;
const BATCH: i32 = 2;
/// The guide's hour, shortened: the last wave must begin before the first one's replacements come of age.
const AGE_LIMIT: &str = "45s";
const LIMIT: Duration = Duration::from_mins(2);

/// Runs the demo inside the namespace. Ok(false): it ran, and something was not as promised.
pub async fn run(namespace: &Entered, proxy: PathBuf) -> anyhow::Result<bool> {
    let begun = std::time::Instant::now();
    let step = |what: &str| say!("{:>6.1}s  {what}", begun.elapsed().as_secs_f64());
    step("booting a control plane, a cloud that speaks DigitalOcean's API, and the operator");
    let pools = PoolBed::boot(namespace, proxy, Duration::from_secs(15)).await?;
    step(&format!("a pool of {WANTED} droplets, {FLOOR} of which must always serve, recycled {BATCH} at a time at the age of {AGE_LIMIT}"));
    let rolling = json!({"minAvailable": FLOOR, "batchSize": BATCH});
    let uid = pools.apply("default", "digitalocean", json!({"ageLimit": AGE_LIMIT, "rolling": rolling})).await?;
    let whole = |truth: &Truth| truth.alive().filter(|vm| vm.is_serving(truth.now)).count() == WANTED;
    let truth = pools.until(&uid, "five proxies", LIMIT, whole).await?;
    let since = truth.now;
    let first: Vec<u64> = truth.alive().map(|vm| vm.id).collect();
    pools.until_pool("default", "healthy", LIMIT, |pool| pool.pointer("/status/healthy") == Some(&json!(WANTED))).await?;
    step("five serve; now they come of age");
    say!("{}", pools.bed.kubectl(&["-n", crate::pool_bed::NAMESPACE, "get", "proxypools"]).await?.trim_end());

    let mut told = Vec::new();
    let renewed = |truth: &Truth| whole(truth) && truth.alive().all(|vm| !first.contains(&vm.id));
    let truth = loop {
        let truth = pools.cloud.truth();
        for vm in truth.vms.iter().filter(|vm| vm.doomed.is_some() && first.contains(&vm.id)) {
            if !told.contains(&vm.id) {
                told.push(vm.id);
                step(&format!("{} goes, {} serve", vm.address, serving(&truth)));
            }
        }
        if renewed(&truth) {
            break truth;
        }
        if begun.elapsed() > LIMIT {
            let (pool, log) = (pools.get("default").await?, pools.log().await?);
            bail!("not all five were renewed after {LIMIT:?}: {pool:#}\n{log}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    step("all five are renewed");
    let waves = waves(&truth, &first);
    let (_, lowest) = truth.lowest(since);
    say!("{}", pools.bed.kubectl(&["-n", crate::pool_bed::NAMESPACE, "get", "proxypools"]).await?.trim_end());
    step("kubectl delete proxypool default");
    pools.bed.kubectl(&["-n", crate::pool_bed::NAMESPACE, "delete", "proxypool", "default", "--timeout=60s"]).await?;
    let leaked = pools.cloud.truth().alive().count();
    let printed = waves.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let ok = printed == "2,2,1" && lowest >= FLOOR && leaked == 0;
    say!("demo {}: waves {printed}, lowest available {lowest}, {leaked} leaked", if ok { "ok" } else { "NOT OK" });
    Ok(ok)
}

fn serving(truth: &Truth) -> usize {
    truth.alive().filter(|vm| vm.is_serving(truth.now)).count()
}

/// How many of the first proxies went together: a wave begins when something of the one before has been replaced.
pub fn waves(truth: &Truth, first: &[u64]) -> Vec<usize> {
    let mut gone: Vec<&Vm> = truth.vms.iter().filter(|vm| first.contains(&vm.id)).collect();
    gone.sort_by_key(|vm| vm.doomed);
    let mut waves: Vec<usize> = Vec::new();
    let mut last = None;
    for vm in gone {
        let replaced = |since, at| truth.vms.iter().any(|new| !first.contains(&new.id) && Some(new.boots) > since && Some(new.boots) <= at);
        match waves.last_mut() {
            Some(wave) if !replaced(last, vm.doomed) => *wave += 1,
            _ => waves.push(1),
        }
        last = vm.doomed;
    }
    waves
}

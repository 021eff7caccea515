//! What it costs a cloud to have all of 100 VMs renewed.

use std::time::Duration;

use anyhow::ensure;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use testbed::fake_cloud::{Call, Knobs, Truth};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::cases::Provider;
use crate::life::{Ground, NAMESPACE, serving, until};
use crate::operator::{Log, Operator};
use crate::wire::{self, Gate};

const VMS: usize = 100;
const BATCH: usize = 25;
const LIMIT: Duration = Duration::from_mins(15);

/// Renews a pool of 100 and says with how many calls. A changed template renews them, which aged ones do in the same way;
/// other than those, these do not come of age again meanwhile.
pub async fn rotate(ground: &Ground, provider: &'static Provider, log: &Log) -> anyhow::Result<String> {
    let name = format!("hundred-{}", provider.name);
    let rolling = json!({"minAvailable": VMS - BATCH, "batchSize": BATCH});
    let health = json!({"interval": "30s", "timeout": "5s", "startupTimeout": "2m"});
    let knobs = Knobs { boots_after: Duration::from_millis(500), ..Knobs::default() };
    let change = json!({"minScaling": VMS, "ageLimit": "1h", "rolling": rolling, "health": health});
    let world = ground.make(&name, provider, knobs, change).await?;
    let settings = Ground::settings(&name, provider, &world, log);
    let client = wire::client(&ground.client, &Handle::current(), NAMESPACE, &name, &Gate::new(None));
    let operator = Operator::start(client, "first", &settings)?;
    let before = until(&world, "whole", LIMIT, |t| serving(t) == VMS).await?;
    let first: Vec<u64> = before.alive().map(|vm| vm.id).collect();
    let change = json!({"spec": {"proxy": {"connectPorts": [443]}}});
    ground.pools().patch(&name, &PatchParams::default(), &Patch::Merge(&change)).await?;
    let begun = Instant::now();
    let renewed = |truth: &Truth| serving(truth) == VMS && truth.alive().all(|vm| !first.contains(&vm.id));
    let after = until(&world, "renewed", LIMIT, renewed).await?;
    let took = begun.elapsed();
    let calls = |call| {
        let of = |truth: &Truth| truth.called(call);
        of(&after) - of(&before)
    };
    let [creates, deletes, lists, operations] = [Call::Create, Call::Delete, Call::List, Call::Operation].map(calls);
    let total: u64 = after.calls.values().sum::<u64>() - before.calls.values().sum::<u64>();
    let row = format!(
        "| {} | {creates} | {deletes} | {lists} | {operations} | {total} | {} s | {} |",
        provider.name,
        took.as_secs(),
        after.lowest(before.now).1
    );
    ground.delete(&name, LIMIT).await?;
    operator.die().await;
    ensure!(world.truth().alive().count() == 0, "VMs leaked: {row}");
    ensure!(after.lowest(before.now).1 >= VMS - BATCH, "below the floor: {row}");
    ensure!((creates, deletes) == (100, 100), "each is made and deleted once: {row}");
    #[allow(clippy::cast_precision_loss)]
    let per_second = (lists - creates * provider.lists_per_create) as f64 / provider.pages / (took.as_secs_f64() + 2.0);
    ensure!(per_second <= 1.0, "one list per look, and a second between two looks at least: {row}");
    Ok(row)
}

/// The table's head.
pub const HEAD: &str = "\
API calls of one full rotation of 100 VMs:
| provider | creates | deletes | list pages | operations | all calls | took | lowest serving |
|---|---|---|---|---|---|---|---|";

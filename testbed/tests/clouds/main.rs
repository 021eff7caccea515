//! The fake cloud against clients that are not ours: what boto3, hcloud, pydo, google-cloud-compute and govultr take for
//! a cloud is one. Each has a fake cloud of its own and says itself, in `strangers/`, what it expects. Then our own
//! clients against it.

#![allow(clippy::unwrap_used)]

mod ours;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use testbed::fake_cloud::{Call, Dialect, FakeCloud, Settings, Truth};
use testbed::strangers::Strangers;
use testbed::trials;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// A client that waits for something for so long waits for ever.
const PATIENCE: Duration = Duration::from_mins(5);

type Client = fn(&Strangers, &str) -> Command;

const CLIENTS: [(&str, Dialect, Client); 5] = [
    ("boto3_takes_it_for_ec2", Dialect::Ec2, |strangers, url| strangers.script("aws_boto3", url)),
    ("hcloud_takes_it_for_hetzner", Dialect::Hetzner, |strangers, url| strangers.script("hetzner_hcloud", url)),
    ("pydo_takes_it_for_digitalocean", Dialect::DigitalOcean, |strangers, url| strangers.script("digitalocean_pydo", url)),
    ("google_takes_it_for_compute_engine", Dialect::Gce, |strangers, url| strangers.script("gce_google", url)),
    ("govultr_takes_it_for_vultr", Dialect::Vultr, Strangers::vultr),
];

fn main() -> ExitCode {
    trials::run(&Arguments::from_args(), ground, |ground| {
        let mut trials = Vec::from(CLIENTS.map(|(name, dialect, client)| {
            trial(name.to_owned(), ground, async move |strangers: &Strangers| takes_it_for(dialect, |url| client(strangers, url)).await)
        }));
        trials.extend(Dialect::ALL.map(|dialect| {
            let name = format!("our_client_for_{}_and_it", dialect.to_string().replace(' ', "_").to_lowercase());
            trial(name, ground, async move |_: &Strangers| ours::lives_in_the_fake(dialect).await)
        }));
        trials.push(trial("our_client_for_ec2_and_moto".to_owned(), ground, ours::lives_in_moto));
        trials
    })
}

type Ground = Arc<(Runtime, Strangers)>;

fn trial(name: String, ground: Option<&Ground>, test: impl AsyncFnOnce(&Strangers) -> anyhow::Result<()> + Send + 'static) -> Trial {
    let ground = ground.cloned();
    Trial::test(name, move || {
        let ground = ground.ok_or("nothing to run on")?;
        let (runtime, strangers) = &*ground;
        runtime.block_on(test(strangers)).map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn ground() -> anyhow::Result<(Runtime, Strangers)> {
    Ok((Runtime::new()?, Strangers::ensure()?))
}

async fn takes_it_for(dialect: Dialect, client: impl FnOnce(&str) -> Command) -> anyhow::Result<()> {
    let cloud = FakeCloud::start(Settings::default()).await?;
    let mut client = tokio::process::Command::from(client(&cloud.url()));
    client.stdin(Stdio::null()).kill_on_drop(true);
    let done = timeout(PATIENCE, client.output()).await.context("it waits for ever")?.context("cannot start it")?;
    if !done.status.success() {
        let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        bail!("{}\nwith these VMs: {:#?}", said.trim(), cloud.truth().vms);
    }
    check(dialect, &cloud.truth())
}

/// A client that asked for nothing would have been content as well.
fn check(dialect: Dialect, truth: &Truth) -> anyhow::Result<()> {
    ensure!(truth.vms.len() >= 8, "only {} VMs were made", truth.vms.len());
    ensure!(truth.vms.iter().all(|vm| vm.dialect == dialect), "in another dialect");
    for call in [Call::Create, Call::List, Call::Delete] {
        ensure!(truth.called(call) > 0, "{call:?} was never called");
    }
    Ok(())
}

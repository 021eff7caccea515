//! The operator's own clients: each with the fake cloud in its dialect, and the one for EC2 with moto as well.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aether_operator::cloud::http::{Credential, client};
use aether_operator::cloud::{Class, Cloud, Marks, Order, Phase, Vm, aws, digitalocean, gcp, hetzner, vultr};
use anyhow::{Context, ensure};
use testbed::fake_cloud::{Call, Dialect, FakeCloud, Knobs, Settings};
use testbed::strangers::Strangers;
use tokio::time::{Instant, sleep};

const UID: &str = "6f0c3a52-7a54-4d33-9a3e-2f8b1c0d9e11";
/// More than one page of what any of the clouds gives out here.
const VMS: u32 = 12;
/// For a cloud to say what is true.
const PATIENCE: Duration = Duration::from_mins(1);

/// Our client for a dialect, at that fake cloud.
async fn at(dialect: Dialect, cloud: &FakeCloud) -> anyhow::Result<Arc<dyn Cloud>> {
    let (http, base) = (client()?, cloud.operators_url(dialect));
    let token = "test".to_owned();
    Ok(match dialect {
        Dialect::DigitalOcean => {
            let place = digitalocean::Place { region: "lon1".into(), size: "s-1vcpu-1gb".into(), image: "ubuntu-24-04-x64".into() };
            Arc::new(digitalocean::DigitalOcean::new(http, Some(&base), token.into(), place)?)
        }
        Dialect::Hetzner => {
            let place = hetzner::Place { location: "nbg1".into(), server_type: "cx23".into(), image: "ubuntu-24.04".into() };
            Arc::new(hetzner::Hetzner::new(http, Some(&base), token.into(), place)?)
        }
        Dialect::Vultr => {
            let place = vultr::Place { region: "ewr".into(), plan: "vc2-1c-1gb".into(), os_id: 2284 };
            Arc::new(vultr::Vultr::new(http, Some(&base), token.into(), place)?)
        }
        Dialect::Gce => {
            let place = gcp::Place {
                project: "test".into(),
                zone: "europe-west3-a".into(),
                machine_type: "e2-micro".into(),
                image_project: "ubuntu-os-cloud".into(),
                image_family: "ubuntu-2404-lts-amd64".into(),
                spot: true,
            };
            Arc::new(gcp::Gcp::new(http, Some(&base), Credential::Token(token.into()), place)?)
        }
        Dialect::Ec2 => Arc::new(ec2(&base, "test", "ami-0123456789abcdef0").await?),
    })
}

async fn ec2(base: &str, id: &str, ami: &str) -> anyhow::Result<aws::Aws> {
    let keys = aws::Keys { id: id.into(), secret: "not-verified".into(), session: None };
    let place = aws::Place {
        region: "eu-central-1".into(),
        ami: ami.into(),
        instance_type: "t3.micro".into(),
        subnet: None,
        security_groups: Vec::new(),
        market: aws::Market::Spot,
    };
    Ok(aws::Aws::new(client()?, Some(base), Some(keys), place).await?)
}

fn order(slot: u32) -> Order {
    let born = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).unwrap_or_default();
    let nonce = format!("n0nce{slot}");
    let marks = Marks { pool: UID.into(), slot, epoch: slot + 1, nonce, template: "ab12".into(), born };
    Order { name: format!("aether-test-{slot}"), marks, user_data: "#!/bin/sh\necho 'BasicAuth me s3cret'\n".into() }
}

/// The pool's VMs, once they are as wanted.
async fn listed(cloud: &dyn Cloud, what: &str, wanted: impl Fn(&[Vm]) -> bool) -> anyhow::Result<Vec<Vm>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let vms = cloud.list(UID).await?;
        if wanted(&vms) {
            return Ok(vms);
        }
        ensure!(Instant::now() < deadline, "{what}: {vms:#?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A life of a few VMs, as a pool lives it. `repeats`: the cloud knows a repeated order.
async fn life(cloud: &dyn Cloud, repeats: bool) -> anyhow::Result<()> {
    ensure!(cloud.list(UID).await?.is_empty() && cloud.find(&order(0).marks).await?.is_none(), "there is something already");
    for slot in 0..VMS {
        let made = cloud.create(&order(slot)).await?;
        let found = cloud.find(&order(slot).marks).await?.context("what was made is not found by its nonce")?;
        ensure!(found.id == made.id && found.marks == order(slot).marks, "{found:?} is not {made:?}");
        if repeats {
            let again = cloud.create(&order(slot)).await?;
            ensure!(again.id == made.id, "the same order made {} and {}", made.id, again.id);
        }
    }
    let all = listed(cloud, "they do not run", |vms| vms.iter().filter(|vm| vm.phase == Phase::Running).count() == VMS as usize).await?;
    let mut marks: Vec<_> = all.iter().map(|vm| vm.marks.clone()).collect();
    marks.sort_by_key(|marks| marks.slot);
    ensure!(marks == (0..VMS).map(|slot| order(slot).marks).collect::<Vec<_>>(), "marks are {marks:#?}");
    ensure!(all.iter().all(|vm| vm.address.is_some()), "one has no address: {all:#?}");
    ensure!(cloud.list("another-pool").await?.is_empty(), "another pool's list shows them");
    for vm in &all {
        cloud.delete(&vm.id).await?;
        // Gone or going: once more is no error.
        cloud.delete(&vm.id).await?;
    }
    listed(cloud, "they do not go", <[Vm]>::is_empty).await?;
    ensure!(cloud.find(&order(0).marks).await?.is_none(), "one that was deleted is found");
    Ok(())
}

/// That cloud and our client for it understand each other.
pub async fn lives_in_the_fake(dialect: Dialect) -> anyhow::Result<()> {
    let knobs = Knobs { boots_after: Duration::from_millis(300), page_size: Some(5), limits: Some(Vec::new()), ..Knobs::default() };
    let fake = FakeCloud::start(Settings { knobs, ..Settings::default() }).await?;
    let cloud = at(dialect, &fake).await?;
    let repeats = cloud.capabilities().idempotent_create || cloud.capabilities().unique_names;
    life(cloud.as_ref(), repeats).await?;
    let truth = fake.truth();
    ensure!(truth.vms.len() == VMS as usize, "{} VMs were made", truth.vms.len());
    ensure!(truth.called(Call::Delete) >= u64::from(VMS), "nothing was deleted by our calls");
    Ok(())
}

/// moto is a stranger's idea of EC2. It does not know `ClientToken`.
pub async fn lives_in_moto(strangers: &Strangers) -> anyhow::Result<()> {
    let (mut server, base) = strangers.moto()?;
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = tokio::process::Command::from(server).kill_on_drop(true).spawn()?;
    // Amazon's own images are there from the start.
    let cloud = ec2(&base, "AKIAIOSFODNN7EXAMPLE", "ami-03cf127a").await?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = cloud.list(UID).await {
        ensure!(error.class == Class::Transient && Instant::now() < deadline, "moto does not answer: {error}");
        ensure!(server.try_wait()?.is_none(), "moto has ended");
        sleep(Duration::from_millis(200)).await;
    }
    let done = life(&cloud, false).await;
    server.kill().await?;
    done?;
    Ok(())
}

//! The fault matrix of pools: whatever goes wrong at whichever call or write, nothing leaks, nothing is there twice, and the
//! floor holds, by the cloud's own count. Operators die in here at exactly the point that a case names; the API server and
//! the operator's clients for the clouds are real.
//!
//! By default every cloud runs a sixth of the cells that are about its own calls and the statuses, another sixth each;
//! `AETHER_LONG=1` runs the whole matrix in every cloud, and counts the calls of a rotation of 100 VMs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod cases;
mod life;
mod machines;
mod operator;
mod rotation;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use testbed::bed::{Bed, BedOptions};
use testbed::binaries::Binaries;
use testbed::pool_bed::LOGIN;
use testbed::{namespace, operator as installed};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use cases::{Case, PROVIDERS, Provider};
use life::{Ground, NAMESPACE, Report};
use operator::Log;
use world::Pods;

/// They wait for clocks nearly all of the time, but each has an operator of its own.
const AT_ONCE: usize = 150;
/// Of those whose proxies are real pods: these do not only wait.
const WITH_PODS_AT_ONCE: usize = 30;
/// A cloud's part of the default run is one of so many.
const SHARE: usize = 6;

/// What is printed at the end.
#[derive(Clone, Default)]
struct Told {
    /// By case, its provider's name and what came of it.
    cases: Arc<Mutex<BTreeMap<String, (&'static str, Report)>>>,
    rotations: Arc<Mutex<Vec<String>>>,
}

fn is_long() -> bool {
    std::env::var("AETHER_LONG").is_ok_and(|long| long == "1")
}

fn chosen() -> Vec<Case> {
    let is_long = is_long();
    let of = |(turn, provider)| {
        let all = cases::all(provider).into_iter().filter(|case| is_long || !case.is_long).enumerate();
        all.filter(move |(n, _)| is_long || n % SHARE == turn % SHARE).map(|(_, case)| case)
    };
    PROVIDERS.iter().enumerate().flat_map(of).collect()
}

fn trials(ground: Option<&(Arc<Runtime>, Arc<Ground>)>, told: &Told) -> Vec<Trial> {
    let trial = |case: Case| {
        let (ground, told) = (ground.cloned(), told.clone());
        Trial::test(case.name.clone(), move || {
            let (runtime, ground) = ground.ok_or("no bed")?;
            let (log, mut report) = (Log::default(), Report::default());
            let lived = runtime.block_on(async {
                let _place = if case.provider.dialect.is_none() { Some(ground.places_for_pods.acquire().await?) } else { None };
                life::live(&ground, &case, &log, &mut report).await
            });
            let verdict = match &lived {
                Err(error) => Err(format!("{error:#}")),
                Ok(()) if report.leaked + report.twins + report.below + report.above > 0 => Err("a rule is broken".to_owned()),
                Ok(()) if !report.struck && !case.is_beyond => Err("nothing went wrong".to_owned()),
                Ok(()) => Ok(()),
            };
            let shown = format!("{report:?}");
            if let Err(why) = &verdict {
                eprintln!("{}: {why}: {shown}", case.name);
            }
            told.cases.lock().unwrap().insert(case.name.clone(), (case.provider.name, report));
            verdict.map_err(|why| Failed::from(format!("{}: {why}: {shown}\n{}", case.name, log.tail(150))))
        })
    };
    let rotation = |provider: &'static Provider| {
        let (ground, told) = (ground.cloned(), told.clone());
        Trial::test(format!("{}::rotation_of_100", provider.name), move || {
            let (runtime, ground) = ground.ok_or("no bed")?;
            let log = Log::default();
            let row = runtime.block_on(rotation::rotate(&ground, provider, &log));
            told.rotations.lock().unwrap().push(row.map_err(|error| format!("{error:#}\n{}", log.tail(150)))?);
            Ok(())
        })
    };
    let rotations = PROVIDERS.iter().filter(|provider| is_long() && provider.dialect.is_some()).map(rotation);
    rotations.chain(chosen().into_iter().map(trial)).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let told = Told::default();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None, &told)).exit_code();
    }
    arguments.test_threads.get_or_insert(AT_ONCE);
    let run = || -> anyhow::Result<ExitCode> {
        Binaries::ensure()?;
        let namespace = namespace::enter("pool-faults")?;
        let runtime = Arc::new(Runtime::new()?);
        let (_bed, ground) = runtime.block_on(async {
            let bed = Bed::boot(&namespace, BedOptions::default()).await?;
            installed::install(&bed).await?;
            bed.create_namespace(NAMESPACE).await?;
            let login = json!({"username": LOGIN[0], "password": LOGIN[1]});
            bed.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "proxy-auth", "namespace": NAMESPACE}, "stringData": login}))
                .await?;
            let ground = Ground { client: bed.client(), machines: machines::start().await?, pods: Pods::watch(&bed.client(), NAMESPACE), next: AtomicU32::new(1), places_for_pods: Semaphore::new(WITH_PODS_AT_ONCE) };
            anyhow::Ok((bed, Arc::new(ground)))
        })?;
        let begun = std::time::Instant::now();
        let conclusion = libtest_mimic::run(&arguments, trials(Some(&(runtime.clone(), ground)), &told));
        summary(&told, begun.elapsed());
        Ok(conclusion.exit_code())
    };
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn summary(told: &Told, took: Duration) {
    let rotations = told.rotations.lock().unwrap();
    if !rotations.is_empty() {
        println!("{}\n{}", rotation::HEAD, rotations.join("\n"));
    }
    let told = told.cases.lock().unwrap();
    let of = |name: Option<&str>| {
        let reports: Vec<&Report> = told.values().filter(|(p, _)| name.is_none_or(|n| n == *p)).map(|(_, report)| report).collect();
        let sum = |part: fn(&Report) -> usize| reports.iter().filter(|r| part(r) > 0).count();
        println!(
            "{:>13}: {:>4} cases, {:>4} struck; {} leaks, {} duplicates, {} below the floor, {} above the most",
            name.unwrap_or("all"),
            reports.len(),
            reports.iter().filter(|r| r.struck).count(),
            sum(|r| r.leaked),
            sum(|r| r.twins),
            sum(|r| r.below),
            sum(|r| r.above),
        );
    };
    for provider in &PROVIDERS {
        of(Some(provider.name));
    }
    of(None);
    println!("the longest life took {} s, all {} s", told.values().map(|(_, r)| r.seconds).max().unwrap_or_default(), took.as_secs());
    if std::env::var("AETHER_SHOW").is_ok() {
        told.iter().for_each(|(name, (_, report))| println!("{name}: {report:?}"));
    }
}

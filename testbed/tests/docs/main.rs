//! Every fenced block of the docs is run or checked, on a real cluster, with the real programs.
//!
//! What is done with a block stands behind its three backticks:
//!
//! | info string | what the test does |
//! |---|---|
//! | `sh` | runs it, page by page and in the page's order, as one script with `set -e`; the page has a namespace of its own |
//! | `sh no-run` | checks it: `bash -n`; `aether`, `aether-operator`, `kubectl` and `helm` parse each of their commands, as they do before `--help`; `make` knows the target; another program must be in [`shell::STRANGERS`]. `<!-- Not run: ... -->` before it says why |
//! | `yaml` | the API server takes each document in a dry run, unknown fields refused. With a name, as in `yaml shop.yaml`, it is also there as a file for the commands that follow |
//! | `yaml RollingUpdate.spec`, `yaml ProxyPool.spec` | a part of a spec: the API server takes it in an example's place |
//! | `yaml values` | values of the chart: `helm template` with the chart's own schema |
//! | `json` | parses it |
//! | `env cloudproxy.env` | lines of `KEY=VALUE`, there as a file |
//! | `text` | nothing: what somebody or something says |
//!
//! Anything else fails. `<!-- sh`, some lines and `-->` is run as well and not shown: what a reader has already, or waits for.
//! Links and anchors are followed, those to other sites left out. Manifests in `gitops/` and `examples/` are taken by the API server too.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::format_push_string)]

mod links;
mod page;
mod script;
mod shell;
mod wrong;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use page::Page;
use testbed::bed::{Bed, BedOptions};
use testbed::binaries::Binaries;
use testbed::gateway::{Gateway, GatewayOptions};
use testbed::operator::{self, Operator};
use testbed::{namespace, peers, trials};
use tokio::runtime::Runtime;

/// Pages wait for updates most of the time.
const AT_ONCE: usize = 6;
const LEASE: Duration = Duration::from_secs(15);
/// Namespaces that other tools bring along.
const THEIRS: [&str; 3] = ["argocd", "flux-system", "monitoring"];

/// What pages stand on. Ends in this order.
struct Ground {
    runtime: Runtime,
    _operator: Operator,
    _gateway: Gateway,
    bed: Bed,
    /// Two pages cannot both have `aether proxy` where the docs say.
    ports: tokio::sync::Mutex<()>,
}

impl Ground {
    fn boot() -> anyhow::Result<Self> {
        Binaries::ensure()?;
        let definitions = peers::ensure()?;
        let namespace = namespace::enter("docs-test")?;
        let runtime = Runtime::new()?;
        let (bed, gateway, operator) = runtime.block_on(async {
            let bed = Bed::boot(&namespace, BedOptions::default()).await?;
            // Of another address than `aether proxy`, which has the same port.
            let gateway =
                Gateway::start(&bed, GatewayOptions { address: Ipv4Addr::new(127, 0, 0, 80), ..GatewayOptions::default() }).await?;
            bed.kubectl(&["apply", "--server-side", "-f", definitions.to_str().unwrap_or_default()]).await?;
            operator::install(&bed).await?;
            for name in THEIRS {
                bed.create_namespace(name).await?;
            }
            let operator = Operator::start(&bed, "operator", 8081, LEASE).await?;
            anyhow::Ok((bed, gateway, operator))
        })?;
        Ok(Self { runtime, _operator: operator, _gateway: gateway, bed, ports: tokio::sync::Mutex::default() })
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let pages = match page::all() {
        Ok(pages) => Arc::new(pages),
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let took: Arc<Mutex<Vec<(String, Duration)>>> = Arc::default();
    let times = took.clone();
    let shown = pages.clone();
    let code = trials::run(&arguments, Ground::boot, |ground| {
        let linked = pages.clone();
        let links = Trial::test("links", move || links::follow(&linked).map_err(|error| Failed::from(format!("{error:#}"))));
        let page = |n: usize| {
            let (pages, ground, took) = (pages.clone(), ground.cloned(), took.clone());
            Trial::test(pages[n].name.clone(), move || {
                let ground = ground.ok_or("no bed")?;
                let begun = Instant::now();
                let done = ground.runtime.block_on(rehearse(&ground, &pages[n]));
                took.lock()?.push((pages[n].name.clone(), begun.elapsed()));
                done.map_err(|error| Failed::from(format!("{error:#}")))
            })
        };
        let with_blocks = (0..pages.len()).filter(|n| pages[*n].blocks().next().is_some());
        let ground = ground.cloned();
        let wrong = Trial::test("what_is_wrong_is_told", move || {
            let ground = ground.ok_or("no bed")?;
            ground.runtime.block_on(wrong::is_told(&ground.bed)).map_err(|error| Failed::from(format!("{error:#}")))
        });
        with_blocks.map(page).chain([links, wrong]).collect()
    });
    if !arguments.list {
        println!("{}", table(&shown, &times.lock().unwrap()));
    }
    code
}

async fn rehearse(ground: &Ground, page: &Page) -> anyhow::Result<()> {
    let script = script::of(page)?;
    let _ports = if script.text.contains("aether proxy") { Some(ground.ports.lock().await) } else { None };
    script.run(&ground.bed).await
}

fn table(pages: &[Page], took: &[(String, Duration)]) -> String {
    let mut text = "| page | blocks | run | checked | free text | seconds |\n|---|---|---|---|---|---|\n".to_owned();
    let mut sums = [0; 4];
    for page in pages {
        let counts = page.counts();
        let time = took.iter().find(|(name, _)| *name == page.name).map_or(String::new(), |(_, time)| time.as_secs().to_string());
        text += &format!("| {} | {} | {} | {} | {} | {time} |\n", page.name, counts[0], counts[1], counts[2], counts[3]);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    text + &format!("| all | {} | {} | {} | {} | |", sums[0], sums[1], sums[2], sums[3])
}

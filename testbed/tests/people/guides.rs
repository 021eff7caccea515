//! Every command of both guides, run as written there. Only what stands in [`NAMES`] is replaced.

use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::pool_bed::PoolBed;
use tokio::sync::Mutex;

use crate::place::{Place, Said, run};

/// Names that the guides leave open.
const NAMES: [(&str, &str); 4] = [("<update-id>", "my-slice"), ("<id>", "my-slice"), ("abc123", "my-slice"), ("<ratio>", "1:3")];

/// `aether proxy` listens where the guides' addresses say, so there can be one at a time.
static PORTS: Mutex<()> = Mutex::const_new(());
/// What ran and what came of it: printed at the end.
static TABLE: LazyLock<Mutex<Vec<[String; 3]>>> = LazyLock::new(<_>::default);

/// What must be so before a block can run.
#[derive(Clone, Copy, PartialEq)]
enum Given {
    /// Version 1.0.0 serves, and a RollingUpdate has it in its care.
    Live,
    /// Version 1.0.0 of a service that no RollingUpdate knows.
    Unknown,
    /// Version 2.0.0 is deployed at 0 %.
    Deployed,
    /// Version 2.0.0 carries everything.
    AllNew,
}

/// One block of a guide.
struct Block {
    title: &'static str,
    given: Given,
    commands: &'static [&'static str],
}

/// The first guide's blocks and the commands in its sentences, in their order.
const UPDATES: [Block; 20] = [
    Block {
        title: "Quick Start",
        given: Given::Live,
        commands: &[
            "aether update start org.example:my-slice 2.0.0",
            "aether update routing <update-id> -r 1:3",
            "aether update routing <update-id> -r 1:1",
            "aether update routing <update-id> -r 1:0",
            "aether update complete <update-id>",
        ],
    },
    Block {
        title: "Health Thresholds",
        given: Given::Unknown,
        commands: &["aether update start org.example:my-slice 2.0.0 \\\n    --max-error-rate 0.01 \\\n    --max-latency-ms 500"],
    },
    Block {
        title: "Cleanup Policies",
        given: Given::Live,
        commands: &["aether update start org.example:my-slice 2.0.0 --cleanup GRACE_PERIOD"],
    },
    Block {
        title: "Adjust Routing",
        given: Given::Deployed,
        commands: &[
            "aether update routing <update-id> -r <ratio>",
            "aether update routing abc123 -r 1:3   # 25% new",
            "aether update routing abc123 -r 1:1   # 50% new",
            "aether update routing abc123 -r 1:0   # 100% new",
        ],
    },
    Block {
        title: "Monitor Update",
        given: Given::Deployed,
        commands: &["aether update status <update-id>", "aether update list", "aether update health <update-id>"],
    },
    Block { title: "Complete or Rollback", given: Given::AllNew, commands: &["aether update complete <update-id>"] },
    Block { title: "Complete or Rollback", given: Given::Deployed, commands: &["aether update rollback <update-id>"] },
    Block {
        title: "Start Rolling Update",
        given: Given::Live,
        commands: &[
            "curl -X POST http://localhost:8080/rolling-update/start \\\n  -H \"Content-Type: application/json\" \\\n  -d '{\n    \"artifactBase\": \"org.example:my-slice\",\n    \"version\": \"2.0.0\",\n    \"instances\": 3,\n    \"maxErrorRate\": 0.01,\n    \"maxLatencyMs\": 500,\n    \"requireManualApproval\": false,\n    \"cleanupPolicy\": \"GRACE_PERIOD\"\n  }'",
        ],
    },
    Block {
        title: "Adjust Routing (REST)",
        given: Given::Deployed,
        commands: &[
            "curl -X POST http://localhost:8080/rolling-update/<id>/routing \\\n  -H \"Content-Type: application/json\" \\\n  -d '{\"routing\": \"1:1\"}'",
        ],
    },
    Block { title: "Get Update Status", given: Given::Deployed, commands: &["curl http://localhost:8080/rolling-update/<id>"] },
    Block { title: "List Active Updates", given: Given::Deployed, commands: &["curl http://localhost:8080/rolling-updates"] },
    Block { title: "Get Health Metrics", given: Given::Deployed, commands: &["curl http://localhost:8080/rolling-update/<id>/health"] },
    Block {
        title: "Complete Update",
        given: Given::AllNew,
        commands: &["curl -X POST http://localhost:8080/rolling-update/<id>/complete"],
    },
    Block { title: "Rollback", given: Given::Deployed, commands: &["curl -X POST http://localhost:8080/rolling-update/<id>/rollback"] },
    Block {
        title: "Gradual Traffic Shifting",
        given: Given::Deployed,
        commands: &[
            "aether update routing <id> -r 1:9   # 10% - initial canary",
            "aether update routing <id> -r 1:3   # 25%",
            "aether update routing <id> -r 1:1   # 50%",
            "aether update routing <id> -r 3:1   # 75%",
            "aether update routing <id> -r 1:0   # 100%",
            "aether update complete <id>",
        ],
    },
    Block { title: "Health Monitoring", given: Given::Deployed, commands: &["aether update health <id>"] },
    Block { title: "Rollback Strategy", given: Given::AllNew, commands: &["aether update rollback <id>"] },
    Block {
        title: "Critical Services",
        given: Given::Unknown,
        commands: &[
            "aether update start org.example:payment-service 2.0.0 \\\n    --max-error-rate 0.001 \\\n    --max-latency-ms 200 \\\n    --manual-approval",
        ],
    },
    Block {
        title: "Troubleshooting",
        given: Given::Deployed,
        commands: &["aether logs org.example:my-slice:2.0.0", "aether update health <id>", "aether status"],
    },
    Block { title: "Rollback Failed", given: Given::Deployed, commands: &["aether undeploy org.example:my-slice:2.0.0"] },
];

/// The second guide's.
const POOLS: [&str; 4] = [
    "curl http://localhost:8000/rolling",
    "curl http://localhost:8000/rolling/digitalocean",
    "curl http://localhost:8000/rolling/digitalocean/default",
    "curl -X PATCH http://localhost:8000/rolling \\\n  -H \"Content-Type: application/json\" \\\n  -d '{\n    \"enabled\": true,\n    \"min_available\": 5,\n    \"batch_size\": 3\n  }'",
];

/// The documented answers' keys.
fn documented_health() -> Value {
    let version = |name: &str, count: u32, rate: f64, latency: u32| json!({"version": name, "requestCount": count, "errorRate": rate, "avgLatencyMs": latency});
    json!({
        "updateId": "abc123", "oldVersion": version("1.0.0", 1000, 0.001, 45), "newVersion": version("2.0.0", 250, 0.002, 50),
        "collectedAt": 1_704_067_200_000_i64,
    })
}

fn documented_rolling() -> Value {
    json!({
        "metadata": {"request_id": "uuid", "timestamp": "2024-01-01T00:00:00Z"},
        "message": "Rolling deployment status retrieved successfully",
        "config": {"enabled": true, "min_available": 3, "batch_size": 2},
        "status": {"digitalocean/default": {
            "healthy": 3, "pending": 0, "pending_recycle": 1, "recycling": 1, "last_update": "2024-01-01T00:00:00Z",
            "healthy_ips": ["192.168.1.1"], "pending_recycle_ips": ["192.168.1.4"], "recycling_ips": ["192.168.1.5"],
        }},
    })
}

const UPDATE_KEYS: [&str; 9] =
    ["updateId", "artifactBase", "oldVersion", "newVersion", "state", "routing", "newInstances", "createdAt", "updatedAt"];

/// Every documented key is there, with a value of the documented kind.
fn has_keys(answer: &Value, documented: &Value, at: &str) -> anyhow::Result<()> {
    match documented {
        Value::Object(keys) => {
            for (key, wanted) in keys {
                has_keys(answer.get(key).with_context(|| format!("{at}.{key} is not there: {answer:#}"))?, wanted, &format!("{at}.{key}"))?;
            }
        }
        Value::Array(_) => ensure!(answer.is_array(), "{at} is no list: {answer}"),
        Value::String(_) => ensure!(answer.is_string(), "{at} is no text: {answer}"),
        Value::Number(_) => ensure!(answer.is_number(), "{at} is no number: {answer}"),
        Value::Bool(_) => ensure!(answer.is_boolean(), "{at} is neither true nor false: {answer}"),
        Value::Null => {}
    }
    Ok(())
}

async fn note(title: &str, command: &str, said: &Said) {
    let first = said.out.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let shown: String = first.chars().take(100).collect();
    TABLE.lock().await.push([title.to_owned(), command.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" "), shown]);
}

/// The table of what ran, as Markdown.
pub async fn table() -> String {
    let rows = TABLE.lock().await;
    let rows: Vec<String> =
        rows.iter().map(|[title, command, said]| format!("| {title} | `{command}` | {} |", said.replace('|', "\\|"))).collect();
    format!("| block | command | first line of what it said |\n|---|---|---|\n{}", rows.join("\n"))
}

/// Runs every block of the first guide in a place of its own, some at a time.
pub async fn rolling_updates(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    use futures::{StreamExt as _, TryStreamExt as _};
    let blocks = UPDATES.iter().enumerate();
    futures::stream::iter(
        blocks.map(|(n, block)| async move { rehearse(pools, n, block).await.with_context(|| format!("block {n}, {}", block.title)) }),
    )
    .buffer_unordered(6)
    .try_collect::<Vec<()>>()
    .await?;
    Ok(())
}

async fn rehearse(pools: &Arc<PoolBed>, n: usize, block: &Block) -> anyhow::Result<()> {
    let name = if block.title == "Critical Services" { "payment-service" } else { "my-slice" };
    let place = Place::serving(pools, &format!("guide-{n}"), &[name]).await?;
    if block.given != Given::Unknown {
        place.adopt(name, json!({})).await?;
    }
    if matches!(block.given, Given::Deployed | Given::AllNew) {
        // Held, so that it goes no further by itself.
        place.run(&format!("aether update start org.example:{name} 2.0.0 --manual-approval")).await?.succeeded()?;
        place.follows(name).await?;
    }
    if block.given == Given::AllNew {
        place.run(&format!("aether update routing {name} -r 1:0")).await?.succeeded()?;
        place.follows(name).await?;
    }
    for command in block.commands {
        let line = NAMES.iter().fold((*command).to_owned(), |line, (open, name)| line.replace(open, name));
        let said = {
            let ports = if line.contains("localhost") { Some(PORTS.lock().await) } else { None };
            let proxy = if ports.is_some() { Some(place.proxy().await?) } else { None };
            let said = place.run(&line).await?;
            if let Some(mut proxy) = proxy {
                proxy.kill().await?;
            }
            said
        };
        let said = said.succeeded().with_context(|| line.clone())?;
        note(block.title, &line, &said).await;
        look(&place, name, &line, &said).await.with_context(|| format!("{line}\n{}", said.out))?;
    }
    place.close().await
}

/// What the command says is so, and becomes so.
async fn look(place: &Place, name: &str, line: &str, said: &Said) -> anyhow::Result<()> {
    if line.contains("/health") {
        has_keys(&said.json()?, &documented_health(), "health")?;
    } else if line.ends_with("/rolling-updates") {
        let answer = said.json()?;
        let one = answer.pointer("/updates/0").context("no update is listed")?;
        ensure!(UPDATE_KEYS.iter().all(|key| one.get(key).is_some()), "keys are missing: {one:#}");
    } else if line.contains("/rolling-update/") {
        let answer = said.json()?;
        ensure!(UPDATE_KEYS.iter().all(|key| answer.get(key).is_some()), "keys are missing: {answer:#}");
    }
    let wanted = |text: &str| if said.out.contains(text) { Ok(()) } else { Err(anyhow::anyhow!("{text} is not shown")) };
    let spec = || async { anyhow::Ok(place.update(name).await?["spec"].clone()) };
    if line.contains("update status") || line.contains("update list") {
        wanted("my-slice")?;
        wanted("DEPLOYED")?;
    }
    if line.contains("update health") {
        wanted("1.0.0")?;
        wanted("2.0.0")?;
    }
    if line.contains("aether logs") {
        wanted("2.0.0")?;
    }
    if line.contains("aether status") {
        wanted("my-slice")?;
    }
    if line.contains("start") {
        place.until(name, "started", |u| u["status"]["newVersion"] == "2.0.0" && u["status"]["state"] != "PENDING").await?;
    }
    if line.contains("-r ")
        || line.contains("/routing")
        || line.contains("complete")
        || line.contains("rollback")
        || line.contains("undeploy")
    {
        let update = place.follows(name).await?;
        let state = update["status"]["state"].as_str().unwrap_or_default();
        let wanted = match line {
            _ if line.contains("complete") => "COMPLETED",
            _ if line.contains("rollback") || line.contains("undeploy") => "ROLLED_BACK",
            _ => "ROUTING",
        };
        ensure!(state == wanted, "it came to {state}: {update:#}");
    }
    if line.contains("--max-error-rate 0.001") {
        let spec = spec().await?;
        ensure!(spec["maxErrorRate"] == 0.001 && spec["maxLatencyMs"] == 200 && spec["requireManualApproval"] == true, "{spec:#}");
    }
    if line.contains("GRACE_PERIOD") {
        ensure!(spec().await?["cleanupPolicy"] == "GRACE_PERIOD");
    }
    if line.contains("\"instances\": 3") {
        let spec = spec().await?;
        ensure!(spec["instances"] == 3 && spec["maxErrorRate"] == 0.01 && spec["maxLatencyMs"] == 500, "{spec:#}");
    }
    Ok(())
}

/// The second guide, with a real pool in the fake cloud.
pub async fn rolling_deployments(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let limit = crate::place::LIMIT;
    pools.apply("default", "digitalocean", json!({"minScaling": 5})).await?;
    pools.until_pool("default", "healthy", limit, |pool| pool.pointer("/status/healthy") == Some(&json!(5))).await?;
    let place = Place {
        pools: pools.clone(),
        namespace: testbed::pool_bed::NAMESPACE.into(),
        kubeconfig: pools.bed.dir().join("pools.kubeconfig"),
    };
    std::fs::copy(pools.bed.kubeconfig(), &place.kubeconfig)?;
    place.run("kubectl config set-context --current --namespace=$NAMESPACE").await?.succeeded()?;
    let _ports = PORTS.lock().await;
    let mut proxy = place.proxy().await?;
    for command in POOLS {
        let said = run(pools, &place.kubeconfig, &place.namespace, command).await?.succeeded()?;
        note("Rolling deployments", command, &said).await;
        let answer = said.json()?;
        if command.contains("PATCH") {
            ensure!(answer["config"] == json!({"enabled": true, "min_available": 5, "batch_size": 3}), "{answer:#}");
            continue;
        }
        has_keys(&answer, &documented_rolling(), "rolling")?;
        let status = &answer["status"]["digitalocean/default"];
        ensure!(status["healthy"] == 5 && status["healthy_ips"].as_array().is_some_and(|ips| ips.len() == 5), "{answer:#}");
    }
    // It reaches the pools that do not say themselves.
    let follows = |pool: &Value| pool.pointer("/status/config") == Some(&json!({"enabled": true, "min_available": 5, "batch_size": 3}));
    pools.until_pool("default", "configured anew", limit, follows).await?;
    proxy.kill().await
}

/// Where the guides are at hand, nothing of them is missing here.
pub async fn nothing_of_the_guides_is_missing(_: &Arc<PoolBed>) -> anyhow::Result<()> {
    let ours: Vec<String> = UPDATES.iter().flat_map(|b| b.commands).chain(&POOLS).map(|c| flat(c)).collect();
    let folder = testbed::operator::repository().join("../shared/source-docs");
    let mut found = 0;
    for file in std::fs::read_dir(folder).into_iter().flatten() {
        let text = std::fs::read_to_string(file?.path())?;
        for block in text.split("```bash\n").skip(1).filter_map(|rest| rest.split_once("```")) {
            for command in commands(block.0) {
                // How a command is written in general, and settings of a process.
                if command.contains("[options]") || command.starts_with("ROLLING_") {
                    continue;
                }
                found += 1;
                ensure!(ours.contains(&command), "no test runs `{command}`");
            }
        }
        let inline = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("aether ") && !code.contains('\n'));
        for command in inline.map(flat) {
            found += 1;
            ensure!(ours.contains(&command), "no test runs `{command}`");
        }
    }
    println!("{found} commands of the guides at hand are all run");
    Ok(())
}

/// Commands of a block, without comments; a line that ends in a backslash, or inside quotes, goes on.
fn commands(block: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = String::new();
    for line in block.lines() {
        if open.is_empty() && (line.trim_start().starts_with('#') || line.trim().is_empty()) {
            continue;
        }
        if open.is_empty() && !line.starts_with("aether ") && !line.starts_with("curl ") && !line.contains('=') {
            continue;
        }
        open.push_str(line);
        if line.ends_with('\\') || open.matches('\'').count() % 2 == 1 {
            open.push('\n');
            continue;
        }
        all.push(flat(&std::mem::take(&mut open)));
    }
    all
}

fn flat(command: &str) -> String {
    command.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

//! The CLI as a person uses it, beyond the guides.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use serde_json::json;
use testbed::pool_bed::PoolBed;

use crate::place::{Place, run};

/// Orders, each shown where a person looks, with the person's name in the history.
pub async fn a_release_from_the_first_to_the_last_command(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "cli-release", &["web"]).await?;
    place.adopt("web", json!({})).await?;
    let said = place.run("aether update start shop.example:web 2.0.0").await?;
    ensure!(said.code != 0 && said.err.contains("org.example:web"), "another artifact of that name: {said:?}");
    let dry = place.run("aether update start org.example:web 2.0.0 --manual-approval --dry-run").await?.succeeded()?;
    ensure!(place.update("web").await?["spec"]["version"] == "1.0.0", "a dry run wrote: {dry:?}");
    place.run("aether update start org.example:web 2.0.0 --manual-approval -i 3").await?.succeeded()?;
    // The same once more, as after a lost answer.
    place.run("aether update start org.example:web 2.0.0 --manual-approval -i 3").await?.succeeded()?;
    let busy = place.run("aether update start org.example:web 3.0.0").await?;
    ensure!(busy.code == 1 && busy.err.contains("--supersede"), "{busy:?}");
    place.follows("web").await?;
    let early = place.run("aether update complete current").await?;
    ensure!(early.code == 1 && early.err.contains("1:0"), "{early:?}");
    // An editor may not approve, whatever the client.
    let refused = place.run("aether update approve current").await?;
    ensure!(refused.code == 4 && refused.err.contains("approve"), "{refused:?}");
    crate::place::account(pools, "cli-release", "boss", "admin").await?;
    let token = pools.bed.service_account_token("cli-release", "boss").await?;
    let boss = pools.bed.pki().token_kubeconfig("boss-cli-release", &token)?;
    run(pools, &boss, "cli-release", "aether -n cli-release update approve current").await?.succeeded()?;
    place.until("web", "at its first step", |u| u["status"]["routing"] == "1:9").await?;
    let twice = run(pools, &boss, "cli-release", "aether -n cli-release update approve web -r 1:9").await?;
    ensure!(twice.code == 1 && twice.err.contains("approved already"), "{twice:?}");
    place.run("aether update pause web").await?.succeeded()?;
    place.until("web", "paused", |u| u["spec"]["control"]["paused"] == true).await?;
    place.run("aether update resume web").await?.succeeded()?;
    let shown = place.run("aether update status web").await?.succeeded()?;
    for text in ["ROUTING", "1.0.0", "2.0.0", "1:9", "boss"] {
        ensure!(shown.out.contains(text), "{text} is not shown:\n{}", shown.out);
    }
    place.run("aether update rollback web --wait --timeout 2m").await?.succeeded()?;
    let update = place.update("web").await?;
    let by = update.pointer("/status/history").and_then(|h| h.as_array()?.last()?["by"].as_str().map(str::to_owned));
    let history = update["status"]["history"].as_array().context("no history")?;
    ensure!(
        history.iter().any(|t| t["by"].as_str().is_some_and(|by| by.contains("cli-release:dev"))),
        "nobody is named: {history:#?} {by:?}"
    );
    let over = place.run("aether update rollback web").await?;
    ensure!(over.code == 1 && over.err.contains("ROLLED_BACK"), "{over:?}");
    place.close().await
}

/// 0, 1, 3 and 4, and 2 for what makes no sense.
pub async fn waiting_ends_with_the_code_that_says_how(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "cli-wait", &["web"]).await?;
    let quick = json!({"progression": {"steps": ["1:1", "1:0"], "interval": "1s", "deployDeadline": "20s"}});
    place.adopt("web", quick).await?;
    let done = place.run("aether update start org.example:web 2.0.0 --wait --timeout 2m").await?;
    ensure!(done.code == 0 && place.update("web").await?["status"]["state"] == "COMPLETED", "{done:?}");
    let late = place.run("aether update start org.example:web 3.0.0 --manual-approval --wait --timeout 1s").await?;
    ensure!(late.code == 3, "{late:?}");
    // Somebody else wants another ratio.
    place.run("aether update pause web").await?.succeeded()?;
    let other = async {
        place.until("web", "ordered", |u| u["spec"]["control"]["routing"] == "1:3").await?;
        place.run("aether update routing web -r 1:4").await
    };
    let (replaced, _) = tokio::try_join!(place.run("aether update routing web -r 1:3 --wait --timeout 2m"), other)?;
    ensure!(replaced.code == 1 && replaced.err.contains("1:4"), "{replaced:?}");
    place.run("aether update resume web").await?.succeeded()?;
    // Somebody else rolls back what one waits for.
    place.follows("web").await?;
    let watching = place.run("aether update routing web -r 1:1 --wait --timeout 1m");
    ensure!(watching.await?.code == 0);
    let other = async {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        place.run("aether update rollback web").await
    };
    let (waiting, _) = tokio::try_join!(place.run("aether update start org.example:web 3.0.0 --wait --timeout 2m"), other)?;
    ensure!(waiting.code == 1, "{waiting:?}");
    for (line, code) in [
        ("aether update status nobody", 4),
        ("aether update routing web -r 1-3", 2),
        ("aether update routing web", 2),
        ("aether update start nocolon 1.0.0", 2),
        ("aether update start org.example:web 2.0.0 --max-error-rate 7", 2),
        ("aether -n kube-system update list", 4),
        ("aether -n 'Bad NS' update list", 2),
        ("aether -n '' update list", 2),
        ("aether -n ../x update list", 2),
        ("aether update start org.example:web 2.0.0 -i -1", 2),
    ] {
        let said = place.run(line).await?;
        ensure!(said.code == code, "{line}: {said:?}");
        ensure!(!said.err.contains("panicked") && !said.err.contains("RUST_BACKTRACE"), "{line}: {said:?}");
    }
    place.close().await
}

/// No stack, no Debug print: what it is and what to do.
pub async fn what_goes_wrong_is_one_sentence(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::empty(pools, "cli-errors").await?;
    let unreachable = place.namespace.clone() + ".kubeconfig";
    let file = pools.bed.dir().join(unreachable);
    let text = std::fs::read_to_string(&place.kubeconfig)?;
    let port = text.split("127.0.0.1:").nth(1).and_then(|t| t.split(|c: char| !c.is_ascii_digit()).next()).context("no port")?;
    std::fs::write(&file, text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:1"))?;
    let missing = Path::new("/nowhere/kubeconfig");
    let broken = pools.bed.dir().join("broken.kubeconfig");
    std::fs::write(&broken, "users:\n- name: x\n  user:\n    token: canary-kubeconfig-token\nclusters: [\n")?;
    for (kubeconfig, words) in [(&*file, "reached"), (missing, "kubeconfig"), (&*broken, "kubeconfig")] {
        let said = run(pools, kubeconfig, "default", "aether update list").await?;
        ensure!(said.code == 1 && said.out.is_empty(), "{said:?}");
        ensure!(said.err.trim().lines().count() == 1 && said.err.contains(words), "{said:?}");
        ensure!(!said.err.contains('{') && !said.err.contains("Error(") && !said.err.contains("canary"), "{said:?}");
    }
    let none = place.run("aether update start org.example:nothing 2.0.0").await?;
    ensure!(none.code == 4 && none.err.contains("no Deployment nothing"), "{none:?}");
    place.close().await
}

pub async fn an_old_version_is_undeployed_and_a_live_one_is_not(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "cli-undeploy", &["web"]).await?;
    place.adopt("web", json!({"cleanupPolicy": "MANUAL", "progression": {"steps": ["1:0"], "interval": "1s"}})).await?;
    place.run("aether update start org.example:web 2.0.0 --wait --timeout 2m").await?.succeeded()?;
    let live = place.run("aether undeploy org.example:web:2.0.0").await?;
    ensure!(live.code != 0 && live.err.contains("--force"), "{live:?}");
    let unknown = place.run("aether undeploy org.example:web:9.9.9").await?;
    ensure!(unknown.code == 4 && unknown.err.contains("2.0.0"), "{unknown:?}");
    let old = place.run("aether undeploy org.example:web:1.0.0").await?.succeeded()?;
    let gone = |u: &serde_json::Value| {
        let conditions = u["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "OldVersionRemoved" && c["status"] == "True")
    };
    place.until("web", &format!("rid of the old version ({old:?})"), gone).await?;
    let pods = place.run("kubectl get pods -o jsonpath='{.items[*].spec.containers[0].image}'").await?.succeeded()?;
    ensure!(!pods.out.contains(":1.0.0") && pods.out.contains(":2.0.0"), "{pods:?}");
    place.close().await
}

pub async fn the_plugin_and_every_output(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "cli-output", &["web"]).await?;
    place.adopt("web", json!({})).await?;
    place.run("aether update start org.example:web 2.0.0 --manual-approval").await?.succeeded()?;
    place.follows("web").await?;
    let plugin = place.run("kubectl aether update list -o json").await?.succeeded()?.json()?;
    ensure!(plugin["updates"][0]["updateId"] == "web", "{plugin:#}");
    let table = place.run("aether update list").await?.succeeded()?;
    let head = table.out.lines().next().unwrap_or_default();
    for column in ["ID", "STATE", "ROUTING", "NEW", "OLD", "READY", "HEALTH", "AGE"] {
        ensure!(head.contains(column), "{head}");
    }
    ensure!(!table.out.contains('\x1b'), "escapes where there is no terminal: {table:?}");
    let yaml = place.run("aether update status web -o yaml").await?.succeeded()?;
    let json = place.run("aether update status web -o json").await?.succeeded()?.json()?;
    let parsed: serde_json::Value = serde_yaml::from_str(&yaml.out)?;
    ensure!(parsed == json, "yaml and json differ");
    place.run("aether update list -o wide").await?.succeeded()?;
    place.run("aether status").await?.succeeded()?;
    for shell in ["bash", "zsh", "fish"] {
        ensure!(place.run(&format!("aether completion {shell}")).await?.succeeded()?.out.contains("update"), "{shell}");
    }
    ensure!(place.run("aether version").await?.succeeded()?.out.contains(env!("CARGO_PKG_VERSION")));
    // A reader that has had enough is no error.
    let cut = place.run("aether update list --help | head -n1; exit ${PIPESTATUS[0]}").await?;
    ensure!(cut.code == 0 || cut.code == 141, "{cut:?}");
    place.close().await
}

pub async fn a_converted_environment_is_taken_by_the_api_server(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::empty(pools, "cli-convert").await?;
    let environment = "DIGITALOCEAN_ENABLED=True\nDIGITALOCEAN_ACCESS_TOKEN=canary-env-token\nDIGITALOCEAN_MIN_SCALING=3\nDIGITALOCEAN_REGION=lon1\n\
        HETZNER_ENABLED=True\nHETZNER_API_TOKEN=canary-env-hetzner\nHETZNER_MIN_SCALING=2\nPROXY_USERNAME=someone\nPROXY_PASSWORD=canary-env-password\n\
        AGE_LIMIT=3600\nROLLING_DEPLOYMENT=True\nROLLING_MIN_AVAILABLE=2\nROLLING_BATCH_SIZE=1\n";
    let file = pools.bed.dir().join("cloudproxy.env");
    std::fs::write(&file, environment)?;
    let said = place.run(&format!("aether pool convert -f {}", file.display())).await?.succeeded()?;
    ensure!(!said.err.contains("canary"), "a secret in the notes: {}", said.err);
    // Only checked by the API server: pools of no real account.
    let taken = pools.bed.kubectl_stdin(&["-n", "cli-convert", "apply", "--dry-run=server", "-f", "-"], &said.out).await?;
    ensure!(taken.matches("proxypool").count() == 2, "{taken}");
    let none = place.run("echo 'DIGITALOCEAN_ENABLED=True' | aether pool convert").await?;
    ensure!(none.code == 2 && none.err.contains("DIGITALOCEAN_ACCESS_TOKEN"), "{none:?}");
    place.close().await
}

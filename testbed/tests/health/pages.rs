//! Pods whose middleware counts every request, as most do: whoever reads their page and whoever probes them is no user.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::json;
use testbed::rig::{LIMIT, Rig, Shop};
use testbed::watching::Seen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{measured, rose_on_healthy_only, stays, verdict};

const PROBED: &str = "/healthz";
/// So few that one round of reading four pods would be nearly enough.
const ENOUGH: u64 = 5;

pub async fn who_reads_and_who_probes_are_no_traffic(rig: &Arc<Rig>) -> anyhow::Result<()> {
    let mut shop = Shop::open(rig, "health-pages", json!({"testbed.aether.dev/counts-everything": "true"})).await?;
    let container = json!({"name": "app", "readinessProbe": {"httpGet": {"path": PROBED, "port": 8080}}});
    let template = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    shop.kubectl(&["patch", "deployment/web", "--patch", &template.to_string()]).await?;
    shop.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).await?;
    let pods = Api::namespaced(rig.bed.client(), &shop.namespace);
    let _probing = probing(pods.clone());

    let mut spec = measured(json!({}));
    spec["progression"]["minRequests"] = ENOUGH.into();
    let watching = shop.update(spec).await?;
    let is_held = |s: &Seen| verdict(s) == ("Unknown", "InsufficientTraffic");
    watching.until("too few requests", LIMIT, |s| s.place() == "ROUTING 1:9" && is_held(s)).await?;
    stays(&watching, "ROUTING 1:9").await?;
    ensure!(watching.last().is_some_and(|s| is_held(&s)), "{:?}", watching.last());
    // What the middleware has counted by now would be more than enough.
    let new = addresses(&pods, "aether.dev/revision=web-2-0-0").await?;
    ensure!(!new.is_empty(), "the new version has no pods");
    for pod in new {
        let page = get(&pod, "/metrics").await?;
        for path in [PROBED, "/metrics"] {
            let line = format!("http_requests_total{{code=\"200\",method=\"GET\",path=\"{path}\"}} ");
            let counted = page.lines().find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok());
            ensure!(counted.is_some_and(|n| n >= ENOUGH), "{path} was asked for {counted:?} times:\n{page}");
        }
    }

    shop.start_even_load()?;
    watching.until_state("COMPLETED", LIMIT).await?;
    rose_on_healthy_only(&watching)?;
    let requests = shop.no_request_failed().await?;
    println!("pods that count everything: held without users, completed with {requests} requests of theirs");
    shop.close().await
}

/// Asks every pod as its kubelet does, which the pod server leaves out.
fn probing(pods: Api<Pod>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            for pod in addresses(&pods, "app=web").await.unwrap_or_default() {
                // Some are just coming or going.
                let _ = get(&pod, PROBED).await;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }))
}

async fn addresses(pods: &Api<Pod>, labels: &str) -> anyhow::Result<Vec<String>> {
    let listed = pods.list(&ListParams::default().labels(labels)).await?;
    Ok(listed.into_iter().filter_map(|pod| pod.status?.pod_ip).collect())
}

async fn get(pod: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((pod, 8080)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {pod}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

//! `aether logs`: what the pods of a version print.

use futures::io::AsyncBufReadExt as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;

use super::args::Logs;
use super::revisions::Inventory;
use super::session::Session;
use super::{Failure, note, pods, print};

/// Lines that wait to be printed; more wait where they come from.
const WAITING: usize = 256;

/// Prints them, each pod's in their order.
pub async fn run(session: &Session, asked: &Logs) -> Result<(), Failure> {
    let there = Inventory::read(session, &asked.artifact).await?;
    let revision = there.find(&asked.artifact, &session.namespace)?;
    let found = pods::of_deployment(session.desk.client(), &session.namespace, &revision.deployment).await?;
    if found.is_empty() {
        return Err(Failure { code: 4, message: format!("{} has no pods (Deployment {})", asked.artifact, revision.name()) });
    }
    let (sender, mut lines) = mpsc::channel(WAITING);
    let is_one = found.len() == 1;
    let reading = futures::future::join_all(found.iter().map(|pod| read(session, pod, asked, sender.clone())));
    drop(sender);
    let printing = async {
        while let Some((pod, line)) = lines.recv().await {
            print(&if is_one { format!("{line}\n") } else { format!("{pod} {line}\n") })?;
        }
        Ok::<_, Failure>(())
    };
    let mut reading = std::pin::pin!(reading);
    let mut printing = std::pin::pin!(printing);
    let ended = tokio::select! {
        // Nobody reads them any more.
        printed = &mut printing => { printed?; reading.await }
        ended = &mut reading => { printing.await?; ended }
    };
    // One that does not start must not hide what the others say; nor may it be kept quiet.
    let failed: Vec<String> = ended.into_iter().filter_map(Result::err).collect();
    for why in &failed {
        note(why);
    }
    if failed.len() == found.len() { Err(Failure::failed("no pod's logs could be read; see why above")) } else { Ok(()) }
}

/// Sends a pod's lines. An error is a sentence.
async fn read(session: &Session, pod: &Pod, asked: &Logs, lines: mpsc::Sender<(String, String)>) -> Result<(), String> {
    let api = Api::<Pod>::namespaced(session.desk.client().clone(), &session.namespace);
    let name = pod.name_any();
    let params = LogParams { container: container(pod), follow: asked.follow, tail_lines: asked.tail, ..LogParams::default() };
    let failed = |why: String| format!("pod {name}: {why}");
    let stream = api.log_stream(&name, &params).await.map_err(|e| match e {
        kube::Error::Api(status) => failed(status.message.clone()),
        other => failed(other.to_string()),
    })?;
    let mut found = stream.lines().into_stream();
    while let Some(line) = found.next().await {
        let line = line.map_err(|e| failed(format!("its log broke off: {e}")))?;
        if lines.send((name.clone(), line)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The container that kubectl would take: the annotated one, else the first.
fn container(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let annotated = pod.annotations().get("kubectl.kubernetes.io/default-container").filter(|a| containers.iter().any(|c| c.name == **a));
    annotated.or_else(|| containers.first().map(|c| &c.name)).cloned()
}

//! The pods of a Deployment, as they are shown.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::Selector;
use kube::{Api, Client, ResourceExt as _};

use crate::api::{Time, names};
use crate::cluster::client::bounded;
use crate::orders::Refusal;
use crate::orders::desk::refusal;

/// One pod, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// It serves.
    pub ready: bool,
    /// One word on how it is, as kubectl says it.
    pub status: String,
    /// How often its containers have started again.
    pub restarts: i32,
    /// When it was made.
    pub born: Option<Time>,
}

/// The pods of a Deployment; none where it does not exist.
pub async fn of(client: &Client, namespace: &str, deployment: &str) -> Result<Vec<Pod>, Refusal> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let what = format!("Deployment {deployment} in namespace {namespace}");
    let Some(found) = bounded(api.get_opt(deployment)).await.map_err(|e| refusal(&e, &what))? else { return Ok(Vec::new()) };
    of_deployment(client, namespace, &found).await
}

/// The pods of that Deployment. The user's own selects those of all versions: what has another revision's label is not its.
pub async fn of_deployment(client: &Client, namespace: &str, deployment: &Deployment) -> Result<Vec<Pod>, Refusal> {
    let unreadable = || Refusal::conflict(format!("the selector of Deployment {} cannot be read", deployment.name_any()));
    let wanted = deployment.spec.clone().map(|s| s.selector).unwrap_or_default();
    let is_revision = wanted.match_labels.as_ref().is_some_and(|l| l.contains_key(names::REVISION));
    let selector = Selector::try_from(wanted).map_err(|_| unreadable())?;
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let listed = bounded(api.list(&ListParams::default().labels_from(&selector))).await.map_err(|e| refusal(&e, "Pods"))?;
    let mut pods = listed.items;
    pods.retain(|p| is_revision || !p.labels().contains_key(names::REVISION));
    pods.sort_by_key(|p| (p.creation_timestamp().map(|t| t.0), p.name_any()));
    Ok(pods)
}

/// What is shown of a pod.
pub fn row(pod: &Pod) -> Row {
    let status = pod.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let containers = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let waits = containers().filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let ended = containers().filter_map(|c| c.state.as_ref()?.terminated.as_ref().filter(|t| t.exit_code != 0)?.reason.clone());
    let phase = || status.reason.clone().or_else(|| status.phase.clone()).unwrap_or_else(|| "Unknown".into());
    Row {
        name: pod.name_any(),
        ready,
        status: if pod.metadata.deletion_timestamp.is_some() {
            "Terminating".into()
        } else {
            waits.chain(ended).next().unwrap_or_else(phase)
        },
        restarts: status.container_statuses.iter().flatten().map(|c| c.restart_count).sum(),
        born: pod.creation_timestamp().and_then(|t| Time::from_timestamp_millis(t.0.as_millisecond())),
    }
}

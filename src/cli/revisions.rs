//! The versions of an artifact that are there: the Deployments that run them.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::api::{RollingUpdate, names};
use crate::cluster::client::bounded;
use crate::orders::desk::refusal;
use crate::orders::{Refusal, updates};
use crate::rollout::build;

use super::args::Artifact;
use super::session::Session;

/// One version, and the Deployment that runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// Which.
    pub version: String,
    /// The Deployment.
    pub deployment: Deployment,
    /// It is the user's own: it stays as the template of the next release.
    pub is_workload: bool,
    /// The workload says that it is live.
    pub is_noted_live: bool,
}

impl Revision {
    /// Name of the Deployment.
    pub fn name(&self) -> String {
        self.deployment.name_any()
    }

    /// Pods wanted.
    pub fn replicas(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
}

/// What there is of an artifact: its update, if there is one, and its versions.
pub struct Inventory {
    /// The RollingUpdate that brings out its versions.
    pub update: Option<RollingUpdate>,
    /// Its versions.
    pub revisions: Vec<Revision>,
}

impl Inventory {
    /// Reads it.
    pub async fn read(session: &Session, artifact: &Artifact) -> Result<Self, Refusal> {
        let update = session.desk.updates(Some(&session.namespace)).await?.into_iter().find(|u| u.spec.artifact_base == artifact.base);
        let api = Api::<Deployment>::namespaced(session.desk.client().clone(), &session.namespace);
        let listed = bounded(api.list(&ListParams::default())).await.map_err(|e| refusal(&e, "Deployments"))?;
        let revisions = revisions(&artifact.base, update.as_ref(), listed.items);
        Ok(Self { update, revisions })
    }

    /// The version that is meant.
    pub fn find(&self, artifact: &Artifact, namespace: &str) -> Result<&Revision, Refusal> {
        let named = self.revisions.iter().find(|r| r.version == artifact.version);
        named.ok_or_else(|| {
            let known: Vec<&str> = self.revisions.iter().map(|r| &*r.version).collect();
            let there = if known.is_empty() { "none is there".into() } else { format!("there are {}", known.join(", ")) };
            let (base, version) = (&artifact.base, &artifact.version);
            Refusal::not_found(format!("{base} has no version {version} in namespace {namespace}; {there}"))
        })
    }
}

/// The versions among the Deployments of a namespace; pure.
pub fn revisions(base: &str, update: Option<&RollingUpdate>, deployments: Vec<Deployment>) -> Vec<Revision> {
    let objects = update.and_then(|u| u.status.as_ref()?.objects.clone()).unwrap_or_default();
    let named = update.and_then(|u| u.spec.workload.as_ref()?.name.clone());
    let workload = [Some(objects.workload.clone()), named].into_iter().flatten().find(|n| !n.is_empty());
    let workload = workload.or_else(|| updates::name_of(base).ok().map(str::to_owned)).unwrap_or_default();
    let label = build::label_value(&base.replace(':', "."));
    let status = update.and_then(|u| u.status.as_ref());
    let live = deployments.iter().find(|d| d.name_any() == workload).and_then(|d| d.annotations().get(names::LIVE_REVISION).cloned());
    // Labels cannot say every version as it is written.
    let told = |name: &str| match name {
        _ if name == objects.new_revision => status?.new_version.clone(),
        _ if name == objects.old_revision => status?.old_version.clone(),
        _ => None,
    };
    let mut found = Vec::new();
    for deployment in deployments {
        let name = deployment.name_any();
        let is_workload = name == workload;
        let is_ours = deployment.labels().get(names::ARTIFACT) == Some(&label)
            && deployment.labels().get(names::MANAGED_BY).map(String::as_str) == Some(names::FIELD_MANAGER);
        if !is_workload && !is_ours {
            continue;
        }
        let by_itself = if is_workload { tag(&deployment, update) } else { deployment.labels().get(names::VERSION).cloned() };
        let version = told(&name).or(by_itself).unwrap_or_else(|| "unknown".into());
        let revision = Revision { version, is_workload, is_noted_live: live.as_ref() == Some(&name), deployment };
        // At 0 the user's own Deployment is the template of the next release, and no version.
        if !is_workload || revision.replicas() > 0 {
            found.push(revision);
        }
    }
    found
}

/// The version that a Deployment of the user's runs by its template.
fn tag(deployment: &Deployment, update: Option<&RollingUpdate>) -> Option<String> {
    let spec = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let named = update.and_then(|u| u.spec.workload.as_ref()?.container.as_ref());
    let container = spec.containers.iter().find(|c| named.is_none_or(|n| c.name == *n))?;
    build::split_image(container.image.as_ref()?).1.map(str::to_owned)
}

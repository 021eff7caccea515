//! Proxies as pods, for clusters without a cloud account. A name is unique in a namespace, so a repeated create finds the first pod.
//!
//! The script holds credentials, so it is a Secret that the pod mounts, made before the pod and named like it. Once the pod is
//! there it owns the Secret, which goes with it, whoever deletes it. What is left of a create that broke off in between is a
//! Secret that the next attempt of the same slot and epoch takes over, and that goes with the pool.
//!
//! Deletes are by name and UID at once: an id here is `name/uid`, so that a pod made anew under an old name is never hit.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Capabilities as LinuxCapabilities, Container, ContainerPort, EmptyDirVolumeSource, Pod, PodSpec, ResourceRequirements, SeccompProfile,
    Secret, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::answer::Verb;
use super::http::MOST_PAGES;
use super::limiter::Budget;
use super::marks::{self, NONCE, POOL};
use super::{Capabilities, Class, Cloud, Error, Marks, Order, Phase, Rate, Vm, address};
use crate::cluster::client::{CallError, bounded};

/// The API server protects itself.
pub const BUDGET: Budget = Budget { burst: 200.0, per_second: 20.0, page: 500 };
const PER_PAGE: u32 = 500;
const FOLDER: &str = "/aether";
const SCRIPT: &str = "run";

/// What a pool's pods are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where they live.
    pub namespace: String,
    /// An image with `/bin/sh` and tinyproxy.
    pub image: String,
    /// What each pod asks for.
    pub resources: Option<ResourceRequirements>,
    /// Where the proxy listens.
    pub port: u16,
    /// With whom they go; `None` if they are to stay.
    pub owner: Option<OwnerReference>,
}

/// One namespace and one kind of pod.
pub struct Kubernetes {
    pods: Api<Pod>,
    secrets: Api<Secret>,
    place: Place,
}

impl Kubernetes {
    /// `client`: one that tries nothing again by itself.
    pub fn new(client: &Client, place: Place) -> Self {
        let namespace = &place.namespace;
        Self { pods: Api::namespaced(client.clone(), namespace), secrets: Api::namespaced(client.clone(), namespace), place }
    }

    async fn labelled(&self, pool: &str, selector: &str) -> Result<Vec<Vm>, Error> {
        let mut params = ListParams::default().labels(selector).limit(PER_PAGE);
        let mut vms = Vec::new();
        for _ in 0..MOST_PAGES {
            let page = bounded(self.pods.list(&params)).await.map_err(|e| error(Verb::Read, &e))?;
            vms.extend(page.items.iter().filter_map(|pod| vm(pool, pod)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(vms),
            }
        }
        Err(Error { class: Class::Transient, message: "Kubernetes: the list has no end".into() })
    }

    fn meta(&self, order: &Order) -> Result<ObjectMeta, Error> {
        let labels = marks::write(&order.marks)?.into_iter().map(|(mark, value)| (mark.to_owned(), value)).collect();
        let owner_references = self.place.owner.clone().map(|owner| vec![owner]);
        Ok(ObjectMeta { name: Some(order.name.clone()), labels: Some(labels), owner_references, ..ObjectMeta::default() })
    }

    fn pod(&self, order: &Order) -> Result<Pod, Error> {
        let mount = |name: &str, path: &str| VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() };
        let proxy = Container {
            name: "proxy".into(),
            image: Some(self.place.image.clone()),
            command: Some(vec!["/bin/sh".into(), format!("{FOLDER}/{SCRIPT}")]),
            ports: Some(vec![ContainerPort { container_port: self.place.port.into(), ..ContainerPort::default() }]),
            resources: self.place.resources.clone(),
            volume_mounts: Some(vec![mount("script", FOLDER), mount("tmp", "/tmp")]),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(LinuxCapabilities { drop: Some(vec!["ALL".into()]), add: None }),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                ..SecurityContext::default()
            }),
            ..Container::default()
        };
        let script = SecretVolumeSource { secret_name: Some(order.name.clone()), ..SecretVolumeSource::default() };
        let volume = |name: &str| Volume { name: name.into(), ..Volume::default() };
        Ok(Pod {
            metadata: self.meta(order)?,
            spec: Some(PodSpec {
                containers: vec![proxy],
                // Whoever gets into the pod finds no way into the cluster there.
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                volumes: Some(vec![
                    Volume { secret: Some(script), ..volume("script") },
                    Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..volume("tmp") },
                ]),
                ..PodSpec::default()
            }),
            status: None,
        })
    }

    /// The script where the pod will look for it. One of an attempt that broke off is taken if it is the pool's.
    async fn leave_script(&self, order: &Order) -> Result<(), Error> {
        let data = BTreeMap::from([(SCRIPT.to_owned(), ByteString(order.user_data.clone().into_bytes()))]);
        let secret = Secret { metadata: self.meta(order)?, data: Some(data), ..Secret::default() };
        let params = PostParams::default();
        // No pod was asked for yet, so whatever goes wrong here made none.
        let nothing_made = |e: CallError| error(Verb::Read, &e);
        match bounded(self.secrets.create(&params, &secret)).await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some(409) => {
                let there = bounded(self.secrets.get(&order.name)).await.map_err(nothing_made)?;
                if there.labels().get(POOL) != Some(&order.marks.pool) {
                    return Err(Error { class: Class::Invalid, message: format!("a Secret {} of somebody else is there", order.name) });
                }
                let version = there.metadata.resource_version;
                let secret = Secret { metadata: ObjectMeta { resource_version: version, ..secret.metadata.clone() }, ..secret };
                let patch = Patch::Merge(&secret);
                bounded(self.secrets.patch(&order.name, &PatchParams::default(), &patch)).await.map(drop).map_err(nothing_made)
            }
            Err(e) => Err(nothing_made(e)),
        }
    }

    /// Makes the pod the owner of its script. Where that fails the script goes with the pool.
    async fn hand_over(&self, vm: &Vm) {
        let Some((name, uid)) = vm.id.split_once('/') else { return };
        if let Err(error) = hand_over(&self.secrets, name, uid).await {
            tracing::warn!(pod = name, error = error.message(), "its script does not belong to it");
        }
    }

    /// The pod of that name, if it is the pool's for the same slot and epoch and there to stay.
    async fn namesake(&self, order: &Order) -> Result<Vm, Error> {
        let named = ListParams::default().fields(&format!("metadata.name={}", order.name));
        let pods = bounded(self.pods.list(&named)).await.map_err(|e| error(Verb::Read, &e))?;
        let Some(pod) = pods.items.first() else {
            return Err(Error { class: Class::Transient, message: format!("an earlier pod {} has just gone", order.name) });
        };
        match vm(&order.marks.pool, pod) {
            Some(vm) if vm.phase == Phase::Deleting => {
                Err(Error { class: Class::Transient, message: format!("an earlier pod {} is still going", order.name) })
            }
            Some(vm) if (vm.marks.slot, vm.marks.epoch) == (order.marks.slot, order.marks.epoch) => Ok(vm),
            _ => Err(Error { class: Class::Invalid, message: format!("a pod {} of somebody else is there", order.name) }),
        }
    }
}

impl Cloud for Kubernetes {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        async move { self.labelled(pool, &format!("{POOL}={pool}")).await }.boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        let selector = format!("{POOL}={},{NONCE}={}", marks.pool, marks.nonce);
        async move { Ok(marks::of_attempt(self.labelled(&marks.pool, &selector).await?, marks)) }.boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        async {
            let pod = self.pod(order)?;
            self.leave_script(order).await?;
            let made = match bounded(self.pods.create(&PostParams::default(), &pod)).await {
                Ok(pod) => vm(&order.marks.pool, &pod).ok_or_else(|| Error {
                    class: Class::Unknown,
                    message: "Kubernetes: the answer to an order has no pod of ours".into(),
                })?,
                Err(e) if e.code() == Some(409) => self.namesake(order).await?,
                Err(e) => return Err(error(Verb::Change, &e)),
            };
            self.hand_over(&made).await;
            Ok(made)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let (name, uid) = id
                .split_once('/')
                .filter(|(name, uid)| !name.is_empty() && !uid.is_empty())
                .ok_or_else(|| Error { class: Class::Invalid, message: "no id of a pod".into() })?;
            let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
            match bounded(self.pods.delete(name, &DeleteParams { preconditions, ..DeleteParams::default() })).await {
                Ok(_) => {}
                // Another of that name is not the one that was meant, which is gone; the script is the other's.
                Err(e) if e.code() == Some(409) => return Ok(()),
                Err(e) if e.code() == Some(404) => {}
                Err(e) => return Err(error(Verb::Change, &e)),
            }
            // Also one that was not handed over. A mounted script stays until its pod is gone.
            match bounded(self.secrets.delete(name, &DeleteParams::default())).await {
                Ok(_) => Ok(()),
                Err(e) if e.code() == Some(404) => Ok(()),
                Err(e) => Err(error(Verb::Change, &e)),
            }
        }
        .boxed()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { idempotent_create: false, unique_names: true, settle_seconds: 0 }
    }

    fn rate(&self) -> Rate {
        Rate::default()
    }
}

async fn hand_over(secrets: &Api<Secret>, name: &str, uid: &str) -> Result<(), CallError> {
    let owners = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]}});
    bounded(secrets.patch_metadata(name, &PatchParams::default(), &Patch::Merge(owners))).await.map(drop)
}

/// Lets the pool's pods outlive it: those that were made while they were to go with it belong to it, and would be collected
/// by the cluster once it is gone. Each takes its script along.
pub async fn let_go(client: &Client, namespace: &str, pool: &str) -> Result<(), CallError> {
    let (pods, secrets) = (Api::<Pod>::namespaced(client.clone(), namespace), Api::<Secret>::namespaced(client.clone(), namespace));
    for pod in bounded(pods.list(&ListParams::default().labels(&format!("{POOL}={pool}")))).await? {
        let owners = pod.metadata.owner_references.clone().unwrap_or_default();
        let others: Vec<_> = owners.iter().filter(|owner| owner.uid != pool).collect();
        if others.len() == owners.len() {
            continue;
        }
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        match hand_over(&secrets, &name, &uid).await {
            Err(e) if e.code() != Some(404) => return Err(e),
            Ok(()) | Err(_) => {}
        }
        // By its UID: one that was made anew under the name is none of this.
        let change = json!({"metadata": {"uid": uid, "ownerReferences": others}});
        match bounded(pods.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(change))).await {
            Err(e) if !matches!(e.code(), Some(404 | 409)) => return Err(e),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn vm(pool: &str, pod: &Pod) -> Option<Vm> {
    let made = pod.metadata.creation_timestamp.as_ref().and_then(|at| chrono::DateTime::from_timestamp(at.0.as_second(), 0));
    let marks = marks::read(pool, pod.labels().iter().map(|(mark, value)| (&**mark, &**value)), made)?;
    let status = pod.status.as_ref();
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        _ if pod.metadata.deletion_timestamp.is_some() => Phase::Deleting,
        None | Some("Pending") => Phase::Starting,
        Some("Succeeded" | "Failed") => Phase::Stopped,
        // What is true of "Unknown" shows when the proxy is asked.
        Some(_) => Phase::Running,
    };
    let id = format!("{}/{}", pod.metadata.name.as_ref()?, pod.metadata.uid.as_ref()?);
    Some(Vm { id, marks, phase, address: status.and_then(|status| address(status.pod_ip.as_deref()?)) })
}

const NO_RIGHTS: &str = "; the operator needs the rights of its pools role in this namespace (the chart's proxyPools.namespaces)";

/// What the API server means. Its own text is not repeated but for its reason: it quotes what was sent.
fn error(verb: Verb, error: &CallError) -> Error {
    let CallError::Api(kube::Error::Api(status)) = error else {
        let class = if verb == Verb::Read { Class::Transient } else { Class::Unknown };
        return Error { class, message: "Kubernetes: no answer".into() };
    };
    let retry_after = || status.details.as_ref().map(|details| details.retry_after_seconds).filter(|s| *s > 0).map(u64::from);
    let class = match status.code {
        403 if status.message.contains("exceeded quota") => Class::Quota,
        401 | 403 => Class::Auth,
        404 => Class::NotFound,
        409 => Class::Transient,
        429 => Class::Throttled(retry_after().map(std::time::Duration::from_secs)),
        400..=499 => Class::Invalid,
        _ if verb == Verb::Read => Class::Transient,
        _ => Class::Unknown,
    };
    let hint = if status.code == 403 && class == Class::Auth { NO_RIGHTS } else { "" };
    Error { class, message: format!("Kubernetes answered {} {}{hint}", status.code, status.reason) }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;

//! Every write of the operator: guarded, bounded in time, counted, and its answer taken into the index.

use std::sync::Arc;
use std::time::Duration;

use json_patch::PatchOperation;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::api::{RollingUpdateStatus, names};
use crate::rollout::build::Owner;
use crate::rollout::model::{Action, LateCreate, LiveCheck, Target, Write, is_service_of, late_create};
use crate::runtime::lease::Leadership;
use crate::runtime::metrics::Metrics;

use super::SharedIndex;
use super::client::{self, CallError, bounded};
use super::facts::{Fact, Kind, Meta};
use super::patch;

/// What an API server says of a JSON Patch that does not fit the object.
const UNFIT: &str = "the server rejected our request due to an error in our request";

/// How often, and after which pause, it is tried to take back what came too late.
const TAKES_BACK: usize = 30;
const TAKE_BACK_AGAIN: Duration = Duration::from_secs(2);

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else is the leader, or may be.
    #[error("not the leader any more")]
    NotLeader,
    /// The object was not as expected; look again.
    #[error("{0} is not as it was when this was decided: {1}")]
    Stale(Target, String),
    /// The API server will never take this.
    #[error("{0}: {1}")]
    Refused(Target, String),
    /// The API server does not take this as things are, although nothing has changed.
    #[error("{0}: {1}")]
    Denied(Target, String),
    /// It may work later.
    #[error("{0}: {1}")]
    Later(Target, String),
}

/// The way to the API server for whoever applies plans.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    index: Arc<SharedIndex>,
    leadership: Leadership,
    metrics: Metrics,
}

impl Writer {
    /// A writer that writes only while `leadership` is held.
    pub fn new(client: Client, index: Arc<SharedIndex>, leadership: Leadership, metrics: Metrics) -> Self {
        Self { client, index, leadership, metrics }
    }

    /// The term in which this process leads.
    pub fn term(&self) -> Option<u64> {
        self.leadership.term()
    }

    /// Carries out one action for that RollingUpdate.
    pub async fn act(&self, update: &Meta, action: &Action) -> Result<(), WriteError> {
        for check in &action.live {
            self.check(check).await?;
        }
        match &action.write {
            Write::Patch(target, ops) => self.patch(target, ops.clone(), None).await,
            Write::Create(target, object) => {
                let (writer, update, at, object) = (self.clone(), update.clone(), target.clone(), object.clone());
                // Apart: who loses the lead in the middle must still see what became of it.
                let created = tokio::spawn(async move { writer.create(&update, &at, &object).await });
                created.await.unwrap_or_else(|broken| Err(WriteError::Later(target.clone(), broken.to_string())))
            }
            Write::Delete(target, uid) => self.delete(target, uid).await,
            Write::DeleteServices { owner, services } => self.delete_services(owner, services).await,
        }
    }

    /// Replaces the status of a RollingUpdate, if nobody has written the object since it was looked at and these things are so.
    pub async fn status(&self, meta: &Meta, status: &RollingUpdateStatus, live: &[LiveCheck]) -> Result<(), WriteError> {
        for check in live {
            self.check(check).await?;
        }
        let target = Target::of(Kind::RollingUpdate, meta);
        let ops = vec![patch::only_at(meta), patch::add("/status", serde_json::to_value(status).unwrap_or_default())];
        self.patch(&target, ops, Some("status")).await
    }

    async fn patch(&self, target: &Target, ops: Vec<PatchOperation>, subresource: Option<&str>) -> Result<(), WriteError> {
        let api = client::api(&self.client, target.kind, &target.key.namespace);
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Json::<()>(json_patch::Patch(ops));
        let answer = match subresource {
            None => self.send(target, "patch", api.patch(&target.key.name, &params, &patch)).await?,
            Some(sub) => self.send(target, "patch", api.patch_subresource(sub, &target.key.name, &params, &patch)).await?,
        };
        match answer {
            Ok(object) => self.learn(target.kind, object),
            // A failed `test` is a 422, a version that has passed a 409, an object that is gone a 404.
            Err(e) if matches!(e.code(), Some(403 | 404 | 409 | 422)) => {
                // An admission policy's no is a 422 as well, or a 403; then the object is as it was.
                // The watch may have told of the change already, so the API server's words for a failed `test` count too.
                let changed = self.look_again(target).await;
                let outdated = changed || e.code() == Some(409) || e.message().starts_with(UNFIT);
                let reason = if outdated { WriteError::Stale } else { WriteError::Denied };
                return Err(reason(target.clone(), e.message()));
            }
            Err(e) => return Err(later(target, &e)),
        }
        Ok(())
    }

    async fn create(&self, update: &Meta, target: &Target, object: &Value) -> Result<(), WriteError> {
        let term = self.leadership.term();
        let api = client::api(&self.client, target.kind, &target.key.namespace);
        let object: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|e| WriteError::Refused(target.clone(), e.to_string()))?;
        let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
        match self.send(target, "create", api.create(&params, &object)).await? {
            Ok(object) => {
                let uid = object.uid().unwrap_or_default();
                self.learn(target.kind, object);
                if self.leadership.term() != term {
                    self.take_back(update, target, &uid).await;
                    return Err(WriteError::NotLeader);
                }
            }
            // It is there: ours by a reply that got lost, or somebody's. The next look tells.
            Err(e) if e.code() == Some(409) => {
                self.look_again(target).await;
                return Err(WriteError::Stale(target.clone(), e.message()));
            }
            Err(e) if matches!(e.code(), Some(400 | 403 | 422)) => return Err(WriteError::Refused(target.clone(), e.message())),
            Err(e) => return Err(later(target, &e)),
        }
        Ok(())
    }

    /// A request that was on its way while another process led may have arrived when its update wanted it no more. Then
    /// nobody would ever take away what it made, and this is the only write that needs no lead: it touches exactly what
    /// was just created here. While the update wants it, it is its leader's to judge.
    async fn take_back(&self, update: &Meta, target: &Target, uid: &str) {
        let api = client::api(&self.client, Kind::RollingUpdate, &update.namespace);
        for _ in 0..TAKES_BACK {
            let call = match bounded(api.get_opt(&update.name)).await {
                Ok(found) => {
                    let same = found.filter(|object| object.uid().as_ref() == Some(&update.uid));
                    late_create(same.map(|object| status_of(&object)).as_ref(), target)
                }
                Err(e) => {
                    tracing::warn!(update = %update.key(), error = e.message(), "could not look whether it is wanted");
                    LateCreate::Waits
                }
            };
            if call == LateCreate::Stays {
                return;
            }
            if call == LateCreate::Goes {
                tracing::warn!(update = %update.key(), %target, "taking back what was made for an update that does not want it any more");
                let api = client::api(&self.client, target.kind, &target.key.namespace);
                match self.sent(target, "delete", api.delete(&target.key.name, &exactly(target.kind, uid))).await {
                    Err(e) if !matches!(e.code(), Some(404 | 409)) => tracing::warn!(%target, error = e.message(), "trying again"),
                    _ => return,
                }
            }
            tokio::time::sleep(TAKE_BACK_AGAIN).await;
        }
    }

    async fn delete(&self, target: &Target, uid: &str) -> Result<(), WriteError> {
        let api = client::api(&self.client, target.kind, &target.key.namespace);
        match self.send(target, "delete", api.delete(&target.key.name, &exactly(target.kind, uid))).await? {
            Ok(_) => self.look_again(target).await,
            Err(e) if matches!(e.code(), Some(404 | 409)) => self.look_again(target).await,
            Err(e) if matches!(e.code(), Some(403 | 422)) => return Err(WriteError::Denied(target.clone(), e.message())),
            Err(e) => return Err(later(target, &e)),
        };
        Ok(())
    }

    /// One request for both Services; if the label finds anything that is not ours, each by its UID instead.
    async fn delete_services(&self, owner: &Owner, services: &[(String, String)]) -> Result<(), WriteError> {
        let api = client::api(&self.client, Kind::Service, &owner.namespace);
        let selector = format!("{}={}", names::RELEASE, owner.release);
        let target = |name: &str| Target { kind: Kind::Service, key: super::facts::Key::new(&owner.namespace, name) };
        let all = target("*");
        let listed = bounded(api.list(&ListParams::default().labels(&selector))).await.map_err(|e| later(&all, &e))?;
        let ours = |object: &DynamicObject| match Fact::read(Kind::Service, object.clone()) {
            Fact::Service(service) => is_service_of(&service, &owner.uid),
            _ => false,
        };
        if listed.items.len() < 2 || !listed.items.iter().all(ours) {
            for object in listed.items.iter().filter(|o| ours(o)) {
                self.delete(&target(&object.name_any()), &object.uid().unwrap_or_default()).await?;
            }
        } else {
            let (params, labelled) = (DeleteParams::default(), ListParams::default().labels(&selector));
            let call = api.delete_collection(&params, &labelled);
            self.send(&all, "deletecollection", call).await?.map_err(|e| later(&all, &e))?;
        }
        for (name, uid) in services {
            if listed.items.iter().any(|o| o.name_any() == *name) {
                self.index.lock().delete(Kind::Service, &target(name).key, uid);
            } else {
                // Somebody has taken its label away, or it is gone.
                self.delete(&target(name), uid).await?;
            }
        }
        Ok(())
    }

    /// Reads what a destructive write depends on.
    async fn check(&self, check: &LiveCheck) -> Result<(), WriteError> {
        let target = check.target();
        let api = client::api(&self.client, target.kind, &target.key.namespace);
        let found = bounded(api.get_opt(&target.key.name)).await.map_err(|e| later(&target, &e))?;
        let holds = check.holds(found.clone().map(|object| Fact::read(target.kind, object)).as_ref());
        if let Some(object) = found {
            self.learn(target.kind, object);
        }
        if holds { Ok(()) } else { Err(WriteError::Stale(target, "it is not as it was looked at".into())) }
    }

    /// Sends one mutating request, if still the leader.
    async fn send<T>(
        &self,
        target: &Target,
        verb: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Result<T, CallError>, WriteError> {
        if !self.leadership.is_held() {
            return Err(WriteError::NotLeader);
        }
        Ok(self.sent(target, verb, call).await)
    }

    /// Sends one mutating request, and counts it.
    async fn sent<T>(
        &self,
        target: &Target,
        verb: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let answer = bounded(call).await;
        let result = match &answer {
            Ok(_) => "ok".to_owned(),
            Err(e) => e.code().map_or_else(|| "none".to_owned(), |c| c.to_string()),
        };
        self.metrics.wrote(verb, target.kind.gvk().3, &result);
        tracing::debug!(verb, %target, namespace = target.key.namespace, result, "write");
        answer
    }

    fn learn(&self, kind: Kind, object: DynamicObject) {
        let fact = Fact::read(kind, object);
        let meta = fact.meta();
        if meta.deleting && meta.finalizers.is_empty() && kind == Kind::RollingUpdate {
            // That write took its last finalizer away: it is gone, and at no new version.
            let (key, uid) = (meta.key(), meta.uid.clone());
            self.index.lock().delete(kind, &key, &uid);
        } else {
            self.index.lock().apply(kind, fact);
        }
    }

    /// Reads one object again after a write that found it other than expected. Whether it is.
    async fn look_again(&self, target: &Target) -> bool {
        let before = self.index.lock().version(target.kind, &target.key);
        let api = client::api(&self.client, target.kind, &target.key.namespace);
        match bounded(api.get_opt(&target.key.name)).await {
            Ok(Some(object)) => self.learn(target.kind, object),
            Ok(None) => {
                let uid = self.index.lock().uid(target.kind, &target.key);
                if let Some(uid) = uid {
                    self.index.lock().delete(target.kind, &target.key, &uid);
                }
            }
            // The watch will tell.
            Err(e) => tracing::debug!(%target, error = %e, "could not look again"),
        }
        before != self.index.lock().version(target.kind, &target.key)
    }
}

/// What an update says of itself; nothing, where it cannot be read.
fn status_of(update: &DynamicObject) -> RollingUpdateStatus {
    update.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default()
}

/// How to delete exactly that object.
fn exactly(kind: Kind, uid: &str) -> DeleteParams {
    DeleteParams {
        // A Deployment goes after its pods: nothing of it can appear once it is gone.
        propagation_policy: (kind == Kind::Deployment).then_some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

fn later(target: &Target, error: &CallError) -> WriteError {
    WriteError::Later(target.clone(), error.message())
}

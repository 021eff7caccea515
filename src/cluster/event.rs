//! Events: one per change of state and per refusal, for `kubectl describe`. Never the only record.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::api::ProxyPool;
use crate::pool;
use crate::rollout::model::Note;

use super::client::bounded;
use super::facts::{Kind, Meta};

/// Longest action an Event may carry.
const MAX_ACTION: usize = 128;
/// Longest text an Event may carry.
const MAX_NOTE: usize = 1000;

/// Publishes Events; one for the process, since it folds repeats.
#[derive(Clone)]
pub struct Publisher(Recorder);

impl Publisher {
    /// A publisher that signs with the operator's name.
    pub fn new(client: Client, instance: &str) -> Self {
        Self(Recorder::new(client, Reporter { controller: crate::api::names::FIELD_MANAGER.into(), instance: Some(instance.to_owned()) }))
    }

    /// Publishes one note about a RollingUpdate. What fails is only logged: the status says it too.
    pub async fn publish(&self, meta: &Meta, note: &Note) {
        let (group, version, kind, _) = Kind::RollingUpdate.gvk();
        // The action is part of what tells Events apart: without it, those of the next version or ratio would fold into these.
        self.send(&format!("{group}/{version}"), kind, meta, note.warning, &note.reason, [&note.about, &note.message]).await;
    }

    /// Publishes one note about a ProxyPool. Each line is about other proxies, so it tells Events apart by itself.
    pub async fn publish_of_pool(&self, meta: &Meta, note: &pool::model::Note) {
        let (group, version) = (ProxyPool::group(&()), ProxyPool::version(&()));
        let text = [&*note.message, &note.message];
        self.send(&format!("{group}/{version}"), &ProxyPool::kind(&()), meta, note.warning, note.reason, text).await;
    }

    async fn send(&self, api: &str, kind: &str, meta: &Meta, warning: bool, reason: &str, [action, text]: [&str; 2]) {
        let about = ObjectReference {
            api_version: Some(api.into()),
            kind: Some(kind.into()),
            namespace: Some(meta.namespace.clone()),
            name: Some(meta.name.clone()),
            uid: Some(meta.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(text.chars().take(MAX_NOTE).collect()),
            action: action.chars().take(MAX_ACTION).collect(),
            secondary: None,
        };
        if let Err(error) = bounded(self.0.publish(&event, &about)).await {
            tracing::debug!(name = meta.name, %error, "event not published");
        }
    }
}

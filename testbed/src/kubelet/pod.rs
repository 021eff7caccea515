//! The few fields of a pod that the pod server looks at.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::behaviour::PREFIX;
use crate::image;

/// Which pod: a name may come back with another uid, an address with another pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl PodKey {
    /// The key of a pod as the API server gave it; `None` for one without name or uid, which it never gives.
    pub fn of(pod: &Pod) -> Option<Self> {
        Some(Self { namespace: pod.metadata.namespace.clone()?, name: pod.metadata.name.clone()?, uid: pod.metadata.uid.clone()? })
    }
}

/// What a pod wants: everything that may change while it runs, and nothing that the pod server writes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Containers, with name and image.
    pub containers: Vec<(String, String)>,
    /// Init containers, with name and image.
    pub init_containers: Vec<(String, String)>,
    /// Whether the first container is really run, and not played.
    pub real: bool,
    /// TCP ports of all containers, each once.
    pub ports: Vec<u16>,
    /// The annotations for the pod server, without their prefix.
    pub annotations: BTreeMap<String, String>,
    /// Whether a container that ended with an error is started again.
    pub restarts_after_error: bool,
    /// Whether the pod is meant to end by itself, as a Job's pods are.
    pub completes: bool,
    /// If the pod is being deleted: the time its application has after SIGTERM.
    pub grace: Option<Duration>,
}

impl Wish {
    /// Whether a container that ended with this code is started again.
    pub fn restarts(&self, code: u8) -> bool {
        if code == 0 { !self.completes } else { self.restarts_after_error }
    }

    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let named = |list: &[Container]| -> Vec<_> { list.iter().map(|c| (c.name.clone(), c.image.clone().unwrap_or_default())).collect() };
        let mut ports: Vec<u16> = containers
            .iter()
            .flat_map(|container| container.ports.iter().flatten())
            .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
            .filter_map(|port| u16::try_from(port.container_port).ok())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let policy = spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        let grace = pod.metadata.deletion_timestamp.as_ref().map(|_| {
            let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        });
        Self {
            containers: named(containers),
            real: containers.first().and_then(|container| container.image.as_deref()).is_some_and(image::is_ours),
            init_containers: named(init),
            ports,
            annotations: pod
                .metadata
                .annotations
                .iter()
                .flatten()
                .filter_map(|(name, text)| Some((name.strip_prefix(PREFIX)?.to_owned(), text.clone())))
                .collect(),
            restarts_after_error: policy != "Never",
            completes: policy != "Always",
            grace,
        }
    }
}

/// What the status of a pod says when the pod server first sees it: not empty if the server itself was restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The pod's address.
    pub ip: Option<Ipv4Addr>,
    /// When the pod was accepted by its node.
    pub accepted: Option<DateTime<Utc>>,
    /// When the first container was started, if it runs.
    pub running: Option<DateTime<Utc>>,
    /// How often the first container was restarted.
    pub restarts: u32,
    /// Whether the pod is ready, and since when it is or is not.
    pub ready: Option<(bool, DateTime<Utc>)>,
    /// Whether all has ended: phase Succeeded or Failed.
    pub ended: bool,
}

impl Found {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let Some(status) = &pod.status else { return Self::default() };
        let container = status.container_statuses.iter().flatten().next();
        let running = container.and_then(|container| container.state.as_ref()?.running.as_ref()?.started_at.as_ref());
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        Self {
            ip: status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()),
            accepted: status.start_time.as_ref().and_then(chrono),
            running: running.and_then(chrono),
            restarts: container.and_then(|container| u32::try_from(container.restart_count).ok()).unwrap_or(0),
            ready: ready.and_then(|ready| Some((ready.status == "True", chrono(ready.last_transition_time.as_ref()?)?))),
            ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        }
    }
}

fn chrono(time: &Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(time.0.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_it_needs() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web-1", "uid": "u",
                "annotations": {"testbed.aether.dev/latency": "1s", "other": "x"},
                "deletionTimestamp": "2030-01-01T00:00:30Z", "deletionGracePeriodSeconds": 7,
            },
            "spec": {"containers": [
                {"name": "app", "image": "web:1", "ports": [
                    {"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80, "protocol": "TCP"},
                ]},
                {"name": "side", "ports": [{"containerPort": 9000}]},
            ]},
            "status": {
                "podIP": "10.244.0.9", "phase": "Running", "startTime": "2030-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:03Z"}],
                "containerStatuses": [{"name": "app", "image": "web:1", "imageID": "", "ready": true, "restartCount": 2,
                    "state": {"running": {"startedAt": "2030-01-01T00:00:01Z"}}}],
            },
        }))
        .unwrap();
        let wish = Wish::of(&pod);
        assert_eq!(wish.ports, [80, 9000]);
        assert_eq!(wish.annotations, BTreeMap::from([("latency".to_owned(), "1s".to_owned())]));
        assert_eq!(wish.grace, Some(Duration::from_secs(7)));
        assert!(wish.restarts_after_error && !wish.completes);
        let at = |second: i64| DateTime::from_timestamp(1_893_456_000 + second, 0);
        let found = Found::of(&pod);
        assert_eq!(found.running, at(1));
        assert_eq!(found.ready, at(3).map(|at| (true, at)));
        assert_eq!((found.ip, found.restarts), (Some(Ipv4Addr::new(10, 244, 0, 9)), 2));
    }
}

//! The pod server: kubelet and application of every pod that is bound to a node.
//!
//! The kernel answers for every address of the pod network (a `local` route to `lo`), so that a pod needs no more than a
//! listener on its own address. One task per pod, no thread: a thousand pods cost little.
//!
//! Order of things as with a real kubelet: the application listens before the pod is said to run; a pod that is deleted
//! serves on for a while, answers what is in flight, closes, is said to have ended and only then is removed. A pod that
//! vanished without that (a forced deletion) is closed at once.
//!
//! The application is steered by annotations of the pod, see [`behaviour`]; the pod's own probes and hooks are not run.
//!
//! Pods of the operator's image are no play: their first container is a process of the built program, see [`container`]. Of the
//! annotations they know `image-pull-error` and `crash-after`.
//!
//! Annotations, all starting with `testbed.aether.dev/`; durations are `20ms`, `1.5s`, `2m`:
//!
//! | annotation | value | meaning |
//! |---|---|---|
//! | `version` | text | what the header `x-version` says (default: the tag of the first container's image) |
//! | `latency` | duration | how long an answer takes |
//! | `latency-p99` | duration | how long every 50th answer takes |
//! | `error-rate` | 0 to 1 | share of answers with status 500, by a fixed pattern: exact |
//! | `error-after` | duration | the errors begin that long after the container's start |
//! | `readiness-delay` | duration or `never` | when the pod becomes ready (default 1 s) |
//! | `flap` | duration | readiness toggles with this period |
//! | `crash-after` | duration | the container exits with code 1, again and again: `CrashLoopBackOff` |
//! | `image-pull-error` | `true` | `ErrImagePull`, then `ImagePullBackOff`: never runs |
//! | `shutdown` | duration | how long the application accepts connections after SIGTERM (default 3 s); then it answers what is in flight, and all that within the grace period |
//! | `drop-on-shutdown` | `true` | at SIGTERM everything is cut |
//! | `more-series` | number | what its page of metrics shows besides requests |
//! | `counts-everything` | `true` | requests are counted by path, and those for the page of metrics as well |
//!
//! They may be edited on the live pod. A value that cannot be read, or a name that is not in this list, stops the container
//! with `CreateContainerConfigError` and says why.
//!
//! `kubectl logs` shows what each pod said, see [`logs`]: its start, its readiness, its answers with an error and its end.

pub mod behaviour;

mod addresses;
mod app;
mod container;
mod given;
mod life;
mod logs;
mod metrics;
mod pod;
mod status;
mod worker;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use addresses::Addresses;
use logs::Logs;
use pod::{Found, PodKey, Wish};
use worker::Node;

use crate::tls::Listener;

/// The port of a node's kubelet, which has the pods' logs.
pub const PORT: u16 = 10250;

/// Settings of the pod server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The network that pods get their addresses from, with its prefix length.
    pub pod_cidr: (Ipv4Addr, u8),
    /// The address of all nodes.
    pub host_ip: Ipv4Addr,
    /// Where an application listens whose containers name no port.
    pub port: u16,
    /// How long after its start an application is ready.
    pub readiness_delay: Duration,
    /// How long an application accepts connections after SIGTERM.
    pub shutdown: Duration,
    /// Wait before the second restart of a crashing container (the first is at once); doubles up to five minutes.
    pub crash_back_off: Duration,
    /// How many requests to the API server may be under way at once.
    pub requests: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pod_cidr: (Ipv4Addr::new(10, 244, 0, 0), 16),
            host_ip: Ipv4Addr::LOCALHOST,
            port: 8080,
            readiness_delay: Duration::from_secs(1),
            shutdown: Duration::from_secs(3),
            crash_back_off: Duration::from_secs(10),
            requests: 16,
        }
    }
}

/// One pod that is served.
struct Served {
    resource_version: Option<u64>,
    wishes: watch::Sender<Wish>,
    _log: logs::Entry,
    /// Ends the pod's task, and with it its listeners and connections, when the entry is dropped.
    _task: AbortOnDropHandle<()>,
}

/// Serves all pods that are bound to a node until the future is dropped; then every pod is gone at once. Pods that the
/// API server says are running are taken up with the address they have. The listener is where the API server asks for logs;
/// below `dir` are the root folders of containers that are really run.
pub async fn run(client: kube::Client, listener: Listener, dir: PathBuf, options: Options) -> anyhow::Result<()> {
    let pods = Pods::new(client.clone(), dir, options);
    let logs = logs::router(pods.logs.clone());
    tokio::select! {
        ended = play(client, pods) => ended,
        ended = axum::serve(listener, logs).into_future() => ended.context("the server of logs has ended"),
    }
}

async fn play(client: kube::Client, mut pods: Pods) -> anyhow::Result<()> {
    // Some proxies end quiet connections after four minutes; ask for less.
    let config = watcher::Config::default().fields("spec.nodeName!=").timeout(200);
    let mut events = pin!(watcher::watcher(Api::<Pod>::all(client), config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => pods.take(event),
            Err(error) => warn!("watch of pods: {error}"),
        }
    }
    anyhow::bail!("the watch of pods has ended")
}

/// All pods that are served.
struct Pods {
    node: Node,
    served: HashMap<PodKey, Served>,
    logs: Logs,
    listed: Vec<Seen>,
}

impl Pods {
    fn new(client: kube::Client, dir: PathBuf, options: Options) -> Self {
        let node = Node {
            addresses: Addresses::new(options.pod_cidr),
            requests: Arc::new(Semaphore::new(options.requests.max(1))),
            options: Arc::new(options),
            client,
            dir,
        };
        Self { node, served: HashMap::new(), logs: Logs::default(), listed: Vec::new() }
    }

    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => self.listed.extend(Seen::of(&pod)),
            Event::InitDone => {
                let mut listed = std::mem::take(&mut self.listed);
                // Pods that were deleted while nobody watched are in no event: they are those that the list lacks.
                let keys: HashSet<_> = listed.iter().map(|seen| &seen.key).collect();
                self.served.retain(|key, _| keys.contains(key));
                // Who has an address keeps it: new pods choose from what is left.
                listed.sort_by_key(|seen| seen.found.ip.is_none());
                for seen in listed {
                    self.apply(seen);
                }
            }
            Event::Apply(pod) => {
                if let Some(seen) = Seen::of(&pod) {
                    self.apply(seen);
                }
            }
            Event::Delete(pod) => {
                if let Some(key) = PodKey::of(&pod) {
                    self.served.remove(&key);
                }
            }
        }
    }

    /// Tells a pod's task what the pod wants, or starts the task.
    fn apply(&mut self, seen: Seen) {
        let Seen { key, resource_version, wish, found } = seen;
        if let Some(served) = self.served.get_mut(&key) {
            // A list may be older than what the watch before it has shown.
            if resource_version >= served.resource_version {
                served.resource_version = resource_version;
                served.wishes.send_if_modified(|old| std::mem::replace(old, wish.clone()) != wish);
            }
            return;
        }
        let lease = found.ip.and_then(|ip| self.node.addresses.take_back(ip));
        let (wishes, receiver) = watch::channel(wish);
        let entry = self.logs.open(&key);
        let task = tokio::spawn(worker::run(self.node.clone(), key.clone(), found, lease, entry.log(), receiver));
        self.served.insert(key, Served { resource_version, wishes, _log: entry, _task: AbortOnDropHandle::new(task) });
    }
}

/// A pod as the API server showed it.
struct Seen {
    key: PodKey,
    resource_version: Option<u64>,
    wish: Wish,
    found: Found,
}

impl Seen {
    fn of(pod: &Pod) -> Option<Self> {
        let resource_version = pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        Some(Self { key: PodKey::of(pod)?, resource_version, wish: Wish::of(pod), found: Found::of(pod) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpStream;
    use tokio::time::sleep;

    use super::*;

    /// Pods on loopback addresses, with an API server that is not there.
    fn pods(third: u8) -> Pods {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let options = Options { pod_cidr: (Ipv4Addr::new(127, 98, third, 0), 24), ..Options::default() };
        Pods::new(kube::Client::try_from(config).unwrap(), PathBuf::new(), options)
    }

    fn pod(uid: &str, version: u32, ip: Option<&str>) -> Pod {
        let status = ip.map(|ip| {
            let state = json!({"running": {"startedAt": "2030-01-01T00:00:00Z"}});
            let app = json!({"name": "app", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0, "state": state});
            json!({"phase": "Running", "podIP": ip, "containerStatuses": [app]})
        });
        let app = json!({"name": "app", "image": "web:1", "ports": [{"containerPort": 18_081}]});
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-0", "uid": uid, "resourceVersion": version.to_string()},
            "spec": {"nodeName": "node-1", "containers": [app]}, "status": status,
        }))
        .unwrap()
    }

    async fn answers(ip: &str) -> bool {
        sleep(Duration::from_millis(100)).await;
        TcpStream::connect((ip, 18_081)).await.is_ok()
    }

    #[tokio::test]
    async fn a_list_ends_the_pods_that_it_lacks() {
        let mut pods = pods(1);
        pods.take(Event::Apply(pod("a", 5, None)));
        assert!(answers("127.98.1.1").await);
        // The same name, another pod: its address is its own.
        for event in [Event::Init, Event::InitApply(pod("b", 9, Some("127.98.1.7"))), Event::InitDone] {
            pods.take(event);
        }
        assert!(!answers("127.98.1.1").await);
        assert!(answers("127.98.1.7").await);
        pods.take(Event::Delete(pod("b", 10, None)));
        assert!(!answers("127.98.1.7").await);
    }

    #[tokio::test]
    async fn running_pods_keep_their_addresses_and_new_ones_get_others() {
        let mut pods = pods(2);
        let listed = [pod("new", 5, None), pod("old", 6, Some("127.98.2.1"))].map(Event::InitApply);
        for event in [Event::Init].into_iter().chain(listed).chain([Event::InitDone]) {
            pods.take(event);
        }
        assert!(answers("127.98.2.1").await);
        assert!(answers("127.98.2.2").await);
        pods.take(Event::Delete(pod("old", 7, None)));
        assert!(!answers("127.98.2.1").await);
    }

    #[tokio::test]
    async fn what_is_older_than_known_is_ignored() {
        let mut pods = pods(3);
        let mut dying = pod("a", 9, None);
        dying.metadata.deletion_grace_period_seconds = Some(30);
        dying.metadata.deletion_timestamp = serde_json::from_value(json!("2030-01-01T00:00:30Z")).unwrap();
        pods.take(Event::Apply(dying));
        pods.take(Event::Apply(pod("a", 5, None)));
        assert!(pods.served.values().all(|served| served.wishes.borrow().grace.is_some()));
    }
}

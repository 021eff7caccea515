//! Where the proxies of a case really are: a cloud of its own, or pods of the cluster. Both say what happened in the same
//! words, so that they are judged in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use testbed::fake_cloud::{Dialect, End, FakeCloud, Order, Truth, Vm};

/// The world of one case.
pub enum World {
    Cloud(FakeCloud),
    /// Pods with that pool's UID.
    Pods(Pods, String),
}

impl World {
    /// The cloud, if it is one.
    pub fn cloud(&self) -> Option<&FakeCloud> {
        if let Self::Cloud(cloud) = self { Some(cloud) } else { None }
    }

    pub fn truth(&self) -> Truth {
        match self {
            Self::Cloud(cloud) => cloud.truth(),
            Self::Pods(pods, pool) => pods.truth().only(|vm| vm.mark("aether-pool") == Some(pool)),
        }
    }

    /// Faults that have not struck as often as they should.
    pub fn faults_left(&self) -> usize {
        self.cloud().map_or(0, FakeCloud::faults_left)
    }

    /// Waits until a call is held.
    pub async fn holds(&self) {
        match self.cloud() {
            Some(cloud) => cloud.holds().await,
            None => pending().await,
        }
    }

    /// What is held goes on.
    pub fn release(&self) {
        self.cloud().into_iter().for_each(FakeCloud::release);
    }
}

/// The pods of a namespace as they come and go, in the API server's order.
#[derive(Clone, Default)]
pub struct Pods(Arc<Mutex<BTreeMap<String, Vm>>>);

impl Pods {
    /// Begins to watch them.
    pub fn watch(client: &Client, namespace: &str) -> Self {
        let (all, pods) = (Self::default(), Api::<Pod>::namespaced(client.clone(), namespace));
        let seen = all.clone();
        tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(pods, watcher::Config::default()));
            let mut listed = BTreeSet::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(pod)) => seen.note(&pod, false),
                    Ok(Event::Delete(pod)) => seen.note(&pod, true),
                    // A watch that the API server has ended begins anew with a list: what went meanwhile is not on it.
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(pod)) => {
                        listed.extend(pod.uid());
                        seen.note(&pod, false);
                    }
                    Ok(Event::InitDone) => seen.only(&listed),
                    Err(_) => {}
                }
            }
        });
        all
    }

    fn note(&self, pod: &Pod, is_gone: bool) {
        let now = Utc::now();
        let mut all = self.0.lock().unwrap();
        let id = all.len() as u64 + 1;
        let vm = all.entry(pod.uid().unwrap_or_default()).or_insert_with(|| Vm {
            id,
            // None of these words has a meaning here.
            dialect: Dialect::Gce,
            account: String::new(),
            order: Order { name: pod.name_any(), tags: pod.labels().clone(), ..Order::default() },
            address: IpAddr::from(Ipv4Addr::UNSPECIFIED),
            born: now,
            boots: DateTime::<Utc>::MAX_UTC,
            addressed: now,
            unlocked: now,
            doomed: None,
            stops: None,
            ends: None,
        });
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if vm.boots > now && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True") {
            vm.boots = now;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            vm.doomed.get_or_insert(now);
        }
        if is_gone {
            vm.ends.get_or_insert((now, End::Deleted));
        }
    }

    fn only(&self, listed: &BTreeSet<String>) {
        let now = Utc::now();
        let mut all = self.0.lock().unwrap();
        for (_, vm) in all.iter_mut().filter(|(uid, _)| !listed.contains(*uid)) {
            vm.ends.get_or_insert((now, End::Deleted));
        }
    }

    fn truth(&self) -> Truth {
        Truth { now: Utc::now(), vms: self.0.lock().unwrap().values().cloned().collect(), calls: BTreeMap::new() }
    }
}

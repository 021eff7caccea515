//! The endpoints of one Service as a kube-proxy sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

/// Wait before the Service is looked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// Which addresses a new connection may go to.
#[derive(Debug, Default)]
pub struct Endpoints {
    usable: RwLock<Vec<SocketAddr>>,
    turn: AtomicUsize,
}

impl Endpoints {
    /// The address for the next connection, each in its turn, so that shares come out even; `None` if there is none.
    pub fn pick(&self) -> Option<SocketAddr> {
        let usable = self.usable.read().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        usable.get(turn.checked_rem(usable.len())?).copied()
    }

    fn set(&self, usable: Vec<SocketAddr>) {
        *self.usable.write().unwrap_or_else(PoisonError::into_inner) = usable;
    }
}

/// Keeps the endpoints of a Service up to date, each change taking effect `lag` after it was seen; the first list takes
/// effect at once and is told by `ready`. Runs until dropped.
pub async fn follow(
    client: kube::Client,
    (namespace, service, port): (String, String, u16),
    lag: Duration,
    endpoints: Arc<Endpoints>,
    ready: watch::Sender<bool>,
) {
    let port_name = port_name(Api::namespaced(client.clone(), &namespace), &service, port).await;
    let (changes, mut delayed) = mpsc::unbounded_channel::<(Instant, Vec<SocketAddr>)>();
    let late = async {
        while let Some((seen, usable)) = delayed.recv().await {
            sleep_until(seen + lag).await;
            endpoints.set(usable);
        }
    };
    let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}")).timeout(200);
    let now = async {
        let mut events = pin!(watcher::watcher(Api::<EndpointSlice>::namespaced(client, &namespace), config).default_backoff());
        let mut slices = BTreeMap::new();
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(slice)) => {
                    listed.insert(slice.name_any(), slice);
                    continue;
                }
                Ok(Event::InitDone) => slices = std::mem::take(&mut listed),
                Ok(Event::Apply(slice)) => {
                    slices.insert(slice.name_any(), slice);
                }
                Ok(Event::Delete(slice)) => {
                    slices.remove(&slice.name_any());
                }
                Err(error) => {
                    warn!(service, "watch of endpoint slices: {error}");
                    continue;
                }
            }
            let usable = usable(slices.values(), port_name.as_deref());
            if *ready.borrow() {
                // The receiver lives as long as this future.
                let _ = changes.send((Instant::now(), usable));
            } else {
                endpoints.set(usable);
                ready.send_replace(true);
            }
        }
    };
    tokio::join!(late, now);
}

/// The name of a Service's port, by which its slices call it. Waits for the Service.
async fn port_name(services: Api<Service>, service: &str, port: u16) -> Option<String> {
    loop {
        match timeout(Duration::from_secs(10), services.get(service)).await {
            Ok(Ok(found)) => {
                let ports = found.spec.and_then(|spec| spec.ports).unwrap_or_default();
                return ports.into_iter().find(|found| found.port == i32::from(port))?.name;
            }
            Ok(Err(error)) => warn!(service, "{error}"),
            Err(_) => warn!(service, "the API server does not answer"),
        }
        sleep(AGAIN).await;
    }
}

/// The addresses that a kube-proxy would use: the ready ones, and if there are none those that end but still serve.
fn usable<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port_name: Option<&str>) -> Vec<SocketAddr> {
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let name = port_name.unwrap_or_default();
        let port = ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name);
        let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            // Absent means unknown, to be taken as ready and as not ending.
            let set = if conditions.ready.unwrap_or(true) {
                &mut ready
            } else if conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false) {
                &mut ending
            } else {
                continue;
            };
            let addresses = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
            set.extend(addresses.map(|address| SocketAddr::from((address, port))));
        }
    }
    if ready.is_empty() { ending } else { ready }.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(endpoints: &[(&str, bool, bool, bool)]) -> EndpointSlice {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(ip, ready, serving, terminating)| {
                json!({"addresses": [ip], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
            })
            .collect();
        let ports = json!([{"name": "metrics", "port": 9000}, {"name": "http", "port": 8080}]);
        let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": endpoints, "ports": ports});
        serde_json::from_value(slice).unwrap()
    }

    fn text(slices: &[EndpointSlice], port: Option<&str>) -> Vec<String> {
        usable(slices.iter(), port).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ready_first_then_ending() {
        let ready = ("10.0.0.1", true, true, false);
        let ending = ("10.0.0.2", false, true, true);
        let unready = ("10.0.0.3", false, false, false);
        let dead = ("10.0.0.4", false, false, true);
        assert_eq!(text(&[slice(&[unready, ending]), slice(&[ready, dead])], Some("http")), ["10.0.0.1:8080"]);
        assert_eq!(text(&[slice(&[unready, ending, dead])], Some("http")), ["10.0.0.2:8080"]);
        assert!(text(&[slice(&[unready, dead])], Some("http")).is_empty());
        assert!(text(&[slice(&[ready])], Some("grpc")).is_empty());
        assert_eq!(text(&[slice(&[ready])], Some("metrics")), ["10.0.0.1:9000"]);
    }

    #[test]
    fn each_in_its_turn() {
        let endpoints = Endpoints::default();
        assert_eq!(endpoints.pick(), None);
        endpoints.set(vec![SocketAddr::from(([10, 0, 0, 1], 80)), SocketAddr::from(([10, 0, 0, 2], 80))]);
        let picked: BTreeSet<_> = (0..2).map(|_| endpoints.pick()).collect();
        assert_eq!(picked.len(), 2);
    }
}

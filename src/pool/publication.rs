//! How the proxies' addresses reach those who use them: a headless Service with EndpointSlices, and a Secret with URLs.
//! Pure: what is to be applied, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;

use crate::api::names;
use crate::cluster::facts::Meta;

use super::bootstrap::Login;

/// Endpoints of one slice; the API takes 1000.
const PER_SLICE: usize = 1000;
const PORT_NAME: &str = "proxy";

/// Everything that is told about a pool's proxies.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Where the proxies listen that serve and stay.
    pub serving: BTreeSet<SocketAddr>,
    /// Where new ones will.
    pub port: u16,
    /// As whom they are used.
    pub login: Option<Login>,
}

impl Publication {
    /// The headless Service without a selector, named like the pool.
    pub fn service(&self, pool: &Meta) -> Service {
        let port = ServicePort { name: Some(PORT_NAME.into()), port: self.port.into(), ..ServicePort::default() };
        let spec = ServiceSpec { cluster_ip: Some("None".into()), ports: Some(vec![port]), ..ServiceSpec::default() };
        Service { metadata: meta(pool, pool.name.clone()), spec: Some(spec), ..Service::default() }
    }

    /// Its slices, for either family at least one: what served before must not stay in one that is left alone.
    pub fn slices(&self, pool: &Meta) -> Vec<EndpointSlice> {
        let families = [("IPv4", "v4"), ("IPv6", "v6")];
        let slices = families.into_iter().flat_map(|(family, short)| {
            // Of one slice all listen at the same port: those made before the port was edited are in one of their own.
            let mut by_port: BTreeMap<u16, Vec<&SocketAddr>> = BTreeMap::new();
            for proxy in self.serving.iter().filter(|a| a.is_ipv4() == (short == "v4")) {
                by_port.entry(proxy.port()).or_default().push(proxy);
            }
            if by_port.is_empty() {
                return vec![self::slice(pool, family, &format!("{short}-0"), self.port, &[])];
            }
            let chunks = by_port.iter().flat_map(|(port, proxies)| proxies.chunks(PER_SLICE).map(move |chunk| (*port, chunk)));
            chunks.enumerate().map(|(n, (port, chunk))| self::slice(pool, family, &format!("{short}-{n}"), port, chunk)).collect::<Vec<_>>()
        });
        slices.collect()
    }

    /// The Secret with one URL a line (`proxies`), named `<pool>-proxies`.
    pub fn secret(&self, pool: &Meta) -> Secret {
        let login = self.login.as_ref().map_or_else(String::new, |l| format!("{}:{}@", l.user(), l.password()));
        let url = |proxy: &SocketAddr| format!("http://{login}{proxy}\n");
        let urls: String = self.serving.iter().map(url).collect();
        let data = BTreeMap::from([("proxies".to_owned(), ByteString(urls.into_bytes()))]);
        Secret { metadata: meta(pool, format!("{}-proxies", pool.name)), data: Some(data), ..Secret::default() }
    }
}

fn slice(pool: &Meta, family: &str, suffix: &str, port: u16, proxies: &[&SocketAddr]) -> EndpointSlice {
    let mut metadata = meta(pool, format!("{}-{suffix}", pool.name));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert("kubernetes.io/service-name".into(), pool.name.clone());
    labels.insert("endpointslice.kubernetes.io/managed-by".into(), names::FIELD_MANAGER.into());
    let ready = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
    let endpoint =
        |proxy: &&SocketAddr| Endpoint { addresses: vec![proxy.ip().to_string()], conditions: Some(ready.clone()), ..Endpoint::default() };
    let port =
        EndpointPort { name: Some(PORT_NAME.into()), port: Some(port.into()), protocol: Some("TCP".into()), ..EndpointPort::default() };
    EndpointSlice { metadata, address_type: family.into(), endpoints: proxies.iter().map(endpoint).collect(), ports: Some(vec![port]) }
}

fn meta(pool: &Meta, name: String) -> ObjectMeta {
    let labels = [(names::MANAGED_BY, names::FIELD_MANAGER.to_owned()), (names::POOL, pool.name.clone())];
    ObjectMeta {
        name: Some(name),
        namespace: Some(pool.namespace.clone()),
        labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        owner_references: Some(vec![owner(pool)]),
        ..ObjectMeta::default()
    }
}

/// The pool, as what goes with it names it.
pub fn owner(pool: &Meta) -> OwnerReference {
    OwnerReference {
        api_version: "aether.dev/v1alpha1".into(),
        kind: "ProxyPool".into(),
        name: pool.name.clone(),
        uid: pool.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(addresses: &[&str]) -> Publication {
        let login = Login::new("anna", "correct-horse").ok();
        let serving = addresses.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 8899)).collect();
        Publication { serving, port: 8899, login }
    }

    fn pool() -> Meta {
        Meta { namespace: "shop".into(), name: "p".into(), uid: "u".into(), ..Meta::default() }
    }

    #[test]
    fn every_address_is_in_one_slice_of_its_family() {
        let slices = publication(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).slices(&pool());
        let shown: Vec<_> = slices.iter().map(|s| (s.address_type.as_str(), s.endpoints.len())).collect();
        assert_eq!(shown, [("IPv4", 2), ("IPv6", 1)]);
        let none = publication(&[]).slices(&pool());
        assert!(none.len() == 2 && none.iter().all(|s| s.endpoints.is_empty()), "what was there goes");
    }

    #[test]
    fn a_large_pool_takes_more_slices() {
        let many: Vec<String> = (0..2500).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
        let slices = publication(&many.iter().map(String::as_str).collect::<Vec<_>>()).slices(&pool());
        let names: Vec<_> = slices.iter().map(|s| s.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["p-v4-0", "p-v4-1", "p-v4-2", "p-v6-0"]);
    }

    #[test]
    fn each_is_named_at_the_port_it_was_made_with() {
        let older = SocketAddr::new("192.0.2.3".parse().unwrap(), 3128);
        let mut publication = publication(&["192.0.2.1", "192.0.2.2"]);
        publication.serving.insert(older);
        let port = |s: &EndpointSlice| s.ports.as_ref().unwrap()[0].port;
        let slices = publication.slices(&pool());
        let shown: Vec<_> = slices.iter().map(|s| (s.metadata.name.as_deref().unwrap(), port(s), s.endpoints.len())).collect();
        assert_eq!(shown, [("p-v4-0", Some(3128), 1), ("p-v4-1", Some(8899), 2), ("p-v6-0", Some(8899), 0)]);
        let text = String::from_utf8(publication.secret(&pool()).data.unwrap()["proxies"].0.clone()).unwrap();
        assert!(text.contains("@192.0.2.3:3128\n") && text.contains("@192.0.2.1:8899\n"), "{text}");
    }

    #[test]
    fn urls_can_be_used_as_they_are() {
        let secret = publication(&["192.0.2.1", "2001:db8::1"]).secret(&pool());
        let text = String::from_utf8(secret.data.unwrap()["proxies"].0.clone()).unwrap();
        assert_eq!(text, "http://anna:correct-horse@192.0.2.1:8899\nhttp://anna:correct-horse@[2001:db8::1]:8899\n");
    }
}

//! Where a pod shows its metrics: one place, or a reason that says what to set.
//!
//! One, because an application and its sidecar count the same requests. A pod that is going away or
//! not ready is read all the same, as long as it has an address: what it served counts.

use std::net::IpAddr;

use super::uncounted::Uncounted;
use crate::cluster::facts::{Pod, Process};

/// Annotation that takes a pod out.
const SCRAPE: &str = "prometheus.io/scrape";
/// Annotation with the port.
const PORT: &str = "prometheus.io/port";
/// Annotation with the path.
const PATH: &str = "prometheus.io/path";
/// Annotation with the scheme.
const SCHEME: &str = "prometheus.io/scheme";
/// Name of a container port, and where it shows metrics: the application's own, then the sidecars' (Linkerd 4191, Istio's Envoy 15090).
const NAMED: [(&str, &str); 3] = [("metrics", "/metrics"), ("linkerd-admin", "/metrics"), ("http-envoy-prom", "/stats/prometheus")];

/// `metrics.pods` of the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodMetrics {
    /// Port, over annotations.
    pub port: Option<u16>,
    /// Path, over annotations; starts with a slash.
    pub path: Option<String>,
}

/// One place to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `http://address:port/path`.
    pub url: String,
    /// The port in it.
    pub port: u16,
    /// The pod is ready and stays: if it cannot be read, the numbers have a hole. Of others that is the course of things.
    pub expected: bool,
    /// The run of the container that owns the counters, where that is known.
    pub process: Option<Process>,
    /// What is counted there and was asked for by nobody's users.
    pub uncounted: Uncounted,
}

/// Why there is nothing to read, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// Not started yet, or gone.
    #[error("the pod has no address yet")]
    NoAddress,
    /// Its owner does not want it.
    #[error("its annotation prometheus.io/scrape is \"false\"; set spec.metrics.pods.port to read it all the same")]
    OptedOut,
    /// Nobody says where.
    #[error("no metrics port is known; set spec.metrics.pods.port, annotate prometheus.io/port, or name a container port \"metrics\"")]
    NoPort,
    /// The annotation is no port.
    #[error("its annotation prometheus.io/port is no port from 1 to 65535; correct it, or set spec.metrics.pods.port")]
    BadPort,
    /// TLS to a pod's address cannot be checked.
    #[error(
        "its annotation prometheus.io/scheme is https, pods are read over http; set spec.metrics.pods.port or use spec.metrics.prometheus"
    )]
    Https,
}

/// Where to read a pod.
pub fn of_pod(pod: &Pod, spec: &PodMetrics) -> Result<Target, NoTarget> {
    let ip: IpAddr = pod.ip.parse().map_err(|_| NoTarget::NoAddress)?;
    let annotation = |name| pod.scraping.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
    let (port, usual_path) = match (spec.port, annotation(PORT)) {
        (Some(port), _) => (port, "/metrics"),
        _ if annotation(SCRAPE).is_some_and(|v| v.eq_ignore_ascii_case("false")) => return Err(NoTarget::OptedOut),
        (None, Some(port)) => {
            if annotation(SCHEME).is_some_and(|v| v.eq_ignore_ascii_case("https")) {
                return Err(NoTarget::Https);
            }
            (port.parse().ok().filter(|p| *p > 0).ok_or(NoTarget::BadPort)?, "/metrics")
        }
        (None, None) => {
            let named = |(name, path)| pod.ports.iter().find(|p| p.name == name).map(|p| (p.number, path));
            NAMED.into_iter().find_map(named).ok_or(NoTarget::NoPort)?
        }
    };
    let path = spec.path.as_deref().or(annotation(PATH)).unwrap_or(usual_path);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let process = pod.ports.iter().find(|p| p.number == port).map(|p| p.process).or(pod.process);
    Ok(Target {
        url: format!("http://{host}:{port}{slash}{path}"),
        port,
        expected: pod.ready && !pod.meta.deleting,
        process,
        uncounted: Uncounted::new(port, path, &pod.polled),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cluster::facts::ContainerPort;

    fn pod(annotations: &[(&str, &str)], ports: &[(&str, u16)]) -> Pod {
        Pod {
            ip: "10.1.2.3".into(),
            scraping: annotations.iter().map(|(k, v)| (format!("prometheus.io/{k}"), (*v).to_owned())).collect(),
            ports: ports.iter().map(|(n, p)| ContainerPort { name: (*n).into(), number: *p, ..ContainerPort::default() }).collect(),
            ready: true,
            ..Pod::default()
        }
    }

    #[rstest]
    #[case::spec(Some(9000), Some("/m"), &[("port", "1"), ("path", "/x"), ("scrape", "false")], &[], Ok("http://10.1.2.3:9000/m"))]
    #[case::spec_port_annotated_path(Some(9000), None, &[("path", "/x")], &[], Ok("http://10.1.2.3:9000/x"))]
    #[case::annotations(None, None, &[("port", "81"), ("path", "/p"), ("scrape", "true")], &[("metrics", 7)], Ok("http://10.1.2.3:81/p"))]
    #[case::annotated_path_without_slash(None, None, &[("port", "81"), ("path", "stats")], &[], Ok("http://10.1.2.3:81/stats"))]
    #[case::named_port(None, None, &[], &[("http", 80), ("metrics", 9100)], Ok("http://10.1.2.3:9100/metrics"))]
    #[case::named_port_spec_path(None, Some("/q"), &[], &[("metrics", 9100)], Ok("http://10.1.2.3:9100/q"))]
    #[case::app_before_sidecar(None, None, &[], &[("linkerd-admin", 4191), ("metrics", 9100)], Ok("http://10.1.2.3:9100/metrics"))]
    #[case::linkerd(None, None, &[], &[("http", 80), ("linkerd-admin", 4191)], Ok("http://10.1.2.3:4191/metrics"))]
    #[case::envoy(None, None, &[], &[("http-envoy-prom", 15090)], Ok("http://10.1.2.3:15090/stats/prometheus"))]
    #[case::opted_out(None, None, &[("scrape", "false"), ("port", "81")], &[], Err(NoTarget::OptedOut))]
    #[case::opted_out_named(None, None, &[("scrape", "False")], &[("metrics", 1)], Err(NoTarget::OptedOut))]
    #[case::no_port(None, None, &[], &[("http", 80)], Err(NoTarget::NoPort))]
    #[case::bad_port(None, None, &[("port", "http")], &[("metrics", 80)], Err(NoTarget::BadPort))]
    #[case::zero_port(None, None, &[("port", "0")], &[], Err(NoTarget::BadPort))]
    #[case::https(None, None, &[("port", "443"), ("scheme", "https")], &[], Err(NoTarget::Https))]
    fn a_pod_is_read_at(
        #[case] port: Option<u16>,
        #[case] path: Option<&str>,
        #[case] annotations: &[(&str, &str)],
        #[case] ports: &[(&str, u16)],
        #[case] url: Result<&str, NoTarget>,
    ) {
        let spec = PodMetrics { port, path: path.map(Into::into) };
        let found = of_pod(&pod(annotations, ports), &spec);
        assert_eq!(found.map(|t| t.url), url.map(Into::into));
    }

    #[test]
    fn addresses_of_the_sixth_version_are_bracketed() {
        let pod = Pod { ip: "fd00::12".into(), ..pod(&[("port", "81")], &[]) };
        assert_eq!(of_pod(&pod, &PodMetrics::default()).unwrap().url, "http://[fd00::12]:81/metrics");
    }

    #[test]
    fn a_pod_without_address_is_no_target() {
        let pod = Pod { ip: String::new(), ..pod(&[("port", "81")], &[]) };
        assert_eq!(of_pod(&pod, &PodMetrics::default()), Err(NoTarget::NoAddress));
    }

    #[rstest]
    #[case(true, false, true)]
    #[case(true, true, false)]
    #[case(false, false, false)]
    fn what_leaves_or_is_not_ready_is_read_but_not_missed(#[case] ready: bool, #[case] deleting: bool, #[case] expected: bool) {
        let mut pod = Pod { ready, ..pod(&[("port", "81")], &[]) };
        pod.meta.deleting = deleting;
        assert_eq!(of_pod(&pod, &PodMetrics::default()).unwrap().expected, expected);
    }

    #[test]
    fn the_run_of_the_container_that_has_the_port_is_known() {
        let run = |restarts| Process { restarts, started: None };
        let mut pod = pod(&[("port", "81")], &[("http", 80), ("web", 81)]);
        pod.ports[1].process = run(2);
        assert_eq!(of_pod(&pod, &PodMetrics::default()).unwrap().process, Some(run(2)));
        pod.ports.clear();
        assert_eq!(of_pod(&pod, &PodMetrics::default()).unwrap().process, None);
        pod.process = Some(run(1));
        assert_eq!(of_pod(&pod, &PodMetrics::default()).unwrap().process, Some(run(1)));
    }

    #[test]
    fn what_machines_ask_for_goes_with_the_target() {
        let pod = Pod { polled: vec!["/ready".to_owned()], ..pod(&[("port", "81"), ("path", "/stats?x=1")], &[]) };
        let wanted = Uncounted::new(81, "/stats", &["/ready".to_owned()]);
        assert_eq!(of_pod(&pod, &PodMetrics::default()).unwrap().uncounted, wanted);
    }

    #[test]
    fn every_reason_says_what_to_set() {
        for reason in [NoTarget::OptedOut, NoTarget::NoPort, NoTarget::BadPort, NoTarget::Https] {
            assert!(reason.to_string().contains("spec.metrics."), "{reason}");
        }
    }
}

use serde_json::json;

use super::*;

fn pod(spec: &Value, status: &Value) -> Arc<Pod> {
    let object =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec, "status": status});
    match Fact::read(Kind::Pod, serde_json::from_value(object).unwrap()) {
        Fact::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

fn probe(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": 8080}})
}

#[test]
fn probes_of_all_containers_are_known() {
    let spec = json!({
        "containers": [
            {"name": "app", "readinessProbe": probe("/ready"), "livenessProbe": probe("/live"), "startupProbe": probe("/ready")},
            {"name": "plain"},
            {"name": "tcp", "readinessProbe": {"tcpSocket": {"port": 1}}, "livenessProbe": {"exec": {"command": ["x"]}}},
        ],
        "initContainers": [{"name": "sidecar", "restartPolicy": "Always", "startupProbe": probe("/up")}],
    });
    assert_eq!(pod(&spec, &json!({})).polled, ["/live", "/ready", "/up"]);
}

#[test]
fn what_istio_asks_in_the_kubelets_place_is_known() {
    let probers = r#"{"/app-health/app/readyz":{"httpGet":{"path":"/shop/health","port":8080},"timeoutSeconds":1},
        "/app-health/app/livez":{"tcpSocket":{"port":8080}}}"#;
    let env = |probers: &str, page: &str| {
        let named = |name: &str, value: &str| json!({"name": name, "value": value});
        json!([named("ISTIO_KUBE_APP_PROBERS", probers), named("ISTIO_PROMETHEUS_ANNOTATIONS", page), {"name": "X"}])
    };
    let of = |env: Value| {
        let app = json!({"name": "app", "readinessProbe": probe("/app-health/app/readyz")});
        pod(&json!({"containers": [app, {"name": "istio-proxy", "env": env}]}), &json!({})).polled.clone()
    };
    let known = of(env(probers, r#"{"scrape":"true","path":"/manage/prometheus","port":"8383"}"#));
    assert_eq!(known, ["/app-health/app/readyz", "/manage/prometheus", "/shop/health"]);
    assert_eq!(of(env("{}", r#"{"scrape":"true","path":"","port":"8383"}"#)), ["/app-health/app/readyz", "/metrics"]);
    assert_eq!(of(env("no JSON", r#"{"port":"8383"}"#)), ["/app-health/app/readyz", "/metrics"]);
}

#[test]
fn a_pod_costs_little_whatever_its_probes_are() {
    let container = |n: usize| json!({"name": format!("c{n}"), "readinessProbe": probe(&format!("/{n}"))});
    let containers: Vec<_> = (0..100).map(container).collect();
    assert_eq!(pod(&json!({"containers": containers}), &json!({})).polled.len(), 16);
    let long = json!({"containers": [{"name": "a", "readinessProbe": probe(&"/x".repeat(129))}]});
    assert!(pod(&long, &json!({})).polled.is_empty());
}

#[test]
fn a_port_that_nobody_declares_is_as_old_as_the_oldest_container() {
    let at = |second: u32| format!("2030-01-01T00:00:{second:02}Z");
    let status = |name: &str, restarts: u32, second: u32| json!({"name": name, "restartCount": restarts, "state": {"running": {"startedAt": at(second)}}});
    let ended = json!({"name": "init", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}});
    let two = pod(
        &json!({"containers": [{"name": "app", "ports": [{"containerPort": 80}]}, {"name": "proxy"}], "initContainers": [{"name": "init"}]}),
        &json!({"containerStatuses": [status("app", 3, 40), status("proxy", 0, 7)], "initContainerStatuses": [ended]}),
    );
    assert_eq!(two.process, Some(Process { restarts: 0, started: Some(at(7).parse().unwrap()) }));
    assert_eq!(two.ports[0].process, Process { restarts: 3, started: Some(at(40).parse().unwrap()) });
    let one = pod(&json!({"containers": [{"name": "app"}]}), &json!({"containerStatuses": [status("app", 2, 9)]}));
    assert_eq!(one.process, Some(Process { restarts: 2, started: Some(at(9).parse().unwrap()) }));
}

//! The bed itself, booted for real: what the other tests take for granted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{ListParams, PostParams};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use testbed::bed::{Bed, BedOptions, client_of};
use testbed::binaries::Binaries;
use testbed::gateway::{Gateway, GatewayOptions};
use testbed::namespace;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Listing must be quick and must not print anything else.
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    Binaries::ensure()?;
    let namespace = namespace::enter("bed-test")?;
    let runtime = Runtime::new()?;
    let started = Instant::now();
    let bed = Arc::new(runtime.block_on(Bed::boot(&namespace, BedOptions::default()))?);
    eprintln!("booted in {:.1?}", started.elapsed());
    let runtime = Arc::new(runtime);
    Ok(libtest_mimic::run(arguments, trials(Some(&(runtime, bed)))).exit_code())
}

fn trials(bed: Option<&(Arc<Runtime>, Arc<Bed>)>) -> Vec<Trial> {
    macro_rules! trials {
        ($($test:ident)*) => { vec![$({
            let bed = bed.cloned();
            Trial::test(stringify!($test), move || {
                let (runtime, bed) = bed.ok_or("no bed")?;
                runtime.block_on($test(&bed)).map_err(|error| Failed::from(format!("{error:#}")))
            })
        }),*] };
    }
    trials![
        the_server_has_the_version_it_was_built_from
        nodes_are_usable_and_in_three_zones
        only_the_pod_server_plays_pods
        a_service_account_can_do_what_it_was_granted_and_no_more
        an_error_of_kubectl_tells_what_kubectl_said
        the_audit_log_holds_writes_with_their_bodies_and_no_reads
        the_log_of_a_pod_is_read_and_followed_until_it_ends
        each_gateway_serves_its_own_class
    ]
}

async fn the_server_has_the_version_it_was_built_from(bed: &Bed) -> anyhow::Result<()> {
    let version = bed.client().apiserver_version().await?;
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    Ok(())
}

async fn nodes_are_usable_and_in_three_zones(bed: &Bed) -> anyhow::Result<()> {
    let columns = "custom-columns=:.metadata.labels.topology\\.kubernetes\\.io/zone,:.status.allocatable.cpu,:.spec.taints";
    let nodes = bed.kubectl(&["get", "nodes", "--no-headers", "-o", columns]).await?;
    let nodes: Vec<Vec<&str>> = nodes.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(nodes, [["a", "64", "<none>"], ["b", "64", "<none>"], ["c", "64", "<none>"]]);
    Ok(())
}

async fn only_the_pod_server_plays_pods(bed: &Bed) -> anyhow::Result<()> {
    bed.create_namespace("pods").await?;
    deploy(bed, "pods", "web", 3).await?;
    let pods: Api<Pod> = Api::namespaced(bed.client(), "pods");
    for pod in pods.list(&ListParams::default()).await? {
        let writers: Vec<String> = pod.metadata.managed_fields.into_iter().flatten().filter_map(|f| f.manager).collect();
        assert!(!writers.iter().any(|writer| writer.contains("kwok")), "{writers:?}");
        let address = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
        let answer = get(&format!("{address}:8080"), "any.example").await?;
        assert!(answer.contains(" 200 ") && answer.contains(&pod.metadata.name.unwrap_or_default()), "{answer}");
    }
    Ok(())
}

async fn a_service_account_can_do_what_it_was_granted_and_no_more(bed: &Bed) -> anyhow::Result<()> {
    bed.create_namespace("rights").await?;
    bed.kubectl(&["-n", "rights", "create", "serviceaccount", "bob"]).await?;
    bed.kubectl(&["-n", "rights", "create", "role", "writer", "--verb=create", "--resource=configmaps"]).await?;
    bed.kubectl(&["-n", "rights", "create", "rolebinding", "w", "--role=writer", "--serviceaccount=rights:bob"]).await?;
    let client = client_of(&bed.service_account_kubeconfig("rights", "bob").await?).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "rights");
    let map = serde_json::from_value(json!({ "metadata": { "name": "one" } }))?;
    // RBAC is eventually consistent.
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = maps.create(&PostParams::default(), &map).await {
        anyhow::ensure!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    let refused = maps.list(&ListParams::default()).await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
    Ok(())
}

async fn an_error_of_kubectl_tells_what_kubectl_said(bed: &Bed) -> anyhow::Result<()> {
    let error = bed.kubectl(&["get", "pod", "nobody"]).await.unwrap_err().to_string();
    assert!(error.contains("get pod nobody") && error.contains("NotFound"), "{error}");
    Ok(())
}

async fn the_audit_log_holds_writes_with_their_bodies_and_no_reads(bed: &Bed) -> anyhow::Result<()> {
    let mine = "audited-by-this-test";
    bed.kubectl(&["create", "configmap", mine, "--from-literal=key=kept"]).await?;
    bed.kubectl(&["get", "configmap", mine]).await?;
    bed.kubectl(&["delete", "configmap", mine]).await?;
    let events = audited(bed, |event| event["objectRef"]["name"] == mine)?;
    let verbs: Vec<&Value> = events.iter().map(|event| &event["verb"]).collect();
    assert_eq!(verbs, ["create", "delete"]);
    assert_eq!(events[0]["responseObject"]["data"]["key"], "kept");
    assert_eq!(events[0]["user"]["username"], "admin");
    Ok(())
}

fn audited(bed: &Bed, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(bed.audit_log())?;
    let events: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    Ok(events?.into_iter().filter(wanted).collect())
}

async fn the_log_of_a_pod_is_read_and_followed_until_it_ends(bed: &Bed) -> anyhow::Result<()> {
    bed.create_namespace("logs").await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "logs", "annotations": {"testbed.aether.dev/error-rate": "0.5"}},
        "spec": {"containers": [{"name": "main", "image": "shop:v1"}]},
    });
    bed.apply(pod).await?;
    bed.kubectl(&["-n", "logs", "wait", "pod/web", "--for=condition=Ready", "--timeout=60s"]).await?;
    let log = bed.kubectl(&["-n", "logs", "logs", "web"]).await?;
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].starts_with("version v1 of pod logs/web listens on ") && lines[1..] == ["ready"], "{log}");
    assert_eq!(bed.kubectl(&["-n", "logs", "logs", "web", "--tail=1"]).await?, "ready\n");
    let dated = bed.kubectl(&["-n", "logs", "logs", "web", "--timestamps", "--tail=1"]).await?;
    let (at, line) = dated.split_once(' ').unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(at).is_ok() && line == "ready\n", "{dated}");

    let address = bed.kubectl(&["-n", "logs", "get", "pod", "web", "-o", "jsonpath={.status.podIP}:8080"]).await?;
    let mut kubectl = Command::new(&bed.binaries().kubectl)
        .args(["-n", "logs", "logs", "-f", "--tail=1", "web"])
        .env("KUBECONFIG", bed.kubeconfig())
        .env("KUBECACHEDIR", bed.dir().join("kubectl-cache"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut followed = BufReader::new(kubectl.stdout.take().unwrap()).lines();
    let follow = async {
        assert_eq!(followed.next_line().await?.as_deref(), Some("ready"));
        assert!(get(&address, "any.example").await?.contains(" 200 "));
        assert!(get(&address, "any.example").await?.contains(" 500 "));
        assert_eq!(followed.next_line().await?.as_deref(), Some("GET / 500"));
        bed.kubectl(&["-n", "logs", "delete", "pod", "web"]).await?;
        let mut last = Vec::new();
        while let Some(line) = followed.next_line().await? {
            last.push(line);
        }
        anyhow::ensure!(kubectl.wait().await?.success(), "kubectl did not end well");
        anyhow::Ok(last)
    };
    let last = timeout(Duration::from_mins(1), follow).await??;
    assert!(last[0].starts_with("terminating") && last.last().unwrap() == "exited with code 0", "{last:?}");

    let gone = bed.kubectl(&["-n", "logs", "logs", "web"]).await.unwrap_err().to_string();
    assert!(gone.contains("NotFound"), "{gone}");
    Ok(())
}

async fn each_gateway_serves_its_own_class(bed: &Bed) -> anyhow::Result<()> {
    let fast = GatewayOptions {
        name: "fast".to_owned(),
        port: 8001,
        metrics_port: 9001,
        throttle: Duration::from_millis(100),
        ..GatewayOptions::default()
    };
    let slow = Gateway::start(bed, GatewayOptions::default()).await?;
    let fast = Gateway::start(bed, fast).await?;
    for (gateway, other, namespace) in [(&slow, &fast, "slow-shop"), (&fast, &slow, "fast-shop")] {
        bed.create_namespace(namespace).await?;
        deploy(bed, namespace, "web", 1).await?;
        bed.kubectl_stdin(&["apply", "-f", "-"], &gateway.manifest(namespace, "edge")).await?;
        let host = format!("{namespace}.example");
        bed.apply(json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": "web", "namespace": namespace },
            "spec": {
                "parentRefs": [{ "name": "edge", "sectionName": "web" }],
                "hostnames": [host],
                "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }],
            },
        }))
        .await?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while !get(&address(gateway), &host).await?.contains(" 200 ") {
            anyhow::ensure!(Instant::now() < deadline, "{host} is not served");
            sleep(Duration::from_millis(50)).await;
        }
        // Longer than the other one's throttle.
        sleep(Duration::from_millis(2500)).await;
        let answer = get(&address(other), &host).await?;
        assert!(answer.contains(" 404 "), "{answer}");
        let own = format!("system:serviceaccount:gateway-system:{}", gateway.options().name);
        for event in audited(bed, |event| event["objectRef"]["namespace"] == namespace)? {
            let (resource, user) = (&event["objectRef"]["resource"], &event["user"]["username"]);
            assert!(resource != "httproutes" || user == "admin" || user == own.as_str(), "{user} wrote a status");
        }
    }
    Ok(())
}

async fn deploy(bed: &Bed, namespace: &str, name: &str, replicas: u32) -> anyhow::Result<()> {
    let labels = json!({ "app": name });
    bed.apply(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "main", "image": "shop:v1", "ports": [{ "containerPort": 8080 }] }] },
            },
        },
    }))
    .await?;
    bed.apply(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": labels, "ports": [{ "port": 80, "targetPort": 8080 }] },
    }))
    .await?;
    let target = format!("deployment/{name}");
    bed.kubectl(&["-n", namespace, "wait", &target, "--for=condition=Available", "--timeout=60s"]).await?;
    Ok(())
}

fn address(gateway: &Gateway) -> String {
    format!("127.0.0.1:{}", gateway.options().port)
}

/// One request, and the whole answer as text.
async fn get(address: &str, host: &str) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

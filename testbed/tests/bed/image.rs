//! The operator's image: what is in it, and pods of it, which are processes of the built programs in a root folder laid out like
//! it. `AETHER_IMAGE_BINARIES` names a folder with other builds.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use testbed::bed::Bed;
use testbed::image::Image;
use testbed::operator;
use testbed::process::Signal;
use tokio::time::{Instant, sleep};

use super::page;

const NAMESPACE: &str = "aether-system";
/// What a pod gets whatever it asks for: the API server, and (of the test bed alone) addresses that pods do not share.
const ALWAYS: [&str; 4] = ["AETHER_ADMIN_ADDRESS", "AETHER_API_ADDRESS", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// An empty environment, a root that is read-only, no home, no shell.
pub async fn has_the_programs_and_nothing_else(_: &Bed) -> anyhow::Result<()> {
    let image = Image::built()?;
    let folder = tempfile::tempdir()?;
    let root = image.lay_out(folder.path().join("root"))?;
    let mut files = BTreeSet::new();
    list(root.folder(), Path::new("/"), &mut files)?;
    let (libraries, files): (BTreeSet<_>, BTreeSet<_>) = files.into_iter().partition(|file| file.contains(".so."));
    let programs = ["/aether", "/aether-operator", "/dev/null", "/dev/urandom"];
    let base = ["/etc/group", "/etc/nsswitch.conf", "/etc/passwd", "/etc/ssl/certs/ca-certificates.crt"];
    assert_eq!(files, programs.iter().chain(&base).map(|file| (*file).to_owned()).collect());
    assert!(libraries.iter().any(|file| file.ends_with("/libc.so.6")), "{libraries:?}");

    let run = async |program: &[&str]| -> anyhow::Result<(Option<i32>, String, String)> {
        let program: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
        let output = root.command("bare", (image.user, image.group), &[], &program).output().await?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };
    let version = format!("aether-operator {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["/aether-operator", "--version"]).await?, (Some(0), version, String::new()));
    let (code, crds, complaint) = run(&["/aether-operator", "crds"]).await?;
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    let own: String = ["proxypools", "rollingupdates"]
        .iter()
        .map(|name| fs::read_to_string(operator::repository().join(format!("crds/aether.dev_{name}.yaml"))).unwrap_or_default())
        .collect();
    let lines = |text: &str| -> BTreeSet<String> { text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect() };
    assert_eq!(lines(&crds), lines(&own));
    let (code, help, complaint) = run(&["/aether", "--help"]).await?;
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert!(help.contains("Usage: aether"), "{help}");
    let (code, said, complaint) = run(&["/aether-operator", "run"]).await?;
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(complaint.starts_with("error: no way to the API server: ") && complaint.lines().count() == 1, "{complaint}");
    // Nothing else is there to be run.
    assert_eq!(run(&["/bin/sh", "-c", "true"]).await?.0, Some(127));
    Ok(())
}

fn list(root: &Path, path: &Path, files: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(root.join(path.strip_prefix("/")?))? {
        let entry = entry?;
        let path = path.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else {
            files.insert(path.display().to_string());
        }
    }
    Ok(())
}

pub async fn pods_that_end_say_how(bed: &Bed) -> anyhow::Result<()> {
    bed.create_namespace("tasks").await?;
    let version = ["/aether", "--version"];
    for (name, policy, command) in
        [("good", "Never", version), ("bad", "Never", ["/aether", "--no-such-flag"]), ("again", "Always", version)]
    {
        bed.apply(pod("tasks", name, &json!({"restartPolicy": policy}), &json!({"command": command}))).await?;
    }
    for (name, phase) in [("good", "Succeeded"), ("bad", "Failed")] {
        bed.kubectl(&[
            "-n",
            "tasks",
            "wait",
            &format!("pod/{name}"),
            &format!("--for=jsonpath={{.status.phase}}={phase}"),
            "--timeout=60s",
        ])
        .await?;
    }
    let log = async |name: &str| bed.kubectl(&["-n", "tasks", "logs", name]).await;
    assert_eq!(log("good").await?, format!("aether {}\n", env!("CARGO_PKG_VERSION")));
    assert!(log("bad").await?.contains("--no-such-flag"));
    let code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(bed.kubectl(&["-n", "tasks", "get", "pod", "bad", "-o", code]).await?, "2");
    // It ends well each time, and too often.
    let waiting = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff";
    bed.kubectl(&["-n", "tasks", "wait", "pod/again", waiting, "--timeout=60s"]).await?;
    bed.kubectl(&["-n", "tasks", "delete", "pod", "--all", "--timeout=60s"]).await?;
    Ok(())
}

pub async fn a_pod_that_cannot_be_made_says_why(bed: &Bed) -> anyhow::Result<()> {
    bed.create_namespace("asking").await?;
    let secret = json!({"name": "LOGIN", "valueFrom": {"secretKeyRef": {"name": "later", "key": "word"}}});
    let spec = json!({"restartPolicy": "Never", "volumes": [{"name": "files", "secret": {"secretName": "later"}}]});
    let files = json!([{"name": "files", "mountPath": "/etc/files"}]);
    bed.apply(pod("asking", "early", &spec, &json!({"command": ["/aether", "--version"], "env": [secret], "volumeMounts": files}))).await?;
    let mut missing = pod("asking", "missing", &json!({}), &json!({}));
    missing["metadata"]["annotations"] = json!({"testbed.aether.dev/image-pull-error": "true"});
    bed.apply(missing).await?;
    bed.apply(pod("asking", "odd", &json!({}), &json!({"livenessProbe": {"tcpSocket": {"port": 1}}}))).await?;
    for (name, reason, why) in [
        ("early", "CreateContainerConfigError", "secret \"later\" not found"),
        ("odd", "CreateContainerConfigError", "livenessProbe: this pod server only knows httpGet"),
        ("missing", "ImagePullBackOff", "registry.example/aether-operator:x"),
    ] {
        let waiting = format!("--for=jsonpath={{.status.containerStatuses[0].state.waiting.reason}}={reason}");
        bed.kubectl(&["-n", "asking", "wait", &format!("pod/{name}"), &waiting, "--timeout=60s"]).await?;
        let message = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
        let message = bed.kubectl(&["-n", "asking", "get", "pod", name, "-o", message]).await?;
        assert!(message.contains(why), "{message}");
        if name == "early" {
            // What it asks for may come later.
            bed.kubectl(&["-n", "asking", "create", "secret", "generic", "later", "--from-literal=word=x"]).await?;
            let succeeded = "--for=jsonpath={.status.phase}=Succeeded";
            bed.kubectl(&["-n", "asking", "wait", "pod/early", succeeded, "--timeout=60s"]).await?;
        }
    }
    bed.kubectl(&["-n", "asking", "delete", "pod", "--all", "--timeout=60s"]).await?;
    Ok(())
}

pub async fn the_operator_runs_in_it_alone_and_in_twos(bed: &Bed) -> anyhow::Result<()> {
    operator::install(bed).await?;
    alone(bed).await?;
    let labels = json!({"app.kubernetes.io/name": "aether"});
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let mut container = probed(&"metrics".into());
    container["env"] = json!([
        {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
        {"name": "POD_NAME", "valueFrom": field("metadata.name")},
        {"name": "AETHER_ADMIN_ADDRESS", "value": "0.0.0.0:9081"},
        {"name": "AETHER_LOG_FORMAT", "value": "json"},
    ]);
    container["ports"] = json!([{"name": "metrics", "containerPort": 9081}]);
    container["args"] = json!(["run", "--lease-seconds=5", "--api-tls-certificate=/etc/tls/tls.crt", "--api-tls-key=/etc/tls/tls.key"]);
    container["volumeMounts"] = json!([{"name": "tls", "mountPath": "/etc/tls"}, {"name": "scratch", "mountPath": "/tmp"}]);
    let (certificate, key) = bed.pki().server(&["aether-operator.aether-system.svc"])?;
    bed.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": NAMESPACE}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
    }))
    .await?;
    let volumes = json!([{"name": "tls", "secret": {"secretName": "tls"}}, {"name": "scratch", "emptyDir": {}}]);
    let template = pod(
        NAMESPACE,
        "unnamed",
        &json!({"serviceAccountName": "aether-operator", "automountServiceAccountToken": true, "volumes": volumes}),
        &container,
    );
    bed.apply(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "twos", "namespace": NAMESPACE},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }))
    .await?;
    let deployment = "deployment/twos";
    bed.kubectl(&["-n", NAMESPACE, "rollout", "status", deployment, "--timeout=90s"]).await?;
    let before = one_leads(bed).await?;
    for process in processes_of("/aether-operator")? {
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo"))?;
        let option = |place: &str| mounts.lines().find(|line| line.contains(&format!(" {place} "))).and_then(|line| line.split(' ').nth(5));
        assert!(option("/tmp").is_some_and(|options| options.starts_with("rw")), "{mounts}");
        assert!(option("/etc/tls").is_some_and(|options| options.starts_with("ro")), "{mounts}");
    }
    let log = bed.kubectl(&["-n", NAMESPACE, "logs", &before]).await?;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line)?;
        assert!(line["level"] != "ERROR", "{line}");
    }
    assert!(log.contains("\"leading\"") && log.contains(&before), "{log}");

    bed.kubectl(&["-n", NAMESPACE, "rollout", "restart", deployment]).await?;
    bed.kubectl(&["-n", NAMESPACE, "rollout", "status", deployment, "--timeout=90s"]).await?;
    bed.kubectl(&["-n", NAMESPACE, "wait", &format!("pod/{before}"), "--for=delete", "--timeout=60s"]).await?;
    let after = one_leads(bed).await?;
    assert_ne!(before, after);
    // No process outlives its pod.
    bed.kubectl(&["-n", NAMESPACE, "delete", deployment, "--cascade=foreground", "--timeout=60s"]).await?;
    assert_eq!(processes_of("/aether-operator")?, Vec::<u32>::new());
    Ok(())
}

/// With nothing but what every pod gets.
async fn alone(bed: &Bed) -> anyhow::Result<()> {
    bed.apply(pod(
        NAMESPACE,
        "alone",
        &json!({"serviceAccountName": "aether-operator", "automountServiceAccountToken": true, "terminationGracePeriodSeconds": 2}),
        &probed(&8081.into()),
    ))
    .await?;
    bed.kubectl(&["-n", NAMESPACE, "wait", "pod/alone", "--for=condition=Ready", "--timeout=60s"]).await?;
    let processes = processes_of("/aether-operator")?;
    let [process] = processes.as_slice() else { anyhow::bail!("processes {processes:?}") };
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    let environment = read("environ")?;
    let names: BTreeSet<&str> =
        environment.split_terminator('\0').filter_map(|variable| variable.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, ALWAYS.into());
    for mount in read("mountinfo")?.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        let free = ["/dev/null", "/dev/urandom", "/proc"].contains(&place);
        assert!(free || options.split(',').any(|option| option == "ro"), "{mount}");
    }
    let (status, users) = (read("status")?, read("uid_map")?);
    assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
    // In a user namespace of its own, or where all users are to be had, plainly.
    assert!(users.trim_start().starts_with("65532 ") || status.contains("Uid:\t65532\t"), "{users}{status}");

    // A process that answers no more is killed and started again.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(*process)?), Signal::SIGSTOP)?;
    let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    bed.kubectl(&["-n", NAMESPACE, "wait", "pod/alone", restarted, "--timeout=60s"]).await?;
    let code = "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(bed.kubectl(&["-n", NAMESPACE, "get", "pod", "alone", "-o", code]).await?, "137");
    bed.kubectl(&["-n", NAMESPACE, "wait", "pod/alone", "--for=condition=Ready", "--timeout=60s"]).await?;
    assert!(!processes_of("/aether-operator")?.contains(process));
    bed.kubectl(&["-n", NAMESPACE, "delete", "pod", "alone", "--timeout=60s"]).await?;
    assert_eq!(processes_of("/aether-operator")?, Vec::<u32>::new());
    Ok(())
}

/// Waits until the holder of the Lease is one of the pods that are there, and that pod the only one that says it leads.
async fn one_leads(bed: &Bed) -> anyhow::Result<String> {
    let (pods, leases) = (Api::<Pod>::namespaced(bed.client(), NAMESPACE), Api::<Lease>::namespaced(bed.client(), NAMESPACE));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut leading = Vec::new();
        for pod in pods.list(&ListParams::default()).await? {
            let address = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
            let page = page(&format!("{address}:9081"), "any.example", "/metrics").await.unwrap_or_default();
            if page.lines().any(|line| line.starts_with("aether_leader") && line.ends_with(" 1")) {
                leading.extend(pod.metadata.name);
            }
        }
        let holder = leases.get_opt("aether-operator").await?.and_then(|lease| lease.spec?.holder_identity);
        match leading.as_slice() {
            [one] if holder.as_ref() == Some(one) => return Ok(one.clone()),
            _ => anyhow::ensure!(Instant::now() < deadline, "{leading:?} say that they lead, and {holder:?} holds the Lease"),
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Processes of the bed whose program is at that place in their root.
fn processes_of(program: &str) -> anyhow::Result<Vec<u32>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if words.split('\0').next() == Some(program) {
            processes.extend(entry.file_name().to_string_lossy().parse::<u32>());
        }
    }
    Ok(processes)
}

/// A container with the probes of the operator's own manifests, which end soon for tests.
fn probed(port: &Value) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 1});
    json!({"readinessProbe": probe("/readyz"), "livenessProbe": probe("/livez")})
}

fn pod(namespace: &str, name: &str, spec: &Value, container: &Value) -> Value {
    let mut container = container.clone();
    container["name"] = json!("operator");
    container["image"] = json!("registry.example/aether-operator:x");
    let mut spec = spec.clone();
    spec["containers"] = json!([container]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

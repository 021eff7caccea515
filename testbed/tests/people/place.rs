//! Where people work: a namespace with a service, a kubeconfig of a person who may edit there, and the programs on the PATH.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testbed::pool_bed::PoolBed;
use testbed::process::Process;
use testbed::{operator, rig, shell};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// For whatever is waited for.
pub const LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(200);
/// Pods of the service: enough for the guide's smallest share to be more than none.
const PODS: usize = 4;

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Its output as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }

    pub fn succeeded(self) -> anyhow::Result<Self> {
        ensure!(self.code == 0, "it ended with {}:\n{}{}", self.code, self.out, self.err);
        Ok(self)
    }
}

/// A namespace and a person in it.
pub struct Place {
    pub pools: Arc<PoolBed>,
    pub namespace: String,
    pub kubeconfig: PathBuf,
}

impl Place {
    /// Nothing but a person who may edit.
    pub async fn empty(pools: &Arc<PoolBed>, namespace: &str) -> anyhow::Result<Self> {
        pools.bed.create_namespace(namespace).await?;
        let token = account(pools, namespace, "dev", "edit").await?;
        let kubeconfig = pools.bed.pki().token_kubeconfig(&format!("dev-{namespace}"), &token)?;
        let place = Self { pools: pools.clone(), namespace: namespace.to_owned(), kubeconfig };
        place.run("kubectl config set-context --current --namespace=$NAMESPACE").await?.succeeded()?;
        Ok(place)
    }

    /// Version 1.0.0 of `names`, each a Deployment with a Service, serving.
    pub async fn serving(pools: &Arc<PoolBed>, namespace: &str, names: &[&str]) -> anyhow::Result<Self> {
        let place = Self::empty(pools, namespace).await?;
        for name in names {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": [rig::deployment(name, &json!({})), rig::service(name)]});
            place.kubectl_stdin(&["apply", "-f", "-"], &list.to_string()).await?;
            place.run(&format!("kubectl scale deployment/{name} --replicas={PODS}")).await?.succeeded()?;
        }
        for name in names {
            place.run(&format!("kubectl rollout status deployment/{name} --timeout=90s")).await?.succeeded()?;
        }
        Ok(place)
    }

    /// A RollingUpdate that has taken version 1.0.0 into its care and waits for no clock longer than a moment.
    pub async fn adopt(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        let mut object = json!({
            "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate", "metadata": {"name": name},
            "spec": {
                "artifactBase": format!("org.example:{name}"), "version": "1.0.0", "cleanupPolicy": "IMMEDIATE", "metrics": {"none": {}},
                "traffic": {"settle": "1s", "drain": "2s"},
            },
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        self.kubectl_stdin(&["apply", "-f", "-"], &object.to_string()).await?;
        self.until(name, "adopted", |u| u["status"]["state"] == "COMPLETED").await?;
        Ok(())
    }

    /// Runs a line of shell as that person, `aether` and `kubectl` on the PATH.
    pub async fn run(&self, line: &str) -> anyhow::Result<Said> {
        run(&self.pools, &self.kubeconfig, &self.namespace, line).await
    }

    pub async fn kubectl_stdin(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        self.pools.bed.kubectl_stdin(&[&["-n", &self.namespace], args].concat(), input).await
    }

    /// A RollingUpdate as it is.
    pub async fn update(&self, name: &str) -> anyhow::Result<Value> {
        let shown = self.pools.bed.kubectl(&["-n", &self.namespace, "get", "rollingupdate", name, "-o", "json"]).await?;
        Ok(serde_json::from_str(&shown)?)
    }

    /// Waits until the RollingUpdate is so, and the operator has seen all that was asked for.
    pub async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let update = self.update(name).await?;
            if update["status"]["observedGeneration"] == update["metadata"]["generation"] && is(&update) {
                return Ok(update);
            }
            ensure!(Instant::now() < deadline, "{name} is not {what} after {LIMIT:?}: {update:#}");
            sleep(POLL).await;
        }
    }

    /// Waits until what was asked for is so: the ratio in force, or the end.
    pub async fn follows(&self, name: &str) -> anyhow::Result<Value> {
        self.until(name, "where it was ordered to", |update| {
            let asked = &update["spec"]["control"];
            let status = &update["status"];
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let shifted = conditions.into_iter().any(|c| c["type"] == "TrafficShifted" && c["status"] == "True");
            let over = ["COMPLETED", "ROLLED_BACK", "FAILED"].iter().any(|s| status["state"] == *s);
            match (&asked["outcome"], &asked["routing"]) {
                _ if asked["version"] != update["spec"]["version"] => status["state"] == "DEPLOYED" || over,
                (Value::String(_), _) => over,
                (_, Value::String(ratio)) => status["routing"] == *ratio && shifted,
                _ => status["state"] == "DEPLOYED" || over,
            }
        })
        .await
    }

    /// `aether proxy` of that person, until it is dropped.
    pub async fn proxy(&self) -> anyhow::Result<Process> {
        let mut command = Command::new(operator::built("aether")?);
        command.arg("proxy").env("KUBECONFIG", &self.kubeconfig);
        let mut process = Process::spawn(self.pools.bed.dir(), &format!("proxy-{}", self.namespace), command)?;
        let ready = async || {
            let mut up = true;
            for port in [8080, 8000] {
                up &= call(port, "GET", "/healthz", &[], "").await.is_ok_and(|a| a.code == 200);
            }
            up
        };
        process.wait_until(LIMIT, ready).await?;
        Ok(process)
    }

    /// Takes the place down, so that the next ones have the machine for themselves.
    pub async fn close(self) -> anyhow::Result<()> {
        self.pools.bed.kubectl(&["-n", &self.namespace, "delete", "rollingupdates", "--all", "--wait=false"]).await?;
        self.pools.bed.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]).await?;
        Ok(())
    }
}

/// A ServiceAccount with that ClusterRole in its own namespace, and its token for the API server.
pub async fn account(pools: &PoolBed, namespace: &str, name: &str, role: &str) -> anyhow::Result<String> {
    let bed = &pools.bed;
    bed.kubectl(&["-n", namespace, "create", "serviceaccount", name]).await?;
    let subject = format!("--serviceaccount={namespace}:{name}");
    bed.kubectl(&["-n", namespace, "create", "rolebinding", name, &format!("--clusterrole={role}"), &subject]).await?;
    bed.service_account_token(namespace, name).await
}

/// Runs a line of shell with that kubeconfig.
pub async fn run(pools: &PoolBed, kubeconfig: &Path, namespace: &str, line: &str) -> anyhow::Result<Said> {
    let mut bash = shell::bash(&pools.bed, kubeconfig, namespace)?;
    let child = bash.args(["-c", line]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let output = timeout(LIMIT, child.wait_with_output()).await.with_context(|| format!("{line} does not end"))??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) })
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// One request to 127.0.0.1, as plain as can be: nothing is added but what is asked for, a Host and the body's length.
pub async fn call(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method != "GET" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    raw(port, text.as_bytes()).await
}

/// Sends these bytes and reads what comes until the end.
pub async fn raw(port: u16, bytes: &[u8]) -> anyhow::Result<Answer> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // Who is refused at once may find the connection closed while still writing.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        if answer.is_empty() {
            read?;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer but {answer:?}"))?;
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no status")?;
        anyhow::Ok(Answer { code, head: head.to_owned(), body: body.to_owned() })
    };
    timeout(LIMIT, talk).await.context("no answer in time")?
}
